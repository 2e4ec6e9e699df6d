//! The loop: waits, copies output and input, and brings the container to its end.

use crate::{
    arguments::Arguments,
    clients::{self, Clients},
    ending::{self, ExitFile},
    file,
    init::Init,
    input::Input,
    log::Log,
    sys::{self, Errno, Fd, Watch},
};

/// Most bytes of output in one packet, and in one read when a client is attached. Half of what a packet may hold: memory
/// counts for more than the calls it would save.
pub const OUTPUT_CHUNK: usize = 8 << 10;
/// Most bytes of input in one packet.
pub const INPUT_CHUNK: usize = 16 << 10;
/// How long something that cannot be waited for is left alone (nanoseconds).
const PAUSE: u64 = sys::SECOND / 5;
/// Most that is taken from a terminal after the container has ended (bytes); a pipe tells how much it holds.
const LAST_OF_TERMINAL: usize = 1 << 20;

/// Packets from clients.
const INPUT: u8 = 0;
const RESIZE: u8 = 4;
const END_OF_INPUT: u8 = 5;

const STREAMS: [u8; 2] = [file::OUT, file::ERR];

/// Two buffers of whole pages. They are in memory only while someone is attached, see [`sys::forget`].
#[repr(C, align(4096))]
pub struct Buffers {
    pub output: [u8; OUTPUT_CHUNK],
    pub input: [u8; INPUT_CHUNK],
}

pub struct Monitor<'a> {
    arguments: &'a Arguments,
    signals: Option<Fd>,
    init: Init,
    listen: Option<Fd>,
    streams: [Option<Fd>; 2],
    log: Log,
    clients: Clients,
    buffer: &'a mut [u8],
    input: Input<'a>,
    /// Until when the listening socket or the terminal are not watched (monotonic nanoseconds): out of descriptors, or
    /// nobody has the terminal open, both of which poll(2) would report again and again.
    paused: Option<u64>,
}

/// Places in the list of watches.
const SIGNALS: usize = 0;
const INIT: usize = 1;
const LISTEN: usize = 2;
const INPUT_TARGET: usize = 3;
const OUTPUT: usize = 4;
const CLIENTS: usize = OUTPUT + STREAMS.len();
const WATCHES: usize = CLIENTS + clients::MOST;

impl<'a> Monitor<'a> {
    pub fn new(arguments: &'a Arguments, buffers: &'a mut Buffers) -> Self {
        let signals = sys::block_signals().ok();
        for fd in [arguments.out, arguments.err, arguments.input, arguments.listen].into_iter().flatten() {
            // Fails only for what is not an open file, and then every later call says so too.
            let _ = sys::set_nonblocking(fd);
        }
        let mut clients = Clients::default();
        if let Some(client) = arguments.client {
            clients.add(client);
        }
        let target = if arguments.tty { arguments.out } else { arguments.input };
        Self {
            arguments,
            signals,
            init: Init::new(arguments),
            listen: arguments.listen,
            streams: [arguments.out, arguments.err.filter(|_| !arguments.tty)],
            log: Log::new(arguments.log, arguments.max, arguments.files),
            clients,
            buffer: &mut buffers.output,
            input: Input::new(target, arguments.tty, &mut buffers.input),
            paused: None,
        }
    }

    /// Returns when the container has ended and all is done but the last program.
    pub fn run(&mut self) {
        let mut exit_file = ExitFile::reserve(self.arguments.exit, self.buffer);
        self.init.reap();
        while self.init.status().is_none() {
            self.turn();
        }
        let time = sys::realtime();
        self.drain();
        self.end(time, &mut exit_file);
    }

    fn turn(&mut self) {
        let mut watches = self.watches();
        let timeout = [self.init.wait(), self.log.wait(), self.paused.map(|_| PAUSE)].into_iter().flatten().min();
        if sys::poll(&mut watches, timeout).is_err() {
            // Out of memory for the moment.
            sys::sleep(PAUSE);
            return;
        }
        if self.paused.is_some_and(|until| sys::monotonic() >= until) {
            self.paused = None;
        }
        self.log.tell();
        if watches[SIGNALS].seen != 0 {
            self.take_signals();
            self.init.reap();
        }
        self.init.look(watches[INIT].seen);
        for index in 0..clients::MOST {
            if watches[CLIENTS + index].seen & sys::HANG_UP != 0 {
                self.clients.hung_up(index);
            }
        }
        // Who is gone has left in a moment when its input can be taken: only where that is stuck must it make room.
        if watches[LISTEN].seen != 0 && (self.input.is_busy() || !self.clients.crowded()) {
            self.accept();
        }
        if watches[INPUT_TARGET].seen != 0 {
            self.input.write();
        }
        for index in 0..clients::MOST {
            let seen = watches[CLIENTS + index].seen;
            if seen != 0 {
                self.serve(index, seen);
            }
        }
        for index in 0..STREAMS.len() {
            let seen = watches[OUTPUT + index].seen;
            // Only as long as the buffer is free: the first stream, or a client that came back, may have filled it.
            if seen != 0 && !self.clients.owing() {
                self.copy(index, seen);
            }
        }
    }

    fn watches(&self) -> [Watch; WATCHES] {
        let mut watches = [Watch::NOTHING; WATCHES];
        watches[SIGNALS] = Watch::new(self.signals, sys::IN);
        watches[INIT] = self.init.watch();
        watches[INPUT_TARGET] = self.input.watch();
        if self.paused.is_none() {
            watches[LISTEN] = Watch::new(self.listen, sys::IN);
        }
        if !(self.clients.owing() || self.arguments.tty && self.paused.is_some()) {
            watches[OUTPUT] = Watch::new(self.streams[0], sys::IN);
            watches[OUTPUT + 1] = Watch::new(self.streams[1], sys::IN);
        }
        for index in 0..clients::MOST {
            watches[CLIENTS + index] = self.clients.watch(index, !self.input.is_busy());
        }
        watches
    }

    fn pause(&mut self) {
        self.paused = Some(sys::monotonic() + PAUSE);
    }

    /// Empties the file of signals. Which they are does not matter: SIGCHLD is told by reaping, all others are ignored.
    fn take_signals(&mut self) {
        let Some(signals) = self.signals else { return };
        let mut information = [0; 512];
        while sys::read(signals, &mut information).is_ok_and(|count| count > 0) {}
    }

    fn accept(&mut self) {
        match self.listen.map(sys::accept) {
            Some(Ok(socket)) => self.clients.add(socket),
            Some(Err(Errno::AGAIN)) | None => {}
            Some(Err(_)) => self.pause(),
        }
    }

    /// Exchanges packets with a client.
    fn serve(&mut self, index: usize, seen: i16) {
        if seen & sys::OUT != 0 {
            self.clients.flush(self.buffer);
        }
        if seen & !sys::OUT == 0 || self.input.is_busy() {
            return;
        }
        let Some(socket) = self.clients.socket(index) else { return };
        let mut kind = [0];
        let received = sys::receive(socket, &mut [sys::Part::into(&mut kind), sys::Part::into(self.input.buffer())]);
        match (received, kind[0]) {
            (Ok(0), _) => self.leave(index),
            (Ok(length), INPUT) => self.input.take(length - 1),
            (Ok(5), RESIZE) => self.resize(),
            (Ok(_), END_OF_INPUT) => self.input.finish(),
            // A packet of a kind that a later version may know; or a client that left without having read all, of which
            // we are told first, and get what it sent next.
            (Ok(_), _) | (Err(Errno::AGAIN | Errno::CONNRESET), _) => {}
            (Err(_), _) => self.leave(index),
        }
    }

    fn leave(&mut self, index: usize) {
        self.clients.remove(index);
        if self.clients.is_empty() {
            // A terminal has no input to close but by a character, which whoever has it open would read: it is there for the
            // next client.
            if !self.arguments.interactive && !self.arguments.tty {
                self.input.finish();
            }
            self.input.rest();
            sys::forget(self.buffer);
        }
    }

    fn resize(&mut self) {
        let (Some(terminal), &mut [low_rows, high_rows, low_columns, high_columns, ..]) =
            (self.streams[0].filter(|_| self.arguments.tty), self.input.buffer())
        else {
            return;
        };
        let (rows, columns) =
            (u16::from_le_bytes([low_rows, high_rows]), u16::from_le_bytes([low_columns, high_columns]));
        // Fails for what is no terminal, about which nothing can be done here.
        let _ = sys::set_window_size(terminal, rows, columns);
    }

    fn copy(&mut self, index: usize, seen: i16) {
        let result = self.pump(index, usize::MAX);
        match result {
            Ok(count) if count > 0 => {}
            Err(Errno::AGAIN) if seen & sys::HANG_UP == 0 => {}
            // Nobody has the terminal open. Somebody may open it again.
            _ if self.arguments.tty => self.pause(),
            Ok(_) if seen & sys::HANG_UP == 0 => {}
            // Nobody has the pipe open, and nobody can open it again.
            _ => {
                if let Some(pipe) = self.streams[index].take() {
                    sys::close(pipe);
                }
            }
        }
    }

    /// Copies one chunk of at most `most` bytes; gives its length, 0 when there is none.
    fn pump(&mut self, index: usize, most: usize) -> sys::Result<usize> {
        let (Some(fd), stream) = (self.streams[index], STREAMS[index]) else { return Ok(0) };
        if self.clients.is_empty() && !self.arguments.tty {
            return self.log.take(stream, fd, most, self.buffer);
        }
        let most = most.min(self.buffer.len());
        let count = sys::read(fd, &mut self.buffer[..most])?;
        if count > 0 {
            let chunk = &self.buffer[..count];
            self.log.append(stream, chunk);
            self.clients.send(stream, chunk);
        }
        Ok(count)
    }

    /// Copies what the pipes hold now. All processes of the container are dead, so more can only come from a stranger.
    fn drain(&mut self) {
        self.clients.enlarge();
        for index in 0..STREAMS.len() {
            let Some(fd) = self.streams[index] else { continue };
            let mut left = if self.arguments.tty { LAST_OF_TERMINAL } else { sys::pending(fd).unwrap_or(0) };
            while left > 0 {
                self.clients.settle(self.buffer);
                match self.pump(index, left) {
                    Ok(count) if count > 0 => left -= count,
                    _ => break,
                }
            }
        }
        self.clients.settle(self.buffer);
        self.log.finish();
    }

    fn end(&mut self, time: u64, exit_file: &mut ExitFile) {
        let status = self.init.status().unwrap_or_default();
        let oom = self.arguments.oom.is_some_and(ending::out_of_memory);
        let report = ending::report(status, time, oom, self.log.dropped());
        // Who has connected by now is to hear of the end too.
        for _ in 0..clients::MOST {
            self.accept();
        }
        exit_file.write(report.bytes(), self.arguments.sync, &mut self.log, self.buffer);
        self.clients.dismiss(status, oom);
        for fd in [self.listen.take(), self.streams[0].take(), self.streams[1].take()].into_iter().flatten() {
            sys::close(fd);
        }
        ending::remove_cgroups(self.arguments, self.buffer);
        ending::unlink(self.arguments);
        self.take_signals();
        if let Some(signals) = self.signals.take() {
            sys::close(signals);
        }
    }
}
