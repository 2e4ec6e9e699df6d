//! What a task is doing, for people.

use std::{fmt, panic::Location, time::Duration};

/// One task that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskReport {
    /// Its name.
    pub name: &'static str,
    /// What it works on.
    pub detail: Option<String>,
    /// How long ago it was started.
    pub age: Duration,
    /// What it is doing.
    pub phase: Phase,
    /// What it says it must finish first.
    pub held: Vec<Held>,
}

/// What a task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for something to happen.
    Waiting,
    /// It is at work; if it is so each time one looks, it does not yield.
    Busy,
    /// It failed and waits to be begun again.
    BackingOff,
    /// It runs on a thread of its own and cannot be cancelled.
    Blocking,
    /// It ended, and left work behind that is not finished.
    Ended,
}

/// A piece of work that keeps a task from ending ([`Shutdown::hold`](crate::Shutdown::hold)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What it is.
    pub what: String,
    /// For how long.
    pub age: Duration,
    /// Where in the source it was begun.
    pub at: &'static Location<'static>,
}

impl fmt::Display for TaskReport {
    /// `name (detail), 12.3s old, waits; held up by request 17 for 4.0s (serve.rs:81)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        write!(f, ", {:.1}s old, {}", self.age.as_secs_f64(), self.phase)?;
        for (index, held) in self.held.iter().enumerate() {
            f.write_str(if index == 0 { "; held up by " } else { ", " })?;
            let Held { what, age, at } = held;
            write!(f, "{what} for {:.1}s ({}:{})", age.as_secs_f64(), at.file(), at.line())?;
        }
        Ok(())
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waits",
            Self::Busy => "is busy",
            Self::BackingOff => "waits to be begun again",
            Self::Blocking => "is blocking a thread",
            Self::Ended => "has ended",
        })
    }
}
