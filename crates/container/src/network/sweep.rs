//! The ends of things: what is there, removing a network, mending after a crash, leaving the host as it was.

use super::{
    Networks,
    attach::{self, Owner},
    error::NetworkError,
    forwarding, lease,
    link::{self, Link},
    netlink::Socket,
    ports, store,
    subnet::{Subnet4, Subnet6},
};
use crate::{runtime::identity, state::State};
use jiff::Timestamp;
use model::{ContainerId, NetworkName};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, Instant},
};

/// One network, for display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// Its bridge on the host; there only after a container has joined since the last boot.
    pub bridge: String,
    /// IPv4 subnet.
    pub ipv4: Subnet4,
    /// The host's IPv4 address on it.
    pub gateway4: Ipv4Addr,
    /// IPv6 subnet.
    pub ipv6: Subnet6,
    /// The host's IPv6 address on it.
    pub gateway6: Ipv6Addr,
    /// When it was made.
    pub created_at: Timestamp,
    /// Number of leased addresses, of containers running or not.
    pub leases: usize,
    /// Identities of the containers that are joined now.
    pub users: Vec<String>,
}

/// A container that has just ended takes its interface along a moment later, when the kernel gets round to it.
const LINGERING: Duration = Duration::from_secs(2);

impl Networks {
    /// All networks, oldest first.
    ///
    /// # Errors
    /// Those of files and the kernel.
    pub fn list(&self) -> Result<Vec<Network>, NetworkError> {
        let ports = self.ports()?;
        let describe = |network: store::Description| {
            Ok(Network {
                gateway4: network.ipv4.gateway(),
                gateway6: network.ipv6.gateway(),
                leases: self.store().leases(&network.name)?.entries.len(),
                users: users(&ports, &network.name),
                name: network.name,
                bridge: network.bridge,
                ipv4: network.ipv4,
                ipv6: network.ipv6,
                created_at: network.created_at,
            })
        };
        let mut networks: Vec<Network> =
            self.store().descriptions()?.into_iter().map(describe).collect::<Result<_, NetworkError>>()?;
        networks.sort_by_key(|network| network.created_at);
        Ok(networks)
    }

    /// Removes a network that no running container is on, with its leases and its bridge.
    ///
    /// # Errors
    /// [`NetworkError::Unknown`]; [`NetworkError::InUse`] with the containers; those of files, the kernel and `nft`.
    pub fn remove(&self, network: &NetworkName) -> Result<(), NetworkError> {
        let _lock = self.store().lock()?;
        let unknown = || NetworkError::Unknown { network: network.clone() };
        let description = self.store().description(network)?.ok_or_else(unknown)?;
        self.wait_for_the_dead(network)?;
        let users = users(&self.ports()?, network);
        if !users.is_empty() {
            return Err(NetworkError::InUse { network: network.clone(), users });
        }
        let delete = || Socket::route()?.batch([link::delete(&description.bridge)]);
        delete().map_err(NetworkError::kernel("remove network", network))?;
        self.store().remove(network)?;
        self.apply_table()?;
        tracing::info!(network = %network, "network removed");
        Ok(())
    }

    /// Mends what crashes have left, given the containers that are alive: removes interfaces, published ports and bridges
    /// that belong to nobody, gives back the addresses of containers that are gone for ever, and makes whole again what
    /// living containers need. Says what was removed or mended. A container whose lock is held counts as alive.
    ///
    /// # Errors
    /// Those of files, the kernel and `nft`. What was mended before the error stays mended.
    pub fn reconcile(&self, live: &[ContainerId]) -> Result<Vec<String>, NetworkError> {
        let mut done = Vec::new();
        let locked = locked_inodes()?;
        let live: BTreeSet<&ContainerId> = live.iter().collect();
        let alive = |id: &ContainerId| live.contains(id) || self.is_supervised(id, &locked);
        let mut withdrawn = Vec::new();
        for id in self.published_ids()?.iter().filter(|id| !alive(id)) {
            withdrawn.extend(self.withdraw(id)?);
            done.push(format!("published ports of container {}", id.short()));
        }
        for id in self.half_published()?.iter().filter(|id| !alive(id)) {
            store::remove(&self.half_published_path(id))?;
            done.push(format!("half a file of published ports of container {}", id.short()));
        }
        let mut applied = self.apply_table()?;
        withdrawn.iter().for_each(ports::forget_flows);
        {
            let _lock = self.store().lock()?;
            self.sweep_links(&alive, &mut done)?;
            self.sweep_leases(&alive, &mut done)?;
        }
        applied |= self.apply_table()?;
        if applied {
            done.push(format!("firewall table {} brought up to date", self.tag()));
        }
        Ok(done)
    }

    /// Leaves the host as it was before the first container network: removes all interfaces, the firewall table and the
    /// published ports of this data folder, and puts kernel parameters back unless another data folder's networks need
    /// them. Networks and leases stay stored. Says what was removed. Containers that still run lose their network.
    ///
    /// # Errors
    /// Those of files, the kernel and `nft`.
    pub fn teardown(&self) -> Result<Vec<String>, NetworkError> {
        let mut done = Vec::new();
        let _lock = self.store().lock()?;
        let fail = || NetworkError::kernel("remove interfaces of", self.tag());
        let mut socket = Socket::route().map_err(fail())?;
        let links = link::all(&mut socket).map_err(fail())?;
        let is_ours = |link: &&Link| Owner::of(link, self.tag()).is_some() || attach::is_our_bridge(link, self.tag());
        for link in links.iter().filter(is_ours) {
            socket.batch([link::delete(&link.name)]).map_err(fail())?;
            done.push(format!("interface {}", link.name));
        }
        let mut withdrawn = Vec::new();
        for id in self.published_ids()? {
            withdrawn.extend(self.withdraw(&id)?);
            done.push(format!("published ports of container {}", id.short()));
        }
        if self.firewall().remove()? {
            done.push(format!("firewall table {}", self.tag()));
        }
        withdrawn.iter().for_each(ports::forget_flows);
        let others = |link: &Link| {
            let owner = link.alias.as_deref().and_then(|alias| alias.split(' ').next()).unwrap_or_default();
            link.is_bridge() && owner != self.tag() && (owner == "jdos" || owner.starts_with("jdos-"))
        };
        match links.iter().find(|link| others(link)) {
            None => done.extend(forwarding::restore(&self.host_changes())?),
            Some(link) if self.host_changes().exists() => {
                done.push(format!("kernel parameters stay: another data folder's bridge {} needs them", link.name));
            }
            Some(_) => {}
        }
        Ok(done)
    }

    /// The containers whose list of published ports was being written when its writer was killed.
    fn half_published(&self) -> Result<Vec<ContainerId>, NetworkError> {
        let names = store::names(&self.layout().run().join("published"))?;
        let id = |name: &String| name.strip_prefix('.')?.strip_suffix(".json.new")?.parse().ok();
        Ok(names.iter().filter_map(id).collect())
    }
    fn half_published_path(&self, id: &ContainerId) -> PathBuf {
        self.layout().run().join("published").join(format!(".{id}.json.new"))
    }

    /// Removes interfaces without a living container and bridges without a network; makes bridges whole that have one.
    fn sweep_links(&self, alive: &impl Fn(&ContainerId) -> bool, done: &mut Vec<String>) -> Result<(), NetworkError> {
        let fail = || NetworkError::kernel("mend interfaces of", self.tag());
        let mut socket = Socket::route().map_err(fail())?;
        let links = link::all(&mut socket).map_err(fail())?;
        let networks = self.store().descriptions()?;
        let mut joined = Vec::new();
        for link in &links {
            match Owner::of(link, self.tag()) {
                Some(owner) if alive(&owner.id) => joined.push((link, owner)),
                Some(owner) => {
                    socket.batch([link::delete(&link.name)]).map_err(fail())?;
                    done.push(format!("interface {} of container {}", link.name, owner.id.short()));
                }
                None => {}
            }
        }
        for bridge in links.iter().filter(|link| attach::is_our_bridge(link, self.tag())) {
            if !networks.iter().any(|network| network.bridge == bridge.name) {
                socket.batch([link::delete(&bridge.name)]).map_err(fail())?;
                done.push(format!("bridge {}", bridge.name));
            }
        }
        for network in &networks {
            let users = joined.iter().filter(|(_, owner)| owner.network == network.name);
            let exists = links.iter().any(|link| link.name == network.bridge);
            if !exists && users.clone().next().is_none() {
                continue;
            }
            let bridge = match self.raise_locked(&mut socket, network) {
                Ok(bridge) => bridge,
                // That is for its operator to decide, and no reason to leave the other networks as they are.
                Err(error @ NetworkError::Overlap { .. }) => {
                    tracing::warn!(network = %network.name, %error, "network is left as it is");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !exists {
                done.push(format!("bridge {} made again", bridge.name));
            }
            for (port, owner) in users.filter(|(port, _)| port.master != Some(bridge.index)) {
                socket.batch([link::join(port.index, bridge.index), link::up(port.index)]).map_err(fail())?;
                done.push(format!("container {} joined to {} again", owner.id.short(), bridge.name));
            }
        }
        Ok(())
    }

    /// Gives back the addresses of containers that had no name of their own and are gone.
    fn sweep_leases(&self, alive: &impl Fn(&ContainerId) -> bool, done: &mut Vec<String>) -> Result<(), NetworkError> {
        let is_gone = |id: &ContainerId| {
            !alive(id) && !self.layout().container(id).exists() && !self.layout().running(id).exists()
        };
        for network in self.store().descriptions()? {
            let mut leases = self.leases(&network.name)?;
            let before = leases.entries.len();
            let now = Timestamp::now();
            leases.entries.retain(|entry| {
                let gone = lease::as_id(&entry.identity).is_some_and(|id| is_gone(&id));
                !gone || lease::is_starting(entry.last_used, now)
            });
            if leases.entries.len() < before {
                self.store().put_leases(&network.name, &leases)?;
                done.push(format!("{} leases of network {}", before - leases.entries.len(), network.name));
            }
        }
        Ok(())
    }

    /// Whether somebody holds the lock of this container. Read from the kernel's list: trying the lock would make a shim
    /// fail that tries it at the same moment.
    fn is_supervised(&self, id: &ContainerId, locked: &BTreeSet<u64>) -> bool {
        let lock = fs::metadata(self.layout().running(id).join("lock"));
        lock.is_ok_and(|lock| locked.contains(&lock.ino()))
    }

    /// Whether a container lives: it is supervised, or its first process is there. Its interface says less: whoever has a
    /// socket of it keeps that.
    pub(super) fn lives(&self, id: &ContainerId) -> Result<bool, NetworkError> {
        let state = store::read::<State>(&self.layout().running(id).join("state.json"))?;
        let runs = state.is_some_and(|state| identity::start_time(state.pid) == Some(state.start_time));
        Ok(runs || self.is_supervised(id, &locked_inodes()?))
    }

    /// Waits, not for long, for the interfaces of containers whose lock nobody holds any more.
    fn wait_for_the_dead(&self, network: &NetworkName) -> Result<(), NetworkError> {
        let start = Instant::now();
        while start.elapsed() < LINGERING {
            let locked = locked_inodes()?;
            let mut users = self.ports()?.into_iter().filter(|(_, owner)| owner.network == *network).peekable();
            if users.peek().is_none() || users.any(|(_, owner)| self.is_supervised(&owner.id, &locked)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn users(ports: &[(Link, Owner)], network: &NetworkName) -> Vec<String> {
    let users = ports.iter().filter(|(_, owner)| owner.network == *network);
    users.map(|(_, owner)| owner.identity.clone()).collect()
}

/// Inodes of the files that have a lock of flock(2) on them. The device is left out of the comparison, because stacked
/// file systems show another one here than to stat(2): at worst, something is spared that could have gone.
fn locked_inodes() -> Result<BTreeSet<u64>, NetworkError> {
    const LOCKS: &str = "/proc/locks";
    let text = fs::read_to_string(LOCKS).map_err(NetworkError::file("read", LOCKS))?;
    Ok(text.lines().filter_map(flock_inode).collect())
}
/// `1: FLOCK  ADVISORY  WRITE 715 00:1a:1043 0 EOF`; one that waits has `->` after its number.
fn flock_inode(line: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace().skip(1).skip_while(|word| *word == "->");
    (words.next() == Some("FLOCK")).then(|| words.nth(3)?.rsplit(':').next()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_locks_of_flock_count() {
        assert_eq!(flock_inode("1: FLOCK  ADVISORY  WRITE 715 00:1a:1043 0 EOF"), Some(1043));
        assert_eq!(flock_inode("2: -> FLOCK  ADVISORY  WRITE 715 fd:01:77 0 EOF"), Some(77));
        assert_eq!(flock_inode("3: POSIX  ADVISORY  WRITE 715 00:1a:1043 0 EOF"), None);
        assert_eq!(flock_inode(""), None);
    }
}
