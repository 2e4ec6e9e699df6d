//! What can go wrong in a store.

use super::{
    IngestId,
    disk::{DiskUse, RESERVE},
};
use model::image::{Digest, DigestError, ReferenceError};
use rusqlite::{ErrorCode, ffi};
use std::{
    io,
    path::{Path, PathBuf},
};

/// An operation on the store failed; what was there before is still there.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or a folder of the store.
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
    /// The index.
    #[error("can not {operation} in the index {}", path.display())]
    Index {
        /// What was attempted.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rusqlite::Error,
    },
    /// A newer version of this program has been here.
    #[error("the index {} has version {found} of the tables of `{module}`, this program knows up to {known}: use the program that wrote it", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Whose tables.
        module: String,
        /// Version found.
        found: u64,
        /// Version known.
        known: u64,
    },
    /// The disk is too full to take more in.
    #[error("the disk of {} is {percent} % full ({free} bytes free); no content is taken in at {limit} % and above: free space or run a collection", path.display())]
    Full {
        /// The store.
        path: PathBuf,
        /// How full, as `df` says it.
        percent: u8,
        /// Bytes left.
        free: u64,
        /// The limit.
        limit: u8,
    },
    /// No such blob.
    #[error("there is no content {digest} in the store")]
    Missing {
        /// Its digest.
        digest: Digest,
    },
    /// A blob that must be small is not.
    #[error("content {digest} has {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A blob's bytes are not those of its name.
    #[error("content {digest} is damaged on disk: its bytes hash to {found}")]
    Corrupt {
        /// Its name.
        digest: Digest,
        /// What the bytes say.
        found: Digest,
    },
    /// Somebody else writes to the same ingest.
    #[error("ingest {id} is being written by somebody else")]
    Busy {
        /// Which.
        id: IngestId,
    },
    /// A manifest, index or configuration that is not one.
    #[error("{kind} {digest} can not be used: {problem}")]
    Document {
        /// `manifest`, `index` or `configuration`.
        kind: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        problem: String,
    },
    /// An index has nothing for the platform.
    #[error("{digest} has no image for {wanted}; it has {offered}")]
    NoPlatform {
        /// The index.
        digest: Digest,
        /// `os/architecture[/variant]`.
        wanted: String,
        /// The same of all that are there.
        offered: String,
    },
    /// Something refers to content that is not there.
    #[error("{subject} refers to {missing}, which is not in the store")]
    Incomplete {
        /// What refers to it.
        subject: String,
        /// What is not there.
        missing: Digest,
    },
    /// A prefix names more than one image.
    #[error("`{prefix}` is the beginning of more than one image: {candidates}")]
    Ambiguous {
        /// As given.
        prefix: String,
        /// What it could be.
        candidates: String,
    },
    /// A descriptor names content in a way that is not supported.
    #[error("a descriptor has a wrong digest")]
    Digest {
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// The index holds a descriptor that is none.
    #[error("the index holds a malformed descriptor for the image {name}")]
    Row {
        /// Of which image.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The index holds a name that is none.
    #[error("the index holds a malformed image name")]
    Name {
        /// What is wrong with it.
        #[source]
        source: ReferenceError,
    },
}

impl StoreError {
    /// Whether the disk has no room left for the index.
    pub(crate) fn is_index_full(&self) -> bool {
        let Self::Index { path, source, .. } = self else { return false };
        let Some(error) = source.sqlite_error() else { return false };
        match (error.code, error.extended_code) {
            // The second: whoever is the first to open the index makes a file of 32 KiB beside it.
            (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => true,
            // That file or the log can not be made, for whatever reason.
            (ErrorCode::CannotOpen, _) | (_, ffi::SQLITE_IOERR_SHMOPEN) => {
                path.parent().is_some_and(|folder| DiskUse::of(folder).is_ok_and(|disk| disk.free < RESERVE))
            }
            _ => false,
        }
    }
}

/// An ingest could not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The bytes are not those that were promised. The ingest is gone.
    #[error("content was promised as {expected}, but its bytes hash to {found}")]
    Mismatch {
        /// Promised.
        expected: Digest,
        /// Received.
        found: Digest,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Names operation and path of an input or output error.
pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { operation, path, source }
}
