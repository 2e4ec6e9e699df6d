//! Which ingest has the beginning of which blob, so that another process goes on with it.

use crate::store::{Ingest, IngestId, Store, StoreError, index::Module};
use model::image::Digest;
use rusqlite::{OptionalExtension as _, params};

/// The table in the store's index. Rows whose ingest is gone are of no harm and are replaced.
pub(crate) const MODULE: Module = Module {
    name: "client",
    steps: &["CREATE TABLE downloads (digest TEXT PRIMARY KEY, ingest TEXT NOT NULL) WITHOUT ROWID;"],
    roots: &[],
};

/// How a download can go on.
pub(super) enum Begun {
    /// Here, from as many bytes as it has.
    Ours(Box<Ingest>),
    /// Another process or task is at it.
    Theirs,
}

/// Goes on with a download, or begins it.
pub(super) fn begin(store: &Store, digest: &Digest) -> Result<Begun, StoreError> {
    let known: Option<String> = store.index().read("look up a download", |connection| {
        let sql = "SELECT ingest FROM downloads WHERE digest = ?1";
        connection.prepare_cached(sql)?.query_row([digest.as_str()], |row| row.get(0)).optional()
    })?;
    if let Some(id) = known.and_then(|id| id.parse::<IngestId>().ok()) {
        match store.resume_as(&id, digest.algorithm()) {
            Ok(Some(ingest)) => return Ok(Begun::Ours(Box::new(ingest))),
            Ok(None) => {}
            Err(StoreError::Busy { .. }) => return Ok(Begun::Theirs),
            Err(error) => return Err(error),
        }
    }
    fresh(store, digest).map(|ingest| Begun::Ours(Box::new(ingest)))
}

/// Begins a download anew.
pub(super) fn fresh(store: &Store, digest: &Digest) -> Result<Ingest, StoreError> {
    let ingest = store.ingest_as(digest.algorithm())?;
    store.index().write("note a download", |transaction| {
        let sql = "INSERT INTO downloads VALUES (?1, ?2) ON CONFLICT (digest) DO UPDATE SET ingest = excluded.ingest";
        transaction.prepare_cached(sql)?.execute(params![digest.as_str(), ingest.id().to_string()])
    })?;
    Ok(ingest)
}

/// Forgets a download that is over.
pub(super) fn end(store: &Store, digest: &Digest) -> Result<(), StoreError> {
    store.index().write("forget a download", |transaction| {
        transaction.prepare_cached("DELETE FROM downloads WHERE digest = ?1")?.execute([digest.as_str()]).map(drop)
    })
}
