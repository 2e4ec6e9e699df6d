//! What can go wrong when a layer is unpacked.

use super::PathError;
use crate::{store::StoreError, tarball::TarError};
use model::image::Digest;
use std::io;

/// Why an entry of an archive is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its name.
    #[error("{0}")]
    Path(PathError),
    /// The target of a hard link.
    #[error("it is a hard link out of the layer: {0}")]
    LinkTarget(PathError),
    /// A hard link to nothing that is in the layer.
    #[error("it is a hard link to something that the layer does not have before it")]
    LinkMissing,
    /// A parent is a symbolic link or a file of this layer.
    #[error("its name leads through a link or a file")]
    ThroughLink,
    /// A directory would have to go.
    #[error("it would replace a directory")]
    ReplacesDirectory,
    /// A file would have to go for a directory.
    #[error("it is a directory, or something in one, where the layer has a file")]
    ReplacedByDirectory,
    /// The root of the layer is not a directory.
    #[error("the root of a layer must be a directory")]
    Root,
    /// A whiteout that is none.
    #[error("it is a malformed whiteout")]
    Whiteout,
    /// A device node.
    #[error("it is the device node {kind} {major}:{minor}, which images may not have here")]
    Device {
        /// `b` or `c`.
        kind: char,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// An attribute that is the kernel's own.
    #[error("it has an attribute trusted.overlay.*")]
    OverlayAttribute,
    /// An attribute that no file system takes.
    #[error("it has an extended attribute larger than 64 KiB")]
    AttributeTooLarge,
    /// A bomb.
    #[error("the layer has more than {0} entries and directories around them")]
    TooManyObjects(u64),
    /// A bomb.
    #[error("the names and attributes of the layer's directories take more than {0} bytes")]
    DirectoriesTooLarge(usize),
    /// A bomb.
    #[error("the layer unpacks to more than {0} bytes")]
    TooLarge(u64),
    /// A bomb.
    #[error("the layer unpacks to more than {0} times its compressed size")]
    TooCompressed(u64),
}

/// Layers could not be unpacked. Nothing of the layer that failed is left.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive has something that is not taken.
    #[error("layer {layer} is refused: entry `{entry}`")]
    Refused {
        /// The layer's blob.
        layer: Digest,
        /// Name of the entry.
        entry: String,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// The archive is malformed, or can not be decompressed.
    #[error("layer {layer} can not be read")]
    Archive {
        /// The layer's blob.
        layer: Digest,
        /// Where and why.
        #[source]
        source: TarError,
    },
    /// A file can not be made.
    #[error("layer {layer}: can not make `{entry}`")]
    Write {
        /// The layer's blob.
        layer: Digest,
        /// Name of the entry.
        entry: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The layer is not the one that the configuration means.
    #[error("layer {layer} has diff id {found}, but the image's configuration says {expected}")]
    DiffId {
        /// The layer's blob.
        layer: Digest,
        /// In the configuration.
        expected: Digest,
        /// In the layer.
        found: Digest,
    },
    /// The manifest can not be unpacked at all.
    #[error("the image can not be unpacked: {problem}")]
    Manifest {
        /// What is wrong with it.
        problem: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
