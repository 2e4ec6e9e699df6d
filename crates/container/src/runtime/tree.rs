//! Paths inside a root file system that is not trusted: nothing resolved here can lead out of it.

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2, readlinkat},
    io::{Errno, Result},
};
use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
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

/// A place to mount on, made (mode 0755, or an empty file) where it is missing. What a link stands for is made where it
/// points to, inside.
///
/// # Errors
/// That of the file system; `LOOP` for too many links, or for any when `plain`.
pub fn mount_point(root: BorrowedFd<'_>, path: &Path, directory: bool, plain: bool) -> Result<OwnedFd> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match make_place(root, &path, directory, plain)? {
            Made::Place(place) => return Ok(place),
            Made::Elsewhere(other) => path = other,
        }
    }
    Err(Errno::LOOP)
}

/// Links that are followed on the way to one place, as many as the kernel follows.
const LINKS: usize = 40;

/// What became of a place.
enum Made {
    Place(OwnedFd),
    /// A link to nothing is on the way: this is the place that it stands for.
    Elsewhere(PathBuf),
}

fn make_place(root: BorrowedFd<'_>, path: &Path, directory: bool, plain: bool) -> Result<Made> {
    let open = if plain { open_plain } else { open };
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        found => return found.map(Made::Place),
    }
    let names = names(path);
    let mut current = open(root, Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)?;
    let mut walked = PathBuf::from("/");
    for (index, name) in names.iter().enumerate() {
        let parent = walked.clone();
        walked.push(name);
        current = match open(root, &walked, OFlags::PATH) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                let last = index + 1 == names.len();
                match make(current.as_fd(), name, directory || !last) {
                    // It resolved to nothing a moment ago: a link to nothing.
                    Err(Errno::EXIST) if !plain => {
                        let target = readlinkat(&current, *name, Vec::new()).map_err(|_| Errno::LOOP)?;
                        let mut target = parent.join(OsStr::from_bytes(target.as_bytes()));
                        target.extend(&names[index + 1..]);
                        return Ok(Made::Elsewhere(target));
                    }
                    Err(Errno::EXIST) => return Err(Errno::LOOP),
                    made => made?,
                }
                // Made by us just now and opened without following: never what somebody put there in between.
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                openat2(current.as_fd(), *name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?
            }
            Err(errno) => return Err(errno),
        };
    }
    Ok(Made::Place(current))
}

/// The names of a path from the root on; `..` at the root is the root.
fn names(path: &Path) -> Vec<&OsStr> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => drop(names.pop()),
            _ => {}
        }
    }
    names
}

fn make(parent: BorrowedFd<'_>, name: &OsStr, directory: bool) -> Result<()> {
    if directory {
        return mkdirat(parent, name, Mode::from_raw_mode(0o755));
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
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
        mount_point(root.as_fd(), Path::new("/out/x"), true, false).unwrap();
        let inside = folder.path().join(outside.path().strip_prefix("/").unwrap());
        assert!(inside.join("x").is_dir(), "an absolute link stands for a place inside");
        symlink("../run/resolve/stub", folder.path().join("etc/resolv.conf")).unwrap();
        mount_point(root.as_fd(), Path::new("/etc/resolv.conf"), false, false).unwrap();
        assert!(folder.path().join("run/resolve/stub").is_file());
        symlink("round", folder.path().join("about")).unwrap();
        symlink("about", folder.path().join("round")).unwrap();
        assert_eq!(mount_point(root.as_fd(), Path::new("/round"), false, false).unwrap_err(), Errno::LOOP);
        assert_eq!(mount_point(root.as_fd(), Path::new("/out/y"), true, true).unwrap_err(), Errno::LOOP);
        assert!(outside.path().read_dir().unwrap().next().is_none());
        assert_eq!(open_plain(root.as_fd(), Path::new("/up/a"), OFlags::PATH).unwrap_err(), Errno::LOOP);
    }
}
