//! How a container is now: what its folders say, held against the kernel.

use super::{
    Engine,
    error::{At, EngineError},
};
use crate::{
    cgroup::{self, CgroupError},
    record::Record,
    runtime::identity,
    state::{Addresses, Exit, State, Users},
};
use jiff::Timestamp;
use model::{ContainerId, ContainerName};
use serde::Serialize;
use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

/// Where in its life a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never started.
    Created,
    /// Being started.
    Starting,
    /// Its program runs.
    Running,
    /// Frozen.
    Paused,
    /// Ended.
    Exited,
}
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
        })
    }
}

/// All that is known of one container.
#[derive(Debug, Clone, Serialize)]
pub struct Inspect {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: ContainerName,
    /// When it was created.
    pub created_at: Timestamp,
    /// Where in its life it is.
    pub status: Status,
    /// Its init on the host, while it runs.
    pub pid: Option<i32>,
    /// When it was started, while it runs.
    pub started_at: Option<Timestamp>,
    /// How its last run ended.
    pub exit: Option<Exit>,
    /// Whose users it has, while it runs.
    pub users: Option<Users>,
    /// Its addresses, while it runs.
    pub addresses: Option<Addresses>,
    /// What was asked for and could not be had.
    pub warnings: Vec<String>,
    /// Its control group below the root of each hierarchy, while it runs.
    pub cgroup: Option<String>,
    /// What was asked for.
    #[serde(rename = "config")]
    pub record: Record,
}

/// What the run folder and the kernel say.
pub(super) struct Observed {
    /// Its lock is held: by its monitor, or by a process that changes it.
    pub supervised: bool,
    /// As recorded by its shim, when its init is alive.
    pub state: Option<State>,
}

/// All containers.
#[derive(Debug)]
pub struct Survey {
    /// Newest first.
    pub containers: Vec<Inspect>,
    /// Those that can not be looked at, and why: their record is damaged, or of another version.
    pub unreadable: Vec<(ContainerId, EngineError)>,
}

impl Engine {
    /// The recorded state, whether or not it still holds.
    pub(super) fn state(&self, id: &ContainerId) -> Result<Option<State>, EngineError> {
        let path = self.layout.running(id).join("state.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from).at("read", &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("read", &path),
        }
    }

    /// Replaces the recorded state. The holder of the lock may; it stays root's alone to write.
    pub(super) fn store_state(&self, id: &ContainerId, state: &State) -> Result<(), EngineError> {
        let path = self.layout.running(id).join("state.json");
        let temporary = path.with_extension("json.tmp");
        let write = || -> io::Result<()> {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(state)?)?;
            fs::rename(&temporary, &path)
        };
        write().at("write", &path)
    }

    pub(super) fn observe(&self, id: &ContainerId) -> Result<Observed, EngineError> {
        let supervised = self.is_locked(id)?;
        let lives = |state: &State| identity::is(state.pid, state.start_time, &state.cgroup) && state.was_let_go();
        let state = self.state(id)?.filter(lives);
        Ok(Observed { supervised, state })
    }

    /// The state of a container that runs.
    pub(super) fn running(&self, id: &ContainerId, doing: &'static str) -> Result<State, EngineError> {
        match self.observe(id)? {
            Observed { state: Some(state), .. } => Ok(state),
            Observed { supervised, .. } => {
                self.record(id)?;
                let status = self.at_rest(id, supervised)?;
                Err(EngineError::WrongState { doing, id: id.short().to_owned(), status })
            }
        }
    }

    /// Whether what runs stands still; what has ended meanwhile does not.
    pub(super) fn frozen(&self, state: &State) -> Result<bool, CgroupError> {
        match cgroup::Host::detect()?.open(&state.cgroup).and_then(|group| group.frozen()) {
            // Its groups go once its init is gone, maybe between two looks at them.
            Err(_) if identity::start_time(state.pid) != Some(state.start_time) => Ok(false),
            other => other,
        }
    }

    /// What a monitor makes when it begins, and renames to the exit file when the container ends.
    pub(super) fn begun(&self, id: &ContainerId) -> PathBuf {
        self.layout.container(id).join("exit.tmp")
    }

    fn at_rest(&self, id: &ContainerId, supervised: bool) -> Result<Status, EngineError> {
        let path = self.layout.container(id).join("exit");
        Ok(match (supervised, path.exists()) {
            (_, true) => Status::Exited,
            (true, false) if self.state(id)?.is_some_and(|state| state.was_let_go()) => Status::Exited, // and its monitor is about to say how
            (true, false) => Status::Starting,
            (false, false) if self.begun(id).exists() => Status::Exited, // in a power cut
            (false, false) => Status::Created,
        })
    }

    /// Everything about one container.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::File`].
    pub fn inspect(&self, id: &ContainerId) -> Result<Inspect, EngineError> {
        let record = self.record(id)?;
        let Observed { supervised, state } = self.observe(id)?;
        let path = self.layout.container(id).join("exit");
        let status = match &state {
            None => self.at_rest(id, supervised)?,
            Some(state) => {
                if self.frozen(state).unwrap_or(false) {
                    Status::Paused
                } else {
                    Status::Running
                }
            }
        };
        Ok(Inspect {
            id: id.clone(),
            name: record.name.clone(),
            created_at: record.created_at,
            status,
            pid: state.as_ref().map(|state| state.pid),
            started_at: state.as_ref().map(|state| state.started_at),
            exit: if state.is_none() { Exit::read(&path).at("read", &path)? } else { None },
            users: state.as_ref().map(|state| state.users.clone()),
            addresses: state.as_ref().and_then(|state| state.address.clone()),
            warnings: state.as_ref().map(|state| state.warnings.clone()).unwrap_or_default(),
            cgroup: state.map(|state| state.cgroup),
            record,
        })
    }

    /// All containers, newest first, and why others could not be looked at. One that is removed meanwhile is left out.
    ///
    /// # Errors
    /// [`EngineError::File`].
    pub fn survey(&self) -> Result<Survey, EngineError> {
        let (mut all, mut unreadable) = (Vec::new(), Vec::new());
        for id in self.ids()? {
            match self.inspect(&id) {
                Ok(one) => all.push(one),
                Err(EngineError::NotFound { .. }) => {}
                Err(error) => unreadable.push((id, error)),
            }
        }
        all.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(Survey { containers: all, unreadable })
    }

    /// All containers that can be looked at, newest first.
    ///
    /// # Errors
    /// [`EngineError::File`].
    pub fn list(&self) -> Result<Vec<Inspect>, EngineError> {
        self.survey().map(|survey| survey.containers)
    }
}
