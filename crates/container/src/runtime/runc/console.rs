//! Where runc sends the master of a terminal: a stream socket in the container's run folder.

use crate::runtime::{
    message::{During, Failure, FailureKind},
    mounts,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, fchmod},
    io::IoSliceMut,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
        accept_with, bind, listen, recvmsg, socket_with,
    },
};
use std::{
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

/// How long to wait for what runc has sent before it ended.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A listening socket.
pub struct Console(OwnedFd);

impl Console {
    /// Listens at this name in a folder, which is named by descriptor: its path may be longer than an address holds.
    pub fn listen(folder: &Path, name: &str) -> Result<Self, Failure> {
        const WHAT: &str = "a socket for the terminal";
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).during("open", WHAT)?;
        let opened = mounts::stage(folder)?;
        let address = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
        match fs::remove_file(&address) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).during("replace", WHAT),
            _ => {}
        }
        fchmod(&socket, Mode::from_raw_mode(0o600)).during("keep to root", WHAT)?;
        let address = SocketAddrUnix::new(address.as_str()).during("name", WHAT)?;
        bind(&socket, &address).during("bind", folder.join(name).display())?;
        listen(&socket, 1).during("listen at", folder.join(name).display())?;
        Ok(Self(socket))
    }

    /// The terminal's master.
    pub fn receive(&self) -> Result<OwnedFd, Failure> {
        const WHAT: &str = "the terminal from runc";
        let wait = |descriptor: &OwnedFd| -> Result<(), Failure> {
            let ready = poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&PATIENCE)).during("receive", WHAT)?;
            if ready == 0 {
                return Err(Failure::new(FailureKind::Failed, "receive", WHAT, "it has not sent one"));
            }
            Ok(())
        };
        wait(&self.0)?;
        let connection = accept_with(&self.0, SocketFlags::CLOEXEC).during("receive", WHAT)?;
        wait(&connection)?;
        // The name of the terminal comes along; nobody needs it.
        let mut name = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&connection, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .during("receive", WHAT)?;
        let rights = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let missing = || Failure::new(FailureKind::Failed, "receive", WHAT, "there was none in its message");
        rights.flatten().next().ok_or_else(missing)
    }
}
