//! The other end of a session: a monitor's socket, or the pipes or terminal of an additional process.

use container::{attach, engine::Exec, options::WindowSize};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Which of the program's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output, or its terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What came from the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Output of the program.
    Output(Output, Vec<u8>),
    /// The program ended and all its output was received.
    Exited {
        /// Wait status, when the peer knows it.
        status: Option<i32>,
        /// Whether memory ran out.
        oom: bool,
    },
    /// Nothing to do.
    Nothing,
    /// The other end is gone, and the program's end is unknown.
    Lost,
}

/// The other end of a session. No method blocks after `poll` said that its descriptor is ready.
pub trait Peer {
    /// Descriptors that are readable when something came.
    fn sources(&self) -> Vec<BorrowedFd<'_>>;
    /// The descriptor that is writable when input can be sent; `None` when the program takes no input.
    fn sink(&self) -> Option<BorrowedFd<'_>>;
    /// Whether the program has ended and only what was already written is still to come.
    fn draining(&self) -> bool {
        false
    }
    /// Takes what came on a source, by its position in [`Peer::sources`].
    ///
    /// # Errors
    /// That of reading.
    fn receive(&mut self, source: usize) -> io::Result<Event>;
    /// Sends input; gives the number of bytes taken.
    ///
    /// # Errors
    /// That of writing; `BrokenPipe` when the program closed its input.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Tells the program that its input ended.
    ///
    /// # Errors
    /// That of writing.
    fn end_input(&mut self) -> io::Result<()>;
    /// Sets the size of the program's terminal.
    ///
    /// # Errors
    /// That of the socket or the terminal.
    fn resize(&mut self, window: WindowSize) -> io::Result<()>;
}

/// A container behind its monitor's socket.
pub struct AttachedPeer(pub attach::Client);

impl Peer for AttachedPeer {
    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.0.as_fd()]
    }
    fn sink(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
    fn receive(&mut self, _source: usize) -> io::Result<Event> {
        Ok(match self.0.receive()? {
            attach::Event::Stdout(bytes) => Event::Output(Output::Stdout, bytes),
            attach::Event::Stderr(bytes) => Event::Output(Output::Stderr, bytes),
            attach::Event::Exited { status, oom } => Event::Exited { status: Some(status), oom },
            attach::Event::Closed => Event::Lost,
        })
    }
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_stdin(bytes)
    }
    fn end_input(&mut self) -> io::Result<()> {
        self.0.send_eof()
    }
    fn resize(&mut self, window: WindowSize) -> io::Result<()> {
        self.0.resize(window.rows, window.columns)
    }
}

/// An additional process of a container.
///
/// It ends when the process does, not when its output is closed: what it left running in the background may hold that
/// open for ever.
pub struct ExecPeer {
    stdin: Option<OwnedFd>,
    outputs: Vec<(Output, OwnedFd)>,
    pty: bool,
    pidfd: Option<OwnedFd>,
    exited: bool,
}

/// Largest piece read or written at once; one page of a pipe.
const PIECE: usize = 4096;

impl ExecPeer {
    /// Takes the descriptors of the process, not the process: it is still to be waited for.
    ///
    /// # Errors
    /// That of making the descriptors non-blocking.
    pub fn new(exec: &mut Exec) -> io::Result<Self> {
        let pid = Pid::from_raw(exec.pid);
        // A process that is already gone has no pidfd, and has ended.
        let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let exited = pidfd.is_none();
        let streams = [(Output::Stdout, exec.stdout.take()), (Output::Stderr, exec.stderr.take())];
        Self::from_parts(exec.stdin.take(), streams, exec.pty.take(), pidfd, exited)
    }

    pub(super) fn from_parts(
        stdin: Option<OwnedFd>,
        streams: [(Output, Option<OwnedFd>); 2],
        pty: Option<OwnedFd>,
        pidfd: Option<OwnedFd>,
        exited: bool,
    ) -> io::Result<Self> {
        let is_pty = pty.is_some();
        let mut outputs: Vec<_> = streams.into_iter().filter_map(|(stream, fd)| fd.map(|fd| (stream, fd))).collect();
        outputs.extend(pty.map(|pty| (Output::Stdout, pty)));
        for fd in outputs.iter().map(|(_, fd)| fd).chain(&stdin) {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        Ok(Self { stdin, outputs, pty: is_pty, pidfd, exited })
    }

    fn input(&self) -> Option<&OwnedFd> {
        match self.pty {
            true => self.outputs.first().map(|(_, pty)| pty),
            false => self.stdin.as_ref(),
        }
    }
}

impl Peer for ExecPeer {
    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        let outputs = self.outputs.iter().map(|(_, fd)| fd);
        outputs.chain(&self.pidfd).map(AsFd::as_fd).collect()
    }
    fn sink(&self) -> Option<BorrowedFd<'_>> {
        self.input().map(AsFd::as_fd)
    }
    fn draining(&self) -> bool {
        self.exited
    }
    fn receive(&mut self, source: usize) -> io::Result<Event> {
        let Some((stream, fd)) = self.outputs.get(source) else {
            (self.pidfd, self.exited) = (None, true);
            return Ok(Event::Nothing);
        };
        let mut buffer = vec![0; PIECE];
        let length = match rustix::io::read(fd, &mut buffer) {
            Ok(length) => length,
            Err(Errno::IO) => 0, // the last process closed its end of the terminal
            Err(error) => return Err(error.into()),
        };
        buffer.truncate(length);
        let stream = *stream;
        if length > 0 {
            return Ok(Event::Output(stream, buffer));
        }
        self.outputs.remove(source);
        Ok(match self.outputs.is_empty() && self.exited {
            true => Event::Exited { status: None, oom: false },
            false => Event::Nothing,
        })
    }
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.input().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(rustix::io::write(fd, &bytes[..bytes.len().min(PIECE)])?)
    }
    fn end_input(&mut self) -> io::Result<()> {
        if self.pty {
            // What a user types for it: the line discipline turns it into an end of file.
            const END_OF_TRANSMISSION: &[u8] = b"\x04";
            self.send(END_OF_TRANSMISSION)?;
        }
        self.stdin = None;
        Ok(())
    }
    fn resize(&mut self, window: WindowSize) -> io::Result<()> {
        let size = Winsize { ws_row: window.rows, ws_col: window.columns, ws_xpixel: 0, ws_ypixel: 0 };
        match (self.pty, self.outputs.first()) {
            (true, Some((_, pty))) => Ok(tcsetwinsize(pty, size)?),
            _ => Ok(()),
        }
    }
}
