//! What is declared of a task before it is started.

use crate::Backoff;

/// What happens when a task ends with an error or a panic. Either is logged and counted whatever the fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is begun again, after a delay that grows with each failure in a row. Not while the process shuts down.
    Restart(Backoff),
    /// The process shuts down, with this as the cause.
    Shutdown,
    /// The others go on without it.
    Ignore,
}

/// [`Fate`] of work that cannot be begun again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobFate {
    /// The process shuts down, with this as the cause.
    Shutdown,
    /// The others go on without it.
    Ignore,
}

/// What happens to a task when its turn to end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnShutdown {
    /// It is dropped where it waits.
    #[default]
    Cancel,
    /// It learns it from its [`Shutdown`](crate::Shutdown) and ends by itself, before the deadline.
    Drain,
}

/// The order of a shutdown: a stage is told to end when all tasks of the stages before have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stage {
    /// Lets new work in: listeners.
    Intake,
    /// Does the work: connections, reconcilers.
    #[default]
    Work,
    /// What the others stand on: stores, exporters.
    Base,
}

impl Stage {
    /// All, first to end first.
    pub const ALL: [Self; 3] = [Self::Intake, Self::Work, Self::Base];
}

/// A task that can be begun again: its name and its declared fate.
///
/// Where nothing is declared, the strictest holds: the process shuts down on error and on panic, and the task is dropped
/// at shutdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    pub(crate) name: &'static str,
    pub(crate) detail: Option<String>,
    pub(crate) on_error: Fate,
    pub(crate) on_panic: Fate,
    pub(crate) on_shutdown: OnShutdown,
    pub(crate) stage: Stage,
}

impl TaskSpec {
    /// A task of this name. It labels metrics, so it must be one of few: what tells tasks of a kind apart is the
    /// [`detail`](Self::detail).
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            detail: None,
            on_error: Fate::Shutdown,
            on_panic: Fate::Shutdown,
            on_shutdown: OnShutdown::default(),
            stage: Stage::default(),
        }
    }
    /// What it works on, for logs and reports: an address, a zone.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
    /// When it returns an error.
    #[must_use]
    pub fn on_error(mut self, fate: Fate) -> Self {
        self.on_error = fate;
        self
    }
    /// When it panics.
    #[must_use]
    pub fn on_panic(mut self, fate: Fate) -> Self {
        self.on_panic = fate;
        self
    }
    /// When its turn to end has come.
    #[must_use]
    pub fn on_shutdown(mut self, on_shutdown: OnShutdown) -> Self {
        self.on_shutdown = on_shutdown;
        self
    }
    /// When that turn is.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }
}

/// Work that is done once, such as a connection: as [`TaskSpec`], but without a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec(pub(crate) TaskSpec);

impl JobSpec {
    /// See [`TaskSpec::new`].
    pub fn new(name: &'static str) -> Self {
        Self(TaskSpec::new(name))
    }
    /// What it works on, for logs and reports.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self(self.0.detail(detail))
    }
    /// When it returns an error.
    #[must_use]
    pub fn on_error(self, fate: JobFate) -> Self {
        Self(self.0.on_error(fate.into()))
    }
    /// When it panics.
    #[must_use]
    pub fn on_panic(self, fate: JobFate) -> Self {
        Self(self.0.on_panic(fate.into()))
    }
    /// When its turn to end has come.
    #[must_use]
    pub fn on_shutdown(self, on_shutdown: OnShutdown) -> Self {
        Self(self.0.on_shutdown(on_shutdown))
    }
    /// When that turn is.
    #[must_use]
    pub fn stage(self, stage: Stage) -> Self {
        Self(self.0.stage(stage))
    }
}

impl From<JobFate> for Fate {
    fn from(fate: JobFate) -> Self {
        match fate {
            JobFate::Shutdown => Self::Shutdown,
            JobFate::Ignore => Self::Ignore,
        }
    }
}
