//! Closing the gap between what is recorded and what there is: the one path of recovery.
//!
//! What has a record and runs without a monitor is given one; what is recorded as running and does not is cleared away;
//! what has no record goes. Twice is the same as once, and any process may do it at any time. What can not be mended is
//! told, and keeps nothing else from being mended.

use super::{
    Engine,
    error::{At, EngineError},
    exec::own_program,
    lock::Lock,
    remove::ignore_missing,
};
use crate::{
    cgroup::Host,
    monitor,
    network::NetworkError,
    options::RuntimeKind,
    record::Record,
    runtime::{identity, number, shim},
    state::State,
    sys::process,
    volume::Volumes,
};
use model::{ContainerId, ContainerName};
use rustix::fs::{FlockOperation, Mode, OFlags, open};
use serde::Serialize;
use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

/// Longer than it takes to install the monitor.
const INSTALLATION: Duration = Duration::from_secs(60);

/// What a sweep found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reconciled {
    /// Ids of running containers.
    pub adopted: Vec<String>,
    /// Ids of those whose monitor had died and was replaced.
    pub monitors_replaced: Vec<String>,
    /// What was cleared away.
    pub swept: Vec<String>,
    /// What could not be mended, or not in full; the next call tries again.
    pub troubles: Vec<Trouble>,
}

/// One thing that could not be mended, or not in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The container whose it is; absent when it is nobody's in particular.
    pub container: Option<ContainerId>,
    /// Its name, where it has one.
    pub name: Option<ContainerName>,
    /// What went wrong, on what.
    pub message: String,
    /// Causes, outermost first.
    pub why: Vec<String>,
}

impl Trouble {
    pub(super) fn new(error: &dyn std::error::Error) -> Self {
        let causes = std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string);
        Self { container: None, name: None, message: error.to_string(), why: causes.collect() }
    }
    fn of(record: &Record, error: &dyn std::error::Error) -> Self {
        Self { container: Some(record.id.clone()), name: Some(record.name.clone()), ..Self::new(error) }
    }
}

impl Reconciled {
    /// Notes what failed, so that the rest is done all the same.
    fn note(&mut self, result: Result<(), EngineError>) {
        self.troubles.extend(result.err().map(|error| Trouble::new(&error)));
    }
}

impl Engine {
    /// Looks at everything once and mends it. What can not be mended is among the [`Reconciled::troubles`]; everything else
    /// is mended all the same.
    ///
    /// # Errors
    /// [`EngineError::File`] when the containers can not be listed.
    pub fn reconcile(&self) -> Result<Reconciled, EngineError> {
        let mut done = Reconciled::default();
        let mut live = Vec::new();
        let runs = self.layout.run().join("containers");
        for id in entries::<ContainerId>(&runs)? {
            match self.mend(&id, &mut done) {
                Ok(false) => {}
                Ok(true) => live.push(id),
                Err(error) => {
                    let trouble = Trouble { container: Some(id.clone()), ..Trouble::new(&error) };
                    done.troubles.push(Trouble { name: self.record(&id).ok().map(|record| record.name), ..trouble });
                    live.push(id); // what is not known to be over keeps its network
                }
            }
        }
        let swept = self.sweep_records(&mut done);
        done.note(swept);
        let swept = self.sweep_groups(&mut done);
        done.note(swept);
        let swept = self.sweep_folders(&mut done);
        done.note(swept);
        let swept = self.sweep_users(&mut done);
        done.note(swept);
        let swept = self.sweep_programs(&mut done);
        done.note(swept);
        done.note(self.networks_of().reconcile(&live).map(drop).map_err(EngineError::network));
        done.note(self.remove_parent_group());
        done.adopted.sort();
        Ok(done)
    }

    /// Mends what one run folder stands for; whether its container is alive.
    fn mend(&self, id: &ContainerId, done: &mut Reconciled) -> Result<bool, EngineError> {
        let Some(lock) = self.try_lock(id)? else {
            if self.observe(id)?.state.is_some() {
                done.adopted.push(id.to_string());
            }
            return Ok(true); // being started or ended counts: its holder clears away itself
        };
        let record = match self.record(id) {
            Ok(record) => Some(record),
            Err(EngineError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        match (record, self.observe(id)?.state) {
            (Some(record), Some(state)) => {
                let lost = self.replace_monitor(id, &state, &lock)?;
                done.troubles.extend(lost.iter().map(|error| Trouble::of(&record, error)));
                done.monitors_replaced.push(id.to_string());
                done.adopted.push(id.to_string());
                Ok(true)
            }
            (record, _) => {
                self.end_now(id)?;
                match record.filter(|record| record.remove) {
                    Some(record) => self.finish_whole(&record, &lock)?,
                    None => self.finish(id, &lock)?,
                }
                done.swept.push(format!("run of {id}"));
                Ok(false)
            }
        }
    }

    /// Containers without a run folder that are not what their record says: those that a power cut has ended, and those
    /// that were to be removed at their end and will not come to it.
    fn sweep_records(&self, done: &mut Reconciled) -> Result<(), EngineError> {
        for id in self.ids()? {
            match self.sweep_record(&id) {
                Ok(swept) => done.swept.extend(swept),
                Err(EngineError::NotFound { .. }) => {}
                Err(error) => {
                    done.troubles.push(Trouble { container: Some(id), ..Trouble::new(&error) });
                }
            }
        }
        Ok(())
    }

    fn sweep_record(&self, id: &ContainerId) -> Result<Option<String>, EngineError> {
        let look = || -> Result<_, EngineError> {
            let record = self.record(id)?;
            let ended = self.layout.container(id).join("exit").exists();
            let cut_off = self.begun(id).exists() && !ended;
            let over = record.remove && (record.claimed || cut_off || ended);
            Ok((over || cut_off).then_some((record, over)))
        };
        if self.layout.running(id).exists() || look()?.is_none() {
            return Ok(None);
        }
        let Some(lock) = self.try_lock(id)? else { return Ok(None) };
        // Once more, now that nobody changes it.
        match (self.observe(id)?.state, look()?) {
            (None, Some((record, true))) => {
                self.finish_whole(&record, &lock)?;
                Ok(Some(format!("container {id}")))
            }
            (None, Some((_, false))) => {
                self.ended_unseen(id)?;
                self.finish(id, &lock)?;
                Ok(Some(format!("run of {id}")))
            }
            _ => Ok(None), // whoever was quicker has done it
        }
    }

    /// Ranges of user ids whose container does not run.
    fn sweep_users(&self, done: &mut Reconciled) -> Result<(), EngineError> {
        for entry in fs::read_dir(self.layout.users()).at("list", &self.layout.users())? {
            let path = entry.at("list", &self.layout.users())?.path();
            match self.forget_users(&path, None) {
                Ok(true) => done.swept.push(format!("user ids {}", path.display())),
                Ok(false) => {}
                Err(error) => done.note(Err(error)),
            }
        }
        Ok(())
    }

    /// Control groups of ours that belong to nothing that runs.
    fn sweep_groups(&self, done: &mut Reconciled) -> Result<(), EngineError> {
        let tag = self.layout.tag();
        let fail =
            |source| EngineError::Cgroup { doing: "sweep the groups of", id: tag.to_owned(), source: Box::new(source) };
        let host = Host::detect().map_err(fail)?;
        for name in host.children(tag).map_err(fail)? {
            let Ok(id) = name.parse::<ContainerId>() else { continue };
            // The run folder comes first in a start and goes last: without it there is nobody whose group this is.
            if self.layout.running(&id).exists() {
                continue;
            }
            let clear = || {
                let group = host.open(&format!("{tag}/{name}"))?;
                group.kill()?;
                group.remove()
            };
            match clear().map_err(fail) {
                Ok(()) => done.swept.push(format!("control groups of {id}")),
                Err(error) => done.note(Err(error)),
            }
        }
        Ok(())
    }

    /// Folders without a record, and names of nothing, unless something is being created at this moment.
    fn sweep_folders(&self, done: &mut Reconciled) -> Result<(), EngineError> {
        let Some(_creating) = self.creation_lock(FlockOperation::NonBlockingLockExclusive)? else { return Ok(()) };
        let recorded = self.ids()?;
        for id in entries::<ContainerId>(&self.layout.data().join("containers"))? {
            if !recorded.contains(&id) && !self.layout.running(&id).exists() {
                match self.remove_unfinished_volumes(&id).and_then(|()| self.discard(&id)) {
                    Ok(()) => done.swept.push(format!("folder of {id}")),
                    Err(error) => done.note(Err(error)),
                }
            }
        }
        done.swept.extend(Volumes::new(&self.layout).sweep().map_err(|source| EngineError::Volumes { source })?);
        for name in entries::<ContainerName>(&self.layout.data().join("names"))? {
            let path = self.layout.name(&name);
            let target = fs::read_link(&path).unwrap_or_default();
            if !recorded.iter().any(|id| Path::new(id.as_str()) == target) {
                ignore_missing(fs::remove_file(&path)).at("remove", &path)?;
                done.swept.push(format!("name {name}"));
            }
        }
        Ok(())
    }

    /// Monitors that were being installed when their writer was killed. Nothing says who it was: one that is at it needs no
    /// minute for a few pages, and starts anew if it does.
    fn sweep_programs(&self, done: &mut Reconciled) -> Result<(), EngineError> {
        for folder in [self.layout.run().join("bin"), self.layout.data().join("bin")] {
            if !folder.exists() {
                continue; // in the data folder only where it was needed
            }
            for name in entries::<String>(&folder)?.iter().filter(|name| name.starts_with(monitor::HALF_INSTALLED)) {
                let path = folder.join(name);
                let written = match fs::symlink_metadata(&path).and_then(|found| found.modified()) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // it is whole now
                    written => written.at("look at", &path)?,
                };
                // A clock that was set back makes the age an error: the next sweep sees it.
                if written.elapsed().is_ok_and(|age| age > INSTALLATION) {
                    ignore_missing(fs::remove_file(&path)).at("remove", &path)?;
                    done.swept.push(format!("half a program {name}"));
                }
            }
        }
        Ok(())
    }

    /// Gives a running container a new monitor, which holds the lock from now on. A published port that somebody else has
    /// taken meanwhile is no reason to leave the container without: packets are led to it as before, since the rule for that
    /// is still there. Gives what says so, which `inspect` shows
    /// from then on.
    pub(super) fn replace_monitor(
        &self,
        id: &ContainerId,
        state: &State,
        lock: &Lock,
    ) -> Result<Vec<NetworkError>, EngineError> {
        let record = self.record(id)?;
        let running = self.layout.running(id);
        let Some(init) = identity::open(state.pid, state.start_time).at("open", Path::new("/proc"))? else {
            return Ok(Vec::new()); // it has just ended; whoever waits clears away
        };
        let start = |failure| EngineError::start(id, failure);
        let listen = shim::listen_at(&running).map_err(start)?;
        let open_at =
            |name: &str, flags| open(running.join(name), flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
        let output = open_at("out", OFlags::RDONLY).at("open", &running.join("out"))?;
        let error = open_at("err", OFlags::RDONLY).at("open", &running.join("err"))?;
        let input = open_at("in", OFlags::WRONLY).ok(); // its reader may be gone, or there was never one
        let null =
            open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open", Path::new("/dev/null"))?;
        let (mut reserved, mut lost): (Vec<OwnedFd>, _) = (Vec::new(), Vec::new());
        for port in &record.ports {
            match self.networks_of().reserve(std::slice::from_ref(port)) {
                Ok(held) => reserved.extend(held),
                Err(error) => lost.push(error),
            }
        }
        if !lost.is_empty() {
            let mut state = state.clone();
            state.warnings.extend(lost.iter().map(|error| format!("its port is not held any more: {error}")));
            self.store_state(id, &state)?;
        }
        let group = Host::detect()
            .and_then(|host| host.open(&state.cgroup))
            .map_err(|source| EngineError::cgroup("adopt", id, source))?;
        let mut descriptors: Vec<(BorrowedFd<'_>, RawFd)> = Vec::new();
        for (descriptor, at) in [
            (null.as_fd(), 0),
            (null.as_fd(), 1),
            (null.as_fd(), 2),
            (init.as_fd(), 3),
            (output.as_fd(), 4),
            (lock.as_fd(), number::LOCK),
            (error.as_fd(), 6),
            (listen.as_fd(), 7),
        ] {
            descriptors.push((descriptor, at));
        }
        descriptors.extend(input.iter().map(|input| (input.as_fd(), 8)));
        descriptors.extend(reserved.iter().map(AsFd::as_fd).zip(9..));
        let arguments = monitor::Arguments {
            pid: state.pid,
            pidfd: 3,
            adopted: true,
            output: 4,
            error: Some(6),
            input: input.as_ref().map(|_| 8),
            tty: false,
            interactive: record.interactive,
            listen: 7,
            client: None,
            log: self.layout.container(id).join("log"),
            max_size: record.log.max_size.0,
            max_files: record.log.max_files,
            exit: self.layout.container(id).join("exit"),
            sync: !record.remove,
            oom: group.oom_file(),
            cgroups: group.directories(),
            unlink: self.at_end(&record, state),
            finally: self.finally(&record)?,
        };
        let program = monitor::install(&self.layout).at("install the monitor in", self.layout.run())?;
        let path = CString::new(program.as_os_str().as_encoded_bytes()).map_err(io::Error::from).at("run", &program)?;
        let words = arguments.to_argv().at("run", &program)?;
        process::spawn(&path, &words, &[], &descriptors).at("run", &program)?;
        tracing::debug!(%id, listen = listen.as_raw_fd(), "replaced the monitor");
        Ok(lost)
    }

    /// Files that go when this run ends.
    pub(super) fn at_end(&self, record: &Record, state: &State) -> Vec<std::path::PathBuf> {
        let lease = match state.users {
            crate::state::Users::Private { base, .. } => Some(base),
            crate::state::Users::Host { .. } => None,
        };
        self.at_end_of(&record.id, lease)
    }

    pub(super) fn at_end_of(&self, id: &ContainerId, lease: Option<u32>) -> Vec<std::path::PathBuf> {
        let running = self.layout.running(id);
        let mut all: Vec<_> =
            ["state.json", "attach", "out", "err", "in"].iter().map(|name| running.join(name)).collect();
        all.extend(lease.map(|base| self.layout.users().join((base / super::users::SIZE).to_string())));
        all
    }

    /// What the monitor becomes at the end, when there is more to clear away than it does itself.
    pub(super) fn finally(&self, record: &Record) -> Result<Vec<String>, EngineError> {
        let plain = record.runtime == RuntimeKind::Jdos; // another keeps more than files
        if plain && !record.remove && record.ports.is_empty() && !record.may_make_groups() {
            return Ok(Vec::new());
        }
        let own = std::env::current_exe().at("find", Path::new("/proc/self/exe"))?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (data, run) = (text(self.layout.data()), text(self.layout.run()));
        Ok(vec![text(&own), "--jdos-finish".to_owned(), data, run, record.id.to_string()])
    }

    /// The container's own program.
    pub(super) fn program_of(&self, record: &Record) -> crate::plan::Program {
        own_program(record, self.layout.container(&record.id))
    }
}

/// Entries of a folder whose names are of this kind.
fn entries<T: std::str::FromStr>(folder: &Path) -> Result<Vec<T>, EngineError> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).at("list", folder)? {
        let name = entry.at("list", folder)?.file_name();
        all.extend(name.to_str().and_then(|name| name.parse::<T>().ok()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, time::SystemTime};

    #[test]
    fn half_installed_monitors_are_swept_when_nobody_can_be_at_it() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::open(&folder.path().join("data"), Some(&folder.path().join("run"))).unwrap();
        let swept = || {
            let mut done = Reconciled::default();
            engine.sweep_programs(&mut done).unwrap();
            done.swept
        };
        let put = |path: &str, seconds: u64| {
            let file = File::create(folder.path().join(path)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        assert!(swept().is_empty(), "without a folder for programs in the data folder");
        fs::create_dir(folder.path().join("data/bin")).unwrap();
        for bin in ["data/bin", "run/bin"] {
            put(&format!("{bin}/.monitor-0011223344556677"), 61);
            put(&format!("{bin}/.monitor-8899aabbccddeeff"), 1);
            put(&format!("{bin}/monitor-0011223344556677"), 3600);
        }
        assert_eq!(swept(), ["half a program .monitor-0011223344556677"; 2]);
        for bin in ["data/bin", "run/bin"] {
            let mut left = entries::<String>(&folder.path().join(bin)).unwrap();
            left.sort();
            assert_eq!(left, [".monitor-8899aabbccddeeff", "monitor-0011223344556677"], "{bin}");
        }
        assert!(swept().is_empty(), "nothing is left to do");
    }
}
