//! Content that is coming in.

use super::{
    Blob, CommitError, Lease, Store, StoreError, WRITE_EARLY, at, index, index::Table, lock, random_name,
    sync_directory, write_early,
};
use crate::digest::{Hasher, hash_all};
use model::image::{Algorithm, Digest};
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::SystemTime,
};

/// Names an ingest across processes: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IngestId(String);

impl fmt::Display for IngestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The text is not the id of an ingest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an ingest id: expected 32 lower-case hexadecimal digits")]
pub struct IngestIdError;

impl FromStr for IngestId {
    type Err = IngestIdError;
    fn from_str(text: &str) -> Result<Self, IngestIdError> {
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() == 32 && hex { Ok(Self(text.to_owned())) } else { Err(IngestIdError) }
    }
}

/// Content that is coming in, written by one owner at a time. Dropped without commit it stays, to be resumed; who does
/// not come back within a day finds it collected.
pub struct Ingest {
    store: Store,
    id: IngestId,
    folder: PathBuf,
    data: File,
    written: u64,
    /// How far the kernel has been told to write.
    begun: u64,
    /// From how many bytes on the disk is asked for room again.
    ask_at: u64,
    hasher: Hasher,
    _lock: File,
}

/// An ingest that nobody has open, and what its bytes so far hash to.
pub struct Resting {
    id: IngestId,
    written: u64,
    begun: u64,
    hasher: Hasher,
    /// The data as it was left: another time or length is the work of somebody else.
    left: Option<SystemTime>,
}

impl Resting {
    /// Its name.
    pub fn id(&self) -> &IngestId {
        &self.id
    }
}
/// Bytes between two looks at the room on the disk.
const ASK_EACH: u64 = 64 << 20;

impl Store {
    /// Begins to take content in.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the disk is past its limit.
    pub fn ingest(&self) -> Result<Ingest, StoreError> {
        self.ingest_as(Algorithm::Sha256)
    }

    /// As [`Store::ingest`], hashing with `algorithm` while the bytes come in; a commit under another one works too, but
    /// reads them again.
    pub fn ingest_as(&self, algorithm: Algorithm) -> Result<Ingest, StoreError> {
        self.check_room()?;
        // A collection that spares nothing may take the folder before it is locked.
        for _ in 0..100 {
            if let Some(ingest) = self.begin(IngestId(random_name()?), algorithm)? {
                return Ok(ingest);
            }
        }
        let folder = self.part("ingest");
        Err(at("begin an ingest in", &folder)(io::ErrorKind::ResourceBusy.into()))
    }

    fn begin(&self, id: IngestId, algorithm: Algorithm) -> Result<Option<Ingest>, StoreError> {
        let folder = self.ingest_folder(&id);
        fs::create_dir(&folder).map_err(at("make folder", &folder))?;
        let lock_path = folder.join("lock");
        let lock = match lock::take(&lock_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(at("lock", &lock_path))?,
        };
        let path = folder.join("data");
        let data = OpenOptions::new().read(true).write(true).create_new(true).mode(0o400).open(&path);
        let data = data.map_err(at("make", &path))?;
        let hasher = Hasher::new(algorithm);
        // Whoever begins has asked for room just now.
        let (written, begun, ask_at) = (0, 0, ASK_EACH);
        Ok(Some(Ingest { store: self.clone(), id, folder, data, written, begun, ask_at, hasher, _lock: lock }))
    }

    /// Goes on with an ingest that was dropped, by this or another process. `None`: there is no such ingest.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while somebody else has it.
    pub fn resume(&self, id: &IngestId) -> Result<Option<Ingest>, StoreError> {
        self.resume_as(id, Algorithm::Sha256)
    }

    /// As [`Store::resume`], hashing with `algorithm`.
    pub fn resume_as(&self, id: &IngestId, algorithm: Algorithm) -> Result<Option<Ingest>, StoreError> {
        let Some((lock, data)) = self.open_ingest(id)? else { return Ok(None) };
        self.rehashed(id, lock, data, algorithm).map(Some)
    }

    /// Goes on with an ingest that was let go by [`Ingest::rest`]. Its bytes are read again only if somebody else has
    /// worked on it since. `None`: it is gone.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while somebody else has it.
    pub fn wake(&self, resting: Resting) -> Result<Option<Ingest>, StoreError> {
        let Resting { id, written, begun, hasher, left } = resting;
        let Some((lock, mut data)) = self.open_ingest(&id)? else { return Ok(None) };
        let folder = self.ingest_folder(&id);
        let path = folder.join("data");
        let found = data.metadata().map_err(at("look at", &path))?;
        if found.len() != written || left.is_none() || found.modified().ok() != left {
            return self.rehashed(&id, lock, data, hasher.algorithm()).map(Some);
        }
        data.set_modified(SystemTime::now()).map_err(at("touch", &path))?;
        data.seek(SeekFrom::Start(written)).map_err(at("go on with", &path))?;
        Ok(Some(Ingest { store: self.clone(), id, folder, data, written, begun, ask_at: written, hasher, _lock: lock }))
    }

    /// How many bytes an ingest has, whoever works on it. `None`: there is no such ingest.
    pub fn ingested(&self, id: &IngestId) -> Result<Option<u64>, StoreError> {
        let path = self.ingest_folder(id).join("data");
        match fs::metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("look at", &path)(error)),
        }
    }

    /// Lock and data of an ingest that nobody works on.
    fn open_ingest(&self, id: &IngestId) -> Result<Option<(File, File)>, StoreError> {
        let folder = self.ingest_folder(id);
        let lock_path = folder.join("lock");
        let lock = match lock::try_existing(&lock_path).map_err(at("lock", &lock_path))? {
            lock::Existing::Free(lock) => lock,
            lock::Existing::Held => return Err(StoreError::Busy { id: id.clone() }),
            lock::Existing::Gone => return Ok(None),
        };
        let path = folder.join("data");
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(data) => Ok(Some((lock, data))),
            // Killed between lock and data: nothing was received.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("open", &path)(error)),
        }
    }

    fn rehashed(&self, id: &IngestId, lock: File, mut data: File, algorithm: Algorithm) -> Result<Ingest, StoreError> {
        let folder = self.ingest_folder(id);
        let path = folder.join("data");
        // Whoever collects old ingests looks at this time, and takes none whose lock is held.
        data.set_modified(SystemTime::now()).map_err(at("touch", &path))?;
        let mut hasher = Hasher::new(algorithm);
        let written = hash_all(&mut hasher, &mut data).map_err(at("read", &path))?;
        let (store, id) = (self.clone(), id.clone());
        // The room is asked for before the first byte more: who gives it up, or has all of it, needs none.
        Ok(Ingest { store, id, folder, data, written, begun: written, ask_at: written, hasher, _lock: lock })
    }

    fn ingest_folder(&self, id: &IngestId) -> PathBuf {
        self.part("ingest").join(&id.0)
    }
}

impl Ingest {
    /// Its name.
    pub fn id(&self) -> &IngestId {
        &self.id
    }
    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }
    /// The digest of the bytes so far, under the algorithm of this ingest.
    pub fn digest_so_far(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Lets it go, so that anybody may go on with it, and keeps what its bytes so far hash to: see [`Store::wake`].
    pub fn rest(self) -> Resting {
        let left = self.data.metadata().and_then(|found| found.modified()).ok();
        Resting { id: self.id, written: self.written, begun: self.begun, hasher: self.hasher, left }
    }

    /// Forgets all bytes, to begin again under the same name.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let path = self.folder.join("data");
        self.data.set_len(0).map_err(at("empty", &path))?;
        self.data.seek(SeekFrom::Start(0)).map_err(at("rewind", &path))?;
        self.hasher = Hasher::new(self.hasher.algorithm());
        (self.written, self.begun, self.ask_at) = (0, 0, 0);
        Ok(())
    }

    /// Makes the bytes a blob, held by `lease`, and lasting through a power cut.
    ///
    /// # Errors
    /// [`CommitError::Mismatch`] when the bytes are others than promised; the ingest is then removed.
    pub fn commit(self, expected: &Digest, lease: &Lease) -> Result<Blob, CommitError> {
        let found = self.digest(expected.algorithm())?;
        if found != *expected {
            self.abort()?;
            return Err(CommitError::Mismatch { expected: expected.clone(), found });
        }
        Ok(self.publish(found, lease)?)
    }

    /// Makes the bytes a blob under whatever digest they have.
    pub fn commit_as(self, algorithm: Algorithm, lease: &Lease) -> Result<Blob, StoreError> {
        let digest = self.digest(algorithm)?;
        self.publish(digest, lease)
    }

    /// Forgets it.
    pub fn abort(self) -> Result<(), StoreError> {
        remove(&self.folder)
    }

    fn digest(&self, algorithm: Algorithm) -> Result<Digest, StoreError> {
        if self.hasher.algorithm() == algorithm {
            return Ok(self.hasher.clone().finish());
        }
        let path = self.folder.join("data");
        let mut hasher = Hasher::new(algorithm);
        let file = File::open(&path).map_err(at("open", &path))?;
        hash_all(&mut hasher, file).map_err(at("read", &path))?;
        Ok(hasher.finish())
    }

    fn publish(self, digest: Digest, lease: &Lease) -> Result<Blob, StoreError> {
        let from = self.folder.join("data");
        self.data.sync_all().map_err(at("sync", &from))?;
        let path = self.store.blob_path(&digest);
        let parent = path.parent().unwrap_or(self.store.folder());
        make_parents(&self.store, parent)?;
        let operation = "add a blob";
        // The rename is inside the transaction, so that the collector, which removes inside one, sees row and file
        // together. An old file of the same name is replaced: it has the same bytes, or was damaged. The sync is inside
        // too: who sees the row may refer to it for good at once.
        self.store.index().transact(operation, |transaction| {
            fs::rename(&from, &path).map_err(at("move into the store", &from))?;
            sync_directory(parent)?;
            index::insert(transaction, Table::Blobs, &digest, self.written)
                .and_then(|()| lease.hold_within(transaction, &digest))
                .map_err(self.store.index().failed(operation))
        })?;
        lease.remember(&digest);
        remove(&self.folder)?;
        Ok(Blob { digest, size: self.written, path })
    }
}

impl Write for Ingest {
    /// An error of the store, such as [`StoreError::Full`], is inside the one returned.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written >= self.ask_at && !bytes.is_empty() {
            self.store.check_room().map_err(|error| match error {
                StoreError::Full { .. } => io::Error::new(io::ErrorKind::StorageFull, error),
                other => io::Error::other(other),
            })?;
            self.ask_at = self.written + ASK_EACH;
        }
        let at_most = usize::try_from(ASK_EACH).unwrap_or(usize::MAX);
        let taken = self.data.write(&bytes[..bytes.len().min(at_most)])?;
        self.hasher.update(&bytes[..taken]);
        self.written += taken as u64;
        if self.written - self.begun >= WRITE_EARLY {
            write_early(&self.data, self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest").field("id", &self.id).field("written", &self.written).finish_non_exhaustive()
    }
}

impl fmt::Debug for Resting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resting").field("id", &self.id).field("written", &self.written).finish_non_exhaustive()
    }
}

/// Removes the folder of an ingest whose lock is held, data first: without data it is nothing to resume.
pub(crate) fn remove(folder: &Path) -> Result<(), StoreError> {
    for name in ["data", "lock"] {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", &path)(error)),
            _ => {}
        }
    }
    match fs::remove_dir(folder) {
        Err(error) => match error.kind() {
            // A collection that spares nothing made a lock of its own meanwhile, and removes the folder.
            io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty => Ok(()),
            _ => Err(at("remove", folder)(error)),
        },
        Ok(()) => Ok(()),
    }
}

/// Makes the folder of a blob, lasting.
fn make_parents(store: &Store, parent: &Path) -> Result<(), StoreError> {
    match fs::create_dir(parent) {
        Ok(()) => store.forget_lasting(parent),
        // It may be another process's that has not synced it yet, or was killed before.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(parent).map_err(at("make folder", parent))?;
            parent.ancestors().take_while(|above| *above != store.folder()).for_each(|new| store.forget_lasting(new));
        }
        Err(error) => return Err(at("make folder", parent)(error)),
    }
    store.make_lasting(parent)
}
