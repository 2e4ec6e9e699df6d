//! Signals by name and number (signal(7)).

use std::{fmt, str::FromStr};

/// Names of the standard signals, the common one of two aliases first.
const NAMES: [(&str, i32); 35] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("UNUSED", libc::SIGSYS),
];
/// First real-time signal a program can use: the C library keeps 32 and 33 to itself.
const RTMIN: i32 = 34;
/// Last real-time signal.
const RTMAX: i32 = 64;

/// A signal, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

/// The text names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a signal; write a name such as TERM, SIGTERM or RTMIN+3, or a number from 1 to 64")]
pub struct SignalError(pub String);

impl Signal {
    /// SIGTERM.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// SIGKILL.
    pub const KILL: Self = Self(libc::SIGKILL);

    /// The kernel's number.
    pub fn number(self) -> i32 {
        self.0
    }
    /// The signal of this number, if it is one.
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=RTMAX).contains(&number).then_some(Self(number))
    }
}

impl FromStr for Signal {
    type Err = SignalError;
    /// Takes a number, or a name in any case with or without `SIG`; `RTMIN+N` and `RTMAX-N` for real-time signals.
    fn from_str(text: &str) -> Result<Self, SignalError> {
        let fail = || SignalError(text.to_owned());
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().and_then(Self::from_number).ok_or_else(fail);
        }
        let upper = text.to_ascii_uppercase();
        let stem = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == stem) {
            return Ok(Self(*number));
        }
        let offset = |text: &str, sign: char| -> Option<i32> {
            if text.is_empty() {
                return Some(0);
            }
            let digits = text.strip_prefix(sign)?;
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|number| plain && *number <= RTMAX - RTMIN)
        };
        let up = stem.strip_prefix("RTMIN").and_then(|rest| offset(rest, '+')).map(|offset| RTMIN + offset);
        let down = || stem.strip_prefix("RTMAX").and_then(|rest| offset(rest, '-')).map(|offset| RTMAX - offset);
        up.or_else(down).map(Self).ok_or_else(fail)
    }
}
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.pad(&format!("SIG{name}")),
            None if self.0 == RTMIN => f.pad("SIGRTMIN"),
            None if self.0 > RTMIN => f.pad(&format!("SIGRTMIN+{}", self.0 - RTMIN)),
            None => f.pad(&self.0.to_string()), // 32 and 33 have no name
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigterm", 15),
            ("15", 15),
            ("KILL", 9),
            ("9", 9),
            ("1", 1),
            ("64", 64),
            ("CLD", 17),
            ("WINCH", 28),
            ("RTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMIN+30", 64),
            ("RTMAX", 64),
            ("sigrtmax-14", 50),
        ] {
            assert_eq!(text.parse::<Signal>().map(Signal::number), Ok(number), "{text}");
        }
        for text in [
            "", "0", "65", "-9", "SIG", "FOO", "RTMIN-1", "RTMIN+31", "RTMIN+", "RTMIN++1", "RTMAX+1", "RTMAX-31",
            "15 ",
        ] {
            assert!(text.parse::<Signal>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_signal_reads_back() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse(), Ok(signal));
        }
        assert!(Signal::from_number(0).is_none() && Signal::from_number(65).is_none());
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,24}") {
            if let Ok(signal) = text.parse::<Signal>() {
                prop_assert!((1..=64).contains(&signal.number()));
            }
        }
    }
}
