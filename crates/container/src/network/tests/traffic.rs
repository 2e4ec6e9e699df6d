//! Who reaches whom, and as whom.

use super::host::{HOST4, HOST6, OUTSIDE4, OUTSIDE6, Place, at, command, eventually};
use super::host_test;
use crate::network::NetworkError;
use model::PortMapping;
use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

/// The answer of the server called `name` to a caller whose address it saw as `from`.
fn answer(name: &str, from: impl ToString) -> String {
    format!("{name} {}", from.to_string())
}

host_test! {
    fn neighbours_host_and_container_reach_each_other_as_themselves(host) {
        let (one, two) = (host.container("shop", "one"), host.container("shop", "two"));
        Place::In(&two.namespace).serve(80, "two");
        Place::Host.serve(81, "host");
        let (inside, [two4, two6]) = (Place::In(&one.namespace), two.at(80));
        assert_eq!(inside.call_both(two4), answer("two", one.lease.ipv4));
        assert_eq!(inside.call_both(two6), answer("two", one.lease.ipv6));
        assert_eq!(Place::Host.call_both(two4), answer("two", one.lease.gateway4));
        assert_eq!(Place::Host.call_both(two6), answer("two", one.lease.gateway6));
        for (gateway, address) in [(at(one.lease.gateway4, 81), at(one.lease.ipv4, 0)), (at(one.lease.gateway6, 81), at(one.lease.ipv6, 0))] {
            assert_eq!(inside.call_both(gateway), answer("host", address.ip()));
        }
        // Loopback inside is up and its own.
        Place::In(&one.namespace).serve(82, "one");
        assert_eq!(inside.call_both(at("127.0.0.1", 82)), answer("one", "127.0.0.1"));
        assert_eq!(inside.call_both(at("::1", 82)), answer("one", "::1"));
    }
}

host_test! {
    fn the_outside_sees_the_host_and_not_the_container(host) {
        let one = host.container("bridge", "one");
        Place::In(&host.outside).serve(80, "outside");
        assert_eq!(Place::In(&one.namespace).call_both(at(OUTSIDE4, 80)), answer("outside", HOST4));
        assert_eq!(Place::In(&one.namespace).call_both(at(OUTSIDE6, 80)), answer("outside", HOST6));
        // The largest packet is that of the way out.
        let inside = one.namespace.command("ip link show eth0");
        assert!(inside.contains("mtu 1400"), "{inside}");
    }
}

host_test! {
    fn a_published_port_is_reached_from_everywhere(host) {
        let (web, neighbour, other) =
            (host.container("shop", "web"), host.container("shop", "neighbour"), host.container("bank", "other"));
        Place::In(&web.namespace).serve(80, "web");
        let _held = web.publish(&["8080:80", "8080:80/udp"]);

        let outside = Place::In(&host.outside);
        assert_eq!(outside.call_both(at(HOST4, 8080)), answer("web", OUTSIDE4));
        assert_eq!(outside.call_both(at(HOST6, 8080)), answer("web", OUTSIDE6));

        // From the host: by its addresses, by loopback, by the gateway's address.
        let gateway = web.lease.gateway4;
        assert_eq!(Place::Host.call_both(at(HOST4, 8080)), answer("web", HOST4));
        assert_eq!(Place::Host.call_both(at(HOST6, 8080)), answer("web", HOST6));
        assert_eq!(Place::Host.call_both(at("127.0.0.1", 8080)), answer("web", gateway));
        assert_eq!(Place::Host.call_both(at("127.9.9.9", 8080)), answer("web", gateway));
        assert_eq!(Place::Host.call_both(at(gateway, 8080)), answer("web", gateway));
        // Not by ::1, which must not make a program wait that tries it before 127.0.0.1.
        assert_eq!(Place::Host.call(at("::1", 8080)).unwrap_err().kind(), ErrorKind::ConnectionRefused);

        // From containers: a neighbour and itself by way of the gateway, one of another network as itself.
        for caller in [&neighbour, &web] {
            let inside = Place::In(&caller.namespace);
            for (host4, host6) in [(at(HOST4, 8080), at(HOST6, 8080)), (at(gateway, 8080), at(web.lease.gateway6, 8080))] {
                assert_eq!(inside.call_both(host4), answer("web", gateway));
                assert_eq!(inside.call_both(host6), answer("web", web.lease.gateway6));
            }
        }
        let inside = Place::In(&other.namespace);
        assert_eq!(inside.call_both(at(HOST4, 8080)), answer("web", other.lease.ipv4));
        assert_eq!(inside.call_both(at(HOST6, 8080)), answer("web", other.lease.ipv6));

        // A port that somebody outside has is theirs, even under the same number.
        Place::In(&host.outside).serve(8080, "outside");
        assert_eq!(inside.call_both(at(OUTSIDE4, 8080)), answer("outside", HOST4));

        host.networks.unpublish(&web.id).unwrap();
        outside.cannot_call(at(HOST4, 8080));
        outside.cannot_call(at(HOST6, 8080));
    }
}

host_test! {
    fn a_port_of_one_address_is_on_that_address_only(host) {
        let web = host.container("bridge", "web");
        Place::In(&web.namespace).serve(80, "web");
        let _held = web.publish(&["127.0.0.1:8080:80", "127.0.0.1:8080:80/udp", "203.0.113.1:8081:80", "203.0.113.1:8081:80/udp", "[2001:db8:1::1]:8082:80", "[2001:db8:1::1]:8082:80/udp", "0.0.0.0:8083:80", "0.0.0.0:8083:80/udp"]);
        let outside = Place::In(&host.outside);
        assert_eq!(Place::Host.call_both(at("127.0.0.1", 8080)), answer("web", web.lease.gateway4));
        assert_eq!(outside.call_both(at(HOST4, 8081)), answer("web", OUTSIDE4));
        assert_eq!(outside.call_both(at(HOST6, 8082)), answer("web", OUTSIDE6));
        assert_eq!(outside.call_both(at(HOST4, 8083)), answer("web", OUTSIDE4));
        for nowhere in [at(HOST4, 8080), at(HOST6, 8081), at(HOST4, 8082), at(HOST6, 8083)] {
            outside.cannot_call(nowhere);
        }
        Place::Host.cannot_call(at(HOST4, 8080));
        Place::Host.cannot_call(at("127.0.0.1", 8081));
    }
}

/// Makes a namespace send packets for 127.0.0.1 to the host, as somebody with ill intent and all privileges can.
fn send_loopback_to_host(namespace: &super::host::Namespace, device: &str, gateway: &str) {
    namespace.command("ip address del 127.0.0.1/8 dev lo");
    namespace.command(&format!("ip route add 127.0.0.1/32 via {gateway} dev {device}"));
    namespace.run(|| fs::write(format!("/proc/sys/net/ipv4/conf/{device}/route_localnet"), "1").unwrap());
}

host_test! {
    fn the_hosts_loopback_is_closed_to_containers_and_to_the_outside(host) {
        let (web, evil) = (host.container("bridge", "web"), host.container("bridge", "evil"));
        Place::Host.serve_at("127.0.0.1:81", "host");
        Place::In(&web.namespace).serve(80, "web");
        let _held = web.publish(&["127.0.0.1:8080:80", "127.0.0.1:8080:80/udp"]);
        send_loopback_to_host(&evil.namespace, "eth0", &evil.lease.gateway4.to_string());
        send_loopback_to_host(&host.outside, "wan", HOST4);
        let evil = Place::In(&evil.namespace);
        evil.cannot_call(at("127.0.0.1", 81));
        evil.cannot_call(at("127.0.0.1", 8080));
        Place::In(&host.outside).cannot_call(at("127.0.0.1", 8080));
        // It is the guard that keeps it closed, and not a mistake of this test.
        command(&format!("nft flush chain inet {} guard", host.layout.tag()));
        assert!(evil.call(at("127.0.0.1", 81)).unwrap().starts_with("host "));
    }
}

host_test! {
    fn the_hosts_loopback_is_routed_only_where_a_port_is_published_on_it(host) {
        let (web, evil, other) =
            (host.container("shop", "web"), host.container("shop", "evil"), host.container("bank", "other"));
        let routed = |bridge: &str| {
            fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet")).unwrap().trim_end() == "1"
        };
        let (shop, bank) = (web.lease.bridge.as_str(), other.lease.bridge.as_str());
        Place::Host.serve_at("127.0.0.1:81", "host");
        send_loopback_to_host(&evil.namespace, "eth0", &evil.lease.gateway4.to_string());
        let _held = web.publish(&["203.0.113.1:8081:80", "[::]:8082:80", "[2001:db8:1::1]:8083:80"]);
        assert!(!routed(shop));
        // With all rules gone, it is closed all the same.
        command("nft flush ruleset");
        Place::In(&evil.namespace).cannot_call(at("127.0.0.1", 81));

        for port in ["8080:80", "127.0.0.1:8080:80", "127.1.2.3:8080:80/udp", "0.0.0.0:8080:80"] {
            let held = evil.publish(&[port]);
            assert!(routed(shop) && !routed(bank), "{port}");
            host.networks.unpublish(&evil.id).unwrap();
            assert!(!routed(shop), "{port}");
            drop(held);
        }
        let _held = other.publish(&["8080:80"]);
        let live = [web.id.clone(), evil.id.clone(), other.id.clone()];
        fs::write(format!("/proc/sys/net/ipv4/conf/{bank}/route_localnet"), "0").unwrap();
        host.networks.reconcile(&live).unwrap();
        assert!(routed(bank));
        command(&format!("ip link delete {bank}"));
        host.networks.reconcile(&live).unwrap();
        assert!(routed(bank) && !routed(shop));
    }
}

/// What a socket received.
fn next(socket: &UdpSocket) -> String {
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut bytes = [0; 64];
    let (length, from) = socket.recv_from(&mut bytes).unwrap();
    format!("{} {}", String::from_utf8_lossy(&bytes[..length]), from.ip().to_canonical())
}

/// Sends a packet from a namespace under this address, which need not be one that it was given.
fn send(namespace: &super::host::Namespace, from: SocketAddr, to: SocketAddr, text: &str) {
    namespace.run(|| UdpSocket::bind(from).unwrap().send_to(text.as_bytes(), to).unwrap());
}

/// Lets a namespace send under these addresses, and the host not look at where they come from.
fn forge(namespace: &super::host::Namespace, addresses: &[&str], bridges: &[&str]) {
    namespace.run(|| fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap());
    for address in addresses {
        namespace.command(&format!("ip address add {address}/32 dev lo"));
    }
    for interface in ["all", "wan"].iter().chain(bridges) {
        fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "0").unwrap();
    }
}

host_test! {
    fn a_container_can_not_call_under_a_forged_address(host) {
        let (evil, other) = (host.container("shop", "evil"), host.container("bank", "other"));
        let other4 = other.lease.ipv4.to_string();
        forge(&evil.namespace, &["198.51.100.7", &other4], &[&evil.lease.bridge]);
        let server = UdpSocket::bind("[::]:82").unwrap();
        let (host4, host6) = (at(HOST4, 82), at(HOST6, 82));
        let forged = [
            (at("198.51.100.7", 0), host4),
            (at(&other4, 0), host4),
            (at("2001:db8:9::7", 0), host6),
            (at(other.lease.ipv6, 0), host6),
            // As the host itself, which IPv4 refuses by itself.
            (at(evil.lease.gateway6, 0), host6),
        ];
        for (from, to) in forged {
            let own = if to.is_ipv4() { evil.at(0)[0] } else { evil.at(0)[1] };
            send(&evil.namespace, from, to, "forged");
            send(&evil.namespace, own, to, "honest");
            assert_eq!(next(&server), answer("honest", own.ip()), "{from}");
        }
        // Neighbours speak like this, and to the gateway too.
        let own = evil.namespace.command("ip -o -6 address show dev eth0 scope link");
        let mut words = own.split_whitespace();
        let index: u32 = words.next().unwrap().trim_end_matches(':').parse().unwrap();
        let own = words.nth(2).unwrap().trim_end_matches("/64").parse().unwrap();
        let link = |address, port| SocketAddr::V6(std::net::SocketAddrV6::new(address, port, 0, index));
        send(&evil.namespace, link(own, 0), link("fe80::1".parse().unwrap(), 82), "link");
        assert_eq!(next(&server), answer("link", own));
        // It is the guard that keeps them out, and not a mistake of this test.
        command(&format!("nft flush chain inet {} guard", host.layout.tag()));
        for (from, to) in forged {
            send(&evil.namespace, from, to, "forged");
            assert_eq!(next(&server), answer("forged", from.ip()));
        }
    }
}

host_test! {
    fn a_container_can_not_answer_for_the_outside(host) {
        let (evil, victim) = (host.container("shop", "evil"), host.container("bank", "victim"));
        forge(&evil.namespace, &[OUTSIDE4], &[&evil.lease.bridge]);
        let flows = [OUTSIDE4, OUTSIDE6].map(|address| {
            let there = at(address, 700);
            let server = host.outside.run(|| UdpSocket::bind(there).unwrap());
            let client = victim.namespace.run(|| {
                let any = if there.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let client = UdpSocket::bind(any).unwrap();
                client.connect(there).unwrap();
                client.send(b"?").unwrap();
                client
            });
            let (_, seen) = server.recv_from(&mut [0; 1]).unwrap();
            send(&evil.namespace, there, seen, "forged");
            server.send_to(b"honest", seen).unwrap();
            assert_eq!(next(&client), answer("honest", address));
            (there, seen, client)
        });
        command(&format!("nft flush chain inet {} guard", host.layout.tag()));
        for (there, seen, client) in flows {
            send(&evil.namespace, there, seen, "forged");
            assert_eq!(next(&client), answer("forged", there.ip()), "without the guard");
        }
    }
}

host_test! {
    fn a_port_whose_holder_must_listen_is_refused_on_ipv6_loopback(host) {
        let web = host.container("bridge", "web");
        Place::In(&web.namespace).serve(80, "web");
        let server = std::net::TcpListener::bind("127.0.0.1:8090").unwrap();
        let client = std::net::TcpStream::connect("127.0.0.1:8090").unwrap();
        drop(server.accept().unwrap());
        drop((client, server));
        let held = web.publish(&["8090:80"]);
        assert!(rustix::net::sockopt::socket_acceptconn(&held[0]).unwrap(), "what it closed is in TIME_WAIT");
        assert_eq!(Place::Host.call(at("::1", 8090)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(Place::Host.call(at("127.0.0.1", 8090)).unwrap(), answer("web", web.lease.gateway4));
        assert_eq!(Place::In(&host.outside).call(at(HOST6, 8090)).unwrap(), answer("web", OUTSIDE6));
    }
}

host_test! {
    fn networks_are_closed_to_each_other_and_to_the_outside(host) {
        let (one, two) = (host.container("shop", "one"), host.container("bank", "two"));
        assert_ne!(one.lease.bridge, two.lease.bridge);
        Place::In(&two.namespace).serve(80, "two");
        let [two4, two6] = two.at(80);
        Place::In(&one.namespace).cannot_call(two4);
        Place::In(&one.namespace).cannot_call(two6);
        for (family, gateway, prefix) in [("-4", HOST4, two.lease.ipv4.to_string() + "/32"), ("-6", HOST6, two.lease.ipv6.to_string() + "/128")] {
            host.outside.command(&format!("ip {family} route add {prefix} via {gateway}"));
        }
        Place::In(&host.outside).cannot_call(two4);
        Place::In(&host.outside).cannot_call(two6);
        // With the chain empty they do reach it: there is a way, and it is closed.
        command(&format!("nft flush chain inet {} forward", host.layout.tag()));
        assert_eq!(Place::In(&host.outside).call_both(two4), answer("two", OUTSIDE4));
        assert_eq!(Place::In(&one.namespace).call_both(two6), answer("two", one.lease.ipv6));
        // And the next container that starts finds the table incomplete and mends it.
        host.container("shop", "three");
        Place::In(&one.namespace).cannot_call(two6);
    }
}

host_test! {
    fn a_flushed_table_is_put_back_and_nobody_elses_is_touched(host) {
        let others = "add table ip other; add chain ip other c { type filter hook forward priority 7; }; add rule ip other c counter";
        let other = || command("nft -s list table ip other");
        let put_other = || assert!(std::process::Command::new("nft").arg(others).status().unwrap().success());
        put_other();
        let before = other();
        let web = host.container("bridge", "web");
        Place::In(&web.namespace).serve(80, "web");
        let _held = web.publish(&["8080:80", "8080:80/udp"]);
        let works = || Place::In(&host.outside).call(at(HOST4, 8080)).is_ok();
        assert!(works());
        assert!(!host.networks.apply_table().unwrap(), "it is there");

        let flush = |what: &str| {
            command(&format!("nft flush {what}"));
            put_other();
            assert!(!works(), "{what}");
        };
        flush("ruleset");
        let said = host.networks.reconcile(std::slice::from_ref(&web.id)).unwrap();
        assert!(said.iter().any(|said| said.contains("firewall table")), "{said:?}");
        assert!(works(), "by reconcile");

        flush(&format!("table inet {}", host.layout.tag()));
        let api = host.container("bridge", "api");
        assert!(works(), "by a start");

        flush("ruleset");
        let _more = api.publish(&["9090:80"]);
        assert!(works(), "by a publication");

        assert_eq!(before, other());
        assert_eq!(host.networks.reconcile(&[web.id.clone(), api.id.clone()]).unwrap(), Vec::<String>::new());
    }
}

host_test! {
    fn a_port_in_use_is_refused_with_its_owner(host) {
        let networks = &host.networks;
        let ports = |text: &str| PortMapping::parse_all(text).unwrap();
        let refusal = |text: &str| networks.reserve(&ports(text)).unwrap_err().to_string();
        let web = host.container("bridge", "web");
        let held = web.publish(&["8080:80", "8081:80/udp"]);
        assert!(refusal("8080:80").contains(&format!("container {} has published host port 8080", web.id.short())));
        assert!(refusal("127.0.0.1:8081:80/udp").contains(web.id.short()));
        networks.reserve(&ports("8081:80")).expect("TCP is not UDP");

        let server = std::net::TcpListener::bind("127.0.0.1:8090").unwrap();
        let said = refusal("8090:80");
        assert!(said.contains("8090:80/tcp") && said.contains("a program on this host has port 8090"), "{said}");
        // A connection that the server closed keeps its port in TIME_WAIT, which is nobody.
        let client = std::net::TcpStream::connect("127.0.0.1:8090").unwrap();
        drop(server.accept().unwrap());
        drop((client, server));
        let again = networks.reserve(&ports("8090:80")).unwrap();
        assert!(refusal("8090:80").contains("8090"), "and still it is exclusive");
        drop(again);

        assert!(refusal("192.0.2.99:1:1").contains("not one of this host"));
        assert!(refusal("[::1]:1:1").contains("127.0.0.1"));
        let twice = [ports("70:1"), ports("70:2")].concat();
        assert!(networks.reserve(&twice).unwrap_err().to_string().contains("asked for twice"));
        drop(held);
        networks.reserve(&ports("8080:80")).unwrap();
        assert!(matches!(networks.reserve(&ports("192.0.2.99:1:1")), Err(NetworkError::Port { source: Some(_), .. })));
    }
}

host_test! {
    fn a_udp_flow_follows_its_port(host) {
        let (one, two) = (host.container("bridge", "one"), host.container("bridge", "two"));
        Place::In(&one.namespace).serve(80, "one");
        Place::In(&two.namespace).serve(80, "two");
        for (host_address, client) in [(HOST4, "0.0.0.0:0"), (HOST6, "[::]:0")] {
            // A sender that never stops, from one and the same port.
            let socket = host.outside.run(|| UdpSocket::bind(client).unwrap());
            let ask = |patience| {
                socket.set_read_timeout(Some(patience)).unwrap();
                socket.send_to(b"?", at(host_address, 8080)).unwrap();
                let mut answer = [0; 3];
                socket.recv(&mut answer).map(|_| String::from_utf8(answer.to_vec()).unwrap()).ok()
            };
            let answers = || ask(Duration::from_secs(20));
            let silent = || assert_eq!(ask(Duration::from_millis(400)), None);
            silent();
            let held = one.publish(&["8080:80/udp"]);
            assert_eq!(answers().as_deref(), Some("one"));
            host.networks.unpublish(&one.id).unwrap();
            silent();
            drop(held);
            let held = two.publish(&["8080:80/udp"]);
            assert_eq!(answers().as_deref(), Some("two"));
            let said = host.networks.reconcile(std::slice::from_ref(&one.id)).unwrap();
            assert!(said.iter().any(|said| said.contains("published ports")), "{said:?}");
            silent();
            drop(held);
            host.networks.attach(&two.lease, &two.id, std::os::fd::AsFd::as_fd(&two.namespace.fd)).unwrap();
        }
    }
}

host_test! {
    fn ipv6_can_be_off_inside(host) {
        let network = "bridge".parse().unwrap();
        let lease = host.networks.lease(&network, "old", None).unwrap();
        let namespace = super::host::Namespace::new();
        namespace.run(|| fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap());
        host.networks.attach(&lease, &super::host::new_id(), std::os::fd::AsFd::as_fd(&namespace.fd)).unwrap();
        Place::Host.serve(81, "host");
        let gateway: SocketAddr = at(lease.gateway4, 81);
        assert_eq!(Place::In(&namespace).call_both(gateway), answer("host", lease.ipv4));
        assert_eq!(namespace.command("ip -6 address show dev eth0"), "");
    }
}

host_test! {
    fn ipv6_can_be_off_on_the_host(host) {
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let web = host.container("bridge", "web");
        Place::In(&web.namespace).serve(80, "web");
        let _held = web.publish(&["8080:80", "8080:80/udp"]);
        assert_eq!(Place::In(&host.outside).call_both(at(HOST4, 8080)), answer("web", OUTSIDE4));
        assert_eq!(command(&format!("ip -6 address show dev {}", web.lease.bridge)), "");
        assert!(!web.namespace.command("ip -6 address show dev eth0").contains("global"));
        assert!(host.networks.reconcile(std::slice::from_ref(&web.id)).unwrap().is_empty());
    }
}

host_test! {
    fn a_container_without_network_has_loopback(host) {
        let alone = super::host::Namespace::new();
        host.networks.configure_loopback(std::os::fd::AsFd::as_fd(&alone.fd)).unwrap();
        Place::In(&alone).serve(80, "alone");
        assert_eq!(Place::In(&alone).call_both(at("127.0.0.1", 80)), answer("alone", "127.0.0.1"));
        assert_eq!(Place::In(&alone).call_both(at("::1", 80)), answer("alone", "::1"));
        let links = eventually(|| alone.command("ip -br link"), |links| links.lines().count() == 1);
        assert!(links.starts_with("lo "), "{links}");
    }
}
