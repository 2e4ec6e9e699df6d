//! Volumes of the engine: made on first use, filled with what the root has at their place.
//!
//! A volume appears at once with all that it is filled with, or not at all. Owners are those that the root has on disk:
//! id-mapped mounts give volume and root the same ones inside.

mod copy;

use super::{
    Engine,
    error::{At, EngineError},
    remove::ignore_missing,
};
use crate::{
    record::{Record, Root},
    spec::NewVolume,
    sys::process,
};
use model::ContainerId;
use rustix::{
    fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags, open, openat2, renameat_with},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
};
use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

/// What the name of a volume on its way begins with; no volume's own name can.
const UNFINISHED: &str = ".new-";
/// File in the folder of a container that is being created: the names of the volumes that are its own. Whoever finds it
/// beside no record removes them.
const OWN: &str = "own-volumes";

impl Engine {
    /// Makes the volumes of a container that is being created.
    pub(super) fn make_volumes(&self, record: &Record, volumes: &[NewVolume]) -> Result<(), EngineError> {
        if !record.own_volumes.is_empty() {
            let path = self.layout.container(&record.id).join(OWN);
            fs::write(&path, record.own_volumes.join("\n")).at("write", &path)?;
        }
        volumes.iter().try_for_each(|volume| self.make_volume(record, volume))
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

    /// Makes a volume, unless there is one of its name.
    fn make_volume(&self, record: &Record, volume: &NewVolume) -> Result<(), EngineError> {
        if fs::symlink_metadata(&volume.path).is_ok() {
            return Ok(());
        }
        let new = self.layout.volumes().join(format!("{UNFINISHED}{}-{}", record.id, volume.name));
        fs::DirBuilder::new().mode(0o755).create(&new).at("make", &new)?;
        let made = self.fill(record, volume, &new).and_then(|()| {
            match renameat_with(CWD, &new, CWD, &volume.path, RenameFlags::NOREPLACE) {
                // Somebody else was quicker; theirs is as good.
                Err(Errno::EXIST) => remove_tree(&new).at("remove", &new),
                renamed => renamed.at("make", &volume.path),
            }
        });
        if made.is_err()
            && let Err(error) = remove_tree(&new)
        {
            tracing::warn!(%error, path = %new.display(), "an unfinished volume is left to the next sweep");
        }
        made
    }

    fn fill(&self, record: &Record, volume: &NewVolume, new: &Path) -> Result<(), EngineError> {
        if !volume.copy {
            return Ok(());
        }
        let fill_from = |root: &OwnedFd| -> io::Result<()> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let source = match openat2(root, &volume.inside, flags, Mode::empty(), resolve) {
                Ok(source) => source,
                // Nothing there, or a file: then the volume begins empty.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            let target = open(new, flags, Mode::empty())?;
            copy::tree(&source, &target)
        };
        let folder = |path: &Path| open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let filled = match &record.root {
            Root::Directory(path) => folder(path).map_err(io::Error::from).and_then(|root| fill_from(&root)),
            Root::Owned => {
                let path = self.layout.container(&record.id).join("rootfs");
                folder(&path).map_err(io::Error::from).and_then(|root| fill_from(&root))
            }
            Root::Layers(layers) => match layers.as_slice() {
                [only] => folder(only).map_err(io::Error::from).and_then(|root| fill_from(&root)),
                layers => over(layers, &self.layout.container(&record.id), fill_from),
            },
        };
        filled.at("fill from the container's root", &volume.path)
    }

    /// Removes the volumes that nobody but this container could name.
    ///
    /// # Errors
    /// [`EngineError::File`].
    pub fn remove_own_volumes(&self, record: &Record) -> Result<(), EngineError> {
        record.own_volumes.iter().try_for_each(|name| self.remove_volume(name))
    }

    fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let path = self.layout.volumes().join(name);
        ignore_missing(remove_tree(&path)).at("remove", &path)
    }

    /// Volumes whose making was cut off; called while nothing is being created.
    pub(super) fn sweep_volumes(&self) -> Result<Vec<PathBuf>, EngineError> {
        let folder = self.layout.volumes();
        let mut swept = Vec::new();
        for entry in fs::read_dir(&folder).at("list", &folder)? {
            let entry = entry.at("list", &folder)?;
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                ignore_missing(remove_tree(&entry.path())).at("remove", &entry.path())?;
                swept.push(entry.path());
            }
        }
        Ok(swept)
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    fs::remove_dir_all(path)
}

/// Does `work` on the layers as one tree: an overlay in a mount namespace of a thread's own, of which nothing is left
/// when the thread ends, however it ends.
fn over(layers: &[PathBuf], place: &Path, work: impl FnOnce(&OwnedFd) -> io::Result<()> + Send) -> io::Result<()> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            process::unshare(libc::CLONE_NEWNS)?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            let open_layer = |layer: &PathBuf| {
                open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            };
            // The first in the string is the top one. Short names, so that many layers fit into the kernel's one page.
            let opened = layers.iter().rev().map(open_layer).collect::<rustix::io::Result<Vec<_>>>()?;
            let lower: Vec<_> =
                opened.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_fd().as_raw_fd())).collect();
            let data = CString::new(format!("lowerdir={}", lower.join(":")))?;
            mount(c"overlay", place, c"overlay", MountFlags::RDONLY, Some(data.as_c_str()))?;
            let root = open(place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            work(&root)
        });
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the copying thread panicked")))
    })
}
