//! The log: records in `current`, older files `1`, `2`, …, at most `files` of at most `limit` bytes.
//!
//! A record is a header of 16 bytes (little-endian `u64` nanoseconds since 1970, `u32` length, `u8` stream, `u8` 0, `u16`
//! magic) and `length` bytes.
//!
//! Nothing here waits or fails: what can not be written is dropped and counted, and the count becomes a record as soon as
//! one can be written again.

use crate::{
    stage::{self, Stage},
    sys::{self, Errno, Fd, Part, Result},
    text::Text,
};
use core::ffi::CStr;

pub const OUT: u8 = 1;
pub const ERR: u8 = 2;
const DROPPED: u8 = 0;

const HEADER: usize = 16;
const MAGIC: u16 = 0x4a4c;
/// A file with less room than this for another record's bytes is full.
const LEAST_ROOM: u64 = 256;
/// After a failure, output is dropped for this long without another try (nanoseconds): on a full disk a write can be
/// slow to fail.
const RETRY: u64 = sys::SECOND;
/// A pipe that holds this much when it is read is busy (bytes).
const BUSY: usize = 32 << 10;

pub struct Log {
    path: &'static CStr,
    directory: Option<Fd>,
    file: Option<Fd>,
    /// Where the next record goes.
    position: u64,
    limit: u64,
    files: u64,
    /// Bytes dropped in all, and those of them that no record tells yet.
    dropped: u64,
    untold: u64,
    /// When to try again (monotonic nanoseconds), 0 when all is well.
    retry: u64,
    /// Whether the file system can be spliced to.
    splices: bool,
    /// Pipes that have been enlarged, one bit a stream.
    enlarged: u8,
    /// There once a pipe has been seen to be busy.
    stage: Option<Stage>,
}

impl Log {
    pub fn new(path: &'static CStr, limit: u64, files: u64) -> Self {
        let mut log = Self {
            path,
            directory: None,
            file: None,
            position: 0,
            limit,
            files,
            dropped: 0,
            untold: 0,
            retry: 0,
            splices: true,
            enlarged: 0,
            stage: None,
        };
        log.ready();
        log
    }

    /// Bytes dropped in all.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How long until a count of dropped bytes should be written, if one is waiting (nanoseconds).
    pub fn wait(&self) -> Option<u64> {
        (self.untold > 0).then_some(RETRY)
    }

    /// Writes the count of dropped bytes if there is one and it is time.
    pub fn tell(&mut self) {
        if self.untold > 0 {
            self.ready();
        }
    }

    /// Last try to write the count of dropped bytes.
    pub fn finish(&mut self) {
        self.retry = 0;
        self.tell();
        if let Some(stage) = self.stage.take() {
            stage.close();
        }
        if let Some(file) = self.file.take() {
            sys::close(file);
        }
    }

    /// Removes the oldest file but the current one; whether there was one.
    pub fn sacrifice(&mut self) -> bool {
        let Some(directory) = self.directory else { return false };
        (1..self.files).rev().any(|number| sys::unlink(directory, name(number).c_str()).is_ok())
    }

    /// Appends a chunk.
    pub fn append(&mut self, stream: u8, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.record(stream, bytes);
            if taken == 0 {
                self.drop(bytes.len());
                return;
            }
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// Moves up to `most` bytes from a pipe to the log; gives how many were taken from the pipe, 0 when it is empty.
    ///
    /// # Errors
    /// Those of the pipe.
    pub fn take(&mut self, stream: u8, pipe: Fd, most: usize, scratch: &mut [u8]) -> Result<usize> {
        let held = sys::pending(pipe)?;
        if held >= BUSY && self.enlarged & stream == 0 {
            self.enlarged |= stream;
            // Refused when this user's pipes hold too much already; then it stays as it is.
            let _ = sys::set_pipe_size(pipe, stage::BUSY_PIPE);
            self.stage = self.stage.take().or_else(Stage::new);
        }
        let most = most.min(held);
        if most == 0 {
            return Ok(0);
        }
        if self.splices && self.ready() {
            let stage = if most >= BUSY { self.stage.take() } else { None };
            let moved = match &stage {
                Some(stage) => self.splice_staged(stream, pipe, most, stage),
                None => self.splice(stream, pipe, most),
            };
            self.stage = self.stage.take().or(stage);
            if moved > 0 {
                return Ok(moved);
            }
        }
        let most = most.min(scratch.len());
        let count = sys::read(pipe, scratch.get_mut(..most).unwrap_or_default())?;
        self.append(stream, scratch.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// One record straight from the pipe. The header comes first: a monitor that is killed leaves one that promises more
    /// than there is, which the next one mends; what had not been taken is still in the pipe.
    fn splice(&mut self, stream: u8, pipe: Fd, most: usize) -> usize {
        let Some(file) = self.file else { return 0 };
        let length = most.min(self.room() as usize);
        if sys::write_at(file, &header(stream, length), self.position) != Ok(HEADER) {
            self.cut();
            self.fail();
            return 0;
        }
        let moved = self.pour(file, pipe, length);
        if moved > 0 && moved < length {
            self.head(file, stream, moved);
        }
        self.advance(moved)
    }

    /// One record by way of the stage. The header comes last: until then the pipe still holds the bytes, so the next
    /// monitor is to cut off what this one leaves when it is killed.
    fn splice_staged(&mut self, stream: u8, pipe: Fd, most: usize, stage: &Stage) -> usize {
        let Some(file) = self.file else { return 0 };
        let length = stage.fill(pipe, self.aligned(most.min(self.room() as usize).min(stage::MOST)));
        let mut moved = self.pour(file, stage.out, length);
        if moved > 0 && !self.head(file, stream, moved) {
            moved = 0;
        }
        let clean = stage.discard(stage.out, length - moved) & stage.discard(pipe, moved);
        // Without a way to throw bytes away, the direct way is left.
        self.splices &= clean;
        self.advance(moved)
    }

    /// A length of at most `most` that lets the record end on a boundary, if it reaches one: the page cache takes larger
    /// pages for writes that start on boundaries.
    fn aligned(&self, most: usize) -> usize {
        const BOUNDARY: u64 = 128 << 10;
        let start = self.position + HEADER as u64;
        let end = (start + most as u64) / BOUNDARY * BOUNDARY;
        if end > start { (end - start) as usize } else { most }
    }

    /// Splices bytes to where the next record's bytes go; gives how many.
    fn pour(&mut self, file: Fd, pipe: Fd, length: usize) -> usize {
        let start = self.position + HEADER as u64;
        let mut moved = 0;
        while moved < length {
            match sys::splice_at(pipe, file, start + moved as u64, length - moved) {
                Ok(count) if count > 0 => moved += count,
                // This file system cannot be spliced to.
                Err(Errno::INVAL) if moved == 0 => {
                    self.splices = false;
                    break;
                }
                _ => {
                    self.fail();
                    break;
                }
            }
        }
        moved
    }

    /// Writes the header of the record at the current position; whether that succeeded.
    fn head(&mut self, file: Fd, stream: u8, length: usize) -> bool {
        let written = sys::write_at(file, &header(stream, length), self.position) == Ok(HEADER);
        if !written {
            self.fail();
        }
        written
    }

    /// Goes on to the next record, or takes back one of which no byte was written.
    fn advance(&mut self, moved: usize) -> usize {
        if moved == 0 {
            self.cut();
        } else {
            self.position += (HEADER + moved) as u64;
        }
        moved
    }

    /// Writes one record of as many of the bytes as the file has room for; gives how many, 0 when it cannot be written.
    fn record(&mut self, stream: u8, bytes: &[u8]) -> usize {
        if !self.ready() {
            return 0;
        }
        let Some(file) = self.file else { return 0 };
        let length = bytes.len().min(self.room() as usize);
        let bytes = bytes.get(..length).unwrap_or_default();
        let header = header(stream, length);
        let written = sys::write_parts_at(file, &[Part::from(&header), Part::from(bytes)], self.position).unwrap_or(0);
        let moved = written.saturating_sub(HEADER);
        if moved < length {
            self.fail();
            if moved > 0 && !self.head(file, stream, moved) {
                return self.advance(0);
            }
        }
        self.advance(moved)
    }

    /// Cuts off what a failed write may have left.
    fn cut(&mut self) {
        if let Some(file) = self.file {
            // Making a file shorter needs no space; were it to fail, the next record is written over the rest.
            let _ = sys::truncate(file, self.position);
        }
    }

    fn fail(&mut self) {
        self.retry = sys::monotonic() + RETRY;
    }

    fn drop(&mut self, bytes: usize) {
        self.dropped += bytes as u64;
        self.untold += bytes as u64;
    }

    /// How many bytes the next record may hold.
    fn room(&self) -> u64 {
        self.limit.saturating_sub(self.position + HEADER as u64)
    }

    /// Whether a record can be written now: opens, rotates, and tells what was dropped.
    fn ready(&mut self) -> bool {
        if self.retry != 0 {
            if sys::monotonic() < self.retry {
                return false;
            }
            self.retry = 0;
        }
        if (self.file.is_none() && !self.open()) || (self.room() < LEAST_ROOM && !self.rotate()) || !self.told() {
            self.fail();
            return false;
        }
        true
    }

    fn told(&mut self) -> bool {
        let Some(file) = self.file else { return false };
        if self.untold == 0 {
            return true;
        }
        let mut record = [0; HEADER + 8];
        let (head, count) = record.split_at_mut(HEADER);
        head.copy_from_slice(&header(DROPPED, count.len()));
        count.copy_from_slice(&self.untold.to_le_bytes());
        if sys::write_at(file, &record, self.position) != Ok(record.len()) {
            self.cut();
            return false;
        }
        self.position += record.len() as u64;
        self.untold = 0;
        true
    }

    fn open(&mut self) -> bool {
        if self.directory.is_none() {
            self.directory = sys::open(Fd::WORKING_DIRECTORY, self.path, sys::O_RDONLY, 0).ok();
        }
        let Some(directory) = self.directory else { return false };
        let Ok(file) = sys::open(directory, CURRENT, sys::O_RDWR | sys::O_CREAT, 0o640) else { return false };
        self.file = Some(file);
        self.position = end(file);
        true
    }

    fn rotate(&mut self) -> bool {
        let Some(directory) = self.directory else { return false };
        if let Some(file) = self.file.take() {
            sys::close(file);
        }
        // The oldest is removed first: renaming over a file makes ext4 write the new one to disk at once (auto_da_alloc),
        // while a log that rotates fast need never get there. What does not exist is a gap that a killed predecessor
        // left, and harmless.
        let oldest = name(self.files - 1);
        let _ = sys::unlink(directory, if self.files == 1 { CURRENT } else { oldest.c_str() });
        for number in (1..self.files.saturating_sub(1)).rev() {
            let _ = sys::rename(directory, name(number).c_str(), name(number + 1).c_str());
        }
        if self.files > 1 {
            let _ = sys::rename(directory, CURRENT, name(1).c_str());
        }
        // If that failed we get the full file again, and have no room.
        self.open() && self.room() >= LEAST_ROOM
    }
}

const CURRENT: &CStr = c"current";

fn name(number: u64) -> Text<24> {
    let mut name = Text::new();
    name.push_number(number);
    name
}

fn header(stream: u8, length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&sys::realtime().to_le_bytes());
    header[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    header[12] = stream;
    header[14..].copy_from_slice(&MAGIC.to_le_bytes());
    header
}

/// Length and stream of the record with this header, `None` when it is none.
fn parse(header: &[u8]) -> Option<(u64, u8)> {
    let (time, rest) = header.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let &[stream, flags, low, high, ..] = rest else { return None };
    let length = u32::from_le_bytes(*length);
    let sound =
        *time != [0; 8] && length > 0 && stream <= ERR && flags == 0 && u16::from_le_bytes([low, high]) == MAGIC;
    sound.then_some((u64::from(length), stream))
}

/// Where the last whole record ends. A killed predecessor, or a power cut, may have left a part of one after it: if its
/// header is sound the record is made as short as its bytes are, otherwise the rest is cut off.
fn end(file: Fd) -> u64 {
    let size = sys::size(file).unwrap_or(0);
    let mut position = 0;
    let mut window = [0u8; 1024];
    let (mut start, mut filled) = (0, 0);
    while position < size {
        if position < start || position + HEADER as u64 > start + filled {
            start = position;
            filled = sys::read_at(file, &mut window, start).unwrap_or(0) as u64;
        }
        let offset = (position - start) as usize;
        let Some((length, stream)) = window.get(offset..filled as usize).and_then(parse) else { break };
        let next = position + HEADER as u64 + length;
        if next > size {
            let rest = size - position - HEADER as u64;
            let shorter = header(stream, rest as usize);
            let mended = rest > 0 && stream != DROPPED && sys::write_at(file, &shorter, position) == Ok(HEADER);
            position = if mended { size } else { position };
            break;
        }
        position = next;
    }
    if position < size {
        // Were it to fail, the next record is written over the rest.
        let _ = sys::truncate(file, position);
    }
    position
}
