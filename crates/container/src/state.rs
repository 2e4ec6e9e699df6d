//! What is true of one container now: written by its shim when it starts and by its monitor when it ends.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

/// Whose users a started container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Users {
    /// Ids 0 to `size`-1 inside are `base` to `base + size - 1` on the host.
    Private {
        /// First id on the host.
        base: u32,
        /// Number of ids.
        size: u32,
    },
    /// The host's, for this reason.
    Host {
        /// Why not private ones: asked for, or what the kernel can not.
        reason: String,
    },
}

/// A started container, as its shim left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The init process, as the host numbers it.
    pub pid: i32,
    /// Its start time, clock ticks since boot (`/proc/PID/stat`, field 22): with `pid`, its identity.
    pub start_time: u64,
    /// Its control group below the root of each hierarchy.
    pub cgroup: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// Whose users.
    pub users: Users,
    /// Its addresses, when it is on a bridge network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Addresses>,
    /// As long as there is this file, its program has not been let go: whoever was to do that has been killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unstarted: Option<PathBuf>,
    /// What was asked for and could not be had, and what was done instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl State {
    /// Whether its program has been let go.
    pub fn was_let_go(&self) -> bool {
        self.unstarted.as_ref().is_none_or(|path| !path.exists())
    }
}

/// Addresses on a bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// IPv4.
    pub ipv4: Ipv4Addr,
    /// IPv6.
    pub ipv6: Ipv6Addr,
}

/// How a container ended, from the file its monitor wrote: `STATUS NANOS OOM DROPPED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As Docker reports it: the exit code, or 128 + the signal; absent when nobody saw it (its monitor was killed, on a
    /// kernel before 6.15).
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed something in it for want of memory.
    pub oom: bool,
    /// Bytes of output that were dropped because they could not be written.
    pub dropped: u64,
    /// When.
    pub finished_at: Timestamp,
}

impl Exit {
    /// From a wait status (wait(2)); -1 for unknown.
    pub fn from_wait_status(status: i32, oom: bool, dropped: u64, finished_at: Timestamp) -> Self {
        let signal = (status != -1 && status & 0x7f != 0).then_some(status & 0x7f);
        let code = match (status, signal) {
            (-1, _) => None,
            (_, Some(signal)) => Some(128 + signal),
            (status, None) => Some(status >> 8 & 0xff),
        };
        Self { code, signal, oom, dropped, finished_at }
    }

    /// Reads the file of a monitor; `None` when there is none.
    ///
    /// # Errors
    /// That of the file system, or `InvalidData` when the file is not an exit file.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::parse(&text)
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{}: not an exit file", path.display())))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace();
        let status = fields.next()?.parse().ok()?;
        let nanos: i128 = fields.next()?.parse().ok()?;
        let oom = fields.next()? == "1";
        let dropped = fields.next()?.parse().ok()?;
        Some(Self::from_wait_status(status, oom, dropped, Timestamp::from_nanosecond(nanos).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dockers() {
        let parse = |text| Exit::parse(text).unwrap();
        assert_eq!(parse("0 1000000000 0 0\n").code, Some(0));
        assert_eq!(parse("768 1000000000 0 0\n").code, Some(3));
        let killed = parse("9 1000000000 1 17\n");
        assert_eq!((killed.code, killed.signal, killed.oom, killed.dropped), (Some(137), Some(9), true, 17));
        assert_eq!(parse("139 5 0 0").signal, Some(11), "with a core dump");
        assert_eq!(parse("-1 5 0 0").code, None);
        assert!(Exit::parse("").is_none() && Exit::parse("0 x 0 0").is_none());
    }
}
