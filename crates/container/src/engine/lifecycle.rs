//! Ending, freezing and changing what runs.

use super::{
    Engine,
    error::{At, EngineError},
    hearing::ask_to_end,
    lock::Lock,
    remove::{AGAIN, ignore_missing},
};
use crate::{
    cgroup::{CgroupError, Extras, Host},
    options::ResourceOptions,
    record::Record,
    runtime::{self, identity, number},
    spec::{self, Facts},
    state::Exit,
    sys::process,
};
use jiff::Timestamp;
use model::ContainerId;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};
use std::{fs, io::ErrorKind, os::fd::OwnedFd, path::Path, process::ExitCode, time::Duration};

impl Engine {
    /// Sends a signal to the init process.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] when it does not run.
    pub fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), EngineError> {
        let state = self.running(id, "send a signal to")?;
        match self.init(state.pid, state.start_time)? {
            Some(init) => process::send_signal(&init, signal).at("send a signal to", &self.layout.running(id)),
            None => Ok(()), // it has ended in between, which a signal may well be meant for
        }
    }

    fn init(&self, pid: i32, start_time: u64) -> Result<Option<OwnedFd>, EngineError> {
        identity::open(pid, start_time).at("open", Path::new("/proc"))
    }

    /// Sends the stop signal, waits for the grace (its own when `None`), then kills everything in it. Returns when all is
    /// gone; one that does not run is left as it is. Who can not hear the signal has the whole grace as well, and is told again
    /// when it can.
    ///
    /// # Errors
    /// [`EngineError::Cgroup`] when it can not be killed.
    pub fn stop(&self, id: &ContainerId, grace: Option<Duration>) -> Result<(), EngineError> {
        let record = self.record(id)?;
        let Some(state) = self.observe(id)?.state else { return Ok(()) };
        let grace = grace.unwrap_or(Duration::from_secs(u64::from(record.stop_timeout)));
        if let Some(init) = self.init(state.pid, state.start_time)? {
            let folder = self.layout.running(id);
            let thaw = || match self.frozen(&state).map_err(|source| EngineError::cgroup("stop", id, source))? {
                true => self.resume(id),
                false => Ok(()),
            };
            if !ask_to_end((state.pid, &init), record.stop_signal, grace, &folder, thaw)? {
                self.end_now(id)?;
            }
        }
        // Not for the lock alone: whoever starts it again at this moment would hold it for as long as that runs.
        loop {
            if let Some(lock) = self.try_lock(id)? {
                return if record.remove { self.finish_whole(&record, &lock) } else { self.finish(id, &lock) };
            }
            if self.observe(id)?.state.is_some_and(|now| (now.pid, now.start_time) != (state.pid, state.start_time)) {
                return Ok(());
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Kills every process of a container.
    pub(super) fn end_now(&self, id: &ContainerId) -> Result<(), EngineError> {
        let Some(state) = self.state(id)? else { return Ok(()) };
        let fail = |source| EngineError::cgroup("kill", id, source);
        match Host::detect().and_then(|host| host.open(&state.cgroup)) {
            Ok(group) => {
                if let Err(error) = group.freeze(false) {
                    tracing::debug!(%error, "it was gone before it could thaw");
                }
                group.kill().map_err(fail)?;
            }
            Err(CgroupError::NotFound { .. }) => {}
            Err(error) => return Err(fail(error)),
        }
        if let Some(init) = self.init(state.pid, state.start_time)? {
            process::send_signal(&init, libc::SIGKILL).at("kill", &self.layout.running(id))?;
        }
        Ok(())
    }

    /// Waits until it has ended and everything of its run is cleared away.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] when it was never started, [`EngineError::NotFound`] when it was removed at its end.
    pub fn wait(&self, id: &ContainerId) -> Result<Exit, EngineError> {
        loop {
            self.wait_unlocked(id)?;
            match self.observe(id)?.state {
                Some(state) => {
                    // Its monitor was killed: give it another, which will say how it ended.
                    match self.try_lock(id)? {
                        Some(lock) => drop(self.replace_monitor(id, &state, &lock)?),
                        None => continue,
                    }
                }
                None => break,
            }
        }
        if let Some(lock) = self.try_lock(id)? {
            self.finish(id, &lock)?;
        }
        self.record(id)?;
        let path = self.layout.container(id).join("exit");
        let never =
            || EngineError::WrongState { doing: "wait for", id: id.short().to_owned(), status: super::Status::Created };
        Exit::read(&path).at("read", &path)?.ok_or_else(never)
    }

    /// Freezes every process of a container.
    ///
    /// # Errors
    /// [`EngineError::WrongState`], [`EngineError::Cgroup`].
    pub fn pause(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.cgroup_of(id, "pause")?.freeze(true).map_err(|source| EngineError::cgroup("pause", id, source))
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// [`EngineError::WrongState`], [`EngineError::Cgroup`].
    pub fn resume(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.cgroup_of(id, "resume")?.freeze(false).map_err(|source| EngineError::cgroup("resume", id, source))
    }

    /// Changes limits, of what runs and for later starts; all or nothing, and one after another: each of several at the same
    /// time finds what those before it have changed.
    ///
    /// # Errors
    /// [`EngineError::Spec`] with every fault, [`EngineError::Cgroup`] when the kernel refuses.
    pub fn update(&self, id: &ContainerId, options: &ResourceOptions) -> Result<(), EngineError> {
        let _changing = self.record_lock(id)?;
        let mut record = self.record(id)?;
        let facts = Facts::read().at("read", Path::new("/proc/self/limits"))?;
        spec::apply_update(&mut record, options, &facts).map_err(EngineError::Spec)?;
        if self.observe(id)?.state.is_some() {
            let resources =
                record.spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
            let group = self.cgroup_of(id, "update")?;
            group.update(&resources, &Extras::default()).map_err(|source| EngineError::cgroup("update", id, source))?;
        }
        self.store(&record)
    }

    /// The lock under which the record of a container changes. It is on its folder, which it leaves nothing in, and goes with.
    fn record_lock(&self, id: &ContainerId) -> Result<OwnedFd, EngineError> {
        let path = self.layout.container(id);
        let folder = match open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => return Err(EngineError::NotFound { reference: id.to_string() }),
            folder => folder.at("open", &path)?,
        };
        loop {
            match flock(&folder, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                locked => return locked.map(|()| folder).at("lock", &path),
            }
        }
    }

    /// Clears away what a run left: groups, published ports, leases, the run folder. The holder of the lock calls it once
    /// the init process is gone; twice is the same as once.
    pub(super) fn finish(&self, id: &ContainerId, lock: &Lock) -> Result<(), EngineError> {
        self.clear(id, lock)?;
        self.remove_running(id)
    }

    /// The same, and removes the container: before the lock goes, so that nobody starts it meanwhile.
    pub(super) fn finish_whole(&self, record: &Record, lock: &Lock) -> Result<(), EngineError> {
        self.clear(&record.id, lock)?;
        self.forget(record)?;
        self.remove_running(&record.id)
    }

    /// What [`Engine::finish`] does before it gives the lock up.
    pub(super) fn clear(&self, id: &ContainerId, _lock: &Lock) -> Result<(), EngineError> {
        let state = self.state(id)?;
        let fail = |source| EngineError::cgroup("clear away", id, source);
        let path = state.as_ref().map_or_else(|| self.layout.cgroup(id), |state| state.cgroup.clone());
        let host = Host::detect().map_err(fail)?;
        match host.open(&path) {
            Ok(group) => group.kill().and_then(|()| group.remove()).map_err(fail)?,
            Err(CgroupError::NotFound { .. }) => {}
            Err(error) => return Err(fail(error)),
        }
        self.networks_of().unpublish(id).map_err(EngineError::network)?;
        if let Some(crate::state::Users::Private { base, .. }) = state.as_ref().map(|state| &state.users) {
            let lease = self.layout.users().join((base / super::users::SIZE).to_string());
            if self.users_holder(&lease)?.as_ref() == Some(id) {
                ignore_missing(fs::remove_file(&lease)).at("remove", &lease)?;
            }
        }
        let exit = self.layout.container(id).join("exit");
        if state.is_some() && self.layout.container(id).exists() && !exit.exists() {
            self.ended_unseen(id)?;
        }
        Ok(())
    }

    /// Nobody saw it end: that it has is all there is to say.
    pub(super) fn ended_unseen(&self, id: &ContainerId) -> Result<(), EngineError> {
        let (begun, exit) = (self.begun(id), self.layout.container(id).join("exit"));
        fs::write(&begun, format!("-1 {} 0 0\n", Timestamp::now().as_nanosecond())).at("write", &begun)?;
        // Without it a power cut may leave an exit file with nothing in it.
        fs::File::open(&begun).and_then(|file| file.sync_all()).at("write", &begun)?;
        fs::rename(&begun, &exit).at("write", &exit)
    }

    /// Removes the run folder, its lock last: until then nobody else can hold one, and after that whoever makes a new one
    /// keeps it, and the folder with it.
    pub(super) fn remove_running(&self, id: &ContainerId) -> Result<(), EngineError> {
        let folder = self.layout.running(id);
        for entry in fs::read_dir(&folder).at("list", &folder)? {
            let entry = entry.at("list", &folder)?;
            if entry.file_name() != "lock" {
                let path = entry.path();
                // One folder is where the shim mounts layers and the like, in its own view only: here it is empty. What
                // another runtime keeps is in the other.
                let folder = entry.file_type().at("look at", &path)?.is_dir();
                ignore_missing(match (folder, entry.file_name() == runtime::RUNC_FOLDER) {
                    (true, true) => fs::remove_dir_all(&path),
                    (true, false) => fs::remove_dir(&path),
                    (false, _) => fs::remove_file(&path),
                })
                .at("remove", &path)?;
            }
        }
        let lock = folder.join("lock");
        ignore_missing(fs::remove_file(&lock)).at("remove", &lock)?;
        match fs::remove_dir(&folder) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
            done => done.at("remove", &folder),
        }
    }
}

/// What a monitor becomes at the end of a container that has more to clear away: `--jdos-finish DATA RUN ID`.
pub(crate) fn finish_role(mut arguments: std::env::ArgsOs) -> ExitCode {
    let run = || -> Option<Result<(), EngineError>> {
        let (data, run) = (arguments.next()?, arguments.next()?);
        let id: ContainerId = arguments.next()?.to_str()?.parse().ok()?;
        let lock = Lock::from_descriptor(process::inherited(number::LOCK).ok()?);
        let finish = || {
            let engine = Engine::open(Path::new(&data), Some(Path::new(&run)))?;
            let record = engine.record(&id)?;
            if record.remove { engine.finish_whole(&record, &lock) } else { engine.finish(&id, &lock) }
        };
        Some(finish())
    };
    let mut run = run;
    match run() {
        Some(Ok(())) => ExitCode::SUCCESS,
        // Nobody is there to read it; the next sweep finds what is left.
        Some(Err(_)) | None => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{CreateOptions, RootSource};
    use std::sync::Barrier;

    /// A limit of this size, and what the record then says of the limit.
    type Limit = (fn(u32) -> ResourceOptions, &'static str);
    const LIMITS: [Limit; 3] = [
        (|size| ResourceOptions { pids_limit: Some(size.into()), ..Default::default() }, "/linux/resources/pids/limit"),
        (|size| ResourceOptions { cpu_shares: Some(size.into()), ..Default::default() }, "/linux/resources/cpu/shares"),
        (|size| ResourceOptions { cpu_period: Some(size.into()), ..Default::default() }, "/linux/resources/cpu/period"),
    ];

    #[test]
    fn updates_at_the_same_time_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::open(&folder.path().join("data"), Some(&folder.path().join("run"))).unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let command = vec!["/bin/true".to_owned()];
        let mut options = CreateOptions::new(RootSource::Directory(root), command);
        options.remove = true; // nothing waits for the disk
        let id = engine.create(&options).unwrap().id;
        let barrier = Barrier::new(LIMITS.len());
        std::thread::scope(|scope| {
            for (limit, pointer) in LIMITS {
                let (engine, id, barrier) = (&engine, &id, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for size in 2000..2050 {
                        engine.update(id, &limit(size)).unwrap();
                        // Nobody else changes this one.
                        let spec = serde_json::to_value(engine.record(id).unwrap().spec).unwrap();
                        assert_eq!(
                            spec.pointer(pointer).and_then(serde_json::Value::as_u64),
                            Some(size.into()),
                            "{pointer}"
                        );
                    }
                });
            }
        });
        let left: Vec<_> = fs::read_dir(engine.layout.container(&id)).unwrap().collect();
        assert!(
            left.iter().all(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().contains("lock")),
            "{left:?}"
        );
        engine.remove(&id, false).unwrap();
        assert!(matches!(engine.update(&id, &(LIMITS[0].0)(2000)), Err(EngineError::NotFound { .. })));
    }
}
