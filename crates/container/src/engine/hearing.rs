//! Whether a process can be reached by a signal, and sending it again when it could not and then can.
//!
//! The first process of a pid namespace gets no signal that it has not asked for: what is neither caught nor blocked is
//! thrown away when it is sent (signal(7), pid_namespaces(7)), where it would end any other process. A shell that waits for
//! its last command, or a program without a handler, does not notice that it is to stop; nor does one that is just starting
//! and has no handler yet. To kill it at once would be quicker. But the grace is a promise, which Docker and podman keep as
//! well: a script that is on its last command, or a server that has a request under way, ends or serves it within the time
//! that it was given. So the whole grace is waited for; but who learns to hear meanwhile is told again.

use super::error::{At, EngineError};
use crate::sys::process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

/// Time between two looks at a process that does not hear yet.
const LOOK: Duration = Duration::from_millis(50);

/// Sends a signal to a process that is to end of it; whether it ends within the grace. `sent` runs once the signal was sent.
/// `folder` is what errors name.
pub(super) fn ask_to_end(
    (pid, init): (i32, &OwnedFd),
    signal: i32,
    grace: Duration,
    folder: &Path,
    sent: impl FnOnce() -> Result<(), EngineError>,
) -> Result<bool, EngineError> {
    let end = Instant::now() + grace;
    let deaf = || hears(pid, signal) == Some(false);
    // Before and after: a handler that came in between may have had it, and twice can mean something else than once.
    let before = deaf();
    process::send_signal(init, signal).at("send a signal to", folder)?;
    let mut unheard = before && deaf();
    sent()?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if ends_within(init, if unheard { left.min(LOOK) } else { left }).at("wait for", folder)? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        if unheard && hears(pid, signal) == Some(true) {
            process::send_signal(init, signal).at("send a signal to", folder)?;
            unheard = false;
        }
    }
}

/// Whether a signal to this process would reach it: it is caught, or a thread blocks it, as those do that read signals from
/// a descriptor. `None` when there is no such process.
fn hears(pid: i32, signal: i32) -> Option<bool> {
    let mut any = None;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let Ok(text) = fs::read_to_string(thread.ok()?.path().join("status")) else { continue };
        any = Some(any.unwrap_or(false) || in_sets(&text, signal));
    }
    any
}

/// Whether a `status` file has the signal among the caught or blocked ones (proc_pid_status(5)).
fn in_sets(status: &str, signal: i32) -> bool {
    let number = u32::try_from(signal).ok().and_then(|signal| signal.checked_sub(1));
    let bit = number.and_then(|number| 1u64.checked_shl(number)).unwrap_or(0);
    status.lines().any(|line| {
        let set = line.strip_prefix("SigCgt:").or_else(|| line.strip_prefix("SigBlk:"));
        set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & bit != 0)
    })
}

/// Whether a process ends in time.
fn ends_within(init: &OwnedFd, grace: Duration) -> rustix::io::Result<bool> {
    let end = Instant::now() + grace;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(init, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caught_and_blocked_signals_are_heard() {
        let status = "Name:\tx\nSigPnd:\tffffffffffffffff\nSigBlk:\t0000000000004000\nSigIgn:\tffffffffffffffff\n\
            SigCgt:\t8000000000000002\n";
        let heard: Vec<i32> = (1..=64).filter(|signal| in_sets(status, *signal)).collect();
        assert_eq!(heard, [2, 15, 64]);
        assert!(!in_sets(status, 0) && !in_sets(status, 65) && !in_sets(status, -1));
    }

    #[test]
    fn who_is_not_there_neither_hears_nor_does_not() {
        assert_eq!(hears(i32::MAX, 15), None);
        let this = i32::try_from(std::process::id()).unwrap();
        assert_eq!(hears(this, libc::SIGKILL), Some(false));
    }
}
