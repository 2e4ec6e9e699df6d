//! The stored intent of one container: all that is needed to start it again after everything else is gone.
//!
//! Written once by `create` (and again by `update`), before anything is done on the machine. Knows nothing of processes.

use crate::options::{DnsOptions, ImageOrigin, LogOptions, NamespaceMode, RuntimeKind};
use jiff::Timestamp;
use model::{ContainerId, ContainerName, NetworkMode, PortMapping};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

/// Where the root file system is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// This directory, in place.
    Directory(PathBuf),
    /// Read-only directories, bottom first, under the container's own writable one.
    Layers(Vec<PathBuf>),
    /// The directory `rootfs` of the container's own folder, removed with it.
    Owned,
}

/// One container as it was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: ContainerName,
    /// Whether the user chose the name; the identity under which addresses are leased is then the name, else the id.
    pub named: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// Root file system.
    pub root: Root,
    /// The OCI runtime specification: process, mounts, namespaces, resources, capabilities, filter.
    pub spec: Spec,
    /// Whether `spec` asks for the built-in filter; its program was compiled ahead of time, so `spec` does not hold it.
    pub default_seccomp: bool,
    /// `USER[:GROUP]` to be looked up inside; the specification's numbers count when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Supplementary groups to be looked up inside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Whose users.
    pub userns: Option<NamespaceMode>,
    /// Network.
    pub network: NetworkMode,
    /// Files and folders of the host that belong to the container's user whenever it starts (`--volume …:U`), with all below
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chown: Vec<PathBuf>,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// Wished address.
    pub ip: Option<Ipv4Addr>,
    /// Name resolution.
    pub dns: DnsOptions,
    /// Whether `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` are the engine's (not for bundles).
    pub manage_etc: bool,
    /// Keep standard input open.
    pub interactive: bool,
    /// Remove when it ends.
    pub remove: bool,
    /// Made by one who held its lock from before it was stored until it ran. When nobody holds the lock and it was never
    /// started, its maker was killed in between, and nobody is to be expected to start it; unlike one that was only created.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub claimed: bool,
    /// Number of the stop signal.
    pub stop_signal: i32,
    /// Seconds between stop signal and SIGKILL.
    pub stop_timeout: u32,
    /// Free key-value pairs.
    pub labels: BTreeMap<String, String>,
    /// How output is kept.
    pub log: LogOptions,
    /// Which runtime.
    pub runtime: RuntimeKind,
    /// The image that its layers are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageOrigin>,
    /// Names of the volumes that are its own: no request named them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_volumes: Vec<String>,
}

impl Record {
    /// The identity under which network addresses are leased.
    pub fn identity(&self) -> &str {
        if self.named { self.name.as_str() } else { self.id.as_str() }
    }
    /// Whether its processes may make control groups of their own, below the container's.
    pub fn may_make_groups(&self) -> bool {
        let read_only = |mount: &oci_spec::runtime::Mount| {
            mount.options().iter().flatten().any(|option| matches!(option.as_str(), "ro" | "rro"))
        };
        self.spec
            .mounts()
            .iter()
            .flatten()
            .any(|mount| matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")) && !read_only(mount))
    }
    /// Whether a terminal is allocated.
    pub fn tty(&self) -> bool {
        self.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false)
    }
}
