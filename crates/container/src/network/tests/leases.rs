//! Addresses that stay, from many processes at once, some of which are killed.

use super::host::{Host, Worker, at_once, command, new_id};
use super::host_test;
use crate::network::{NetworkError, Networks, Subnet4, store::Leases};
use jiff::{SignedDuration, Timestamp};
use model::NetworkName;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    os::fd::AsFd,
    time::Duration,
};

fn bridge() -> NetworkName {
    "bridge".parse().unwrap()
}

/// A network with this subnet.
fn make(host: &Host, name: &str, subnet: &str) -> NetworkName {
    let name: NetworkName = name.parse().unwrap();
    let _lock = host.networks.store().lock().unwrap();
    host.networks.create(&name, Some(subnet.parse::<Subnet4>().unwrap())).unwrap();
    name
}

/// Makes everybody's last request an hour older.
fn age(host: &Host, network: &NetworkName) {
    let _lock = host.networks.store().lock().unwrap();
    let mut leases = host.networks.leases(network).unwrap();
    for entry in &mut leases.entries {
        entry.last_used = entry.last_used.checked_sub(SignedDuration::from_hours(1)).unwrap();
    }
    host.networks.store().put_leases(network, &leases).unwrap();
}

fn distinct(leases: &Leases) -> bool {
    let addresses: BTreeSet<Ipv4Addr> = leases.entries.iter().map(|entry| entry.ipv4).collect();
    let identities: BTreeSet<&str> = leases.entries.iter().map(|entry| entry.identity.as_str()).collect();
    (addresses.len(), identities.len()) == (leases.entries.len(), leases.entries.len())
}

host_test! {
    fn a_container_made_again_has_its_addresses_again(host) {
        let web = host.container("shop", "web");
        let before = web.lease.addresses();
        drop(web);
        host.container("shop", "other");
        let again = host.container("shop", "web");
        assert_eq!(again.lease.addresses(), before);
        // From nothing but the files, as after a reboot.
        let lease = Networks::new(&host.layout).lease(&"shop".parse().unwrap(), "web", None).unwrap();
        assert_eq!(lease.addresses(), before);
        assert!(lease.last_used > again.lease.last_used);

        // Networks have subnets of their own, in both families.
        let elsewhere = host.networks.lease(&bridge(), "web", None).unwrap();
        assert_ne!(elsewhere.gateway4, lease.gateway4);
        assert_ne!(elsewhere.gateway6, lease.gateway6);
        assert_eq!(elsewhere.ipv6.segments()[..3], lease.ipv6.segments()[..3], "one prefix of 48 bits");
        assert!(lease.bridge.len() <= 15);
    }
}

host_test! {
    fn a_wish_is_kept(host) {
        let first = host.networks.lease(&bridge(), "first", None).unwrap();
        let wish = Ipv4Addr::from(u32::from(first.ipv4) + 100);
        let web = host.networks.lease(&bridge(), "web", Some(wish)).unwrap();
        assert_eq!(web.ipv4, wish);
        assert_eq!(host.networks.lease(&bridge(), "web", None).unwrap().ipv4, wish);
        // `first` runs, so its address is nobody else's.
        let running = host.container("bridge", "first");
        let refusal = host.networks.lease(&bridge(), "web", Some(running.lease.ipv4)).unwrap_err().to_string();
        assert!(refusal.contains("container `first` has it"), "{refusal}");
        assert_eq!(host.networks.lease(&bridge(), "web", None).unwrap().ipv4, wish, "a refusal changes nothing");
    }
}

host_test! {
    fn a_full_range_gives_away_what_nobody_runs_with(host) {
        let tiny = make(host, "tiny", "10.99.0.0/29");
        let mut containers: Vec<_> = (0..5).map(|number| host.container("tiny", &format!("c{number}"))).collect();
        age(host, &tiny);
        let full = host.networks.lease(&tiny, "late", None).unwrap_err();
        assert!(matches!(full, NetworkError::Full { count: 5, .. }), "{full}");
        let freed = containers.remove(2);
        let address = freed.lease.ipv4;
        host.networks.detach(&freed.id).unwrap();
        drop(freed);
        assert_eq!(host.networks.lease(&tiny, "late", None).unwrap().ipv4, address);
        host.networks.release(&tiny, "late").unwrap();
        assert_eq!(host.networks.lease(&tiny, "later", None).unwrap().ipv4, address);
    }
}

host_test! {
    fn many_at_once_never_get_the_same(host) {
        let workers: Vec<_> = (0..16).map(|number| Worker::start(host, "lease", &format!("w{number}-"), 16)).collect();
        let threads = {
            let networks = host.networks.clone();
            at_once(64, move |number| {
                (format!("t{number}"), networks.lease(&bridge(), &format!("t{number}"), None).unwrap().ipv4)
            })
        };
        let mut all: BTreeMap<String, Ipv4Addr> = threads.into_iter().collect();
        for worker in workers {
            all.extend(worker.finish());
        }
        assert_eq!(all.len(), 16 * 16 + 64);
        let stored = host.networks.leases(&bridge()).unwrap();
        assert!(distinct(&stored));
        let stored: BTreeMap<_, _> = stored.entries.into_iter().map(|entry| (entry.identity, entry.ipv4)).collect();
        assert_eq!(stored, all);
    }
}

host_test! {
    fn whoever_is_killed_leaves_the_leases_whole(host) {
        let mut promised = BTreeMap::new();
        for round in 0..12 {
            let workers: Vec<_> =
                (0..4).map(|number| Worker::start(host, "lease", &format!("r{round}w{number}-"), 100_000)).collect();
            let workers: Vec<_> = workers.into_iter().map(Worker::begun).collect();
            std::thread::sleep(Duration::from_millis(20 + 7 * round)); // the moment of the kill, not a wait for anything
            for worker in workers {
                promised.extend(worker.kill());
            }
            let stored = host.networks.store().leases(&bridge()).unwrap();
            assert!(distinct(&stored));
            let stored: BTreeMap<_, _> = stored.entries.into_iter().map(|entry| (entry.identity, entry.ipv4)).collect();
            // The range is large enough that nothing is reclaimed here.
            assert!(stored.len() < 4000, "{}", stored.len());
            for (identity, address) in &promised {
                assert_eq!(stored.get(identity), Some(address), "{identity}");
            }
        }
        assert!(!promised.is_empty(), "the killed had time to do something");
        let left: Vec<_> = fs::read_dir(host.layout.data().join("networks")).unwrap().collect();
        assert!(left.len() <= 5, "{left:?}");
    }
}

host_test! {
    fn a_full_file_is_still_fast(host) {
        let mut leases = Leases::default();
        let first = host.networks.lease(&bridge(), "first", None).unwrap();
        let subnet = Subnet4::around(first.ipv4, first.prefix4).unwrap();
        for offset in subnet.hosts() {
            let (identity, ipv4) = (new_id().to_string(), subnet.address(offset));
            let last_used = Timestamp::from_second(i64::from(offset)).unwrap();
            leases.entries.push(crate::network::store::Entry { identity, ipv4, last_used });
        }
        host.networks.store().put_leases(&bridge(), &leases).unwrap();
        let start = std::time::Instant::now();
        for number in 0..20 {
            host.networks.lease(&bridge(), &format!("c{number}"), None).unwrap();
        }
        println!("figure: lease on a full network (4093 remembered, one reclaimed): {:.2?}", start.elapsed() / 20);
    }
}

host_test! {
    fn leases_damaged_by_a_power_cut_come_back(host) {
        let before = host.networks.lease(&bridge(), "web", None).unwrap();
        let path = host.layout.data().join("networks/bridge.leases.json");
        fs::write(&path, "").unwrap();
        assert_eq!(host.networks.lease(&bridge(), "web", None).unwrap().ipv4, before.ipv4);
        // While containers run there was no power cut, and nothing is assumed.
        let _web = host.container("bridge", "web");
        fs::write(&path, "{").unwrap();
        let error = host.networks.lease(&bridge(), "other", None).unwrap_err();
        assert!(matches!(error, NetworkError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("bridge.leases.json"), "{error}");
    }
}

host_test! {
    fn what_the_host_has_is_avoided(host) {
        let shop = host.networks.lease(&"shop".parse().unwrap(), "web", None).unwrap();
        // Somebody takes the very subnet before the bridge is there.
        command(&format!("ip address add {}/24 dev wan", Ipv4Addr::from(u32::from(shop.gateway4) + 7)));
        let namespace = super::host::Namespace::new();
        let before = host.kernel();
        let error = host.networks.attach(&shop, &new_id(), namespace.fd.as_fd()).unwrap_err();
        assert!(matches!(&error, NetworkError::Overlap { interface, .. } if interface == "wan"), "{error}");
        assert_eq!(host.kernel(), before);

        for range in ["10.88.0.1/13", "172.24.0.1/13", "192.168.0.1/16"] {
            command(&format!("ip address add {range} dev wan"));
        }
        let error = host.networks.lease(&"bank".parse().unwrap(), "web", None).unwrap_err();
        assert!(matches!(error, NetworkError::NoSubnet { .. }), "{error}");
        assert_eq!(host.networks.list().unwrap().len(), 1, "and nothing was made");
    }
}
