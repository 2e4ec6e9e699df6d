//! The root file system of a container that does not run, as the container will see it.

use super::{At, VolumeError};
use crate::{
    record::Root,
    sys::{
        mount::{Change, set_attributes},
        process,
    },
};
use rustix::{
    fs::{CWD, Mode, OFlags, open},
    mount::{MountFlags, MountPropagationFlags, mount},
};
use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Does something with the root of the container in this folder. Layers are put together by the kernel, read-only, in a
/// mount namespace of a thread that ends with this call: nobody else sees it.
///
/// # Errors
/// Those of the mounts, and those of `work`.
pub fn with_root(
    root: &Root,
    folder: &Path,
    work: impl FnOnce(BorrowedFd<'_>) -> Result<(), VolumeError> + Send,
) -> Result<(), VolumeError> {
    let layers = match root {
        Root::Directory(path) => return work(folder_at(path)?.as_fd()),
        Root::Owned => return work(folder_at(&folder.join("rootfs"))?.as_fd()),
        Root::Layers(layers) => layers,
    };
    let mounted = || work(overlay(layers, folder)?.as_fd());
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, mounted).at("run a thread for", folder)?;
        let panicked = |_| VolumeError::File {
            operation: "put together the layers of",
            path: folder.to_owned(),
            source: io::Error::other("the thread that does it panicked"),
        };
        thread.join().map_err(panicked)?
    })
}

fn folder_at(path: &Path) -> Result<OwnedFd, VolumeError> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", path)
}

/// The layers, under what the container has written itself, mounted over its work folder in a namespace of this thread.
fn overlay(layers: &[std::path::PathBuf], folder: &Path) -> Result<OwnedFd, VolumeError> {
    process::unshare(libc::CLONE_NEWNS).at("make a mount namespace for", folder)?;
    let host = folder_at(Path::new("/"))?;
    let propagation = Some(MountPropagationFlags::DOWNSTREAM);
    set_attributes(host.as_fd(), Change { propagation, recursive: true, ..Change::default() })
        .at("separate the mounts of", folder)?;
    // The kernel wants two at least, so the container's own is among them even before it has written anything.
    let own = folder_at(&folder.join("upper"))?;
    let opened = layers.iter().rev().map(|layer| folder_at(layer)).collect::<Result<Vec<_>, _>>()?;
    let lower: Vec<_> =
        std::iter::once(&own).chain(&opened).map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect();
    let data = CString::new(format!("lowerdir={}", lower.join(":"))).map_err(io::Error::from).at("mount", folder)?;
    let target = folder.join("work");
    mount(c"overlay", &target, c"overlay", MountFlags::RDONLY, Some(data.as_c_str())).at("mount layers at", &target)?;
    rustix::fs::openat(CWD, &target, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .at("open", &target)
}
