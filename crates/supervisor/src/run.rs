//! Starts a supervisor, and ends the process in order.

use crate::{
    Cause, Exit, Interruption, Metrics, Shutdown, Signal, Spawner, Stage, TaskSpec, guarded::guard, signals::Signals,
    table::Shared,
};
use std::{
    collections::hash_map::RandomState,
    error::Error,
    hash::{BuildHasher, Hasher},
    io,
    time::Duration,
};
use tokio::{
    runtime,
    time::{Instant, interval_at, sleep_until, timeout},
};
use tracing::Span;

/// How long the tasks that were cancelled at the end may take to drop what they have.
const CANCEL_WITHIN: Duration = Duration::from_millis(250);
/// How often a drain says what it waits for.
const SAY_EVERY: Duration = Duration::from_secs(3);

type Reload = Box<dyn FnMut() + Send>;

/// How a supervisor is to be.
pub struct Builder {
    metrics: Option<Metrics>,
    drain: Duration,
    seed: Option<u64>,
    signals: bool,
    reload: Option<Reload>,
}

impl Builder {
    /// Where tasks are counted; a registry of its own when not given.
    #[must_use]
    pub fn metrics(mut self, metrics: &Metrics) -> Self {
        self.metrics = Some(metrics.clone());
        self
    }
    /// How long tasks may take to end, all stages together. Ten seconds when not given.
    #[must_use]
    pub fn drain_within(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }
    /// Of the jitter of restarts. A random one when not given.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
    /// What SIGHUP does, instead of what SIGTERM does. It must not block: it tells a task.
    #[must_use]
    pub fn on_reload(mut self, reload: impl FnMut() + Send + 'static) -> Self {
        self.reload = Some(Box::new(reload));
        self
    }
    /// Leaves signals to somebody else.
    #[must_use]
    pub fn without_signals(mut self) -> Self {
        self.signals = false;
        self
    }

    /// From here on signals wait for [`Supervisor::run`].
    ///
    /// # Errors
    /// When there is no tokio runtime around the call, or it cannot take signals.
    pub fn start(self) -> io::Result<Supervisor> {
        let runtime = runtime::Handle::try_current().map_err(io::Error::other)?;
        let signals = if self.signals { Signals::take()? } else { Signals::none() };
        let metrics = self.metrics.unwrap_or_default();
        // The standard library seeds each of these at random.
        let seed = self.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let spawner = Spawner { shared: Shared::new(runtime, metrics.tasks().clone(), seed) };
        Ok(Supervisor { spawner, drain: self.drain, signals, reload: self.reload })
    }
}

/// Owns the tasks of a process. Dropped without [`Supervisor::run`], it cancels them.
pub struct Supervisor {
    spawner: Spawner,
    drain: Duration,
    signals: Signals,
    reload: Option<Reload>,
}

impl Supervisor {
    /// To be made.
    pub fn builder() -> Builder {
        Builder { metrics: None, drain: Duration::from_secs(10), seed: None, signals: true, reload: None }
    }

    /// What starts tasks, to be cloned to where it is needed.
    pub fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// See [`Spawner::spawn`].
    pub fn spawn<M, W, E>(&self, spec: TaskSpec, make: M)
    where
        M: FnMut(Shutdown) -> W + Send + 'static,
        W: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        self.spawner.spawn(spec, make);
    }

    /// Waits for a cause to end (a signal, a task's fate, [`Spawner::stop`], no task left), tells the tasks to end, stage
    /// by stage, and gives what happened.
    ///
    /// A second signal, or the deadline, cancels what is left. What cannot be cancelled, because it does not yield or
    /// blocks, is left running: end the process, as [`block_on`] and a return from `main` do.
    pub async fn run(mut self) -> Exit {
        let cause = self.cause().await;
        let tasks = self.spawner.tasks().len();
        tracing::info!(%cause, tasks, within = ?self.drain, "shutting down");
        let deadline = Instant::now() + self.drain;
        let mut interruption = None;
        for stage in Stage::ALL {
            self.spawner.shared.tell(stage);
            interruption = self.drain(stage, deadline).await;
            if interruption.is_some() {
                break;
            }
        }
        let left = if interruption.is_some() { self.spawner.tasks() } else { Vec::new() };
        for report in &left {
            tracing::warn!(task = report.name, "cancelled before it ended: {report}");
        }
        let later = self.spawner.shared.close();
        if interruption.is_some() && timeout(CANCEL_WITHIN, self.spawner.shared.ended(Stage::Base)).await.is_err() {
            for report in self.spawner.tasks() {
                tracing::error!(task = report.name, "cannot be cancelled: {report}");
            }
        }
        let exit = Exit { cause, later, interruption, left };
        tracing::info!(code = exit.code(), "shut down");
        exit
    }

    async fn cause(&mut self) -> Cause {
        loop {
            let signal = tokio::select! {
                biased;
                cause = self.spawner.shared.stopped() => return cause,
                signal = self.signals.next() => signal,
            };
            if !self.reloads(signal) {
                self.spawner.shared.stop(Cause::Signal(signal));
            }
        }
    }

    /// Whether the signal was taken for an order to read the configuration again.
    fn reloads(&mut self, signal: Signal) -> bool {
        let (Signal::HangUp, Some(reload)) = (signal, &mut self.reload) else { return false };
        tracing::info!(%signal, "reload");
        const NAME: &str = "reload";
        if let Err(message) = guard(NAME, &Span::none(), reload) {
            self.spawner.shared.metrics.panicked(NAME);
            tracing::error!(task = NAME, panic = message, "the reload panicked; what it changed until then stands");
        }
        true
    }

    /// Waits until a stage has ended; gives what cut that short.
    async fn drain(&mut self, stage: Stage, deadline: Instant) -> Option<Interruption> {
        let mut say = interval_at(Instant::now() + SAY_EVERY, SAY_EVERY);
        loop {
            tokio::select! {
                biased;
                () = self.spawner.shared.ended(stage) => return None,
                signal = self.signals.next() => {
                    // The configuration of what ends is of no interest.
                    if signal != Signal::HangUp || self.reload.is_none() {
                        tracing::warn!(%signal, "second signal: not waiting any longer");
                        return Some(Interruption::Signal(signal));
                    }
                }
                () = sleep_until(deadline) => {
                    tracing::warn!(within = ?self.drain, "not all tasks ended in time");
                    return Some(Interruption::Deadline);
                }
                _ = say.tick() => {
                    for report in self.spawner.shared.reports(stage) {
                        tracing::info!(task = report.name, "waiting for {report}");
                    }
                }
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.spawner.shared.close();
    }
}

/// Runs `future` on a runtime with as many threads as there are processors, and does not wait for threads that are stuck
/// afterwards.
///
/// # Errors
/// When the kernel refuses what a runtime needs.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let output = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(output)
}

#[cfg(test)]
mod tests;
