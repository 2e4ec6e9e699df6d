//! Why content may not be collected although no name refers to it yet.

use super::{Blob, Inner, Store, StoreError, at, lock, random_name};
use jiff::Timestamp;
use model::image::Digest;
use rusqlite::{Connection, Transaction, params};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Whose a lease is, and so how long it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This process; the lease ends with it, however it ends, or when it is dropped.
    Process,
    /// Whoever owns this file; the lease ends when the file is gone. The file must exist already.
    File(PathBuf),
    /// Nobody; it ends at that time.
    Until(Timestamp),
}

/// Holds content. Dropped, a lease of [`Owner::Process`] ends; the others go on until their owner is gone.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    id: i64,
    /// Whether dropping it ends it.
    bound: bool,
    /// What is held already, to spare the index a write. Bounded: past [`REMEMBERED`] it is forgotten.
    known: Mutex<HashSet<Digest>>,
}

const REMEMBERED: usize = 4096;

/// The file by which others see that this process lives: its lock goes with the process. (A process id with its start
/// time would do the same only among processes of one pid namespace.)
#[derive(Debug)]
pub(crate) struct Process {
    id: String,
    path: PathBuf,
    _lock: File,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Left behind it would be found dead and removed by the next collection.
        drop(fs::remove_file(&self.path));
    }
}

impl Store {
    /// Begins a lease that holds nothing yet. One lease for one piece of work (a pull, an upload, a container): dropped,
    /// all it holds is let go at once.
    pub fn lease(&self, owner: Owner) -> Result<Lease, StoreError> {
        let (kind, name) = match &owner {
            Owner::Process => ("process", self.inner().process_id()?),
            Owner::File(path) => {
                let name = file_name(path)?;
                // What can not be looked at now would be in the way of every collection.
                file_lives(&name)?;
                ("file", name)
            }
            Owner::Until(time) => ("until", time.as_second().to_string()),
        };
        let sql = "INSERT INTO leases (kind, owner, created) VALUES (?1, ?2, ?3)";
        let id = self.index().write("begin a lease", |transaction| {
            transaction.prepare_cached(sql)?.execute(params![kind, name, super::now()])?;
            Ok(transaction.last_insert_rowid())
        })?;
        Ok(Lease { store: self.clone(), id, bound: owner == Owner::Process, known: Mutex::default() })
    }

    /// Whether a lease of this file holds the digest.
    pub fn file_holds(&self, path: &Path, digest: &Digest) -> Result<bool, StoreError> {
        let path = file_name(path)?;
        let sql = "SELECT EXISTS (SELECT 1 FROM leases JOIN holds ON holds.lease = leases.id
            WHERE kind = 'file' AND owner = ?1 AND digest = ?2)";
        self.index().read("look for a lease", |connection| {
            connection.prepare_cached(sql)?.query_row([path.as_str(), digest.as_str()], |row| row.get(0))
        })
    }

    /// Ends the leases of a file, without waiting for a collection to see that it is gone.
    pub fn release_file(&self, path: &Path) -> Result<(), StoreError> {
        let path = file_name(path)?;
        let sql = "DELETE FROM leases WHERE kind = 'file' AND owner = ?1";
        self.index().write("end leases", |transaction| transaction.execute(sql, [path])).map(drop)
    }
}

impl Inner {
    fn process_id(&self) -> Result<String, StoreError> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = &*process {
            return Ok(process.id.clone());
        }
        let id = random_name()?;
        let path = self.folder.join("processes").join(&id);
        let held = lock::take(&path).map_err(at("lock", &path))?;
        *process = Some(Process { id: id.clone(), path, _lock: held });
        Ok(id)
    }
}

impl Lease {
    /// The store it is of.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Holds a blob from now on, and tells whether it is there: `Some` means that it is and stays. What is not there
    /// yet is held too, from the moment it comes. A manifest that is held keeps what it refers to, once a collection
    /// begins after the hold; see [`Lease::hold_all`].
    pub fn hold(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        if self.remembers(digest) {
            return self.store.blob(digest);
        }
        let operation = "hold a blob";
        let blob = self.store.index().transact(operation, |transaction| {
            self.hold_within(transaction, digest).map_err(self.store.index().failed(operation))?;
            self.store.touch_layer(transaction, digest)?;
            self.store.touch(transaction, digest)
        })?;
        self.remember(digest);
        Ok(blob)
    }

    /// Holds the content and all that it refers to: manifests of an index, configuration and layers (packed and
    /// unpacked) of a manifest.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] when an image of it lacks a part; manifests that an index lists may be absent.
    pub fn hold_all(&self, digest: &Digest) -> Result<(), StoreError> {
        let reach = self.store.reach(digest)?;
        let operation = "hold an image";
        self.store.index().transact(operation, |transaction| {
            self.hold_within(transaction, digest).map_err(self.store.index().failed(operation))?;
            self.store.touch_reach(transaction, &format!("image {digest}"), &reach)
        })
    }

    /// Within a transaction: holds the digest, whether or not it is there.
    pub fn hold_within(&self, transaction: &Transaction<'_>, digest: &Digest) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO holds VALUES (?1, ?2)";
        transaction.prepare_cached(sql)?.execute(params![self.id, digest.as_str()]).map(drop)
    }

    /// Lets everything go.
    pub fn release(mut self) -> Result<(), StoreError> {
        self.bound = false;
        self.end()
    }

    pub(crate) fn remember(&self, digest: &Digest) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(digest.clone());
    }

    fn remembers(&self, digest: &Digest) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    fn end(&self) -> Result<(), StoreError> {
        let sql = "DELETE FROM leases WHERE id = ?1";
        self.store
            .index()
            .write("end a lease", |transaction| transaction.prepare_cached(sql)?.execute([self.id]))
            .map(drop)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.bound {
            return;
        }
        if let Err(error) = self.end() {
            // It ends with the process then.
            tracing::warn!(%error, "lease not ended");
        }
    }
}

/// Leases by whether their owner still is.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    pub live: Vec<i64>,
    pub dead: Vec<i64>,
}

/// Asks for the owner of each lease. With `bury`, files of dead processes are removed.
///
/// # Errors
/// Somewhere it can not be said whether the owner is there.
pub(crate) fn judge(store: &Store, bury: bool) -> Result<Leases, StoreError> {
    let rows = store.index().read("list leases", list)?;
    let mut processes: HashMap<String, bool> = HashMap::new();
    let mut leases = Leases::default();
    for (id, kind, owner) in rows {
        let lives = match kind.as_str() {
            "process" => match processes.get(&owner) {
                Some(lives) => *lives,
                None => {
                    let lives = process_lives(store, &owner, bury)?;
                    processes.insert(owner, lives);
                    lives
                }
            },
            "file" => file_lives(&owner)?,
            "until" => owner.parse().is_ok_and(|end: i64| end > super::now()),
            // Of a newer program: better kept than lost.
            _ => true,
        };
        if lives { leases.live.push(id) } else { leases.dead.push(id) }
    }
    Ok(leases)
}

fn list(connection: &Connection) -> rusqlite::Result<Vec<(i64, String, String)>> {
    let mut statement = connection.prepare_cached("SELECT id, kind, owner FROM leases")?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}

/// A file as the index names it.
fn file_name(path: &Path) -> Result<String, StoreError> {
    let absolute = std::path::absolute(path).map_err(at("find", path))?;
    absolute.into_os_string().into_string().map_err(|path| {
        let problem = "its name is not UTF-8, and the index keeps no other";
        at("keep a lease for", Path::new(&path))(io::Error::new(io::ErrorKind::InvalidInput, problem))
    })
}

/// Whether the file is there. A disk that fails says nothing about that: then the owner is neither dead nor alive.
fn file_lives(name: &str) -> Result<bool, StoreError> {
    match fs::symlink_metadata(name) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(at("look whether a lease's owner is still there by", Path::new(name))(error)),
    }
}

fn process_lives(store: &Store, id: &str, bury: bool) -> Result<bool, StoreError> {
    let path = store.part("processes").join(id);
    match lock::try_existing(&path).map_err(at("look whether a process lives by", &path))? {
        lock::Existing::Held => Ok(true),
        lock::Existing::Gone => Ok(false),
        lock::Existing::Free(_lock) => {
            if bury {
                fs::remove_file(&path).map_err(at("remove", &path))?;
            }
            Ok(false)
        }
    }
}
