//! From the entries of an archive to files of a tree.

use super::{
    Devices, Limits, OPAQUE, OPAQUE_ATTRIBUTE, WHITEOUT,
    error::Refusal,
    keeps_attribute,
    path::sanitise,
    tree::{self, Attributes, Tree, fd},
};
use crate::{
    store::{WRITE_EARLY, write_early},
    tarball::{Entry, Kind, Reader, TarError},
};
use rustix::fs::FileType;
use std::{
    collections::HashMap,
    ffi::CString,
    fs::File,
    io::{self, BufRead, Write},
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
};

/// Why an entry could not be applied.
#[derive(Debug)]
pub(super) enum ApplyError {
    Tar(TarError),
    Refused {
        entry: String,
        refusal: Refusal,
    },
    Write {
        entry: String,
        source: io::Error,
    },
    /// The disk is past its limit, or the like.
    Store(crate::StoreError),
}

impl From<TarError> for ApplyError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// What was made.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Applied {
    pub entries: u64,
    /// Bytes on disk, about.
    pub size: u64,
}

/// Asked every now and then; may end the work.
pub(super) type Check<'a> = &'a mut dyn FnMut() -> Result<(), crate::StoreError>;

/// Unpacks an archive into an empty directory.
pub(super) fn apply<R: BufRead>(
    reader: &mut Reader<R>,
    root: &Path,
    devices: Devices,
    limits: Limits,
    check: Check<'_>,
) -> Result<Applied, ApplyError> {
    let writer = Writer::new(root, devices, limits);
    let mut writer = writer.map_err(|source| ApplyError::Write { entry: "/".to_owned(), source })?;
    while let Some(entry) = reader.entry()? {
        writer.applied.entries += 1;
        let made = writer.make(&entry, reader, check);
        made.map_err(|failure| match failure {
            Failure::Tar(error) => ApplyError::Tar(error),
            Failure::Refused(refusal) => ApplyError::Refused { entry: entry.name(), refusal },
            Failure::Io(source) => ApplyError::Write { entry: entry.name(), source },
            Failure::Store(error) => ApplyError::Store(error),
        })?;
    }
    writer.finish_directories()?;
    Ok(writer.applied)
}

enum Failure {
    Tar(TarError),
    Refused(Refusal),
    Io(io::Error),
    Store(crate::StoreError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a directory is to be when all is in it.
struct Directory {
    attributes: Attributes,
    xattrs: Vec<(CString, Vec<u8>)>,
    opaque: bool,
}

impl Directory {
    /// Bytes that it takes in memory, about.
    fn held(&self) -> usize {
        let attribute =
            |(name, value): &(CString, Vec<u8>)| size_of::<(CString, Vec<u8>)>() + name.count_bytes() + value.len();
        HELD + self.xattrs.iter().map(attribute).sum::<usize>()
    }
}

/// A directory that the archive does not describe, but has something in.
const IMPLIED: Attributes = Attributes { uid: 0, gid: 0, mode: 0o755, mtime: 0 };

struct Writer {
    tree: Tree,
    devices: Devices,
    /// By path; the root's is empty. Until the end all of them are root's, 0700, and never setgid, so that nothing in
    /// them takes over a group.
    directories: HashMap<Vec<u8>, Directory>,
    /// Bytes that `directories` takes, about.
    held: usize,
    /// Directories that were made for what is in them.
    implied: u64,
    /// Entries and implied directories that may be.
    most: u64,
    applied: Applied,
    unchecked: u64,
}

/// The room on the disk is looked at each time so much was written.
const CHECK_EACH: u64 = 64 << 20;
/// What an object without data takes on a disk, about.
const OBJECT: u64 = 4096;
/// What may be kept in memory of the directories of a layer: half a million of them without attributes.
const MOST_HELD: usize = 128 << 20;
/// What one takes there besides its name and attributes.
const HELD: usize = 2 * size_of::<(Vec<u8>, Directory)>() + 32;
/// Files from this size on are written early: smaller ones are written faster together.
const EARLY_FILE: u64 = 64 << 10;
/// Zeros are left out in pieces of this size.
const HOLE: usize = 64 << 10;
static ZEROS: [u8; HOLE] = [0; HOLE];

impl Writer {
    fn new(root: &Path, devices: Devices, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            tree: Tree::open(root)?,
            devices,
            directories: HashMap::new(),
            held: 0,
            implied: 0,
            most: limits.entries,
            applied: Applied::default(),
            unchecked: 0,
        })
    }

    fn make<R: BufRead>(&mut self, entry: &Entry, reader: &mut Reader<R>, check: Check<'_>) -> Result<(), Failure> {
        self.place(entry, reader, check)?;
        if self.applied.entries.saturating_add(self.implied) > self.most {
            return Err(Refusal::TooManyObjects(self.most).into());
        }
        // Without data it takes room all the same.
        let attributes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.unchecked += OBJECT + attributes as u64;
        self.check(check)
    }

    fn check(&mut self, check: Check<'_>) -> Result<(), Failure> {
        if self.unchecked < CHECK_EACH {
            return Ok(());
        }
        self.unchecked = 0;
        check().map_err(Failure::Store)
    }

    fn place<R: BufRead>(&mut self, entry: &Entry, reader: &mut Reader<R>, check: Check<'_>) -> Result<(), Failure> {
        let components = sanitise(&entry.path).map_err(Refusal::Path)?;
        let Some((name, parents)) = components.split_last() else {
            return match entry.kind {
                Kind::Directory => self.describe(Vec::new(), entry),
                _ => Err(Refusal::Root.into()),
            };
        };
        // What aufs kept for itself at the top of a layer.
        if components[0].starts_with(b".wh..wh.") && components[0] != OPAQUE {
            return Ok(());
        }
        if parents.iter().any(|parent| parent.starts_with(WHITEOUT)) {
            return Err(Refusal::Whiteout.into());
        }
        let parent = self.parent(parents)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if entry.kind != Kind::File || entry.size != 0 {
                return Err(Refusal::Whiteout.into());
            }
            return match *name {
                OPAQUE => self.opaque(parents),
                // Other names that aufs kept for itself.
                _ if hidden.starts_with(WHITEOUT) => Ok(()),
                _ => self.hide(&parent, parents, hidden),
            };
        }
        let attributes = Attributes { uid: entry.uid, gid: entry.gid, mode: entry.mode, mtime: entry.mtime };
        if entry.kind == Kind::Directory {
            self.make_directory(&components)?;
            return self.describe(components.join(&b'/'), entry);
        }
        match entry.kind {
            Kind::File => {
                let mut file = self.fresh(&parent, name, |parent| tree::create(parent, name))?;
                self.fill(&mut file, entry, reader, check)?;
                tree::finish(file.as_fd(), attributes, &xattrs(entry)?)?;
            }
            Kind::Symlink => {
                self.fresh(&parent, name, |parent| tree::symlink(&entry.link, parent, name, attributes))?;
            }
            Kind::HardLink => self.link(entry, &parent, name)?,
            Kind::Fifo => {
                self.fresh(&parent, name, |parent| tree::node(parent, name, FileType::Fifo, (0, 0), attributes))?;
            }
            Kind::Character | Kind::Block => {
                let block = entry.kind == Kind::Block;
                if !self.devices.allow(block, entry.device) {
                    let (major, minor) = entry.device;
                    return Err(Refusal::Device { kind: if block { 'b' } else { 'c' }, major, minor }.into());
                }
                let kind = if block { FileType::BlockDevice } else { FileType::CharacterDevice };
                self.fresh(&parent, name, |parent| tree::node(parent, name, kind, entry.device, attributes))?;
            }
            Kind::Directory => {}
        }
        self.applied.size += 512;
        Ok(())
    }

    /// Makes something that is not a directory; what is not a directory and has the name already goes: the last entry of
    /// a name counts. A directory never goes: that is the first half of an escape.
    fn fresh<T>(
        &mut self,
        parent: &std::rc::Rc<std::os::fd::OwnedFd>,
        name: &[u8],
        make: impl Fn(std::os::fd::BorrowedFd<'_>) -> io::Result<T>,
    ) -> Result<T, Failure> {
        match make(fd(parent)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return Ok(other?),
        }
        if tree::look(fd(parent), name)?.is_some_and(|found| tree::is_directory(&found)) {
            return Err(Refusal::ReplacesDirectory.into());
        }
        tree::remove_file(fd(parent), name)?;
        Ok(make(fd(parent))?)
    }

    fn link(&mut self, entry: &Entry, parent: &std::rc::Rc<std::os::fd::OwnedFd>, name: &[u8]) -> Result<(), Failure> {
        let target = sanitise(&entry.link).map_err(Refusal::LinkTarget)?;
        let Some((target_name, target_parents)) = target.split_last() else {
            return Err(Refusal::LinkMissing.into());
        };
        let from = match self.tree.directory(target_parents) {
            Ok(from) => from,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refusal::LinkMissing.into()),
            Err(error) => return Err(through(error)),
        };
        let found = tree::look(fd(&from), target_name)?.ok_or(Refusal::LinkMissing)?;
        if tree::is_directory(&found) || tree::is_whiteout(&found) {
            return Err(Refusal::LinkMissing.into());
        }
        let here = tree::look(fd(parent), name)?;
        if here.is_some_and(|here| (here.st_dev, here.st_ino) == (found.st_dev, found.st_ino)) {
            return Ok(());
        }
        self.fresh(parent, name, |parent| tree::link(fd(&from), target_name, parent, name))
    }

    /// The directory of these components, made where the archive left it out.
    fn parent(&mut self, components: &[&[u8]]) -> Result<std::rc::Rc<std::os::fd::OwnedFd>, Failure> {
        match self.tree.directory(components) {
            Ok(directory) => return Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A whiteout of this layer may stand where a directory of this layer comes: found when it is made.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => return Err(through(error)),
        }
        for depth in 1..=components.len() {
            if self.make_directory(&components[..depth])? {
                self.implied += 1;
                self.unchecked += OBJECT;
            }
        }
        self.tree.directory(components).map_err(through)
    }

    /// Returns whether it was not there before.
    fn make_directory(&mut self, components: &[&[u8]]) -> Result<bool, Failure> {
        let Some((name, parents)) = components.split_last() else { return Ok(false) };
        let parent = if parents.is_empty() { self.tree.directory(parents)? } else { self.parent(parents)? };
        let mut opaque = false;
        match tree::make_directory(fd(&parent), name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match tree::look(fd(&parent), name)? {
                    Some(found) if tree::is_directory(&found) => return Ok(false),
                    Some(found) if tree::is_whiteout(&found) => {}
                    Some(found) if FileType::from_raw_mode(found.st_mode) == FileType::Symlink => {
                        return Err(Refusal::ThroughLink.into());
                    }
                    _ => return Err(Refusal::ReplacedByDirectory.into()),
                }
                // The whiteout hides what lower layers have; the directory of this layer must hide it too.
                opaque = true;
                tree::remove_file(fd(&parent), name)?;
                tree::make_directory(fd(&parent), name)?;
            }
            Err(error) => return Err(error.into()),
        }
        self.applied.size += 4096;
        let implied = Directory { attributes: IMPLIED, xattrs: Vec::new(), opaque };
        self.remember(components.join(&b'/'), implied)?;
        Ok(true)
    }

    fn remember(&mut self, path: Vec<u8>, directory: Directory) -> Result<(), Failure> {
        let name = path.len();
        self.held += name + directory.held();
        if let Some(before) = self.directories.insert(path, directory) {
            self.held -= name + before.held();
        }
        if self.held > MOST_HELD { Err(Refusal::DirectoriesTooLarge(MOST_HELD).into()) } else { Ok(()) }
    }

    fn describe(&mut self, path: Vec<u8>, entry: &Entry) -> Result<(), Failure> {
        let attributes = Attributes { uid: entry.uid, gid: entry.gid, mode: entry.mode, mtime: entry.mtime };
        let opaque = self.directories.get(&path).is_some_and(|known| known.opaque);
        self.remember(path, Directory { attributes, xattrs: xattrs(entry)?, opaque })
    }

    fn opaque(&mut self, directory: &[&[u8]]) -> Result<(), Failure> {
        let path = directory.join(&b'/');
        let implied = || Directory { attributes: IMPLIED, xattrs: Vec::new(), opaque: true };
        self.directories.entry(path).or_insert_with(implied).opaque = true;
        Ok(())
    }

    /// A whiteout hides what lower layers have, never what this layer has (OCI layer specification, "Whiteouts").
    fn hide(
        &mut self,
        parent: &std::rc::Rc<std::os::fd::OwnedFd>,
        parents: &[&[u8]],
        name: &[u8],
    ) -> Result<(), Failure> {
        if name.is_empty() || name == b"." || name == b".." {
            return Err(Refusal::Whiteout.into());
        }
        match tree::look(fd(parent), name)? {
            None => Ok(tree::whiteout(fd(parent), name)?),
            Some(found) if tree::is_directory(&found) => self.opaque(&[parents, &[name]].concat()),
            Some(_) => Ok(()),
        }
    }

    fn fill<R: BufRead>(
        &mut self,
        file: &mut File,
        entry: &Entry,
        reader: &mut Reader<R>,
        check: Check<'_>,
    ) -> Result<(), Failure> {
        let whole = [crate::tarball::Extent { offset: 0, length: entry.size }];
        // Where the file ends if nothing else is done.
        let mut reached = 0;
        let mut begun = 0;
        for extent in entry.extents.as_deref().unwrap_or(&whole) {
            let mut at = extent.offset;
            let end = extent.offset + extent.length;
            while at < end {
                let piece = reader.data(end - at).map_err(Failure::Tar)?;
                let length = piece.len();
                if at == 0 && length as u64 == entry.size && length < HOLE {
                    file.write_all(piece)?;
                    self.applied.size += length as u64;
                    reached = entry.size;
                } else {
                    let (written, last) = write_with_holes(file, piece, at)?;
                    self.applied.size += written;
                    reached = last.unwrap_or(reached);
                }
                reader.consume(length);
                at += length as u64;
                if at.saturating_sub(begun) >= WRITE_EARLY {
                    write_early(file, begun, at - begun);
                    begun = at;
                }
                self.unchecked += length as u64;
                self.check(check)?;
            }
        }
        if reached < entry.size {
            file.set_len(entry.size)?;
        }
        if reached.saturating_sub(begun) >= EARLY_FILE {
            write_early(file, begun, reached - begun);
        }
        Ok(())
    }

    fn finish_directories(&mut self) -> Result<(), ApplyError> {
        let root = Directory { attributes: IMPLIED, xattrs: Vec::new(), opaque: false };
        self.directories.entry(Vec::new()).or_insert(root);
        for (path, directory) in std::mem::take(&mut self.directories) {
            let components: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|component| !component.is_empty()).collect();
            let mut finish = || -> io::Result<()> {
                let opened = self.tree.directory(&components)?;
                if directory.opaque {
                    tree::set_attribute(fd(&opened), OPAQUE_ATTRIBUTE, b"y")?;
                }
                tree::finish_directory(fd(&opened), directory.attributes, &directory.xattrs)
            };
            finish().map_err(|source| ApplyError::Write { entry: crate::tarball::shown(&path), source })?;
        }
        Ok(())
    }
}

/// Writes at an offset of a new file, leaving out zeros: pieces between two boundaries of [`HOLE`] that are nothing else.
/// Returns how many bytes were written, and where the last of them ended.
fn write_with_holes(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<(u64, Option<u64>)> {
    let (mut written, mut last) = (0, None);
    // Where the bytes begin that are to be written together.
    let mut pending = (at, bytes);
    let mut length = 0;
    let mut flush = |(at, bytes): (u64, &[u8]), length: usize| {
        if length > 0 {
            file.write_all_at(&bytes[..length], at)?;
            written += length as u64;
            last = Some(at + length as u64);
        }
        io::Result::Ok(())
    };
    while !bytes.is_empty() {
        let to_boundary = HOLE - usize::try_from(at % HOLE as u64).unwrap_or(0);
        let (piece, rest) = bytes.split_at(to_boundary.min(bytes.len()));
        at += piece.len() as u64;
        if *piece == ZEROS[..piece.len()] {
            flush(pending, length)?;
            length = 0;
            pending = (at, rest);
        } else {
            length += piece.len();
        }
        bytes = rest;
    }
    flush(pending, length)?;
    Ok((written, last))
}

/// A parent that is not a directory.
fn through(error: io::Error) -> Failure {
    match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR | rustix::io::Errno::XDEV) => {
            Refusal::ThroughLink.into()
        }
        _ => error.into(),
    }
}

/// The attributes that are part of an image.
fn xattrs(entry: &Entry) -> Result<Vec<(CString, Vec<u8>)>, Failure> {
    let mut kept = Vec::new();
    for (name, value) in &entry.xattrs {
        if name.starts_with(b"trusted.overlay.") {
            return Err(Refusal::OverlayAttribute.into());
        }
        if !keeps_attribute(name) {
            continue;
        }
        if name.len() > 255 || value.len() > 64 << 10 {
            return Err(Refusal::AttributeTooLarge.into());
        }
        // The reader takes no name with a NUL.
        if let Ok(name) = CString::new(name.as_slice()) {
            kept.push((name, value.clone()));
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarball::{self, Writer as TarWriter};

    #[test]
    fn the_disk_is_looked_at_also_when_nothing_has_data() {
        let mut writer = TarWriter::new(Vec::new());
        for n in 0..CHECK_EACH / OBJECT {
            let mut entry = Entry::new(format!("link{n}"), Kind::Symlink);
            entry.link = b"nowhere".to_vec();
            writer.entry(&entry).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(&bytes[..], tarball::Limits::default());
        let full = || crate::StoreError::Full { path: "/".into(), percent: 99, free: 0, limit: 90 };
        let result = apply(&mut reader, folder.path(), Devices::Refuse, Limits::default(), &mut || Err(full()));
        assert!(matches!(result, Err(ApplyError::Store(crate::StoreError::Full { .. }))), "{result:?}");
    }

    #[test]
    fn what_is_kept_of_directories_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = TarWriter::new(Vec::new());
        for _ in 0..3 {
            for name in ["a/b/c/", "a/"] {
                let mut entry = Entry::new(name, Kind::Directory);
                entry.xattrs = vec![(b"user.a".to_vec(), vec![1; 100])];
                archive.entry(&entry).unwrap();
            }
        }
        let bytes = archive.finish().unwrap();
        let mut reader = Reader::new(&bytes[..], tarball::Limits::default());
        let mut writer = Writer::new(folder.path(), Devices::Refuse, Limits::default()).unwrap();
        while let Some(entry) = reader.entry().unwrap() {
            writer.applied.entries += 1;
            assert!(writer.make(&entry, &mut reader, &mut || Ok(())).is_ok());
        }
        let kept = |path: &[u8]| path.len() + writer.directories[path].held();
        assert_eq!(writer.held, kept(b"a") + kept(b"a/b") + kept(b"a/b/c"));
        // `a` and `a/b` were there before the archive spoke of them.
        assert_eq!((writer.applied.entries, writer.implied), (6, 2));
    }
}
