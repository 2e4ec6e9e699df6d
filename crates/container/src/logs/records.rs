//! One log file, record by record.
//!
//! A record is a header of 16 bytes, all little-endian: `u64` nanoseconds since 1970, `u32` length, `u8` stream (1 output,
//! 2 error output, 0 dropped), `u8` 0, `u16` magic; and `length` bytes: output, or the number of bytes dropped (`u64`).
//!
//! A record that is being written has no sound header, or a sound one and too few bytes. Neither can be told from the end
//! of what a killed monitor left, and need not: both are read again later.
//!
//! A log that rotates fast recycles its oldest file: the first header is zeroed, then the file is written over. So what
//! was read is valid if the first header is still the same afterwards.

use jiff::Timestamp;
use std::{fs::File, io, os::unix::fs::FileExt};

/// Size of a header, bytes.
pub const HEADER: usize = 16;
/// `LJ`.
pub const MAGIC: u16 = 0x4a4c;
/// Bytes read at once.
const WINDOW: usize = 64 << 10;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes that were dropped.
    Dropped,
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// The header of a record that is in the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// When it was written.
    pub time: Timestamp,
    /// What it holds.
    pub kind: Kind,
    length: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *bytes;
        let nanos = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let [i, j, k, l, stream, 0, low, high] = rest else { return None };
        let length = u32::from_le_bytes([i, j, k, l]);
        let kind = match stream {
            0 => Kind::Dropped,
            1 => Kind::Out,
            2 => Kind::Err,
            _ => return None,
        };
        if nanos == 0 || length == 0 || u16::from_le_bytes([low, high]) != MAGIC {
            return None;
        }
        Some(Self { time: Timestamp::from_nanosecond(nanos.into()).ok()?, kind, length })
    }
}

/// A reader of one file.
#[derive(Debug)]
pub struct Records {
    file: File,
    /// The first header, which tells this content of the file from a later one.
    first: [u8; HEADER],
    /// When the first record was written.
    begun: Timestamp,
    recycled: bool,
    /// Nothing is appended to it any more.
    settled: bool,
    /// Where the next record begins.
    position: u64,
    /// Size of the file when it was last looked at. The window was read after that, so a header in it is at least as new.
    size: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl Records {
    /// From the beginning of a file; `None` if it has none yet. `settled` tells that nothing is appended any more.
    ///
    /// # Errors
    /// That of the file system.
    pub fn new(file: File, settled: bool) -> io::Result<Option<Self>> {
        let first = first(&file)?;
        let Some(Header { time: begun, .. }) = Header::parse(&first) else { return Ok(None) };
        Ok(Some(Self {
            size: file.metadata()?.len(),
            file,
            first,
            begun,
            recycled: false,
            settled,
            position: 0,
            window: Vec::new(),
            window_start: 0,
        }))
    }

    /// What tells this content from other contents of the same file.
    pub fn first(&self) -> [u8; HEADER] {
        self.first
    }

    /// When the first record was written.
    pub fn begun(&self) -> Timestamp {
        self.begun
    }

    /// Whether the file has got other content since; there are no more records then.
    pub fn is_recycled(&self) -> bool {
        self.recycled
    }

    /// The next record, if it is there as a whole; its bytes are given to `sink` piece by piece.
    ///
    /// # Errors
    /// That of the file system.
    pub fn next(&mut self, sink: &mut dyn FnMut(Header, &[u8])) -> io::Result<bool> {
        let Some(header) = self.header()? else { return Ok(false) };
        let mut position = self.position + HEADER as u64;
        let end = position + u64::from(header.length);
        while position < end {
            if self.window_at(position).is_empty() {
                self.fill(position)?;
            }
            let window = self.window_at(position);
            if window.is_empty() && self.recycled {
                return Ok(false);
            }
            if window.is_empty() {
                // Cut off since its size was looked at: nothing that writes does that to a whole record.
                let reason = "a record was cut off while it was read";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
            }
            let piece = &window[..window.len().min(usize::try_from(end - position).unwrap_or(usize::MAX))];
            sink(header, piece);
            position += piece.len() as u64;
        }
        self.position = end;
        Ok(true)
    }

    /// Begins again.
    pub fn rewind(&mut self) {
        self.position = 0;
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        for again in [false, true] {
            if again {
                if self.settled {
                    break;
                }
                self.size = self.file.metadata()?.len();
                self.window.clear();
                self.check()?;
            }
            let end = self.position + HEADER as u64;
            if end > self.size {
                continue;
            }
            if self.window_at(self.position).len() < HEADER {
                self.fill(self.position)?;
            }
            let header = self.window_at(self.position).first_chunk().and_then(Header::parse);
            if let Some(header) = header.filter(|header| end + u64::from(header.length) <= self.size) {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// What the window has from this position on.
    fn window_at(&self, position: u64) -> &[u8] {
        let offset = position.checked_sub(self.window_start).and_then(|offset| usize::try_from(offset).ok());
        offset.and_then(|offset| self.window.get(offset..)).unwrap_or_default()
    }

    fn fill(&mut self, position: u64) -> io::Result<()> {
        self.window.resize(WINDOW, 0);
        self.window_start = position;
        let mut filled = 0;
        while filled < WINDOW {
            match self.file.read_at(&mut self.window[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.window.clear();
                    return Err(error);
                }
            }
        }
        self.window.truncate(filled);
        self.check()
    }

    /// Looks whether the file still has the same content.
    fn check(&mut self) -> io::Result<()> {
        if first(&self.file)? != self.first {
            self.recycled = true;
            self.window.clear();
            self.size = 0;
        }
        Ok(())
    }
}

/// The first bytes of a file, zeros for what it does not have.
fn first(file: &File) -> io::Result<[u8; HEADER]> {
    let mut first = [0; HEADER];
    match file.read_exact_at(&mut first, 0) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        Err(_) => Ok([0; HEADER]),
        Ok(()) => Ok(first),
    }
}
