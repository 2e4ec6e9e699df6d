//! Panics of the whole process: logged where they happen.

use crate::{Logs, Metrics, guarded};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    cell::Cell,
    panic,
    time::Duration,
};

thread_local! {
    /// The task that this thread works for at the moment.
    static CURRENT: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Marks the thread as working for a task, until dropped.
pub(crate) struct Entered(Option<&'static str>);

pub(crate) fn enter(task: &'static str) -> Entered {
    Entered(CURRENT.replace(Some(task)))
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Label of panics which no task answers for.
const OUTSIDE: &str = "(outside)";
/// How long a panic waits for its line to be written: it may be the last thing that the process does.
const WRITTEN_WITHIN: Duration = Duration::from_millis(100);

/// From now on every panic of the process is logged at ERROR under the target `panic`: message, place, thread, task, and
/// with `RUST_BACKTRACE=1` the backtrace. One outside every task, which nobody would notice otherwise, is counted here
/// under the name `(outside)`; a task's is counted when its fate is applied.
///
/// Where that target is off, the hook that was there before is called.
pub fn install_panic_hook(metrics: &Metrics, logs: &Logs) {
    let queue = logs.queue();
    let tasks = metrics.tasks().clone();
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let task = CURRENT.try_with(Cell::get).ok().flatten();
        if task.is_none() {
            tasks.panicked(OUTSIDE);
        }
        if !tracing::enabled!(target: "panic", tracing::Level::ERROR) {
            return before(info);
        }
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(
            target: "panic",
            task = task.unwrap_or(OUTSIDE),
            thread = thread.name().unwrap_or("(unnamed)"),
            place,
            backtrace,
            "panic: {}",
            guarded::message(info.payload()),
        );
        if let Some(queue) = &queue {
            queue.flush(WRITTEN_WITHIN);
        }
    }));
}
