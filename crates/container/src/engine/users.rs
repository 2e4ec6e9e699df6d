//! Ranges of the host's user ids, one for each running container with users of its own.
//!
//! Every mount is id-mapped, so nothing on disk depends on which range it was; it is taken at the start and given back
//! at the end. The ranges lie in 524288 to 1879048191, which systemd sets aside for containers (systemd.io, UIDS-GIDS).
//!
//! A lease of a container that does not run is forgotten by whoever meets it. Between the look at it and its removal it may
//! become another's: two containers would have one range. So leases are taken and forgotten under one lock. A container's own
//! lease, while its run folder is there, is nobody else's to forget, and is removed without.

use super::{
    Engine,
    error::{At, EngineError},
};
use model::ContainerId;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::{
    fs, io,
    os::fd::OwnedFd,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// Ids in one range.
pub(super) const SIZE: u32 = 1 << 16;
const FIRST: u32 = 8;
const LAST: u32 = 28_671;

impl Engine {
    /// Takes a range for this container; gives its first id and the file that says so.
    pub(super) fn lease_users(&self, id: &ContainerId) -> Result<(u32, PathBuf), EngineError> {
        let _lock = self.users_lock()?;
        let start = u32::from_str_radix(&id.as_str()[..7], 16).unwrap_or(0);
        for step in 0..=LAST - FIRST {
            let slot = FIRST + (start + step) % (LAST - FIRST + 1);
            let path = self.layout.users().join(slot.to_string());
            loop {
                // A link, like a name: it is there with its holder or not at all, whenever this process is killed.
                match symlink(id.as_str(), &path) {
                    Ok(()) => return Ok((slot * SIZE, path)),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        if !self.forget_locked(&path, Some(id))? {
                            break;
                        }
                    }
                    Err(error) => return Err(error).at("make", &path),
                }
            }
        }
        let full = io::Error::other("every range of user ids is in use");
        Err(full).at("lease user ids in", &self.layout.users())
    }

    /// Removes a lease whose container does not run, or is `own`; false when it is in use.
    pub(super) fn forget_users(&self, path: &Path, own: Option<&ContainerId>) -> Result<bool, EngineError> {
        let _lock = self.users_lock()?;
        self.forget_locked(path, own)
    }

    fn forget_locked(&self, path: &Path, own: Option<&ContainerId>) -> Result<bool, EngineError> {
        let Some(holder) = self.users_holder(path)? else { return Ok(true) };
        if own != Some(&holder) && self.layout.running(&holder).exists() {
            return Ok(false);
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
            _ => Ok(true),
        }
    }

    fn users_lock(&self) -> Result<OwnedFd, EngineError> {
        let path = self.layout.run().join("users.lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = open(&path, flags, Mode::from_raw_mode(0o600)).at("open", &path)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).at("lock", &path),
            }
        }
    }

    /// Whose a range is; `None` when it is nobody's.
    pub(super) fn users_holder(&self, path: &Path) -> Result<Option<ContainerId>, EngineError> {
        let target = match fs::read_link(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("read", path),
        };
        let id = target.to_str().and_then(|text| text.parse().ok());
        let strange = || io::Error::new(io::ErrorKind::InvalidData, "is not the link of a lease; remove it");
        id.map(Some).ok_or_else(strange).at("read", path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, sync::Barrier};

    #[test]
    fn containers_that_start_at_once_have_ranges_of_their_own() {
        const STARTS: u128 = 4;
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::open(&folder.path().join("data"), Some(&folder.path().join("run"))).unwrap();
        // Their ids begin alike, so that all look at the same range first: one that is left of a container that is gone.
        let id = |number: u128| format!("{number:032x}").parse::<ContainerId>().unwrap();
        let first = engine.layout().users().join(FIRST.to_string());
        for round in 0..300 {
            symlink(id(u128::from(u64::MAX)).as_str(), &first).unwrap();
            let barrier = Barrier::new(usize::try_from(STARTS).unwrap());
            let bases: BTreeSet<u32> = std::thread::scope(|scope| {
                let start = |number| {
                    let (engine, barrier, id) = (&engine, &barrier, id(number));
                    fs::create_dir_all(engine.layout().running(&id)).unwrap();
                    scope.spawn(move || {
                        barrier.wait();
                        engine.lease_users(&id).unwrap().0
                    })
                };
                let all: Vec<_> = (0..STARTS).map(start).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(bases.len(), usize::try_from(STARTS).unwrap(), "round {round}: {bases:?}");
            for number in 0..STARTS {
                fs::remove_dir(engine.layout().running(&id(number))).unwrap();
            }
            for entry in fs::read_dir(engine.layout().users()).unwrap() {
                assert!(engine.forget_users(&entry.unwrap().path(), None).unwrap());
            }
        }
    }
}
