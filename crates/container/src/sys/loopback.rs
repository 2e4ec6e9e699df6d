//! Bringing up the loopback interface of the caller's network namespace (netdevice(7)).

use rustix::{
    io::{Errno, Result},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};
use std::os::fd::AsRawFd;

/// Sets `IFF_UP` of `lo`.
///
/// # Errors
/// That of socket(2) or ioctl(2).
pub fn up() -> Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: an all-zero `ifreq` is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = libc::c_char::from_ne_bytes([*byte]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).map_err(|_| Errno::INVAL)?;
    // SAFETY: the descriptor is open, the request has the layout that SIOCSIFFLAGS reads, and it outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) } {
        0 => Ok(()),
        _ => Err(super::process::last_error()),
    }
}
