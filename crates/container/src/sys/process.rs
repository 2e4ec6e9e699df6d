//! Processes: clone3(2), execve(2), posix_spawn(3), and descriptors that arrive by number.

use rustix::io::{Errno, Result};
use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// The error of the last C call.
pub fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Of clone3(2); the `libc` crate has it in a type that is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// On which side of [`clone`] the caller finds itself.
#[derive(Debug)]
pub enum Side {
    /// In the new process.
    Child,
    /// In the old one, with the new one's number and descriptor.
    Parent {
        /// As the caller's pid namespace numbers it.
        pid: i32,
        /// Refers to it for as long as it is held.
        pidfd: OwnedFd,
    },
}

/// clone3(2) with a copy of the caller's memory, SIGCHLD at its end, and these namespaces (`CLONE_NEW*`); born in the
/// control group of `cgroup` (a directory of a v2 hierarchy) when given. To be called by a process of one thread.
///
/// # Errors
/// That of clone3(2).
pub fn clone(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
    clone_as(namespaces, libc::SIGCHLD, cgroup)
}

/// The same for a child of the caller's own parent, which it is to wait for: a sibling of the caller.
///
/// # Errors
/// That of clone3(2).
pub fn clone_sibling() -> Result<Side> {
    // The kernel takes no signal here: it is the caller's own.
    clone_as(libc::CLONE_PARENT, 0, None)
}

fn clone_as(flags: i32, signal: i32, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
    let mut pidfd: RawFd = -1;
    // SAFETY: an all-zero `clone_args` is a valid value of this plain C structure.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags.unsigned_abs()) | libc::CLONE_PIDFD.unsigned_abs() as u64;
    arguments.pidfd = (&raw mut pidfd).addr() as u64;
    arguments.exit_signal = signal.unsigned_abs() as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd().unsigned_abs() as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of everything; the structure outlives the call, and its
    // pointer is to a live integer.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match result {
        0 => Ok(Side::Child),
        pid if pid > 0 => {
            // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent { pid: i32::try_from(pid).map_err(|_| Errno::OVERFLOW)?, pidfd })
        }
        _ => Err(last_error()),
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// execve(2); returns only when it fails.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: all three are C strings or null-terminated arrays of them that live until the call returns.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    last_error()
}

/// Lets SIGPIPE end whatever is executed next: the runtime of Rust ignores it, and execve(2) hands that on.
///
/// # Errors
/// That of sigaction(2).
pub fn default_sigpipe() -> Result<()> {
    // SAFETY: installs no handler, and touches no memory of this process.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(last_error()),
        _ => Ok(()),
    }
}

/// Ends this process at once, without running anything at exit.
pub fn exit(code: i32) -> ! {
    // SAFETY: has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Marks every descriptor from `first` on as to be closed by execve(2).
///
/// # Errors
/// That of close_range(2).
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: closes nothing now; takes no pointers.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// unshare(2) of namespaces by a process of one thread.
///
/// # Errors
/// That of unshare(2).
pub fn unshare(namespaces: i32) -> Result<()> {
    // SAFETY: only `CLONE_NEW*` flags are passed; memory and descriptors stay shared as they are.
    match unsafe { libc::unshare(namespaces) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// Runs `work` with these ids for access to files, and with all capabilities kept, then takes the old ids again
/// (setfsuid(2), capabilities(7) `SECBIT_NO_SETUID_FIXUP`).
///
/// # Errors
/// `PERM` when the ids can not be taken; `work` has not run then.
pub fn with_file_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> Result<T> {
    use rustix::thread::{CapabilitiesSecureBits as Bits, capabilities_secure_bits, set_capabilities_secure_bits};
    let before = capabilities_secure_bits()?;
    set_capabilities_secure_bits(before | Bits::NO_SETUID_FIXUP)?;
    // SAFETY: these two change ids of the calling thread only, and take no pointers.
    let (old_uid, old_gid) = unsafe { (libc::setfsuid(uid), libc::setfsgid(gid)) };
    // SAFETY: as above; an id of all ones changes nothing and tells what is set.
    let set = unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
    let taken = set == (uid.cast_signed(), gid.cast_signed());
    let result = taken.then(work);
    // SAFETY: as above; the ids were this thread's own.
    unsafe {
        libc::setfsuid(old_uid.cast_unsigned());
        libc::setfsgid(old_gid.cast_unsigned());
    }
    set_capabilities_secure_bits(before)?;
    result.ok_or(Errno::PERM)
}

/// The descriptor that whoever executed this program left at this number; each number is taken once.
///
/// # Errors
/// `BADF` when nothing is open there.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: asks only whether the number is open, and marks it.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(last_error());
    }
    // SAFETY: it is open, and by contract with the parent nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Starts `program` with exactly these descriptors, at these numbers (0 to 2 included), in a session of its own.
///
/// # Errors
/// That of posix_spawn(3).
pub fn spawn(
    program: &CStr,
    arguments: &[CString],
    environment: &[CString],
    descriptors: &[(BorrowedFd<'_>, RawFd)],
) -> Result<i32> {
    // Copies above every target number first, so that no source is overwritten before its turn.
    let above = descriptors.iter().map(|(_, number)| number + 1).max().unwrap_or(3);
    let mut copies = Vec::with_capacity(descriptors.len());
    for (source, number) in descriptors {
        copies.push((rustix::io::fcntl_dupfd_cloexec(source, above)?, *number));
    }
    // The caller may have inherited descriptors without the mark: a pipe to its own caller, who would then wait for its
    // end as long as the new process lives.
    close_on_exec_from(3)?;
    let check = |code: i32| if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(code)) };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let mut pid = 0;
    // SAFETY: both objects are initialised before use and destroyed once; the strings and arrays live until the end.
    unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        let mut attributes: libc::posix_spawnattr_t = std::mem::zeroed();
        check(libc::posix_spawn_file_actions_init(&raw mut actions))?;
        check(libc::posix_spawnattr_init(&raw mut attributes))?;
        let mut result = Ok(());
        for (copy, number) in &copies {
            result = result.and_then(|()| {
                check(libc::posix_spawn_file_actions_adddup2(&raw mut actions, copy.as_raw_fd(), *number))
            });
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigfillset(&raw mut all);
        let set = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(set).map_or(libc::POSIX_SPAWN_SETSID, |set| set | libc::POSIX_SPAWN_SETSID);
        result = result
            .and_then(|()| check(libc::posix_spawnattr_setsigmask(&raw mut attributes, &raw const none)))
            .and_then(|()| check(libc::posix_spawnattr_setsigdefault(&raw mut attributes, &raw const all)))
            .and_then(|()| check(libc::posix_spawnattr_setflags(&raw mut attributes, flags)))
            .and_then(|()| {
                check(libc::posix_spawn(
                    &raw mut pid,
                    program.as_ptr(),
                    &raw const actions,
                    &raw const attributes,
                    arguments.as_ptr().cast(),
                    environment.as_ptr().cast(),
                ))
            });
        libc::posix_spawn_file_actions_destroy(&raw mut actions);
        libc::posix_spawnattr_destroy(&raw mut attributes);
        result?;
    }
    Ok(pid)
}

/// pidfd_send_signal(2) with any signal number, real-time ones included; a process that has ended is no error.
///
/// # Errors
/// `INVAL` for a number that is no signal, `PERM`.
pub fn send_signal(pidfd: &OwnedFd, signal: i32) -> Result<()> {
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open; a null `info` is what kill(2) would send.
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) } {
        0 => Ok(()),
        _ => match last_error() {
            Errno::SRCH => Ok(()),
            errno => Err(errno),
        },
    }
}
