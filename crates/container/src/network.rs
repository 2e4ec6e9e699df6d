//! Bridge networks: addresses that stay with their container, veth pairs, published ports, one firewall table.
//!
//! Knows nothing of processes, cgroups or images: a container is an id, an identity (under which its addresses are leased)
//! and an open network namespace. The key types are [`Networks`] (all networks of one data folder), [`Lease`] (one
//! container's addresses and what joining needs) and [`NetworkError`].
//!
//! Nothing runs here. A network is a file, made when it is first used; its bridge, the firewall table and the host's
//! forwarding are made when a container joins and found missing. Joining an existing network costs netlink requests only.
//!
//! | what | is kept in | until |
//! |---|---|---|
//! | subnet, bridge name | `networks/<name>.json` | [`Networks::remove`] |
//! | leases | `networks/<name>.leases.json` | reclaimed as the longest unused of a full range, [`Networks::release`] |
//! | published ports | `published/<id>.json` in the run folder | [`Networks::unpublish`], [`Networks::reconcile`] |
//! | bridge, table `inet <tag>` | the kernel | [`Networks::remove`], [`Networks::teardown`] |
//! | host parameters | the kernel; old values in `host-changes.json` | [`Networks::teardown`] |
//!
//! The table and the bridges outlive the last container on purpose: they cost nothing, and the next start finds them.
//!
//! It fails by an error that names operation and subject; whatever a crash leaves is found again by the aliases that every
//! interface of ours has (`<tag> <network> …`), and swept or mended by [`Networks::reconcile`].

mod attach;
mod conntrack;
mod error;
pub mod etc;
mod forwarding;
mod lease;
mod link;
mod netlink;
mod nftables;
mod ports;
mod store;
mod subnet;
mod sweep;

pub use error::{AddressRefusal, NetworkError};
pub use lease::Lease;
pub use netlink::Refusal;
pub use subnet::{Subnet4, Subnet6, SubnetError};
pub use sweep::Network;

use crate::layout::Layout;
use jiff::Timestamp;
use lease::Users;
use link::Routing;
use model::{ContainerId, NetworkName};
use netlink::Socket;
use nftables::Firewall;
use std::{fs, net::Ipv4Addr, path::PathBuf};
use store::{Description, Leases, Store};
use subnet::Range4;

/// All networks of one data folder.
#[derive(Debug, Clone)]
pub struct Networks {
    store: Store,
    firewall: Firewall,
}

impl Networks {
    /// The networks of this data folder. Reads and changes nothing.
    pub fn new(layout: &Layout) -> Self {
        Self { store: Store::new(layout), firewall: Firewall::new(layout) }
    }

    /// Leases addresses to a container: those that it had before, or the wished one, or free ones. The network is made if
    /// there is none of this name.
    ///
    /// # Errors
    /// [`NetworkError::Address`] when the wish cannot be granted, [`NetworkError::Full`], [`NetworkError::NoSubnet`], and
    /// those of files and the kernel.
    pub fn lease(&self, network: &NetworkName, identity: &str, wish: Option<Ipv4Addr>) -> Result<Lease, NetworkError> {
        let _lock = self.store.lock()?;
        let description = match self.store.description(network)? {
            Some(description) => description,
            None => self.create(network, None)?,
        };
        let mut leases = self.leases(network)?;
        let mut users = Present { networks: self, ports: None };
        let lease = leases.give(&description, identity, wish, Timestamp::now(), &mut users)?;
        self.store.put_leases(network, &leases)?;
        Ok(lease)
    }

    /// Gives up the addresses of a container that will never ask for them again: one that is removed and whose identity is
    /// its id. Those of a named container are better kept for its next incarnation.
    ///
    /// # Errors
    /// Those of files.
    pub fn release(&self, network: &NetworkName, identity: &str) -> Result<(), NetworkError> {
        let _lock = self.store.lock()?;
        if self.store.description(network)?.is_none() {
            return Ok(());
        }
        let mut leases = self.leases(network)?;
        match leases.release(identity) {
            true => self.store.put_leases(network, &leases),
            false => Ok(()),
        }
    }

    /// Makes a network. Needs the lock.
    fn create(&self, name: &NetworkName, subnet: Option<Subnet4>) -> Result<Description, NetworkError> {
        let others = self.store.descriptions()?;
        let fail = || NetworkError::kernel("make network", name);
        let mut socket = Socket::route().map_err(fail())?;
        let routing = Routing::read(&mut socket).map_err(fail())?;
        let links = link::all(&mut socket).map_err(fail())?;

        let ours = others.iter().map(|other| Range4 { address: other.ipv4.gateway(), prefix: other.ipv4.prefix() });
        let taken: Vec<Range4> = routing.used.iter().map(|used| used.range).chain(ours).collect();
        let ipv4 = match subnet {
            Some(subnet) => subnet,
            None => subnet::choose(&taken, self.first_choice())
                .ok_or_else(|| NetworkError::NoSubnet { network: name.clone() })?,
        };
        let bridge = |index: u16| format!("{}{index}", self.tag());
        let is_free = |index: &u16| {
            !others.iter().any(|other| other.index == *index) && !links.iter().any(|link| link.name == bridge(*index))
        };
        // There are fewer subnets than numbers, and a name has at most 15 characters.
        let index = (0..10_000).find(is_free).ok_or_else(|| NetworkError::NoSubnet { network: name.clone() })?;
        let ipv6 = Subnet6::unique_local(self.store.prefix()?, index);
        let description =
            Description { name: name.clone(), index, bridge: bridge(index), ipv4, ipv6, created_at: Timestamp::now() };
        self.store.put_description(&description)?;
        tracing::info!(network = %name, subnet = %ipv4, ipv6 = %ipv6, bridge = description.bridge, "network made");
        Ok(description)
    }

    /// Where this data folder begins to look for a subnet: folders whose networks are down do not see each other's.
    fn first_choice(&self) -> u32 {
        self.tag().rsplit_once('-').and_then(|(_, hash)| u32::from_str_radix(hash, 16).ok()).unwrap_or(0)
    }

    /// The leases of a network; from the durable copy where a power cut has damaged the file, which can only be told from
    /// other damage by there being no container.
    fn leases(&self, network: &NetworkName) -> Result<Leases, NetworkError> {
        match self.store.leases(network) {
            Err(error @ NetworkError::Damaged { .. }) if self.ports()?.is_empty() => {
                tracing::warn!(network = %network, error = %error, "leases are damaged, their last durable copy is used");
                self.store.old_leases(network)
            }
            leases => leases,
        }
    }

    /// Brings the firewall table up to date; whether anything had to be done.
    fn apply_table(&self) -> Result<bool, NetworkError> {
        self.firewall.apply(|| Ok((self.store.descriptions()?, self.published()?)))
    }

    /// The interfaces of containers, as the kernel has them.
    fn ports(&self) -> Result<Vec<(link::Link, attach::Owner)>, NetworkError> {
        let links = Socket::route().and_then(|mut socket| link::all(&mut socket));
        let links = links.map_err(NetworkError::kernel("list interfaces of", self.tag()))?;
        Ok(links
            .into_iter()
            .filter_map(|link| attach::Owner::of(&link, self.tag()).map(|owner| (link, owner)))
            .collect())
    }

    fn layout(&self) -> &Layout {
        self.store.layout()
    }
    fn store(&self) -> &Store {
        &self.store
    }
    fn firewall(&self) -> &Firewall {
        &self.firewall
    }
    fn tag(&self) -> &str {
        self.layout().tag()
    }
    fn host_changes(&self) -> PathBuf {
        self.layout().data().join("host-changes.json")
    }
}

/// Which containers exist and run: by their interfaces and their folders.
struct Present<'a> {
    networks: &'a Networks,
    ports: Option<Vec<attach::Owner>>,
}

impl Present<'_> {
    /// The container with this identity.
    fn id(&self, identity: &str) -> Option<ContainerId> {
        let names = self.networks.layout().data().join("names");
        let named = || fs::read_link(names.join(identity)).ok()?.file_name()?.to_str()?.parse().ok();
        lease::as_id(identity).or_else(named)
    }
}

impl Users for Present<'_> {
    fn runs(&mut self, identity: &str) -> Result<bool, NetworkError> {
        let ports = match &mut self.ports {
            Some(ports) => ports,
            none => none.insert(self.networks.ports()?.into_iter().map(|(_, owner)| owner).collect()),
        };
        let joined = ports.iter().any(|owner| owner.identity == identity);
        let starting = || self.id(identity).is_some_and(|id| self.networks.layout().running(&id).exists());
        Ok(joined || starting())
    }
    fn exists(&mut self, identity: &str) -> Result<bool, NetworkError> {
        Ok(self.id(identity).is_some_and(|id| self.networks.layout().container(&id).exists()))
    }
}

#[cfg(test)]
mod tests;
