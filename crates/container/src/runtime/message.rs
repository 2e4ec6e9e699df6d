//! What shim, child and manager tell each other, over sequenced packets.

use rustix::{
    io::{Errno, IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fmt::Display,
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

/// Largest packet, bytes.
const PACKET: usize = 64 << 10;
/// Most descriptors in one packet; the kernel takes 253.
pub const DESCRIPTORS: usize = 128;

/// What sort of failure it was, for exit codes and retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request can not be honoured.
    Invalid,
    /// The program to run is not there (Docker's 127).
    NotFound,
    /// The program to run can not be executed (Docker's 126).
    NotExecutable,
    /// A privilege is missing.
    Denied,
    /// A file system can not be id-mapped.
    NoIdmap,
    /// Anything else.
    Failed,
}

/// A start that failed: which operation, on what, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{operation} {subject}: {reason}")]
pub struct Failure {
    /// What was being done.
    pub operation: String,
    /// To what.
    pub subject: String,
    /// Why it failed.
    pub reason: String,
    /// What sort of failure.
    pub kind: FailureKind,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, operation: &str, subject: impl Display, reason: impl Display) -> Self {
        Self { operation: operation.to_owned(), subject: subject.to_string(), reason: reason.to_string(), kind }
    }
}

/// Says during what an error came up.
pub(crate) trait During<T> {
    /// Names operation and subject.
    fn during(self, operation: &str, subject: impl Display) -> Result<T, Failure>;
}
impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, operation: &str, subject: impl Display) -> Result<T, Failure> {
        self.map_err(|errno| {
            let kind = if errno == Errno::PERM { FailureKind::Denied } else { FailureKind::Failed };
            Failure::new(kind, operation, subject, io::Error::from(errno))
        })
    }
}
impl<T> During<T> for io::Result<T> {
    fn during(self, operation: &str, subject: impl Display) -> Result<T, Failure> {
        self.map_err(|error| {
            let denied = error.raw_os_error() == Some(Errno::PERM.raw_os_error());
            let kind = if denied { FailureKind::Denied } else { FailureKind::Failed };
            Failure::new(kind, operation, subject, error)
        })
    }
}

/// What a shim tells the manager.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Report {
    /// The program runs.
    Started {
        /// As the host numbers it.
        pid: i32,
        /// What was asked for and could not be had.
        warnings: Vec<String>,
    },
    /// It does not, and nothing of it is left.
    Failed(Failure),
    /// An entered process has ended with this wait status.
    Ended(i32),
}

/// Between shim and child.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Word {
    /// Shim: your ids are mapped.
    Mapped,
    /// Shim: mounts as descriptors, in order; more follow.
    Trees,
    /// Shim: that was all.
    AllTrees,
    /// Child: everything is in place; the descriptor, if there is one, is the terminal's master.
    Ready,
    /// Shim: execute.
    Go,
    /// Who enters a container: its process was born; the descriptor refers to it.
    Born(i32),
    /// Child: it went wrong.
    Failed(Failure),
}

/// Sends one packet with descriptors.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, word: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(word)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one packet"));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one packet; `None` when the other end is gone.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message.bytes,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if length == 0 {
        return Ok(None);
    }
    let word = serde_json::from_slice(&buffer[..length])?;
    Ok(Some((word, descriptors)))
}

/// A shim's report, with the terminal's master where it sends one; a shim that died without a word is a failure.
pub(crate) fn receive_report(socket: BorrowedFd<'_>) -> Result<(Report, Vec<OwnedFd>), Failure> {
    let gone = || Failure::new(FailureKind::Failed, "start", "the shim", "it was killed before it could report");
    receive(socket).during("read the report of", "the shim")?.ok_or_else(gone)
}
