//! Which process a number means: pid, start time and control group together, never the pid alone.

use rustix::{
    io::Result,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{fs, os::fd::OwnedFd};

/// Start time of a process in clock ticks since boot (proc_pid_stat(5), field 22); `None` when there is none, or only a
/// zombie of it.
pub fn start_time(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may hold anything, parentheses and blanks included.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether it is the process that had this pid at this start time, and is in this control group.
pub fn is(pid: i32, started: u64, cgroup: &str) -> bool {
    if start_time(pid) != Some(started) {
        return false;
    }
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return false };
    let path = format!("/{cgroup}");
    text.lines().any(|line| line.splitn(3, ':').nth(2).is_some_and(|group| group.ends_with(&path)))
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
