//! A folder to work in, which goes when the work ends, and after a `kill -9` with the next work or collection.

use super::error::{BootstrapError, io};
use crate::store::{Store, StoreError, at, lock, random_name};
use std::{
    fs::{self, DirBuilder, File},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Name of the store's folder of such folders.
const FOLDER: &str = "bootstrap";

/// A folder of this work alone.
#[derive(Debug)]
pub(super) struct Work {
    path: PathBuf,
    _lock: File,
}

impl Work {
    pub fn new(store: &Store) -> Result<Self, BootstrapError> {
        sweep(store)?;
        let path = store.part(FOLDER).join(random_name()?);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(io("make folder", &path))?;
        let lock = lock::take(&path.join("lock")).map_err(io("lock", &path))?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it.
    pub fn folder(&self, name: &str) -> Result<PathBuf, BootstrapError> {
        let path = self.path.join(name);
        fs::create_dir(&path).map_err(io("make folder", &path))?;
        Ok(path)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a work folder stays until the next collection");
        }
    }
}

/// Removes the folders of works that were killed. Returns their names.
pub(crate) fn sweep(store: &Store) -> Result<Vec<String>, StoreError> {
    let folder = store.part(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at("list", &folder)(error)),
    };
    let mut swept = Vec::new();
    for entry in entries {
        let path = entry.map_err(at("list", &folder))?.path();
        let lock_path = path.join("lock");
        let _lock = match lock::try_existing(&lock_path).map_err(at("lock", &lock_path))? {
            lock::Existing::Held => continue,
            lock::Existing::Free(lock) => Some(lock),
            // Between making the folder and its lock lies an instant; who died in it left an empty folder.
            lock::Existing::Gone if fs::remove_dir(&path).is_ok() => continue,
            lock::Existing::Gone => None,
        };
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(at("remove", &path)(error)),
            _ => swept.extend(path.file_name().map(|name| name.to_string_lossy().into_owned())),
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_works_in_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let work = Work::new(&store).unwrap();
        fs::write(work.path().join("file"), "x").unwrap();
        let dead = store.part(FOLDER).join("dead");
        fs::create_dir_all(dead.join("root")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        assert_eq!(sweep(&store).unwrap(), ["dead"]);
        assert!(work.path().join("file").exists() && !dead.exists());
        let path = work.path().to_owned();
        drop(work);
        assert!(!path.exists());
    }
}
