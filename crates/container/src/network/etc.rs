//! The three files about names inside a container: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.
//!
//! Text in, text out: knows no file. As Docker does it, but for one thing: where no name server is left, none is made up.
//! A public one would see what a site asks for.

use crate::{options::DnsOptions, state::Addresses};
use std::net::IpAddr;

/// `/etc/hosts`: loopback names, the additional lines, and the container's own name at its addresses (at loopback when it
/// has none).
pub fn hosts(hostname: &str, addresses: Option<&Addresses>, extra: &[(String, IpAddr)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    let mut line = |address: IpAddr, name: &str| text.push_str(&format!("{address}\t{name}\n"));
    for (name, address) in extra {
        line(*address, name);
    }
    match addresses {
        Some(addresses) => {
            line(addresses.ipv4.into(), hostname);
            line(addresses.ipv6.into(), hostname);
        }
        None => line(IpAddr::from([127, 0, 1, 1]), hostname),
    }
    text
}

/// `/etc/hostname`.
pub fn hostname(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// `/etc/resolv.conf`: name servers, search domains and options as given, each from the host where not given.
///
/// `host` is the host's file. Its servers on a loopback address cannot be reached from a container; when one of them is
/// systemd-resolved's stub and `resolved` (the text of `/run/systemd/resolve/resolv.conf`) is at hand, that is taken for
/// the host's file instead, and loopback servers are left out of whichever is taken.
pub fn resolv_conf(dns: &DnsOptions, host: &str, resolved: Option<&str>) -> String {
    let stub = words(host, "nameserver").any(|server| server == "127.0.0.53" || server == "127.0.0.54");
    let host = resolved.filter(|_| stub).unwrap_or(host);

    let servers: Vec<String> = match dns.servers.is_empty() {
        true => words(host, "nameserver").filter(|server| reaches(server)).map(str::to_owned).collect(),
        false => dns.servers.iter().map(IpAddr::to_string).collect(),
    };
    // The last `search` or `domain` counts (resolv.conf(5)).
    let of_host = |keywords: &[&str]| -> Vec<String> {
        let mut lines = host.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let last = lines.rfind(|line| line.first().is_some_and(|word| keywords.contains(word)));
        last.unwrap_or_default().into_iter().skip(1).map(str::to_owned).collect()
    };
    let search = match dns.search.as_slice() {
        [] => of_host(&["search", "domain"]),
        // Docker's way to say: none, not even the host's.
        [dot] if dot == "." => Vec::new(),
        given => given.to_vec(),
    };
    let options = match dns.options.is_empty() {
        true => of_host(&["options"]),
        false => dns.options.clone(),
    };

    let mut text = String::new();
    for server in &servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if servers.is_empty() {
        text.push_str("# The host has no name server that a container can reach; name some with --dns.\n");
    }
    for (keyword, values) in [("search", search), ("options", options)] {
        if !values.is_empty() {
            text.push_str(&format!("{keyword} {}\n", values.join(" ")));
        }
    }
    text
}

/// The first words after a keyword.
fn words<'a>(text: &'a str, keyword: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|word| *word == keyword).and(words.next())
    })
}

/// Whether a container can reach this server: not on loopback, and not by a link-local address, whose zone is an interface
/// of the host's.
fn reaches(server: &str) -> bool {
    match server.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => !address.is_loopback() && !address.is_unspecified(),
        Ok(IpAddr::V6(address)) => {
            let mapped = address.to_ipv4_mapped().is_some_and(|address| address.is_loopback());
            !address.is_loopback() && !address.is_unspecified() && !address.is_unicast_link_local() && !mapped
        }
        // With a zone (`fe80::1%eth0`), or nonsense.
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(servers: &[&str], search: &[&str], options: &[&str]) -> DnsOptions {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        DnsOptions {
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            search: own(search),
            options: own(options),
            hosts: Vec::new(),
        }
    }

    #[test]
    fn hosts_names_the_container_last() {
        let addresses = Addresses { ipv4: [10, 88, 0, 2].into(), ipv6: "fd00::2".parse().unwrap() };
        let text = hosts("web", Some(&addresses), &[("db".to_owned(), "10.0.0.9".parse().unwrap())]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.9\tdb\n10.88.0.2\tweb\nfd00::2\tweb\n"), "{text}");
        assert!(hosts("web", None, &[]).ends_with("127.0.1.1\tweb\n"));
        assert_eq!(hostname("web"), "web\n");
    }

    #[test]
    fn what_is_given_wins_part_by_part() {
        let host = "# by hand\nnameserver 192.0.2.1\nsearch example.org\noptions ndots:1\n";
        assert_eq!(
            resolv_conf(&given(&["10.0.0.5", "fd00::5"], &[], &["ndots:2", "rotate"]), host, None),
            "nameserver 10.0.0.5\nnameserver fd00::5\nsearch example.org\noptions ndots:2 rotate\n"
        );
        assert_eq!(
            resolv_conf(&given(&[], &["a.example", "b.example"], &[]), host, None),
            "nameserver 192.0.2.1\nsearch a.example b.example\noptions ndots:1\n"
        );
        assert!(!resolv_conf(&given(&[], &["."], &[]), host, None).contains("search"));
    }

    #[test]
    fn servers_out_of_reach_are_left_out() {
        let host = "nameserver 127.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver fe80::1\n\
                    nameserver ::ffff:127.0.0.1\nnameserver 2001:db8::1\nnameserver 192.0.2.7\ndomain old\nsearch new\n";
        assert_eq!(
            resolv_conf(&DnsOptions::default(), host, None),
            "nameserver 2001:db8::1\nnameserver 192.0.2.7\nsearch new\n"
        );
    }

    #[test]
    fn behind_resolveds_stub_stand_its_servers() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        let real = "nameserver 192.0.2.53\nsearch lan\n";
        assert_eq!(resolv_conf(&DnsOptions::default(), stub, Some(real)), "nameserver 192.0.2.53\nsearch lan\n");
        let other = "nameserver 192.0.2.1\n";
        assert_eq!(resolv_conf(&DnsOptions::default(), other, Some(real)), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn no_server_is_made_up() {
        let text = resolv_conf(&DnsOptions::default(), "nameserver 127.0.0.53\n", None);
        assert!(text.starts_with("# ") && !text.contains("nameserver "), "{text}");
        assert!(text.contains("--dns"));
    }
}
