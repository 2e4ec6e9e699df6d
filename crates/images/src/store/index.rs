//! The database of references: names, leases, what was touched when.
//!
//! SQLite in WAL mode: readers never wait, writers of all processes take turns. A commit survives the process at once,
//! and a power cut when it is asked to ([`Index::write_durably`]).
//!
//! Each module of the crate may keep tables here: it lists its steps in [`MODULES`], oldest first, and never changes a
//! step that has been released. Rows that keep content from being collected are named by `roots`.

use super::{StoreError, at, lock};
use model::image::Digest;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Tables of one module.
pub struct Module {
    /// Its name, as kept in the database.
    pub name: &'static str,
    /// SQL that leads from each version to the next.
    pub steps: &'static [&'static str],
    /// Queries for the digests (one text column, duplicates allowed) of all content that the module's rows keep.
    pub roots: &'static [&'static str],
}

/// Of the queries for roots those that give manifests and nothing else: what one of them refers to must be known.
pub(crate) const MANIFESTS: [&str; 2] = ["SELECT digest FROM images", "SELECT digest FROM registry_manifests"];

/// Every module that keeps tables, in the order in which they are made.
pub const MODULES: &[Module] = &[
    Module { name: "store", steps: STEPS, roots: &["SELECT digest FROM images"] },
    crate::registry::schema::MODULE,
    crate::client::downloads::MODULE,
    crate::bootstrap::MODULE,
];

const STEPS: &[&str] = &["
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counters VALUES ('epoch', 0);
    -- Content that is there. `epoch` counts collections: a collection takes nothing that was touched since it began.
    -- `expanded`: whether `links` has all that it refers to.
    CREATE TABLE blobs (
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, touched INTEGER NOT NULL, epoch INTEGER NOT NULL,
        expanded INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE links (parent TEXT NOT NULL, child TEXT NOT NULL, PRIMARY KEY (parent, child)) WITHOUT ROWID;
    -- Unpacked layers; `size` is what they take on disk.
    CREATE TABLE layers (
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, touched INTEGER NOT NULL, epoch INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE images (
        name TEXT PRIMARY KEY, digest TEXT NOT NULL, descriptor TEXT NOT NULL,
        created INTEGER NOT NULL, pulled INTEGER, used INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX images_by_digest ON images (digest);
    CREATE TABLE leases (
        id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, owner TEXT NOT NULL, created INTEGER NOT NULL
    );
    CREATE TABLE holds (
        lease INTEGER NOT NULL REFERENCES leases (id) ON DELETE CASCADE, digest TEXT NOT NULL,
        PRIMARY KEY (lease, digest)
    ) WITHOUT ROWID;
    CREATE INDEX holds_by_digest ON holds (digest);
"];

/// Idle connections for reading that are kept.
const READERS: usize = 8;
/// How long a writer waits for the writers of other processes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The database.
pub struct Index {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

impl Index {
    pub(super) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let mut writer = connect(&path)?;
        let found = version(&writer).map_err(failed("read the version", &path))?;
        if found != wanted() {
            migrate(&mut writer, &path)?;
        }
        Ok(Self { path, writer: Mutex::new(writer), readers: Mutex::new(Vec::new()) })
    }

    /// Reads; `operation` is what the error says could not be done. Statements see the database as it is when the
    /// first of them runs only within a transaction of their own.
    pub fn read<T>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let idle = guard(&self.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        let result = query(&connection).map_err(self.failed(operation));
        let mut readers = guard(&self.readers);
        if readers.len() < READERS && result.is_ok() {
            readers.push(connection);
        }
        result
    }

    /// Runs one write transaction; nothing is changed if `change` fails.
    pub fn write<T>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.transact(operation, |transaction| change(transaction).map_err(self.failed(operation)))
    }

    /// As [`Index::write`], and lasting through a power cut once it returns, with every change before it.
    pub fn write_durably<T>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.transact_durably(operation, |transaction| change(transaction).map_err(self.failed(operation)))
    }

    /// As [`Index::write`], for changes that have errors of their own.
    pub fn transact<T, E: From<StoreError>>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run(&mut guard(&self.writer), operation, change)
    }

    /// As [`Index::write_durably`], for changes that have errors of their own.
    pub fn transact_durably<T, E: From<StoreError>>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = guard(&self.writer);
        writer.pragma_update(None, "synchronous", "FULL").map_err(self.failed(operation))?;
        let result = self.run(&mut writer, operation, change);
        writer.pragma_update(None, "synchronous", "NORMAL").map_err(self.failed(operation))?;
        result
    }

    /// A connection of the caller's own, for what SQLite tells each connection by itself.
    pub(crate) fn connection(&self) -> Result<Connection, StoreError> {
        connect(&self.path)
    }

    /// Names the operation of a database error.
    pub fn failed(&self, operation: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
        failed(operation, &self.path)
    }

    fn run<T, E: From<StoreError>>(
        &self,
        writer: &mut Connection,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let begin = writer.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begin.map_err(self.failed(operation))?;
        let value = change(&transaction)?;
        transaction.commit().map_err(self.failed(operation))?;
        Ok(value)
    }
}

/// Marks content as used just now, so that no running collection takes it. Returns whether it has a row.
pub(crate) fn touch(transaction: &Transaction<'_>, table: Table, digest: &Digest) -> rusqlite::Result<bool> {
    let sql = match table {
        Table::Blobs => {
            "UPDATE blobs SET touched = ?2, epoch = (SELECT value FROM counters WHERE name = 'epoch') WHERE digest = ?1"
        }
        Table::Layers => {
            "UPDATE layers SET touched = ?2, epoch = (SELECT value FROM counters WHERE name = 'epoch') WHERE digest = ?1"
        }
    };
    Ok(transaction.prepare_cached(sql)?.execute(params![digest.as_str(), super::now()])? > 0)
}

/// Notes that content is there, and touches it. What was read of content that was there before is read again: it may have
/// been damaged then.
pub(crate) fn insert(transaction: &Transaction<'_>, table: Table, digest: &Digest, size: u64) -> rusqlite::Result<()> {
    let sql = match table {
        Table::Blobs => "INSERT INTO blobs (digest, size, touched, epoch) VALUES (?1, ?3, ?2, (SELECT value FROM counters WHERE name = 'epoch'))
             ON CONFLICT (digest) DO UPDATE SET size = ?3, touched = ?2, epoch = excluded.epoch, expanded = 0",
        Table::Layers => "INSERT INTO layers (digest, size, touched, epoch) VALUES (?1, ?3, ?2, (SELECT value FROM counters WHERE name = 'epoch'))
             ON CONFLICT (digest) DO UPDATE SET size = ?3, touched = ?2, epoch = excluded.epoch",
    };
    transaction.prepare_cached(sql)?.execute(params![digest.as_str(), super::now(), size])?;
    Ok(())
}

/// The two tables of things that are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Blobs.
    Blobs,
    /// Unpacked layers.
    Layers,
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).map_err(failed("open", path))?;
    let set = || {
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cache_size", -1024)
    };
    set().map_err(failed("set up a connection", path))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The version as one number: how many steps of all modules have been taken.
fn wanted() -> u64 {
    MODULES.iter().map(|module| module.steps.len() as u64).sum()
}

fn version(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("PRAGMA user_version", (), |row| row.get(0))
}

/// One process at a time: a switch to WAL does not wait for others by itself.
fn migrate(writer: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let lock_path = path.with_extension("lock");
    let _lock = lock::take(&lock_path).map_err(at("lock", &lock_path))?;
    writer.pragma_update(None, "journal_mode", "WAL").map_err(failed("switch to a write-ahead log", path))?;
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = transaction.map_err(failed("begin a migration", path))?;
    let sql = "CREATE TABLE IF NOT EXISTS modules (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID";
    transaction.execute_batch(sql).map_err(failed("make tables", path))?;
    let mut known_names = 0;
    for module in MODULES {
        let known = module.steps.len() as u64;
        let read = "SELECT coalesce((SELECT version FROM modules WHERE name = ?1), 0)";
        let found: u64 =
            transaction.query_row(read, [module.name], |row| row.get(0)).map_err(failed("read versions", path))?;
        let newer = || StoreError::Newer { path: path.to_owned(), module: module.name.to_owned(), found, known };
        let at_version = usize::try_from(found).map_err(|_| newer())?;
        for step in module.steps.get(at_version..).ok_or_else(newer)? {
            transaction.execute_batch(step).map_err(failed("make tables", path))?;
        }
        let write = "INSERT INTO modules VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET version = ?2";
        transaction.execute(write, params![module.name, known]).map_err(failed("write versions", path))?;
        known_names += 1;
    }
    let names: u64 = transaction
        .query_row("SELECT count(*) FROM modules", (), |row| row.get(0))
        .map_err(failed("read versions", path))?;
    if names > known_names {
        // Rows of a module that this program does not know keep content alive; a collection would not see them.
        return Err(StoreError::Newer {
            path: path.to_owned(),
            module: "another module".to_owned(),
            found: names,
            known: known_names,
        });
    }
    transaction.pragma_update(None, "user_version", wanted()).map_err(failed("write the version", path))?;
    transaction.commit().map_err(failed("end a migration", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Index { operation, path, source }
}

/// A panic in a query leaves a connection whose transaction was rolled back: it can go on.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_open_a_new_index_at_once_and_count_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let index = Index::open(path.clone()).unwrap();
                    for _ in 0..25 {
                        let sql = "UPDATE counters SET value = value + 1 WHERE name = 'epoch'";
                        index.write("count", |transaction| transaction.execute(sql, ())).unwrap();
                    }
                });
            }
        });
        let index = Index::open(path).unwrap();
        let read = |connection: &Connection| connection.query_row("SELECT value FROM counters", (), |row| row.get(0));
        assert_eq!(index.read::<u64>("count", read).unwrap(), 200);
    }

    #[test]
    fn manifests_are_among_the_roots() {
        let roots: Vec<&str> = MODULES.iter().flat_map(|module| module.roots).copied().collect();
        assert!(MANIFESTS.iter().all(|sql| roots.contains(sql)), "{roots:?}");
    }

    #[test]
    fn a_newer_index_is_refused_and_a_failed_change_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.db");
        let index = Index::open(path.clone()).unwrap();
        let fails = index.write("fail", |transaction| {
            transaction.execute("UPDATE counters SET value = 7", ())?;
            transaction.execute("nonsense", ())
        });
        assert!(fails.unwrap_err().to_string().contains("can not fail in the index"));
        let read = |connection: &Connection| connection.query_row("SELECT value FROM counters", (), |row| row.get(0));
        assert_eq!(index.read::<u64>("count", read).unwrap(), 0);
        index
            .write_durably("age", |transaction| {
                transaction.execute("UPDATE modules SET version = 99", ())?;
                transaction.pragma_update(None, "user_version", 99)
            })
            .unwrap();
        assert!(matches!(Index::open(path), Err(StoreError::Newer { found: 99, .. })));
    }
}
