//! Volumes of the engine: made with a container where they are missing. Those that no request named are the container's own
//! and can go with it.

use super::{
    Engine,
    error::{At, EngineError},
    remove::ignore_missing,
};
use crate::{
    record::Record,
    spec::NewVolume,
    volume::{Volumes, with_root},
};
use model::ContainerId;
use std::{fs, io, os::fd::BorrowedFd};

/// File in the folder of a container that is being created: the names of the volumes that are its own. Whoever finds it
/// beside no record removes them.
const OWN: &str = "own-volumes";

impl Engine {
    /// Makes the volumes that are not there yet, with what the root has at their places. Named ones stay whatever becomes of
    /// the container.
    pub(super) fn make_volumes(&self, record: &Record, volumes: &[NewVolume]) -> Result<(), EngineError> {
        if !record.own_volumes.is_empty() {
            let path = self.layout.container(&record.id).join(OWN);
            fs::write(&path, record.own_volumes.join("\n")).at("write", &path)?;
        }
        let store = Volumes::new(&self.layout);
        let new: Vec<&NewVolume> = volumes.iter().filter(|volume| !store.exists(volume)).collect();
        let (filled, empty): (Vec<_>, Vec<_>) = new.into_iter().partition(|volume| volume.copy);
        let fail = |source| EngineError::volume(&record.id, source);
        if !filled.is_empty() {
            let fill =
                |root: BorrowedFd<'_>| filled.iter().try_for_each(|volume| store.make(volume, &record.id, Some(root)));
            with_root(&record.root, &self.layout.container(&record.id), fill).map_err(fail)?;
        }
        empty.iter().try_for_each(|volume| store.make(volume, &record.id, None)).map_err(fail)
    }

    /// From now on the record says whose they are.
    pub(super) fn volumes_are_recorded(&self, record: &Record) -> Result<(), EngineError> {
        if record.own_volumes.is_empty() {
            return Ok(());
        }
        let path = self.layout.container(&record.id).join(OWN);
        ignore_missing(fs::remove_file(&path)).at("remove", &path)
    }

    /// Removes the volumes of a container whose creation was not finished.
    pub(super) fn remove_unfinished_volumes(&self, id: &ContainerId) -> Result<(), EngineError> {
        let path = self.layout.container(id).join(OWN);
        match fs::read_to_string(&path) {
            Ok(names) => names.lines().try_for_each(|name| self.remove_volume(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).at("read", &path),
        }
    }

    /// Removes the volumes that nobody but this container could name.
    pub(super) fn remove_own_volumes(&self, record: &Record) -> Result<(), EngineError> {
        record.own_volumes.iter().try_for_each(|name| self.remove_volume(name))
    }

    fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let path = self.layout.volumes().join(name);
        ignore_missing(crate::removal::remove_tree(&path)).at("remove", &path)
    }
}
