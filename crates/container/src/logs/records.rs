//! One log file, record by record.
//!
//! A record is a header of 16 bytes, all little-endian: `u64` nanoseconds since 1970, `u32` length, `u8` stream (1 output,
//! 2 error output, 0 dropped), `u8` 0, `u16` magic; and `length` bytes: output, or the number of bytes dropped (`u64`).
//!
//! A record that is being written has no sound header, or a sound one and too few bytes. Neither can be told from the end
//! of what a killed monitor left, and need not: both are read again later. Only where nothing is written any more they are
//! damage: reading goes on with the next sound record, and if there is none, the one that was cut off is given as far as it
//! goes.
//!
//! A log that rotates fast recycles its oldest file: the first header is zeroed, then the file is written over, and 16
//! zero bytes are the end of what is new. So what was read is valid if the first header is still the same afterwards, and
//! what comes after such zeros is old.

use jiff::Timestamp;
use std::{fs::File, io, os::unix::fs::FileExt};

/// Size of a header, bytes.
pub const HEADER: usize = 16;
/// `LJ`.
pub const MAGIC: u16 = 0x4a4c;
/// Bytes read at once.
const WINDOW: usize = 64 << 10;
/// More than can be left of the old content of a recycled file, which is rotated when there is hardly room in it.
const REMNANT: u64 = 1024;

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
        let is_wrong = length == 0 || kind == Kind::Dropped && length != 8;
        if nanos == 0 || is_wrong || u16::from_le_bytes([low, high]) != MAGIC {
            return None;
        }
        Some(Self { time: Timestamp::from_nanosecond(nanos.into()).ok()?, kind, length })
    }

    /// Where the record ends that begins at this position.
    fn end(&self, position: u64) -> u64 {
        position + HEADER as u64 + u64::from(self.length)
    }
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Records may be appended.
    Growing,
    /// It is the newest, and nobody writes any more.
    Ended,
    /// There is a newer one.
    Rotated,
}

/// What [`Records::next`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A record.
    Record,
    /// So many bytes that are no record, and were skipped.
    Damage(u64),
    /// Nothing more, for now.
    End,
}

/// A reader of one file.
#[derive(Debug)]
pub struct Records {
    file: File,
    /// The first header, which tells this content of the file from a later one.
    first: [u8; HEADER],
    recycled: bool,
    phase: Phase,
    /// Where the next record begins.
    position: u64,
    /// When the first record was written.
    begun: Timestamp,
    /// When the last record that was read was written; before that, the first one.
    time: Timestamp,
    /// Size of the file when it was last looked at. The window was read after that, so a header in it is at least as new.
    size: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl Records {
    /// From the beginning of a file; `None` if it has no record yet.
    ///
    /// # Errors
    /// That of the file system.
    pub fn new(file: File, phase: Phase) -> io::Result<Option<Self>> {
        let first = first(&file)?;
        let size = file.metadata()?.len();
        let mut records = Self {
            file,
            first,
            recycled: false,
            phase,
            position: 0,
            begun: Timestamp::MIN,
            time: Timestamp::MIN,
            size,
            window: Vec::new(),
            window_start: 0,
        };
        records.begun = match Header::parse(&first) {
            Some(header) => header.time,
            // With zeros, it is just being recycled.
            None if phase == Phase::Growing || first == [0; HEADER] => return Ok(None),
            None => match records.search(1)? {
                Some((_, time)) => time,
                None => return Ok(None),
            },
        };
        records.time = records.begun;
        Ok(Some(records))
    }

    /// What tells this content from other contents of the same file.
    pub fn first(&self) -> [u8; HEADER] {
        self.first
    }

    /// When the last record that was read was written; before that, the first one.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Whether the file has got other content since; there are no more records then.
    pub fn is_recycled(&self) -> bool {
        self.recycled
    }

    /// Looks at the file again, after this has become of it.
    ///
    /// # Errors
    /// That of the file system.
    pub fn turn(&mut self, phase: Phase) -> io::Result<()> {
        self.phase = phase;
        self.look()
    }

    /// The next record, if it is there as a whole; its bytes are given to `sink` piece by piece.
    ///
    /// # Errors
    /// That of the file system.
    pub fn next(&mut self, sink: &mut dyn FnMut(Header, &[u8])) -> io::Result<Next> {
        if let Some(header) = self.header()? {
            return self.give(header, sink);
        }
        let start = self.position;
        let bytes = if self.phase == Phase::Growing { None } else { self.bytes_at(start)? };
        let Some(bytes) = bytes else { return Ok(Next::End) };
        let is_end = bytes == [0; HEADER];
        if is_end && (self.phase == Phase::Ended || self.size - start <= REMNANT) {
            return Ok(Next::End);
        }
        if let Some((next, _)) = self.search(start + 1)? {
            self.position = next;
            return Ok(Next::Damage(next - start));
        }
        self.position = self.size;
        match Header::parse(&bytes) {
            _ if is_end || self.recycled => Ok(Next::End),
            None => Ok(Next::Damage(self.size.saturating_sub(start))),
            Some(Header { kind: Kind::Dropped, .. }) => Ok(Next::End),
            Some(header) => {
                self.position = start;
                let rest = self.size.saturating_sub(start + HEADER as u64);
                self.give(Header { length: u32::try_from(rest).unwrap_or(u32::MAX), ..header }, sink)
            }
        }
    }

    /// Gives the bytes of the record at the position, and goes on to the next one.
    fn give(&mut self, header: Header, sink: &mut dyn FnMut(Header, &[u8])) -> io::Result<Next> {
        let mut position = self.position + HEADER as u64;
        let end = position + u64::from(header.length);
        self.position = end;
        self.time = header.time;
        while position < end {
            if self.window_at(position).is_empty() {
                self.fill(position)?;
            }
            let window = self.window_at(position);
            if window.is_empty() {
                // Recycled, or cut off since its size was looked at, which nothing that writes does to a whole record.
                return Ok(Next::End);
            }
            let piece = &window[..window.len().min(usize::try_from(end - position).unwrap_or(usize::MAX))];
            sink(header, piece);
            position += piece.len() as u64;
        }
        Ok(Next::Record)
    }

    /// Begins again.
    pub fn rewind(&mut self) {
        self.position = 0;
        self.time = self.begun;
        self.window = Vec::new();
    }

    /// The next header, if the record is there as a whole.
    fn header(&mut self) -> io::Result<Option<Header>> {
        for again in [false, true] {
            if again {
                if self.phase != Phase::Growing {
                    break;
                }
                self.look()?;
            }
            let header = self.bytes_at(self.position)?.as_ref().and_then(Header::parse);
            if let Some(header) = header.filter(|header| header.end(self.position) <= self.size) {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// The first record from here on that is whole, not older than the last one read, and followed by another or the
    /// end: its place and time.
    fn search(&mut self, mut position: u64) -> io::Result<Option<(u64, Timestamp)>> {
        loop {
            if self.bytes_at(position)?.is_none() {
                return Ok(None);
            }
            let window = self.window_at(position);
            for (bytes, place) in window.windows(HEADER).zip(position..) {
                if bytes[HEADER - 2..] == MAGIC.to_le_bytes()
                    && let Some(header) = bytes.first_chunk().and_then(Header::parse)
                    && header.time >= self.time
                    && self.is_followed(header.end(place))?
                {
                    return Ok(Some((place, header.time)));
                }
            }
            position += (window.len() - HEADER + 1) as u64;
        }
    }

    /// Whether a record can end here. Does not move the window.
    fn is_followed(&self, end: u64) -> io::Result<bool> {
        if self.size < end + HEADER as u64 {
            return Ok(end <= self.size);
        }
        let mut next = [0; HEADER];
        match self.file.read_exact_at(&mut next, end) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            Err(_) => Ok(false),
            Ok(()) => Ok(next == [0; HEADER] || Header::parse(&next).is_some()),
        }
    }

    /// A header's bytes, if the file has as many.
    fn bytes_at(&mut self, position: u64) -> io::Result<Option<[u8; HEADER]>> {
        if position + HEADER as u64 > self.size {
            return Ok(None);
        }
        if self.window_at(position).len() < HEADER {
            self.fill(position)?;
        }
        Ok(self.window_at(position).first_chunk().copied())
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

    /// Looks at the file again.
    fn look(&mut self) -> io::Result<()> {
        self.size = self.file.metadata()?.len();
        self.window.clear();
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
