//! The folder-backed set of containers of this machine.
//!
//! Needs no daemon: every call looks at the folders and the kernel, does its work and returns. One container is changed
//! by one process at a time, the one that holds its lock; a running container's lock is held by its monitor. What was
//! cut off in the middle is mended by [`Engine::reconcile`].

mod create;
mod error;
mod exec;
mod hearing;
mod lifecycle;
mod lock;
mod observe;
mod reconcile;
mod remove;
mod reset;
mod start;
mod users;
mod volumes;

pub use create::{Claim, Created};
pub use error::{EngineError, ErrorKind};
pub use exec::{Exec, ExecIo, ExecOptions};
pub use observe::{Inspect, Status, Survey};
pub use reconcile::{Reconciled, Trouble};
pub use reset::{RemovedContainer, Reset};
pub use start::{Started, Viewer};

pub(crate) use lifecycle::finish_role;

use crate::{
    attach, cgroup,
    layout::Layout,
    logs,
    network::{Network, Networks},
    record::Record,
};
use error::At;
use model::{ContainerId, ContainerName, NetworkName};
use remove::AGAIN;
use std::{
    fs,
    io::{self, Read, Write},
    ops::ControlFlow,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

/// The longest that a monitor which ends, or is killed, is waited for by who wants to be connected, or to start again.
const HANDOVER: Duration = Duration::from_secs(5);

/// Whether there is a file that begins with anything but what a power cut leaves: nothing, or zeros.
fn is_written(path: &Path) -> bool {
    let mut first = [0];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first != [0]
}

/// The engine on one data folder. Cheap to open; holds no lock between calls.
#[derive(Debug, Clone)]
pub struct Engine {
    layout: Layout,
}

impl Engine {
    /// Opens (and makes, where missing) the data folder, and the run folder that goes with it unless one is given.
    ///
    /// # Errors
    /// [`EngineError::File`] when a folder can not be made.
    pub fn open(data: &Path, run: Option<&Path>) -> Result<Self, EngineError> {
        Ok(Self { layout: Layout::open(data, run).at("open", data)? })
    }

    /// The folders.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The container that a person means: by name, id, or the beginning of one id.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::Ambiguous`].
    pub fn find(&self, reference: &str) -> Result<ContainerId, EngineError> {
        if let Ok(name) = reference.parse::<ContainerName>()
            && let Ok(target) = fs::read_link(self.layout.name(&name))
            && let Some(id) = target.to_str().and_then(|text| text.parse::<ContainerId>().ok())
            && self.layout.container(&id).join("record.json").exists()
        {
            return Ok(id);
        }
        let hex = !reference.is_empty() && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut found = match hex {
            true => self.ids()?.into_iter().filter(|id| id.as_str().starts_with(reference)).collect(),
            false => Vec::new(),
        };
        match (found.pop(), found.len()) {
            (Some(id), 0) => Ok(id),
            (Some(_), others) => Err(EngineError::Ambiguous { reference: reference.to_owned(), count: others + 1 }),
            (None, _) => Err(EngineError::NotFound { reference: reference.to_owned() }),
        }
    }

    /// Ids of all recorded containers. A record that a power cut emptied is none: it is swept.
    fn ids(&self) -> Result<Vec<ContainerId>, EngineError> {
        let folder = self.layout.data().join("containers");
        let mut ids = Vec::new();
        for entry in fs::read_dir(&folder).at("list", &folder)? {
            let entry = entry.at("list", &folder)?;
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<ContainerId>().ok())
                && is_written(&entry.path().join("record.json"))
            {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// The stored intent of a container.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] when there is none, [`EngineError::File`] when it can not be read.
    pub fn record(&self, id: &ContainerId) -> Result<Record, EngineError> {
        let path = self.layout.container(id).join("record.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(EngineError::NotFound { reference: id.to_string() });
            }
            Err(error) => return Err(error).at("read", &path),
        };
        // All that a power cut leaves of what was never forced to disk.
        if text.iter().all(|byte| *byte == 0) {
            return Err(EngineError::NotFound { reference: id.to_string() });
        }
        serde_json::from_slice(&text).map_err(io::Error::from).at("read", &path)
    }

    /// Stores a record: after this returns it survives `kill -9`, and a power cut as well, unless the container is one
    /// to be removed at its end, which a power cut is.
    fn store(&self, record: &Record) -> Result<(), EngineError> {
        let path = self.layout.container(&record.id).join("record.json");
        let temporary = path.with_extension("json.tmp");
        let write = || -> io::Result<()> {
            // Variables may be secrets.
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            if record.remove {
                return fs::rename(&temporary, &path);
            }
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            sync_folder(&self.layout.container(&record.id))
        };
        write().at("write", &path)
    }

    /// A connection to what runs: output from now on, and its standard input. A monitor that was killed is replaced, and
    /// what it had not passed on yet comes first.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] when it does not run.
    pub fn attach(&self, id: &ContainerId) -> Result<attach::Client, EngineError> {
        let path = self.layout.running(id).join("attach");
        let deadline = Instant::now() + HANDOVER;
        loop {
            self.running(id, "attach to")?;
            if let Some(lock) = self.try_lock(id)? {
                match self.observe(id)?.state {
                    Some(state) => drop(self.replace_monitor(id, &state, &lock)?), // what it lost is in its state
                    None => self.finish(id, &lock)?,
                }
            }
            match attach::Client::connect(&path) {
                // A process that is killed closes its files one by one: its socket may be closed, and its lock still held.
                // Or it is the end of the container that is told at this moment.
                Err(error) if is_nobody(&error) && Instant::now() < deadline => std::thread::sleep(AGAIN),
                connected => return connected.at("attach at", &path),
            }
        }
    }

    /// The kept output, oldest first.
    ///
    /// # Errors
    /// [`EngineError::File`] when the log can not be read.
    pub fn logs(
        &self,
        id: &ContainerId,
        query: &logs::Query,
        sink: &mut dyn FnMut(logs::Line) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        self.record(id)?;
        let folder = self.layout.container(id).join("log");
        let running = || matches!(self.observe(id), Ok(seen) if seen.supervised);
        logs::read(&folder, query, running, sink).at("read", &folder)
    }

    /// What it uses now.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] when it does not run, [`EngineError::Cgroup`] when its groups can not be read.
    pub fn stats(&self, id: &ContainerId) -> Result<cgroup::Stats, EngineError> {
        self.cgroup_of(id, "measure")?.stats().map_err(|source| EngineError::cgroup("measure", id, source))
    }

    fn cgroup_of(&self, id: &ContainerId, doing: &'static str) -> Result<cgroup::Cgroup, EngineError> {
        let state = self.running(id, doing)?;
        cgroup::Host::detect()
            .and_then(|host| host.open(&state.cgroup))
            .map_err(|source| EngineError::cgroup(doing, id, source))
    }

    fn networks_of(&self) -> Networks {
        Networks::new(&self.layout)
    }

    /// The networks and who is on them.
    ///
    /// # Errors
    /// [`EngineError::Network`].
    pub fn networks(&self) -> Result<Vec<Network>, EngineError> {
        self.networks_of().list().map_err(EngineError::network)
    }

    /// Removes a network that no container uses.
    ///
    /// # Errors
    /// [`EngineError::Network`], naming the users.
    pub fn remove_network(&self, name: &NetworkName) -> Result<(), EngineError> {
        self.networks_of().remove(name).map_err(EngineError::network)
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// A folder's entries reach the disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    rustix::fs::fsync(fs::File::open(path)?.as_fd()).map_err(io::Error::from)
}
