//! Forgetting flows that the firewall has already decided about.
//!
//! The kernel looks at the maps of published ports for the first packet of a flow only. A UDP flow lives as long as its
//! sender goes on: one that began before the port was published would never reach the container, and one of an earlier
//! container would go on to an address that is nobody's. (TCP needs nothing: a connection's end is seen by both sides.)

use super::{
    link,
    netlink::{Refusal, Request, Socket, attribute, put},
};
use rustix::io::Errno;
use std::{collections::BTreeSet, net::IpAddr};

// linux/netfilter/nfnetlink_conntrack.h
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// The filter looks at the protocol's number and the destination port of the first packet.
const FILTER: u32 = 1 << 3 | 1 << 5;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const NESTED: u16 = 0x8000;
const UDP: u8 = 17;
/// Requests in one packet: their acknowledgements must fit the socket's buffer.
const BATCH: usize = 64;

/// Makes the kernel forget the UDP flows to these ports of this host; how many there were.
pub(super) fn forget(ports: &BTreeSet<u16>) -> Result<usize, Refusal> {
    let (mut count, mut socket) = (0, Socket::netfilter()?);
    let local = link::addresses(&mut Socket::route()?)?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or_default();
        for port in ports {
            let mut flows = Vec::new();
            socket.dump(&list(family, *port), |body| {
                let flow = Flow::parse(body).filter(|flow| flow.protocol == UDP && flow.port == *port);
                // Flows to the same port elsewhere are none of our business.
                let here = flow.filter(|flow| flow.to.is_loopback() || local.contains(&flow.to));
                flows.extend(here.map(|flow| flow.delete(family)));
            })?;
            for some in flows.chunks(BATCH) {
                socket.batch_of(some)?;
            }
            count += flows.len();
        }
    }
    Ok(count)
}

/// One flow, by its first packet.
struct Flow<'a> {
    protocol: u8,
    to: IpAddr,
    port: u16,
    tuple: &'a [u8],
    zone: Option<&'a [u8]>,
}

impl<'a> Flow<'a> {
    fn parse(body: &'a [u8]) -> Option<Self> {
        let attributes = body.get(4..)?;
        let tuple = attribute(attributes, CTA_TUPLE_ORIG)?;
        let (address, port) = (attribute(tuple, CTA_TUPLE_IP)?, attribute(tuple, CTA_TUPLE_PROTO)?);
        let ipv4 = || attribute(address, CTA_IP_V4_DST)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
        let ipv6 = || attribute(address, CTA_IP_V6_DST)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
        Some(Self {
            protocol: *attribute(port, CTA_PROTO_NUM)?.first()?,
            to: ipv4().or_else(ipv6)?,
            port: u16::from_be_bytes(*attribute(port, CTA_PROTO_DST_PORT)?.first_chunk()?),
            tuple,
            zone: attribute(attributes, CTA_ZONE),
        })
    }
    fn delete(&self, family: u8) -> Request {
        let mut body = vec![family, 0, 0, 0];
        put(&mut body, CTA_TUPLE_ORIG | NESTED, self.tuple);
        if let Some(zone) = self.zone {
            put(&mut body, CTA_ZONE, zone);
        }
        Request::raw("forget flow", CT_DELETE, 0, body).or(&[Errno::NOENT])
    }
}

fn list(family: u8, port: u16) -> Request {
    let (mut protocol, mut tuple, mut filter) = (Vec::new(), Vec::new(), Vec::new());
    put(&mut protocol, CTA_PROTO_NUM, &[UDP]);
    put(&mut protocol, CTA_PROTO_DST_PORT, &port.to_be_bytes());
    put(&mut tuple, CTA_TUPLE_PROTO | NESTED, &protocol);
    put(&mut filter, CTA_FILTER_ORIG_FLAGS, &FILTER.to_ne_bytes());
    let mut body = vec![family, 0, 0, 0];
    put(&mut body, CTA_TUPLE_ORIG | NESTED, &tuple);
    put(&mut body, CTA_FILTER | NESTED, &filter);
    Request::raw("list flows", CT_GET, 0, body)
}
