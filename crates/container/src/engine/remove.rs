//! Removing containers.

use super::{
    Engine, Inspect, Status,
    error::{At, EngineError},
    lock::Lock,
};
use crate::{cgroup, record::Record, removal::remove_tree};
use model::{ContainerId, ContainerName, NetworkMode};
use rustix::fs::FlockOperation;
use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// How long a forced removal waits for whoever changes the container.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two looks at a container that another process changes.
pub(super) const AGAIN: Duration = Duration::from_millis(2);

impl Engine {
    /// Removes a container with its record, logs and writable files; a running one only by `force`, which kills it.
    /// Volumes stay, but for those that are its own when it was to be removed at its end.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] when it runs and is not to be forced, [`EngineError::Busy`] when another process
    /// changes it, [`EngineError::File`].
    pub fn remove(&self, id: &ContainerId, force: bool) -> Result<(), EngineError> {
        self.remove_with(id, force, |_| Ok(()))
    }

    /// As [`Engine::remove`], with the volumes that are its own.
    ///
    /// # Errors
    /// As [`Engine::remove`].
    pub fn remove_whole(&self, id: &ContainerId, force: bool) -> Result<(), EngineError> {
        // While there is a record, so that whoever is cut off here can be told to do it again.
        self.remove_with(id, force, |record| self.remove_own_volumes(record))
    }

    fn remove_with(
        &self,
        id: &ContainerId,
        force: bool,
        first: impl FnOnce(&Record) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let record = match self.record(id) {
            // What can not be read can not be asked what it is; by force it goes all the same.
            Err(EngineError::File { source, .. }) if force && is_damaged(&source) => None,
            record => Some(record?),
        };
        let lock = self.lock_for_removal(id, force)?;
        self.clear(id, &lock)?;
        match record {
            Some(record) => first(&record).and_then(|()| self.forget(&record))?,
            None => self.discard(id)?,
        }
        // Last: as long as the lock is ours nobody starts what is half removed.
        self.remove_running(id)
    }

    /// Takes the lock of a container that does not run, or is ended by force.
    fn lock_for_removal(&self, id: &ContainerId, force: bool) -> Result<Lock, EngineError> {
        let end = Instant::now() + PATIENCE;
        loop {
            if self.observe(id)?.state.is_some() {
                if !force {
                    let status = Status::Running;
                    return Err(EngineError::WrongState { doing: "remove", id: id.short().to_owned(), status });
                }
                self.end_now(id)?;
            }
            if let Some(lock) = self.try_lock(id)? {
                return Ok(lock);
            }
            if !force || Instant::now() > end {
                return Err(EngineError::busy("remove", id));
            }
            // Its holder clears away, or is about to start it. To wait for the lock would be to wait for the end of what
            // is started; so look again.
            std::thread::sleep(AGAIN);
        }
    }

    /// Removes the name and the data folder of a container, and of one that was to go by itself its own volumes. One that was
    /// given no name gives its addresses back: nobody will ask for them again.
    pub(super) fn forget(&self, record: &Record) -> Result<(), EngineError> {
        self.volumes_are_recorded(record)?;
        if record.remove {
            self.remove_own_volumes(record)?;
        }
        self.free_name(&record.name, &record.id)?;
        self.discard(&record.id)?;
        // Last: if this is cut off, the next sweep finds a lease of nobody.
        if let (false, NetworkMode::Bridge(network)) = (record.named, &record.network) {
            self.networks_of().release(network, record.identity()).map_err(EngineError::network)?;
        }
        self.remove_parent_group()
    }

    /// Removes the group above all containers' once there is none. With the creation lock held no container can come.
    pub(super) fn remove_parent_group(&self) -> Result<(), EngineError> {
        let Some(_creating) = self.creation_lock(FlockOperation::NonBlockingLockExclusive)? else { return Ok(()) };
        if !self.ids()?.is_empty() {
            return Ok(());
        }
        let tag = self.layout.tag();
        cgroup::Host::detect().and_then(|host| host.remove_unused(tag)).map_err(|source| EngineError::Cgroup {
            doing: "clear away after",
            id: tag.to_owned(),
            source: Box::new(source),
        })
    }

    /// Removes all that do not run, be it that they have ended or were never started, and are chosen; gives their ids.
    ///
    /// # Errors
    /// The first one's; those before it are gone.
    pub fn prune(&self, chosen: impl Fn(&Inspect) -> bool) -> Result<Vec<ContainerId>, EngineError> {
        let mut gone = Vec::new();
        for one in self.list()? {
            if !matches!(one.status, Status::Created | Status::Exited) || !chosen(&one) {
                continue;
            }
            match self.remove(&one.id, false) {
                Ok(()) => gone.push(one.id),
                Err(EngineError::NotFound { .. } | EngineError::Busy { .. } | EngineError::WrongState { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    /// Frees a name, if it is this container's.
    pub(super) fn free_name(&self, name: &ContainerName, id: &ContainerId) -> Result<(), EngineError> {
        let path = self.layout.name(name);
        match fs::read_link(&path) {
            Ok(target) if target == Path::new(id.as_str()) => {}
            _ => return Ok(()),
        }
        ignore_missing(fs::remove_file(&path)).at("remove", &path)
    }

    /// Removes the data folder of a container: its record first, so that an interrupted removal is a left-over to sweep
    /// and not half a container.
    pub(super) fn discard(&self, id: &ContainerId) -> Result<(), EngineError> {
        let folder = self.layout.container(id);
        ignore_missing(fs::remove_file(folder.join("record.json"))).at("remove", &folder)?;
        ignore_missing(remove_tree(&folder)).at("remove", &folder)
    }
}

/// Whether a record was read and is none.
fn is_damaged(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

pub(super) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
