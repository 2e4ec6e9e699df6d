//! The files of one log, and how to go on when they are rotated.

use super::{
    Query,
    records::{HEADER, Header, Kind, Next, Phase, Records},
};
use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
};
use std::{
    fs::File,
    io, iter,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

/// How long a follower waits at most before it looks again (nanoseconds): that is how late it notices that the container
/// has ended, or new output where the kernel has no more inotify instances for us.
const LOOK: i64 = 200_000_000;
/// So many numbers in a row may be without a file before there are no more: a monitor that was killed while it rotated
/// leaves a gap, and one while we look.
const GAP: u32 = 8;
/// How often the files are looked for anew when they are rotated meanwhile.
const TRIES: u32 = 20;

/// Most events of inotify that are looked at in one go.
const EVENTS: u32 = 1000;

/// Name of the file that is written to.
const CURRENT: &str = "current";

/// An open log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    /// Device, inode and first header: its name changes, and so may its content.
    identity: (u64, u64, [u8; HEADER]),
    records: Records,
    /// There were others before it that have been rotated away unread.
    after_gap: bool,
}

impl LogFile {
    /// `None` when it does not exist or has no record yet.
    fn open(folder: &Path, name: &str, over: bool) -> io::Result<Option<Self>> {
        let path = folder.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path, error)),
        };
        let metadata = file.metadata().map_err(|error| at(&path, error))?;
        let phase = match over {
            _ if name != CURRENT => Phase::Rotated,
            true => Phase::Ended,
            false => Phase::Growing,
        };
        let Some(records) = Records::new(file, phase).map_err(|error| at(&path, error))? else { return Ok(None) };
        Ok(Some(Self { path, identity: (metadata.dev(), metadata.ino(), records.first()), records, after_gap: false }))
    }

    /// See [`Records::next`].
    ///
    /// # Errors
    /// That of the file system, with the path.
    pub fn next(&mut self, sink: &mut dyn FnMut(Header, &[u8])) -> io::Result<Next> {
        self.records.next(sink).map_err(|error| at(&self.path, error))
    }

    fn turn(&mut self, phase: Phase) -> io::Result<()> {
        self.records.turn(phase).map_err(|error| at(&self.path, error))
    }

    /// See [`Records::time`].
    pub fn time(&self) -> Timestamp {
        self.records.time()
    }

    /// Whether there were others before it that have been rotated away unread.
    pub fn is_after_gap(&self) -> bool {
        self.after_gap
    }

    /// What this file has of each stream, output first; it is then at its beginning again.
    ///
    /// # Errors
    /// That of the file system, with the path.
    pub fn survey(&mut self, query: &Query) -> io::Result<[Survey; 2]> {
        let mut all = [Survey::default(); 2];
        let mut look = |header: Header, piece: &[u8]| {
            let survey = match header.kind {
                Kind::Out => &mut all[0],
                Kind::Err => &mut all[1],
                Kind::Dropped => return,
            };
            let early = query.since.is_some_and(|since| header.time < since);
            let late = query.until.is_some_and(|until| header.time > until);
            let ends = piece.iter().filter(|&&byte| byte == b'\n').count();
            survey.any = true;
            survey.ends |= ends > 0;
            survey.lines += if early || late { 0 } else { ends };
        };
        while self.next(&mut look)? != Next::End {}
        self.records.rewind();
        Ok(all)
    }
}

/// What a file has of one stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Survey {
    /// Something.
    pub any: bool,
    /// The end of a line.
    pub ends: bool,
    /// How many lines end in the time that was asked for.
    pub lines: usize,
}

/// Finds the files that are newer than the last one read.
#[derive(Debug)]
pub struct Follower {
    folder: PathBuf,
    last: Option<LogFile>,
    inotify: Option<OwnedFd>,
}

impl Follower {
    /// Of the log in this folder; `waits` tells whether [`Follower::wait`] will be called.
    pub fn new(folder: &Path, waits: bool) -> Self {
        // Before the first look, so that nothing is missed in between. Without it, `wait` just looks again and again.
        let inotify = if waits { watch(folder).ok() } else { None };
        Self { folder: folder.to_owned(), last: None, inotify }
    }

    /// The files to read from where reading ended: the one that was [kept](Follower::keep), and all newer ones, oldest
    /// first. `over` tells that nothing is written any more.
    ///
    /// # Errors
    /// That of the file system, with the path.
    pub fn newer(&mut self, over: bool) -> io::Result<Vec<LogFile>> {
        let mut files = Vec::new();
        for _ in 0..TRIES {
            let is_whole;
            (files, is_whole) = self.look(over)?;
            let newest = files.first().or(self.last.as_ref()).map(|file: &LogFile| file.identity);
            // Nothing has been rotated while we looked, so none is missing.
            if self.files(over).next().transpose()?.map(|file| file.identity) == newest {
                let some_are_gone = self.begun().is_none_or(|begun| begun > files.len());
                if let Some(oldest) = files.last_mut() {
                    oldest.after_gap = !is_whole && some_are_gone;
                }
                // The kept one comes first: it may have got its last records after it was read.
                if let Some(mut last) = self.last.take() {
                    last.turn(match over {
                        _ if !files.is_empty() => Phase::Rotated,
                        true => Phase::Ended,
                        false => Phase::Growing,
                    })?;
                    files.push(last);
                }
                files.reverse();
                return Ok(files);
            }
        }
        // Hopeless to read them all, even less to follow.
        self.last = None;
        files.truncate(1);
        files.iter_mut().for_each(|file| file.after_gap = true);
        Ok(files)
    }

    /// The files that are newer than the last one read, newest first; and whether that one is still there.
    fn look(&self, over: bool) -> io::Result<(Vec<LogFile>, bool)> {
        let last = self.last.as_ref().map(|last| last.identity);
        let mut found: Vec<LogFile> = Vec::new();
        for file in self.files(over) {
            let file = file?;
            if Some(file.identity) == last {
                return Ok((found, true));
            }
            // Once more under its next name, if it was rotated since. For the same reason none is passed over.
            if found.last().is_none_or(|newer| newer.identity != file.identity) {
                found.push(file);
            }
        }
        Ok((found, last.is_none()))
    }

    /// All files, newest first.
    fn files(&self, over: bool) -> impl Iterator<Item = io::Result<LogFile>> {
        let mut missing = 0;
        iter::once(CURRENT.to_owned())
            .chain((1u32..).map(|number| number.to_string()))
            .map(move |name| LogFile::open(&self.folder, &name, over).transpose())
            .take_while(move |file| {
                missing = if file.is_none() { missing + 1 } else { 0 };
                missing <= GAP
            })
            .flatten()
    }

    /// Whether the last file that was read got other content before its end.
    pub fn has_lost(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.records.is_recycled())
    }

    /// Keeps the last file that was read.
    pub fn keep(&mut self, file: LogFile) {
        self.last = Some(file);
    }

    /// Waits until something may have been written.
    pub fn wait(&self) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK };
        let mut fds: Vec<PollFd<'_>> = self.inotify.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        // A failure is a wait that ended early.
        poll(&mut fds, Some(&timeout)).ok();
    }

    /// How many files have been begun since this was last asked; `None` when that is unknown.
    fn begun(&self) -> Option<usize> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.inotify.as_ref()?, &mut buffer);
        let mut begun = 0;
        // Who writes all the time may have more for us each time.
        for _ in 0..EVENTS {
            let Ok(event) = events.next() else { return Some(begun) };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                return None;
            }
            let is_begun = event.events().intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            if is_begun && event.file_name().is_some_and(|name| name.to_bytes() == CURRENT.as_bytes()) {
                begun += 1;
            }
        }
        None
    }
}

fn watch(folder: &Path) -> io::Result<OwnedFd> {
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&inotify, folder, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
    // The exit file appears beside the log's folder: a reason to ask whether the container still runs. Only sooner.
    if let Some(parent) = folder.parent() {
        inotify::add_watch(&inotify, parent, WatchFlags::MOVED_TO | WatchFlags::ONLYDIR).ok();
    }
    Ok(inotify)
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
