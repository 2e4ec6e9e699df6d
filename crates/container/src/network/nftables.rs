//! The one firewall table of a data folder, `inet <tag>`: made anew as a whole from the networks and the published ports,
//! replaced in one transaction, and left alone when the kernel has it already.
//!
//! | chain | does |
//! |---|---|
//! | `guard` | keeps containers from the host's loopback addresses, which `route_localnet` on a bridge would open, and from |
//! | | sending under an address that their network does not have, or as the host |
//! | `forward` | lets in to a container: replies, published ports, its own network; nothing from elsewhere |
//! | `prerouting`, `output` | lead to `published` what is addressed to this host, from outside and from itself |
//! | `published` | the destination, by one lookup each for ports of one host address and of all |
//! | `refuse` | answers for published ports where they are not: on `::1` |
//! | `postrouting` | hides containers' addresses outside, and the sender where a reply would miss the host |
//! | `v…` | named after the hash of all the others: how a kernel's table is known to be this very one |
//!
//! Published ports are not on `::1`: IPv6 has no `route_localnet`, and where bridged packets pass the firewall
//! (`bridge-nf-call-ip6tables`) the kernel drops the replies. It refuses such a connection at once instead, and programs that
//! look for `localhost` go on to 127.0.0.1.
//!
//! What it accepts, another table on the same hook may still drop (a firewall whose forward chain drops by policy): such a
//! table is its owner's, and has to let the bridges through itself.
//!
//! Every decision is a lookup in a set or map; none depends on the number of networks or containers.

use super::{
    error::NetworkError,
    forwarding,
    netlink::{Refusal, Request, Socket, attribute, put},
    ports::Published,
    store::{self, Description, Durability, Lock},
};
use crate::layout::Layout;
use model::Protocol;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::File,
    io,
    net::IpAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

// linux/netfilter/nfnetlink.h, nf_tables.h
const NFT_MSG_GETCHAIN: u16 = 10 << 8 | 4;
const NFPROTO_INET: u8 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_USE: u16 = 6;

/// Where `nft` is when `PATH`, which may be a user's, does not say.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// A table as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    /// In the language of nft(8).
    text: String,
    mark: Mark,
}

/// By what a table in the kernel is known: its chains and the number of rules in each. One of them has the content's hash
/// in its name. `nft flush ruleset` takes the chains, `nft flush table` the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    chains: Vec<(String, u32)>,
}

/// The table of one data folder.
#[derive(Debug, Clone)]
pub(super) struct Firewall {
    layout: Layout,
}

impl Firewall {
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }

    /// Whether the kernel has the table that was applied last: three system calls, no process.
    pub fn is_intact(&self) -> Result<bool, NetworkError> {
        match store::read::<Mark>(&self.mark_path())? {
            Some(mark) => self.has(&mark),
            None => Ok(false),
        }
    }

    /// Brings the kernel's table up to date; whether anything had to be done. `inputs` is asked for networks and published
    /// ports under the table's lock: of many who wait for it, the first writes what all of them want, and the others find
    /// nothing left to do.
    pub fn apply(
        &self,
        inputs: impl FnOnce() -> Result<(Vec<Description>, Vec<Published>), NetworkError>,
    ) -> Result<bool, NetworkError> {
        let _lock = Lock::acquire(&self.layout.run().join("firewall.lock"))?;
        let (networks, published) = inputs()?;
        if networks.is_empty() {
            return self.remove_locked();
        }
        let table = render(self.layout.tag(), &networks, &published);
        let present = self.has(&table.mark)?;
        // Whoever flushes all rules of the machine opens what only `guard` keeps closed. So the parameter is there only where
        // a port needs it, and never without the rule: off before the table changes, on after.
        let needs = |network: &Description| published.iter().any(|one| one.is_on(network) && one.is_on_loopback());
        let (with, without): (Vec<_>, Vec<_>) = networks.iter().partition(|network| needs(network));
        for network in without {
            forwarding::route_loopback(&network.bridge, false)?;
        }
        if !present {
            self.nft(&table.text)?;
        }
        store::write(&self.mark_path(), &table.mark, Durability::Process)?;
        for network in with {
            forwarding::route_loopback(&network.bridge, true)?;
        }
        if !present {
            tracing::debug!(
                table = self.layout.tag(),
                networks = networks.len(),
                published = published.len(),
                "table applied"
            );
        }
        Ok(!present)
    }

    /// Removes the table; whether there was one.
    pub fn remove(&self) -> Result<bool, NetworkError> {
        let _lock = Lock::acquire(&self.layout.run().join("firewall.lock"))?;
        self.remove_locked()
    }

    fn remove_locked(&self) -> Result<bool, NetworkError> {
        store::remove(&self.mark_path())?;
        // Any table of this name is ours, whatever is left in it; `guard` is in every version of it.
        let guard = Mark { chains: vec![("guard".to_owned(), 0)] };
        let present = self.rules(&guard)?.iter().any(Option::is_some);
        if present {
            let tag = self.layout.tag();
            self.nft(&format!("add table inet {tag}\ndelete table inet {tag}\n"))?;
        }
        Ok(present)
    }

    fn has(&self, mark: &Mark) -> Result<bool, NetworkError> {
        let rules = self.rules(mark)?;
        Ok(mark.chains.iter().zip(rules).all(|((_, wanted), found)| found == Some(*wanted)))
    }
    /// How many rules each of the chains has; `None` for one that is not there.
    fn rules(&self, mark: &Mark) -> Result<Vec<Option<u32>>, NetworkError> {
        let ask = || -> Result<_, Refusal> {
            let requests: Vec<_> = mark.chains.iter().map(|(chain, _)| get_chain(self.layout.tag(), chain)).collect();
            Socket::netfilter()?.batch_of(&requests)
        };
        let answers = ask().map_err(NetworkError::kernel("look at table", self.layout.tag()))?;
        Ok(answers.iter().map(|answer| rules_of(&answer.body)).collect())
    }

    /// Runs a script in one transaction. It stays in the run folder, for whoever wants to know what was applied.
    fn nft(&self, script: &str) -> Result<(), NetworkError> {
        let path = self.layout.run().join("firewall.nft");
        store::replace(&path, script.as_bytes(), Durability::Process).map_err(NetworkError::file("write", &path))?;
        let input = File::open(&path).map_err(NetworkError::file("open", &path))?;
        let output = Command::new("nft")
            .args(["-f", "-"])
            .env_clear()
            .env("PATH", search_path())
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output();
        let fail = |message, source| NetworkError::Nft { table: self.layout.tag().to_owned(), message, source };
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NetworkError::NftMissing),
            Err(error) => Err(fail("it could not be run".to_owned(), Some(error))),
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(fail(said.lines().next().map_or_else(|| output.status.to_string(), str::to_owned), None))
            }
        }
    }

    fn mark_path(&self) -> PathBuf {
        self.layout.run().join("firewall.json")
    }
}

fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(SYSTEM_PATH);
    path
}

fn get_chain(table: &str, chain: &str) -> Request {
    let mut body = vec![NFPROTO_INET, 0, 0, 0];
    for (kind, value) in [(NFTA_CHAIN_TABLE, table), (NFTA_CHAIN_NAME, chain)] {
        put(&mut body, kind, format!("{value}\0").as_bytes());
    }
    Request::raw("get chain", NFT_MSG_GETCHAIN, 0, body).or(&[Errno::NOENT])
}
fn rules_of(answer: &[u8]) -> Option<u32> {
    let uses = attribute(answer.get(4..)?, NFTA_CHAIN_USE)?;
    uses.first_chunk().map(|uses| u32::from_be_bytes(*uses))
}

/// The elements of the four maps of published ports: of one host address or of all, IPv4 or IPv6.
#[derive(Default)]
struct Maps {
    at4: BTreeMap<String, String>,
    any4: BTreeMap<String, String>,
    at6: BTreeMap<String, String>,
    any6: BTreeMap<String, String>,
    /// TCP ports whose socket is on all IPv6 addresses of the host.
    everywhere: BTreeSet<u16>,
}

impl Maps {
    /// Later publications win: two of one port can only be a dead container's, which nobody has cleared away yet, and its
    /// successor's. nft would refuse the table for the double key, and with it everybody's ports.
    fn new(published: &[Published]) -> Self {
        let mut maps = Self::default();
        let mut published: Vec<&Published> = published.iter().collect();
        published.sort_by_key(|published| (published.since, published.id.clone()));
        for publication in published {
            for mapping in &publication.ports {
                let protocol = match mapping.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                };
                let all_of_6 = mapping.host_ip.is_none_or(|ip| ip.is_ipv6() && ip.is_unspecified());
                if all_of_6 && mapping.protocol == Protocol::Tcp {
                    maps.everywhere.insert(mapping.host_port);
                }
                let key = format!("{protocol} . {}", mapping.host_port);
                let to4 = format!("{} . {}", publication.ipv4, mapping.container_port);
                let to6 = format!("{} . {}", publication.ipv6, mapping.container_port);
                match mapping.host_ip {
                    None => {
                        maps.any4.insert(key.clone(), to4);
                        maps.any6.insert(key, to6)
                    }
                    Some(IpAddr::V4(address)) if address.is_unspecified() => maps.any4.insert(key, to4),
                    Some(IpAddr::V6(address)) if address.is_unspecified() => maps.any6.insert(key, to6),
                    Some(IpAddr::V4(address)) => maps.at4.insert(format!("{address} . {key}"), to4),
                    Some(IpAddr::V6(address)) => maps.at6.insert(format!("{address} . {key}"), to6),
                };
            }
        }
        maps
    }
}

/// Rules by chain, in order.
const CHAINS: [(&str, &str, &[&str]); 7] = [
    (
        // Before connections are tracked: a packet with a forged sender could pass for a reply, to a container of another
        // network. IPv6 neighbours and groups are spoken of from `fe80::/10`, which is not passed on, and from `::`, by one
        // who has no address yet. Of the host's addresses only the gateways' are in a network; the kernel itself refuses
        // IPv4 ones.
        "guard",
        "type filter hook prerouting priority -300; policy accept;",
        &[
            "iifname @bridges ip daddr 127.0.0.0/8 drop",
            "iifname @bridges ip saddr 127.0.0.0/8 drop",
            "iifname @bridges ip saddr . iifname != @inside4 drop",
            "iifname @bridges ip6 saddr != { ::, fe80::/10 } ip6 saddr . iifname != @inside6 drop",
            "iifname @bridges ip6 saddr @gateways drop",
        ],
    ),
    (
        "forward",
        "type filter hook forward priority 0; policy accept;",
        &[
            "oifname != @bridges accept",
            "ct state established,related accept",
            "ct status dnat accept",
            "iifname . oifname @same accept",
            "drop",
        ],
    ),
    (
        // Before `prerouting` and `output`, which jump to it. A loopback address that comes in from outside is refused by
        // the kernel only after this hook, so it must not be translated here.
        "published",
        "",
        &[
            "dnat ip to ip daddr . meta l4proto . th dport map @at4",
            "dnat ip to meta l4proto . th dport map @any4",
            "dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6",
            "dnat ip6 to meta l4proto . th dport map @any6",
        ],
    ),
    (
        "prerouting",
        "type nat hook prerouting priority -100; policy accept;",
        &["ip daddr 127.0.0.0/8 accept", "fib daddr type local jump published"],
    ),
    (
        "output",
        "type nat hook output priority -100; policy accept;",
        &["ip6 daddr ::1 accept", "fib daddr type local jump published"],
    ),
    (
        // The socket that holds a port may have to listen to have it, see `ports`, and would take a connection that nobody
        // serves.
        "refuse",
        "type filter hook output priority 0; policy accept;",
        &["ip6 daddr ::1 tcp dport @everywhere reject with tcp reset"],
    ),
    (
        "postrouting",
        "type nat hook postrouting priority 100; policy accept;",
        &[
            "iifname @bridges oifname != @bridges masquerade",
            // A container that reaches one of its own network by the host's address: the reply would go straight to it,
            // from an address that it never called.
            "ct status dnat ip saddr . oifname @inside4 masquerade",
            "ct status dnat ip6 saddr . oifname @inside6 masquerade",
            "oifname @bridges ip saddr 127.0.0.0/8 masquerade",
        ],
    ),
];
/// Rules of `prerouting` and `output` that lead to `published`: the kernel counts them as uses of it.
const JUMPS: u32 = 2;

fn render(tag: &str, networks: &[Description], published: &[Published]) -> Table {
    let maps = Maps::new(published);
    let mut body = String::new();
    let set = |body: &mut String, name: &str, kind: &str, elements: Vec<String>| {
        let elements = match elements.is_empty() {
            true => String::new(),
            false => format!(" elements = {{ {} }}", elements.join(", ")),
        };
        body.push_str(&format!("\t{name} {{ type {kind};{elements} }}\n"));
    };
    let each = |element: fn(&Description) -> String| networks.iter().map(element).collect();
    set(&mut body, "set bridges", "ifname", each(|n| format!("\"{}\"", n.bridge)));
    set(&mut body, "set same", "ifname . ifname", each(|n| format!("\"{0}\" . \"{0}\"", n.bridge)));
    let inside = |family| format!("{family}_addr . ifname; flags interval");
    set(&mut body, "set inside4", &inside("ipv4"), each(|n| format!("{} . \"{}\"", n.ipv4, n.bridge)));
    set(&mut body, "set inside6", &inside("ipv6"), each(|n| format!("{} . \"{}\"", n.ipv6, n.bridge)));
    set(&mut body, "set gateways", "ipv6_addr", each(|n| n.ipv6.gateway().to_string()));
    set(&mut body, "set everywhere", "inet_service", maps.everywhere.iter().map(u16::to_string).collect());
    let port = "inet_proto . inet_service";
    for (name, key, value, elements) in [
        ("map at4", format!("ipv4_addr . {port}"), "ipv4_addr", maps.at4),
        ("map any4", port.to_owned(), "ipv4_addr", maps.any4),
        ("map at6", format!("ipv6_addr . {port}"), "ipv6_addr", maps.at6),
        ("map any6", port.to_owned(), "ipv6_addr", maps.any6),
    ] {
        let elements = elements.into_iter().map(|(key, value)| format!("{key} : {value}")).collect();
        set(&mut body, name, &format!("{key} : {value} . inet_service"), elements);
    }
    let mut chains = Vec::new();
    for (name, hook, rules) in CHAINS {
        body.push_str(&format!("\tchain {name} {{ {hook}\n"));
        for rule in rules {
            body.push_str(&format!("\t\t{rule}\n"));
        }
        body.push_str("\t}\n");
        let jumps = if name == "published" { JUMPS } else { 0 };
        chains.push((name.to_owned(), u32::try_from(rules.len()).unwrap_or(u32::MAX).saturating_add(jumps)));
    }
    let version = format!("v{:016x}", hash(body.as_bytes()));
    body.push_str(&format!("\tchain {version} {{\n\t\treturn\n\t}}\n"));
    chains.push((version, 1));
    // `delete` of a table that is not there is an error, hence the `add` before it.
    let text = format!("add table inet {tag}\ndelete table inet {tag}\ntable inet {tag} {{\n{body}}}\n");
    Table { text, mark: Mark { chains } }
}

/// FNV-1a, 64 bit: tells contents apart, and nobody gains from a collision in a table of his own.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::subnet::Subnet6;
    use jiff::Timestamp;
    use model::{ContainerId, PortMapping};

    fn published(seed: u8, second: i64, ports: &[&str]) -> Published {
        Published {
            id: ContainerId::from_random([seed; 16]),
            ipv4: [10, 88, 0, seed].into(),
            ipv6: format!("fd00::{seed}").parse().unwrap(),
            ports: ports.iter().flat_map(|text| PortMapping::parse_all(text).unwrap()).collect(),
            since: Timestamp::from_second(second).unwrap(),
        }
    }
    fn networks() -> Vec<Description> {
        let network = |index: u16| Description {
            name: format!("n{index}").parse().unwrap(),
            index,
            bridge: format!("jdos{index}"),
            ipv4: format!("10.88.{}.0/20", index * 16).parse().unwrap(),
            ipv6: Subnet6::unique_local([1, 2, 3, 4, 5], index),
            created_at: Timestamp::UNIX_EPOCH,
        };
        vec![network(0), network(1)]
    }

    #[test]
    fn ports_stand_in_the_map_of_their_kind() {
        let text = render("jdos", &networks(), &[published(2, 1, &["80:80", "127.0.0.1:53:54/udp", "[::]:7:8"])]).text;
        for element in [
            "tcp . 80 : 10.88.0.2 . 80",
            "tcp . 80 : fd00::2 . 80",
            "127.0.0.1 . udp . 53 : 10.88.0.2 . 54",
            "tcp . 7 : fd00::2 . 8",
        ] {
            assert!(text.contains(element), "{element} in {text}");
        }
        assert!(!text.contains("10.88.0.2 . 8,") && !text.contains("fd00::2 . 54"), "{text}");
    }

    #[test]
    fn of_two_publications_the_later_wins() {
        let text =
            render("jdos", &networks(), &[published(3, 2, &["80:80"]), published(2, 1, &["80:80", "81:81"])]).text;
        assert!(text.contains("tcp . 80 : 10.88.0.3 . 80, tcp . 81 : 10.88.0.2 . 81"), "{text}");
    }

    #[test]
    fn the_mark_follows_the_content_and_nothing_else() {
        let one = render("jdos", &networks(), &[published(2, 1, &["80:80"])]);
        assert_eq!(one, render("jdos", &networks(), &[published(2, 9, &["80:80"])]), "time changes nothing");
        assert_ne!(one.mark, render("jdos", &networks(), &[published(2, 1, &["81:81"])]).mark);
        assert_ne!(one.mark, render("jdos", &networks()[..1], &[published(2, 1, &["80:80"])]).mark);
    }
}
