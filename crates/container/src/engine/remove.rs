//! Removing containers.

use super::{
    Engine, Status,
    error::{At, EngineError},
};
use crate::{cgroup, record::Record};
use model::{ContainerId, ContainerName};
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
    /// As [`Engine::remove`], by force and with the volumes that are its own.
    ///
    /// # Errors
    /// As [`Engine::remove`].
    pub fn remove_whole(&self, id: &ContainerId) -> Result<(), EngineError> {
        let record = self.record(id)?;
        self.remove(id, true)?;
        self.remove_own_volumes(&record)
    }

    /// Removes a container with its record, logs and writable files; a running one only by `force`, which kills it.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] when it runs and is not to be forced, [`EngineError::Busy`] when another process
    /// changes it, [`EngineError::File`].
    pub fn remove(&self, id: &ContainerId, force: bool) -> Result<(), EngineError> {
        let record = self.record(id)?;
        let end = Instant::now() + PATIENCE;
        let lock = loop {
            if self.observe(id)?.state.is_some() {
                if !force {
                    let status = Status::Running;
                    return Err(EngineError::WrongState { doing: "remove", id: id.short().to_owned(), status });
                }
                self.end_now(id)?;
            }
            if let Some(lock) = self.try_lock(id)? {
                break lock;
            }
            if !force || Instant::now() > end {
                return Err(EngineError::busy("remove", id));
            }
            // Its holder clears away, or is about to start it. To wait for the lock would be to wait for the end of what
            // is started; so look again.
            std::thread::sleep(AGAIN);
        };
        self.finish(id, &lock)?;
        self.forget(&record)
    }

    /// Removes the name and the data folder of a container, and of one that was to go by itself its own volumes.
    pub(super) fn forget(&self, record: &Record) -> Result<(), EngineError> {
        self.volumes_are_recorded(record)?;
        if record.remove {
            self.remove_own_volumes(record)?;
        }
        self.free_name(&record.name, &record.id)?;
        self.discard(&record.id)?;
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

    /// Removes all that have ended; gives their ids.
    ///
    /// # Errors
    /// The first one's; those before it are gone.
    pub fn prune(&self) -> Result<Vec<ContainerId>, EngineError> {
        let mut gone = Vec::new();
        for one in self.list()? {
            if one.status != Status::Exited {
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
        ignore_missing(fs::remove_dir_all(&folder)).at("remove", &folder)
    }
}

pub(super) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
