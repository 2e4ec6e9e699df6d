//! The client end of a monitor's socket: output as it comes, input, the terminal's size.
//!
//! One sequenced packet is one message: a byte that says what it is, then at most 16 KiB. A monitor waits for its clients:
//! one that does not receive slows the container down. For the same reason sending never waits here: a client that waited
//! for the container to read would not receive, and neither would go on.

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType},
};
use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Largest payload of a message, bytes.
pub const PAYLOAD: usize = 16 << 10;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const EXITED: u8 = 3;
const RESIZE: u8 = 4;
const END_OF_INPUT: u8 = 5;

/// A connection to the monitor of a running container. While it is open and not read, the container waits: nothing is lost.
#[derive(Debug)]
pub struct Client(OwnedFd);

/// What a monitor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Standard output; all output with a terminal.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// The container has ended; all its output came before.
    Exited {
        /// As wait(2) gives it; -1 when nobody saw it.
        status: i32,
        /// Whether the kernel killed something in it for want of memory.
        oom: bool,
    },
    /// The monitor has gone.
    Closed,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when no monitor listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        // The folder is named by descriptor: a path may be longer than an address holds (108 bytes, unix(7)).
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the socket's path has no folder or no name");
        let (folder, name) = path.parent().zip(path.file_name()).ok_or_else(missing)?;
        let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        net::connect(&socket, &SocketAddrUnix::new(short)?)?;
        Ok(Self(socket))
    }

    /// A connection that another has made.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self(socket)
    }

    fn send(&self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let kind = [kind];
        let parts = [IoSlice::new(&kind), IoSlice::new(payload)];
        net::sendmsg(&self.0, &parts, &mut SendAncillaryBuffer::default(), flags)?;
        Ok(())
    }

    /// Sends input; gives how many bytes were taken, at least one unless there are none.
    ///
    /// # Errors
    /// `WouldBlock` when the container does not read: go on when [`Client::as_fd`] is writable, and receive meanwhile.
    /// `BrokenPipe` when the monitor has gone: receive what it left.
    pub fn send_stdin(&self, data: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        for chunk in data.chunks(PAYLOAD) {
            match self.send(STDIN, chunk) {
                Ok(()) => sent += chunk.len(),
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Says that no more input comes: the container sees its end once it has read what was sent before.
    ///
    /// # Errors
    /// As for [`Client::send_stdin`].
    pub fn send_eof(&self) -> io::Result<()> {
        self.send(END_OF_INPUT, &[])
    }

    /// Sets the size of the container's terminal, in characters.
    ///
    /// # Errors
    /// As for [`Client::send_stdin`].
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        self.send(RESIZE, &[rows.to_le_bytes(), columns.to_le_bytes()].concat())
    }

    /// The next event; waits for one.
    ///
    /// # Errors
    /// `InvalidData` for a message that this version does not know.
    pub fn receive(&self) -> io::Result<Event> {
        let mut buffer = vec![0; PAYLOAD + 1];
        let length = loop {
            match net::recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => break length,
                // The monitor left without having read all that we sent. That is told first, and once; what it said before
                // can still be received, and then its end.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        buffer.truncate(length);
        match (buffer.first().copied(), buffer.get(1..)) {
            (None, _) => Ok(Event::Closed),
            (Some(STDOUT), _) => Ok(Event::Stdout(buffer.split_off(1))),
            (Some(STDERR), _) => Ok(Event::Stderr(buffer.split_off(1))),
            (Some(EXITED), Some([a, b, c, d, oom])) => {
                Ok(Event::Exited { status: i32::from_le_bytes([*a, *b, *c, *d]), oom: *oom != 0 })
            }
            (Some(kind), _) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("the monitor sent a message of kind {kind}")))
            }
        }
    }
}
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Client, OwnedFd) {
        let kind = SocketType::SEQPACKET;
        let (near, far) = net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        (Client::from_fd(near), far)
    }

    #[test]
    fn events_as_the_monitor_packs_them() {
        let (client, far) = pair();
        for packet in [&b"\x01out"[..], b"\x02err", b"\x03\x09\0\0\0\x01", b"\x07?"] {
            net::send(&far, packet, SendFlags::empty()).unwrap();
        }
        drop(far);
        assert_eq!(client.receive().unwrap(), Event::Stdout(b"out".to_vec()));
        assert_eq!(client.receive().unwrap(), Event::Stderr(b"err".to_vec()));
        assert_eq!(client.receive().unwrap(), Event::Exited { status: 9, oom: true });
        assert_eq!(client.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(client.receive().unwrap(), Event::Closed);
        assert_eq!(client.send_eof().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_last_words_of_a_monitor_that_had_not_read_all_are_heard() {
        let (client, far) = pair();
        client.resize(24, 80).unwrap();
        for packet in [&b"\x01out"[..], b"\x03\0\x03\0\0\0"] {
            net::send(&far, packet, SendFlags::empty()).unwrap();
        }
        drop(far);
        assert_eq!(client.receive().unwrap(), Event::Stdout(b"out".to_vec()));
        assert_eq!(client.receive().unwrap(), Event::Exited { status: 0x300, oom: false });
        assert_eq!(client.receive().unwrap(), Event::Closed);
    }

    #[test]
    fn long_input_goes_in_pieces() {
        let (client, far) = pair();
        assert_eq!(client.send_stdin(&[b'x'; PAYLOAD + 1]).unwrap(), PAYLOAD + 1);
        let mut buffer = vec![0; 2 * PAYLOAD];
        assert_eq!(net::recv(&far, &mut buffer[..], RecvFlags::empty()).unwrap().1, PAYLOAD + 1);
        assert_eq!(buffer[..2], [STDIN, b'x']);
        assert_eq!(net::recv(&far, &mut buffer[..], RecvFlags::empty()).unwrap().1, 2);
        assert_eq!(client.send_stdin(b"").unwrap(), 0);
    }

    #[test]
    fn sending_never_waits() {
        let (client, far) = pair();
        let flood = vec![b'x'; 64 << 20];
        let sent = client.send_stdin(&flood).unwrap();
        assert!(sent > PAYLOAD && sent < flood.len() && sent.is_multiple_of(PAYLOAD), "{sent}");
        // Small packets may fit where a large one does not.
        let full = |result: io::Result<()>| result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        assert!((0..10_000).any(|_| full(client.resize(1, 2))));
        assert!(full(client.send_eof()) && full(client.send_stdin(b"more").map(drop)));
        drop(far);
    }

    #[test]
    fn long_paths_connect() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let listener = crate::runtime::shim::listen_at(&deep).unwrap();
        Client::connect(&deep.join("attach")).unwrap();
        drop(listener);
        assert!(Client::connect(&deep.join("attach")).is_err());
    }
}
