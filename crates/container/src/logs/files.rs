//! The files of one log, read as one row of records, across rotation.

use super::Stream;
use jiff::Timestamp;
use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Seek},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const HEADER: usize = 16;
const MAGIC: u16 = 0x4a4c;
/// Largest record that a monitor writes; more is not a log.
const LARGEST: usize = 1 << 20;

/// What comes next.
pub enum Next<'a> {
    /// Bytes of a stream.
    Record(Timestamp, Stream, &'a [u8]),
    /// Something that is not for readers.
    Skipped,
    /// Nothing more now.
    End,
}

/// A reader of all files, oldest first.
pub struct Files {
    folder: PathBuf,
    open: Option<Open>,
    payload: Vec<u8>,
}

struct Open {
    path: PathBuf,
    inode: u64,
    reader: BufReader<fs::File>,
    offset: u64,
}

impl Files {
    /// Starts with the oldest file.
    pub fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self { folder: folder.to_owned(), open: None, payload: Vec::new() })
    }

    /// The next record. A torn one at the end of a file that is still written is given once it is whole.
    pub fn next(&mut self) -> io::Result<Next<'_>> {
        loop {
            if self.open.is_none() && !self.advance()? {
                return Ok(Next::End);
            }
            let Some(open) = &mut self.open else { return Ok(Next::End) };
            match open.record(&mut self.payload)? {
                Some((nanos, stream)) => return Ok(self.give(nanos, stream)),
                // Older files do not grow: what follows is in the next one.
                None if self.advance()? => {}
                None => return Ok(Next::End),
            }
        }
    }

    fn give(&mut self, nanos: u64, stream: u8) -> Next<'_> {
        let Ok(time) = Timestamp::from_nanosecond(i128::from(nanos)) else { return Next::Skipped };
        match stream {
            1 => Next::Record(time, Stream::Stdout, &self.payload),
            2 => Next::Record(time, Stream::Stderr, &self.payload),
            0 => {
                let count = self.payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                let text = format!("[{count} bytes of output could not be written here and were dropped]\n");
                self.payload = text.into_bytes();
                Next::Record(time, Stream::Stderr, &self.payload)
            }
            _ => Next::Skipped,
        }
    }

    /// Opens the file after the one that is open; false when that is the newest. Files are told by inode, because they
    /// change their names while they are read.
    fn advance(&mut self) -> io::Result<bool> {
        let files = self.newest_first()?;
        let next = match &self.open {
            None => files.last(),
            Some(open) => match files.iter().position(|(inode, _)| *inode == open.inode) {
                Some(0) => None,
                Some(place) => files.get(place - 1),
                None => files.last(), // rotated away while it was read
            },
        };
        let Some((_, path)) = next else { return Ok(false) };
        match Open::at(path)? {
            Some(opened) => {
                self.open = Some(opened);
                Ok(true)
            }
            None => Ok(false), // rotated in between; the next look finds it under another name
        }
    }

    fn newest_first(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found: Vec<(u32, u64, PathBuf)> = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let place = match name.to_str() {
                Some("current") => 0,
                Some(number) => match number.parse::<u32>() {
                    Ok(number) => number,
                    Err(_) => continue,
                },
                None => continue,
            };
            match entry.metadata() {
                Ok(data) => found.push((place, data.ino(), entry.path())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, inode, path)| (inode, path)).collect())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Option<Self>> {
        match fs::File::open(path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                Ok(Some(Self {
                    path: path.to_owned(),
                    inode,
                    reader: BufReader::with_capacity(64 << 10, file),
                    offset: 0,
                }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads one record into `payload`; `None`, without moving, when there is no whole one.
    fn record(&mut self, payload: &mut Vec<u8>) -> io::Result<Option<(u64, u8)>> {
        let mut header = [0; HEADER];
        if !self.fill(&mut header)? {
            return self.back();
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, stream, _, m, n] = header;
        let length = usize::try_from(u32::from_le_bytes([i, j, k, l])).unwrap_or(usize::MAX);
        if u16::from_le_bytes([m, n]) != MAGIC || length > LARGEST {
            let message = format!("{}: no log record at offset {}", self.path.display(), self.offset);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        payload.resize(length, 0);
        if !self.fill(payload)? {
            return self.back();
        }
        self.offset += u64::try_from(HEADER + length).unwrap_or(u64::MAX);
        Ok(Some((u64::from_le_bytes([a, b, c, d, e, f, g, h]), stream)))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.reader.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn back(&mut self) -> io::Result<Option<(u64, u8)>> {
        let buffered = self.reader.buffer().len();
        self.reader.consume(buffered);
        self.reader.seek(io::SeekFrom::Start(self.offset))?;
        Ok(None)
    }
}
