//! The tasks there are, and the order to end.

use crate::{Cause, Held, OnShutdown, Phase, Stage, TaskReport, TaskSpec, metrics::TaskMetrics};
use std::{
    collections::BTreeMap,
    mem,
    panic::Location,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::AbortHandle,
    time::Instant,
};

/// Causes that are kept after the first.
const LATER: usize = 16;

/// What a supervisor, its spawners and its tasks have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) runtime: Handle,
    pub(crate) metrics: TaskMetrics,
    /// Of the jitter of restarts.
    pub(crate) seed: u64,
    /// The last stage that was told to end.
    told: watch::Sender<Option<Stage>>,
    /// A task ended, or somebody wants the process to. Only [`Supervisor::run`](crate::Supervisor::run) waits for it.
    changed: Notify,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    entries: BTreeMap<u64, Entry>,
    cause: Option<Cause>,
    later: Vec<Cause>,
    /// Nothing is started any more.
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    detail: Option<String>,
    stage: Stage,
    started: Instant,
    progress: Arc<Progress>,
    /// The task itself has ended; what is held is left.
    ended: bool,
    abort: Option<AbortHandle>,
    holds: BTreeMap<u64, (String, Instant, &'static Location<'static>)>,
}

/// What a task is doing, told by itself.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) polling: AtomicBool,
    pub(crate) backing_off: AtomicBool,
    pub(crate) blocking: bool,
}

impl Shared {
    pub(crate) fn new(runtime: Handle, metrics: TaskMetrics, seed: u64) -> Arc<Self> {
        let (told, _) = watch::channel(None);
        Arc::new(Self { runtime, metrics, seed, told, changed: Notify::new(), table: Mutex::default() })
    }

    /// Enters a task; `None` when the process has ended.
    pub(crate) fn enter(self: &Arc<Self>, spec: &TaskSpec, blocking: bool) -> Option<Registration> {
        let progress = Arc::new(Progress { blocking, ..Progress::default() });
        let mut table = self.lock();
        if table.closed {
            return None;
        }
        table.last += 1;
        let id = table.last;
        let entry = Entry {
            name: spec.name,
            detail: spec.detail.clone(),
            stage: spec.stage,
            started: Instant::now(),
            progress: progress.clone(),
            ended: false,
            abort: None,
            holds: BTreeMap::new(),
        };
        table.entries.insert(id, entry);
        drop(table);
        self.metrics.started(spec.name);
        Some(Registration { shared: self.clone(), id, name: spec.name, progress })
    }

    /// How to cancel a task that was entered.
    pub(crate) fn abort_by(&self, id: u64, abort: AbortHandle) {
        let mut table = self.lock();
        if table.closed {
            drop(table);
            return abort.abort();
        }
        if let Some(entry) = table.entries.get_mut(&id) {
            entry.abort = Some(abort);
        }
    }

    /// The process shall end. The first cause is the cause.
    pub(crate) fn stop(&self, cause: Cause) {
        let mut table = self.lock();
        if table.cause.is_none() {
            table.cause = Some(cause);
        } else if table.later.len() < LATER {
            table.later.push(cause);
        }
        drop(table);
        self.changed.notify_one();
    }

    /// Waits until the process shall end, or no task is left.
    pub(crate) async fn stopped(&self) -> Cause {
        loop {
            {
                let mut table = self.lock();
                if let Some(cause) = &table.cause {
                    return cause.clone();
                }
                if table.entries.is_empty() {
                    table.cause = Some(Cause::Finished);
                    return Cause::Finished;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Tells the tasks of this stage and those before to end.
    pub(crate) fn tell(&self, stage: Stage) {
        self.told.send_replace(Some(stage));
    }

    pub(crate) fn listen(&self) -> watch::Receiver<Option<Stage>> {
        self.told.subscribe()
    }

    /// Waits until the tasks of this stage and those before have ended.
    pub(crate) async fn ended(&self, stage: Stage) {
        while self.lock().entries.values().any(|entry| entry.stage <= stage) {
            self.changed.notified().await;
        }
    }

    /// The tasks that are told to end with `stage` or before it.
    pub(crate) fn reports(&self, stage: Stage) -> Vec<TaskReport> {
        let now = Instant::now();
        let table = self.lock();
        table.entries.values().filter(|entry| entry.stage <= stage).map(|entry| entry.report(now)).collect()
    }

    /// Cancels what is left and lets nothing more be started. Gives the causes after the first.
    pub(crate) fn close(&self) -> Vec<Cause> {
        let mut table = self.lock();
        table.closed = true;
        let aborts: Vec<_> = table.entries.values_mut().filter_map(|entry| entry.abort.take()).collect();
        let later = mem::take(&mut table.later);
        drop(table);
        // Not under the lock: what an aborted task drops may want it.
        aborts.iter().for_each(AbortHandle::abort);
        later
    }

    /// A piece of work that the task is held up by.
    pub(crate) fn hold(&self, id: u64, spec: &TaskSpec, what: String, at: &'static Location<'static>) -> u64 {
        let mut table = self.lock();
        table.last += 1;
        let hold = table.last;
        let now = Instant::now();
        // The task may have ended before what it left behind.
        let entry = table.entries.entry(id).or_insert_with(|| Entry {
            name: spec.name,
            detail: spec.detail.clone(),
            stage: spec.stage,
            started: now,
            progress: Arc::default(),
            ended: true,
            abort: None,
            holds: BTreeMap::new(),
        });
        entry.holds.insert(hold, (what, now, at));
        hold
    }

    pub(crate) fn release(&self, id: u64, hold: u64) {
        self.change(id, |entry| {
            entry.holds.remove(&hold);
        });
    }

    /// Changes an entry, and removes it when nothing of it is left.
    fn change(&self, id: u64, change: impl FnOnce(&mut Entry)) {
        let mut table = self.lock();
        let Some(entry) = table.entries.get_mut(&id) else { return };
        change(entry);
        if entry.ended && entry.holds.is_empty() {
            table.entries.remove(&id);
            drop(table);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it holds the lock but for want of memory; the table is whole between any two statements.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn report(&self, now: Instant) -> TaskReport {
        let Progress { polling, backing_off, blocking } = &*self.progress;
        let phase = match () {
            () if self.ended => Phase::Ended,
            () if *blocking => Phase::Blocking,
            () if backing_off.load(Ordering::Relaxed) => Phase::BackingOff,
            () if polling.load(Ordering::Relaxed) => Phase::Busy,
            () => Phase::Waiting,
        };
        let held = |(what, since, at): &(String, Instant, &'static Location<'static>)| Held {
            what: what.clone(),
            age: now.saturating_duration_since(*since),
            at,
        };
        TaskReport {
            name: self.name,
            detail: self.detail.clone(),
            age: now.saturating_duration_since(self.started),
            phase,
            held: self.holds.values().map(held).collect(),
        }
    }
}

/// The place of a running task in the table; dropped when it ends, however it ends.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: u64,
    pub(crate) progress: Arc<Progress>,
    name: &'static str,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.metrics.ended(self.name);
        self.shared.change(self.id, |entry| entry.ended = true);
    }
}

impl TaskSpec {
    pub(crate) fn is_cancelled_at_shutdown(&self) -> bool {
        self.on_shutdown == OnShutdown::Cancel
    }
}
