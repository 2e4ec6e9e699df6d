//! mount_setattr(2): attributes, propagation and id mapping of a mount by descriptor.

use super::process::last_error;
use rustix::{
    io::Result,
    mount::{MountAttrFlags, MountPropagationFlags},
};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Changes of one mount, made in one step.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Attributes to turn off, before `set`.
    pub clear: MountAttrFlags,
    /// Attributes to turn on.
    pub set: MountAttrFlags,
    /// New propagation.
    pub propagation: Option<MountPropagationFlags>,
    /// Map owners by this user namespace.
    pub idmap: Option<BorrowedFd<'a>>,
    /// All mounts below as well.
    pub recursive: bool,
}

impl Default for Change<'_> {
    fn default() -> Self {
        let none = MountAttrFlags::empty();
        Self { clear: none, set: none, propagation: None, idmap: None, recursive: false }
    }
}

/// Applies `change` to the mount whose root `mount` is.
///
/// # Errors
/// That of mount_setattr(2): `INVAL` when the file system can not be id-mapped.
pub fn set_attributes(mount: BorrowedFd<'_>, change: Change<'_>) -> Result<()> {
    let mut set = u64::from(change.set.bits());
    if change.idmap.is_some() {
        set |= libc::MOUNT_ATTR_IDMAP;
    }
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: u64::from(change.clear.bits()),
        propagation: change.propagation.map_or(0, |kind| u64::from(kind.bits())),
        userns_fd: change.idmap.map_or(0, |namespace| u64::from(namespace.as_raw_fd().unsigned_abs())),
    };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptors are open, the path is a C string, and the structure has the size that is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}
