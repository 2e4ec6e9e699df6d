//! Limits and accounting: cgroup v1, hybrid and v2.
//!
//! A container's group has the same path in every hierarchy that is mounted. [`Host`] is what this machine has (found once,
//! [`Host::detect`]); [`Cgroup`] is one group in all hierarchies. Limits come as OCI resources and are turned into values of
//! files first (`limits`), so that what can not be had is refused before anything is touched; a group that could not be
//! made whole is taken away again, an update that failed is undone.
//!
//! On a hybrid machine each controller is used where it is: the v1 ones as v1, the unified hierarchy for what it has, and
//! for freezing and killing. Groups are made in all hierarchies, limited there or not: accounting, devices and the sweep
//! need them. Knows nothing of containers, their ids or their mounts; the folder above a group (`jdos` in `jdos/ID`) never
//! holds a process, as v2 demands of groups that hand controllers down.

mod detect;
mod devices;
mod directory;
mod error;
mod freeze;
mod limits;
mod members;
mod mounts;
mod prepare;
mod setting;
mod stats;
mod v1;
mod v2;

pub use detect::{Hierarchy, Version};
pub use error::CgroupError;
pub use mounts::ContainerMount;
pub use stats::{Cpu, HostCpu, Io, Memory, Pids, Stats, Throttled};

use devices::Enforced;
use directory::Directory;
use oci_spec::runtime::LinuxResources;
use prepare::{Disabled, Made};
use rustix::{fd::OwnedFd, fs::OFlags, io::Errno};
use setting::Journal;
use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

/// How the hierarchies of a machine are made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Legacy hierarchies only.
    V1,
    /// Legacy hierarchies with controllers, and the unified one.
    Hybrid,
    /// All controllers in the unified hierarchy.
    V2,
}

/// What is not said by the OCI resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extras {
    /// Allow, after the listed rules, the devices that every container may use (null, zero, full, random, urandom, tty,
    /// ptmx, the pseudo terminals, making of nodes), as Docker and runc do.
    pub usual_devices: bool,
}
impl Default for Extras {
    fn default() -> Self {
        Self { usual_devices: true }
    }
}

/// The hierarchies of this machine.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mode: Mode,
    hierarchies: Vec<Hierarchy>,
    /// Controllers that are bound to a v1 hierarchy, mounted or not.
    legacy: BTreeSet<String>,
}

impl Inner {
    fn hierarchy_of(&self, controller: &str) -> Option<usize> {
        self.hierarchies.iter().position(|hierarchy| hierarchy.has(controller))
    }
    fn version_of(&self, controller: &str) -> Option<Version> {
        self.hierarchy_of(controller).map(|index| self.hierarchies[index].version)
    }
    fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }
    fn why_unavailable(&self, controller: &str) -> String {
        if self.legacy.contains(controller) {
            format!("the control group controller `{controller}` is on a v1 hierarchy that is not mounted here")
        } else {
            format!("this machine has no control group controller `{controller}`")
        }
    }
}

impl Host {
    /// Finds the hierarchies, from `/proc/self/mountinfo` and `/proc/self/cgroup`.
    ///
    /// # Errors
    /// When these can not be read or nothing is mounted.
    pub fn detect() -> Result<Self, CgroupError> {
        let found = detect::detect()?;
        let has = |version, controllers: bool| {
            let mut hierarchies = found.hierarchies.iter();
            hierarchies.any(|one| one.version == version && (!controllers || !one.controllers.is_empty()))
        };
        let mode = match (has(Version::V1, true), has(Version::V2, false)) {
            (true, true) => Mode::Hybrid,
            (false, true) => Mode::V2,
            (_, false) => Mode::V1,
        };
        Ok(Self(Arc::new(Inner { mode, hierarchies: found.hierarchies, legacy: found.legacy })))
    }

    /// How they are made up.
    pub fn mode(&self) -> Mode {
        self.0.mode
    }
    /// Each of them.
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.0.hierarchies
    }
    /// Whether there is this controller, as OCI's fields call it (`memory`, `cpu`, `cpuset`, `pids`, `blkio` or `io`,
    /// `hugetlb`, `net_cls`, `net_prio`, `rdma`).
    pub fn has_controller(&self, name: &str) -> bool {
        self.0.hierarchy_of(name).is_some()
    }

    /// Whether swap is counted, so that `memory.swap` can be honoured. On v2 the kernel shows it in groups only: where
    /// there is none yet, it is taken to be so, and making one tells.
    pub fn has_swap_accounting(&self) -> bool {
        let Some(index) = self.0.hierarchy_of("memory") else { return false };
        let hierarchy = &self.0.hierarchies[index];
        let root = &hierarchy.directory;
        if hierarchy.version == Version::V1 {
            return root.has("memory.memsw.limit_in_bytes");
        }
        let groups = root.directories(".").unwrap_or_default();
        let with_memory = groups.iter().find(|name| root.has(&format!("{name}/memory.max")));
        with_memory.is_none_or(|name| root.has(&format!("{name}/memory.swap.max")))
    }

    /// Makes a group with these limits, path such as `jdos/ID`. An empty one that is there already (left by somebody who
    /// was killed) is made anew.
    ///
    /// # Errors
    /// What can not be had is refused before anything is made; on any other error nothing is left behind.
    pub fn create(&self, path: &str, resources: &LinuxResources, extras: &Extras) -> Result<Cgroup, CgroupError> {
        check_path(path)?;
        let settings = limits::plan(&self.0, resources, None)?;
        let device_rules = Enforced::new(&self.0, resources, *extras)?;
        let additional = limits::additional_controllers(resources);
        let mut cgroup =
            Cgroup { host: self.0.clone(), path: path.to_owned(), directories: Vec::new(), disabled: Vec::new() };
        let mut made = Made::default();
        let filled = cgroup.make(&additional, &mut made).and_then(|()| {
            setting::apply(&cgroup, &settings, None)?;
            device_rules.enforce(&cgroup, true)
        });
        if let Err(error) = filled {
            // The first error is the one to be told; what stays behind for another reason is the sweep's.
            made.remove(&self.0);
            return Err(error);
        }
        Ok(cgroup)
    }

    /// A group that is there.
    ///
    /// # Errors
    /// [`CgroupError::NotFound`] when it is in no hierarchy. (One that is in some only, because its maker was killed, is
    /// opened, so that it can be removed.)
    pub fn open(&self, path: &str) -> Result<Cgroup, CgroupError> {
        check_path(path)?;
        let mut directories = Vec::with_capacity(self.0.hierarchies.len());
        for hierarchy in &self.0.hierarchies {
            directories.push(match hierarchy.directory.below(path) {
                Ok(directory) => Some(directory),
                Err(Errno::NOENT | Errno::NOTDIR) => None,
                Err(error) => return Err(CgroupError::io("open", hierarchy.directory.path().join(path), error)),
            });
        }
        if directories.iter().all(Option::is_none) {
            return Err(CgroupError::NotFound { path: path.to_owned() });
        }
        Ok(Cgroup { host: self.0.clone(), path: path.to_owned(), directories, disabled: Vec::new() })
    }

    /// Names of the groups right below this one, in whatever hierarchy they are; none when it is not there itself.
    ///
    /// # Errors
    /// That of the file system.
    pub fn children(&self, path: &str) -> Result<Vec<String>, CgroupError> {
        check_path(path)?;
        let mut names = BTreeSet::new();
        for hierarchy in &self.0.hierarchies {
            match hierarchy.directory.directories(path) {
                Ok(found) => names.extend(found),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(CgroupError::io("list", hierarchy.directory.path().join(path), error)),
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Removes a group with nothing in it (the folder above the containers' groups, once the last is gone); one that is
    /// in use or not there stays as it is.
    ///
    /// # Errors
    /// That of the file system.
    pub fn remove_unused(&self, path: &str) -> Result<(), CgroupError> {
        check_path(path)?;
        for hierarchy in &self.0.hierarchies {
            match hierarchy.directory.remove(path) {
                Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => {}
                Err(error) => return Err(CgroupError::io("remove", hierarchy.directory.path().join(path), error)),
            }
        }
        Ok(())
    }

    /// What a container must mount, in this order, below its `/sys/fs/cgroup`; see [`ContainerMount`].
    pub fn mounts_for_container(&self) -> Vec<ContainerMount> {
        mounts::mounts(&self.0.hierarchies)
    }
}

/// One group in all hierarchies.
#[derive(Debug)]
pub struct Cgroup {
    host: Arc<Inner>,
    path: String,
    /// One for each hierarchy of the host, in its order; none where the group is not there.
    directories: Vec<Option<Directory>>,
    disabled: Vec<Disabled>,
}

impl Cgroup {
    /// Its path below the root of each hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The files through which a process joins, one per v1 hierarchy, open for writing: it writes `0` to each itself, as
    /// long as it has a single thread. (The kernel then needs no lock that stops all of the machine's forks.)
    ///
    /// # Errors
    /// That of the file system.
    pub fn task_files(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        self.of_version(Version::V1)
            .map(|directory| {
                let file = directory.file("tasks", OFlags::WRONLY);
                file.map_err(|error| CgroupError::io("open", directory.path().join("tasks"), error))
            })
            .collect()
    }

    /// The directory in the unified hierarchy, for `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn unified_fd(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(directory) = self.unified() else { return Ok(None) };
        let copy = rustix::io::fcntl_dupfd_cloexec(directory, 0);
        copy.map(Some).map_err(|error| CgroupError::io("open", directory.path(), error))
    }

    /// Changes limits; what is absent stays as it is. Device rules, when there are any, replace all former ones.
    ///
    /// # Errors
    /// The former values are put back, and where that fails, the error says which could not be.
    pub fn update(&self, resources: &LinuxResources, extras: &Extras) -> Result<(), CgroupError> {
        let read = |controller: &str, file: &str| self.directory_of(controller)?.read(file).ok();
        let settings = limits::plan(&self.host, resources, Some(&read))?;
        let device_rules = match resources.devices() {
            Some(_) => Some(Enforced::new(&self.host, resources, *extras)?),
            None => None,
        };
        if let Some(memory) = resources.memory()
            && memory.check_before_update() == Some(true)
            && let Some(limit) = memory.limit().and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
            && let Some(usage) = read("memory", "memory.current").or_else(|| read("memory", "memory.usage_in_bytes"))
            && let Ok(usage) = usage.trim().parse::<u64>()
            && usage > limit
        {
            let reason = format!("{usage} bytes are in use, more than {limit}; nothing was changed");
            return Err(CgroupError::setting("memory.limit", reason));
        }
        let mut journal = Journal::default();
        let result = setting::apply(self, &settings, Some(&mut journal))
            .and_then(|()| device_rules.map_or(Ok(()), |rules| rules.enforce(self, false)));
        result.map_err(|error| journal.undo(self, error))
    }

    /// File that counts what the kernel killed for want of memory, in a line `oom_kill N`.
    pub fn oom_file(&self) -> Option<PathBuf> {
        let index = self.host.hierarchy_of("memory")?;
        let file = match self.host.hierarchies[index].version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let directory = self.directories[index].as_ref()?;
        directory.has(file).then(|| directory.path().join(file))
    }

    /// Its directories, in the order in which they are to be removed.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.present().map(|directory| directory.path().to_owned()).collect()
    }

    /// The directories that are there.
    fn present(&self) -> impl Iterator<Item = &Directory> {
        self.directories.iter().flatten()
    }
    fn of_version(&self, version: Version) -> impl Iterator<Item = &Directory> {
        let pairs = self.host.hierarchies.iter().zip(&self.directories);
        pairs.filter(move |(hierarchy, _)| hierarchy.version == version).filter_map(|(_, directory)| directory.as_ref())
    }
    fn unified(&self) -> Option<&Directory> {
        self.of_version(Version::V2).next()
    }
    /// Where the files of a controller are; `cgroup` stands for the unified hierarchy itself.
    fn directory_of(&self, controller: &str) -> Option<&Directory> {
        if controller == "cgroup" {
            return self.unified();
        }
        self.directories.get(self.host.hierarchy_of(controller)?)?.as_ref()
    }
    fn place(&self, controller: &str) -> String {
        self.directory_of(controller).map_or_else(String::new, |directory| directory.path().display().to_string())
    }
    /// Whether the files of a controller may be expected.
    fn is_enabled(&self, controller: &str) -> bool {
        if controller == "cgroup" || self.host.version_of(controller) == Some(Version::V1) {
            return true;
        }
        let enabled = self.unified().and_then(|directory| directory.read("cgroup.controllers").ok());
        enabled.is_some_and(|enabled| enabled.split_ascii_whitespace().any(|name| name == controller))
    }
    /// Why the file of a setting is not there.
    fn why_missing(&self, controller: &str, files: &str) -> String {
        if let Some(disabled) = self.disabled.iter().find(|disabled| disabled.controller == controller) {
            let hint = match disabled.error {
                Errno::BUSY => "; processes live in that group itself, move them into one below it",
                Errno::INVAL => "; for `cpu` that may be real-time processes outside of the root group",
                _ => "",
            };
            return format!(
                "the controller `{controller}` could not be enabled in {} ({}{hint})",
                disabled.file.display(),
                disabled.error
            );
        }
        match self.directory_of(controller) {
            Some(directory) if self.is_enabled(controller) => {
                format!("there is no {files} in {}", directory.path().display())
            }
            Some(directory) => {
                format!("the controller `{controller}` is not enabled in {}", directory.path().display())
            }
            None => self.host.why_unavailable(controller),
        }
    }
}

/// The groups above a path, the uppermost first.
fn ancestors(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Names only: the path is used below a directory, so it must not lead out of it.
fn check_path(path: &str) -> Result<(), CgroupError> {
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\n']);
    if path.split('/').all(is_name) { Ok(()) } else { Err(CgroupError::Path { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests;
