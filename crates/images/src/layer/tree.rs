//! Making files under one directory and nowhere else.
//!
//! Every step goes through a descriptor of the parent directory, opened from the root's descriptor with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, so that neither a link in the archive nor anybody's rename meanwhile leads
//! out. Files are made with `O_EXCL`, never opened again by name.

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::{
    collections::VecDeque,
    ffi::{CStr, CString},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    rc::Rc,
};

/// A directory that is being filled.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    /// Directories used last: archives name the files of one directory one after the other.
    recent: VecDeque<(Vec<u8>, Rc<OwnedFd>)>,
}

/// Owner, permissions and time of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub mtime: i64,
}

const RECENT: usize = 24;
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

impl Tree {
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = fs::open(root, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root: Rc::new(root), recent: VecDeque::new() })
    }

    /// The directory of these components. `ELOOP` or `ENOTDIR`: one of them is not a directory.
    pub fn directory(&mut self, components: &[&[u8]]) -> io::Result<Rc<OwnedFd>> {
        if components.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let path = components.join(&b'/');
        if let Some(at) = self.recent.iter().position(|(known, _)| *known == path) {
            // Moved to the front, to be kept longest.
            if let Some(found) = self.recent.remove(at) {
                let directory = Rc::clone(&found.1);
                self.recent.push_front(found);
                return Ok(directory);
            }
        }
        let directory = Rc::new(self.open_beneath(&path)?);
        self.recent.truncate(RECENT - 1);
        self.recent.push_front((path, Rc::clone(&directory)));
        Ok(directory)
    }

    fn open_beneath(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            match fs::openat2(&*self.root, path, flags, Mode::empty(), BENEATH) {
                // The kernel could not rule out a race with a rename, and asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// What has this name, without following a link. `None`: nothing.
pub(super) fn look(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn is_directory(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

pub(super) fn is_whiteout(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0
}

/// Makes a file that was not there, open for writing by us alone.
pub(super) fn create(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?))
}

pub(super) fn make_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(fs::mkdirat(parent, name, Mode::RWXU)?)
}

pub(super) fn remove_file(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(fs::unlinkat(parent, name, AtFlags::empty())?)
}

pub(super) fn link(from: BorrowedFd<'_>, old: &[u8], to: BorrowedFd<'_>, new: &[u8]) -> io::Result<()> {
    // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is to the link itself.
    Ok(fs::linkat(from, old, to, new, AtFlags::empty())?)
}

pub(super) fn symlink(target: &[u8], parent: BorrowedFd<'_>, name: &[u8], of: Attributes) -> io::Result<()> {
    fs::symlinkat(target, parent, name)?;
    if (of.uid, of.gid) != (0, 0) {
        fs::chownat(parent, name, Some(Uid::from_raw(of.uid)), Some(Gid::from_raw(of.gid)), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(fs::utimensat(parent, name, &times(of.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes a device or a pipe.
pub(super) fn node(
    parent: BorrowedFd<'_>,
    name: &[u8],
    kind: FileType,
    device: (u32, u32),
    of: Attributes,
) -> io::Result<()> {
    let number = if kind == FileType::Fifo { 0 } else { fs::makedev(device.0, device.1) };
    fs::mknodat(parent, name, kind, Mode::empty(), number)?;
    fs::chownat(parent, name, Some(Uid::from_raw(of.uid)), Some(Gid::from_raw(of.gid)), AtFlags::SYMLINK_NOFOLLOW)?;
    // fchmodat can not be told not to follow links before Linux 6.6; the name was made here just now, and the directory
    // is closed to everybody but root.
    fs::chmodat(parent, name, Mode::from_raw_mode(of.mode), AtFlags::empty())?;
    Ok(fs::utimensat(parent, name, &times(of.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes an overlay whiteout.
pub(super) fn whiteout(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), fs::makedev(0, 0))?)
}

/// Owner, then mode, because a change of owner takes setuid away; then attributes, because it takes capabilities away
/// too; the time last.
pub(super) fn finish(file: BorrowedFd<'_>, of: Attributes, xattrs: &[(CString, Vec<u8>)]) -> io::Result<()> {
    if (of.uid, of.gid) != (0, 0) {
        fs::fchown(file, Some(Uid::from_raw(of.uid)), Some(Gid::from_raw(of.gid)))?;
    }
    fs::fchmod(file, Mode::from_raw_mode(of.mode))?;
    for (name, value) in xattrs {
        set_attribute(file, name, value)?;
    }
    Ok(fs::futimens(file, &times(of.mtime))?)
}

pub(super) fn set_attribute(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    Ok(fs::fsetxattr(file, name, value, XattrFlags::empty())?)
}

/// As [`finish`], for a directory that may have another owner already.
pub(super) fn finish_directory(
    directory: BorrowedFd<'_>,
    of: Attributes,
    xattrs: &[(CString, Vec<u8>)],
) -> io::Result<()> {
    fs::fchown(directory, Some(Uid::from_raw(of.uid)), Some(Gid::from_raw(of.gid)))?;
    finish(directory, Attributes { uid: 0, gid: 0, ..of }, xattrs)
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// A borrowed descriptor of a shared one.
pub(super) fn fd(shared: &Rc<OwnedFd>) -> BorrowedFd<'_> {
    shared.as_fd()
}
