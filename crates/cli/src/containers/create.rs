//! Flags of `run` and `create`. Names and meaning are podman's where podman has the flag.
//!
//! Values stay text here: [`super::translate`] reads them, so that all errors are told at once.

use super::resources::ResourceArguments;
use crate::images::transfer::RegistryArguments;

/// All that `run` and `create` have in common.
#[derive(clap::Args, Debug, Clone)]
pub struct CreateArguments {
    /// From the first word that is no flag; no IMAGE where the root file system is from elsewhere
    #[arg(trailing_var_arg = true, value_name = "IMAGE COMMAND ARGUMENT", help_heading = None)]
    pub command: Vec<String>,
    /// The image.
    #[command(flatten)]
    pub image: ImageArguments,
    /// Root file system.
    #[command(flatten)]
    pub root: RootArguments,
    /// The program and its surroundings.
    #[command(flatten)]
    pub process: ProcessArguments,
    /// Limits.
    #[command(flatten)]
    pub resources: ResourceArguments,
    /// Mounts.
    #[command(flatten)]
    pub storage: StorageArguments,
    /// Network.
    #[command(flatten)]
    pub network: NetworkArguments,
    /// Privileges and namespaces.
    #[command(flatten)]
    pub security: SecurityArguments,
    /// Name, end and logs.
    #[command(flatten)]
    pub keeping: KeepingArguments,
}

/// Where the image comes from.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Image")]
pub struct ImageArguments {
    /// When to bring it from its registry: missing, always, newer or never
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = PullWhen::Missing, hide_possible_values = true)]
    pub pull: PullWhen,
    /// For this platform (this machine's)
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub platform: Option<String>,
    /// The registry that it is brought from.
    #[command(flatten)]
    pub registry: RegistryArguments,
}

/// When an image is brought from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PullWhen {
    /// When it is not on this machine.
    Missing,
    /// Each time.
    Always,
    /// Each time that the registry can be reached.
    Newer,
    /// Not at all.
    Never,
}

/// Where the root file system comes from instead of an image.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Root file system instead of an image (one of)")]
pub struct RootArguments {
    /// A directory, changed in place, or a tar file, unpacked
    #[arg(long, value_name = "DIR|FILE.tar")]
    pub rootfs: Option<String>,
    /// A read-only directory under a writable one; repeat, bottom first
    #[arg(long, value_name = "DIR")]
    pub layer: Vec<String>,
    /// An OCI bundle: its config.json as it is
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<String>,
}

/// The program.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Program")]
pub struct ProcessArguments {
    /// Keep standard input open and forward it
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Environment variable; without a value: the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// File with one variable a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User and group by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Supplementary group by name or number
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Program before COMMAND: one word, or a JSON array
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Resource limit of a process
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Preference as a victim when memory runs out, -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub oom_score_adj: Option<String>,
}

/// Mounts.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Storage")]
pub struct StorageArguments {
    /// Mount a path of the host, or a volume
    #[arg(short, long, value_name = "[FROM:]INSIDE[:OPTIONS]")]
    pub volume: Vec<String>,
    /// Mount: type=bind|volume|tmpfs,src=…,dst=…[,ro]
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub mount: Vec<String>,
    /// Mount memory
    #[arg(long, value_name = "INSIDE[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Mount the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Size of /dev/shm (64m)
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// A device of the host
    #[arg(long, value_name = "HOST[:INSIDE[:rwm]]")]
    pub device: Vec<String>,
}

/// Network.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Network")]
pub struct NetworkArguments {
    /// A network's name (bridge), or none, or host
    #[arg(long, visible_alias = "net", value_name = "NAME|none|host")]
    pub network: Option<String>,
    /// Publish a port
    #[arg(short, long, value_name = "[IP:]HOST:INSIDE[/udp]")]
    pub publish: Vec<String>,
    /// IPv4 address on its network
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// Host name (the short id)
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Name server (the host's)
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// Search domain (the host's)
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Resolver option, such as ndots:2
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
}

/// Privileges and namespaces.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Privileges and namespaces")]
pub struct SecurityArguments {
    /// Add a capability, or ALL
    #[arg(long, value_name = "NAME")]
    pub cap_add: Vec<String>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "NAME")]
    pub cap_drop: Vec<String>,
    /// Allow everything
    #[arg(long)]
    pub privileged: bool,
    /// seccomp=FILE|unconfined, no-new-privileges[=false]
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Kernel parameter of its namespaces
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// Whose users (private where the kernel can)
    #[arg(long, value_name = "private|host")]
    pub userns: Option<String>,
    /// Whose process ids (private)
    #[arg(long, value_name = "private|host")]
    pub pid: Option<String>,
    /// Whose System V and POSIX IPC (private)
    #[arg(long, value_name = "private|host")]
    pub ipc: Option<String>,
    /// Whose host name (private)
    #[arg(long, value_name = "private|host")]
    pub uts: Option<String>,
    /// Whose view of control groups (private)
    #[arg(long, value_name = "private|host")]
    pub cgroupns: Option<String>,
}

/// Name, end and logs.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Keeping")]
pub struct KeepingArguments {
    /// Its name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Remove a container of the same name first
    #[arg(long)]
    pub replace: bool,
    /// Remove it when it ends
    #[arg(long)]
    pub rm: bool,
    /// Label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Signal of `stop` (TERM)
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL (10)
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<String>,
    /// max-size=SIZE and max-file=NUMBER of its log
    #[arg(long, value_name = "KEY=VALUE")]
    pub log_opt: Vec<String>,
    /// jdos or runc
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<String>,
    /// Write its id to this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<String>,
    /// Leave warnings out
    #[arg(short, long)]
    pub quiet: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help, help_heading = None, display_order = 1000)]
    pub help: Option<bool>,
}
