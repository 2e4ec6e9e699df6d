//! Synchronous netlink: requests in, their answers out.
//!
//! The kernel works a request off inside `sendto`, so an answer is there as soon as the call returns; nothing is ever
//! waited for. Many requests travel in one packet; each is acknowledged by itself, and the first refusal is the error.
//! Messages are encoded by `netlink-packet-route` and taken apart here, attribute by attribute: a newer kernel's
//! additions to an answer then can not make it unreadable.

use crate::sys;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkSerializable};
use rustix::{
    io::Errno,
    net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink},
};
use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The first type that a protocol defines itself (`NLMSG_MIN_TYPE`).
const FIRST_PAYLOAD: u16 = 16;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The kernel's words about a refusal (`NLMSGERR_ATTR_MSG`).
const ERROR_TEXT: u16 = 1;
/// The number of an attribute without the flags `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const ATTRIBUTE_KIND: u16 = 0x3fff;
/// The kernel never puts more than this into one packet of a dump (`netlink_dump`), nor does any single answer come near.
const PACKET: usize = 64 << 10;

/// Why the kernel did not do what a request asked for.
#[derive(Debug)]
pub struct Refusal {
    /// What was asked for: `add address`.
    pub what: &'static str,
    /// The error.
    pub errno: Errno,
    /// The kernel's own words, when it has any.
    pub text: Option<String>,
}
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, io::Error::from(self.errno))?;
        match &self.text {
            Some(text) => write!(f, " (kernel: {text})"),
            None => Ok(()),
        }
    }
}
impl std::error::Error for Refusal {}

/// One request, ready to be sent.
pub(super) struct Request {
    what: &'static str,
    kind: u16,
    flags: u16,
    body: Vec<u8>,
    /// Refusals that are as good as success: what was to be made is there, what was to go is gone.
    tolerated: &'static [Errno],
}

impl Request {
    /// A request in words, as a message with flags of its own (`NLM_F_CREATE`, …).
    pub fn new(what: &'static str, message: &impl NetlinkSerializable, flags: u16) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        Self::raw(what, message.message_type(), flags, body)
    }
    /// A request of a protocol that the encoder does not know.
    pub fn raw(what: &'static str, kind: u16, flags: u16, body: Vec<u8>) -> Self {
        Self { what, kind, flags, body, tolerated: &[] }
    }
    /// Takes these refusals for success.
    pub fn or(mut self, tolerated: &'static [Errno]) -> Self {
        self.tolerated = tolerated;
        self
    }

    fn write(&self, packet: &mut Vec<u8>, sequence: u32, flags: u16) -> Result<(), Refusal> {
        let length = u32::try_from(HEADER + self.body.len()).map_err(|_| self.refusal(Errno::MSGSIZE))?;
        packet.extend(length.to_ne_bytes());
        packet.extend(self.kind.to_ne_bytes());
        packet.extend((self.flags | flags).to_ne_bytes());
        packet.extend(sequence.to_ne_bytes());
        packet.extend(0u32.to_ne_bytes());
        packet.extend(&self.body);
        packet.resize(packet.len().next_multiple_of(4), 0);
        Ok(())
    }
    fn refusal(&self, errno: Errno) -> Refusal {
        Refusal { what: self.what, errno, text: None }
    }
}

/// What one request brought: at most one message of payload (requests that bring many are dumps).
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The body of the message, after its netlink header; empty when there was none.
    pub body: Vec<u8>,
    /// The tolerated refusal, if it was one.
    pub refused: Option<Errno>,
}

/// A netlink socket. It speaks for the network namespace in which it was opened, wherever its user goes afterwards.
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Interfaces, addresses, routes (rtnetlink(7)).
    pub fn route() -> Result<Self, Refusal> {
        // Protocol number 0 is NETLINK_ROUTE; the wrapper has no name for zero.
        Self::open(None)
    }
    /// Firewall tables and connection tracking.
    pub fn netfilter() -> Result<Self, Refusal> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> Result<Self, Refusal> {
        let refusal = |errno| Refusal { what: "open a netlink socket", errno, text: None };
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(refusal)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            sys::network::enable_netlink_option(fd.as_fd(), option)
                .map_err(|error| refusal(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        }
        Ok(Self { fd, sequence: 0, buffer: vec![0; PACKET] })
    }

    /// Sends all requests in one packet and collects their answers, in order.
    ///
    /// # Errors
    /// The first refusal that its request does not tolerate. The kernel has worked off the other requests all the same.
    pub fn batch<const N: usize>(&mut self, requests: [Request; N]) -> Result<[Answer; N], Refusal> {
        let answers = self.batch_of(&requests)?;
        Ok(answers.try_into().expect("one answer was made for each request"))
    }

    /// As [`Socket::batch`], for a number of requests that is not known beforehand.
    pub fn batch_of(&mut self, requests: &[Request]) -> Result<Vec<Answer>, Refusal> {
        let first = self.sequence.wrapping_add(1);
        let mut packet = Vec::with_capacity(requests.iter().map(|request| HEADER + request.body.len() + 4).sum());
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.write(&mut packet, self.sequence, NLM_F_REQUEST | NLM_F_ACK)?;
        }
        let Some(head) = requests.first() else { return Ok(Vec::new()) };
        rustix::net::send(&self.fd, &packet, SendFlags::empty()).map_err(|errno| head.refusal(errno))?;

        let mut answers: Vec<Answer> = requests.iter().map(|_| Answer::default()).collect();
        let (mut missing, mut failure) = (requests.len(), None);
        while missing > 0 {
            let length = self.receive().map_err(|errno| head.refusal(errno))?;
            for message in Messages(&self.buffer[..length]) {
                // Anything else is the rest of an exchange that an earlier error cut short.
                let Some(place) = usize::try_from(message.sequence.wrapping_sub(first)).ok() else { continue };
                let (Some(request), Some(answer)) = (requests.get(place), answers.get_mut(place)) else { continue };
                match message.kind {
                    NLMSG_ERROR => {
                        missing -= 1;
                        match message.errno() {
                            Some(errno) if request.tolerated.contains(&errno) => answer.refused = Some(errno),
                            Some(errno) if failure.is_none() => {
                                failure = Some(Refusal { what: request.what, errno, text: message.text() });
                            }
                            _ => {}
                        }
                    }
                    kind if kind >= FIRST_PAYLOAD => answer.body = message.body.to_vec(),
                    _ => {}
                }
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(answers),
        }
    }

    /// Sends one request whose answer is a list, and hands each message's body to `visit`. A list that changed while it
    /// was read is read again, so `visit` may see an entry twice.
    pub fn dump(&mut self, request: &Request, mut visit: impl FnMut(&[u8])) -> Result<(), Refusal> {
        for _ in 0..16 {
            self.sequence = self.sequence.wrapping_add(1);
            let mut packet = Vec::new();
            request.write(&mut packet, self.sequence, NLM_F_REQUEST | NLM_F_DUMP)?;
            rustix::net::send(&self.fd, &packet, SendFlags::empty()).map_err(|errno| request.refusal(errno))?;
            if !self.collect(request, &mut visit)? {
                return Ok(());
            }
        }
        Err(request.refusal(Errno::INTR))
    }

    /// Reads a list to its end; whether it changed meanwhile.
    fn collect(&mut self, request: &Request, visit: &mut impl FnMut(&[u8])) -> Result<bool, Refusal> {
        let mut changed = false;
        loop {
            let length = self.receive().map_err(|errno| request.refusal(errno))?;
            for message in Messages(&self.buffer[..length]).filter(|message| message.sequence == self.sequence) {
                changed |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return match message.errno() {
                            None => Ok(changed),
                            Some(errno) => Err(Refusal { what: request.what, errno, text: message.text() }),
                        };
                    }
                    kind if kind >= FIRST_PAYLOAD => visit(message.body),
                    _ => {}
                }
            }
        }
    }

    fn receive(&mut self) -> Result<usize, Errno> {
        loop {
            match rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
                Ok((_, length)) if length > self.buffer.len() => return Err(Errno::MSGSIZE),
                Ok((length, _)) => return Ok(length),
            }
        }
    }
}

/// One message of a packet.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}
impl Message<'_> {
    /// The error in an acknowledgement or at the end of a list, where it stands negated; `None` for success.
    fn errno(&self) -> Option<Errno> {
        let code = self.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        (-4095..0).contains(&code).then(|| Errno::from_raw_os_error(-code))
    }
    fn text(&self) -> Option<String> {
        // After the error number stands the header of the request, and all of the request where the kernel is too old
        // to leave it out when asked to.
        let capped = self.flags & NLM_F_CAPPED != 0;
        let request = self.body.get(4..8).and_then(|length| Some(u32::from_ne_bytes(length.try_into().ok()?)));
        let start = 4 + if capped { HEADER } else { usize::try_from(request?).ok()?.next_multiple_of(4) };
        let attributes = (self.flags & NLM_F_ACK_TLVS != 0).then(|| self.body.get(start..)).flatten()?;
        attribute(attributes, ERROR_TEXT).map(text)
    }
}

struct Messages<'a>(&'a [u8]);
impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;
    fn next(&mut self) -> Option<Message<'a>> {
        let (length, kind) = (u32_at(self.0, 0)?, u16_at(self.0, 4)?);
        let (flags, sequence) = (u16_at(self.0, 6)?, u32_at(self.0, 8)?);
        let length = usize::try_from(length).ok()?;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, flags, sequence, body })
    }
}

/// The attributes in these bytes: number (without flags) and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & ATTRIBUTE_KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}
/// The value of the first attribute with this number.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(number, _)| *number == kind).map(|(_, value)| value)
}
/// Adds an attribute to a message. A value that does not fit is cut off, which its receiver refuses; ours are short.
pub(super) fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let value = value.get(..usize::from(u16::MAX) - 4).unwrap_or(value);
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}
/// A string attribute, without its terminating zero.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}
/// The number at this place, in the machine's byte order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_from_anywhere_never_panic(bytes: Vec<u8>) {
            for message in Messages(&bytes) {
                let _ = (message.errno(), message.text());
            }
            let _ = attributes(&bytes).count();
        }
    }

    #[test]
    fn an_unknown_request_is_refused_in_words() {
        let mut socket = Socket::route().unwrap();
        let refusal = socket.batch([Request::raw("do the impossible", 0x7f00, 0, vec![0; 16])]).unwrap_err();
        assert_eq!(refusal.errno, Errno::OPNOTSUPP);
        assert!(refusal.to_string().starts_with("do the impossible: "), "{refusal}");
    }
}
