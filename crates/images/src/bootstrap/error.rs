//! What can go wrong while an image is made.

use crate::{layer::PackError, store::StoreError, tarball::TarError};
use std::{io, path::PathBuf};

/// An image could not be made; the store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A program that is needed is not there.
    #[error("the program {program} is not installed; it is part of Debian's package {package}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// Not root.
    #[error("making a system's files with their owners needs root")]
    NotRoot,
    /// This machine's apt uses no mirror of Debian's.
    #[error("apt's sources on this machine name no archive of Debian's")]
    NoMirror,
    /// An address that is none.
    #[error(
        "`{uri}` is not the address of a mirror: expected http://, https://, file:/ or copy:/ and no spaces or brackets"
    )]
    Mirror {
        /// As given, without password.
        uri: String,
    },
    /// The mirror does not answer, or not as a mirror.
    #[error("the package lists of {suite} can not be read from {mirror}")]
    Unreachable {
        /// Suite.
        suite: String,
        /// Address.
        mirror: String,
        /// What apt said.
        #[source]
        source: Said,
    },
    /// The mirror has no such suite.
    #[error("the mirror {mirror} has no suite {suite}")]
    Suite {
        /// Suite.
        suite: String,
        /// Address.
        mirror: String,
    },
    /// This machine does not trust who signed the mirror's lists.
    #[error(
        "the signature of {suite} on {mirror} can not be checked with this machine's keys; the package debian-archive-keyring has Debian's"
    )]
    Signature {
        /// Suite.
        suite: String,
        /// Address.
        mirror: String,
        /// What apt said.
        #[source]
        source: Said,
    },
    /// The suite has no such package.
    #[error("the suite {suite} has no package {package}")]
    Package {
        /// As asked for.
        package: String,
        /// Suite.
        suite: String,
    },
    /// The packages exclude each other.
    #[error("these packages can not be installed together from {suite}: {packages}")]
    Conflict {
        /// Suite.
        suite: String,
        /// All that were asked for.
        packages: String,
        /// What apt said.
        #[source]
        source: Said,
    },
    /// The disk is too full.
    #[error("the disk of {} has {free} bytes free; making this image takes {}", path.display(), room(*needed))]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed while it is made, as far as that is known.
        needed: Option<u64>,
    },
    /// A program failed.
    #[error("{program} failed while {step}")]
    Failed {
        /// Its name.
        program: &'static str,
        /// What it was doing.
        step: String,
        /// Its last lines.
        #[source]
        source: Said,
    },
    /// A program printed what can not be understood.
    #[error("{program} did not say {what}")]
    Unclear {
        /// Its name.
        program: &'static str,
        /// What was looked for.
        what: &'static str,
    },
    /// What was installed is not what was planned.
    #[error("{package} was to be installed as {planned}, but {found} was: the mirror changed meanwhile")]
    Changed {
        /// Package.
        package: String,
        /// Version, or `nothing`.
        planned: String,
        /// Version, or `nothing`.
        found: String,
    },
    /// The caller wanted it to stop.
    #[error("stopped; nothing is left")]
    Stopped,
    /// A file.
    #[error("can not {operation} {}", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The archive that was made can not be read.
    #[error("can not read what mmdebstrap made")]
    Archive {
        /// Where and why.
        #[source]
        source: TarError,
    },
    /// A layer can not be written.
    #[error("can not write a layer of the image")]
    Pack {
        /// Why not.
        #[source]
        source: PackError,
    },
    /// A document of the image can not be written.
    #[error("can not write the image's {document}")]
    Document {
        /// Which.
        document: &'static str,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The last lines of a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", if lines.is_empty() { "it said nothing".to_owned() } else { lines.join("\n") })]
pub struct Said {
    /// Each line.
    pub lines: Vec<String>,
}

fn room(needed: Option<u64>) -> String {
    needed.map_or_else(|| "more".to_owned(), |needed| format!("about {needed}"))
}

pub(super) fn io(operation: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> BootstrapError {
    let path = path.to_owned();
    move |source| BootstrapError::Io { operation, path, source }
}
