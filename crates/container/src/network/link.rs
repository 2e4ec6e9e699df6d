//! The rtnetlink requests that networks need, and what their answers say: interfaces, addresses, routes.
//!
//! Knows nothing of networks, leases or containers.

use super::{
    netlink::{Refusal, Request, Socket, attribute, attributes, text, u32_at},
    subnet::Range4,
};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
        InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
    },
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rustix::io::Errno;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

/// The loopback interface of every network namespace.
pub(super) const LOOPBACK: u32 = 1;
/// MTU where there is no default route to take it from.
pub(super) const ETHERNET_MTU: u32 = 1500;

// Attributes of answers (linux/if_link.h, linux/rtnetlink.h, linux/if_addr.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;
const IF_OPER_UP: u8 = 6;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    /// Whether packets pass: up, and all that follows from it has been done.
    pub running: bool,
    pub mtu: u32,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// `bridge`, `veth`, …; absent for hardware.
    pub kind: Option<String>,
    /// Free text that says whose it is.
    pub alias: Option<String>,
}

impl Link {
    /// From an `RTM_NEWLINK` message; `None` for one that is too short to be one.
    fn parse(body: &[u8]) -> Option<Self> {
        let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
        let mut link = Self {
            index,
            name: String::new(),
            up: flags & 1 != 0,
            running: false,
            mtu: 0,
            master: None,
            kind: None,
            alias: None,
        };
        for (kind, value) in attributes(body.get(16..)?) {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_MTU => link.mtu = u32_at(value, 0)?,
                IFLA_MASTER => link.master = u32_at(value, 0),
                IFLA_OPERSTATE => link.running = value == [IF_OPER_UP],
                IFLA_IFALIAS => link.alias = Some(text(value)),
                IFLA_LINKINFO => link.kind = attribute(value, IFLA_INFO_KIND).map(text),
                _ => {}
            }
        }
        Some(link)
    }
    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

/// Asks for the interface with this name; [`found`] reads the answer.
pub(super) fn get(name: &str) -> Request {
    // Statistics are most of an answer, and filling them in walks every processor's counters.
    let attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    Request::new("look up interface", &RouteNetlinkMessage::GetLink(link_message(attributes)), 0).or(&[Errno::NODEV])
}
/// The interface in the answer to [`get`].
pub(super) fn found(answer: &[u8]) -> Option<Link> {
    Link::parse(answer)
}
/// The interface with this name.
pub(super) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, Refusal> {
    let [answer] = socket.batch([get(name)])?;
    Ok(found(&answer.body))
}
/// All interfaces.
pub(super) fn all(socket: &mut Socket) -> Result<Vec<Link>, Refusal> {
    let mut links = Vec::<Link>::new();
    let message = link_message(vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]);
    socket.dump(&Request::new("list interfaces", &RouteNetlinkMessage::GetLink(message), 0), |body| {
        links.extend(Link::parse(body));
    })?;
    links.sort_by_key(|link| link.index);
    links.dedup_by_key(|link| link.index);
    Ok(links)
}

/// Makes a bridge, down, with an address of its own: otherwise it takes that of its lowest port and changes it with the
/// ports, and neighbours keep the old one in their caches.
pub(super) fn new_bridge(name: &str, mac: [u8; 6], mtu: u32) -> Request {
    let message = link_message(vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ]);
    Request::new("create bridge", &RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).or(&[Errno::EXIST])
}

/// One end of a pair.
pub(super) struct Port<'a> {
    /// Its name on the host.
    pub name: &'a str,
    /// The bridge that it joins.
    pub bridge: u32,
    /// Largest packet, both ends.
    pub mtu: u32,
    /// Free text that says whose it is.
    pub alias: &'a str,
    /// Whether the kernel has IPv6.
    pub ipv6: bool,
    /// Whether the bridge may send a packet back to where it came from.
    pub hairpin: bool,
}

impl Port<'_> {
    /// Makes the pair: this end on the host as a port of the bridge, the other born inside the namespace. Both
    /// are down: an end can not be set up before the other exists.
    pub fn create(&self, inside: &str, mac: [u8; 6], namespace: BorrowedFd<'_>) -> Request {
        let peer = link_message(vec![
            LinkAttribute::IfName(inside.to_owned()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        ]);
        let message = link_message(vec![
            LinkAttribute::IfName(self.name.to_owned()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::Controller(self.bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ]);
        Request::new("create veth pair", &RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }
    /// Says whose the host's end is and sets it up. The kernel takes neither the alias nor the IPv6 mode at creation.
    pub fn dress(&self) -> Request {
        let mut attributes =
            vec![LinkAttribute::IfName(self.name.to_owned()), LinkAttribute::IfAlias(self.alias.to_owned())];
        if self.ipv6 {
            // A port of a bridge needs no address; without this each gets a link-local one, its routes and its chatter.
            attributes.push(no_link_local());
        }
        if self.hairpin {
            attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
            ]));
        }
        let mut message = link_message(attributes);
        set_up(&mut message);
        // Only this request takes what concerns a port of a bridge; without flags it changes and never creates.
        Request::new("set veth up", &RouteNetlinkMessage::NewLink(message), 0)
    }
}

/// Sets an interface up.
pub(super) fn up(index: u32) -> Request {
    let mut message = link_message(Vec::new());
    message.header.index = index;
    set_up(&mut message);
    Request::new("set interface up", &RouteNetlinkMessage::SetLink(message), 0)
}
/// Says whose a bridge is, and how large its packets are; with IPv6, that it makes up no address of its own.
pub(super) fn describe(index: u32, alias: &str, mtu: u32, ipv6: bool) -> Request {
    let mut attributes = vec![LinkAttribute::IfAlias(alias.to_owned()), LinkAttribute::Mtu(mtu)];
    attributes.extend(ipv6.then(no_link_local));
    let mut message = link_message(attributes);
    message.header.index = index;
    Request::new("describe bridge", &RouteNetlinkMessage::SetLink(message), 0)
}
/// Makes an interface a port of a bridge.
pub(super) fn join(index: u32, bridge: u32) -> Request {
    let mut message = link_message(vec![LinkAttribute::Controller(bridge)]);
    message.header.index = index;
    Request::new("join bridge", &RouteNetlinkMessage::SetLink(message), 0)
}
/// Deletes the interface with this name, if there is one. The other end of a pair goes with it.
pub(super) fn delete(name: &str) -> Request {
    let message = link_message(vec![LinkAttribute::IfName(name.to_owned())]);
    Request::new("delete interface", &RouteNetlinkMessage::DelLink(message), 0).or(&[Errno::NODEV])
}

/// Gives an interface an address, usable at once: IPv6 without duplicate address detection, whose second of waiting tells
/// nothing where we lease the addresses ourselves.
pub(super) fn address(index: u32, address: IpAddr, prefix: u8, broadcast: Option<Ipv4Addr>) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix;
    message.header.family = family(address);
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message.attributes.extend(broadcast.map(AddressAttribute::Broadcast));
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    let what = if address.is_ipv4() { "add IPv4 address" } else { "add IPv6 address" };
    Request::new(what, &RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}
/// Sends everything that has no better route to this gateway.
pub(super) fn default_route(index: u32, gateway: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(gateway),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    let gateway = match gateway {
        IpAddr::V4(gateway) => RouteAddress::Inet(gateway),
        IpAddr::V6(gateway) => RouteAddress::Inet6(gateway),
    };
    message.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(index)];
    Request::new("add default route", &RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// All addresses of this host.
pub(super) fn addresses(socket: &mut Socket) -> Result<BTreeSet<IpAddr>, Refusal> {
    let mut addresses = BTreeSet::new();
    let list = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    socket.dump(&Request::new("list addresses", &list, 0), |body| {
        let attributes = body.get(8..).unwrap_or_default();
        // Of a link between two points, the other attribute is the other's address.
        addresses.extend(attribute(attributes, IFA_LOCAL).or(attribute(attributes, IFA_ADDRESS)).and_then(ip));
    })?;
    Ok(addresses)
}

/// Whether packets to this address of the namespace's own are taken in. An IPv6 address is in the list before that is so:
/// the kernel adds its route on a thread of its own, even where it detects no duplicates.
pub(super) fn takes(socket: &mut Socket, address: IpAddr) -> Result<bool, Refusal> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    message.attributes = vec![RouteAttribute::Destination(address.into())];
    let request = Request::new("look up route", &RouteNetlinkMessage::GetRoute(message), 0);
    let [answer] = socket.batch([request.or(&[Errno::NETUNREACH, Errno::HOSTUNREACH])])?;
    Ok(answer.body.get(7) == Some(&u8::from(RouteType::Local)))
}

/// A range that the host uses, and by which interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    pub range: Range4,
    /// The interface; absent for a route that has none (`blackhole`).
    pub index: Option<u32>,
}

/// The host's IPv4 addresses and routes.
#[derive(Debug, Default)]
pub(super) struct Routing {
    /// Every address's subnet and every route's destination, in all tables.
    pub used: Vec<Used>,
    /// The interface of the default route with the lowest metric.
    pub default: Option<u32>,
}

impl Routing {
    pub fn read(socket: &mut Socket) -> Result<Self, Refusal> {
        let mut used = Vec::new();
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        socket.dump(&Request::new("list addresses", &RouteNetlinkMessage::GetAddress(message), 0), |body| {
            used.extend(address_range(body));
        })?;

        let mut default = None;
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        socket.dump(&Request::new("list routes", &RouteNetlinkMessage::GetRoute(message), 0), |body| {
            let Some(route) = Route::parse(body) else { return };
            match (route.used.range.prefix, route.used.index) {
                (0, Some(index)) if route.main_unicast => {
                    default = default.into_iter().chain([(route.metric, index)]).min();
                }
                (0, _) => {}
                _ => used.push(route.used),
            }
        })?;
        Ok(Self { used, default: default.map(|(_, index)| index) })
    }
}

fn address_range(body: &[u8]) -> Option<Used> {
    let (prefix, index) = (*body.get(1)?, u32_at(body, 4)?);
    let attributes = body.get(8..)?;
    let address = attribute(attributes, IFA_ADDRESS).or(attribute(attributes, IFA_LOCAL)).and_then(ipv4)?;
    Some(Used { range: Range4 { address, prefix }, index: Some(index) })
}

struct Route {
    used: Used,
    metric: u32,
    main_unicast: bool,
}
impl Route {
    fn parse(body: &[u8]) -> Option<Self> {
        let (prefix, table, kind) = (*body.get(1)?, *body.get(4)?, *body.get(7)?);
        let (mut address, mut index, mut metric) = (Ipv4Addr::UNSPECIFIED, None, 0);
        for (kind, value) in attributes(body.get(12..)?) {
            match kind {
                RTA_DST => address = ipv4(value)?,
                RTA_OIF => index = u32_at(value, 0),
                RTA_PRIORITY => metric = u32_at(value, 0)?,
                // `struct rtnexthop`: the index is its last field. The first of the hops stands for all.
                RTA_MULTIPATH => index = index.or(u32_at(value, 4)),
                _ => {}
            }
        }
        let main_unicast = table == RouteHeader::RT_TABLE_MAIN && kind == u8::from(RouteType::Unicast);
        Some(Self { used: Used { range: Range4 { address, prefix }, index }, metric, main_unicast })
    }
}

/// A container's hardware address follows from its IPv4 address: who gets the address later is found under the same one,
/// whatever its neighbours still have in their caches. Locally administered, unicast.
pub(super) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x6a, a, b, c, d]
}

fn ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}
fn ip(value: &[u8]) -> Option<IpAddr> {
    let ipv6 = || value.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
    if value.len() == 4 { ipv4(value).map(IpAddr::from) } else { ipv6() }
}
fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
fn link_message(attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    message
}
fn set_up(message: &mut LinkMessage) {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
}
fn no_link_local() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn loopback_is_found_and_nothing_else_under_its_name() {
        let mut socket = Socket::route().unwrap();
        let loopback = find(&mut socket, "lo").unwrap().unwrap();
        assert_eq!((loopback.index, loopback.name.as_str(), loopback.kind), (LOOPBACK, "lo", None));
        assert_eq!(find(&mut socket, "no-such-link").unwrap(), None);
        assert!(all(&mut socket).unwrap().iter().any(|link| link.index == LOOPBACK));
    }

    #[test]
    fn a_hardware_address_is_local_and_unicast() {
        let mac = mac(Ipv4Addr::new(10, 88, 1, 2));
        assert_eq!(mac[0] & 3, 2);
        assert_eq!(mac[2..], [10, 88, 1, 2]);
    }

    proptest! {
        #[test]
        fn answers_from_anywhere_never_panic(bytes: Vec<u8>) {
            let _ = (Link::parse(&bytes), address_range(&bytes), Route::parse(&bytes).is_some());
        }
    }
}
