//! Structured logs to standard error: text for people at a terminal, JSON lines for everybody else.
//!
//! By default ([`Writing::Queued`]) a line is handed to a thread of its own, through a buffer of bounded size. A reader of
//! standard error that is stuck would otherwise stop every task that logs, and with them what the process serves; so when
//! the buffer is full, lines are dropped, counted (`log_lines_dropped_total`), and the log says how many as soon as it can.
//! The price: a `kill -9` loses what the thread has not written yet, usually nothing. [`Writing::Direct`] is for short
//! single-threaded programs, which may well wait.
//!
//! What must not be seen is wrapped in [`Secret`](crate::Secret) where it enters the process.

mod filter;
mod queue;

pub(crate) use queue::Queue;

use crate::Metrics;
use std::{
    env,
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tracing::Subscriber;
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    reload,
};

/// How long the last handle waits for what is not written yet.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// How a process logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Levels by target: `info,skydns=debug` is `debug` for targets that begin with `skydns` and `info` for the rest.
    /// A level is one of `off`, `error`, `warn`, `info`, `debug`, `trace`.
    pub filter: String,
    /// What a line looks like.
    pub format: Format,
    /// Who writes it.
    pub writing: Writing,
}

impl Default for LogConfig {
    /// `info`; by what standard error is; queued.
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: Format::default(), writing: Writing::default() }
    }
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text when standard error is a terminal, JSON when not.
    #[default]
    Auto,
    /// For people; coloured on a terminal, unless `NO_COLOR` is set.
    Text,
    /// One object a line: `timestamp` (RFC 3339, UTC), `level`, `target`, `message`, the event's fields, and `span` with
    /// the name (`task`) and the `detail` of the task.
    Json,
}

/// Who writes a line to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Writing {
    /// A thread of its own: whoever logs never waits.
    #[default]
    Queued,
    /// Whoever logs. No thread is started.
    Direct,
}

/// Logs cannot be set up, or not so.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The text is not a list of levels by target.
    #[error(
        "log filter `{filter}`: `{part}` is neither a level nor a target=level; levels are off, error, warn, info, debug, trace"
    )]
    Filter {
        /// The whole text.
        filter: String,
        /// What is wrong in it.
        part: String,
    },
    /// The logs of this process are set up already.
    #[error("the logs of this process are set up already")]
    Installed,
    /// The kernel refuses a thread.
    #[error("start of the thread that writes the log")]
    Thread(#[source] io::Error),
}

/// The handle of the logs; when the last one is dropped, what is not written yet is waited for, for a second.
#[derive(Debug, Clone)]
pub struct Logs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    filter: Mutex<String>,
    levels: reload::Handle<Targets, Registry>,
    queue: Option<Arc<Queue>>,
}

impl Logs {
    /// Sets up the logs of this process; lines that are dropped are counted in `metrics`.
    ///
    /// # Errors
    /// When the filter is not one, when they are set up already, or when there can be no thread.
    pub fn install(config: &LogConfig, metrics: &Metrics) -> Result<Self, LogError> {
        let levels = filter::parse(&config.filter)?;
        let terminal = io::stderr().is_terminal();
        let queue = match config.writing {
            Writing::Queued => Some(Arc::new(Queue::new(metrics.log_lines_dropped().clone()))),
            Writing::Direct => None,
        };
        let look = look(config.format, terminal, env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()));
        let (subscriber, levels) = match &queue {
            Some(queue) => subscriber(levels, look, queue::Writer(queue.clone())),
            None => subscriber(levels, look, io::stderr),
        };
        // The thread first: logs that are set up without it would be written by nobody.
        if let Some(queue) = &queue {
            queue.start(io::stderr()).map_err(LogError::Thread)?;
        }
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Installed)?;
        Ok(Self(Arc::new(Inner { filter: Mutex::new(config.filter.clone()), levels, queue })))
    }

    /// Changes the levels by target from now on.
    ///
    /// # Errors
    /// When the filter is not one; then nothing changes.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let levels = filter::parse(filter)?;
        let mut current = self.0.filter.lock().unwrap_or_else(PoisonError::into_inner);
        // It fails only without a subscriber; the one that was set up lives as long as the process.
        self.0.levels.reload(levels).map_err(|_| LogError::Installed)?;
        let before = std::mem::replace(&mut *current, filter.to_owned());
        drop(current);
        tracing::info!(before, filter, "log levels changed");
        Ok(())
    }

    /// The levels by target that hold now.
    pub fn filter(&self) -> String {
        self.0.filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until all that was logged is written; `false` when that takes longer than `within`.
    pub fn flush(&self, within: Duration) -> bool {
        self.0.queue.as_ref().is_none_or(|queue| queue.flush(within))
    }

    pub(crate) fn queue(&self) -> Option<Arc<Queue>> {
        self.0.queue.clone()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            // Nobody is left to tell; what could not be written is lost with the process.
            queue.flush(FLUSH_WITHIN);
        }
    }
}

/// What a line looks like, decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Text { colour: bool },
    Json,
}

fn look(format: Format, terminal: bool, no_color: bool) -> Look {
    match (format, terminal) {
        (Format::Auto, true) | (Format::Text, _) => Look::Text { colour: terminal && !no_color },
        (Format::Auto, false) | (Format::Json, _) => Look::Json,
    }
}

type AnySubscriber = Box<dyn Subscriber + Send + Sync>;

fn subscriber<W>(levels: Targets, look: Look, writer: W) -> (AnySubscriber, reload::Handle<Targets, Registry>)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (levels, handle) = reload::Layer::new(levels);
    let layer = fmt::layer().with_writer(writer);
    let layer = match look {
        Look::Text { colour } => layer.with_ansi(colour).boxed(),
        Look::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
    };
    (Box::new(Registry::default().with(levels).with(layer)), handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Secret, testing::Buffer};
    use serde_json::Value;

    fn captured(filter: &str, look: Look, f: impl FnOnce(&Logs, &Buffer)) {
        let buffer = Buffer::default();
        let (subscriber, levels) = subscriber(filter::parse(filter).unwrap(), look, buffer.clone());
        let logs = Logs(Arc::new(Inner { filter: Mutex::new(filter.to_owned()), levels, queue: None }));
        tracing::subscriber::with_default(subscriber, || f(&logs, &buffer));
    }

    #[test]
    fn the_look_is_chosen() {
        let text = |colour| Look::Text { colour };
        for (format, terminal, no_color, expected) in [
            (Format::Auto, true, false, text(true)),
            (Format::Auto, true, true, text(false)),
            (Format::Auto, false, false, Look::Json),
            (Format::Text, false, false, text(false)),
            (Format::Text, true, false, text(true)),
            (Format::Json, true, false, Look::Json),
        ] {
            assert_eq!(look(format, terminal, no_color), expected, "{format:?} {terminal} {no_color}");
        }
    }

    #[test]
    fn json_lines_carry_fields_and_task() {
        captured("info", Look::Json, |_, buffer| {
            let span = crate::spawner::span(&crate::TaskSpec::new("dns-udp").detail("127.0.0.1:53"));
            span.in_scope(|| tracing::warn!(target: "skydns", zone = "a\n\"b", size = 12, "zone refused"));
            let line: Value = serde_json::from_str(&buffer.take()).unwrap();
            let expected = [
                ("/level", Value::from("WARN")),
                ("/target", "skydns".into()),
                ("/message", "zone refused".into()),
                ("/zone", "a\n\"b".into()),
                ("/size", 12.into()),
                ("/span/task", "dns-udp".into()),
                ("/span/detail", "127.0.0.1:53".into()),
            ];
            for (pointer, value) in expected {
                assert_eq!(line.pointer(pointer), Some(&value), "{pointer} of {line}");
            }
            assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
        });
    }

    #[test]
    fn text_lines_are_one_a_piece() {
        captured("info", Look::Text { colour: false }, |_, buffer| {
            tracing::info!(zone = "internal", "zone loaded");
            let line = buffer.take();
            assert!(line.contains(" INFO ") && line.trim_end().ends_with("zone loaded zone=\"internal\""), "{line}");
            assert!(!line.contains('\u{1b}'), "{line}");
        });
        captured("info", Look::Text { colour: true }, |_, buffer| {
            tracing::info!("zone loaded");
            assert!(buffer.take().contains('\u{1b}'));
        });
    }

    #[test]
    fn secrets_stay_secret() {
        for look in [Look::Json, Look::Text { colour: false }] {
            captured("info", look, |_, buffer| {
                let token = Secret::new("hunter2".to_owned());
                tracing::info!(%token, again = ?token, "signed in with {token}");
                let line = buffer.take();
                assert!(line.matches("[secret]").count() == 3 && !line.contains("hunter2"), "{line}");
            });
        }
    }

    #[test]
    fn levels_change_while_it_runs() {
        captured("info", Look::Text { colour: false }, |logs, buffer| {
            let speak = || {
                tracing::debug!(target: "skydns::zone", "from the zone");
                tracing::debug!(target: "skylb", "from the balancer");
                tracing::warn!(target: "skylb", "warned");
                let text = buffer.take();
                ["from the zone", "from the balancer", "warned"].map(|line| text.contains(line))
            };
            assert_eq!(speak(), [false, false, true]);
            logs.set_filter("info,skydns=debug").unwrap();
            assert_eq!(speak(), [true, false, true]);
            logs.set_filter("skydns=debug,skylb=off").unwrap();
            assert_eq!(speak(), [true, false, false]);
            let error = logs.set_filter("info,skydns=loud").unwrap_err();
            assert!(error.to_string().contains("`skydns=loud`"), "{error}");
            assert_eq!(speak(), [true, false, false], "a filter that is refused changes nothing");
            assert_eq!(logs.filter(), "skydns=debug,skylb=off");
        });
    }
}
