//! Kernel calls: options of netlink sockets, which no safe wrapper offers.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Turns on an option of level `SOL_NETLINK` (netlink(7)), such as `NETLINK_EXT_ACK`.
///
/// # Errors
/// That of setsockopt(2).
pub fn enable_netlink_option(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    const LENGTH: libc::socklen_t = libc::c_int::BITS / 8;
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length (of a C `int`) describe `on`, which lives until the call returns; the kernel only reads it.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), LENGTH) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
