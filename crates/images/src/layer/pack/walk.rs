//! From files of a tree to entries of an archive.
//!
//! What is walked belonged to a container, and it may still run: every step goes through a descriptor and follows no
//! link.

use super::{
    super::{OPAQUE, OPAQUE_ATTRIBUTE, WHITEOUT, keeps_attribute},
    PackError,
};
use crate::tarball::{Entry, Extent, Kind, Writer, shown};
use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
};

/// Writes everything under `root`, without the root itself; but if that is opaque, as the root of an unpacked layer may be,
/// the layer says so.
pub(super) fn walk<W: Write>(root: &Path, latest: Option<i64>, writer: &mut Writer<W>) -> Result<(), PackError> {
    let top = || "/".to_owned();
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root =
        fs::open(root, flags, Mode::empty()).map_err(|error| PackError::Read { entry: top(), source: error.into() })?;
    let mut walker = Walker { latest, writer, links: HashMap::new(), buffer: vec![0; 256 << 10] };
    let opaque = attribute(root.as_fd(), OPAQUE_ATTRIBUTE);
    if opaque.map_err(|source| PackError::Read { entry: top(), source })?.is_some_and(|value| value == b"y") {
        walker.marker(OPAQUE.to_vec())?;
    }
    let mut stack = vec![walker.open(root, Vec::new())?];
    // By a stack of our own: folders may be nested deeper than a thread's stack bears.
    while let Some(directory) = stack.last_mut() {
        let Some(name) = directory.names.pop() else {
            stack.pop();
            continue;
        };
        let path = [directory.path.as_slice(), name.as_bytes()].concat();
        if let Some(below) = walker.visit(directory.fd.as_fd(), &name, path)? {
            stack.push(below);
        }
    }
    Ok(())
}

struct Directory {
    fd: OwnedFd,
    /// With a slash at its end, unless it is the root.
    path: Vec<u8>,
    /// Still to be visited, the next one last.
    names: Vec<CString>,
}

struct Walker<'a, W> {
    latest: Option<i64>,
    writer: &'a mut Writer<W>,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

/// Deeper than this no archive is unpacked again.
const MAX_DEPTH: usize = 512;

impl<W: Write> Walker<'_, W> {
    fn open(&self, fd: OwnedFd, path: Vec<u8>) -> Result<Directory, PackError> {
        let fail = |error: Errno| read_error(&path, error.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name().to_owned();
            if !matches!(name.as_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        if path.iter().filter(|b| **b == b'/').count() >= MAX_DEPTH {
            return Err(PackError::Unsupported { entry: shown(&path), problem: "it is nested too deeply" });
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Directory { fd, path, names })
    }

    /// Writes one entry; returns the directory to go on with, if it is one.
    fn visit(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        mut path: Vec<u8>,
    ) -> Result<Option<Directory>, PackError> {
        let found =
            fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| read_error(&path, error.into()))?;
        let unsupported = |problem| PackError::Unsupported { entry: shown(&path), problem };
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::BlockDevice => Kind::Block,
            FileType::CharacterDevice if found.st_rdev == 0 => return self.whiteout(&path, name).map(|()| None),
            FileType::CharacterDevice => Kind::Character,
            // A socket is nothing without its process.
            FileType::Socket => return Ok(None),
            FileType::Unknown => return Err(unsupported("its type is not known")),
        };
        if name.as_bytes().starts_with(WHITEOUT) {
            return Err(unsupported("its name begins with `.wh.`, which means a deleted file in a layer"));
        }
        if kind == Kind::Directory {
            path.push(b'/');
        }
        let mut entry = Entry::new(path, kind);
        entry.mode = found.st_mode & 0o7777;
        (entry.uid, entry.gid) = (found.st_uid, found.st_gid);
        entry.mtime = self.latest.map_or(found.st_mtime, |latest| latest.min(found.st_mtime));
        if kind != Kind::Directory && found.st_nlink > 1 {
            let first = self.links.entry((found.st_dev, found.st_ino)).or_insert_with(|| entry.path.clone());
            if *first != entry.path {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                self.write(&entry)?;
                return Ok(None);
            }
        }
        match kind {
            Kind::Directory => return self.directory(parent, name, entry).map(Some),
            Kind::File => self.file(parent, name, entry, &found)?,
            Kind::Symlink => {
                let target =
                    fs::readlinkat(parent, name, Vec::new()).map_err(|error| read_error(&entry.path, error.into()))?;
                entry.link = target.into_bytes();
                self.write(&entry)?;
            }
            Kind::Character | Kind::Block => {
                entry.device = (fs::major(found.st_rdev), fs::minor(found.st_rdev));
                self.write(&entry)?;
            }
            Kind::Fifo | Kind::HardLink => self.write(&entry)?,
        }
        Ok(None)
    }

    fn whiteout(&mut self, path: &[u8], name: &CString) -> Result<(), PackError> {
        let parent = &path[..path.len() - name.as_bytes().len()];
        self.marker([parent, WHITEOUT, name.as_bytes()].concat())
    }

    fn marker(&mut self, path: Vec<u8>) -> Result<(), PackError> {
        self.write(&Entry::new(path, Kind::File))
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, name: &CString, mut entry: Entry) -> Result<Directory, PackError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fail = |error: Errno| read_error(&entry.path, error.into());
        let fd = fs::openat(parent, name, flags, Mode::empty()).map_err(fail)?;
        let opaque = attributes(fd.as_fd(), &mut entry)?;
        self.write(&entry)?;
        if opaque {
            self.marker([entry.path.as_slice(), OPAQUE].concat())?;
        }
        self.open(fd, entry.path)
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        mut entry: Entry,
        found: &Stat,
    ) -> Result<(), PackError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fail = |error: io::Error| read_error(&entry.path, error);
        let file = File::from(fs::openat(parent, name, flags, Mode::empty()).map_err(|error| fail(error.into()))?);
        let now = fs::fstat(&file).map_err(|error| fail(error.into()))?;
        let changed =
            |path: &[u8]| PackError::Unsupported { entry: shown(path), problem: "it changed while it was packed" };
        if (now.st_dev, now.st_ino) != (found.st_dev, found.st_ino) {
            return Err(changed(&entry.path));
        }
        entry.size = u64::try_from(now.st_size).unwrap_or(0);
        attributes(file.as_fd(), &mut entry)?;
        entry.extents = extents(&file, entry.size, &mut self.buffer).map_err(|error| read_error(&entry.path, error))?;
        self.write(&entry)?;
        let whole = [Extent { offset: 0, length: entry.size }];
        for extent in entry.extents.as_deref().unwrap_or(&whole) {
            let mut done = 0;
            while done < extent.length {
                let length = usize::try_from(extent.length - done).unwrap_or(usize::MAX).min(self.buffer.len());
                let got = file.read_at(&mut self.buffer[..length], extent.offset + done);
                let got = got.map_err(|error| read_error(&entry.path, error))?;
                if got == 0 {
                    return Err(changed(&entry.path));
                }
                self.writer.data(&self.buffer[..got]).map_err(|source| PackError::Write { source })?;
                done += got as u64;
            }
        }
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> Result<(), PackError> {
        if entry.path.len() > 4095 {
            return Err(PackError::Unsupported { entry: entry.name(), problem: "its name is longer than 4095 bytes" });
        }
        self.writer.entry(entry).map_err(|source| PackError::Write { source })
    }
}

fn read_error(path: &[u8], source: io::Error) -> PackError {
    PackError::Read { entry: shown(path), source }
}

/// Takes over the attributes that are part of an image; returns whether the directory is opaque.
fn attributes(file: BorrowedFd<'_>, entry: &mut Entry) -> Result<bool, PackError> {
    let fail = |error: Errno| PackError::Read { entry: shown(&entry.path), source: error.into() };
    // Never empty: an empty buffer asks for the size alone.
    let mut list = vec![0; 4096];
    let names = loop {
        match fs::flistxattr(file, &mut list) {
            Ok(length) => break &list[..length],
            // The kernel's own limit is 64 KiB.
            Err(Errno::RANGE) if list.len() < 1 << 20 => list.resize(list.len() * 4, 0),
            Err(Errno::NOTSUP) => break &[][..],
            Err(error) => return Err(fail(error)),
        }
    };
    let mut names: Vec<CString> =
        names.split(|b| *b == 0).filter(|name| !name.is_empty()).filter_map(|name| CString::new(name).ok()).collect();
    names.sort_unstable();
    let mut opaque = false;
    for name in names {
        let value = match attribute(file, &name) {
            Ok(Some(value)) => value,
            Ok(None) => continue,
            Err(error) => return Err(PackError::Read { entry: shown(&entry.path), source: error }),
        };
        match name.as_bytes() {
            _ if name.as_c_str() == OPAQUE_ATTRIBUTE => opaque = value == b"y",
            b"trusted.overlay.redirect" | b"trusted.overlay.metacopy" => {
                let problem = "the overlay keeps its name or data elsewhere (redirect_dir or metacopy is on)";
                return Err(PackError::Unsupported { entry: shown(&entry.path), problem });
            }
            bytes if keeps_attribute(bytes) => entry.xattrs.push((bytes.to_vec(), value)),
            _ => {}
        }
    }
    Ok(opaque)
}

/// `None`: it went meanwhile.
fn attribute(file: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 4096];
    loop {
        match fs::fgetxattr(file, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(Errno::RANGE) if value.len() < 1 << 20 => value.resize(value.len() * 4, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Files below this size are written whole.
const SPARSE_FROM: u64 = 1 << 20;
/// Zeros count in pieces of this size.
const PIECE: u64 = 64 << 10;

/// The pieces of a large file that are not zero, if at least half of it is. It depends on the content alone, never on
/// how the file system keeps it: a copy of the file gives the same layer.
fn extents(file: &File, size: u64, buffer: &mut [u8]) -> io::Result<Option<Vec<Extent>>> {
    if size < SPARSE_FROM {
        return Ok(None);
    }
    let mut extents: Vec<Extent> = Vec::new();
    let mut stored = 0;
    let mut at = 0;
    while at < size {
        // Holes of the file system are skipped without reading: they are zeros.
        match fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => at = at.max(data - data % PIECE),
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        }
        let length = PIECE.min(size.saturating_sub(at));
        let bytes = &mut buffer[..usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(bytes, at)?;
        if bytes.iter().any(|b| *b != 0) {
            stored += length;
            match extents.last_mut() {
                Some(last) if last.offset + last.length == at => last.length += length,
                _ => extents.push(Extent { offset: at, length }),
            }
        }
        // So many holes of the size of a piece describe a file of terabytes.
        if stored > size / 2 || extents.len() > 100_000 {
            return Ok(None);
        }
        at += length;
    }
    Ok(Some(extents))
}
