//! Paths inside a root file system that is not trusted: nothing resolved here can lead out of it.

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2},
    io::{Errno, Result},
};
use std::{
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
};

/// A path with every symbolic link taken as inside `root` (openat2(2), `RESOLVE_IN_ROOT`).
///
/// # Errors
/// That of openat2(2).
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// The same, refusing any symbolic link on the way: for mounts whose place others rely on, such as `/proc`.
///
/// # Errors
/// That of openat2(2); `LOOP` when there is a link.
pub fn open_plain(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// A place to mount on, made (mode 0755, or an empty file) where it is missing.
///
/// # Errors
/// That of the file system; `LOOP` for a dangling link, or for any link when `plain`.
pub fn mount_point(root: BorrowedFd<'_>, path: &Path, directory: bool, plain: bool) -> Result<OwnedFd> {
    let open = if plain { open_plain } else { open };
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    let names: Vec<&OsStr> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let mut current = open(root, Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)?;
    let mut walked = std::path::PathBuf::from("/");
    for (index, name) in names.iter().enumerate() {
        walked.push(name);
        current = match open(root, &walked, OFlags::PATH) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                let last = index + 1 == names.len();
                make(current.as_fd(), name, directory || !last)?;
                // Made by us just now and opened without following: never what somebody put there in between.
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                openat2(current.as_fd(), *name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?
            }
            Err(errno) => return Err(errno),
        };
    }
    Ok(current)
}

fn make(parent: BorrowedFd<'_>, name: &OsStr, directory: bool) -> Result<()> {
    let made = if directory {
        mkdirat(parent, name, Mode::from_raw_mode(0o755))
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    };
    match made {
        Err(Errno::EXIST) => Err(Errno::LOOP), // it resolved to nothing a moment ago: a dangling link
        other => other,
    }
}

/// A path of the host, symbolic links followed as usual.
///
/// # Errors
/// That of openat(2).
pub fn open_host(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_and_missing_parts_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), folder.path().join("out")).unwrap();
        symlink("../../..", folder.path().join("up")).unwrap();
        let root = open_host(folder.path()).unwrap();
        mount_point(root.as_fd(), Path::new("/a/b/c"), true, false).unwrap();
        assert!(folder.path().join("a/b/c").is_dir());
        mount_point(root.as_fd(), Path::new("/up/etc/hosts"), false, false).unwrap();
        assert!(folder.path().join("etc/hosts").is_file());
        let through = mount_point(root.as_fd(), Path::new("/out/x"), true, false);
        assert_eq!(through.unwrap_err(), Errno::LOOP, "a link to nothing inside is not followed outside");
        assert!(outside.path().read_dir().unwrap().next().is_none());
        assert_eq!(open_plain(root.as_fd(), Path::new("/up/a"), OFlags::PATH).unwrap_err(), Errno::LOOP);
    }
}
