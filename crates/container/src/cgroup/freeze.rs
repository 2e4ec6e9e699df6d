//! Stopping and resuming all of a group at once.
//!
//! The unified hierarchy does it where there is one: its frozen processes can still be killed. With v1 they die when they
//! are thawed.

use super::{Cgroup, CgroupError, directory::Directory};
use rustix::io::Errno;
use std::{
    thread,
    time::{Duration, Instant},
};

/// How long all processes get to stop; one that waits for a disk can not be stopped before it is served.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long killing waits for that before it goes ahead.
const SHORT: Duration = Duration::from_millis(100);

impl Cgroup {
    /// Stops or resumes all processes, and waits until it is so.
    ///
    /// # Errors
    /// [`CgroupError::Freeze`] when they did not stop in time (they are resumed then); an error when this machine has no
    /// freezer.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let freezer = self.freezer().ok_or_else(|| {
            CgroupError::setting("freezer", "this machine has neither the v1 freezer nor a kernel since 5.2 with v2")
        })?;
        if freezer.set(frozen, PATIENCE)? {
            return Ok(());
        }
        if frozen {
            freezer.set(false, SHORT)?;
        }
        Err(CgroupError::Freeze {
            path: self.path.clone(),
            verb: if frozen { "freeze" } else { "thaw" },
            seconds: PATIENCE.as_secs(),
            processes: self.describe_processes(),
        })
    }

    /// Whether all processes are stopped.
    ///
    /// # Errors
    /// That of the file system.
    pub fn frozen(&self) -> Result<bool, CgroupError> {
        self.freezer().map_or(Ok(false), |freezer| Ok(freezer.state()? == State::Frozen))
    }

    /// Stops forks while processes are killed one by one. That it may not succeed is why killing goes in rounds.
    pub(super) fn freeze_for_kill(&self) {
        if let Some(directory) = self.directory_of("freezer")
            && let Err(error) = (Freezer::V1(directory)).set(true, SHORT)
        {
            tracing::debug!(%error, "not frozen before the kill");
        }
    }

    /// On v1 only what is thawed dies.
    pub(super) fn thaw_for_kill(&self) {
        if let Some(directory) = self.directory_of("freezer") {
            match directory.write("freezer.state", "THAWED") {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
                Err(error) => tracing::warn!(path = %directory.path().display(), %error, "control group not thawed"),
            }
        }
    }

    fn freezer(&self) -> Option<Freezer<'_>> {
        let unified = self.unified().filter(|directory| directory.has("cgroup.freeze"));
        unified.map(Freezer::V2).or_else(|| self.directory_of("freezer").map(Freezer::V1))
    }
}

#[derive(Debug, Clone, Copy)]
enum Freezer<'a> {
    V1(&'a Directory),
    V2(&'a Directory),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Changing,
    Frozen,
}

impl Freezer<'_> {
    /// Whether it came to be so in time.
    fn set(self, frozen: bool, patience: Duration) -> Result<bool, CgroupError> {
        let deadline = Instant::now() + patience;
        let wanted = if frozen { State::Frozen } else { State::Running };
        let mut pause = Duration::from_micros(100);
        self.write(frozen)?;
        loop {
            if self.state()? == wanted {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(pause);
            pause = (2 * pause).min(Duration::from_millis(10));
            // v1 may miss a process that was just being made; asking again catches it.
            if matches!(self, Self::V1(_)) {
                self.write(frozen)?;
            }
        }
    }

    fn write(self, frozen: bool) -> Result<(), CgroupError> {
        let (directory, file, value) = match (self, frozen) {
            (Self::V1(directory), true) => (directory, "freezer.state", "FROZEN"),
            (Self::V1(directory), false) => (directory, "freezer.state", "THAWED"),
            (Self::V2(directory), true) => (directory, "cgroup.freeze", "1"),
            (Self::V2(directory), false) => (directory, "cgroup.freeze", "0"),
        };
        directory.write(file, value).map_err(|error| CgroupError::io("write", directory.path().join(file), error))
    }

    fn state(self) -> Result<State, CgroupError> {
        let read = |directory: &Directory, file: &str| {
            directory.read(file).map_err(|error| CgroupError::io("read", directory.path().join(file), error))
        };
        match self {
            Self::V1(directory) => Ok(match read(directory, "freezer.state")?.trim() {
                "FROZEN" => State::Frozen,
                "THAWED" => State::Running,
                _ => State::Changing,
            }),
            Self::V2(directory) => {
                let asked = read(directory, "cgroup.freeze")?.trim() == "1";
                let is = read(directory, "cgroup.events")?.lines().any(|line| line == "frozen 1");
                Ok(match (asked, is) {
                    (true, true) => State::Frozen,
                    (false, false) => State::Running,
                    _ => State::Changing,
                })
            }
        }
    }
}
