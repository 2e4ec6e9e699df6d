//! Why a network operation failed.

use super::{netlink::Refusal, subnet::Subnet4};
use model::{NetworkName, PortMapping};
use std::{io, net::Ipv4Addr, path::PathBuf};

/// Why a network operation failed. What was begun is undone, or left for [`super::Networks::reconcile`].
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused a request about interfaces, addresses, routes or the firewall.
    #[error("cannot {operation} {subject}")]
    Kernel {
        /// What was being done: `attach container`.
        operation: &'static str,
        /// To what.
        subject: String,
        /// The refused request.
        source: Refusal,
    },
    /// A file of ours could not be read or written.
    #[error("cannot {operation} {path}")]
    File {
        /// What was being done: `write`.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file of ours does not hold what it should.
    #[error("{path} is damaged; restore it, or delete it together with what it describes")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it.
        source: serde_json::Error,
    },
    /// A kernel parameter that containers need could not be set.
    #[error(
        "cannot set kernel parameter {name} to {value}; containers need it, set it by hand or make /proc/sys writable"
    )]
    Parameter {
        /// As sysctl(8) writes it.
        name: String,
        /// The wanted value.
        value: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The network has no lease for this address.
    #[error("address {address} cannot be had on network `{network}`: {reason}")]
    Address {
        /// Which network.
        network: NetworkName,
        /// The wished address.
        address: Ipv4Addr,
        /// What stands against it.
        reason: AddressRefusal,
    },
    /// Every address is in use by a container that runs.
    #[error(
        "network `{network}` is full: each of the {count} addresses of {subnet} belongs to a running container; use a second network"
    )]
    Full {
        /// Which network.
        network: NetworkName,
        /// Its subnet.
        subnet: Subnet4,
        /// How many addresses containers can have.
        count: usize,
    },
    /// The host uses all of the private space that networks are taken from.
    #[error(
        "no subnet is left for network `{network}`: the host has addresses or routes in all of 10.88.0.0/13, 172.24.0.0/13 and 192.168.0.0/16"
    )]
    NoSubnet {
        /// Which network.
        network: NetworkName,
    },
    /// Something on the host has taken a network's subnet since it was made.
    #[error(
        "subnet {subnet} of network `{network}` is now also used by interface `{interface}`; remove the network (its next user makes it anew elsewhere) or the other use"
    )]
    Overlap {
        /// Which network.
        network: NetworkName,
        /// Its subnet.
        subnet: Subnet4,
        /// Who else.
        interface: String,
    },
    /// There is an interface under a name that we need, and it is not ours.
    #[error("interface `{interface}` exists and is not {wanted}; rename or delete it")]
    Foreign {
        /// Its name.
        interface: String,
        /// What we need under this name.
        wanted: String,
    },
    /// There is no such network.
    #[error("there is no network `{network}`")]
    Unknown {
        /// The name.
        network: NetworkName,
    },
    /// A network cannot go while containers are on it.
    #[error("network `{network}` is in use by {}; stop them first", .users.join(", "))]
    InUse {
        /// Which network.
        network: NetworkName,
        /// Identities (names or ids) of the running containers on it.
        users: Vec<String>,
    },
    /// A host port cannot be had.
    #[error("cannot publish port {mapping}: {reason}")]
    Port {
        /// Which.
        mapping: PortMapping,
        /// Who has it, or what is wrong with it.
        reason: String,
        /// The refused call, when there was one.
        source: Option<io::Error>,
    },
    /// The program that writes firewall tables is not installed.
    #[error("`nft` is not installed; container networks need the package `nftables`")]
    NftMissing,
    /// `nft` could not be run, or did not take the table.
    #[error("nft did not take table `inet {table}`: {message}")]
    Nft {
        /// The table's name.
        table: String,
        /// What it said.
        message: String,
        /// Why it could not be run, if that was it.
        source: Option<io::Error>,
    },
}

/// Why a wished address was not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefusal {
    /// It lies elsewhere.
    #[error("it is outside of {0}")]
    Outside(Subnet4),
    /// It is the subnet's own.
    #[error("it is the subnet's own address")]
    Subnet,
    /// It is the host's.
    #[error("it is the gateway's")]
    Gateway,
    /// It is everybody's.
    #[error("it is the broadcast address")]
    Broadcast,
    /// Another container has it.
    #[error("container `{0}` has it")]
    Taken(String),
}

impl NetworkError {
    /// Names what was being done when the kernel refused.
    pub(super) fn kernel(operation: &'static str, subject: impl ToString) -> impl FnOnce(Refusal) -> Self {
        move |source| Self::Kernel { operation, subject: subject.to_string(), source }
    }
    /// Names the file that could not be read or written.
    pub(super) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { operation, path: path.into(), source }
    }
}
