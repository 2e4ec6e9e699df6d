//! A tree of files copied with all that belongs to it: owners, modes, times, extended attributes, hard links, devices.

use rustix::{
    buffer::spare_capacity,
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
        fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat, readlinkat,
        statat, symlinkat, utimensat,
    },
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Deepest folder that is copied: each level holds two descriptors.
const DEEPEST: usize = 200;

/// Copies what is in `source`, and what it is itself, into `target`, which is empty.
///
/// # Errors
/// The first; what was copied stays.
pub(super) fn tree(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let mut copy = Copy { target: target.as_fd(), linked: HashMap::new() };
    copy.folder(source.as_fd(), target.as_fd(), &mut Vec::new())
}

struct Copy<'t> {
    target: BorrowedFd<'t>,
    /// Files with several names, by device and number: where the first of them is in the target.
    linked: HashMap<(u64, u64), CString>,
}

impl Copy<'_> {
    fn folder(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>, path: &mut Vec<CString>) -> io::Result<()> {
        if path.len() > DEEPEST {
            return Err(io::Error::other(format!("folders are nested more than {DEEPEST} deep")));
        }
        for entry in Dir::read_from(source)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            path.push(name.to_owned());
            self.entry(source, target, name, path)?;
            path.pop();
        }
        let stat = fstat(source)?;
        attributes(source, target)?;
        owned(target, &stat)
    }

    fn entry(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        path: &mut Vec<CString>,
    ) -> io::Result<()> {
        let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let place = whole(path)?;
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                return Ok(linkat(self.target, first, target, name, AtFlags::empty())?);
            }
            self.linked.insert((stat.st_dev, stat.st_ino), place);
        }
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match kind {
            FileType::Directory => {
                mkdirat(target, name, Mode::from_raw_mode(0o700))?;
                let from = openat(source, name, read | OFlags::DIRECTORY, Mode::empty())?;
                let to = openat(target, name, read | OFlags::DIRECTORY, Mode::empty())?;
                self.folder(from.as_fd(), to.as_fd(), path)
            }
            FileType::RegularFile => {
                let mut from = File::from(openat(source, name, read, Mode::empty())?);
                let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut to = File::from(openat(target, name, create, Mode::from_raw_mode(0o600))?);
                io::copy(&mut from, &mut to)?;
                attributes(from.as_fd(), to.as_fd())?;
                owned(to.as_fd(), &stat)
            }
            FileType::Symlink => {
                let to = readlinkat(source, name, Vec::new())?;
                symlinkat(&*to, target, name)?;
                named(target, name, &stat)
            }
            // A socket that nobody listens on; it means nothing without its program.
            FileType::Socket => Ok(()),
            other => {
                mknodat(target, name, other, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev)?;
                named(target, name, &stat)?;
                Ok(rustix::fs::chmodat(target, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?)
            }
        }
    }
}

fn whole(path: &[CString]) -> io::Result<CString> {
    let parts: Vec<&[u8]> = path.iter().map(|name| name.as_bytes()).collect();
    Ok(CString::new(parts.join(&b'/'))?)
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Owner before mode: a change of owner takes set-user-id away.
fn owned(file: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    fchown(file, uid, gid)?;
    fchmod(file, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(futimens(file, &times(stat))?)
}

fn named(folder: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(utimensat(folder, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Extended attributes, without those by which an overlay keeps its books.
fn attributes(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let mut names: Vec<u8> = Vec::with_capacity(64 << 10);
    match flistxattr(source, spare_capacity(&mut names)) {
        Err(Errno::NOTSUP) => return Ok(()),
        listed => drop(listed?),
    }
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let name = CString::new(name)?;
        let mut value: Vec<u8> = Vec::with_capacity(64 << 10);
        fgetxattr(source, &name, spare_capacity(&mut value))?;
        match fsetxattr(target, &name, &value, XattrFlags::empty()) {
            Err(Errno::NOTSUP) => {}
            set => set?,
        }
    }
    Ok(())
}
