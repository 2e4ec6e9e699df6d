//! The record of writes: who did what, when, from where, with what result. One JSON object a line.
//!
//! A line is written before its request is answered. The log is bounded: `audit.log` becomes `audit.log.1` when it is
//! full, and the oldest is removed. Several processes may write to it: a line is one append, and a file is changed under
//! a lock.

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
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
    /// The content, where the subject does not name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<&'a str>,
    /// Status of the response.
    pub status: u16,
    /// The error code, if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// The log.
pub(super) struct Audit {
    path: PathBuf,
    bytes: u64,
    files: u32,
    current: Mutex<Option<File>>,
}

impl Audit {
    /// Opens `audit.log` in `folder`; a file has at most `bytes` bytes and a line, and there are at most `files`.
    pub fn open(folder: &Path, bytes: u64, files: u32) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let audit = Self { path: folder.join("audit.log"), bytes, files: files.max(1), current: Mutex::new(None) };
        audit.file()?;
        Ok(audit)
    }

    /// Appends a line.
    pub fn write(&self, record: &Record<'_>) -> io::Result<()> {
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
        let record = Record {
            time: Timestamp::UNIX_EPOCH,
            account: "ci",
            client: "127.0.0.1:1".parse().unwrap(),
            action: "push-manifest",
            repository: "a/b",
            subject,
            digest: None,
            status: 201,
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
    fn one_file_is_a_bound_too() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path(), 200, 1).unwrap();
        (0..10).for_each(|number| write(&audit, &format!("v{number}")));
        let there = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(there, 2, "the log and its lock");
    }
}
