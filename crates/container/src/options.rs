//! What a user may ask of a container, before anything is checked against this machine.
//!
//! One field per option; flags, files and (later) an API all end here, so that no setting exists in only one of them.
//! [`crate::spec::build`] turns it into an OCI runtime specification.

use model::{ByteSize, ContainerName, NetworkMode, PortMapping};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// This directory itself, changed in place (`--rootfs DIR`).
    Directory(PathBuf),
    /// This tar file (plain), unpacked into a directory that belongs to the container (`--rootfs FILE.tar`).
    Tar(PathBuf),
    /// A stack of read-only directories, bottom first, under a writable one that belongs to the container (`--layer`).
    Layers(Vec<PathBuf>),
    /// An OCI bundle: `config.json` is taken as it is, and its root is used in place (`--bundle DIR`).
    Bundle(PathBuf),
}

/// Which filter of system calls applies (`--security-opt seccomp=…`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeccompChoice {
    /// The built-in profile for the container's capabilities.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// This profile, in OCI or Docker form.
    Profile(PathBuf),
}

/// Whose namespace of one kind a container uses (`--pid`, `--ipc`, `--uts`, `--cgroupns`, `--userns`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    /// One of its own.
    #[default]
    Private,
    /// The host's.
    Host,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}
impl From<WindowSize> for oci_spec::runtime::Box {
    fn from(window: WindowSize) -> Self {
        let size = oci_spec::runtime::BoxBuilder::default().height(window.rows).width(window.columns);
        size.build().expect("every field of this builder has a default")
    }
}

/// The program that makes the container (`--runtime`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// JDOS's own runtime, which is part of this program.
    #[default]
    Jdos,
    /// runc.
    Runc(Runc),
}

/// The program runc, 1.1 or newer: a name to look for in `PATH`, or a path; always an absolute path in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Runc(pub PathBuf);

/// How output is kept (`--log-opt max-size=…,max-file=…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Largest size of one file, bytes; at least 64 KiB.
    pub max_size: ByteSize,
    /// Number of files kept, the current one included; at least 1.
    pub max_files: u32,
}
impl Default for LogOptions {
    fn default() -> Self {
        Self { max_size: ByteSize(16 << 20), max_files: 3 }
    }
}

/// What a container's layers were taken from. Nothing here depends on it; it is kept to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOrigin {
    /// The name that it was asked for by.
    pub name: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Ports that it says its program listens on, such as `80/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
}

/// Name resolution inside (`--dns`, `--dns-search`, `--dns-option`, `--add-host`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsOptions {
    /// Name servers; the host's when empty.
    pub servers: Vec<IpAddr>,
    /// Search domains; the host's when empty.
    pub search: Vec<String>,
    /// Resolver options such as `ndots:2`.
    pub options: Vec<String>,
    /// Additional lines of `/etc/hosts`.
    pub hosts: Vec<(String, IpAddr)>,
}

/// Limits (`--memory`, `--cpus`, …). What is absent is not limited.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResourceOptions {
    /// Memory, bytes.
    pub memory: Option<ByteSize>,
    /// Memory plus swap, bytes; -1 for unlimited swap.
    pub memory_swap: Option<i64>,
    /// Soft limit of memory, bytes.
    pub memory_reservation: Option<ByteSize>,
    /// Cores, such as 0.5; excludes quota and period.
    pub cpus: Option<f64>,
    /// Relative weight, 2 to 262144; 1024 is normal.
    pub cpu_shares: Option<u64>,
    /// CFS quota, microseconds per period.
    pub cpu_quota: Option<i64>,
    /// CFS period, microseconds.
    pub cpu_period: Option<u64>,
    /// Cores it may run on, such as `0-1,3`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use.
    pub cpuset_mems: Option<String>,
    /// Largest number of processes and threads; -1 for unlimited.
    pub pids_limit: Option<i64>,
    /// Relative weight of block IO, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Throttles `(device path, bytes per second)`.
    pub device_read_bps: Vec<(PathBuf, ByteSize)>,
    /// Throttles `(device path, bytes per second)`.
    pub device_write_bps: Vec<(PathBuf, ByteSize)>,
    /// Throttles `(device path, operations per second)`.
    pub device_read_iops: Vec<(PathBuf, u64)>,
    /// Throttles `(device path, operations per second)`.
    pub device_write_iops: Vec<(PathBuf, u64)>,
}

/// Everything that `create` and `run` take.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Its name; made from the id when absent.
    pub name: Option<ContainerName>,
    /// Its root file system.
    pub root: RootSource,
    /// Program and arguments; those of the bundle when empty and there is one.
    pub command: Vec<String>,
    /// Environment in addition to `PATH`, `HOSTNAME`, `HOME` (and `TERM` with a terminal).
    pub env: Vec<(String, String)>,
    /// Working directory, absolute.
    pub workdir: Option<String>,
    /// `USER[:GROUP]` by name or number.
    pub user: Option<String>,
    /// Supplementary groups by name or number.
    pub groups: Vec<String>,
    /// Host name inside; the short id when absent.
    pub hostname: Option<String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub interactive: bool,
    /// Remove the container when it ends.
    pub remove: bool,
    /// Mount the root file system read-only.
    pub read_only: bool,
    /// Capabilities to add to Docker's default set (`NET_ADMIN`, `CAP_NET_ADMIN`, `ALL`).
    pub cap_add: Vec<String>,
    /// Capabilities to take away.
    pub cap_drop: Vec<String>,
    /// Everything allowed: all capabilities, all devices, no filter, nothing masked.
    pub privileged: bool,
    /// Whether gaining privileges through set-uid programs is impossible.
    pub no_new_privileges: bool,
    /// Filter of system calls.
    pub seccomp: SeccompChoice,
    /// `HOST[:INSIDE[:PERMISSIONS]]`.
    pub devices: Vec<String>,
    /// `SOURCE:INSIDE[:OPTIONS]`; a source without `/` names a volume. `INSIDE` alone is a volume of the container's own.
    pub volumes: Vec<String>,
    /// Places inside for volumes of the container's own that its image asks for. An image is nobody to name a path of the
    /// host, so these are never read as the text of a flag.
    pub image_volumes: Vec<String>,
    /// `INSIDE[:OPTIONS]`.
    pub tmpfs: Vec<String>,
    /// Kernel parameters of the container's own namespaces.
    pub sysctl: Vec<(String, String)>,
    /// `NAME=SOFT[:HARD]`.
    pub ulimit: Vec<String>,
    /// Limits.
    pub resources: ResourceOptions,
    /// Score for the kernel's choice of a victim, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Size of `/dev/shm`, bytes.
    pub shm_size: Option<ByteSize>,
    /// Network; `bridge` when absent (for a bundle: what its namespaces say).
    pub network: Option<NetworkMode>,
    /// Published ports.
    pub publish: Vec<PortMapping>,
    /// A wished address on the network.
    pub ip: Option<Ipv4Addr>,
    /// Name resolution.
    pub dns: DnsOptions,
    /// Whose process ids.
    pub pid: NamespaceMode,
    /// Whose System V and POSIX IPC.
    pub ipc: NamespaceMode,
    /// Whose host name.
    pub uts: NamespaceMode,
    /// Whose view of cgroups.
    pub cgroupns: NamespaceMode,
    /// Whose users; when absent private where the kernel can, else the host's, which `inspect` says.
    pub userns: Option<NamespaceMode>,
    /// Signal of `stop`, by name or number.
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL.
    pub stop_timeout: Option<u32>,
    /// Free key-value pairs.
    pub labels: BTreeMap<String, String>,
    /// How output is kept.
    pub log: LogOptions,
    /// Which runtime.
    pub runtime: RuntimeKind,
    /// The image that the layers are of.
    pub image: Option<ImageOrigin>,
}

impl CreateOptions {
    /// Everything at its default for this root and command.
    pub fn new(root: RootSource, command: Vec<String>) -> Self {
        Self {
            name: None,
            root,
            command,
            env: Vec::new(),
            workdir: None,
            user: None,
            groups: Vec::new(),
            hostname: None,
            tty: false,
            interactive: false,
            remove: false,
            read_only: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            privileged: false,
            no_new_privileges: true,
            seccomp: SeccompChoice::Default,
            devices: Vec::new(),
            volumes: Vec::new(),
            image_volumes: Vec::new(),
            tmpfs: Vec::new(),
            sysctl: Vec::new(),
            ulimit: Vec::new(),
            resources: ResourceOptions::default(),
            oom_score_adj: None,
            shm_size: None,
            network: None,
            publish: Vec::new(),
            ip: None,
            dns: DnsOptions::default(),
            pid: NamespaceMode::Private,
            ipc: NamespaceMode::Private,
            uts: NamespaceMode::Private,
            cgroupns: NamespaceMode::Private,
            userns: None,
            stop_signal: None,
            stop_timeout: None,
            labels: BTreeMap::new(),
            log: LogOptions::default(),
            runtime: RuntimeKind::Jdos,
            image: None,
        }
    }
}
