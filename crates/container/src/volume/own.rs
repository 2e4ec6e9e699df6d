//! `U`: files and folders of the host that shall belong to the container's user, with all below them.

use super::{At, DEEPEST, VolumeError, copy::names};
use crate::{record::Record, runtime::tree, user};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, open, openat},
    io::Errno,
};
use std::{
    fs,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Folders that the host itself needs as they are; podman refuses the same.
const HOSTS: [&str; 26] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/tmp",
];

/// Gives what the record says to the user of its container, whose root this is.
///
/// # Errors
/// [`VolumeError`]; what was given away before stays so.
pub fn own(record: &Record, root: BorrowedFd<'_>) -> Result<(), VolumeError> {
    let (uid, gid) = match &record.user {
        Some(user) => {
            let read = |path: &str| read(root, Path::new(path)).at("read", Path::new(path));
            let found = user::lookup(user, &[], &read("/etc/passwd")?, &read("/etc/group")?);
            found.map(|found| (found.uid, found.gid)).map_err(|source| VolumeError::User { source })?
        }
        None => {
            let user = record.spec.process().as_ref().map(|process| process.user().clone()).unwrap_or_default();
            (user.uid(), user.gid())
        }
    };
    // Mounts are mapped so that the disk has the ids of the inside; but for those of a bundle, which maps them itself.
    let linux = record.spec.linux().as_ref();
    let own_users = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    let mapped = own_users.into_iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User);
    let on_host = |id, mappings: Option<&Vec<LinuxIdMapping>>| match mappings.filter(|all| mapped && !all.is_empty()) {
        Some(mappings) => outside(id, mappings),
        None => id,
    };
    let uid = Uid::from_raw(on_host(uid, linux.and_then(|linux| linux.uid_mappings().as_ref())));
    let gid = Gid::from_raw(on_host(gid, linux.and_then(|linux| linux.gid_mappings().as_ref())));
    for path in &record.chown {
        let real = path.canonicalize().at("find", path)?;
        if HOSTS.iter().any(|one| real == Path::new(one)) {
            return Err(VolumeError::Hosts { path: real });
        }
        let top = open(&real, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).at("open", &real)?;
        give(&top, (uid, gid), &mut real.clone(), 0)?;
    }
    Ok(())
}

/// A file of the container, as far as it counts; nothing where there is none. It is looked at before it is opened: to open a
/// device of the host can do something.
fn read(root: BorrowedFd<'_>, path: &Path) -> io::Result<Vec<u8>> {
    let found = match tree::open(root, path, OFlags::PATH) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut bytes = Vec::new();
    if FileType::from_raw_mode(fstat(&found)?.st_mode) == FileType::RegularFile {
        let file = fs::File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
        file.take(user::MAX_FILE).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// The host's number of an id inside; one that is not mapped is left as it is, which a start refuses.
fn outside(id: u32, mappings: &[LinuxIdMapping]) -> u32 {
    let within = |one: &&LinuxIdMapping| id.checked_sub(one.container_id()).is_some_and(|offset| offset < one.size());
    mappings.iter().find(within).map_or(id, |one| one.host_id() + (id - one.container_id()))
}

fn give(what: &OwnedFd, owner: (Uid, Gid), path: &mut PathBuf, depth: usize) -> Result<(), VolumeError> {
    if depth > DEEPEST {
        return Err(VolumeError::TooDeep { path: path.clone(), most: DEEPEST });
    }
    let found = fstat(what).at("look at", path)?;
    if (found.st_uid, found.st_gid) != (owner.0.as_raw(), owner.1.as_raw()) {
        chownat(what, c"", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH).at("give away", path)?;
    }
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(what, c".", flags, Mode::empty()).at("open", path)?;
    for name in names(folder.as_fd(), path)? {
        let name = name.at("list", path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        path.push(super::copy::text(&name));
        match openat(&folder, &*name, flags, Mode::empty()) {
            Ok(next) => give(&next, owner, path, depth + 1)?,
            Err(Errno::NOENT) => {} // removed meanwhile
            Err(errno) => return Err(errno).at("open", path),
        }
        path.pop();
    }
    Ok(())
}
