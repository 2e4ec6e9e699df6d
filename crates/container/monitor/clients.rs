//! Attached clients: each gets every chunk, none is waited for but by not reading more output.
//!
//! A chunk is held in one buffer until all clients have taken it; as long as one owes room for it, the monitor does not
//! read from the container. So a slow client slows the container down, and never loses a byte.

use crate::sys::{self, Errno, Fd, Part, Watch};

/// How many can be attached at once.
pub const MOST: usize = 8;
/// Kinds of packets to a client; the kinds of output are the log's stream numbers.
const EXITED: u8 = 3;
/// Once the container has ended a client's socket may hold this much, so that all that is left fits, and nobody has to
/// wait for a client that has stopped (bytes; counted with the kernel's overhead, and writable again at a quarter).
const LAST_WORDS: i32 = 16 << 20;
/// How long a client that has stopped is waited for at the end, if its socket could not be made large enough.
const PATIENCE: u64 = 5 * sys::SECOND;

#[derive(Default)]
pub struct Clients {
    sockets: [Option<Fd>; MOST],
    /// Those that have not taken the chunk, one bit each.
    owing: u8,
    /// Those that are gone but may have left input to read, one bit each.
    gone: u8,
    stream: u8,
    length: usize,
}

impl Clients {
    pub fn is_empty(&self) -> bool {
        self.sockets.iter().all(Option::is_none)
    }

    /// Whether the buffer holds a chunk that some client has not taken.
    pub fn owing(&self) -> bool {
        self.owing != 0
    }

    /// Whether the next client would have to take the place of one that is gone.
    pub fn crowded(&self) -> bool {
        self.gone != 0 && self.sockets.iter().all(Option::is_some)
    }

    /// Adds a client, or hangs up on it when there are too many. One that is gone makes room, and what input it left that
    /// nobody has taken goes with it: places must not be held by the dead.
    pub fn add(&mut self, socket: Fd) {
        if self.crowded() {
            self.remove(self.gone.trailing_zeros() as usize);
        }
        match self.sockets.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(socket),
            None => sys::close(socket),
        }
    }

    pub fn remove(&mut self, index: usize) {
        if let Some(socket) = self.sockets.get_mut(index).and_then(Option::take) {
            sys::close(socket);
        }
        self.owing &= !(1 << index);
        self.gone &= !(1 << index);
    }

    pub fn socket(&self, index: usize) -> Option<Fd> {
        self.sockets.get(index).copied().flatten()
    }

    /// What to wait for on behalf of a client; `listening` tells whether its packets can be taken now.
    pub fn watch(&self, index: usize, listening: bool) -> Watch {
        let bit = 1 << index;
        if self.gone & bit != 0 && !listening {
            // A hang-up is always reported; watching it would spin.
            return Watch::NOTHING;
        }
        let output = if self.owing & bit != 0 { sys::OUT } else { 0 };
        Watch::new(self.socket(index), output | if listening { sys::IN } else { 0 })
    }

    /// Notes that the other end has hung up; what it sent before can still be received.
    pub fn hung_up(&mut self, index: usize) {
        self.gone |= 1 << index;
        self.owing &= !(1 << index);
    }

    /// Sends a chunk to all.
    pub fn send(&mut self, stream: u8, chunk: &[u8]) {
        (self.stream, self.length) = (stream, chunk.len());
        for (index, socket) in self.sockets.iter().enumerate() {
            if socket.is_some() && self.gone & (1 << index) == 0 {
                self.owing |= 1 << index;
            }
        }
        self.flush(chunk);
    }

    /// Tries again to send the chunk, which is at the start of `buffer`, to those that have not taken it.
    pub fn flush(&mut self, buffer: &[u8]) {
        let kind = [self.stream];
        let chunk = buffer.get(..self.length).unwrap_or_default();
        for (index, socket) in self.sockets.iter().enumerate() {
            let (bit, Some(socket)) = (1 << index, *socket) else { continue };
            if self.owing & bit == 0 {
                continue;
            }
            match sys::send(socket, &[Part::from(&kind), Part::from(chunk)]) {
                Ok(_) => self.owing &= !bit,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {}
                Err(_) => {
                    self.owing &= !bit;
                    self.gone |= bit;
                }
            }
        }
    }

    /// Makes room in the kernel for all that is still to come.
    pub fn enlarge(&mut self) {
        for socket in self.sockets.iter().flatten() {
            sys::set_send_buffer(*socket, LAST_WORDS);
        }
    }

    /// Waits until every client has taken the chunk, and hangs up on those that do not in time.
    pub fn settle(&mut self, buffer: &[u8]) {
        let deadline = sys::monotonic() + PATIENCE;
        loop {
            self.flush(buffer);
            let now = sys::monotonic();
            if self.owing == 0 || now >= deadline {
                break;
            }
            let mut watches = [Watch::NOTHING; MOST];
            for (index, watch) in watches.iter_mut().enumerate() {
                if self.owing & (1 << index) != 0 {
                    *watch = self.watch(index, false);
                }
            }
            // A failure to wait shows as another turn, and the deadline bounds those.
            let _ = sys::poll(&mut watches, Some(deadline - now));
        }
        for index in 0..MOST {
            if self.owing & (1 << index) != 0 {
                self.remove(index);
            }
        }
    }

    /// Tells all how the container ended, and hangs up.
    pub fn dismiss(&mut self, status: i32, oom: bool) {
        let [a, b, c, d] = status.to_le_bytes();
        let packet = [EXITED, a, b, c, d, u8::from(oom)];
        for index in 0..MOST {
            if let Some(socket) = self.socket(index) {
                // Who is gone does not want to know.
                let _ = sys::send(socket, &[Part::from(&packet)]);
            }
            self.remove(index);
        }
    }
}
