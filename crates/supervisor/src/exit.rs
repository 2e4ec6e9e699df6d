//! Why a process ends.

use crate::{Signal, TaskReport};
use std::fmt;

/// The end of a supervised process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What began it.
    pub cause: Cause,
    /// Tasks that failed with the fate [`Fate::Shutdown`](crate::Fate::Shutdown) after that (the first few).
    pub later: Vec<Cause>,
    /// Why the drain was cut short, if it was.
    pub interruption: Option<Interruption>,
    /// The tasks that had not ended when it was.
    pub left: Vec<TaskReport>,
}

/// What makes a process end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// All tasks have ended.
    Finished,
    /// [`Spawner::stop`](crate::Spawner::stop), with the reason given there.
    Asked(String),
    /// This signal.
    Signal(Signal),
    /// A task ended with an error.
    Failed {
        /// Its name.
        task: &'static str,
        /// The error and its sources.
        error: String,
    },
    /// A task panicked.
    Panicked {
        /// Its name.
        task: &'static str,
        /// What the panic said.
        message: String,
    },
}

/// What cuts a drain short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// Its deadline.
    Deadline,
    /// A second signal.
    Signal(Signal),
}

impl Exit {
    /// The exit code for it: 0 when the process was asked to end, or had nothing left to do, and ended in order; 128 and
    /// the signal's number when a second signal cut it short; 1 otherwise.
    pub fn code(&self) -> u8 {
        let failed = |cause: &Cause| matches!(cause, Cause::Failed { .. } | Cause::Panicked { .. });
        match self.interruption {
            Some(Interruption::Signal(signal)) => 128 + signal.number(),
            Some(Interruption::Deadline) => 1,
            None => u8::from(failed(&self.cause) || self.later.iter().any(failed)),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        match self.interruption {
            None => {}
            Some(Interruption::Deadline) => f.write_str("; not all tasks ended in time")?,
            Some(Interruption::Signal(signal)) => write!(f, "; cut short by {signal}")?,
        }
        for report in &self.left {
            write!(f, "; still running: {report}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("all tasks have ended"),
            Self::Asked(why) => f.write_str(why),
            Self::Signal(signal) => write!(f, "{signal}"),
            Self::Failed { task, error } => write!(f, "task {task} failed: {error}"),
            Self::Panicked { task, message } => write!(f, "task {task} panicked: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        let exit = |cause| Exit { cause, later: Vec::new(), interruption: None, left: Vec::new() };
        let failed = || Cause::Failed { task: "store", error: "disk full".into() };
        assert_eq!(exit(Cause::Finished).code(), 0);
        assert_eq!(exit(Cause::Asked("test".into())).code(), 0);
        assert_eq!(exit(Cause::Signal(Signal::Terminate)).code(), 0);
        assert_eq!(exit(failed()).code(), 1);
        assert_eq!(exit(Cause::Panicked { task: "store", message: "index".into() }).code(), 1);
        assert_eq!(Exit { later: vec![failed()], ..exit(Cause::Signal(Signal::Terminate)) }.code(), 1);
        let late = Exit { interruption: Some(Interruption::Deadline), ..exit(Cause::Finished) };
        assert_eq!(late.code(), 1);
        let twice = |signal| Exit { interruption: Some(Interruption::Signal(signal)), ..exit(failed()) };
        assert_eq!((twice(Signal::Interrupt).code(), twice(Signal::Terminate).code()), (130, 143));
    }
}
