//! A folder of content, used by any number of processes at the same time.
//!
//! | where | what |
//! |---|---|
//! | `blobs/<algorithm>/<ab>/<hex>` | immutable content under its digest |
//! | `ingest/<id>/{data,lock}` | content that is coming in; outlives the process that began it |
//! | `layers/<diff id>/{fs/,complete}` | unpacked layers |
//! | `processes/<id>` | a locked file for each process that holds leases |
//! | `trash/<random>` | taken away, not yet deleted |
//! | `reserve` | room for the index to be changed on a full disk |
//! | `index.db` | names, leases, what was touched when; see [`index`] |
//!
//! The file system is the truth about which content exists, the index about why it is kept. Content enters by
//! fsync and rename; a reference is written only after what it refers to is there. The collector removes content inside
//! a write transaction of the index and nothing that was touched since it began to mark, so whoever holds, commits or
//! tags something in a transaction of its own is never too late.

mod blob;
mod disk;
mod error;
mod image;
pub mod index;
pub(crate) mod ingest;
pub(crate) mod lease;
pub(crate) mod links;
pub(crate) mod lock;
mod manifest;
pub(crate) mod reach;

pub use blob::Blob;
pub use disk::{DiskUse, Watermarks};
pub use error::{CommitError, StoreError};
pub use image::{Image, describe, digest_in};
pub use ingest::{Ingest, IngestId, IngestIdError, Resting};
pub use lease::{Lease, Owner};
pub use manifest::{MANIFEST_LIMIT, Manifest, choose, host_platform, show as show_platform};

pub(crate) use disk::{WRITE_EARLY, write_early};
pub(crate) use error::at;
pub(crate) use image::descriptor_digest;

use index::Index;
use model::image::Digest;
use std::{
    collections::HashSet,
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A content store. Cheap to clone; every call blocks.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    folder: PathBuf,
    index: Index,
    watermarks: Watermarks,
    /// The lock by which other processes see that this one lives; taken with the first lease.
    process: Mutex<Option<lease::Process>>,
    /// Folders below [`Inner::folder`] whose own entries are known to last. There are at most 256 for each algorithm.
    lasting: Mutex<HashSet<PathBuf>>,
}

const FOLDERS: [&str; 5] = ["blobs", "ingest", "layers", "processes", "trash"];

impl Store {
    /// Opens the store in `folder`, and makes it if it is not there.
    ///
    /// # Errors
    /// The folder can not be made or its index not opened, or a newer version of this program wrote it.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::open_with(folder, Watermarks::default())
    }

    /// As [`Store::open`], with other limits on the disk.
    pub fn open_with(folder: &Path, watermarks: Watermarks) -> Result<Self, StoreError> {
        let folder = std::path::absolute(folder).map_err(at("find", folder))?;
        if make_folder(&folder)? {
            sync_directory(folder.parent().unwrap_or(&folder))?;
        }
        for name in FOLDERS {
            make_folder(&folder.join(name))?;
        }
        let path = folder.join("index.db");
        let (index, full) = match Index::open(path.clone()) {
            // Even to look at it takes room, and nothing else of a full disk may be removed without.
            Err(error) if error.is_index_full() && disk::spend_reserve(&folder)? => (Index::open(path)?, true),
            other => (other?, false),
        };
        let (process, lasting) = (Mutex::default(), Mutex::default());
        let store = Self { inner: Arc::new(Inner { folder, index, watermarks, process, lasting }) };
        // What was spent is there for what comes now; whoever collects makes it anew.
        if !full {
            store.keep_reserve();
        }
        Ok(store)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }
    /// The database of references, for modules that keep rows of their own.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }
    /// The limits on the disk.
    pub fn watermarks(&self) -> Watermarks {
        self.inner.watermarks
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.inner.folder.join("blobs");
        path.push(digest.algorithm().as_str());
        path.push(&digest.hex()[..2]);
        path.push(digest.hex());
        path
    }
    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.inner.folder.join(name)
    }
    /// Makes the way to a folder last through a power cut, once in each process: who made it may not have come to that.
    /// What is in the folder is another matter.
    pub(crate) fn make_lasting(&self, folder: &Path) -> Result<(), StoreError> {
        let way = folder.ancestors().take_while(|above| *above != self.folder());
        let lasting = |at: &Path| self.lock_lasting().contains(at);
        let unsure: Vec<&Path> = way.take_while(|at| !lasting(at)).collect();
        for at in &unsure {
            sync_directory(at.parent().unwrap_or(at))?;
        }
        self.lock_lasting().extend(unsure.into_iter().map(Path::to_owned));
        Ok(())
    }
    /// Notes that a folder is new.
    pub(crate) fn forget_lasting(&self, folder: &Path) {
        self.lock_lasting().remove(folder);
    }
    fn lock_lasting(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        // The set is whole between any two statements.
        self.inner.lasting.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The folder of an unpacked layer, whether or not it exists. Diff ids of another algorithm than SHA-256 keep
    /// their algorithm in the name.
    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.part("layers").join(layer_name(diff_id))
    }
}

pub(crate) fn layer_name(diff_id: &Digest) -> String {
    match diff_id.algorithm() {
        model::image::Algorithm::Sha256 => diff_id.hex().to_owned(),
        other => format!("{other}-{}", diff_id.hex()),
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

/// Makes a folder that is root's alone: layers hold setuid programs and files of any owner. Returns whether it is new.
fn make_folder(path: &Path) -> Result<bool, StoreError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            if found.permissions().mode() & 0o077 != 0 {
                fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(at("close to others", path))?;
            }
            return Ok(false);
        }
        Ok(_) => return Err(at("open folder", path)(io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at("open folder", path)(error)),
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("make folder", path))?;
    Ok(true)
}

/// Makes what was renamed or made in a directory last.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    fs::File::open(path).and_then(|directory| directory.sync_all()).map_err(at("sync", path))
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_name() -> Result<String, StoreError> {
    let mut bytes = [0u8; 16];
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|source| at("read random bytes for", Path::new("a new name"))(source.into()))?;
    debug_assert_eq!(got, bytes.len(), "the kernel gives small requests whole");
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_folder_is_made_to_last_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let blobs = store.part("blobs");
        let prefix = blobs.join("sha256/ab");
        fs::create_dir_all(&prefix).unwrap();
        store.make_lasting(&prefix).unwrap();
        let known = |path: &Path| store.lock_lasting().contains(path);
        assert!(known(&prefix) && known(&blobs.join("sha256")) && known(&blobs) && !known(store.folder()));
        // What is not there can not be synced: so this is not tried again.
        fs::remove_dir_all(blobs.join("sha256")).unwrap();
        store.make_lasting(&prefix).unwrap();
        store.forget_lasting(&prefix);
        assert!(store.make_lasting(&prefix).is_err());
        assert!(!known(&prefix), "what failed is tried again");
    }
}
