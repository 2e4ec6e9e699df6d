//! Log files of a container: reading and following what its monitor wrote.
//!
//! `current` is being written; `1`, `2`, … are older, the highest number the oldest. A file is a row of records: a header
//! of 16 bytes, little-endian — u64 nanoseconds since 1970, u32 length, u8 stream (1 output, 2 error output, 0 a u64 count
//! of bytes that were dropped), u8 zero, u16 `0x4a4c` — and that many bytes. What one read of a pipe gave is one record, so
//! lines are put together here; a line has the time of its first byte's record.

mod assemble;
mod files;

use jiff::Timestamp;
use std::{collections::VecDeque, io, ops::ControlFlow, path::Path, time::Duration};

use assemble::Assembler;
use files::{Files, Next};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; all output with a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// None before this.
    pub since: Option<Timestamp>,
    /// None after this.
    pub until: Option<Timestamp>,
    /// Only the last so many of what is there now.
    pub tail: Option<usize>,
    /// Those of standard output.
    pub stdout: bool,
    /// Those of standard error.
    pub stderr: bool,
    /// Go on with what comes, until the container ends.
    pub follow: bool,
}

impl Query {
    fn wants(&self, line: &Line) -> bool {
        let stream = match line.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        stream && self.since.is_none_or(|since| line.time >= since) && self.until.is_none_or(|until| line.time <= until)
    }
}

/// One line, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When its first byte was read from the container.
    pub time: Timestamp,
    /// Where it came from.
    pub stream: Stream,
    /// Without its line feed; at most 16 KiB.
    pub text: Vec<u8>,
    /// The line goes on: it was longer than that, or the container has not ended it yet.
    pub partial: bool,
}

/// Hands the wanted lines to `sink`, oldest first, until it breaks off. With `follow` it returns when `running` says that
/// the container has ended and everything is read.
///
/// # Errors
/// Those of the file system, `InvalidData` with path and offset when a file is not a log.
pub fn read(
    folder: &Path,
    query: &Query,
    running: impl Fn() -> bool,
    sink: &mut dyn FnMut(Line) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut files = Files::open(folder)?;
    let mut assembler = Assembler::default();
    // Lines of what is there at first, when only the last of them are wanted.
    let mut last: Option<VecDeque<Line>> = query.tail.map(|_| VecDeque::new());
    let most = query.tail.unwrap_or(usize::MAX);
    let mut ended = false;
    loop {
        match files.next()? {
            Next::Record(time, stream, bytes) => {
                let mut broken = false;
                assembler.add(time, stream, bytes, &mut |line| {
                    if broken || !query.wants(&line) {
                        return;
                    }
                    match &mut last {
                        Some(kept) => {
                            kept.push_back(line);
                            if kept.len() > most {
                                kept.pop_front();
                            }
                        }
                        None => broken = sink(line).is_break(),
                    }
                });
                if broken {
                    return Ok(());
                }
                continue;
            }
            Next::Skipped => continue,
            Next::End => {}
        }
        let finished = !query.follow || ended;
        if finished {
            let rest = assembler.rest().filter(|line| query.wants(line));
            let mut all: VecDeque<Line> = last.take().unwrap_or_default();
            all.extend(rest);
            while all.len() > most && query.tail.is_some() && !query.follow {
                all.pop_front();
            }
            for line in all {
                if sink(line).is_break() {
                    break;
                }
            }
            return Ok(());
        }
        for line in last.take().unwrap_or_default() {
            if sink(line).is_break() {
                return Ok(());
            }
        }
        // Asked before the next look, so that what was written until the end is read after it.
        ended = !running();
        if !ended {
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests;
