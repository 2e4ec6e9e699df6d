//! Content that is there.

use super::{Store, StoreError, at, index, index::Table, sync_directory};
use crate::digest::{Hasher, hash_all};
use model::image::Digest;
use rusqlite::Transaction;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::PathBuf,
};

/// One piece of immutable content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where it is. Who holds no lease on it must reckon with its going away; an open file stays readable.
    pub path: PathBuf,
}

impl Blob {
    /// Opens it for reading.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when it was collected meanwhile.
    pub fn open(&self) -> Result<File, StoreError> {
        File::open(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing { digest: self.digest.clone() },
            _ => at("open", &self.path)(error),
        })
    }

    /// Its bytes, if they are at most `limit`.
    pub fn read(&self, limit: u64) -> Result<Vec<u8>, StoreError> {
        let too_large = |size| StoreError::TooLarge { digest: self.digest.clone(), size, limit };
        if self.size > limit {
            return Err(too_large(self.size));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.size).map_err(|_| too_large(self.size))?);
        self.open()?.take(limit).read_to_end(&mut bytes).map_err(at("read", &self.path))?;
        Ok(bytes)
    }

    /// Reads it whole and compares with its name.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn verify(&self) -> Result<(), StoreError> {
        let mut hasher = Hasher::new(self.digest.algorithm());
        hash_all(&mut hasher, self.open()?).map_err(at("read", &self.path))?;
        let found = hasher.finish();
        if found == self.digest { Ok(()) } else { Err(StoreError::Corrupt { digest: self.digest.clone(), found }) }
    }
}

impl Store {
    /// The blob of this name, if it is there now. To rely on its staying, ask [`super::Lease::hold`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(found) => Ok(Some(Blob { digest: digest.clone(), size: found.len(), path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("look up", &path)(error)),
        }
    }

    /// The blob of this name.
    ///
    /// # Errors
    /// [`StoreError::Missing`].
    pub fn need(&self, digest: &Digest) -> Result<Blob, StoreError> {
        self.blob(digest)?.ok_or_else(|| StoreError::Missing { digest: digest.clone() })
    }

    /// Within a transaction: whether the blob is there, and if so, marks it as used just now, so that a collection that
    /// is running leaves it alone. For modules that write references of their own.
    pub fn touch(&self, transaction: &Transaction<'_>, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let operation = "touch a blob";
        let Some(blob) = self.blob(digest)? else { return Ok(None) };
        let touched = index::touch(transaction, Table::Blobs, digest).map_err(self.index().failed(operation))?;
        if !touched {
            // Its process was killed between rename and commit, perhaps before it was synced.
            if let Some(parent) = blob.path.parent() {
                self.make_lasting(parent)?;
                sync_directory(parent)?;
            }
            index::insert(transaction, Table::Blobs, digest, blob.size).map_err(self.index().failed(operation))?;
        }
        Ok(Some(blob))
    }

    /// Within a transaction: as [`Store::touch`], for an unpacked layer.
    pub(crate) fn touch_layer(&self, transaction: &Transaction<'_>, diff_id: &Digest) -> Result<bool, StoreError> {
        index::touch(transaction, Table::Layers, diff_id).map_err(self.index().failed("touch a layer"))
    }
}
