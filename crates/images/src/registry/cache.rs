//! What is kept in memory, and how it is known to be still true when other processes write to the same index.
//!
//! SQLite tells a connection whether another one has committed since it last asked (`PRAGMA data_version`), by a look at
//! shared memory. Each change begins another *generation*; an answer that was read in this generation is true, one of an
//! older generation must be read again. Content under a digest never changes and has no generation.

use crate::store::{Store, StoreError};
use bytes::Bytes;
use hyper::header::HeaderValue;
use model::image::{Digest, Repository};
use rusqlite::Connection;
use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{accounts::Account, route::Reference, rows::ManifestRow};

/// Counts the changes of the index, by any process.
pub(super) struct Generations {
    state: Mutex<Watched>,
    store: Store,
}

struct Watched {
    connection: Connection,
    version: i64,
    generation: u64,
}

impl Generations {
    pub fn new(store: &Store) -> Result<Self, StoreError> {
        let connection = store.index().connection()?;
        let state = Mutex::new(Watched { connection, version: -1, generation: 0 });
        let generations = Self { state, store: store.clone() };
        generations.current()?;
        Ok(generations)
    }

    /// The present one. It must be asked for before what is to be kept under it is read.
    pub fn current(&self) -> Result<u64, StoreError> {
        let mut watched = guard(&self.state);
        let version = {
            let read = watched.connection.prepare_cached("PRAGMA data_version");
            let version = read.and_then(|mut statement| statement.query_row((), |row| row.get(0)));
            version.map_err(self.store.index().failed("read the version of the data"))?
        };
        if version != watched.version {
            watched.version = version;
            watched.generation += 1;
        }
        Ok(watched.generation)
    }
}

/// A map of bounded weight: when the young half is full it becomes the old half, and what was old is dropped; what is
/// found in the old half is young again.
pub(super) struct Halves<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    weight: usize,
    most: usize,
}

impl<K: Hash + Eq, V: Clone> Halves<K, V> {
    pub fn new(most: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), weight: 0, most: most / 2 }
    }

    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, weigh: impl Fn(&V) -> usize) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.put(key, value.clone(), weigh(&value));
        Some(value)
    }

    pub fn put(&mut self, key: K, value: V, weight: usize) {
        if weight > self.most {
            return;
        }
        if self.weight + weight > self.most {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        self.weight += weight;
        self.young.insert(key, value);
    }
}

/// A manifest, ready to be sent.
pub(super) struct Manifest {
    pub digest: Digest,
    pub bytes: Bytes,
    pub media_type: HeaderValue,
    /// `Docker-Content-Digest`
    pub digest_header: HeaderValue,
    /// `ETag`
    pub tag_header: HeaderValue,
}

impl Manifest {
    /// `None` if the media type cannot stand in a header, which no manifest's that was checked does.
    pub fn new(row: &ManifestRow, bytes: Bytes) -> Option<Self> {
        let header = |text: &str| HeaderValue::from_str(text).ok();
        Some(Self {
            digest: row.digest.clone(),
            bytes,
            media_type: header(&row.media_type)?,
            digest_header: header(row.digest.as_str())?,
            tag_header: header(&format!("\"{}\"", row.digest))?,
        })
    }

    fn weight(&self) -> usize {
        self.bytes.len() + 512
    }
}

/// Answers about manifests, by repository and reference, and accounts by name.
pub(super) struct Cache {
    generations: Generations,
    manifests: Mutex<Names>,
    contents: Mutex<Halves<(Digest, String), Arc<Manifest>>>,
    accounts: Mutex<Halves<String, Stamped<Option<Arc<Account>>>>>,
}

/// What names name, by generation.
type Names = Halves<(Repository, Reference), Stamped<Arc<Manifest>>>;
/// A value and the generation that it was read in.
type Stamped<T> = (u64, T);

/// Accounts that are kept in memory.
const ACCOUNTS: usize = 1024;

impl Cache {
    /// Keeps at most about `bytes`.
    pub fn new(store: &Store, bytes: usize) -> Result<Self, StoreError> {
        Ok(Self {
            generations: Generations::new(store)?,
            manifests: Mutex::new(Halves::new(bytes / 2)),
            contents: Mutex::new(Halves::new(bytes / 2)),
            accounts: Mutex::new(Halves::new(ACCOUNTS)),
        })
    }

    /// The present generation: ask before reading what is to be kept.
    pub fn generation(&self) -> Result<u64, StoreError> {
        self.generations.current()
    }

    /// The manifest of this name, if it is known to be that in this generation.
    pub fn manifest(&self, generation: u64, key: &(Repository, Reference)) -> Option<Arc<Manifest>> {
        let found = guard(&self.manifests).get(key, |(_, manifest)| manifest.weight());
        found.filter(|(stamp, _)| *stamp == generation).map(|(_, manifest)| manifest)
    }

    /// Keeps it.
    pub fn put_manifest(&self, generation: u64, key: (Repository, Reference), manifest: Arc<Manifest>) {
        let content = (manifest.digest.clone(), manifest.media_type.to_str().unwrap_or_default().to_owned());
        let weight = manifest.weight();
        guard(&self.contents).put(content, manifest.clone(), weight);
        // Both maps count the bytes, which they share: either alone may be what keeps them.
        guard(&self.manifests).put(key, (generation, manifest), weight);
    }

    /// The content of a manifest, as it is served with this media type.
    pub fn content(&self, row: &ManifestRow) -> Option<Arc<Manifest>> {
        guard(&self.contents).get(&(row.digest.clone(), row.media_type.clone()), |manifest| manifest.weight())
    }

    /// The account of this name, or that there is none, if it is known in this generation.
    pub fn account(&self, generation: u64, name: &str) -> Option<Option<Arc<Account>>> {
        let found = guard(&self.accounts).get(name, |_| 1);
        found.filter(|(stamp, _)| *stamp == generation).map(|(_, account)| account)
    }

    /// Keeps it.
    pub fn put_account(&self, generation: u64, name: String, account: Option<Arc<Account>>) {
        guard(&self.accounts).put(name, (generation, account), 1);
    }
}

/// What is under these locks is whole between any two statements.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_ends_with_a_change_by_anybody() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let other = Store::open(folder.path()).unwrap();
        let generations = Generations::new(&store).unwrap();
        let mut before = generations.current().unwrap();
        assert_eq!(generations.current().unwrap(), before);
        for writer in [&store, &other] {
            let sql = "INSERT INTO registry_repositories (name) VALUES (hex(randomblob(4)))";
            writer.index().write("test", |transaction| transaction.execute(sql, ())).unwrap();
            let after = generations.current().unwrap();
            assert!(after > before);
            before = after;
        }
    }

    #[test]
    fn halves_are_bounded_and_keep_what_is_used() {
        let mut halves = Halves::new(20);
        for number in 0..1000 {
            halves.put(number, number, 1);
            assert_eq!(halves.get(&0, |_| 1), Some(0), "used all the time");
            assert!(halves.young.len() + halves.old.len() <= 21);
        }
        assert_eq!(halves.get(&500, |_| 1), None);
        halves.put(5000, 1, 11);
        assert_eq!(halves.get(&5000, |_| 11), None, "too heavy to be kept");
    }
}
