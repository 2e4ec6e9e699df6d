//! Who is in a group: listing, killing, and removing the group itself.
//!
//! Groups below it (a container may make some) count as it. Nothing here trusts a process id for longer than it takes to
//! open a descriptor of the process and to look where it is.

use super::{Cgroup, CgroupError, Hierarchy, Version, detect, directory::Directory};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// How long processes get to be gone after SIGKILL: long enough for one that waits for a slow disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// Groups below one another that are looked at; the kernel may allow more, no container needs them.
const DEEPEST: usize = 32;

impl Cgroup {
    /// Process ids, in the order of their numbers, those in groups below included.
    ///
    /// # Errors
    /// That of the file system.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let mut processes = BTreeSet::new();
        if let Some((_, directory)) = self.principal() {
            collect(directory, DEEPEST, &mut processes)?;
        }
        Ok(processes.into_iter().collect())
    }

    /// Whether a process is in it or in a group below.
    pub fn contains(&self, pid: i32) -> bool {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return false };
        self.principal().is_some_and(|(hierarchy, _)| is_below(detect::group_of(&text, hierarchy), &self.path))
    }

    /// Ends every process with SIGKILL, frozen ones and those that are being made included. Does not wait until they are
    /// gone.
    ///
    /// # Errors
    /// When it is neither possible with one call (`cgroup.kill`, v2 since 5.14) nor by killing one by one, in time.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let at_once = match self.unified().map(|directory| (directory, directory.write("cgroup.kill", "1"))) {
            Some((_, Ok(()) | Err(Errno::NODEV))) => true,
            None | Some((_, Err(Errno::NOENT))) => false,
            Some((directory, Err(error))) => {
                return Err(CgroupError::io("write", directory.path().join("cgroup.kill"), error));
            }
        };
        self.kill_one_by_one(at_once)
    }

    /// Frozen, they can neither fork nor get away from under their number, so one round is enough; without the freezer
    /// they are outrun in some. Who has got the signal can not fork any more, and nobody else is left when a round finds
    /// none but those. Leaves out the unified hierarchy if its processes were killed already: what remains joined the v1
    /// hierarchies only.
    fn kill_one_by_one(&self, without_unified: bool) -> Result<(), CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        let mut killed = BTreeSet::new();
        for round in 0.. {
            let mut alive = BTreeSet::new();
            for (hierarchy, directory) in self.here() {
                if !(without_unified && hierarchy.version == Version::V2) {
                    collect(directory, DEEPEST, &mut alive)?;
                }
            }
            alive.retain(|pid| !(is_dying(*pid) || without_unified && self.is_in_unified(*pid)));
            if alive.is_subset(&killed) {
                break;
            }
            if Instant::now() > deadline {
                let path = self.present().next().map_or_else(PathBuf::new, |directory| directory.path().to_owned());
                return Err(CgroupError::Occupied {
                    path,
                    processes: describe(&alive),
                    source: Errno::TIMEDOUT.into(),
                });
            }
            self.freeze_for_kill();
            alive.retain(|pid| self.kill_process(*pid));
            self.thaw_for_kill();
            killed.append(&mut alive);
            pause(round);
        }
        self.thaw_for_kill();
        Ok(())
    }

    /// One process, if it is (still) in this group in any hierarchy. Whether it has the signal, or needs none.
    fn kill_process(&self, pid: i32) -> bool {
        let Some(number) = Pid::from_raw(pid) else { return true };
        let process = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(error) => return error == Errno::SRCH,
        };
        // Read after it was opened: now the number can not have become somebody else's unnoticed. Gone if not readable.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return is_dying(pid) };
        if !self.host.hierarchies.iter().any(|hierarchy| is_below(detect::group_of(&text, hierarchy), &self.path)) {
            return true;
        }
        match pidfd_send_signal(process, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => true,
            Err(error) => {
                tracing::warn!(pid, %error, "process not killed");
                false
            }
        }
    }

    fn is_in_unified(&self, pid: i32) -> bool {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let unified = self.host.unified();
        unified.is_some_and(|hierarchy| is_below(detect::group_of(&text, hierarchy), &self.path))
    }

    /// Removes the group in all hierarchies. Processes and groups that are left in it are ended and removed with it. One
    /// that is gone already is no error.
    ///
    /// # Errors
    /// Names who is still in it after some seconds.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut left: Vec<_> = self.host.hierarchies.iter().collect();
        let deadline = Instant::now() + PATIENCE;
        let mut killed = false;
        for round in 0.. {
            let mut busy = Vec::new();
            for hierarchy in left {
                match hierarchy.directory.remove(&self.path) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error @ (Errno::BUSY | Errno::NOTEMPTY)) => busy.push((hierarchy, error)),
                    Err(error) => {
                        return Err(CgroupError::io("remove", hierarchy.directory.path().join(&self.path), error));
                    }
                }
            }
            let Some((first, error)) = busy.first() else { return Ok(()) };
            if Instant::now() > deadline {
                let mut processes = BTreeSet::new();
                for (hierarchy, _) in &busy {
                    if let Ok(directory) = hierarchy.directory.below(&self.path) {
                        collect(&directory, DEEPEST, &mut processes)?;
                    }
                }
                return Err(CgroupError::Occupied {
                    path: first.directory.path().join(&self.path),
                    processes: describe(&processes),
                    source: (*error).into(),
                });
            }
            if !killed {
                self.kill()?;
                killed = true;
            }
            for (hierarchy, _) in &busy {
                remove_below(hierarchy, &self.path, DEEPEST)?;
            }
            left = busy.into_iter().map(|(hierarchy, _)| hierarchy).collect();
            pause(round);
        }
        Ok(())
    }

    /// Removes what a killed maker left of this group in one hierarchy.
    ///
    /// # Errors
    /// [`CgroupError::Exists`] when there are processes in it.
    pub(super) fn remove_leftover(&self, hierarchy: &Hierarchy) -> Result<(), CgroupError> {
        let place = hierarchy.directory.path().join(&self.path);
        let directory = match hierarchy.directory.below(&self.path) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(CgroupError::io("open", place, error)),
        };
        let mut processes = BTreeSet::new();
        collect(&directory, DEEPEST, &mut processes)?;
        if !processes.is_empty() {
            return Err(CgroupError::Exists { path: place, processes: describe(&processes) });
        }
        remove_below(hierarchy, &self.path, DEEPEST)?;
        match hierarchy.directory.remove(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(CgroupError::io("remove", place, error)),
        }
    }

    /// The hierarchy that says who is in the group: the unified one, else the one by which it is frozen, else any.
    fn principal(&self) -> Option<(&Hierarchy, &Directory)> {
        self.here()
            .find(|(hierarchy, _)| hierarchy.version == Version::V2)
            .or_else(|| self.here().find(|(hierarchy, _)| hierarchy.has("freezer")))
            .or_else(|| self.here().next())
    }

    /// The hierarchies in which it is, with its directories.
    fn here(&self) -> impl Iterator<Item = (&Hierarchy, &Directory)> {
        let pairs = self.host.hierarchies.iter().zip(&self.directories);
        pairs.filter_map(|(hierarchy, directory)| Some((hierarchy, directory.as_ref()?)))
    }

    /// Who is in it, for messages.
    pub(super) fn describe_processes(&self) -> String {
        match self.processes() {
            Ok(processes) => describe(&processes.into_iter().collect()),
            Err(error) => format!("unknown ({error})"),
        }
    }
}

/// Adds the processes of a group and of those below it. A group that is gone has none.
fn collect(directory: &Directory, depth: usize, processes: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
    match directory.read("cgroup.procs") {
        Ok(text) => processes.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        // Gone; or (v2) a group of threads, whose processes are listed by the one above it.
        Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(CgroupError::io("read", directory.path().join("cgroup.procs"), error)),
    }
    for name in below(directory)? {
        if depth > 0
            && let Ok(child) = directory.below(&name)
        {
            collect(&child, depth - 1, processes)?;
        }
    }
    Ok(())
}

fn below(directory: &Directory) -> Result<Vec<String>, CgroupError> {
    match directory.directories(".") {
        Ok(names) => Ok(names),
        Err(Errno::NOENT | Errno::NODEV) => Ok(Vec::new()),
        Err(error) => Err(CgroupError::io("list", directory.path(), error)),
    }
}

/// Removes the groups below one, the lowest first; those in use stay.
fn remove_below(hierarchy: &Hierarchy, path: &str, depth: usize) -> Result<(), CgroupError> {
    let Ok(directory) = hierarchy.directory.below(path) else { return Ok(()) };
    for name in below(&directory)? {
        if depth > 0 {
            remove_below(hierarchy, &format!("{path}/{name}"), depth - 1)?;
        }
        match directory.remove(&name) {
            Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(error) => return Err(CgroupError::io("remove", directory.path().join(name), error)),
        }
    }
    Ok(())
}

fn is_below(group: Option<&str>, path: &str) -> bool {
    group.and_then(|group| group.strip_prefix(path)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A zombie, or gone: nothing is left to be killed.
fn is_dying(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/stat")).map_or(true, |stat| crate::runtime::identity::alive(&stat).is_none())
}

/// At most ten of them, with their names.
fn describe(processes: &BTreeSet<i32>) -> String {
    let mut names: Vec<_> = processes
        .iter()
        .take(10)
        .map(|pid| match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("{pid} ({})", name.trim_end()),
            Err(_) => pid.to_string(),
        })
        .collect();
    if processes.len() > names.len() {
        names.push(format!("and {} more", processes.len() - names.len()));
    }
    if names.is_empty() { "no process".to_owned() } else { names.join(", ") }
}

/// 0.2 ms at first, doubling to 12.8 ms.
fn pause(round: u32) {
    thread::sleep(Duration::from_micros(200 << round.min(6)));
}
