//! Many containers, one after another and at once. How long things take is printed as `figure: …`, and judged by the
//! benchmarks.

use super::host::{Namespace, at_once, new_id, rounds};
use super::host_test;
use model::NetworkName;
use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

host_test! {
    fn a_container_joins_without_a_program_being_run(host) {
        let network: NetworkName = "bridge".parse().unwrap();
        let first = Instant::now();
        let keep = host.container(network.as_str(), "first");
        println!("figure: first container of a network, which is made and raised: {:.2?}", first.elapsed());
        let table = || std::fs::metadata(host.layout.run().join("firewall.nft")).unwrap().modified().unwrap();
        let applied = table();
        let namespaces: Vec<_> = (0..rounds(100, 10)).map(|_| Namespace::new()).collect();
        let (mut lease_times, mut attach_times) = (Vec::new(), Vec::new());
        for (number, namespace) in namespaces.iter().enumerate() {
            let start = Instant::now();
            let lease = host.networks.lease(&network, &format!("c{number}"), None).unwrap();
            lease_times.push(start.elapsed());
            let start = Instant::now();
            host.networks.attach(&lease, &new_id(), namespace.fd.as_fd()).unwrap();
            attach_times.push(start.elapsed());
        }
        let slowest = *attach_times.iter().max().unwrap();
        let (lease, attach) = (median(&mut lease_times), median(&mut attach_times));
        let count = namespaces.len();
        println!("figure: {count} containers: lease {lease:.2?}, attach {attach:.2?} (median), slowest attach {slowest:.2?}");
        assert_eq!(applied, table(), "nft ran");
        drop(keep);
    }
}

host_test! {
    fn many_containers_join_and_publish_at_once(host) {
        let network: NetworkName = "bridge".parse().unwrap();
        let count = rounds(100, 20);
        let namespaces: Vec<_> = (0..count).map(|_| Namespace::new()).collect();
        let fds: Vec<_> = namespaces.iter().map(|namespace| namespace.fd.try_clone().unwrap()).collect();
        let networks = host.networks.clone();
        let start = Instant::now();
        let leases = at_once(count, move |number| {
            let (lease, id) = (networks.lease(&network, &format!("c{number}"), None).unwrap(), new_id());
            networks.attach(&lease, &id, fds[number].as_fd()).unwrap();
            (number, lease, id)
        });
        println!("figure: {count} containers at once, network made and raised: {:.2?}", start.elapsed());
        let (networks, start) = (host.networks.clone(), Instant::now());
        let leases = at_once(count, move |number| {
            let (_, lease, id) = leases[number].clone();
            let port = u16::try_from(20_000 + number).unwrap();
            let ports = model::PortMapping::parse_all(&format!("{port}:80")).unwrap();
            let held = networks.reserve(&ports).unwrap();
            networks.publish(&id, &lease, &ports).unwrap();
            (lease.ipv4, held)
        });
        println!("figure: {count} containers at once publish a port each: {:.2?}", start.elapsed());
        let mut addresses: Vec<_> = leases.iter().map(|(address, _)| *address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), count);
        let table = super::host::command(&format!("nft list map inet {} any4", host.layout.tag()));
        assert_eq!(table.matches("tcp . ").count(), count, "{table}");
    }
}
