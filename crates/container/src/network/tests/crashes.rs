//! What crashes, other people and ends leave behind: nothing.

use super::host::{HOST4, Host, Namespace, OUTSIDE4, Place, Worker, at, command, eventually, new_id};
use super::host_test;
use crate::{
    layout::Layout,
    network::{NetworkError, Networks, attach::port_name},
};
use jiff::Timestamp;
use model::{ContainerId, NetworkName, PortMapping};
use std::{
    fs::{self, File},
    os::fd::AsFd,
    time::Duration,
};

/// Interfaces of the host by the start of their name.
fn interfaces(start: &str) -> Vec<String> {
    let links = command("ip -br link");
    let names = links.lines().filter_map(|line| line.split(['@', ' ']).next());
    names.filter(|name| name.starts_with(start)).map(str::to_owned).collect()
}

host_test! {
    fn an_attempt_that_was_killed_is_replaced(host) {
        let first = host.container("bridge", "web");
        // The namespace of the first attempt is still there, with its half of the pair.
        let second = Namespace::new();
        host.networks.attach(&first.lease, &first.id, second.fd.as_fd()).unwrap();
        Place::In(&second).serve(80, "second");
        assert!(Place::Host.call(at(first.lease.ipv4, 80)).unwrap().starts_with("second"));
        assert_eq!(interfaces("jd"), [first.lease.bridge.clone(), port_name(&first.id)]);
        assert!(!first.namespace.command("ip -br link").contains("eth0"));
        // What is somebody else's is left alone.
        command(&format!("ip link set {} alias somebody", port_name(&first.id)));
        command(&format!("ip link set {} down", port_name(&first.id)));
        let refused = host.networks.attach(&first.lease, &first.id, second.fd.as_fd()).unwrap_err();
        assert!(matches!(&refused, NetworkError::Foreign { interface, .. } if *interface == port_name(&first.id)), "{refused}");
        assert!(command(&format!("ip link show {}", port_name(&first.id))).contains("alias somebody"));
        // Of a pair whose maker was killed before it could say whose it is, nobody is the owner.
        command(&format!("ip link delete {}", port_name(&first.id)));
        command(&format!("ip link add {} type veth peer name other", port_name(&first.id)));
        host.networks.attach(&first.lease, &first.id, second.fd.as_fd()).unwrap();
        assert!(Place::Host.call(at(first.lease.ipv4, 80)).unwrap().starts_with("second"));
    }
}

host_test! {
    fn reconcile_sweeps_the_dead_and_spares_the_living(host) {
        let (dead, live, starting) =
            (host.container("bridge", "dead"), host.container("bridge", "live"), host.container("bridge", "starting"));
        Place::In(&live.namespace).serve(80, "live");
        let _held = (dead.publish(&["8080:80"]), live.publish(&["8081:80", "8081:80/udp"]));
        // Not in the list, because it began after the list was made: its lock says that it lives.
        fs::create_dir_all(host.layout.running(&starting.id)).unwrap();
        let lock = File::create(host.layout.running(&starting.id).join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        // A bridge whose network was removed and whose remover was killed; the lease of a container that is gone.
        command(&format!("ip link add {}77 type bridge", host.layout.tag()));
        let gone = new_id();
        host.networks.lease(&live.lease.network, gone.as_str(), None).unwrap();
        let path = host.layout.data().join("networks/bridge.leases.json");
        let leases = fs::read_to_string(&path).unwrap().replace(&Timestamp::now().to_string()[..10], "2001-01-01");
        fs::write(&path, leases).unwrap();

        let said = host.networks.reconcile(std::slice::from_ref(&live.id)).unwrap().join("\n");
        for part in [dead.id.short(), &port_name(&dead.id), "77", "1 leases of network bridge", "firewall table"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert_eq!(said.lines().count(), 5, "{said}");
        assert!(interfaces(&port_name(&dead.id)).is_empty());
        assert_eq!(interfaces(&port_name(&starting.id)).len(), 1);
        assert!(interfaces(&format!("{}77", host.layout.tag())).is_empty());
        let outside = Place::In(&host.outside);
        outside.cannot_call(at(HOST4, 8080));
        assert_eq!(outside.call_both(at(HOST4, 8081)), format!("live {OUTSIDE4}"));
        assert!(host.networks.reconcile(std::slice::from_ref(&live.id)).unwrap().is_empty(), "nothing is left to do");
    }
}

host_test! {
    fn a_bridge_that_somebody_deleted_is_made_again(host) {
        let (one, two) = (host.container("bridge", "one"), host.container("bridge", "two"));
        Place::In(&two.namespace).serve(80, "two");
        command(&format!("ip link delete {}", one.lease.bridge));
        let said = host.networks.reconcile(&[one.id.clone(), two.id.clone()]).unwrap().join("\n");
        assert!(said.contains("made again") && said.contains(one.id.short()) && said.contains(two.id.short()), "{said}");
        for address in two.at(80) {
            eventually(|| Place::In(&one.namespace).call(address).map_err(|e| e.to_string()), Result::is_ok).unwrap();
        }
        // And by the next start, if that comes first.
        command(&format!("ip link set {} down", one.lease.bridge));
        let three = host.container("bridge", "three");
        for address in two.at(80) {
            eventually(|| Place::In(&three.namespace).call(address).map_err(|e| e.to_string()), Result::is_ok).unwrap();
        }
    }
}

host_test! {
    fn starts_that_are_killed_leave_nothing_that_reconcile_does_not_sweep(host) {
        let keep = host.container("bridge", "keep");
        Place::In(&keep.namespace).serve(80, "keep");
        for round in 0..10 {
            let workers: Vec<_> =
                (0..4).map(|number| Worker::start(host, "attach", &format!("r{round}w{number}-"), 1000)).collect();
            let workers: Vec<_> = workers.into_iter().map(Worker::begun).collect();
            std::thread::sleep(Duration::from_millis(15 + 11 * round)); // the moment of the kill, not a wait for anything
            workers.into_iter().for_each(|worker| drop(worker.kill()));
        }
        host.networks.reconcile(std::slice::from_ref(&keep.id)).unwrap();
        let expected = [keep.lease.bridge.clone(), port_name(&keep.id)];
        // Namespaces of the killed end a little later, and their half-made interfaces with them.
        eventually(|| interfaces("jd"), |found| *found == expected);
        assert_eq!(fs::read_dir(host.layout.run().join("published")).unwrap().count(), 0);
        let map = command(&format!("nft list map inet {} any4", host.layout.tag()));
        assert!(!map.contains("tcp . "), "{map}");
        let next = host.container("bridge", "next");
        for address in keep.at(80) {
            Place::In(&next.namespace).call(address).unwrap();
        }
    }
}

host_test! {
    fn a_network_in_use_stays_and_one_that_is_not_goes(host) {
        let name: NetworkName = "shop".parse().unwrap();
        assert!(matches!(host.networks.remove(&name), Err(NetworkError::Unknown { .. })));
        let web = host.container("shop", "web");
        let _other = host.container("bridge", "other");
        let refusal = host.networks.remove(&name).unwrap_err().to_string();
        assert!(refusal.contains("`shop` is in use by web"), "{refusal}");
        let listed = host.networks.list().unwrap();
        assert_eq!(listed.iter().map(|network| network.name.as_str()).collect::<Vec<_>>(), ["shop", "bridge"]);
        assert_eq!((listed[0].users.clone(), listed[0].leases), (vec!["web".to_owned()], 1));
        let bridge = web.lease.bridge.clone();
        // Its interface goes a little after it.
        drop(web);
        host.networks.remove(&name).unwrap();
        assert!(interfaces(&bridge).is_empty());
        assert!(!command(&format!("nft list table inet {}", host.layout.tag())).contains(&format!("\"{bridge}\"")));
        assert_eq!(host.networks.list().unwrap().len(), 1);
        assert!(!host.layout.network(&name).exists());
    }
}

host_test! {
    fn teardown_leaves_the_host_as_it_was(host) {
        fs::write("/proc/sys/net/ipv6/conf/wan/accept_ra", "1").unwrap();
        let before = host.kernel();
        let folder = |host: &Host| host.layout.data().join("host-changes.json");
        let web = host.container("bridge", "web");
        let _held = web.publish(&["8080:80"]);
        let changes = fs::read_to_string(folder(host)).unwrap();
        for change in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/wan/accept_ra"] {
            assert!(changes.contains(change), "{change} in {changes}");
        }
        assert_ne!(host.kernel(), before);
        let said = host.networks.teardown().unwrap();
        assert!(said.iter().any(|said| said.contains("ip_forward back to 0")), "{said:?}");
        assert_eq!(host.kernel(), before);
        assert!(!folder(host).exists());
        assert!(host.networks.teardown().unwrap().is_empty());
        // Addresses are remembered, and the next start makes everything again.
        let again = host.container("bridge", "web");
        assert_eq!(again.lease.addresses(), web.lease.addresses());
        // What somebody has changed since is theirs.
        fs::write("/proc/sys/net/ipv6/conf/wan/accept_ra", "0").unwrap();
        host.networks.teardown().unwrap();
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv6/conf/wan/accept_ra").unwrap(), "0\n");
    }
}

host_test! {
    fn two_data_folders_do_not_meet(host) {
        let (data, run) = (host.folder().join("data2"), host.folder().join("run2"));
        let layout = Layout::open(&data, Some(&run)).unwrap();
        let others = Networks::new(&layout);
        let web = host.container("bridge", "web");
        Place::In(&web.namespace).serve(80, "web");
        let _held = web.publish(&["8080:80"]);
        let (namespace, id) = (Namespace::new(), new_id());
        let lease = others.lease(&"bridge".parse().unwrap(), "web", None).unwrap();
        assert_ne!((lease.bridge.as_str(), lease.ipv4), (web.lease.bridge.as_str(), web.lease.ipv4));
        others.attach(&lease, &id, namespace.fd.as_fd()).unwrap();
        Place::In(&namespace).cannot_call(web.at(80)[0]);
        assert!(Place::In(&namespace).call(at(HOST4, 8080)).is_ok(), "by the published port");
        assert!(others.reconcile(&[]).unwrap().iter().all(|said| !said.contains(web.id.short())));
        others.teardown().unwrap();
        assert!(Place::In(&host.outside).call(at(HOST4, 8080)).is_ok(), "still there, forwarding included");
        assert!(host.networks.reconcile(std::slice::from_ref(&web.id)).unwrap().is_empty());
    }
}

host_test! {
    fn without_nft_the_package_is_named(host) {
        let empty = host.folder().join("empty");
        fs::create_dir(&empty).unwrap();
        let namespace = Namespace::new();
        for folder in ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"] {
            command(&format!("mount --bind {} {folder}", empty.display()));
        }
        let lease = host.networks.lease(&"bridge".parse().unwrap(), "web", None).unwrap();
        let error = host.networks.attach(&lease, &new_id(), namespace.fd.as_fd()).unwrap_err();
        assert!(matches!(error, NetworkError::NftMissing), "{error}");
        assert!(error.to_string().contains("`nftables`"), "{error}");
        // `ip` is gone as well.
        let links = fs::read_to_string("/proc/net/dev").unwrap();
        assert!(!links.contains("jd"), "{links}");
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "0\n");
    }
}

host_test! {
    fn a_failed_publication_is_none(host) {
        let web = host.container("bridge", "web");
        let ports = PortMapping::parse_all("8080:80").unwrap();
        // The script can not be written.
        let script = host.layout.run().join("firewall.nft");
        fs::remove_file(&script).unwrap();
        fs::create_dir(&script).unwrap();
        let error = host.networks.publish(&web.id, &web.lease, &ports).unwrap_err();
        assert!(error.to_string().contains("firewall.nft"), "{error}");
        assert_eq!(host.networks.published_ids().unwrap(), Vec::<ContainerId>::new());
    }
}

host_test! {
    fn a_port_leads_to_one_container_whoever_was_killed(host) {
        let (one, two) = (host.container("bridge", "one"), host.container("bridge", "two"));
        Place::In(&one.namespace).serve(80, "one");
        Place::In(&two.namespace).serve(80, "two");
        let outside = Place::In(&host.outside);
        let called = || outside.call(at(HOST4, 8080)).unwrap();
        let ports = |text: &str| PortMapping::parse_all(text).unwrap();
        let publish = |text: &str| host.networks.publish(&two.id, &two.lease, &ports(text));
        one.write_state();
        // Its monitor is killed: nobody has the port, and it leads to the container all the same.
        drop(one.publish(&["203.0.113.1:8080:80"]));
        for text in ["8080:80", "203.0.113.1:8080:80", "0.0.0.0:8080:80"] {
            let _held = host.networks.reserve(&ports(text)).unwrap();
            let refused = publish(text).unwrap_err();
            let said = format!("container {} has published host port 8080", one.id.short());
            assert!(matches!(&refused, NetworkError::Port { reason, .. } if *reason == said), "{text}: {refused}");
            assert_eq!(host.networks.published_ids().unwrap(), std::slice::from_ref(&one.id), "{text}");
        }
        assert_eq!(called(), format!("one {OUTSIDE4}"));
        // What does not meet it is nobody's business.
        for text in ["8080:80/udp", "127.0.0.1:8080:80", "[::]:8080:80", "8081:80"] {
            publish(text).unwrap();
        }
        host.networks.unpublish(&two.id).unwrap();
        // It dies, too, and nobody clears away after it: not even on the address that was its own is it in the way.
        let id = one.id.clone();
        drop(one);
        publish("8080:80").unwrap();
        assert_eq!(called(), format!("two {OUTSIDE4}"));
        assert!(!host.networks.published_ids().unwrap().contains(&id));
    }
}
