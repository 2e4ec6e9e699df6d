//! What went wrong, in four parts: what, where, why, and what to type next.
//!
//! A failure is printed once, by [`crate::print::Printer::failure`]; everything below it returns it. Its exit code is
//! part of the command line's promise (see [`Code`]).

use container::{
    engine::{EngineError, ErrorKind},
    spec::{Fault, SpecErrors},
};
use serde::Serialize;
use std::error::Error;

/// Result of everything that can fail in this crate.
pub type Result<T> = std::result::Result<T, Failure>;

/// Exit codes. Those of verbs that pass a container's own code on are Docker's: 125 when JDOS itself failed, 126 when
/// the program could not be executed, 127 when it is not there, 128 + N after signal N.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(pub u8);

impl Code {
    /// Done.
    pub const DONE: Self = Self(0);
    /// Failed.
    pub const FAILED: Self = Self(1);
    /// The arguments make no sense.
    pub const USAGE: Self = Self(2);
    /// What was named is not there.
    pub const NOT_FOUND: Self = Self(3);
    /// A name is taken, a port is in use, the state is the wrong one.
    pub const CONFLICT: Self = Self(4);
    /// Not allowed.
    pub const DENIED: Self = Self(6);
    /// A server does not answer.
    pub const NO_SERVER: Self = Self(7);
    /// JDOS failed where a container's own code was to be passed on.
    pub const ENGINE: Self = Self(125);
    /// Interrupted.
    pub const INTERRUPTED: Self = Self(130);
    /// Nobody reads the output any more: 128 + SIGPIPE, as the shell reports it of others.
    pub const BROKEN_PIPE: Self = Self(141);

    /// The code of a kind of engine error.
    pub fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Invalid => Self::USAGE,
            ErrorKind::NotFound => Self::NOT_FOUND,
            ErrorKind::Conflict => Self::CONFLICT,
            ErrorKind::Denied => Self::DENIED,
            ErrorKind::Failed => Self::FAILED,
            ErrorKind::CannotStart(code) => Self(u8::try_from(code).unwrap_or(Self::ENGINE.0)),
        }
    }

    /// A stable word for programs that read `--json`.
    pub fn word(self) -> &'static str {
        match self.0 {
            2 => "usage",
            3 => "not-found",
            4 => "conflict",
            6 => "denied",
            7 => "no-server",
            126 => "not-executable",
            127 => "command-not-found",
            125 => "engine",
            130 => "interrupted",
            _ => "failed",
        }
    }
}

/// One argument that can not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The flag as the user types it, or the word that stands for a positional argument.
    pub argument: String,
    /// What is wrong with it and what was expected.
    pub problem: String,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What did not work, and on what.
    #[serde(rename = "message")]
    pub what: String,
    /// Arguments at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<Problem>,
    /// Causes, outermost first.
    pub why: Vec<String>,
    /// Commands that help.
    pub next: Vec<String>,
    /// Stable word of the kind.
    pub kind: &'static str,
    /// Exit code.
    #[serde(skip)]
    pub code: Code,
}

impl Failure {
    /// With this code and message.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { what: what.into(), arguments: Vec::new(), why: Vec::new(), next: Vec::new(), kind: code.word(), code }
    }

    /// Something that this process does itself failed.
    pub fn from_error(what: impl Into<String>, error: &dyn Error) -> Self {
        let mut failure = Self::new(Code::FAILED, what);
        failure.why = std::iter::once(error.to_string()).chain(sources(error)).collect();
        failure
    }

    /// The engine refused or failed; its message names operation and subject.
    pub fn from_engine(error: &EngineError) -> Self {
        if let EngineError::Spec(errors) = error {
            return Self::settings(errors);
        }
        let mut failure = Self::new(Code::of(error.kind()), error.to_string());
        failure.why = sources(error).collect();
        if error.kind() == ErrorKind::Denied {
            failure.next.push("run it as root, such as with sudo".to_owned());
        }
        failure
    }

    /// These settings can not be had on this machine, or contradict each other.
    fn settings(errors: &SpecErrors) -> Self {
        let what = match errors.0.len() {
            1 => "1 setting can not be honoured".to_owned(),
            n => format!("{n} settings can not be honoured"),
        };
        let mut failure = Self::new(Code::USAGE, what);
        let problem = |fault: &Fault| {
            let text = fault.to_string();
            let rest = text.strip_prefix(&fault.field).unwrap_or(&text);
            Problem { argument: fault.field.clone(), problem: rest.trim_start_matches([':', ' ']).to_owned() }
        };
        failure.arguments = errors.0.iter().map(problem).collect();
        failure
    }

    /// These arguments can not be used; `verb` is the command whose help tells more.
    pub fn arguments(arguments: Vec<Problem>, verb: &str) -> Self {
        let what = match arguments.len() {
            1 => "1 argument can not be used".to_owned(),
            n => format!("{n} arguments can not be used"),
        };
        let mut failure = Self::new(Code::USAGE, what).next(format!("{verb} --help"));
        failure.arguments = arguments;
        failure
    }

    /// Nobody reads our output any more; prints nothing.
    pub fn broken_pipe() -> Self {
        Self::new(Code::BROKEN_PIPE, "output closed")
    }

    /// With one more cause.
    #[must_use]
    pub fn why(mut self, cause: impl Into<String>) -> Self {
        self.why.push(cause.into());
        self
    }

    /// With one more command that helps.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next.push(command.into());
        self
    }

    /// As it ends a verb that passes a container's code on: 125, unless the program itself could not be started.
    #[must_use]
    pub fn of_passing_verb(mut self) -> Self {
        if !matches!(self.code, Code(125..=127) | Code::INTERRUPTED | Code::BROKEN_PIPE) {
            self.code = Code::ENGINE;
        }
        self
    }
}

fn sources(error: &dyn Error) -> impl Iterator<Item = String> + '_ {
    std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passing_verb_ends_with_125_but_for_a_program_that_does_not_start() {
        assert_eq!(Failure::new(Code::CONFLICT, "x").of_passing_verb().code, Code(125));
        assert_eq!(Failure::new(Code(127), "x").of_passing_verb().code, Code(127));
        assert_eq!(Failure::new(Code(126), "x").of_passing_verb().code, Code(126));
        let kept = Failure::new(Code::CONFLICT, "x").of_passing_verb();
        assert_eq!(kept.kind, "conflict", "programs still see the kind");
    }

    #[test]
    fn codes_of_kinds() {
        let codes =
            [ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Conflict, ErrorKind::Denied, ErrorKind::Failed]
                .map(|kind| Code::of(kind).0);
        assert_eq!(codes, [2, 3, 4, 6, 1]);
        assert_eq!(Code::of(ErrorKind::CannotStart(127)).0, 127);
        assert_eq!(Code::of(ErrorKind::CannotStart(-1)).0, 125);
    }

    #[test]
    fn every_fault_of_a_specification_is_named() {
        let faults = vec![
            Fault::new("--memory", "it is less than 4 MiB").of("1k").hint("give more"),
            Fault::new("linux.rootfsPropagation", "it is not supported"),
        ];
        let failure = Failure::from_engine(&EngineError::Spec(SpecErrors(faults)));
        let texts: Vec<_> =
            failure.arguments.iter().map(|problem| (problem.argument.as_str(), problem.problem.as_str())).collect();
        assert_eq!(
            texts,
            [
                ("--memory", "`1k`: it is less than 4 MiB; give more"),
                ("linux.rootfsPropagation", "it is not supported")
            ]
        );
        assert_eq!((failure.code, failure.what.as_str()), (Code::USAGE, "2 settings can not be honoured"));
    }

    #[test]
    fn causes_are_kept_in_order() {
        let inner = std::io::Error::other("disk full");
        let failure = Failure::from_error("cannot write the id file", &inner);
        assert_eq!(failure.why, ["disk full"]);
    }
}
