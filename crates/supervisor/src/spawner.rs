//! Starts tasks and applies their fates.

use crate::{
    Cause, Fate, JobFate, JobSpec, Shutdown, Stage, TaskReport, TaskSpec,
    guarded::{Guarded, guard},
    table::{Registration, Shared},
};
use std::{
    error::Error,
    sync::{Arc, atomic::Ordering},
};
use tokio::time::{Instant, sleep};
use tracing::Span;

/// Starts tasks; to be had from [`Supervisor::spawner`](crate::Supervisor::spawner) and cloned to where it is needed.
#[derive(Debug, Clone)]
pub struct Spawner {
    pub(crate) shared: Arc<Shared>,
}

type AnyError = Box<dyn Error + Send + Sync>;

/// Work on a thread of its own has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockingError {
    /// It panicked.
    #[error("{task} panicked: {message}")]
    Panicked {
        /// Its name.
        task: &'static str,
        /// What the panic said.
        message: String,
    },
    /// It was not begun, because the process ends.
    #[error("{task} was not begun: the process ends")]
    Ending {
        /// Its name.
        task: &'static str,
    },
}

impl Spawner {
    /// Starts a task. `make` is called for each run, the first and those after a restart, and gives the future that is
    /// run. A run that returns `Ok` ends the task.
    ///
    /// After the end of [`Supervisor::run`](crate::Supervisor::run) nothing is started; a warning is logged.
    pub fn spawn<M, W, E>(&self, spec: TaskSpec, mut make: M)
    where
        M: FnMut(Shutdown) -> W + Send + 'static,
        W: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<AnyError> + 'static,
    {
        self.start(spec, move |shutdown| Some(make(shutdown)));
    }

    /// Starts a task that runs once.
    ///
    /// After the end of [`Supervisor::run`](crate::Supervisor::run) nothing is started; a warning is logged.
    pub fn spawn_job<M, W, E>(&self, spec: JobSpec, make: M)
    where
        M: FnOnce(Shutdown) -> W + Send + 'static,
        W: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<AnyError> + 'static,
    {
        let mut make = Some(make);
        self.start(spec.0, move |shutdown| make.take().map(|make| make(shutdown)));
    }

    fn start<M, W, E>(&self, spec: TaskSpec, make: M)
    where
        M: FnMut(Shutdown) -> Option<W> + Send + 'static,
        W: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<AnyError> + 'static,
    {
        let Some(registration) = self.shared.enter(&spec, false) else {
            tracing::warn!(task = spec.name, detail = spec.detail, "not started: the process has ended");
            return;
        };
        let id = registration.id;
        let task = self.shared.runtime.spawn(keep(registration, Arc::new(spec), make));
        self.shared.abort_by(id, task.abort_handle());
    }

    /// Runs `work` on a thread where it may block, and waits for its result. It is a task of the stage
    /// [`Stage::Work`] which cannot be cancelled: the shutdown waits for it within its deadline, also when nobody waits
    /// for the result any more. `on_panic` is applied, and the panic is returned as well.
    ///
    /// # Errors
    /// When it panics, or the process ends before it begins.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        on_panic: JobFate,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        let ending = BlockingError::Ending { task: name };
        let spec = TaskSpec::new(name).on_panic(on_panic.into());
        let Some(registration) = self.shared.enter(&spec, true) else { return Err(ending) };
        let blocked = self.shared.runtime.spawn_blocking(move || {
            let registration = registration;
            let result = guard(name, &span(&spec), work);
            if let Err(message) = &result {
                Keeper { spec: &spec, shared: &registration.shared }.panicked(message, None);
            }
            result
        });
        match blocked.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(message)) => Err(BlockingError::Panicked { task: name, message }),
            // What it runs is guarded, so this is the runtime's refusal to begin it.
            Err(_) => Err(ending),
        }
    }

    /// Makes the process end, for this reason.
    pub fn stop(&self, why: impl Into<String>) {
        self.shared.stop(Cause::Asked(why.into()));
    }

    /// The tasks that have not ended, oldest first.
    pub fn tasks(&self) -> Vec<TaskReport> {
        self.shared.reports(Stage::Base)
    }
}

/// How a run of a task ended.
enum Ended {
    Done,
    Cancelled,
    Failed(String),
    Panicked(String),
}

/// Runs a task from its start to its end, through all its restarts.
async fn keep<M, W, E>(registration: Registration, spec: Arc<TaskSpec>, mut make: M)
where
    M: FnMut(Shutdown) -> Option<W> + Send + 'static,
    W: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<AnyError> + 'static,
{
    let span = span(&spec);
    let shutdown = Shutdown::new(&registration, spec.clone());
    let progress = &registration.progress;
    let keeper = Keeper { spec: &spec, shared: &registration.shared };
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let (what, backoff) = match run(&registration, &spec, &span, &shutdown, &mut make).await {
            Ended::Done => return tracing::debug!(parent: &span, "task ended"),
            Ended::Cancelled => return tracing::debug!(parent: &span, "task cancelled"),
            Ended::Failed(error) => (Fault::Error(error), spec.on_error),
            Ended::Panicked(message) => (Fault::Panic(message), spec.on_panic),
        };
        let delay = match backoff {
            Fate::Restart(backoff) if !shutdown.is_requested() => {
                if began.elapsed() >= backoff.calm() {
                    failures = 0;
                }
                // Tasks of one kind that fail together must not come back together.
                let seed = registration.shared.seed ^ registration.id.rotate_left(32);
                let delay = backoff.delay(failures, seed);
                failures = failures.saturating_add(1);
                Some(delay)
            }
            _ => None,
        };
        match what {
            Fault::Error(error) => keeper.failed(&error, delay),
            Fault::Panic(message) => keeper.panicked(&message, delay),
        }
        let Some(delay) = delay else { return };
        progress.backing_off.store(true, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            () = sleep(delay) => {}
        }
        progress.backing_off.store(false, Ordering::Relaxed);
        registration.shared.metrics.restarted(spec.name);
    }
}

/// Runs a task once.
async fn run<M, W, E>(
    registration: &Registration,
    spec: &TaskSpec,
    span: &Span,
    shutdown: &Shutdown,
    make: &mut M,
) -> Ended
where
    M: FnMut(Shutdown) -> Option<W>,
    W: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<AnyError> + 'static,
{
    let work = match guard(spec.name, span, || make(shutdown.clone())) {
        Ok(Some(work)) => Box::pin(async { work.await.map_err(|error| chain(&*error.into())) }),
        // A job has run, and no fate of it begins it again.
        Ok(None) => return Ended::Done,
        Err(message) => return Ended::Panicked(message),
    };
    let mut work = Guarded::new(work, spec.name, span.clone(), &registration.progress.polling);
    let ended = tokio::select! {
        biased;
        () = shutdown.requested(), if spec.is_cancelled_at_shutdown() => None,
        ended = &mut work => Some(ended),
    };
    match ended {
        Some(Ok(Ok(()))) => Ended::Done,
        Some(Ok(Err(error))) => Ended::Failed(error),
        Some(Err(message)) => Ended::Panicked(message),
        None => work.discard().map_or_else(Ended::Panicked, |()| Ended::Cancelled),
    }
}

enum Fault {
    Error(String),
    Panic(String),
}

/// Logs and counts what went wrong with a task, and ends the process where that is the fate.
struct Keeper<'a> {
    spec: &'a TaskSpec,
    shared: &'a Shared,
}

impl Keeper<'_> {
    fn failed(&self, error: &str, restart: Option<std::time::Duration>) {
        let TaskSpec { name, detail, on_error, .. } = self.spec;
        self.shared.metrics.failed(name);
        match (on_error, restart) {
            (Fate::Shutdown, _) => {
                tracing::error!(task = name, detail, error, "task failed; the process ends");
                self.shared.stop(Cause::Failed { task: name, error: error.to_owned() });
            }
            (_, Some(delay)) => tracing::warn!(task = name, detail, error, ?delay, "task failed; it is begun again"),
            (_, None) => tracing::warn!(task = name, detail, error, "task failed; the others go on"),
        }
    }

    fn panicked(&self, message: &str, restart: Option<std::time::Duration>) {
        let TaskSpec { name, detail, on_panic, .. } = self.spec;
        self.shared.metrics.panicked(name);
        match (on_panic, restart) {
            (Fate::Shutdown, _) => {
                tracing::error!(task = name, detail, panic = message, "task panicked; the process ends");
                self.shared.stop(Cause::Panicked { task: name, message: message.to_owned() });
            }
            (_, Some(delay)) => {
                tracing::error!(task = name, detail, panic = message, ?delay, "task panicked; it is begun again")
            }
            (_, None) => tracing::error!(task = name, detail, panic = message, "task panicked; the others go on"),
        }
    }
}

/// What the events of a task carry. At the level of errors, so that they carry it whatever the level.
pub(crate) fn span(spec: &TaskSpec) -> Span {
    tracing::error_span!(parent: None, "task", task = spec.name, detail = spec.detail)
}

/// An error and its sources, whose texts do not repeat each other.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests;
