//! Published ports: held on the host so that nobody else takes them, and led to their container by the firewall.

use super::{
    Networks, conntrack,
    error::NetworkError,
    lease::Lease,
    store::{self, Description, Durability},
};
use jiff::Timestamp;
use model::{ContainerId, PortMapping, Protocol};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
};

/// The published ports of one running container, as its file in the run folder has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Published {
    pub id: ContainerId,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    pub ports: Vec<PortMapping>,
    pub since: Timestamp,
}

impl Published {
    /// Whether its container is on this network.
    pub fn is_on(&self, network: &Description) -> bool {
        network.ipv4.offset(self.ipv4).is_some()
    }
    /// Whether a port of it is reached by an IPv4 loopback address of the host.
    pub fn is_on_loopback(&self) -> bool {
        self.ports.iter().any(|mapping| match mapping.host_ip {
            None => true,
            Some(IpAddr::V4(address)) => address.is_unspecified() || address.is_loopback(),
            Some(IpAddr::V6(_)) => false,
        })
    }
    /// The first of these ports that this publication has, or has on one of its addresses.
    fn overlaps<'m>(&self, ports: &'m [PortMapping]) -> Option<&'m PortMapping> {
        ports.iter().find(|mapping| self.ports.iter().any(|ours| overlap(ours, mapping)))
    }
}

/// Whether there is an address of the host on which both have the port.
fn overlap(one: &PortMapping, two: &PortMapping) -> bool {
    let addresses = match (one.host_ip, two.host_ip) {
        (None, _) | (_, None) => true,
        (Some(one), Some(two)) if one.is_ipv4() != two.is_ipv4() => false,
        (Some(one), Some(two)) => one == two || one.is_unspecified() || two.is_unspecified(),
    };
    addresses && (one.host_port, one.protocol) == (two.host_port, two.protocol)
}

impl Networks {
    /// Takes these ports of the host. They stay taken while the returned sockets are open: keep them open as long as the
    /// container runs. No packet ever reaches the sockets while the ports are published.
    ///
    /// # Errors
    /// [`NetworkError::Port`] names the first port that cannot be had and who has it; none is taken then.
    pub fn reserve(&self, ports: &[PortMapping]) -> Result<Vec<OwnedFd>, NetworkError> {
        let mut seen = BTreeSet::new();
        let mut sockets = Vec::with_capacity(ports.len());
        for mapping in ports {
            let fail = |reason: String, source| NetworkError::Port { mapping: mapping.clone(), reason, source };
            if mapping.host_port == 0 || mapping.container_port == 0 {
                return Err(fail("port 0 is none".to_owned(), None));
            }
            if mapping.host_ip.is_some_and(|address| address.is_ipv6() && address.is_loopback()) {
                let reason = "nothing can be led to a container from ::1; publish it on 127.0.0.1".to_owned();
                return Err(fail(reason, None));
            }
            if !seen.insert((mapping.host_ip, mapping.host_port, mapping.protocol)) {
                return Err(fail("it is asked for twice".to_owned(), None));
            }
            sockets.push(hold(mapping).map_err(|errno| {
                let reason = match errno {
                    Errno::ADDRINUSE => match self.holder(mapping) {
                        Some(id) => has_published(&id, mapping),
                        None => format!("a program on this host has port {}", mapping.host_port),
                    },
                    Errno::ADDRNOTAVAIL => "the address is not one of this host".to_owned(),
                    Errno::MFILE | Errno::NFILE => "there are too many open files".to_owned(),
                    _ => "the port cannot be taken".to_owned(),
                };
                fail(reason, Some(errno.into()))
            })?);
        }
        Ok(sockets)
    }

    /// Leads the host's ports to the container. Their sockets must be held ([`Networks::reserve`]).
    ///
    /// Who holds the socket need not be the only one: of a container whose monitor was killed the sockets are closed, and the
    /// ports still lead to it. Such a container keeps them while it lives, and loses all that it has published when it does
    /// not.
    ///
    /// # Errors
    /// [`NetworkError::Port`] when another container that lives has published one of them; that of files, of `nft`. Nothing
    /// is published then.
    pub fn publish(&self, id: &ContainerId, lease: &Lease, ports: &[PortMapping]) -> Result<(), NetworkError> {
        if ports.is_empty() {
            return self.unpublish(id);
        }
        let path = self.published_path(id);
        let published = Published {
            id: id.clone(),
            ipv4: lease.ipv4,
            ipv6: lease.ipv6,
            ports: ports.to_vec(),
            since: Timestamp::now(),
        };
        let mut withdrawn = Vec::new();
        // Under the table's lock, so that of two with the same ports the later one sees what the other has published.
        let applied = self.firewall().apply(|| {
            withdrawn = self.make_way(&published)?;
            store::write(&path, &published, Durability::Process)?;
            Ok((self.store().descriptions()?, self.published()?))
        });
        if let Err(error) = applied {
            store::remove(&path)?;
            return Err(error);
        }
        withdrawn.iter().for_each(forget_flows);
        forget_flows(&published);
        Ok(())
    }

    /// Withdraws what dead containers have published on the ports of this publication; gives it. Needs the table's lock.
    fn make_way(&self, published: &Published) -> Result<Vec<Published>, NetworkError> {
        let others = self.published()?;
        let others = others.iter().filter(|other| other.id != published.id);
        let mut withdrawn = Vec::new();
        for other in others {
            let Some(mapping) = other.overlaps(&published.ports) else { continue };
            if self.lives(&other.id)? {
                let reason = has_published(&other.id, mapping);
                return Err(NetworkError::Port { mapping: mapping.clone(), reason, source: None });
            }
            tracing::info!(id = %other.id, "published ports of a dead container withdrawn");
            withdrawn.extend(self.withdraw(&other.id)?);
        }
        Ok(withdrawn)
    }

    /// Ends what [`Networks::publish`] began; nothing to do for a container that has published nothing.
    ///
    /// # Errors
    /// That of files, of `nft`.
    pub fn unpublish(&self, id: &ContainerId) -> Result<(), NetworkError> {
        let Some(published) = self.withdraw(id)? else { return Ok(()) };
        self.apply_table()?;
        forget_flows(&published);
        Ok(())
    }

    /// Removes a publication's file; what it held. One that is damaged is removed like any other.
    pub(super) fn withdraw(&self, id: &ContainerId) -> Result<Option<Published>, NetworkError> {
        let path = self.published_path(id);
        let published = match store::read(&path) {
            Err(NetworkError::Damaged { .. }) => None,
            read => read?,
        };
        store::remove(&path)?;
        Ok(published)
    }

    /// All published ports.
    pub(super) fn published(&self) -> Result<Vec<Published>, NetworkError> {
        let mut all = Vec::new();
        for id in self.published_ids()? {
            all.extend(store::read::<Published>(&self.published_path(&id))?);
        }
        Ok(all)
    }
    /// The containers that have published ports, or had when they died.
    pub(super) fn published_ids(&self) -> Result<Vec<ContainerId>, NetworkError> {
        let names = store::names(&self.published_folder())?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect())
    }
    pub(super) fn published_path(&self, id: &ContainerId) -> PathBuf {
        self.published_folder().join(format!("{id}.json"))
    }
    fn published_folder(&self) -> PathBuf {
        self.layout().run().join("published")
    }

    /// The container that has published this port, for a better message: what cannot be read is passed over.
    fn holder(&self, mapping: &PortMapping) -> Option<ContainerId> {
        let same = |other: &PortMapping| (other.host_port, other.protocol) == (mapping.host_port, mapping.protocol);
        self.published()
            .ok()?
            .into_iter()
            .find(|published| published.ports.iter().any(same))
            .map(|published| published.id)
    }
}

fn has_published(id: &ContainerId, mapping: &PortMapping) -> String {
    format!("container {} has published host port {}", id.short(), mapping.host_port)
}

/// Makes the kernel decide anew about flows to these ports. Where it cannot, they end when their senders pause; that is no
/// reason not to start a container.
pub(super) fn forget_flows(published: &Published) {
    let udp = published.ports.iter().filter(|mapping| mapping.protocol == Protocol::Udp);
    let ports: BTreeSet<u16> = udp.map(|mapping| mapping.host_port).collect();
    if ports.is_empty() {
        return;
    }
    match conntrack::forget(&ports) {
        Ok(count) => tracing::debug!(id = %published.id, count, "UDP flows forgotten"),
        Err(error) => tracing::warn!(id = %published.id, %error, "UDP flows to published ports keep their old way"),
    }
}

/// A socket that has the port and does nothing with it.
///
/// A TCP socket that is bound and not listening, without `SO_REUSEADDR`, shuts out every other; what reaches it is refused
/// with a reset, as on a port that nobody has. The one thing that stands in its way without need is a connection of an
/// earlier server in TIME_WAIT: then it listens with `SO_REUSEADDR`, which is as exclusive. Where packets come to it although
/// the port is published, on `::1`, the firewall answers for it (`refuse`).
fn hold(mapping: &PortMapping) -> Result<OwnedFd, Errno> {
    match mapping.host_ip {
        Some(address) => hold_at(mapping, address, false),
        // One socket for both families.
        None => match hold_at(mapping, Ipv6Addr::UNSPECIFIED.into(), true) {
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => hold_at(mapping, Ipv4Addr::UNSPECIFIED.into(), false),
            held => held,
        },
    }
}

fn hold_at(mapping: &PortMapping, address: IpAddr, both: bool) -> Result<OwnedFd, Errno> {
    match bind(mapping, address, both, false) {
        Err(Errno::ADDRINUSE) if mapping.protocol == Protocol::Tcp => {
            let socket = bind(mapping, address, both, true)?;
            rustix::net::listen(&socket, 0)?;
            Ok(socket)
        }
        bound => bound,
    }
}

fn bind(mapping: &PortMapping, address: IpAddr, both: bool, reuse: bool) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match mapping.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !both)?;
    }
    if reuse {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if mapping.protocol == Protocol::Udp {
        // What arrives before the port is published is never read: let it be little. The kernel has a minimum of its own.
        sockopt::set_socket_recv_buffer_size(&socket, 1)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(address, mapping.host_port))?;
    Ok(socket)
}
