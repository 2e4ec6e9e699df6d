//! Who may change a container: the holder of its lock, which is its monitor for as long as it runs.

use super::{
    Engine,
    error::{At, EngineError},
};
use model::ContainerId;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, fstat, open, stat},
    io::Errno,
};
use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::DirBuilderExt,
};

/// The lock of one container; released when every copy of the descriptor is closed.
#[derive(Debug)]
pub(super) struct Lock(OwnedFd);

impl Lock {
    pub(super) fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}
impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Engine {
    /// Takes the lock, making the run folder; `None` when another process holds it.
    pub(super) fn try_lock(&self, id: &ContainerId) -> Result<Option<Lock>, EngineError> {
        let folder = self.layout.running(id);
        let path = folder.join("lock");
        loop {
            match fs::DirBuilder::new().mode(0o711).create(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).at("make", &folder),
            }
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
            let file = match open(&path, flags, Mode::from_raw_mode(0o600)) {
                Ok(file) => file,
                Err(Errno::NOENT) => continue, // the last holder has just removed the folder
                Err(errno) => return Err(errno).at("open", &path),
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno).at("lock", &path),
            }
            // Removed by its last holder between open and lock: then this is the lock of nothing.
            let ours = fstat(&file).at("look at", &path)?;
            match stat(&path) {
                Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => return Ok(Some(Lock(file))),
                _ => {}
            }
        }
    }

    /// Whether somebody holds the lock; takes nothing and makes nothing.
    pub(super) fn is_locked(&self, id: &ContainerId) -> Result<bool, EngineError> {
        let path = self.layout.running(id).join("lock");
        let file = match open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno).at("open", &path),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(errno).at("lock", &path),
        }
    }

    /// Waits until nobody holds the lock.
    pub(super) fn wait_unlocked(&self, id: &ContainerId) -> Result<(), EngineError> {
        let path = self.layout.running(id).join("lock");
        let file = match open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno).at("open", &path),
        };
        loop {
            match flock(&file, FlockOperation::LockShared) {
                Err(Errno::INTR) => {}
                done => return done.at("wait for", &path),
            }
        }
    }
}
