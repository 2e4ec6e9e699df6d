//! One file of the log: records, one after the other.
//!
//! A record is a header of 16 bytes (little-endian `u64` nanoseconds since 1970, `u32` length, `u8` stream, `u8` 0, `u16`
//! magic) and `length` bytes. The first thing that is no sound header, or a record longer than the file, is the end.
//!
//! A file is fresh, and grows; or it is *recycled*: an old one that is written over from the start, since that costs
//! half of what it costs to free a file's pages and fill another's. In a recycled file 16 zero bytes go before the end,
//! and a header is written only when all that it promises, and the zeros after it, are there. A reader of the old content
//! sees by the first header, which is zeroed before anything else is written, that it must stop.

use crate::{
    stage::{self, Stage},
    sys::{self, Errno, Fd, Part, Result},
};

pub const DROPPED: u8 = 0;
pub const OUT: u8 = 1;
pub const ERR: u8 = 2;

const HEADER: usize = 16;
const MAGIC: u16 = 0x4a4c;
/// What follows the last record of a recycled file.
const END: [u8; HEADER] = [0; HEADER];

pub struct LogFile {
    fd: Fd,
    /// Where the next record goes.
    position: u64,
    limit: u64,
    recycled: bool,
}

impl LogFile {
    /// Goes on where a file ends.
    pub fn open(fd: Fd, limit: u64) -> Self {
        Self { fd, position: end(fd), limit, recycled: false }
    }

    /// Begins a file again; `None` when that fails, and then it is as it was.
    pub fn recycle(fd: Fd, limit: u64) -> Option<Self> {
        (sys::write_at(fd, &END, 0) == Ok(HEADER)).then_some(Self { fd, position: 0, limit, recycled: true })
    }

    pub fn close(self) {
        sys::close(self.fd);
    }

    pub fn is_recycled(&self) -> bool {
        self.recycled
    }

    /// How many bytes the next record may hold.
    pub fn room(&self) -> u64 {
        let end = if self.recycled { HEADER as u64 } else { 0 };
        self.limit.saturating_sub(self.start() + end)
    }

    /// Appends a record of as many of the bytes as there is room for; gives how many.
    ///
    /// # Errors
    /// When nothing could be written.
    pub fn append(&mut self, stream: u8, bytes: &[u8]) -> Result<usize> {
        let length = bytes.len().min(self.room() as usize);
        let bytes = bytes.get(..length).unwrap_or_default();
        let moved = if self.recycled { self.overwrite(bytes) } else { self.extend(stream, bytes) };
        // The header of a fresh file's record is there already, if the record is whole.
        let to_head = self.recycled || moved.is_ok_and(|moved| moved < length);
        self.finish(stream, moved, to_head)
    }

    fn extend(&mut self, stream: u8, bytes: &[u8]) -> Result<usize> {
        let header = header(stream, bytes.len());
        let written = sys::write_parts_at(self.fd, &[Part::from(&header), Part::from(bytes)], self.position)?;
        match written.saturating_sub(HEADER) {
            0 => Err(Errno::NOSPC),
            // A number that is cut off is none.
            moved if moved < bytes.len() && stream == DROPPED => Err(Errno::NOSPC),
            moved => Ok(moved),
        }
    }

    fn overwrite(&mut self, bytes: &[u8]) -> Result<usize> {
        let written = sys::write_parts_at(self.fd, &[Part::from(bytes), Part::from(&END)], self.start())?;
        if written == bytes.len() + HEADER { Ok(bytes.len()) } else { Err(Errno::NOSPC) }
    }

    /// Appends a record straight from a pipe; gives its length, 0 if the pipe is empty. Only for a fresh file. The header
    /// comes first: a monitor that is killed leaves one that promises more than there is, which the next one mends; what
    /// had not been taken is still in the pipe.
    ///
    /// # Errors
    /// When nothing could be written. `INVAL`: the file system cannot splice.
    pub fn splice(&mut self, stream: u8, pipe: Fd, most: usize) -> Result<usize> {
        let length = most.min(self.room() as usize);
        if !self.head(stream, length) {
            self.cut();
            return Err(Errno::NOSPC);
        }
        let moved = self.pour(pipe, length);
        let to_head = moved.is_ok_and(|moved| moved < length);
        self.finish(stream, moved, to_head)
    }

    /// Appends a record by way of the stage; gives its length, 0 if the pipe is empty. The header comes last: until then
    /// the pipe still holds the bytes, so what a monitor leaves when it is killed is to be cut off.
    ///
    /// # Errors
    /// As for [`LogFile::splice`].
    pub fn splice_staged(&mut self, stream: u8, pipe: Fd, most: usize, stage: &Stage) -> Result<usize> {
        let length = stage.fill(pipe, self.aligned(most.min(self.room() as usize).min(stage::MOST)));
        let mut moved = self.pour(stage.out, length);
        // What could not be written stays in the container's pipe.
        stage.discard(stage.out, length - moved.unwrap_or(0));
        if let (true, Ok(count)) = (self.recycled, moved)
            && sys::write_at(self.fd, &END, self.start() + count as u64) != Ok(HEADER)
        {
            moved = Err(Errno::NOSPC);
        }
        let moved = self.finish(stream, moved, true)?;
        stage.discard(pipe, moved);
        Ok(moved)
    }

    /// A length of at most `most` that lets the record end on a boundary, if it reaches one: the page cache takes larger
    /// pages for writes that start on boundaries.
    fn aligned(&self, most: usize) -> usize {
        const BOUNDARY: u64 = 128 << 10;
        let end = (self.start() + most as u64) / BOUNDARY * BOUNDARY;
        if end > self.start() { (end - self.start()) as usize } else { most }
    }

    /// Splices bytes to where the next record's bytes go; gives how many.
    fn pour(&mut self, pipe: Fd, length: usize) -> Result<usize> {
        let mut moved = 0;
        while moved < length {
            match sys::splice_at(pipe, self.fd, self.start() + moved as u64, length - moved) {
                Ok(count) if count > 0 => moved += count,
                // Somebody else has read it: a container can, since its end is open for reading too.
                Ok(_) | Err(Errno::AGAIN) => break,
                Err(error) if moved == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(moved)
    }

    /// Goes on to the next record, after writing this one's header if that is still to do; or takes it back.
    fn finish(&mut self, stream: u8, moved: Result<usize>, to_head: bool) -> Result<usize> {
        match moved {
            Ok(moved) if moved > 0 => {
                if to_head && !self.head(stream, moved) {
                    self.cut();
                    return Err(Errno::NOSPC);
                }
                self.position = self.start() + moved as u64;
            }
            _ => self.cut(),
        }
        moved
    }

    /// Writes the header of the next record; whether that succeeded.
    fn head(&mut self, stream: u8, length: usize) -> bool {
        sys::write_at(self.fd, &header(stream, length), self.position) == Ok(HEADER)
    }

    /// Cuts off what is behind the last whole record, which makes the file a fresh one.
    fn cut(&mut self) {
        // Needs no space; were it to fail, the next record is written over the rest.
        if sys::truncate(self.fd, self.position).is_ok() {
            self.recycled = false;
        }
    }

    /// Where the next record's bytes go.
    fn start(&self) -> u64 {
        self.position + HEADER as u64
    }
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
