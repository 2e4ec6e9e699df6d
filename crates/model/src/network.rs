//! How a container is reached: network mode and published ports.

use crate::{NameError, NetworkName};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// Where a container's network stack comes from (`--network`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NetworkMode {
    /// A stack of its own with loopback only.
    None,
    /// The host's stack.
    Host,
    /// A stack of its own, joined to the named bridge network by a veth pair.
    Bridge(NetworkName),
}

impl NetworkMode {
    /// The network that a container joins when nothing is said: `bridge`.
    pub const DEFAULT: &'static str = "bridge";
}

impl FromStr for NetworkMode {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Ok(match text {
            "none" => Self::None,
            "host" => Self::Host,
            name => Self::Bridge(name.parse()?),
        })
    }
}
impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Host => f.pad("host"),
            Self::Bridge(name) => name.fmt(f),
        }
    }
}
impl TryFrom<String> for NetworkMode {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}
impl From<NetworkMode> for String {
    fn from(mode: NetworkMode) -> String {
        mode.to_string()
    }
}

/// A transport protocol whose ports can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One published port: traffic to `host_ip:host_port` goes to the container's `container_port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// The host address to listen on; every address when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The port on the host, 1 to 65535.
    pub host_port: u16,
    /// The port inside, 1 to 65535.
    pub container_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// The text is not a port mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a published port: {why}; expected [IP:]HOST:CONTAINER[/tcp|udp], such as 8080:80 or 127.0.0.1:53:53/udp"
)]
pub struct PortError {
    /// The text as given.
    pub text: String,
    /// Which part is wrong.
    pub why: &'static str,
}

impl PortMapping {
    /// Parses one `-p` argument: `[IP:]HOST[-HOST]:CONTAINER[-CONTAINER][/PROTO]`, IPv6 addresses in brackets. A lone
    /// `PORT` and an empty host port, for which Docker and podman would choose one, are refused: the host's port is named. A
    /// range gives one mapping per port; both ranges must be as long.
    ///
    /// # Errors
    /// [`PortError`] with the text and the part that is wrong.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, PortError> {
        let fail = |why| PortError { text: text.to_owned(), why };
        let (body, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((body, "tcp")) => (body, Protocol::Tcp),
            Some((body, "udp")) => (body, Protocol::Udp),
            Some(_) => return Err(fail("the protocol is neither tcp nor udp")),
        };
        let (host_ip, ports) = match body.strip_prefix('[') {
            Some(rest) => {
                let (ip, ports) =
                    rest.split_once("]:").ok_or_else(|| fail("the bracketed address does not end in `]:`"))?;
                (Some(ip), ports)
            }
            None => match body.split(':').count() {
                1 | 2 => (None, body),
                3 => body.split_once(':').map(|(ip, ports)| (Some(ip), ports)).unwrap_or((None, body)),
                _ => return Err(fail("there are too many colons (write IPv6 addresses in brackets)")),
            },
        };
        let host_ip = match host_ip {
            None | Some("") => None,
            Some(ip) => Some(ip.parse().map_err(|_| fail("the host address is not an IP address"))?),
        };
        let (host, inside) = match ports.split_once(':') {
            None | Some(("", _)) => {
                return Err(fail("the port of the host is missing, and none is chosen: name it, as HOST:CONTAINER"));
            }
            Some(both) => both,
        };
        let range = |text: &str| -> Option<(u16, u16)> {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first > 0 && first <= last).then_some((first, last))
        };
        let host = range(host).ok_or_else(|| fail("the host port is not a number from 1 to 65535"))?;
        let inside = range(inside).ok_or_else(|| fail("the container port is not a number from 1 to 65535"))?;
        if host.1 - host.0 != inside.1 - inside.0 {
            return Err(fail("the two ranges differ in length"));
        }
        Ok((host.0..=host.1)
            .zip(inside.0..=inside.1)
            .map(|(host_port, container_port)| Self { host_ip, host_port, container_port, protocol })
            .collect())
    }
}
impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            None => write!(f, "{}:{}/{}", self.host_port, self.container_port, self.protocol),
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:{}:{}/{}", self.host_port, self.container_port, self.protocol),
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}:{}/{}", self.host_port, self.container_port, self.protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> PortMapping {
        let mut all = PortMapping::parse_all(text).unwrap();
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    #[test]
    fn the_common_forms() {
        assert_eq!(one("8080:80").to_string(), "8080:80/tcp");
        assert_eq!(one("127.0.0.1:53:53/udp").to_string(), "127.0.0.1:53:53/udp");
        assert_eq!(one("[::1]:1:2").to_string(), "[::1]:1:2/tcp");
        assert_eq!(PortMapping::parse_all("8000-8002:80-82").unwrap().len(), 3);
    }

    #[test]
    fn the_wrong_part_is_named() {
        for (text, part) in [
            ("0:80", "host port"),
            ("80", "name it, as HOST:CONTAINER"),
            ("80/udp", "name it, as HOST:CONTAINER"),
            ("80-82", "name it, as HOST:CONTAINER"),
            (":80", "name it, as HOST:CONTAINER"),
            ("127.0.0.1::80", "name it, as HOST:CONTAINER"),
            ("[::1]::80", "name it, as HOST:CONTAINER"),
            ("80:x", "container port"),
            ("1:2:3:4", "colons"),
            ("a:1:2", "IP address"),
            ("1:2/sctp", "protocol"),
            ("1-3:1-2", "length"),
            ("[::1:1:2", "bracketed"),
        ] {
            assert!(PortMapping::parse_all(text).unwrap_err().to_string().contains(part), "{text}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!("none".parse(), Ok(NetworkMode::None));
        assert_eq!("host".parse(), Ok(NetworkMode::Host));
        assert!(matches!("shop".parse(), Ok(NetworkMode::Bridge(_))));
        assert!("a/b".parse::<NetworkMode>().is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(host in 1u16.., inside in 1u16.., udp: bool, ip: Option<u32>) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let host_ip = ip.map(|ip| IpAddr::from(ip.to_be_bytes()));
            let mapping = PortMapping { host_ip, host_port: host, container_port: inside, protocol };
            prop_assert_eq!(PortMapping::parse_all(&mapping.to_string()).unwrap(), vec![mapping]);
        }
    }
}
