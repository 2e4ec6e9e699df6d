//! Who has which address: the same container the same one, for as long as the range has room for the forgotten.

use super::{
    error::{AddressRefusal, NetworkError},
    store::{Description, Entry, Leases},
    subnet::{Subnet4, Subnet6},
};
use crate::state::Addresses;
use jiff::{SignedDuration, Timestamp};
use model::{ContainerId, NetworkName};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr},
};

/// A lease that was asked for this shortly ago belongs to a container that may be about to start, and is not reclaimed.
const STARTING: SignedDuration = SignedDuration::from_secs(10);

/// The addresses of one container on one network, and all that attaching it needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The network.
    pub network: NetworkName,
    /// Who has the lease: the container's name, or its id when its name was made up.
    pub identity: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Length of the IPv4 subnet's prefix, bits.
    pub prefix4: u8,
    /// The host's IPv4 address on the network.
    pub gateway4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Length of the IPv6 subnet's prefix, bits.
    pub prefix6: u8,
    /// The host's IPv6 address on the network.
    pub gateway6: Ipv6Addr,
    /// Name of the network's bridge.
    pub bridge: String,
    /// When the lease was last asked for.
    pub last_used: Timestamp,
}

impl Lease {
    /// The two addresses.
    pub fn addresses(&self) -> Addresses {
        Addresses { ipv4: self.ipv4, ipv6: self.ipv6 }
    }

    pub(super) fn new(network: &Description, entry: &Entry) -> Self {
        let offset = network.ipv4.offset(entry.ipv4).unwrap_or(0);
        Self {
            network: network.name.clone(),
            identity: entry.identity.clone(),
            ipv4: entry.ipv4,
            prefix4: network.ipv4.prefix(),
            gateway4: network.ipv4.gateway(),
            ipv6: network.ipv6.address(offset),
            prefix6: Subnet6::PREFIX,
            gateway6: network.ipv6.gateway(),
            bridge: network.bridge.clone(),
            last_used: entry.last_used,
        }
    }
}

/// What the choice of an address depends on besides the leases themselves.
pub(super) trait Users {
    /// Whether this container runs (asked only when its address would be given to another).
    fn runs(&mut self, identity: &str) -> Result<bool, NetworkError>;
    /// Whether this container exists, running or not.
    fn exists(&mut self, identity: &str) -> Result<bool, NetworkError>;
}

impl Leases {
    /// Gives the container its address: the wished one, the one it had, a free one, or that of the container which has not
    /// asked for the longest time and does not run.
    pub fn give(
        &mut self,
        network: &Description,
        identity: &str,
        wish: Option<Ipv4Addr>,
        now: Timestamp,
        users: &mut dyn Users,
    ) -> Result<Lease, NetworkError> {
        let mine = self.entries.iter().position(|entry| entry.identity == identity);
        let ipv4 = match (wish, mine) {
            (Some(wish), _) => {
                self.free_for(network, identity, wish, users)?;
                wish
            }
            (None, Some(mine)) => self.entries[mine].ipv4,
            (None, None) => match self.search(network.ipv4) {
                Some(free) => free,
                None => self.reclaim(network, now, users)?,
            },
        };
        self.entries.retain(|entry| entry.identity != identity);
        let entry = Entry { identity: identity.to_owned(), ipv4, last_used: now };
        let lease = Lease::new(network, &entry);
        self.entries.push(entry);
        Ok(lease)
    }

    /// Forgets who had an address; whether there was one.
    pub fn release(&mut self, identity: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.identity != identity);
        self.entries.len() < before
    }

    /// Makes sure that a wished address can be given.
    fn free_for(
        &mut self,
        network: &Description,
        identity: &str,
        wish: Ipv4Addr,
        users: &mut dyn Users,
    ) -> Result<(), NetworkError> {
        let refuse = |reason| NetworkError::Address { network: network.name.clone(), address: wish, reason };
        let subnet = network.ipv4;
        match subnet.offset(wish) {
            None => return Err(refuse(AddressRefusal::Outside(subnet))),
            Some(0) => return Err(refuse(AddressRefusal::Subnet)),
            Some(_) if wish == subnet.gateway() => return Err(refuse(AddressRefusal::Gateway)),
            Some(_) if wish == subnet.broadcast() => return Err(refuse(AddressRefusal::Broadcast)),
            Some(_) => {}
        }
        let holder = self.entries.iter().find(|entry| entry.ipv4 == wish && entry.identity != identity);
        let Some(holder) = holder.map(|entry| entry.identity.clone()) else { return Ok(()) };
        // The memory of a container that is gone does not stand against somebody's express wish.
        if users.exists(&holder)? || users.runs(&holder)? {
            return Err(refuse(AddressRefusal::Taken(holder)));
        }
        self.release(&holder);
        Ok(())
    }

    /// The next free address after the last one given.
    fn search(&mut self, subnet: Subnet4) -> Option<Ipv4Addr> {
        let hosts = subnet.hosts();
        let taken: HashSet<u32> = self.entries.iter().filter_map(|entry| subnet.offset(entry.ipv4)).collect();
        let start = self.next.clamp(hosts.start, hosts.end);
        let offset = (start..hosts.end).chain(hosts.start..start).find(|offset| !taken.contains(offset))?;
        self.next = offset + 1;
        Some(subnet.address(offset))
    }

    /// Takes the address of the container that has not asked for the longest time and does not run.
    fn reclaim(
        &mut self,
        network: &Description,
        now: Timestamp,
        users: &mut dyn Users,
    ) -> Result<Ipv4Addr, NetworkError> {
        self.entries.sort_by_key(|entry| entry.last_used);
        for place in 0..self.entries.len() {
            let entry = &self.entries[place];
            if !is_starting(entry.last_used, now) && !users.runs(&entry.identity)? {
                let entry = self.entries.remove(place);
                tracing::info!(network = %network.name, address = %entry.ipv4, from = entry.identity, "address reclaimed");
                return Ok(entry.ipv4);
            }
        }
        let (network, subnet) = (network.name.clone(), network.ipv4);
        Err(NetworkError::Full { network, subnet, count: subnet.hosts().len() })
    }
}

/// Whether whoever asked at this time may be about to start. A time in the future is of a clock that was set back since, and
/// says nothing.
pub(super) fn is_starting(last_used: Timestamp, now: Timestamp) -> bool {
    let age = now.duration_since(last_used);
    !age.is_negative() && age < STARTING
}

/// Whether an identity is a container's id, so that nobody will ever ask for its address again once the container is gone.
pub(super) fn as_id(identity: &str) -> Option<ContainerId> {
    identity.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Fixed {
        running: HashSet<String>,
        existing: HashSet<String>,
    }
    impl Users for Fixed {
        fn runs(&mut self, identity: &str) -> Result<bool, NetworkError> {
            Ok(self.running.contains(identity))
        }
        fn exists(&mut self, identity: &str) -> Result<bool, NetworkError> {
            Ok(self.existing.contains(identity))
        }
    }

    /// Five addresses: 10.9.0.2 to 10.9.0.6.
    fn network() -> Description {
        Description {
            name: "n".parse().unwrap(),
            index: 0,
            bridge: "jdos0".to_owned(),
            ipv4: "10.9.0.0/29".parse().unwrap(),
            ipv6: Subnet6::unique_local([1, 2, 3, 4, 5], 0),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }
    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }
    fn give(leases: &mut Leases, users: &mut Fixed, identity: &str, second: i64) -> Result<u8, NetworkError> {
        leases.give(&network(), identity, None, at(second), users).map(|lease| lease.ipv4.octets()[3])
    }

    #[test]
    fn the_same_container_has_the_same_addresses() {
        let (mut leases, mut users) = (Leases::default(), Fixed::default());
        let first = leases.give(&network(), "a", None, at(1), &mut users).unwrap();
        assert_eq!(give(&mut leases, &mut users, "b", 2).unwrap(), 3);
        let again = leases.give(&network(), "a", None, at(3), &mut users).unwrap();
        assert_eq!((again.ipv4, again.ipv6), (first.ipv4, first.ipv6));
        assert_eq!(first.ipv6.to_string(), "fd01:203:405::2");
        assert_eq!(again.last_used, at(3));
    }

    #[test]
    fn an_address_given_back_is_not_given_out_at_once() {
        let (mut leases, mut users) = (Leases::default(), Fixed::default());
        assert_eq!(give(&mut leases, &mut users, "a", 1).unwrap(), 2);
        assert!(leases.release("a") && !leases.release("a"));
        assert_eq!(give(&mut leases, &mut users, "b", 2).unwrap(), 3);
    }

    #[test]
    fn a_full_range_forgets_the_longest_silent_that_does_not_run() {
        let (mut leases, mut users) = (Leases::default(), Fixed::default());
        for (second, identity) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            give(&mut leases, &mut users, identity, second as i64).unwrap();
        }
        give(&mut leases, &mut users, "a", 10).unwrap();
        users.running.insert("b".to_owned());
        assert_eq!(give(&mut leases, &mut users, "f", 100).unwrap(), 4, "c's: a asked later, b runs");
        assert_eq!(give(&mut leases, &mut users, "b", 101).unwrap(), 3, "b kept its own");

        users.running = ["a", "b", "d", "e"].map(str::to_owned).into();
        let full = give(&mut leases, &mut users, "g", 102).unwrap_err();
        assert!(matches!(full, NetworkError::Full { count: 5, .. }), "f asked two seconds ago: {full}");
        assert_eq!(give(&mut leases, &mut users, "g", 200).unwrap(), 4, "f's");
    }

    #[test]
    fn a_wish_is_granted_or_refused_with_its_reason() {
        let (mut leases, mut users) = (Leases::default(), Fixed::default());
        let mut wish = |users: &mut Fixed, identity: &str, wish: &str| {
            leases.give(&network(), identity, Some(wish.parse().unwrap()), at(1), users).map_err(|e| e.to_string())
        };
        for (address, reason) in [
            ("10.9.0.8", "outside of 10.9.0.0/29"),
            ("10.9.0.0", "subnet's own"),
            ("10.9.0.1", "gateway"),
            ("10.9.0.7", "broadcast"),
        ] {
            let refusal = wish(&mut users, "a", address).unwrap_err();
            assert!(refusal.contains(reason), "{refusal}");
        }
        assert_eq!(wish(&mut users, "a", "10.9.0.5").unwrap().ipv4.octets()[3], 5);
        assert_eq!(wish(&mut users, "a", "10.9.0.6").unwrap().ipv4.octets()[3], 6, "a container can move");
        users.existing.insert("a".to_owned());
        assert!(wish(&mut users, "b", "10.9.0.6").unwrap_err().contains("container `a` has it"));
        users.existing.clear();
        assert_eq!(wish(&mut users, "b", "10.9.0.6").unwrap().identity, "b", "a is gone");
    }

    proptest! {
        /// Against a model: no two running containers ever have one address, and whoever was not reclaimed keeps its own.
        #[test]
        fn no_address_is_given_twice(steps in proptest::collection::vec((0u8..9, any::<bool>()), 1..80)) {
            let (mut leases, mut users) = (Leases::default(), Fixed::default());
            let mut held: HashMap<String, Ipv4Addr> = HashMap::new();
            for (second, (who, runs)) in steps.into_iter().enumerate() {
                let identity = format!("c{who}");
                match leases.give(&network(), &identity, None, at(second as i64 * 20), &mut users) {
                    Ok(lease) => {
                        prop_assert!(network().ipv4.hosts().contains(&network().ipv4.offset(lease.ipv4).unwrap()));
                        if users.running.contains(&identity) {
                            prop_assert_eq!(held[&identity], lease.ipv4);
                        }
                        for other in users.running.iter().filter(|other| **other != identity) {
                            prop_assert_ne!(held[other], lease.ipv4);
                        }
                        held.insert(identity.clone(), lease.ipv4);
                        if runs { users.running.insert(identity); } else { users.running.remove(&identity); }
                    }
                    Err(NetworkError::Full { .. }) => prop_assert_eq!(users.running.len(), 5),
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
        }
    }
}
