//! Taking away what nobody needs, while everybody works on.
//!
//! One collection at a time marks what is reachable from names, rows of other modules and live leases, and takes the
//! rest. What makes it safe without a pause:
//!
//! 1. A collection has a number, the *epoch*, and raises it before it marks.
//! 2. Whoever makes a reference (a lease's hold, a name, a row of the registry) touches what it refers to in the same
//!    transaction; that writes the current epoch to its row.
//! 3. The collection removes inside write transactions too, and only rows of an older epoch that no lease holds.
//!
//! Transactions of one database come one after the other: either the reference is first, and its row has the new epoch,
//! or the removal is first, and who makes the reference finds nothing there. Before the first removal everything that was
//! read is made to last through a power cut, so that no name comes back whose content is gone.

mod mark;
mod sweep;
mod usage;

pub use usage::{Figure, ImageUsage, Usage};

use crate::store::{Store, StoreError, at, lock, now};
use serde::Serialize;
use std::{fs, io, time::Duration};

/// What to leave alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Content that was touched so short a time ago.
    pub grace: Duration,
    /// Content that was coming in so short a time ago.
    pub ingest: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { grace: Duration::from_secs(3600), ingest: Duration::from_secs(24 * 3600) }
    }
}

/// A kind of thing that is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemKind {
    /// A blob.
    Blob,
    /// An unpacked layer.
    Layer,
    /// Content that was coming in.
    Ingest,
    /// What a killed process left.
    Leftover,
}

/// One thing that was, or would be, taken away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Item {
    /// Kind.
    pub kind: ItemKind,
    /// Digest or file name.
    pub name: String,
    /// Bytes that become free.
    pub size: u64,
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each thing.
    pub items: Vec<Item>,
    /// Bytes that became free, in all.
    pub freed: u64,
    /// How many blobs and layers are needed.
    pub kept: u64,
}

impl Report {
    fn add(&mut self, kind: ItemKind, name: impl Into<String>, size: u64) {
        self.items.push(Item { kind, name: name.into(), size });
        self.freed += size;
    }
}

/// What a collection would take away now. Changes nothing.
pub fn plan(store: &Store, options: &Options) -> Result<Report, StoreError> {
    let leases = crate::store::lease::judge(store, false)?;
    let marks = mark::mark(store, &leases.live, false)?;
    sweep::plan(store, options, &marks, &leases.dead)
}

/// Collects, after waiting for a collection that is running.
pub fn run(store: &Store, options: &Options) -> Result<Report, StoreError> {
    let path = store.part("collect.lock");
    let _lock = lock::take(&path).map_err(at("lock", &path))?;
    collect(store, options, &|| false)
}

/// Collects, unless a collection is running.
pub fn try_run(store: &Store, options: &Options) -> Result<Option<Report>, StoreError> {
    try_run_until(store, options, &|| false)
}

/// As [`try_run`], and looks from time to time whether to `stop`: then the rest is left to the next collection, and the
/// report has what was done.
pub fn try_run_until(store: &Store, options: &Options, stop: &dyn Fn() -> bool) -> Result<Option<Report>, StoreError> {
    let path = store.part("collect.lock");
    match lock::try_take(&path).map_err(at("lock", &path))? {
        Some(_lock) => collect(store, options, stop).map(Some),
        None => Ok(None),
    }
}

/// Collects if the disk is past its watermark and no collection is running.
pub fn run_if_due(store: &Store, options: &Options) -> Result<Option<Report>, StoreError> {
    if store.wants_collection()? { try_run(store, options) } else { Ok(None) }
}

fn collect(store: &Store, options: &Options, stop: &dyn Fn() -> bool) -> Result<Report, StoreError> {
    // What a collection that was killed took away needs no index.
    empty_trash(store, stop)?;
    let result = match collect_once(store, options, stop) {
        Err(error) if error.is_index_full() && store.spend_reserve()? => collect_once(store, options, stop),
        other => other,
    };
    store.keep_reserve();
    let report = result?;
    tracing::info!(items = report.items.len(), bytes = report.freed, kept = report.kept, "images collected");
    Ok(report)
}

fn collect_once(store: &Store, options: &Options, stop: &dyn Fn() -> bool) -> Result<Report, StoreError> {
    let epoch: u64 = store.index().write("begin a collection", |transaction| {
        let sql = "UPDATE counters SET value = value + 1 WHERE name = 'epoch' RETURNING value";
        transaction.query_row(sql, (), |row| row.get(0))
    })?;
    let leases = crate::store::lease::judge(store, true)?;
    // Leases end here, before anything is marked: one that is judged dead can not hold anything later.
    store.index().write("end leases of the dead", |transaction| {
        let mut statement = transaction.prepare_cached("DELETE FROM leases WHERE id = ?1")?;
        leases.dead.iter().try_for_each(|id| statement.execute([id]).map(drop))
    })?;
    let marks = mark::mark(store, &leases.live, true)?;
    if stop() {
        return Ok(Report::default());
    }
    make_last(store)?;
    let report = sweep::run(store, options, &marks, epoch, stop)?;
    empty_trash(store, stop)?;
    Ok(report)
}

/// Makes every change of references before it last through a power cut. A transaction that changes nothing, to SQLite
/// also one that writes the values that are there, is not written to the log, and so syncs nothing.
fn make_last(store: &Store) -> Result<(), StoreError> {
    let sql = "INSERT INTO counters VALUES ('lasting', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1";
    store.index().write_durably("make references last", |transaction| transaction.execute(sql, ()).map(drop))
}

/// Deletes what was taken away, by this collection or one that was killed.
fn empty_trash(store: &Store, stop: &dyn Fn() -> bool) -> Result<(), StoreError> {
    let trash = store.part("trash");
    for entry in fs::read_dir(&trash).map_err(at("list", &trash))? {
        if stop() {
            break;
        }
        let path = entry.map_err(at("list", &trash))?.path();
        let directory = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        match if directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("delete", &path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// The newest time of touching, in seconds since 1970, of what may be taken.
fn cutoff(grace: Duration) -> i64 {
    now().saturating_sub(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn making_references_last_writes_to_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let log = || fs::metadata(folder.path().join("index.db-wal")).unwrap().len();
        for _ in 0..3 {
            let before = log();
            make_last(&store).unwrap();
            assert!(log() > before, "nothing was written after {before} bytes");
        }
    }
}
