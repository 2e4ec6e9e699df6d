//! Taking the rest away.

use super::{ItemKind, Options, Report, cutoff};
use crate::{
    layer::marker,
    store::{Store, StoreError, at, index, index::Table, ingest, lock, random_name},
};
use model::image::{Algorithm, Digest};
use rusqlite::{Connection, Transaction, params};
use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Rows looked at in one transaction, so that others never wait long.
const BATCH: usize = 64;

/// A row that is old enough.
struct Candidate {
    digest: Digest,
    size: u64,
}

/// What [`run`] would take away.
pub(super) fn plan(
    store: &Store,
    options: &Options,
    marks: &HashSet<Digest>,
    dead: &[i64],
) -> Result<Report, StoreError> {
    let mut report = Report::default();
    for (table, kind) in [(Table::Blobs, ItemKind::Blob), (Table::Layers, ItemKind::Layer)] {
        for candidate in candidates(store, table, options, i64::MAX)? {
            let held = store.index().read("look for leases", |connection| held(connection, &candidate.digest, dead))?;
            if marks.contains(&candidate.digest) || held {
                report.kept += 1;
            } else {
                report.add(kind, candidate.digest.to_string(), candidate.size);
            }
        }
    }
    for folder in entries(&store.part("ingest"))? {
        let data = folder.join("data");
        if is_older(&data, options.ingest) {
            report.add(ItemKind::Ingest, name(&folder), size(&data));
        }
    }
    for path in entries(&store.part("trash"))? {
        report.add(ItemKind::Leftover, name(&path), size(&path));
    }
    Ok(report)
}

/// Removes what is not marked and was not touched since the collection of this number began.
pub(super) fn run(
    store: &Store,
    options: &Options,
    marks: &HashSet<Digest>,
    epoch: u64,
    stop: &dyn Fn() -> bool,
) -> Result<Report, StoreError> {
    let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
    let mut report = Report::default();
    for (table, kind) in [(Table::Blobs, ItemKind::Blob), (Table::Layers, ItemKind::Layer)] {
        let (kept, candidates): (Vec<_>, Vec<_>) = candidates(store, table, options, epoch)?
            .into_iter()
            .partition(|candidate| marks.contains(&candidate.digest));
        report.kept += kept.len() as u64;
        for batch in candidates.chunks(BATCH) {
            if stop() {
                return Ok(report);
            }
            remove(store, table, batch, options, epoch, |candidate| {
                report.add(kind, candidate.digest.to_string(), candidate.size);
            })?;
        }
    }
    if stop() {
        return Ok(report);
    }
    adopt_blobs(store)?;
    sweep_layers(store, &mut report)?;
    sweep_ingests(store, options, &mut report)?;
    for name in crate::bootstrap::sweep(store)? {
        report.add(ItemKind::Leftover, name, 0);
    }
    for path in entries(&store.part("processes"))? {
        if let lock::Existing::Free(_lock) =
            lock::try_existing(&path).map_err(at("look whether a process lives by", &path))?
        {
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
    }
    Ok(report)
}

fn candidates(store: &Store, table: Table, options: &Options, epoch: i64) -> Result<Vec<Candidate>, StoreError> {
    let sql = match table {
        Table::Blobs => "SELECT digest, size FROM blobs WHERE touched <= ?1 AND epoch < ?2",
        Table::Layers => "SELECT digest, size FROM layers WHERE touched <= ?1 AND epoch < ?2",
    };
    let rows = store.index().read("list content", |connection| {
        let mut statement = connection.prepare_cached(sql)?;
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?));
        statement.query_map(params![cutoff(options.grace), epoch], row)?.collect::<rusqlite::Result<Vec<_>>>()
    })?;
    let candidate = |(digest, size): (String, u64)| {
        Ok(Candidate { digest: digest.parse().map_err(|source| StoreError::Digest { source })?, size })
    };
    rows.into_iter().map(candidate).collect()
}

/// Whether a lease, other than those of the dead, holds the digest.
fn held(connection: &Connection, digest: &Digest, dead: &[i64]) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached("SELECT lease FROM holds WHERE digest = ?1")?;
    let mut rows = statement.query([digest.as_str()])?;
    while let Some(row) = rows.next()? {
        if !dead.contains(&row.get(0)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Moves what is still old and not held to the trash, rows and files in one transaction, and then deletes it.
fn remove(
    store: &Store,
    table: Table,
    batch: &[Candidate],
    options: &Options,
    epoch: i64,
    mut removed: impl FnMut(&Candidate),
) -> Result<(), StoreError> {
    let operation = "remove content";
    let sql = match table {
        Table::Blobs => "DELETE FROM blobs WHERE digest = ?1 AND touched <= ?2 AND epoch < ?3",
        Table::Layers => "DELETE FROM layers WHERE digest = ?1 AND touched <= ?2 AND epoch < ?3",
    };
    let before = cutoff(options.grace);
    let gone = store.index().transact(operation, |transaction| {
        let failed = || store.index().failed(operation);
        let mut gone = Vec::new();
        for candidate in batch {
            let digest = &candidate.digest;
            let delete = || -> rusqlite::Result<bool> {
                if held(transaction, digest, &[])? {
                    return Ok(false);
                }
                let deleted = transaction.prepare_cached(sql)?.execute(params![digest.as_str(), before, epoch])? > 0;
                if deleted && table == Table::Blobs {
                    transaction.prepare_cached("DELETE FROM links WHERE parent = ?1")?.execute([digest.as_str()])?;
                }
                Ok(deleted)
            };
            if !delete().map_err(failed())? {
                continue;
            }
            let path = match table {
                Table::Blobs => store.blob_path(digest),
                Table::Layers => store.layer_path(digest),
            };
            gone.push((candidate, throw_away(store, &path)?));
        }
        Ok::<_, StoreError>(gone)
    })?;
    for (candidate, trash) in gone {
        removed(candidate);
        if let Some(trash) = trash {
            delete(&trash)?;
        }
    }
    Ok(())
}

/// Moves to the trash. `None`: it was not there.
fn throw_away(store: &Store, path: &Path) -> Result<Option<PathBuf>, StoreError> {
    let trash = store.part("trash").join(random_name()?);
    match fs::rename(path, &trash) {
        Ok(()) => Ok(Some(trash)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("move away", path)(error)),
    }
}

fn delete(path: &Path) -> Result<(), StoreError> {
    let directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let deleted = if directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    deleted.map_err(at("delete", path))
}

/// Gives a row to blobs that have none: their process was killed between rename and commit. They are young again, and
/// the next collection may take them.
fn adopt_blobs(store: &Store) -> Result<(), StoreError> {
    let operation = "adopt content";
    for algorithm in Algorithm::ALL {
        for folder in entries(&store.part("blobs").join(algorithm.as_str()))? {
            let mut orphans = Vec::new();
            for path in entries(&folder)? {
                match format!("{algorithm}:{}", name(&path)).parse::<Digest>() {
                    Ok(digest) if store.blob_path(&digest) == path => {
                        let has_row = |connection: &Connection| has_row(connection, Table::Blobs, &digest);
                        if !store.index().read(operation, has_row)? {
                            orphans.push(digest);
                        }
                    }
                    _ => tracing::warn!(path = %path.display(), "a file that is not the store's"),
                }
            }
            for batch in orphans.chunks(BATCH) {
                store.index().transact(operation, |transaction| {
                    batch.iter().try_for_each(|digest| store.touch(transaction, digest).map(drop))
                })?;
            }
        }
    }
    Ok(())
}

fn has_row(connection: &Connection, table: Table, digest: &Digest) -> rusqlite::Result<bool> {
    let sql = match table {
        Table::Blobs => "SELECT 1 FROM blobs WHERE digest = ?1",
        Table::Layers => "SELECT 1 FROM layers WHERE digest = ?1",
    };
    connection.prepare_cached(sql)?.exists([digest.as_str()])
}

/// Layers without a row, and what killed processes left of layers in the making.
fn sweep_layers(store: &Store, report: &mut Report) -> Result<(), StoreError> {
    let folder = store.part("layers");
    for path in entries(&folder)? {
        let name = name(&path);
        if let Some(layer) = name.strip_prefix(".partial-") {
            let lock_path = folder.join(format!(".lock-{layer}"));
            // Made if it is not there: from now on nobody else begins this layer.
            let Some(_lock) = lock::try_take(&lock_path).map_err(at("lock", &lock_path))? else { continue };
            if let Some(trash) = throw_away(store, &path)? {
                report.add(ItemKind::Leftover, name, size(&trash));
            }
            fs::remove_file(&lock_path).map_err(at("remove", &lock_path))?;
        } else if name.starts_with(".lock-") {
            if let lock::Existing::Free(_lock) = lock::try_existing(&path).map_err(at("lock", &path))? {
                fs::remove_file(&path).map_err(at("remove", &path))?;
            }
        } else {
            adopt_layer(store, &path, &name, report)?;
        }
    }
    Ok(())
}

fn adopt_layer(store: &Store, path: &Path, name: &str, report: &mut Report) -> Result<(), StoreError> {
    let text =
        name.split_once('-').map_or_else(|| format!("sha256:{name}"), |(algorithm, hex)| format!("{algorithm}:{hex}"));
    let Ok(digest) = text.parse::<Digest>() else {
        tracing::warn!(path = %path.display(), "a file that is not the store's");
        return Ok(());
    };
    let operation = "adopt a layer";
    if store.index().read(operation, |connection| has_row(connection, Table::Layers, &digest))? {
        return Ok(());
    }
    // Rename and row of a layer are one transaction: inside another one both are there, or it is an orphan.
    let adopt = |transaction: &Transaction<'_>| {
        if has_row(transaction, Table::Layers, &digest).map_err(store.index().failed(operation))? {
            return Ok(None);
        }
        match marker(path)? {
            Some(size) => {
                let inserted = index::insert(transaction, Table::Layers, &digest, size);
                inserted.map_err(store.index().failed(operation)).map(|()| None)
            }
            None => throw_away(store, path),
        }
    };
    if let Some(trash) = store.index().transact::<_, StoreError>(operation, adopt)? {
        report.add(ItemKind::Leftover, name, size(&trash));
    }
    Ok(())
}

/// Content that nobody goes on with.
fn sweep_ingests(store: &Store, options: &Options, report: &mut Report) -> Result<(), StoreError> {
    for folder in entries(&store.part("ingest"))? {
        let (data, lock_path) = (folder.join("data"), folder.join("lock"));
        // Killed before it had data, the folder tells how old it is.
        let old = || if data.exists() { is_older(&data, options.ingest) } else { is_older(&folder, options.ingest) };
        if !old() {
            continue;
        }
        // Made if it is not there: whoever begins this ingest at this moment waits, and finds its folder gone.
        let held = match lock::try_take(&lock_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(at("lock", &lock_path))?,
        };
        // The folder is young again by the lock file, if that was not there.
        if held.is_some() && (!data.exists() || is_older(&data, options.ingest)) {
            let bytes = size(&data);
            ingest::remove(&folder)?;
            report.add(ItemKind::Ingest, name(&folder), bytes);
        }
    }
    Ok(())
}

/// What is in a folder; nothing, if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = match fs::read_dir(folder) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at("list", folder)(error)),
    };
    list.map(|entry| entry.map(|entry| entry.path()).map_err(at("list", folder))).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn size(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| if found.is_dir() { 0 } else { found.len() })
}

fn is_older(path: &Path, age: Duration) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
    let Ok(modified) = modified else { return false };
    SystemTime::now().duration_since(modified).is_ok_and(|passed| passed >= age)
}
