//! Copying a tree with everything that its files have: owners, modes, times, extended attributes, links, holes.

use super::{At, DEEPEST, VolumeError};
use crate::runtime::tree;
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
        chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, ftruncate, futimens, lgetxattr, linkat,
        llistxattr, lsetxattr, mkdirat, mknodat, openat, openat2, readlinkat, seek, symlinkat, utimensat,
    },
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

/// Bytes moved by one call.
const CHUNK: usize = 1 << 20;

/// The folder that a container has at this path; `None` where it has none, be it that there is a file.
pub(super) fn folder(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, VolumeError> {
    match tree::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno).at("open", path),
    }
}

/// Copies a folder into another, its own attributes included; whether there was anything in it. `path` is what errors name.
pub(super) fn all(source: &OwnedFd, target: BorrowedFd<'_>, path: &Path) -> Result<bool, VolumeError> {
    let mut copy =
        Copy { top: target, links: HashMap::new(), path: path.to_owned(), below: PathBuf::new(), any: false };
    copy.folder(source, target, 0)?;
    Ok(copy.any)
}

struct Copy<'a> {
    /// Where the tree is copied to.
    top: BorrowedFd<'a>,
    /// Files of several names that have been copied, by device and inode: their first copy, and how many names are to come.
    links: HashMap<(u64, u64), (PathBuf, u64)>,
    /// What is being copied, inside the container.
    path: PathBuf,
    /// The same, below the top of the copy.
    below: PathBuf,
    any: bool,
}

impl Copy<'_> {
    fn folder(&mut self, source: &OwnedFd, target: BorrowedFd<'_>, depth: usize) -> Result<(), VolumeError> {
        if depth > DEEPEST {
            return Err(VolumeError::TooDeep { path: self.path.clone(), most: DEEPEST });
        }
        let found = fstat(source).at("look at", &self.path)?;
        for name in names(source.as_fd(), &self.path)? {
            let name = name.at("list", &self.path)?;
            self.any = true;
            self.path.push(text(&name));
            self.below.push(text(&name));
            self.entry(source, target, &name, depth)?;
            self.path.pop();
            self.below.pop();
        }
        // Last: what is made in a folder changes its times, and inherits from it.
        self.finish(source, target, &found)
    }

    fn entry(
        &mut self,
        source: &OwnedFd,
        target: BorrowedFd<'_>,
        name: &CStr,
        depth: usize,
    ) -> Result<(), VolumeError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat2(source, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
            Err(Errno::NOENT) => return Ok(()), // removed meanwhile by who uses the same root
            Err(Errno::XDEV) => return Ok(()),  // what is mounted there is not of the image
            opened => opened.at("open", &self.path)?,
        };
        let found = fstat(&opened).at("look at", &self.path)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind != FileType::Directory && self.link(target, name, &found)? {
            return Ok(());
        }
        match kind {
            FileType::Directory => {
                mkdirat(target, name, Mode::from_raw_mode(0o700)).at("make a copy of", &self.path)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let from = openat(&opened, c".", flags, Mode::empty()).at("open", &self.path)?;
                let to = openat(target, name, flags, Mode::empty()).at("open the copy of", &self.path)?;
                self.folder(&from, to.as_fd(), depth + 1)
            }
            FileType::RegularFile => {
                // By its descriptor: whatever has that name by now.
                let again = format!("/proc/self/fd/{}", opened.as_raw_fd());
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let from = rustix::fs::open(again, flags, Mode::empty()).at("open", &self.path)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let to = openat(target, name, flags, Mode::from_raw_mode(0o600)).at("make a copy of", &self.path)?;
                self.content(&from, &to)?;
                self.finish(&from, to.as_fd(), &found)
            }
            FileType::Symlink => {
                let link = readlinkat(&opened, c"", Vec::new()).at("read", &self.path)?;
                symlinkat(link, target, name).at("make a copy of", &self.path)?;
                self.finish_name(source, target, name, &found)
            }
            // A socket is nothing without the process that listens.
            FileType::Socket | FileType::Unknown => Ok(()),
            _ => {
                let mode = Mode::from_raw_mode(found.st_mode & 0o7777);
                match mknodat(target, name, kind, mode, found.st_rdev) {
                    // Who is root of other users may make FIFOs and no devices, which are of no use to it either.
                    Err(Errno::PERM) if kind != FileType::Fifo => return Ok(()),
                    made => made.at("make a copy of", &self.path)?,
                }
                rustix::fs::chmodat(target, name, mode, AtFlags::empty())
                    .at("set the mode of the copy of", &self.path)?;
                self.finish_name(source, target, name, &found)
            }
        }
    }

    /// A name more for a file that was copied already.
    fn link(&mut self, target: BorrowedFd<'_>, name: &CStr, found: &Stat) -> Result<bool, VolumeError> {
        #[allow(clippy::useless_conversion)] // the width of these fields is not the same on every machine
        let (id, names) = ((u64::from(found.st_dev), u64::from(found.st_ino)), u64::from(found.st_nlink));
        if names < 2 {
            return Ok(false);
        }
        let Some((first, left)) = self.links.get_mut(&id) else {
            self.links.insert(id, (self.below.clone(), names - 1));
            return Ok(false);
        };
        match linkat(self.top, first.as_path(), target, name, AtFlags::empty()) {
            // More names than a file can have there, or too long a way to the first: it is copied once more.
            Err(Errno::MLINK | Errno::NAMETOOLONG) => return Ok(false),
            linked => linked.at("link the copy of", &self.path)?,
        }
        *left -= 1;
        if *left == 0 {
            self.links.remove(&id);
        }
        Ok(true)
    }

    /// Copies the data; holes stay holes, so that a copy is never larger than what it was made from.
    fn content(&self, from: &OwnedFd, to: &OwnedFd) -> Result<(), VolumeError> {
        let size = u64::try_from(fstat(from).at("look at", &self.path)?.st_size).unwrap_or(0);
        ftruncate(to, size).at("write the copy of", &self.path)?;
        let mut position = 0;
        while position < size {
            let data = match seek(from, SeekFrom::Data(position)) {
                Err(Errno::NXIO) => break,     // nothing but a hole is left
                Err(Errno::INVAL) => position, // a file system that does not know of holes
                data => data.at("read", &self.path)?,
            };
            let end = match seek(from, SeekFrom::Hole(data)) {
                Err(Errno::INVAL | Errno::NXIO) => size,
                end => end.at("read", &self.path)?.min(size),
            };
            self.range(from, to, data..end)?;
            position = end.max(data + 1);
        }
        Ok(())
    }

    fn range(&self, from: &OwnedFd, to: &OwnedFd, range: std::ops::Range<u64>) -> Result<(), VolumeError> {
        let (mut read, mut written) = (range.start, range.start);
        let mut buffer = Vec::new();
        while read < range.end {
            let length = usize::try_from(range.end - read).unwrap_or(CHUNK).min(CHUNK);
            if buffer.is_empty() {
                // Shares blocks where the file system can; not every pair of file systems can do it at all.
                match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), length) {
                    Ok(0) => return Ok(()), // it has become shorter
                    Ok(_) | Err(Errno::INTR) => continue,
                    Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                        buffer = vec![0; CHUNK];
                    }
                    Err(errno) => return Err(errno).at("copy", &self.path),
                }
            }
            let count = match rustix::io::pread(from, &mut buffer[..length], read) {
                Err(Errno::INTR) => continue,
                count => count.at("read", &self.path)?,
            };
            if count == 0 {
                return Ok(());
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                match rustix::io::pwrite(to, rest, written) {
                    Err(Errno::INTR) => {}
                    wrote => {
                        let wrote = wrote.at("write the copy of", &self.path)?;
                        written += u64::try_from(wrote).unwrap_or(0);
                        rest = &rest[wrote..];
                    }
                }
            }
            read += u64::try_from(count).unwrap_or(0);
        }
        Ok(())
    }

    /// Owner, mode, attributes and times, in this order: a change of owner takes set-uid bits and capabilities away.
    fn finish(&self, from: &OwnedFd, to: BorrowedFd<'_>, found: &Stat) -> Result<(), VolumeError> {
        let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
        fchown(to, Some(uid), Some(gid)).at("own the copy of", &self.path)?;
        fchmod(to, Mode::from_raw_mode(found.st_mode & 0o7777)).at("set the mode of the copy of", &self.path)?;
        let list = |buffer: &mut Vec<u8>| flistxattr(from, rustix::buffer::spare_capacity(buffer)).map(drop);
        let get =
            |name: &CStr, buffer: &mut Vec<u8>| fgetxattr(from, name, rustix::buffer::spare_capacity(buffer)).map(drop);
        let set = |name: &CStr, value: &[u8]| fsetxattr(to, name, value, XattrFlags::empty());
        self.attributes(list, get, set)?;
        futimens(to, &times(found)).at("set the times of the copy of", &self.path)
    }

    /// The same for what can not be opened.
    fn finish_name(
        &self,
        source: &OwnedFd,
        target: BorrowedFd<'_>,
        name: &CStr,
        found: &Stat,
    ) -> Result<(), VolumeError> {
        let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
        chownat(target, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at("own the copy of", &self.path)?;
        let in_folder =
            |folder: BorrowedFd<'_>| Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(text(name));
        let (from, to) = (in_folder(source.as_fd()), in_folder(target));
        let list = |buffer: &mut Vec<u8>| llistxattr(&from, rustix::buffer::spare_capacity(buffer)).map(drop);
        let get = |name: &CStr, buffer: &mut Vec<u8>| {
            lgetxattr(&from, name, rustix::buffer::spare_capacity(buffer)).map(drop)
        };
        let set = |name: &CStr, value: &[u8]| lsetxattr(&to, name, value, XattrFlags::empty());
        self.attributes(list, get, set)?;
        utimensat(target, name, &times(found), AtFlags::SYMLINK_NOFOLLOW).at("set the times of the copy of", &self.path)
    }

    fn attributes(
        &self,
        list: impl Fn(&mut Vec<u8>) -> rustix::io::Result<()>,
        get: impl Fn(&CStr, &mut Vec<u8>) -> rustix::io::Result<()>,
        set: impl Fn(&CStr, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), VolumeError> {
        // The kernel's own limits of a list and of a value (xattr(7)): nothing is larger.
        let mut all = Vec::with_capacity(64 << 10);
        match list(&mut all) {
            Err(Errno::OPNOTSUPP) => return Ok(()),
            listed => listed.at("list attributes of", &self.path)?,
        }
        for name in all.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            // How layers are stacked is of no use in a volume; a label says where a file is, and a copy is elsewhere.
            if name.starts_with(b"trusted.overlay.") || name == b"security.selinux" {
                continue;
            }
            let Ok(name) = CString::new(name) else { continue };
            let mut value = Vec::with_capacity(64 << 10);
            match get(&name, &mut value) {
                Err(Errno::NODATA) => continue, // removed meanwhile
                got => got.at("read attributes of", &self.path)?,
            }
            match set(&name, &value) {
                // The file system of the volumes does not know it, or root of other users may not set it.
                Err(errno @ (Errno::OPNOTSUPP | Errno::PERM)) => {
                    tracing::warn!(path = %self.path.display(), attribute = ?name, %errno, "an attribute is not copied");
                }
                set => set.at("set attributes of the copy of", &self.path)?,
            }
        }
        Ok(())
    }
}

fn times(found: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    #[allow(clippy::useless_conversion, clippy::cast_possible_wrap)] // the width is not the same on every machine
    let nanoseconds = |value| i64::try_from(value).unwrap_or(0);
    Timestamps {
        last_access: time(found.st_atime, nanoseconds(found.st_atime_nsec)),
        last_modification: time(found.st_mtime, nanoseconds(found.st_mtime_nsec)),
    }
}

/// The names in a folder, but `.` and `..`, one by one.
pub(super) fn names(
    folder: BorrowedFd<'_>,
    path: &Path,
) -> Result<impl Iterator<Item = rustix::io::Result<CString>> + use<>, VolumeError> {
    let entries = Dir::read_from(folder).at("list", path)?;
    let special = |name: &CStr| matches!(name.to_bytes(), b"." | b"..");
    Ok(entries.filter_map(move |entry| match entry {
        Ok(entry) if special(entry.file_name()) => None,
        entry => Some(entry.map(|entry| entry.file_name().to_owned())),
    }))
}

/// A name as part of a path.
pub(super) fn text(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}
