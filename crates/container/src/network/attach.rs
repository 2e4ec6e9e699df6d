//! Joining a container to its network: bridge on the host, a veth pair, addresses and routes inside.

use super::{
    Networks,
    error::NetworkError,
    forwarding,
    lease::Lease,
    link::{self, LOOPBACK, Link, Port, Routing},
    netlink::{Refusal, Request, Socket},
    store::Description,
    subnet::{Subnet4, Subnet6},
};
use model::{ContainerId, NetworkName};
use rustix::{io::Errno, thread::LinkNameSpaceType};
use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

/// Name of a container's interface, inside.
const INSIDE: &str = "eth0";

/// A bridge asks for the hardware addresses of containers in the name of this one. The kernel's own choice would be usable
/// only after duplicate address detection, and a network's first second would be without IPv6 from outside.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// A container starts without carrier rather than not at all.
const CARRIER: Duration = Duration::from_millis(500);

/// Whose a veth of ours is, as the alias of its end on the host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub network: NetworkName,
    pub id: ContainerId,
    pub identity: String,
}

impl Owner {
    /// Reads the alias of an interface; `None` when it is not a port of this data folder.
    pub fn of(link: &Link, tag: &str) -> Option<Self> {
        let mut words = link.alias.as_deref().filter(|_| link.is_veth())?.split(' ');
        let (first, network, id, identity) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let ours = first == tag && words.next().is_none();
        let (network, id) = (network.parse().ok()?, id.parse().ok()?);
        ours.then(|| Self { network, id, identity: identity.to_owned() })
    }
    fn alias(&self, tag: &str) -> String {
        format!("{tag} {} {} {}", self.network, self.id, self.identity)
    }
}

/// Whether this is a bridge of this data folder: by alias, or by name where a crash came before the alias.
pub(super) fn is_our_bridge(link: &Link, tag: &str) -> bool {
    let by_alias = link.alias.as_deref().and_then(|alias| alias.split(' ').next()) == Some(tag);
    let by_name =
        link.name.strip_prefix(tag).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
    link.is_bridge() && (by_alias || by_name)
}

/// Name of a container's interface on the host: `jd` and as much of the id as the kernel takes (15 characters in all).
pub(super) fn port_name(id: &ContainerId) -> String {
    format!("jd{}", &id.as_str()[..13])
}

impl Networks {
    /// Joins the container whose network namespace this is to its network. Whatever an attempt that was killed has left is
    /// replaced. The calling thread stays in its own namespace.
    ///
    /// # Errors
    /// Those of the kernel, of `nft` when the network is raised; the container is not joined then.
    pub fn attach(&self, lease: &Lease, id: &ContainerId, namespace: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let fail = || NetworkError::kernel("attach container", id.short());
        let mut host = Socket::route().map_err(fail())?;
        let bridge = match link::find(&mut host, &lease.bridge).map_err(fail())? {
            // Up is the last thing that raising a bridge does.
            Some(bridge) if bridge.is_bridge() && bridge.up => bridge,
            _ => self.raise(&mut host, &lease.network)?,
        };
        if !self.firewall().is_intact()? {
            self.apply_table()?;
        }

        let ipv6 = forwarding::has_ipv6();
        let owner = Owner { network: lease.network.clone(), id: id.clone(), identity: lease.identity.clone() };
        let (name, alias) = (port_name(id), owner.alias(self.tag()));
        let hairpin = forwarding::bridge_calls_firewall();
        let port = Port { name: &name, bridge: bridge.index, mtu: bridge.mtu, alias: &alias, ipv6, hairpin };
        // Not in one packet: when the name is taken, the second request would dress up somebody else's interface.
        let create = |host: &mut Socket| {
            host.batch([port.create(INSIDE, link::mac(lease.ipv4), namespace)])?;
            host.batch([port.dress()]).map(drop)
        };
        match create(&mut host) {
            Err(refusal) if refusal.errno == Errno::EXIST => {
                self.clear(&mut host, &name, id)?;
                create(&mut host).map_err(fail())?;
            }
            created => created.map_err(fail())?,
        }
        let configured = inside(namespace).and_then(|mut socket| {
            let has_ipv6 = configure(&mut socket, lease, ipv6)?;
            // A bridge is without carrier while it has no port.
            let ends = [name.as_str(), bridge.name.as_str()];
            let deadline = Instant::now() + CARRIER;
            for end in ends.iter().take(if bridge.running { 1 } else { 2 }) {
                wait(end, deadline, || is_running(&mut host, end))?;
            }
            wait(INSIDE, deadline, || is_running(&mut socket, INSIDE))?;
            if has_ipv6 { wait(INSIDE, deadline, || link::takes(&mut socket, lease.ipv6.into())) } else { Ok(()) }
        });
        if configured.is_err() {
            // Best effort: the namespace goes with the container that now does not start, and the pair with it.
            host.batch([link::delete(&name)]).ok();
        }
        configured.map_err(fail())
    }

    /// Takes the container off its network. Its namespace's end would do the same a little later.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn detach(&self, id: &ContainerId) -> Result<(), NetworkError> {
        let delete = || Socket::route()?.batch([link::delete(&port_name(id))]);
        delete().map(drop).map_err(NetworkError::kernel("detach container", id.short()))
    }

    /// Sets up the loopback interface of a container that has no network.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn configure_loopback(&self, namespace: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let up = || inside(namespace)?.batch([link::up(LOOPBACK)]);
        up().map(drop).map_err(NetworkError::kernel("set up", "loopback interface of the container"))
    }

    /// Removes what stands under the name of this container's interface, if it is this container's.
    fn clear(&self, host: &mut Socket, name: &str, id: &ContainerId) -> Result<(), NetworkError> {
        let fail = || NetworkError::kernel("remove earlier interface of container", id.short());
        let Some(found) = link::find(host, name).map_err(fail())? else { return Ok(()) };
        // Without an alias, its maker was killed between the two requests that make it.
        let theirs = found.alias.is_some() && Owner::of(&found, self.tag()).is_none_or(|owner| owner.id != *id);
        if theirs || !found.is_veth() {
            let wanted = format!("that of container {}", id.short());
            return Err(NetworkError::Foreign { interface: name.to_owned(), wanted });
        }
        host.batch([link::delete(name)]).map(drop).map_err(fail())
    }

    /// Makes a network's bridge if it is not up, and all that goes with it.
    fn raise(&self, host: &mut Socket, name: &NetworkName) -> Result<Link, NetworkError> {
        let _lock = self.store().lock()?;
        let network = self.store().description(name)?.ok_or_else(|| NetworkError::Unknown { network: name.clone() })?;
        let fail = || NetworkError::kernel("raise network", name);
        match link::find(host, &network.bridge).map_err(fail())? {
            // Somebody else was here while this one waited for the lock.
            Some(bridge) if bridge.is_bridge() && bridge.up => Ok(bridge),
            _ => self.raise_locked(host, &network),
        }
    }

    /// Makes a network's bridge, or mends it. Needs the networks' lock.
    pub(super) fn raise_locked(&self, host: &mut Socket, network: &Description) -> Result<Link, NetworkError> {
        let fail = || NetworkError::kernel("raise network", &network.name);
        let routing = Routing::read(host).map_err(fail())?;
        let links = link::all(host).map_err(fail())?;
        no_overlap(network, &routing, &links)?;
        let default = routing.default.and_then(|index| links.iter().find(|link| link.index == index));
        let mtu = default.map_or(link::ETHERNET_MTU, |link| link.mtu);

        let raised = self.make_bridge(host, network, mtu);
        if raised.is_err() && !links.iter().any(|link| link.name == network.bridge) {
            // Best effort, as the error that counts is the first one: what stays is a bridge that is down.
            host.batch([link::delete(&network.bridge)]).ok();
        }
        raised
    }

    fn make_bridge(&self, host: &mut Socket, network: &Description, mtu: u32) -> Result<Link, NetworkError> {
        let fail = || NetworkError::kernel("raise network", &network.name);
        let (name, gateway) = (&network.bridge, network.ipv4.gateway());
        let [_, answer] =
            host.batch([link::new_bridge(name, link::mac(gateway), mtu), link::get(name)]).map_err(fail())?;
        let foreign = || NetworkError::Foreign { interface: name.clone(), wanted: "a bridge".to_owned() };
        let bridge = link::found(&answer.body).filter(Link::is_bridge).ok_or_else(foreign)?;
        let alias = format!("{} {}", self.tag(), network.name);
        let (prefix, broadcast, ipv6) = (network.ipv4.prefix(), network.ipv4.broadcast(), forwarding::has_ipv6());
        host.batch([
            link::describe(bridge.index, &alias, mtu, ipv6),
            link::address(bridge.index, gateway.into(), prefix, Some(broadcast)),
        ])
        .map_err(fail())?;
        if ipv6 {
            // What a container says about routers is not for the host to believe.
            forwarding::own("ipv6", name, "accept_ra", "0")?;
            let own: [Ipv6Addr; 2] = [network.ipv6.gateway(), LINK_LOCAL];
            host.batch(own.map(|address| link::address(bridge.index, address.into(), Subnet6::PREFIX, None)))
                .map_err(fail())?;
        }
        // The host passes packets on only once there are rules about which.
        self.apply_table()?;
        forwarding::enable(&self.host_changes())?;
        host.batch([link::up(bridge.index)]).map_err(fail())?;
        if ipv6 {
            let (gateway, deadline) = (network.ipv6.gateway().into(), Instant::now() + CARRIER);
            wait(name, deadline, || link::takes(host, gateway)).map_err(fail())?;
        }
        tracing::info!(network = %network.name, bridge = name, subnet = %network.ipv4, mtu, "network raised");
        Ok(Link { up: true, mtu, ..bridge })
    }
}

/// Refuses a subnet that something else on the host has come to use: containers would be cut off from it, or it from them.
/// A wider route is no obstacle, ours goes before it.
fn no_overlap(network: &Description, routing: &Routing, links: &[Link]) -> Result<(), NetworkError> {
    let name = |index| links.iter().find(|link| link.index == index).map(|link| link.name.as_str());
    for used in &routing.used {
        let Some(interface) = used.index.and_then(name) else { continue };
        let narrow = used.range.prefix >= network.ipv4.prefix();
        if interface != network.bridge && narrow && network.ipv4.overlaps(used.range) {
            let (network, subnet) = (network.name.clone(), network.ipv4);
            return Err(NetworkError::Overlap { network, subnet, interface: interface.to_owned() });
        }
    }
    Ok(())
}

/// A netlink socket that speaks for another network namespace.
///
/// Opened by a thread that enters the namespace and ends. Entering and coming back would take 5 µs instead of 15 (measured),
/// and an error on the way back would leave the caller in the container's namespace.
fn inside(namespace: BorrowedFd<'_>) -> Result<Socket, Refusal> {
    let open = || {
        rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
            .map_err(|errno| Refusal { what: "enter network namespace", errno, text: None })?;
        Socket::route()
    };
    let failed = |errno| Refusal { what: "start a thread", errno, text: None };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, open);
        let thread = thread.map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
        thread.join().unwrap_or(Err(failed(Errno::IO)))
    })
}

/// Everything inside: loopback up, addresses, default routes. Whether IPv6 is part of it.
fn configure(socket: &mut Socket, lease: &Lease, ipv6: bool) -> Result<bool, Refusal> {
    /// The container's parameters may turn IPv6 off; then it has none, which is what was asked for.
    const OFF: &[Errno] = &[Errno::ACCESS, Errno::OPNOTSUPP, Errno::AFNOSUPPORT];
    const UNREACHABLE: &[Errno] =
        &[Errno::ACCESS, Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::INVAL];

    let [_, answer] = socket.batch([link::up(LOOPBACK), link::get(INSIDE)])?;
    let gone = Refusal { what: "look up interface", errno: Errno::NODEV, text: None };
    let index = link::found(&answer.body).ok_or(gone)?.index;
    let broadcast = Subnet4::around(lease.ipv4, lease.prefix4).map(|subnet| subnet.broadcast());
    let mut requests: Vec<Request> = vec![
        link::up(index),
        link::address(index, lease.ipv4.into(), lease.prefix4, broadcast),
        link::default_route(index, lease.gateway4.into()),
    ];
    if ipv6 {
        let (address, gateway): (IpAddr, IpAddr) = (lease.ipv6.into(), lease.gateway6.into());
        requests.push(link::address(index, address, lease.prefix6, None).or(OFF));
        requests.push(link::default_route(index, gateway).or(UNREACHABLE));
    }
    let answers = socket.batch_of(&requests)?;
    match answers.get(3..) {
        Some([address, route]) => match (address.refused, route.refused) {
            (None, Some(errno)) => Err(Refusal { what: "add default route", errno, text: None }),
            (refused, _) => Ok(refused.is_none()),
        },
        _ => Ok(false),
    }
}

/// Waits until an interface works: the kernel takes note of a new pair's carrier and of a new IPv6 address a moment later, on
/// threads of its own. A container's first packets would be lost before that, and sent again after a second.
fn wait(interface: &str, deadline: Instant, mut works: impl FnMut() -> Result<bool, Refusal>) -> Result<(), Refusal> {
    while !works()? {
        if Instant::now() > deadline {
            tracing::warn!(interface, "interface does not pass packets yet");
            break;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}
fn is_running(socket: &mut Socket, name: &str) -> Result<bool, Refusal> {
    Ok(link::find(socket, name)?.is_some_and(|link| link.running))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: &str, alias: Option<&str>) -> Link {
        let (kind, alias) = (Some(kind.to_owned()), alias.map(str::to_owned));
        Link { index: 7, name: name.to_owned(), up: true, running: true, mtu: 1500, master: None, kind, alias }
    }

    #[test]
    fn an_owner_reads_back_and_others_are_not_ours() {
        let id = ContainerId::from_random([7; 16]);
        let owner = Owner { network: "shop".parse().unwrap(), id: id.clone(), identity: "web".to_owned() };
        let alias = owner.alias("jdos");
        let port = link(&port_name(&id), "veth", Some(&alias));
        assert_eq!(Owner::of(&port, "jdos"), Some(owner));
        assert_eq!(Owner::of(&port, "jdos-123456"), None);
        assert_eq!(Owner::of(&link("x", "veth", Some("jdos a b")), "jdos"), None);
        assert_eq!(port.name, "jd0707070707070");
        assert!(port.name.len() <= 15);
    }

    #[test]
    fn bridges_of_two_data_folders_are_told_apart() {
        assert!(is_our_bridge(&link("jdos0", "bridge", None), "jdos"));
        assert!(is_our_bridge(&link("jdos-12345617", "bridge", Some("jdos-123456 shop")), "jdos-123456"));
        assert!(!is_our_bridge(&link("jdos-1234560", "bridge", None), "jdos"));
        assert!(!is_our_bridge(&link("jdos", "bridge", None), "jdos"));
        assert!(!is_our_bridge(&link("jdos0", "veth", None), "jdos"));
    }
}
