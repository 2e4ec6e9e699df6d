//! What clients type, on its way to the container's standard input.

use crate::sys::{self, Errno, Fd, Watch};

/// The character that ends the input of a terminal (`VEOF`, control-D).
const END: u8 = 4;

/// One packet of input, and where it goes: a FIFO, or the terminal's master.
pub struct Input<'a> {
    target: Option<Fd>,
    tty: bool,
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    /// Whether the input is to be closed when the buffer is empty.
    ending: bool,
}

impl<'a> Input<'a> {
    pub fn new(target: Option<Fd>, tty: bool, buffer: &'a mut [u8]) -> Self {
        Self { target, tty, buffer, start: 0, end: 0, ending: false }
    }

    /// Whether there is something left to write, so that no other packet can be taken.
    pub fn is_busy(&self) -> bool {
        self.start < self.end
    }

    /// The buffer for the next packet. Only while not busy.
    pub fn buffer(&mut self) -> &mut [u8] {
        self.buffer
    }

    /// Gives the memory back.
    pub fn rest(&mut self) {
        if !self.is_busy() {
            sys::forget(self.buffer);
        }
    }

    pub fn watch(&self) -> Watch {
        Watch::new(self.target.filter(|_| self.is_busy()), sys::OUT)
    }

    /// Takes what has been put at the start of the buffer.
    pub fn take(&mut self, length: usize) {
        (self.start, self.end) = (0, length);
        self.write();
    }

    /// Lets the container see the end of its input, after what is in the buffer.
    pub fn finish(&mut self) {
        if self.target.is_some() {
            self.ending = true;
            self.write();
        }
    }

    /// Writes as much as the container takes.
    pub fn write(&mut self) {
        while self.start < self.end {
            let rest = self.buffer.get(self.start..self.end).unwrap_or_default();
            match self.target.map(|target| sys::write(target, rest)) {
                Some(Ok(count)) => self.start += count,
                Some(Err(Errno::AGAIN)) => return,
                Some(Err(_)) if !self.tty => {
                    // Nobody reads it any more.
                    self.close();
                    self.start = self.end;
                }
                // No input, or a terminal that nobody has open now, but may have again.
                _ => self.start = self.end,
            }
        }
        if self.ending {
            self.ending = false;
            if !self.tty {
                self.close();
            } else if let Some(place) = self.buffer.first_mut() {
                // A terminal can not be closed for input alone. This is what a person would type; a program that reads
                // it raw gets the character.
                *place = END;
                self.take(1);
            }
        }
    }

    fn close(&mut self) {
        if let Some(target) = self.target.take() {
            sys::close(target);
        }
    }
}
