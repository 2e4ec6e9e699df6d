//! Files whose lock says that somebody is at work; the kernel drops the lock with the process, however it ends.

use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// Takes the lock on `path`, waiting for it; makes the file if it is not there.
pub(crate) fn take(path: &Path) -> io::Result<File> {
    loop {
        let file = open(path, true)?;
        retry(|| flock(&file, FlockOperation::LockExclusive))?;
        if is_still(&file, path)? {
            return Ok(file);
        }
    }
}

/// Takes the lock on `path` if nobody has it; makes the file if it is not there.
pub(crate) fn try_take(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = open(path, true)?;
        match retry(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) if is_still(&file, path)? => return Ok(Some(file)),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// What became of an attempt.
#[derive(Debug)]
pub(crate) enum Existing {
    /// Nobody had it; now we do.
    Free(File),
    /// Somebody has it.
    Held,
    /// There is no such file.
    Gone,
}

/// Takes the lock on an existing file if nobody has it.
pub(crate) fn try_existing(path: &Path) -> io::Result<Existing> {
    let file = match open(path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Existing::Gone),
        Err(error) => return Err(error),
    };
    match retry(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) if is_still(&file, path)? => Ok(Existing::Free(file)),
        Ok(()) => Ok(Existing::Gone),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Existing::Held),
        Err(error) => Err(error),
    }
}

/// Whether the locked file still has its name: who deletes such a file holds its lock, so a waiter may wake up with a
/// lock on a file that nobody else can see.
fn is_still(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => {
            let ours = file.metadata()?;
            Ok((found.dev(), found.ino()) == (ours.dev(), ours.ino()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_gone_with_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(matches!(try_existing(&path).unwrap(), Existing::Gone));
        let held = take(&path).unwrap();
        assert!(matches!(try_existing(&path).unwrap(), Existing::Held));
        drop(held);
        let Existing::Free(held) = try_existing(&path).unwrap() else { panic!("the lock is free") };
        // A waiter whose file was deleted meanwhile gets the new one.
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || take(&path).unwrap()
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::remove_file(&path).unwrap();
        drop(held);
        let file = waiter.join().unwrap();
        assert!(is_still(&file, &path).unwrap());
    }
}
