//! The files of one log, and how to go on when they are rotated.

use super::{
    Query, Stream,
    records::{HEADER, Header, Kind, Records},
};
use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, WatchFlags},
};
use std::{
    fs::File,
    io, iter, mem,
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

/// Name of the file that is written to.
const CURRENT: &str = "current";

/// An open log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    /// Device, inode and first header: its name changes, and so may its content.
    identity: (u64, u64, [u8; HEADER]),
    records: Records,
}

impl LogFile {
    /// `None` when it does not exist or has no record yet.
    fn open(folder: &Path, name: &str) -> io::Result<Option<Self>> {
        let path = folder.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path, error)),
        };
        let metadata = file.metadata().map_err(|error| at(&path, error))?;
        let Some(records) = Records::new(file, name != CURRENT).map_err(|error| at(&path, error))? else {
            return Ok(None);
        };
        Ok(Some(Self { path, identity: (metadata.dev(), metadata.ino(), records.first()), records }))
    }

    /// See [`Records::next`].
    ///
    /// # Errors
    /// That of the file system, with the path.
    pub fn next(&mut self, sink: &mut dyn FnMut(Header, &[u8])) -> io::Result<bool> {
        self.records.next(sink).map_err(|error| at(&self.path, error))
    }

    /// See [`Records::begun`].
    pub fn begun(&self) -> Timestamp {
        self.records.begun()
    }

    /// See [`Records::is_recycled`].
    pub fn is_recycled(&self) -> bool {
        self.records.is_recycled()
    }

    /// How many lines of the wanted streams end in this file; it is then at its beginning again.
    ///
    /// # Errors
    /// That of the file system, with the path.
    pub fn count_lines(&mut self, query: &Query) -> io::Result<usize> {
        let mut count = 0;
        while self.next(&mut |header, piece| {
            let stream = match header.kind {
                Kind::Out => Stream::Stdout,
                Kind::Err => Stream::Stderr,
                Kind::Dropped => return,
            };
            let early = query.since.is_some_and(|since| header.time < since);
            let late = query.until.is_some_and(|until| header.time > until);
            if query.wants_stream(stream) && !early && !late {
                count += piece.iter().filter(|&&byte| byte == b'\n').count();
            }
        })? {}
        self.records.rewind();
        Ok(count)
    }
}

/// Finds the files that are newer than the last one read.
#[derive(Debug)]
pub struct Follower {
    folder: PathBuf,
    last: Option<LogFile>,
    /// Files were missed.
    lost: bool,
    inotify: Option<OwnedFd>,
}

impl Follower {
    /// Of the log in this folder; `waits` tells whether [`Follower::wait`] will be called.
    pub fn new(folder: &Path, waits: bool) -> Self {
        // Before the first look, so that nothing is missed in between. Without it, `wait` just looks again and again.
        let inotify = if waits { watch(folder).ok() } else { None };
        Self { folder: folder.to_owned(), last: None, lost: false, inotify }
    }

    /// The files to read from where reading ended: the one that was [kept](Follower::keep), and all newer ones, oldest
    /// first.
    ///
    /// # Errors
    /// That of the file system, with the path.
    pub fn newer(&mut self) -> io::Result<Vec<LogFile>> {
        let mut files = Vec::new();
        for _ in 0..TRIES {
            files = self.look()?;
            let newest = files.first().or(self.last.as_ref()).map(|file: &LogFile| file.identity);
            // Nothing has been rotated while we looked, so these are in order, and none is missing.
            if self.files().next().transpose()?.map(|file| file.identity) == newest {
                // The kept one comes first: it may have got its last records after it was read.
                files.extend(self.last.take());
                files.reverse();
                return Ok(files);
            }
        }
        // Hopeless to read them all, even less to follow.
        self.lost = true;
        self.last = None;
        files.truncate(1);
        Ok(files)
    }

    /// The files that are newer than the last one read, newest first.
    fn look(&self) -> io::Result<Vec<LogFile>> {
        let last = self.last.as_ref().map(|last| last.identity);
        self.files().take_while(|file| file.as_ref().map_or(true, |file| Some(file.identity) != last)).collect()
    }

    /// All files, newest first.
    fn files(&self) -> impl Iterator<Item = io::Result<LogFile>> {
        let mut missing = 0;
        iter::once(CURRENT.to_owned())
            .chain((1u32..).map(|number| number.to_string()))
            .map(|name| LogFile::open(&self.folder, &name).transpose())
            .take_while(move |file| {
                missing = if file.is_none() { missing + 1 } else { 0 };
                missing <= GAP
            })
            .flatten()
    }

    /// Whether something was not read before it was rotated away, just before what is read next.
    pub fn has_lost(&mut self) -> bool {
        mem::take(&mut self.lost) || self.last.as_ref().is_some_and(LogFile::is_recycled)
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
        if let Some(fd) = &self.inotify {
            // What happened does not matter. The file was opened non-blocking.
            let mut events = [0; 4096];
            while rustix::io::read(fd, &mut events).is_ok_and(|count| count > 0) {}
        }
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
