//! Foreground: one poll loop between this process's standard streams and a program elsewhere.
//!
//! Nothing is lost and nothing waits for the wrong thing: at most one packet is held in each direction, what can not be
//! written yet is not read yet, and while output waits for its reader, input and signals go on. The loop knows neither
//! containers nor engines; the other end is a [`Peer`].

mod detach;
mod peer;
mod signals;
mod terminal;

pub use detach::DetachKeys;
pub use peer::{AttachedPeer, Event, ExecPeer, Output, Peer};
pub use signals::Signals;
pub use terminal::{RawTerminal, own_window_size, window_size};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

/// Largest piece written to a stream of ours at once. `poll` says of a pipe that this much fits (pipe(7), `PIPE_BUF`), so
/// that a write after it does not block although the stream is a blocking one (it is shared with other processes).
const PIECE: usize = 4096;
/// Largest piece of input read and sent at once: one packet of the monitor's protocol.
const PACKET: usize = 16 * 1024;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The program ended, with this wait status (as of wait(2), -1 when unknown) if the peer tells it, and whether
    /// memory ran out.
    Exited {
        /// Wait status.
        status: Option<i32>,
        /// Whether the kernel killed something for want of memory.
        oom: bool,
    },
    /// The user typed the detach keys.
    Detached,
    /// Nobody reads our standard output any more.
    OutputClosed,
    /// A signal told this process to leave.
    Signal(i32),
    /// The other end went away without saying how the program ended.
    Lost,
}

/// What to do after a signal was dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Carry on.
    GoOn,
    /// Leave with [`End::Signal`].
    Leave,
}

/// This process's side.
pub struct Session<'a> {
    /// Input to forward; `None`: none is forwarded.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Where the program's standard output goes.
    pub stdout: BorrowedFd<'a>,
    /// Where the program's standard error goes.
    pub stderr: BorrowedFd<'a>,
    /// Keys that leave the program alone; only for a raw terminal.
    pub keys: Option<DetachKeys>,
    /// The terminal whose size the program's terminal follows.
    pub window: Option<BorrowedFd<'a>>,
    /// Signals that were asked for.
    pub signals: &'a mut Signals,
    /// Called for every signal but a change of the window's size.
    pub on_signal: &'a mut dyn FnMut(i32) -> Reaction,
}

/// Bytes on their way, and how many of them have left.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    sent: usize,
}
impl Pending {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, sent: 0 }
    }
    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }
    fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }
}

/// What one `poll` found ready.
#[derive(Default)]
struct Ready {
    signals: bool,
    stdin: bool,
    output: bool,
    sink: bool,
    sources: Vec<usize>,
}

struct Loop<'s, 'a, P> {
    session: &'s mut Session<'a>,
    peer: &'s mut P,
    input: Pending,
    /// Input was read to its end and the peer has not been told yet.
    input_ended: bool,
    /// Input is still read.
    reading: bool,
    output: Pending,
    /// Which stream `output` is for.
    stream: Output,
    /// Nobody reads standard error any more: what comes for it is dropped.
    stderr_closed: bool,
    /// The window's size is to be sent when there is room for it.
    size_waits: bool,
    turns: usize,
}

impl Session<'_> {
    /// Carries bytes, signals and window sizes until the session ends.
    ///
    /// # Errors
    /// That of polling or of one of the streams. A stream that its reader closed is not an error.
    pub fn run(&mut self, peer: &mut impl Peer) -> io::Result<End> {
        let reading = self.stdin.is_some();
        let mut state = Loop {
            session: self,
            peer,
            input: Pending::default(),
            input_ended: false,
            reading,
            output: Pending::default(),
            stream: Output::Stdout,
            stderr_closed: false,
            size_waits: false,
            turns: 0,
        };
        state.resize()?;
        loop {
            if let Some(end) = state.turn()? {
                return Ok(end);
            }
        }
    }
}

impl<P: Peer> Loop<'_, '_, P> {
    /// Waits once and does what can be done.
    fn turn(&mut self) -> io::Result<Option<End>> {
        // While output is being written the sources are not asked: that none is ready says nothing then.
        let asked = self.output.is_empty();
        let ready = self.wait()?;
        if ready.signals
            && let Some(end) = self.signals()?
        {
            return Ok(Some(end));
        }
        if ready.output
            && let Some(end) = self.write()?
        {
            return Ok(Some(end));
        }
        if ready.stdin
            && let Some(end) = self.read()?
        {
            return Ok(Some(end));
        }
        if ready.sink {
            self.send()?;
        }
        if asked && ready.sources.is_empty() && self.peer.draining() {
            return Ok(Some(End::Exited { status: None, oom: false }));
        }
        // In turns: a flood on one stream must not keep the other, or the program's end, from being seen.
        self.turns = self.turns.wrapping_add(1);
        match ready.sources.len() {
            0 => Ok(None),
            ready_now => self.receive(ready.sources[self.turns % ready_now]),
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let stdin = self.session.stdin.filter(|_| self.reading && self.input.is_empty());
        let output = (!self.output.is_empty()).then_some(match self.stream {
            Output::Stdout => self.session.stdout,
            Output::Stderr => self.session.stderr,
        });
        let sink = self.peer.sink().filter(|_| !self.input.is_empty() || self.input_ended || self.size_waits);
        let sources = if self.output.is_empty() { self.peer.sources() } else { Vec::new() };
        let fixed = [
            (Some(self.session.signals.as_fd()), PollFlags::IN),
            (stdin, PollFlags::IN),
            (output, PollFlags::OUT),
            (sink, PollFlags::OUT),
        ];
        let mut fds: Vec<PollFd<'_>> =
            fixed.iter().filter_map(|(fd, flags)| fd.map(|fd| PollFd::from_borrowed_fd(fd, *flags))).collect();
        fds.extend(sources.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let drain = self.peer.draining() && self.output.is_empty();
        match poll(&mut fds, drain.then_some(&at_once)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready { signals: true, ..Ready::default() }),
            Err(error) => return Err(error.into()),
        }
        let mut states = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = |asked: bool| asked && states.next().unwrap_or(false);
        let mut ready = Ready {
            signals: next(true),
            stdin: next(stdin.is_some()),
            output: next(output.is_some()),
            sink: next(sink.is_some()),
            sources: Vec::new(),
        };
        ready.sources = (0..sources.len()).filter(|_| next(true)).collect();
        Ok(ready)
    }

    fn signals(&mut self) -> io::Result<Option<End>> {
        for signal in self.session.signals.pending() {
            if signal == signal_hook::consts::SIGWINCH {
                self.resize()?;
            } else if (self.session.on_signal)(signal) == Reaction::Leave {
                return Ok(Some(End::Signal(signal)));
            }
        }
        Ok(None)
    }

    /// Gives the window's size to the program's terminal.
    fn resize(&mut self) -> io::Result<()> {
        let Some(window) = self.session.window.and_then(window_size) else { return Ok(()) };
        let sent = self.peer.resize(window);
        self.size_waits = sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        match sent {
            // A terminal that is gone needs no size; that it is gone comes from the sources.
            Err(error) if !self.size_waits && !is_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads input, unless some is still on its way.
    fn read(&mut self) -> io::Result<Option<End>> {
        let Some(stdin) = self.session.stdin else { return Ok(None) };
        let mut buffer = vec![0; PACKET];
        let length = match rustix::io::read(stdin, &mut buffer) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::IO) => 0, // a terminal that was hung up, or one that is not ours to read from
            Err(error) => return Err(error.into()),
        };
        buffer.truncate(length);
        if length == 0 {
            self.reading = false;
            self.input_ended = true;
        }
        let Some(keys) = &mut self.session.keys else {
            self.input = Pending::new(buffer);
            return Ok(None);
        };
        let (forward, detached) = keys.filter(&buffer);
        self.input = Pending::new(forward);
        Ok(detached.then_some(End::Detached))
    }

    fn send(&mut self) -> io::Result<()> {
        if self.size_waits {
            return self.resize();
        }
        let sent = if self.input.is_empty() {
            self.input_ended = false;
            self.peer.end_input().map(|()| 0)
        } else {
            self.peer.send(self.input.rest())
        };
        match sent {
            Ok(sent) => self.input.sent += sent,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) if is_gone(&error) => {
                // The program closed its input; whether it ended comes from the sources.
                (self.reading, self.input_ended, self.input) = (false, false, Pending::default());
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn receive(&mut self, source: usize) -> io::Result<Option<End>> {
        match self.peer.receive(source) {
            Ok(Event::Output(Output::Stderr, _)) if self.stderr_closed => Ok(None),
            Ok(Event::Output(stream, bytes)) => {
                (self.stream, self.output) = (stream, Pending::new(bytes));
                Ok(None)
            }
            Ok(Event::Exited { status, oom }) => Ok(Some(End::Exited { status, oom })),
            Ok(Event::Nothing) => Ok(None),
            Ok(Event::Lost) => Ok(Some(End::Lost)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) if is_gone(&error) => Ok(Some(End::Lost)),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self) -> io::Result<Option<End>> {
        let target = match self.stream {
            Output::Stdout => self.session.stdout,
            Output::Stderr => self.session.stderr,
        };
        let rest = self.output.rest();
        match rustix::io::write(target, &rest[..rest.len().min(PIECE)]) {
            Ok(written) => self.output.sent += written,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::PIPE) if self.stream == Output::Stdout => return Ok(Some(End::OutputClosed)),
            Err(Errno::PIPE) => (self.stderr_closed, self.output) = (true, Pending::default()),
            Err(error) => return Err(error.into()),
        }
        Ok(None)
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
        || error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests;
