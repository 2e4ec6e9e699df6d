//! A folder with an OCI image layout, which may come from anybody: what is read is a regular file in it, never something that
//! a link in it leads to, and never a device or a pipe, of which the opening alone may do something.

use super::{ArchiveError, bag::clean, io_error};
use rustix::{
    fs::{self, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

pub(super) struct Folder {
    path: PathBuf,
    root: OwnedFd,
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Folder {
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty()).map_err(|error| io_error("open", path)(error.into()))?;
        Ok(Self { path: path.to_owned(), root })
    }

    /// Whether there is something of this name, whatever it is.
    pub fn has(&self, name: &str) -> bool {
        !matches!(self.open_beneath(name, OFlags::PATH | OFlags::NOFOLLOW), Err(Errno::NOENT | Errno::NOTDIR))
    }

    /// A regular file and its size; `None`: there is nothing of this name.
    ///
    /// # Errors
    /// It is something else, or a link leads to it.
    pub fn file(&self, name: &str) -> Result<Option<(File, u64)>, ArchiveError> {
        clean(name.as_bytes())?;
        let refused = |problem: &str| ArchiveError::Document { path: name.to_owned(), problem: problem.to_owned() };
        let failed = |error: Errno| match error {
            Errno::LOOP | Errno::XDEV => refused("it is a link, or leads through one; a layout has none"),
            other => io_error("open", &self.path.join(name))(other.into()),
        };
        let opened = |flags| match self.open_beneath(name, flags) {
            Err(Errno::NOENT) => Ok(None),
            other => other.map(Some).map_err(failed),
        };
        let size = |file: &OwnedFd| {
            let found = fs::fstat(file).map_err(failed)?;
            match FileType::from_raw_mode(found.st_mode) {
                FileType::RegularFile => Ok(u64::try_from(found.st_size).unwrap_or(0)),
                _ => Err(refused("it is not a regular file")),
            }
        };
        // Without opening it at first; what it is then may be something else by now, and is asked again.
        let Some(there) = opened(OFlags::PATH)? else { return Ok(None) };
        size(&there)?;
        let Some(file) = opened(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)? else { return Ok(None) };
        let size = size(&file)?;
        Ok(Some((File::from(file), size)))
    }

    fn open_beneath(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        loop {
            match fs::openat2(&self.root, name, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH) {
                // The kernel could not rule out a race with a rename, and asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }
}
