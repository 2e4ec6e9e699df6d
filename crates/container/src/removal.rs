//! Removal of what a container has written, however deep that is.

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Removes a folder and all in it, following nothing.
///
/// The standard library's removal goes down by recursion, with a descriptor for each level, and so fails or ends with the
/// stack on a tree that is deep enough; a container may make one. Here every folder that is found below another one is first
/// moved up to the top, so that two descriptors do for any tree.
///
/// # Errors
/// That of the file system, such as `BUSY` when something is mounted inside.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, name),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let parent = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let top = match folder(parent.as_fd(), name.as_bytes()) {
        // No folder at all.
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(unlinkat(&parent, name, AtFlags::empty())?),
        top => top?,
    };
    let mut moved = 0u64;
    loop {
        let folders = clear(top.as_fd(), |_| Ok(false))?;
        if folders.is_empty() {
            break;
        }
        for name in folders {
            let below = folder(top.as_fd(), name.as_bytes())?;
            // What is in there comes up here, to be found the next time round.
            clear(below.as_fd(), |inner| {
                lift(below.as_fd(), inner, top.as_fd(), &mut moved)?;
                Ok(true)
            })?;
            drop(below);
            unlinkat(&top, OsStr::from_bytes(name.as_bytes()), AtFlags::REMOVEDIR)?;
        }
    }
    drop(top);
    Ok(unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
}

fn folder(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, OsStr::from_bytes(name), flags, Mode::empty())
}

/// Removes all but folders; gives those that `take` did not deal with.
fn clear(directory: BorrowedFd<'_>, mut take: impl FnMut(&CString) -> io::Result<bool>) -> io::Result<Vec<CString>> {
    let mut folders = Vec::new();
    // Names may be passed over while others go: look until nothing is found.
    loop {
        let mut found = false;
        for entry in Dir::read_from(directory)? {
            if folders.len() >= FOLDERS {
                return Ok(folders);
            }
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || folders.iter().any(|known: &CString| known.as_c_str() == name)
            {
                continue;
            }
            found = true;
            let name = name.to_owned();
            let is_folder = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => match unlinkat(directory, name.as_c_str(), AtFlags::empty()) {
                    Ok(()) => continue,
                    Err(Errno::ISDIR | Errno::PERM) => true,
                    Err(errno) => return Err(errno.into()),
                },
                _ => false,
            };
            match is_folder {
                true if take(&name)? => {}
                true => folders.push(name),
                false => unlinkat(directory, name.as_c_str(), AtFlags::empty())?,
            }
        }
        if !found {
            return Ok(folders);
        }
    }
}

/// Folders that are dealt with before the top is looked at again.
const FOLDERS: usize = 256;

/// Moves a folder up to the top, under a name that is free there; an empty one goes at once.
fn lift(from: BorrowedFd<'_>, name: &CString, top: BorrowedFd<'_>, moved: &mut u64) -> io::Result<()> {
    match unlinkat(from, name.as_c_str(), AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        done => return Ok(done?),
    }
    loop {
        *moved += 1;
        match renameat(from, name.as_c_str(), top, format!(".removed-{moved}")) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            done => return Ok(done?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn deeper_than_there_are_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let top = folder.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut at = rustix::fs::open(&top, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for level in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            rustix::fs::symlinkat(outside.path(), &at, "link").unwrap();
            if level % 100 == 0 {
                rustix::fs::mkdirat(&at, ".removed-1", Mode::from_raw_mode(0o000)).unwrap();
                rustix::fs::mkdirat(&at, "sibling", Mode::from_raw_mode(0o700)).unwrap();
                rustix::fs::mkdirat(&at, "sibling/empty", Mode::from_raw_mode(0o700)).unwrap();
            }
            at = openat(&at, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        drop(at);
        remove_tree(&top).unwrap();
        assert!(!top.exists() && outside.path().join("kept").exists());
    }

    #[test]
    fn wide_ones_files_links_and_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        for name in 0..700 {
            fs::create_dir_all(top.join(format!("{name}/a/b"))).unwrap();
            fs::write(top.join(format!("{name}/a/file")), "x").unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        symlink("/nowhere", &top).unwrap();
        remove_tree(&top).unwrap();
        assert!(fs::symlink_metadata(&top).is_err());
        assert_eq!(remove_tree(&top).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
