//! Starting containers: the shim, the child that becomes the container's init, and processes entered later.
//!
//! [`dispatch`] is the first thing that `main` calls: a shim is this same program under another name, executed through a
//! read-only mount of its own, so that nothing inside a container can reach a writable `/proc/self/exe`.

mod child;
mod embedded;
mod enter;
pub(crate) mod identity;
mod message;
mod mounts;
mod prepare;
mod program;
mod runc;
pub(crate) mod shim;
pub(crate) mod tree;

pub(crate) use message::receive_report;
pub use message::{Failure, FailureKind, Report};
pub(crate) use runc::FOLDER as RUNC_FOLDER;

use crate::{
    options::RuntimeKind,
    plan::{ExecPlan, UserPlan},
    sys::{mount, process},
};
use rustix::{
    fs::CWD,
    io::Errno,
    mount::{MountAttrFlags, OpenTreeFlags, open_tree},
};
use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    process::ExitCode,
};

const SHIM: &CStr = c"jdos-shim";
const ENTER: &CStr = c"jdos-enter";

/// Numbers under which a shim finds its descriptors.
pub(crate) mod number {
    use std::os::fd::RawFd;
    /// The plan, as JSON.
    pub const PLAN: RawFd = 3;
    /// Where it reports to.
    pub const REPORT: RawFd = 4;
    /// The container's lock, held.
    pub const LOCK: RawFd = 5;
    /// The first attached client, the monitor's end.
    pub const CLIENT: RawFd = 6;
    /// The first of the descriptors to be held.
    pub const HELD: RawFd = 7;
}

/// What makes the first process of a container, and further ones. Everything else about a container is the same whoever
/// does that: its groups, network, pipes, monitor, state, signals and end.
pub(crate) trait Runtime {
    /// Makes the first process in the groups and with the pipes of the site, gives it its network, writes the state, and lets
    /// it go. When it fails, no process and no mount of it is left.
    ///
    /// # Errors
    /// What failed; [`FailureKind::NoIdmap`] when the host's users would do.
    fn start(
        &self,
        site: &shim::Site<'_>,
        users: &UserPlan,
        warnings: &mut Vec<String>,
    ) -> Result<shim::Started, Failure>;

    /// Runs a process more in a running container to its end: reports that it has started (with its terminal's master), and
    /// gives its wait status.
    ///
    /// # Errors
    /// Why it did not start.
    fn enter(&self, plan: &ExecPlan, report: BorrowedFd<'_>) -> Result<i32, Failure>;
}

impl RuntimeKind {
    /// The runtime that was chosen.
    pub(crate) fn chosen(&self) -> &dyn Runtime {
        match self {
            Self::Jdos => &embedded::Embedded,
            Self::Runc(runc) => runc,
        }
    }
}

/// Runs the role that this process was executed for, if any; to be called before any thread exists.
pub fn dispatch() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    match arguments.next()?.as_encoded_bytes() {
        name if name == SHIM.to_bytes() => Some(shim::main()),
        name if name == ENTER.to_bytes() => Some(enter::main()),
        _ => match arguments.next()?.to_str()? {
            "--jdos-finish" => Some(crate::engine::finish_role(arguments)),
            _ => None,
        },
    }
}

/// Which role to execute.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    /// Start a container.
    Shim,
    /// Start a process in a running one.
    Enter,
}

/// Executes this program in a role, with these descriptors, in a session of its own; gives its pid.
///
/// # Errors
/// Those of open_tree(2), mount_setattr(2) and posix_spawn(3).
pub(crate) fn spawn(role: Role, descriptors: &[(BorrowedFd<'_>, RawFd)]) -> rustix::io::Result<i32> {
    // Whoever opens /proc/PID/exe of the new process comes through this mount and can not write (CVE-2019-5736).
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let program = open_tree(CWD, c"/proc/self/exe", flags)?;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    mount::set_attributes(program.as_fd(), mount::Change { set, ..mount::Change::default() })?;
    let path = CString::new(format!("/proc/self/fd/{}", program.as_raw_fd())).map_err(|_| Errno::INVAL)?;
    let name = match role {
        Role::Shim => SHIM,
        Role::Enter => ENTER,
    };
    process::spawn(&path, &[name.to_owned()], &[], descriptors)
}
