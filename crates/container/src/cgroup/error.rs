//! What can go wrong with control groups.

use std::{io, path::PathBuf};

/// Failure of an operation on control groups. A setting is named by its path in the OCI resources (`memory.limit`,
/// `devices[3]`), a place by its file.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mount table or the list of this process's groups is not readable.
    #[error("cannot read {}, from which the control group hierarchies are found", path.display())]
    Detect {
        /// The file.
        path: PathBuf,
        /// That of the file system.
        #[source]
        source: io::Error,
    },
    /// Nothing is mounted.
    #[error(
        "no control group hierarchy is mounted here; mount one, such as `mount -t cgroup2 none /sys/fs/cgroup`, and try again"
    )]
    NotMounted,
    /// The text is no path of a control group.
    #[error("`{path}` is not a path of a control group: it must be made of names, without leading `/`, `.` or `..`")]
    Path {
        /// As given.
        path: String,
    },
    /// There is no such group in any hierarchy.
    #[error("there is no control group {path} in any hierarchy")]
    NotFound {
        /// Below the root of the hierarchies.
        path: String,
    },
    /// The group to be made is there already and in use.
    #[error("control group {} is in use by {processes}; end them or choose another name", path.display())]
    Exists {
        /// Directory.
        path: PathBuf,
        /// Process ids and names.
        processes: String,
    },
    /// v2: the group would be a part of a process's threads.
    #[error(
        "control group {} can hold no processes: a group above it has some of its own and hands down `cpu` or `pids`; \
         move them into a group below that one",
        path.display()
    )]
    Threaded {
        /// Directory.
        path: PathBuf,
    },
    /// A setting that this machine can not, or no machine could, honour. Nothing was written.
    #[error("{field}: {reason}")]
    Setting {
        /// Its path in the OCI resources.
        field: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The kernel refused a setting.
    #[error("{field}: the kernel refused `{value}` for {}{hint}", file.display())]
    Refused {
        /// Its path in the OCI resources.
        field: String,
        /// As written.
        value: String,
        /// Where.
        file: PathBuf,
        /// What the refusal usually means, in brackets, or nothing.
        hint: String,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the program that decides about devices.
    #[error("devices: the kernel refused the program for {}{log}", path.display())]
    Program {
        /// Directory of the group.
        path: PathBuf,
        /// What the verifier says about it, with a leading line break, or nothing.
        log: String,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// An update failed, and so did putting the former values back.
    #[error("the update failed and these could not be put back to their former values: {settings}")]
    NotRestored {
        /// Files and former values.
        settings: String,
        /// Why the update failed.
        #[source]
        source: Box<CgroupError>,
    },
    /// A directory or file of a group could not be used.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// Verb.
        operation: &'static str,
        /// Subject.
        path: PathBuf,
        /// That of the file system.
        #[source]
        source: io::Error,
    },
    /// The processes did not freeze, or thaw, in time; they run on.
    #[error("control group {path} did not {verb} within {seconds} s; still not there: {processes}")]
    Freeze {
        /// Below the root of the hierarchies.
        path: String,
        /// `freeze` or `thaw`.
        verb: &'static str,
        /// How long was waited.
        seconds: u64,
        /// Process ids and names.
        processes: String,
    },
    /// Somebody is still in a group that was to be removed.
    #[error("cannot remove control group {}: still in it: {processes}", path.display())]
    Occupied {
        /// Directory.
        path: PathBuf,
        /// Process ids and names.
        processes: String,
        /// The refusal.
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    pub(super) fn setting(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting { field: field.into(), reason: reason.into() }
    }
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.into(), source: source.into() }
    }
}
