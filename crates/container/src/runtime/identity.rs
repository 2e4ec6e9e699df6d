//! Which process a number means: pid, start time and control group together, never the pid alone.

use rustix::{
    io::Result,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{fs, os::fd::OwnedFd};

/// Start time of a process in clock ticks since boot (proc_pid_stat(5), field 22); `None` when there is none, or only a
/// zombie of it.
pub fn start_time(pid: i32) -> Option<u64> {
    alive(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The start time in the text of `/proc/PID/stat`, unless it is a zombie's.
///
/// A process whose first thread has ended while others go on says `Z` as well, and is as alive as any.
pub fn alive(stat: &[u8]) -> Option<u64> {
    // The command in parentheses may hold any byte, parentheses and blanks included, and half a character at its end.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let threads: u32 = fields.nth(16)?.parse().ok()?;
    if matches!(state, "Z" | "X") && threads <= 1 {
        return None;
    }
    fields.nth(1)?.parse().ok()
}

/// Whether it is the process that had this pid at this start time, and is in this control group or one below it: a
/// privileged container may make groups of its own there.
pub fn is(pid: i32, started: u64, cgroup: &str) -> bool {
    if start_time(pid) != Some(started) {
        return false;
    }
    // The names of groups are a container's to choose.
    let Ok(bytes) = fs::read(format!("/proc/{pid}/cgroup")) else { return false };
    let text = String::from_utf8_lossy(&bytes);
    let (path, below) = (format!("/{cgroup}"), format!("/{cgroup}/"));
    let group = |line: &str| line.splitn(3, ':').nth(2).is_some_and(|it| it.ends_with(&path) || it.contains(&below));
    text.lines().any(group)
}

/// A descriptor of the process that had this pid at this start time; `None` when it has ended.
pub fn open(pid: i32, started: u64) -> Result<Option<OwnedFd>> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
    let descriptor = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    // Looked at after the descriptor was opened: it can not have become another process in between.
    Ok((start_time(pid) == Some(started)).then_some(descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_calls_itself_does_not_hide_it() {
        let stat = |name: &[u8], state: &str, threads: u32| {
            let rest = format!(") {state} 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 4711 99 1");
            [b"7 (", name, rest.as_bytes()].concat()
        };
        for name in [&b"sh"[..], b"\xff", b") Z 1 (", b"a) S 1"] {
            assert_eq!(alive(&stat(name, "S", 1)), Some(4711), "{name:?}");
        }
        assert_eq!(alive(&stat(b"sh", "Z", 1)), None);
        assert_eq!(alive(&stat(b"sh", "Z", 2)), Some(4711), "its first thread ended before the others");
        assert_eq!(alive(b"nonsense"), None);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(own).is_some_and(|started| started > 0));
    }
}
