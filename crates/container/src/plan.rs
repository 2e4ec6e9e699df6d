//! All that a shim needs to start one container, or a process in one; it makes no choices.

use crate::{
    capability::CapabilitySet,
    network::Lease,
    options::RuntimeKind,
    record::{Record, Root},
    seccomp::FilterFlags,
    spec::MountOptions,
    state::Users,
};
use model::ContainerId;
use oci_spec::runtime::{LinuxIdMapping, Process};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which program of system call filtering is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// None.
    None,
    /// The built-in one for these capabilities.
    Default(CapabilitySet),
    /// The compiled program in this file, installed with these flags.
    File(PathBuf, FilterFlags),
}

/// A program to become: the last part of a start and of an exec.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// Arguments, environment, directory, capabilities.
    pub process: Process,
    /// `USER[:GROUP]` to be looked up inside; the numbers of `process` count when absent.
    pub user: Option<String>,
    /// Supplementary groups to be looked up inside.
    pub groups: Vec<String>,
    /// System calls.
    pub filter: Filter,
}

/// Who a container's users are on the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum UserPlan {
    /// The host's, for this reason.
    Host(String),
    /// A range of the host's ids that nobody else uses; every mount from the host is id-mapped to it.
    Leased {
        /// First id on the host.
        base: u32,
        /// Number of ids.
        size: u32,
        /// Whether to fail rather than fall back to the host's users.
        required: bool,
    },
    /// These mappings, taken from a bundle; its files have their owners on disk already.
    Mapped {
        /// Of users.
        uids: Vec<LinuxIdMapping>,
        /// Of groups.
        gids: Vec<LinuxIdMapping>,
    },
}

/// One start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// What was asked for.
    pub record: Record,
    /// What to run.
    pub program: Program,
    /// The container's folder in the data folder.
    pub container: PathBuf,
    /// The container's folder in the run folder.
    pub running: PathBuf,
    /// Control group below the root of each hierarchy.
    pub cgroup: String,
    /// Users.
    pub users: UserPlan,
    /// Addresses to configure; without them the network is left as the namespace gives it, with loopback up.
    pub lease: Option<Lease>,
    /// Files bound into the container `(source, destination)`.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The monitor's program.
    pub monitor: PathBuf,
    /// Files that go when the container ends.
    pub unlink: Vec<PathBuf>,
    /// What the monitor becomes at the end.
    pub finally: Vec<String>,
    /// Data and run folder.
    pub folders: (PathBuf, PathBuf),
    /// Descriptors 7 to 7 + N - 1 are held for as long as the container runs.
    pub held: u32,
    /// Whether descriptor 6 is the first attached client.
    pub client: bool,
}

impl Plan {
    /// The folders again.
    ///
    /// # Errors
    /// That of the file system.
    pub fn layout(&self) -> std::io::Result<crate::layout::Layout> {
        crate::layout::Layout::open(&self.folders.0, Some(&self.folders.1))
    }
    /// Overlay layers, top last; empty when the root is one directory.
    pub fn layers(&self) -> &[PathBuf] {
        match &self.record.root {
            Root::Layers(layers) => layers,
            Root::Directory(_) | Root::Owned => &[],
        }
    }
    /// Whether the root file system is to be read-only.
    pub fn read_only_root(&self) -> bool {
        self.record.spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false)
    }
    /// Whether it has a view of control groups of its own (or one joined by path). Without, the host's hierarchies would be
    /// what a mount shows, so its own groups are bound instead.
    pub fn has_cgroup_namespace(&self) -> bool {
        use oci_spec::runtime::LinuxNamespaceType;
        let listed = self.record.spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
        listed.into_iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Cgroup)
    }
    /// The mounts of the specification with their options.
    pub fn mounts(&self) -> impl Iterator<Item = (&oci_spec::runtime::Mount, MountOptions)> {
        self.record.spec.mounts().iter().flatten().map(|mount| (mount, MountOptions::of(mount)))
    }
}

/// One process more in a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecPlan {
    /// What to make it with.
    pub runtime: RuntimeKind,
    /// The container.
    pub id: ContainerId,
    /// The container's folder in the run folder.
    pub running: PathBuf,
    /// The container's init.
    pub pid: i32,
    /// Its start time, ticks since boot.
    pub start_time: u64,
    /// Control group below the root of each hierarchy.
    pub cgroup: String,
    /// Namespaces to enter (`CLONE_NEW*`).
    pub namespaces: i32,
    /// Whose users.
    pub users: Users,
    /// What to run.
    pub program: Program,
    /// Score for the kernel's choice of a victim.
    pub oom_score_adj: Option<i32>,
}
