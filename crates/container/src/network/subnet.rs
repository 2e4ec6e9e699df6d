//! Ranges of addresses, and which of them a new network takes.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An IPv4 subnet such as `10.88.0.0/20`, with 2 to 65 533 addresses for containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet4 {
    base: u32,
    prefix: u8,
}

/// The text is not a subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a subnet: {why}; expected {expected}")]
pub struct SubnetError {
    /// The text as given.
    pub text: String,
    /// Which part is wrong.
    pub why: &'static str,
    /// An example.
    pub expected: &'static str,
}

impl Subnet4 {
    /// The subnet of this size that the address lies in. `prefix` is from 16 to 29: room for a gateway and containers, and
    /// few enough that all leases fit one file.
    pub fn around(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (16..=29).contains(&prefix).then(|| Self { base: u32::from(address) & mask4(prefix), prefix })
    }
    /// Length of the prefix, bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }
    /// The host's address on it: the first.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }
    /// Its last address, which reaches every host on it.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base | !mask4(self.prefix))
    }
    /// The address at this distance from the first of all (0 is the subnet itself, 1 the gateway).
    pub fn address(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base.wrapping_add(offset))
    }
    /// The reverse of [`Subnet4::address`]; `None` for an address outside.
    pub fn offset(self, address: Ipv4Addr) -> Option<u32> {
        (u32::from(address) & mask4(self.prefix) == self.base).then(|| u32::from(address) - self.base)
    }
    /// The offsets that containers may have: all but the subnet's own address, the gateway and the broadcast address.
    pub fn hosts(self) -> std::ops::Range<u32> {
        2..!mask4(self.prefix)
    }
    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Range4) -> bool {
        let mask = mask4(self.prefix.min(other.prefix));
        self.base & mask == u32::from(other.address) & mask
    }
}
impl fmt::Display for Subnet4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", Ipv4Addr::from(self.base), self.prefix))
    }
}
impl FromStr for Subnet4 {
    type Err = SubnetError;
    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let fail = |why| SubnetError { text: text.to_owned(), why, expected: "one such as 10.88.0.0/20" };
        let (address, prefix) = text.split_once('/').ok_or_else(|| fail("there is no `/`"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| fail("what stands before `/` is not an IPv4 address"))?;
        let prefix = prefix.parse().map_err(|_| fail("what stands after `/` is not a number"))?;
        let subnet = Self::around(address, prefix).ok_or_else(|| fail("its prefix is not from 16 to 29 bits long"))?;
        match subnet.base == u32::from(address) {
            true => Ok(subnet),
            false => Err(fail("its address has bits set beyond the prefix")),
        }
    }
}
impl TryFrom<String> for Subnet4 {
    type Error = SubnetError;
    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}
impl From<Subnet4> for String {
    fn from(subnet: Subnet4) -> String {
        subnet.to_string()
    }
}

/// A range that something else on this machine uses: the destination of a route, or the subnet of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range4 {
    /// Any address in it.
    pub address: Ipv4Addr,
    /// Length of the prefix, bits.
    pub prefix: u8,
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// An IPv6 subnet of 64 bits, such as `fd12:3456:789a:1::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet6 {
    upper: u64,
}

impl Subnet6 {
    /// Length of the prefix, bits.
    pub const PREFIX: u8 = 64;

    /// Subnet number `index` of a unique local prefix of 48 bits (RFC 4193): `fd`, then these 40 random bits.
    pub fn unique_local(random: [u8; 5], index: u16) -> Self {
        let [a, b, c, d, e] = random.map(u64::from);
        Self { upper: 0xfd << 56 | a << 48 | b << 40 | c << 32 | d << 24 | e << 16 | u64::from(index) }
    }
    /// The host's address on it.
    pub fn gateway(self) -> Ipv6Addr {
        self.address(1)
    }
    /// The address with this number.
    pub fn address(self, offset: u32) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.upper) << 64 | u128::from(offset))
    }
}
impl fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.address(0), Self::PREFIX))
    }
}
impl TryFrom<String> for Subnet6 {
    type Error = SubnetError;
    fn try_from(text: String) -> Result<Self, SubnetError> {
        let address = text.strip_suffix("/64").and_then(|address| address.parse::<Ipv6Addr>().ok());
        match address.map(|address| address.octets()) {
            Some([a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]) => {
                Ok(Self { upper: u64::from_be_bytes([a, b, c, d, e, f, g, h]) })
            }
            _ => Err(SubnetError {
                text,
                why: "it is not a network of 64 bits",
                expected: "one such as fd00:1:2:3::/64",
            }),
        }
    }
}
impl From<Subnet6> for String {
    fn from(subnet: Subnet6) -> String {
        subnet.to_string()
    }
}

/// Private space (RFC 1918) that few sites use: 128 subnets of 4093 addresses, then as many again, then 16.
const POOLS: [(Ipv4Addr, u8); 3] =
    [(Ipv4Addr::new(10, 88, 0, 0), 13), (Ipv4Addr::new(172, 24, 0, 0), 13), (Ipv4Addr::new(192, 168, 0, 0), 16)];
/// Prefix of a network that nobody gave a subnet.
const PREFIX: u8 = 20;
/// A route as wide as this is a default route by another name (a tunnel's `0.0.0.0/1`): it says nothing of what is there.
const WIDEST: u8 = 8;

/// The first subnet that meets nothing in `taken`. `start` says where in the first pool to begin, so that two data folders
/// whose networks are not up at the same time do not choose the same.
pub(super) fn choose(taken: &[Range4], start: u32) -> Option<Subnet4> {
    let pool = |(base, prefix): (Ipv4Addr, u8)| {
        let count = 1u32 << (PREFIX - prefix);
        (0..count).filter_map(move |step| {
            let offset = ((step + start) % count) << (32 - PREFIX);
            Subnet4::around(Ipv4Addr::from(u32::from(base) + offset), PREFIX)
        })
    };
    POOLS
        .into_iter()
        .flat_map(pool)
        .find(|subnet| !taken.iter().any(|range| range.prefix >= WIDEST && subnet.overlaps(*range)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Range4 {
        let (address, prefix) = text.split_once('/').unwrap();
        Range4 { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
    }
    fn chosen(taken: &[&str]) -> Option<String> {
        choose(&taken.iter().map(|text| range(text)).collect::<Vec<_>>(), 0).map(|subnet| subnet.to_string())
    }

    #[test]
    fn what_the_host_uses_is_avoided() {
        assert_eq!(chosen(&[]).unwrap(), "10.88.0.0/20");
        assert_eq!(chosen(&["10.88.3.7/32"]).unwrap(), "10.88.16.0/20");
        assert_eq!(chosen(&["10.88.0.0/16", "10.89.0.1/24"]).unwrap(), "10.89.16.0/20");
        assert_eq!(chosen(&["10.0.0.0/8"]).unwrap(), "172.24.0.0/20");
        assert_eq!(chosen(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/24"]).unwrap(), "192.168.16.0/20");
        assert_eq!(chosen(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]), None);
        assert_eq!(chosen(&["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"]).unwrap(), "10.88.0.0/20", "default routes");
    }

    #[test]
    fn a_start_goes_round() {
        let first = choose(&[], 127).unwrap();
        assert_eq!(first.to_string(), "10.95.240.0/20");
        assert_eq!(choose(&[range("10.95.240.0/20")], 127).unwrap().to_string(), "10.88.0.0/20");
    }

    #[test]
    fn edges_are_not_for_containers() {
        let subnet: Subnet4 = "10.88.0.0/29".parse().unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(10, 88, 0, 7));
        assert_eq!(
            subnet.hosts().map(|offset| subnet.address(offset).octets()[3]).collect::<Vec<_>>(),
            [2, 3, 4, 5, 6]
        );
        for bad in ["10.88.0.0", "10.88.0.1/29", "10.0.0.0/8", "10.88.0.0/30", "x/20", "10.88.0.0/x"] {
            assert!(bad.parse::<Subnet4>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ipv6_is_unique_local_and_reads_back() {
        let subnet = Subnet6::unique_local([0x12, 0x34, 0x56, 0x78, 0x9a], 7);
        assert_eq!(subnet.to_string(), "fd12:3456:789a:7::/64");
        assert_eq!(subnet.gateway().to_string(), "fd12:3456:789a:7::1");
        assert_eq!(Subnet6::try_from(subnet.to_string()), Ok(subnet));
        assert!(Subnet6::try_from("fd12::1/64".to_owned()).is_err());
    }

    proptest! {
        #[test]
        fn offsets_and_addresses_agree(address: u32, prefix in 16u8..=29) {
            let subnet = Subnet4::around(Ipv4Addr::from(address), prefix).unwrap();
            let offset = subnet.offset(Ipv4Addr::from(address)).unwrap();
            prop_assert_eq!(subnet.address(offset), Ipv4Addr::from(address));
            prop_assert_eq!(subnet.to_string().parse::<Subnet4>().unwrap(), subnet);
        }
    }
}
