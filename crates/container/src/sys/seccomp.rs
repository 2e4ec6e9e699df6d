//! Kernel calls: seccomp.

use crate::seccomp::FilterFlags;
use rustix::io::Errno;

/// Bytes of a `struct sock_filter`.
const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// Puts the calling thread (with [`FilterFlags::TSYNC`], the process) and all its future children under a filter: an array
/// of `struct sock_filter` as [`compile`](crate::seccomp::compile) makes it. Nothing undoes it.
///
/// It neither allocates nor locks, so that a child may call it between clone and execve. The caller must have
/// `no_new_privs` set or CAP_SYS_ADMIN in its user namespace.
///
/// # Errors
/// `EINVAL`: the program is not one for the kernel, or a flag is unknown to it. `EACCES`: neither `no_new_privs` nor
/// CAP_SYS_ADMIN. `ENOMEM`: too many filters. `ESRCH`: another thread could not be synchronised. `ENOSYS`: no seccomp.
pub fn install(program: &[u8], flags: FilterFlags) -> rustix::io::Result<()> {
    let whole = program.len().is_multiple_of(INSTRUCTION);
    let length = u16::try_from(program.len() / INSTRUCTION).ok().filter(|length| whole && *length > 0);
    let length = length.ok_or(Errno::INVAL)?;
    // The kernel copies the instructions and does not ask for alignment; it does not write to them.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `program` points to `length` instructions of initialised memory, and both it and they outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::c_ulong::from(flags.bits()),
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        // With TSYNC: the thread that has another filter of its own.
        1.. => Err(Errno::SRCH),
        // SAFETY: the C library's address of this thread's errno, always valid.
        _ => Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() })),
    }
}
