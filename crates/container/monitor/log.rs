//! The log: `current`, and older files `1`, `2`, …, at most `files` of at most `limit` bytes.
//!
//! Nothing here waits or fails: what can not be written is dropped and counted, and the count becomes a record as soon as
//! one can be written again.

use crate::{
    file::{DROPPED, LogFile},
    stage::{self, Stage},
    sys::{self, Errno, Fd, Result},
    text::Text,
};
use core::ffi::CStr;

/// A file with less room than this for another record's bytes is full.
const LEAST_ROOM: u64 = 256;
/// After a failure, output is dropped for this long without another try (nanoseconds): on a full disk a write can be
/// slow to fail.
const RETRY: u64 = sys::SECOND;
/// A pipe that holds this much when it is read is busy (bytes).
const BUSY: usize = 32 << 10;
/// A log that rotates again within this time (nanoseconds) recycles its oldest file.
const FAST: u64 = sys::SECOND;

const CURRENT: &CStr = c"current";
/// Name of a file that is being recycled.
const NEXT: &CStr = c"next";

pub struct Log {
    path: &'static CStr,
    directory: Option<Fd>,
    file: Option<LogFile>,
    limit: u64,
    files: u64,
    /// Bytes dropped in all, and those of them that no record tells yet.
    dropped: u64,
    untold: u64,
    /// When to try again (monotonic nanoseconds), 0 when all is well.
    retry: u64,
    /// When it was rotated (monotonic nanoseconds), 0 for never.
    rotated: u64,
    /// Whether the file system can be spliced to.
    splices: bool,
    /// Pipes that have been enlarged, one bit a stream.
    enlarged: u8,
    /// There once it has been of use.
    stage: Option<Stage>,
}

impl Log {
    pub fn new(path: &'static CStr, limit: u64, files: u64) -> Self {
        let mut log = Self {
            path,
            directory: None,
            file: None,
            limit,
            files,
            dropped: 0,
            untold: 0,
            retry: 0,
            rotated: 0,
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
            file.close();
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
            let written = if self.ready() { self.write(stream, bytes) } else { 0 };
            if written == 0 {
                self.dropped += bytes.len() as u64;
                self.untold += bytes.len() as u64;
                return;
            }
            bytes = bytes.get(written..).unwrap_or_default();
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
        }
        let most = most.min(held);
        if most == 0 {
            return Ok(0);
        }
        if self.splices && self.ready() {
            match self.splice(stream, pipe, most) {
                Ok(0) => {}
                Ok(moved) => return Ok(moved),
                Err(Errno::INVAL) => self.splices = false,
                Err(_) => self.fail(),
            }
        }
        let most = most.min(scratch.len());
        let count = sys::read(pipe, scratch.get_mut(..most).unwrap_or_default())?;
        self.append(stream, scratch.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// One record from a pipe; gives its length, 0 when another way must be taken.
    fn splice(&mut self, stream: u8, pipe: Fd, most: usize) -> Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        if most < BUSY && !file.is_recycled() {
            return file.splice(stream, pipe, most);
        }
        if self.stage.is_none() {
            self.stage = Stage::new();
        }
        match &self.stage {
            Some(stage) => file.splice_staged(stream, pipe, most, stage),
            None if file.is_recycled() => Ok(0),
            None => file.splice(stream, pipe, most),
        }
    }

    /// One record; gives its length, 0 when it cannot be written.
    fn write(&mut self, stream: u8, bytes: &[u8]) -> usize {
        match self.file.as_mut().map(|file| file.append(stream, bytes)) {
            Some(Ok(written)) => written,
            _ => {
                self.fail();
                0
            }
        }
    }

    fn fail(&mut self) {
        self.retry = sys::monotonic() + RETRY;
    }

    /// Whether a record can be written now: opens, rotates, and tells what was dropped.
    fn ready(&mut self) -> bool {
        if self.retry != 0 {
            if sys::monotonic() < self.retry {
                return false;
            }
            self.retry = 0;
        }
        let ready = self.file.is_some() || self.open();
        if ready && (self.has_room() || self.rotate()) && self.told() {
            return true;
        }
        self.fail();
        false
    }

    fn has_room(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.room() >= LEAST_ROOM)
    }

    fn told(&mut self) -> bool {
        if self.untold > 0 && self.write(DROPPED, &self.untold.to_le_bytes()) > 0 {
            self.untold = 0;
        }
        self.untold == 0
    }

    fn open(&mut self) -> bool {
        if self.directory.is_none() {
            self.directory = sys::open(Fd::WORKING_DIRECTORY, self.path, sys::O_RDONLY, 0).ok();
        }
        let Some(directory) = self.directory else { return false };
        // What a killed predecessor was about to recycle.
        let _ = sys::unlink(directory, NEXT);
        let Ok(file) = sys::open(directory, CURRENT, sys::O_RDWR | sys::O_CREAT, 0o640) else { return false };
        self.file = Some(LogFile::open(file, self.limit));
        true
    }

    /// Begins a new file. What does not exist among the old ones is a gap that a killed predecessor left, and harmless.
    fn rotate(&mut self) -> bool {
        let Some(directory) = self.directory else { return false };
        if let Some(file) = self.file.take() {
            file.close();
        }
        let now = sys::monotonic();
        let fast = self.rotated != 0 && now < self.rotated + FAST;
        self.rotated = now;
        let number = name(self.files - 1);
        let oldest = if self.files == 1 { CURRENT } else { number.c_str() };
        let recycled = if fast { self.recycle(directory, oldest) } else { None };
        if recycled.is_none() {
            // Before the others are renamed: renaming over a file makes ext4 write the new one to disk at once
            // (auto_da_alloc), while a log that rotates fast need never get there.
            let _ = sys::unlink(directory, oldest);
        }
        for number in (1..self.files.saturating_sub(1)).rev() {
            let _ = sys::rename(directory, name(number).c_str(), name(number + 1).c_str());
        }
        if self.files > 1 {
            let _ = sys::rename(directory, CURRENT, name(1).c_str());
        }
        match recycled {
            Some(file) if sys::rename(directory, NEXT, CURRENT).is_ok() => self.file = Some(file),
            Some(file) => file.close(),
            None => {}
        }
        // If the current one could not be renamed we get the full file again, and have no room.
        (self.file.is_some() || self.open()) && self.has_room()
    }

    /// Takes the oldest file out of the log, to begin it again.
    fn recycle(&self, directory: Fd, oldest: &CStr) -> Option<LogFile> {
        let file = sys::open(directory, oldest, sys::O_RDWR, 0).ok()?;
        if sys::rename(directory, oldest, NEXT).is_ok()
            && let Some(file) = LogFile::recycle(file, self.limit)
        {
            return Some(file);
        }
        sys::close(file);
        None
    }
}

fn name(number: u64) -> Text<24> {
    let mut name = Text::new();
    name.push_number(number);
    name
}
