//! Log files of a container: format, reading, following.
//!
//! A monitor appends records to `current`, which becomes `1` when it is full, as `1` becomes `2`, and so on; the oldest is
//! removed. A record is one chunk of output as the container wrote it, see [`records`]; lines are put together here, and a
//! line has the time of its first byte's record. A reader needs no lock and no help from the monitor: it opens all files,
//! again if they were rotated meanwhile. A file that it has open it can read to its end even after it was removed; but not
//! one that was recycled, as floods do, and then a notice says that something may be missing.

mod files;
mod lines;
mod records;
#[cfg(test)]
mod tests;

use files::{Follower, LogFile};
use jiff::Timestamp;
use lines::Lines;
use serde::Serialize;
use std::{collections::VecDeque, io, ops::ControlFlow, path::Path};

/// Longest line, bytes; a longer one comes in parts of this length.
pub const LONGEST_LINE: usize = 16 << 10;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; everything, when the container has a terminal.
    Stdout,
    /// Standard error.
    Stderr,
    /// What is missing here: output that could not be written, or that was rotated away before it was read. Shown with
    /// standard error.
    Notice,
}

/// A line of output, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When its first byte was read from the container.
    pub time: Timestamp,
    /// Where it came from.
    pub stream: Stream,
    /// The bytes as the container wrote them, without the newline.
    pub text: Vec<u8>,
    /// No newline follows: the line is longer than [`LONGEST_LINE`] and goes on in the next of this stream, or the
    /// output ends here.
    pub partial: bool,
}

/// Which lines are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// None before this time.
    pub since: Option<Timestamp>,
    /// None after this time. When following, also when to stop.
    pub until: Option<Timestamp>,
    /// Of the lines that are there already, only this many of the last.
    pub tail: Option<usize>,
    /// Whether standard output is wanted.
    pub stdout: bool,
    /// Whether standard error is wanted.
    pub stderr: bool,
    /// Whether to go on with lines as they are written, until the container has ended.
    pub follow: bool,
}

impl Default for Query {
    /// All that is there.
    fn default() -> Self {
        Self { since: None, until: None, tail: None, stdout: true, stderr: true, follow: false }
    }
}

impl Query {
    fn wants_stream(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr | Stream::Notice => self.stderr,
        }
    }

    fn wants(&self, line: &Line) -> bool {
        self.wants_stream(line.stream)
            && self.since.is_none_or(|since| line.time >= since)
            && self.until.is_none_or(|until| line.time <= until)
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Timestamp::now() > until)
    }
}

/// Gives the lines of the log in this folder, oldest first, to `sink`, until there are no more or it breaks.
///
/// With [`Query::follow`] that is when `running` says no and everything is read: it is to tell whether a monitor may
/// still write, and is asked a few times a second; without, once. A container that has written nothing yet has no lines, even if its
/// folder does not exist.
///
/// # Errors
/// That of the file system, with the path.
pub fn read(
    dir: &Path,
    query: &Query,
    running: impl Fn() -> bool,
    mut sink: impl FnMut(Line) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut follower = Follower::new(dir, query.follow);
    let mut lines = Lines::default();
    // Asked before reading: what was written before it said no is then read for sure.
    let mut alive = running();
    let existing = follower.newer(!alive)?;
    alive &= query.follow;
    let flow = match query.tail {
        None => pour(existing, &mut lines, &mut follower, &mut |line| if_wanted(query, line, &mut sink))?,
        Some(count) => {
            let mut tail = Tail::new(count);
            let mut keep = |line| if_wanted(query, line, &mut |line| tail.push(line));
            let mut flow = pour(last(existing, query, count)?, &mut lines, &mut follower, &mut keep)?;
            if flow.is_continue() && !alive {
                // What has no newline yet is a line too, and must not come on top of the count.
                flow = lines.finish(&mut keep);
            }
            if flow.is_continue() { tail.lines.into_iter().try_for_each(&mut sink) } else { flow }
        }
    };
    if flow.is_break() {
        return Ok(());
    }
    let mut sink = |line: Line| if_wanted(query, line, &mut sink);
    while alive && !query.is_over() {
        follower.wait();
        alive = running();
        let newer = follower.newer(!alive)?;
        if pour(newer, &mut lines, &mut follower, &mut sink)?.is_break() {
            return Ok(());
        }
    }
    let _the_end_in_any_case = lines.finish(&mut sink);
    Ok(())
}

type Sink<'a> = &'a mut dyn FnMut(Line) -> ControlFlow<()>;

fn if_wanted(query: &Query, line: Line, sink: Sink<'_>) -> ControlFlow<()> {
    if query.wants(&line) { sink(line) } else { ControlFlow::Continue(()) }
}

/// Reads the files in order and keeps the last one, to go on with.
fn pour(
    files: Vec<LogFile>,
    lines: &mut Lines,
    follower: &mut Follower,
    sink: Sink<'_>,
) -> io::Result<ControlFlow<()>> {
    for mut file in files {
        if (file.is_after_gap() || follower.has_lost()) && lines.lose(file.time(), sink).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if lines.read(&mut file, sink)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        follower.keep(file);
    }
    Ok(ControlFlow::Continue(()))
}

/// Leaves out the files that are older than the last `count` lines, and older than where these have begun.
fn last(mut files: Vec<LogFile>, query: &Query, count: usize) -> io::Result<Vec<LogFile>> {
    // A line has the time of its beginning, so that of each stream one may end in time and not be wanted.
    let enough = count.saturating_add(2);
    let wanted = [query.stdout, query.stderr];
    let (mut found, mut first) = (0, files.len());
    // Streams whose first line, of those that were found, may have begun in an older file.
    let mut is_open = [false; 2];
    while first > 0 && (found < enough || is_open.contains(&true)) {
        first -= 1;
        let is_older = found >= enough;
        for (index, survey) in files[first].survey(query)?.into_iter().enumerate().filter(|(index, _)| wanted[*index]) {
            found += survey.lines;
            is_open[index] = if survey.ends && is_older { false } else { is_open[index] || survey.any && !is_older };
        }
    }
    files.drain(..first);
    Ok(files)
}

/// The last lines so far.
struct Tail {
    count: usize,
    whole: usize,
    lines: VecDeque<Line>,
}

impl Tail {
    fn new(count: usize) -> Self {
        Self { count, whole: 0, lines: VecDeque::new() }
    }

    fn push(&mut self, line: Line) -> ControlFlow<()> {
        // The parts of a long line are one line; an unfinished one at the end counts when it is there.
        let continues =
            self.lines.iter().rev().find(|last| last.stream == line.stream).is_some_and(|last| last.partial);
        if !continues {
            self.whole += 1;
        }
        self.lines.push_back(line);
        while self.whole > self.count {
            self.pop();
        }
        ControlFlow::Continue(())
    }

    /// Drops the oldest line, with all its parts.
    fn pop(&mut self) {
        let Some(first) = self.lines.pop_front() else { return };
        self.whole -= 1;
        let mut partial = first.partial;
        while partial {
            let Some(next) = self.lines.iter().position(|line| line.stream == first.stream) else { return };
            partial = self.lines.remove(next).is_some_and(|line| line.partial);
        }
    }
}
