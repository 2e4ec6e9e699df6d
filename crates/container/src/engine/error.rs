//! What can go wrong with a container, by what the caller can do about it.

use crate::{
    cgroup::CgroupError,
    engine::Status,
    network::NetworkError,
    runtime::{Failure, FailureKind},
    seccomp::SeccompError,
    spec::SpecErrors,
    volume::VolumeError,
};
use model::ContainerId;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Sorts of errors, for exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong.
    Invalid,
    /// There is no such container.
    NotFound,
    /// A name, a port or a state is in the way.
    Conflict,
    /// A privilege is missing.
    Denied,
    /// The program can not be run: 126 when it can not be executed, 127 when it is not there.
    CannotStart(i32),
    /// Anything else.
    Failed,
}

/// Why the engine did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing by that name.
    #[error("there is no container `{reference}`")]
    NotFound {
        /// As given.
        reference: String,
    },
    /// The beginning of several ids.
    #[error("`{reference}` is the beginning of {count} container ids; give more of it")]
    Ambiguous {
        /// As given.
        reference: String,
        /// How many.
        count: usize,
    },
    /// The name belongs to another one.
    #[error("the name `{name}` is taken by container {id}; choose another, or remove that one first")]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        id: String,
    },
    /// Not possible in its state.
    #[error("can not {doing} container {id}: it is {status}")]
    WrongState {
        /// What was to be done.
        doing: &'static str,
        /// To whom.
        id: String,
        /// How it is.
        status: Status,
    },
    /// Another process is changing it at this moment.
    #[error("can not {doing} container {id}: another process is changing it now; try again")]
    Busy {
        /// What was to be done.
        doing: &'static str,
        /// To whom.
        id: String,
    },
    /// The request or the bundle can not be honoured.
    #[error(transparent)]
    Spec(SpecErrors),
    /// The filter profile is wrong.
    #[error("the system call filter {} can not be used", .path.display())]
    Seccomp {
        /// The profile.
        path: PathBuf,
        /// Why.
        source: SeccompError,
    },
    /// It did not start; nothing of it is left running.
    #[error("container {id} did not start")]
    Start {
        /// Which.
        id: String,
        /// Why.
        source: Failure,
    },
    /// A process in a container that runs was not started, or not waited for; the container is as it was.
    #[error("can not {doing} container {id}")]
    Process {
        /// What was to be done.
        doing: &'static str,
        /// In which.
        id: String,
        /// Why.
        source: Failure,
    },
    /// Control groups.
    #[error("can not {doing} container {id}")]
    Cgroup {
        /// What was to be done.
        doing: &'static str,
        /// To whom.
        id: String,
        /// Why.
        source: Box<CgroupError>,
    },
    /// Network.
    #[error("the network could not be set up as asked")]
    Network {
        /// Why.
        source: Box<NetworkError>,
    },
    /// Its volumes.
    #[error("the volumes of container {id} could not be made ready")]
    Volume {
        /// Whose.
        id: String,
        /// Why.
        source: Box<VolumeError>,
    },
    /// Volumes that are nobody's.
    #[error("volumes could not be cleared away")]
    Volumes {
        /// Why.
        source: VolumeError,
    },
    /// A file or a system call.
    #[error("can not {operation} {}", .path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl EngineError {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NameTaken { .. } | Self::WrongState { .. } | Self::Busy { .. } => ErrorKind::Conflict,
            Self::Ambiguous { .. } | Self::Spec(_) | Self::Seccomp { .. } => ErrorKind::Invalid,
            Self::Start { source, .. } | Self::Process { source, .. } => match source.kind {
                FailureKind::Invalid => ErrorKind::Invalid,
                FailureKind::NotFound => ErrorKind::CannotStart(127),
                FailureKind::NotExecutable => ErrorKind::CannotStart(126),
                FailureKind::Denied => ErrorKind::Denied,
                FailureKind::NoIdmap | FailureKind::Failed => ErrorKind::Failed,
            },
            Self::Cgroup { .. } | Self::Volumes { .. } => ErrorKind::Failed,
            Self::Network { source } => match **source {
                NetworkError::InUse { .. } | NetworkError::Port { .. } => ErrorKind::Conflict,
                NetworkError::Unknown { .. } => ErrorKind::NotFound,
                _ => ErrorKind::Failed,
            },
            Self::Volume { source, .. } => match **source {
                VolumeError::Hosts { .. } | VolumeError::User { .. } => ErrorKind::Invalid,
                VolumeError::TooDeep { .. } | VolumeError::File { .. } => ErrorKind::Failed,
            },
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Failed,
            },
        }
    }

    pub(super) fn cgroup(doing: &'static str, id: &ContainerId, source: CgroupError) -> Self {
        Self::Cgroup { doing, id: id.short().to_owned(), source: Box::new(source) }
    }
    pub(super) fn network(source: NetworkError) -> Self {
        Self::Network { source: Box::new(source) }
    }
    pub(super) fn volume(id: &ContainerId, source: VolumeError) -> Self {
        Self::Volume { id: id.short().to_owned(), source: Box::new(source) }
    }
    pub(super) fn start(id: &ContainerId, source: Failure) -> Self {
        Self::Start { id: id.short().to_owned(), source }
    }
    pub(super) fn process(doing: &'static str, id: &ContainerId, source: Failure) -> Self {
        Self::Process { doing, id: id.short().to_owned(), source }
    }
    pub(super) fn busy(doing: &'static str, id: &ContainerId) -> Self {
        Self::Busy { doing, id: id.short().to_owned() }
    }
}

/// Says what was done to which file.
pub(super) trait At<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, EngineError>;
}
impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, EngineError> {
        self.map_err(|source| EngineError::File { operation, path: path.to_owned(), source })
    }
}
impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, EngineError> {
        self.map_err(io::Error::from).at(operation, path)
    }
}
