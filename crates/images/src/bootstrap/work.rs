//! A folder to work in, which goes when the work ends, and after a `kill -9` with the next work or collection.

use super::error::{self, BootstrapError};
use crate::store::{Store, StoreError, at, lock, random_name};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    os::unix::{ffi::OsStringExt, fs::DirBuilderExt},
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
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(error::io("make folder", &path))?;
        let lock = lock::take(&path.join("lock")).map_err(error::io("lock", &path))?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it.
    pub fn folder(&self, name: &str) -> Result<PathBuf, BootstrapError> {
        let path = self.path.join(name);
        fs::create_dir(&path).map_err(error::io("make folder", &path))?;
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

/// Removes the folders of works that were killed. Returns their names. One that can not be removed is told of and left
/// for the next time: it must not be in the way of those who need the room.
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
        match remove(&path) {
            Ok(true) => swept.extend(path.file_name().map(|name| name.to_string_lossy().into_owned())),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what a killed work left can not be removed");
            }
        }
    }
    Ok(swept)
}

/// Removes the folder of a work, unless somebody is at it or nothing of it is left.
fn remove(path: &Path) -> io::Result<bool> {
    let _lock = match lock::try_existing(&path.join("lock"))? {
        lock::Existing::Held => return Ok(false),
        lock::Existing::Free(lock) => Some(lock),
        // Between making the folder and its lock lies an instant; who died in it left an empty folder.
        lock::Existing::Gone if fs::remove_dir(path).is_ok() => return Ok(false),
        lock::Existing::Gone => None,
    };
    detach(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(true),
    }
}

/// Takes away what is mounted below a folder. What a work mounts goes with it; but what others have, seen through a mount
/// that was left all the same, is not ours to delete.
fn detach(folder: &Path) -> io::Result<()> {
    let folder = match fs::canonicalize(folder) {
        // Another sweep was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        folder => folder?,
    };
    let table = fs::read("/proc/self/mountinfo")?;
    let places: Vec<PathBuf> = table.split(|byte| *byte == b'\n').filter_map(mount_point).collect();
    let places: Vec<&PathBuf> = places.iter().filter(|place| place.starts_with(&folder)).collect();
    // First on their own, all of them: what is taken away below a shared mount is taken away from its origin too.
    for place in &places {
        mount_change(*place, MountPropagationFlags::PRIVATE)?;
    }
    for place in places.iter().rev() {
        unmount(*place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

/// The fifth field, in which a space, a tab, a newline and a backslash are octal numbers.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|byte| *byte == b' ').nth(4)?;
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| after.get(..3)).flatten();
        let number = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        path.push(number.unwrap_or(byte));
        rest = if number.is_some() { &after[3..] } else { after };
    }
    Some(PathBuf::from(OsString::from_vec(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    use std::process::Command;

    /// What a killed work left.
    fn dead(store: &Store, name: &str) -> PathBuf {
        let dead = store.part(FOLDER).join(name);
        fs::create_dir_all(dead.join("root/sys")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        dead
    }

    fn mount(words: &[&str], place: &Path) {
        let done = Command::new("mount").args(words).arg(place).status().unwrap();
        assert!(done.success(), "mount {words:?} {}", place.display());
    }

    #[test]
    fn what_was_mounted_in_a_leftover_stays_as_it_is_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        mount(&["-t", "tmpfs", "none"], &outside);
        mount(&["--make-rshared"], &outside);
        let inner = outside.join("inner");
        fs::create_dir(&inner).unwrap();
        mount(&["-t", "tmpfs", "none"], &inner);
        for place in [&outside, &inner] {
            fs::write(place.join("file"), "x").unwrap();
        }
        let store = Store::open(&folder.path().join("store")).unwrap();
        let dead = dead(&store, "de ad");
        mount(&["--rbind", outside.to_str().unwrap()], &dead.join("root/sys"));
        let swept = sweep(&store);
        let found = [&outside, &inner].map(|place| place.join("file").exists());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for place in [dead.join("root/sys"), outside] {
            drop(Command::new("umount").args(["--recursive", "--lazy"]).arg(place).output());
        }
        assert_eq!(swept.unwrap(), ["de ad"]);
        assert_eq!((found, dead.exists()), ([true; 2], false));
        assert!(!table.contains("040ad/root/sys"), "{table}");
    }

    #[test]
    fn a_leftover_that_can_not_be_removed_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let stuck = dead(&store, "stuck");
        let file = File::create(stuck.join("root/file")).unwrap();
        let flags = ioctl_getflags(&file).unwrap();
        ioctl_setflags(&file, flags | IFlags::IMMUTABLE).unwrap();
        for name in ["a", "z"] {
            dead(&store, name);
        }
        let swept = sweep(&store);
        let work = Work::new(&store);
        ioctl_setflags(&file, flags).unwrap();
        let mut swept = swept.unwrap();
        swept.sort();
        assert_eq!(swept, ["a", "z"]);
        assert!(work.is_ok() && stuck.exists());
        assert_eq!(sweep(&store).unwrap(), ["stuck"], "once it can be, it is");
    }

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
