//! The files of networks: descriptions, leases, the unique local prefix, and the lock that guards them.
//!
//! A description is written once, durably, when its network is made. Leases are another file, because they change with
//! every start of a container, which must not wait for the disk: replaced as a whole by a rename, they survive the death of
//! every process. On a file system that may empty such a file in a power cut, a copy is there that is at most
//! [`COPY_EVERY`] older.

use super::{
    error::NetworkError,
    subnet::{Subnet4, Subnet6},
};
use crate::layout::Layout;
use jiff::Timestamp;
use model::NetworkName;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::Ipv4Addr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How far the durable copy of the leases may lag behind.
const COPY_EVERY: Duration = Duration::from_secs(60);

/// What a network is: chosen when it is first used, the same ever after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    pub name: NetworkName,
    /// Number among this data folder's networks: of its bridge, and of its IPv6 subnet.
    pub index: u16,
    pub bridge: String,
    pub ipv4: Subnet4,
    pub ipv6: Subnet6,
    pub created_at: Timestamp,
}

/// One address of a network and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Name or id of the container.
    pub identity: String,
    pub ipv4: Ipv4Addr,
    /// When the container last asked for it.
    pub last_used: Timestamp,
}

/// The leases of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leases {
    /// Where the search for a free address goes on, so that one just given back is not given out at once.
    pub next: u32,
    pub entries: Vec<Entry>,
}

/// The 40 random bits of this data folder's unique local prefix.
#[derive(Debug, Serialize, Deserialize)]
struct Prefix {
    random: [u8; 5],
}

/// An exclusive lock, held until it is dropped or its process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock on this file.
    pub fn acquire(path: &Path) -> Result<Self, NetworkError> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
        let file = file.map_err(NetworkError::file("open", path))?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(NetworkError::file("lock", path)(errno.into())),
            }
        }
    }
}

/// How sure a write must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Survives the death of every process.
    Process,
    /// Survives a power cut.
    Power,
}

/// The files of this data folder's networks.
#[derive(Debug, Clone)]
pub(super) struct Store {
    layout: Layout,
}

impl Store {
    pub fn new(layout: &Layout) -> Self {
        Self { layout: layout.clone() }
    }
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    /// The lock under which descriptions and leases change and bridges are made and removed.
    pub fn lock(&self) -> Result<Lock, NetworkError> {
        Lock::acquire(&self.layout.run().join("network.lock"))
    }

    /// The description of a network, if it exists.
    pub fn description(&self, name: &NetworkName) -> Result<Option<Description>, NetworkError> {
        read(&self.layout.network(name))
    }
    /// All descriptions, in the order of their numbers.
    pub fn descriptions(&self) -> Result<Vec<Description>, NetworkError> {
        let mut all = Vec::new();
        for file in names(&self.folder())? {
            // Leases have a dot in their stem, which no network's name can have.
            let Some(name) = file.strip_suffix(".json").and_then(|stem| stem.parse().ok()) else { continue };
            all.extend(self.description(&name)?);
        }
        all.sort_by_key(|description| description.index);
        Ok(all)
    }
    /// Stores a new network.
    pub fn put_description(&self, description: &Description) -> Result<(), NetworkError> {
        write(&self.layout.network(&description.name), description, Durability::Power)
    }
    /// Forgets a network and its leases: leases first, so that no crash leaves leases without a network.
    pub fn remove(&self, name: &NetworkName) -> Result<(), NetworkError> {
        remove(&self.leases_path(name))?;
        remove(&self.copy_path(name))?;
        remove(&self.layout.network(name))?;
        Ok(())
    }

    /// The leases of a network; a damaged file is an error.
    pub fn leases(&self, name: &NetworkName) -> Result<Leases, NetworkError> {
        Ok(read(&self.leases_path(name))?.unwrap_or_default())
    }
    /// The leases from the copy, for when the file itself is damaged.
    pub fn old_leases(&self, name: &NetworkName) -> Result<Leases, NetworkError> {
        Ok(read(&self.copy_path(name))?.unwrap_or_default())
    }
    /// Replaces the leases of a network. Needs the lock.
    pub fn put_leases(&self, name: &NetworkName, leases: &Leases) -> Result<(), NetworkError> {
        write(&self.leases_path(name), leases, Durability::Process)?;
        let copy = self.copy_path(name);
        let age = fs::metadata(&copy).and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
        match age {
            // A clock that was set back makes the age an error; then the copy is as good as old.
            Ok(Ok(age)) if age < COPY_EVERY => Ok(()),
            _ => write(&copy, leases, Durability::Power),
        }
    }

    /// The random part of the prefix, made on first use. Needs the lock.
    pub fn prefix(&self) -> Result<[u8; 5], NetworkError> {
        // Without `.json`: that would be a network's name.
        let path = self.folder().join("prefix");
        if let Some(Prefix { random }) = read(&path)? {
            return Ok(random);
        }
        let mut random = [0; 5];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| NetworkError::file("make up", &path)(errno.into()))?;
        write(&path, &Prefix { random }, Durability::Power)?;
        Ok(random)
    }

    fn folder(&self) -> PathBuf {
        self.layout.data().join("networks")
    }
    fn leases_path(&self, name: &NetworkName) -> PathBuf {
        self.folder().join(format!("{name}.leases.json"))
    }
    fn copy_path(&self, name: &NetworkName) -> PathBuf {
        self.folder().join(format!("{name}.leases.old.json"))
    }
}

/// The names of the files in a folder; none when there is no such folder.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, NetworkError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(NetworkError::file("list", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(NetworkError::file("list", folder))?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Reads a JSON file; `None` when there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, NetworkError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(NetworkError::file("read", path)(error)),
    };
    let damaged = |source| NetworkError::Damaged { path: path.to_owned(), source };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Replaces a file by a rename. The temporary name is fixed, so a crash leaves at most one, which the next write reuses;
/// writers of one file are kept apart by a lock.
pub(super) fn write<T: Serialize>(path: &Path, value: &T, durability: Durability) -> Result<(), NetworkError> {
    let mut bytes =
        serde_json::to_vec(value).map_err(|source| NetworkError::Damaged { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    replace(path, &bytes, durability).map_err(NetworkError::file("write", path))
}
pub(super) fn replace(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = folder.join(format!(".{}.new", name.to_string_lossy()));
    let written = (|| {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        if durability == Durability::Power {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durability == Durability::Power {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        // A full disk: the half-written file would keep it full. The error that counts is the first one.
        fs::remove_file(&temporary).ok();
    }
    written
}

/// Removes a file; whether there was one.
pub(super) fn remove(path: &Path) -> Result<bool, NetworkError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(NetworkError::file("remove", path)(error)),
    }
}
