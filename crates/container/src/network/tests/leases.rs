//! Addresses stay with their identity.

use super::host_test;
use crate::{layout::Layout, network::Networks};

host_test! {
    fn a_lease_outlives_its_manager_and_is_nobody_elses(host) {
        let network = "shop".parse().unwrap();
        let first = host.networks.lease(&network, "cart", None).unwrap();
        let (data, run) = (host.folder().join("data"), host.folder().join("run"));
        let another = Networks::new(&Layout::open(&data, Some(&run)).unwrap());
        let again = another.lease(&network, "cart", None).unwrap();
        assert_eq!((again.ipv4, again.ipv6), (first.ipv4, first.ipv6));
        assert_ne!(another.lease(&network, "pay", None).unwrap().ipv4, first.ipv4);
        let gateway = another.lease(&network, "search", Some(first.gateway4));
        assert!(gateway.is_err(), "{gateway:?}");
    }
}
