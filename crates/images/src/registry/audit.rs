//! The record of writes: who did what, when, from where, with what result. One JSON object a line.
//!
//! A line is written before its request is answered. The log is bounded: `audit.log` becomes `audit.log.1` when it is
//! full, and the oldest is removed. Several processes may write to it: a line is one append, and a file is changed under
//! a lock. So that nobody can push the writes of others out of it by what is refused anyway, only so many refusals of an
//! account have lines of their own in a minute; how many more there were is one line when the minute is over.

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// One write, or the attempt.
#[derive(Debug, Serialize)]
pub(super) struct Record<'a> {
    /// When it ended.
    pub time: Timestamp,
    /// The account; empty for somebody without one.
    pub account: &'a str,
    /// Address and port of the client.
    pub client: std::net::SocketAddr,
    /// Such as `push-manifest`.
    pub action: &'a str,
    /// Where.
    pub repository: &'a str,
    /// On what: a tag, a digest, an upload.
    pub subject: &'a str,
    /// Tags that are set besides.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tags: &'a [String],
    /// The content, where the subject does not name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<&'a str>,
    /// Status of the response.
    pub status: u16,
    /// The error code, if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// Refusals of an account that have no line of their own.
#[derive(Debug, Serialize)]
struct More<'a> {
    /// When they were counted.
    time: Timestamp,
    /// The account; empty for all without one.
    account: &'a str,
    /// `refusals`
    action: &'a str,
    /// How many.
    count: u64,
}

/// Refusals of an account that have a line of their own, in a minute.
const REFUSALS: u32 = 10;
/// That minute.
const WINDOW: Duration = Duration::from_secs(60);
/// Accounts whose refusals are counted by themselves; those of further ones are counted with those of nobody in
/// particular.
const ACCOUNTS: usize = 1024;

/// Refusals of an account since the beginning of its minute.
struct Refusals {
    began: Instant,
    written: u32,
    more: u64,
}

/// The log.
pub(super) struct Audit {
    path: PathBuf,
    bytes: u64,
    files: u32,
    current: Mutex<Option<File>>,
    refusals: Mutex<HashMap<String, Refusals>>,
}

impl Audit {
    /// Opens `audit.log` in `folder`; a file has at most `bytes` bytes and a line, and there are at most `files`.
    pub fn open(folder: &Path, bytes: u64, files: u32) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let (current, refusals) = (Mutex::new(None), Mutex::default());
        let audit = Self { path: folder.join("audit.log"), bytes, files: files.max(1), current, refusals };
        audit.file()?;
        Ok(audit)
    }

    /// Appends a line, or counts the record when it is one refusal too many.
    pub fn write(&self, record: &Record<'_>) -> io::Result<()> {
        if record.status >= 400 && !self.admits(record.account) {
            return Ok(());
        }
        self.append(record)
    }

    /// Writes how many refusals have no line of their own, for each account whose minute is over; or for all.
    pub fn sum_up(&self, all: bool) -> io::Result<()> {
        let is_over = |refusals: &mut Refusals| all || refusals.began.elapsed() >= WINDOW;
        let over: Vec<_> = self.refusals().extract_if(|_, refusals| is_over(refusals)).collect();
        for (account, Refusals { more, .. }) in over.iter().filter(|(_, refusals)| refusals.more > 0) {
            self.append(&More { time: Timestamp::now(), account, action: "refusals", count: *more })?;
        }
        Ok(())
    }

    fn admits(&self, account: &str) -> bool {
        let mut all = self.refusals();
        let account = if all.len() < ACCOUNTS || all.contains_key(account) { account } else { "" };
        let new = || Refusals { began: Instant::now(), written: 0, more: 0 };
        let refusals = all.entry(account.to_owned()).or_insert_with(new);
        if refusals.written < REFUSALS {
            refusals.written += 1;
            return true;
        }
        refusals.more += 1;
        false
    }

    fn refusals(&self) -> MutexGuard<'_, HashMap<String, Refusals>> {
        // The map is whole between any two statements.
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, record: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = match current.take() {
            Some(file) if self.is_current(&file)? => file,
            _ => self.file()?,
        };
        file.write_all(&line)?;
        *current = Some(file);
        Ok(())
    }

    /// Whether this is still the file of that name, and not full.
    fn is_current(&self, file: &File) -> io::Result<bool> {
        let mine = file.metadata()?;
        Ok(mine.len() < self.bytes && fs::metadata(&self.path).is_ok_and(|there| there.ino() == mine.ino()))
    }

    /// The file to append to; a full one has been moved away.
    fn file(&self) -> io::Result<File> {
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.numbered("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        if fs::metadata(&self.path).is_ok_and(|found| found.len() >= self.bytes) {
            for number in (1..self.files).rev() {
                let from = if number == 1 { self.path.clone() } else { self.numbered(&(number - 1).to_string()) };
                rename_if_there(&from, &self.numbered(&number.to_string()))?;
            }
            if self.files == 1 {
                fs::remove_file(&self.path)?;
            }
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)
    }

    fn numbered(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        name.into()
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if let Err(error) = self.sum_up(true) {
            tracing::error!(%error, "audit log not written");
        }
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(audit: &Audit, subject: &str) {
        write_as(audit, "ci", 201, subject);
    }

    fn write_as(audit: &Audit, account: &str, status: u16, subject: &str) {
        let record = Record {
            time: Timestamp::UNIX_EPOCH,
            account,
            client: "127.0.0.1:1".parse().unwrap(),
            action: "push-manifest",
            repository: "a/b",
            subject,
            tags: &[],
            digest: None,
            status,
            error: None,
        };
        audit.write(&record).unwrap();
    }

    #[test]
    fn is_bounded_and_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path(), 400, 3).unwrap();
        // Two processes write in turns, and see each other change the file.
        let other = Audit::open(folder.path(), 400, 3).unwrap();
        for number in 0..50 {
            write(if number % 2 == 0 { &audit } else { &other }, &format!("v{number}"));
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let text = [read("audit.log.2"), read("audit.log.1"), read("audit.log")].concat();
        assert!(!folder.path().join("audit.log.3").exists());
        let subjects: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["subject"].as_str().unwrap().to_owned())
            .collect();
        let expected: Vec<_> = (50 - subjects.len()..50).map(|number| format!("v{number}")).collect();
        assert_eq!(subjects, expected);
        assert!(subjects.len() >= 6, "{subjects:?}");
    }

    #[test]
    fn refusals_beyond_some_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path(), 1 << 20, 3).unwrap();
        for number in 0..100 {
            write_as(&audit, "ci", 403, &number.to_string());
            write_as(&audit, "anna", 201, &number.to_string());
        }
        write_as(&audit, "bert", 404, "");
        audit.sum_up(false).unwrap();
        let lines = || -> Vec<serde_json::Value> {
            let text = fs::read_to_string(folder.path().join("audit.log")).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let of = |account: &str| lines().into_iter().filter(|line| line["account"] == account).collect::<Vec<_>>();
        assert_eq!((of("ci").len(), of("anna").len(), of("bert").len()), (10, 100, 1));
        drop(audit);
        let last = of("ci").pop().unwrap();
        assert_eq!((&last["action"], &last["count"]), (&"refusals".into(), &90.into()));
        assert_eq!(lines().len(), 112, "of the others there is nothing to say");
    }

    #[test]
    fn one_file_is_a_bound_too() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path(), 200, 1).unwrap();
        (0..10).for_each(|number| write(&audit, &format!("v{number}")));
        let there = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(there, 2, "the log and its lock");
    }
}
