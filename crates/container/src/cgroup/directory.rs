//! A control group's directory, held open: everything in it is reached relative to its descriptor.
//!
//! Saves the kernel the walk from `/` for each of the some thirty files of a start, and stays the same directory whatever
//! is mounted over its path meanwhile. Knows nothing of what the files mean.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxFlags},
    io::Errno,
};
use std::path::{Path, PathBuf};

/// An open directory and the path by which messages call it.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Directory {
    /// The directory at this absolute path.
    pub(super) fn open(path: &Path) -> Result<Self, Errno> {
        Ok(Self { fd: rustix::fs::openat(CWD, path, PLACE, Mode::empty())?, path: path.to_owned() })
    }
    /// A directory below this one.
    pub(super) fn below(&self, name: &str) -> Result<Self, Errno> {
        Ok(Self { fd: rustix::fs::openat(&self.fd, name, PLACE, Mode::empty())?, path: self.path.join(name) })
    }
    /// How messages call it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
    /// Number of the mount it was reached through, as in mountinfo.
    pub(super) fn mount_id(&self) -> Result<u64, Errno> {
        Ok(rustix::fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
    }
    /// Makes a directory below this one; its parent must be there.
    pub(super) fn make(&self, name: &str) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755))
    }
    /// Removes a directory below this one.
    pub(super) fn remove(&self, name: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }
    /// Opens a file in it.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
    }
    /// Whether there is such a file in it.
    pub(super) fn has(&self, name: &str) -> bool {
        rustix::fs::accessat(&self.fd, name, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }
    /// The whole of a file.
    pub(super) fn read(&self, name: &str) -> Result<String, Errno> {
        let file = self.file(name, OFlags::RDONLY)?;
        let (mut text, mut filled) = (vec![0; 4096], 0);
        loop {
            match rustix::io::read(&file, &mut text[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            if filled == text.len() {
                text.resize(2 * filled, 0);
            }
        }
        text.truncate(filled);
        String::from_utf8(text).map_err(|_| Errno::ILSEQ)
    }
    /// Writes a value to a file: one call, because the kernel takes each as a whole.
    pub(super) fn write(&self, name: &str, value: &str) -> Result<(), Errno> {
        write(self.file(name, OFlags::WRONLY)?.as_fd(), value)
    }
    /// Names of the directories in the one `name` below this one (`.` for itself).
    pub(super) fn directories(&self, name: &str) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::new(self.file(name, OFlags::RDONLY | OFlags::DIRECTORY)?)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if entry.file_type() == FileType::Directory && name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}
impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Writes a value to an open file of a control group.
pub(super) fn write(file: BorrowedFd<'_>, value: &str) -> Result<(), Errno> {
    loop {
        match rustix::io::write(file, value.as_bytes()) {
            Ok(count) if count == value.len() => return Ok(()),
            // The files of control groups take all or nothing; anything else means that the value was not understood.
            Ok(_) => return Err(Errno::INVAL),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
