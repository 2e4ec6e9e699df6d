//! Starting: from a record to a plan, and a shim that follows it.

use super::{
    Claim, Engine, HANDOVER, Status,
    error::{At, EngineError},
    exec::plan_file,
    lock::Lock,
    remove::{AGAIN, ignore_missing},
};
use crate::{
    attach, monitor,
    network::{Lease, etc},
    options::{RuntimeKind, WindowSize},
    plan::{Plan, UserPlan},
    record::Record,
    runtime::{self, Report, Role, number},
    spec::{self, SpecErrors},
    state::Addresses,
    volume,
};
use model::{ContainerId, NetworkMode};
use rustix::{
    fs::{Mode, OFlags, open},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};
use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    time::Instant,
};

/// A container whose program runs.
#[derive(Debug)]
pub struct Started {
    /// Its init on the host.
    pub pid: i32,
    /// Connected since before the program ran, when asked for.
    pub client: Option<attach::Client>,
    /// What was asked for and could not be had.
    pub warnings: Vec<String>,
}

/// Somebody who is connected from before the program runs.
#[derive(Debug, Clone, Copy)]
pub struct Viewer {
    /// The size of its window: a terminal, if the container has one, is of this size from the first moment.
    pub window: Option<WindowSize>,
}

impl Engine {
    /// Starts a container that does not run. When it fails nothing of the run is left.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] when it runs, [`EngineError::Network`] for a port in use, [`EngineError::Start`] with
    /// what failed, [`EngineError::Spec`] when its runtime is not there.
    pub fn start(&self, id: &ContainerId) -> Result<Started, EngineError> {
        self.begin(id, None)
    }

    /// As [`Engine::start`], with a connection that misses nothing of its output. Its terminal, if it has one, is of the
    /// size of this window from the first moment.
    ///
    /// # Errors
    /// Those of [`Engine::start`].
    pub fn start_attached(&self, id: &ContainerId, window: Option<WindowSize>) -> Result<Started, EngineError> {
        self.begin(id, Some(Viewer { window }))
    }

    fn begin(&self, id: &ContainerId, viewer: Option<Viewer>) -> Result<Started, EngineError> {
        let record = self.record(id)?;
        if let RuntimeKind::Runc(runc) = &record.runtime {
            runc.is_there().map_err(|fault| EngineError::Spec(SpecErrors(vec![fault])))?;
        }
        let wrong = || EngineError::WrongState { doing: "start", id: id.short().to_owned(), status: Status::Running };
        let deadline = Instant::now() + HANDOVER;
        let lock = loop {
            if let Some(lock) = self.try_lock(id)? {
                break lock;
            }
            if self.observe(id)?.state.is_some() {
                return Err(wrong());
            }
            // What it was has ended, and is being cleared away; or another process starts it.
            if Instant::now() >= deadline {
                return Err(EngineError::busy("start", id));
            }
            std::thread::sleep(AGAIN);
        };
        // Once more: it may have been removed, or changed, while the lock was another's.
        let record = match self.record(id) {
            Err(error @ EngineError::NotFound { .. }) => {
                self.remove_running(id)?;
                return Err(error);
            }
            record => record?,
        };
        if let Some(state) = self.observe(id)?.state {
            drop(self.replace_monitor(id, &state, &lock)?); // what it lost is in its state
            return Err(wrong());
        }
        self.start_locked(&record, &lock, viewer)
    }

    /// Starts what was created to be started.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_claimed(&self, claim: Claim, viewer: Option<Viewer>) -> Result<Started, EngineError> {
        self.start_locked(&self.record(&claim.id)?, &claim.lock, viewer)
    }

    fn start_locked(&self, record: &Record, lock: &Lock, viewer: Option<Viewer>) -> Result<Started, EngineError> {
        let id = &record.id;
        ignore_missing(fs::remove_file(self.layout.container(id).join("exit")))
            .at("remove", &self.layout.container(id))?;
        match self.launch(record, lock.as_fd(), viewer) {
            Ok(started) => Ok(started),
            Err(error) => {
                if let Err(rest) = self.finish(id, lock) {
                    tracing::warn!(error = %rest, %id, "the rest of a failed start is left to the next sweep");
                }
                Err(error)
            }
        }
    }

    fn launch(&self, record: &Record, lock: BorrowedFd<'_>, viewer: Option<Viewer>) -> Result<Started, EngineError> {
        let id = &record.id;
        if !record.chown.is_empty() {
            volume::with_root(&record.root, &self.layout.container(id), |root| volume::own(record, root))
                .map_err(|source| EngineError::volume(id, source))?;
        }
        let network = EngineError::network;
        let networks = self.networks_of();
        let lease = match &record.network {
            NetworkMode::Bridge(name) if own_network(record) => {
                Some(networks.lease(name, record.identity(), record.ip).map_err(network)?)
            }
            _ => None,
        };
        let reserved = match &lease {
            Some(lease) if !record.ports.is_empty() => {
                let reserved = networks.reserve(&record.ports).map_err(network)?;
                networks.publish(id, lease, &record.ports).map_err(network)?;
                reserved
            }
            _ => Vec::new(),
        };
        let mut plan = self.plan(record, lease, reserved.len(), viewer.is_some())?;
        if let Some(window) = viewer.and_then(|viewer| viewer.window).filter(|_| record.tty()) {
            plan.program.process.set_console_size(Some(window.into()));
        }
        let result = self.run_shim(&plan, lock, &reserved, viewer.is_some());
        if let (Err(_), UserPlan::Leased { base, .. }) = (&result, &plan.users) {
            self.forget_users(&self.layout.users().join((base / super::users::SIZE).to_string()), Some(id))?;
        }
        result
    }

    fn plan(&self, record: &Record, lease: Option<Lease>, held: usize, client: bool) -> Result<Plan, EngineError> {
        use model::NetworkMode as Mode;
        use oci_spec::runtime::LinuxNamespaceType as Type;
        let id = &record.id;
        let linux = record.spec.linux().as_ref();
        let mapped = linux.and_then(|linux| linux.uid_mappings().as_ref()).filter(|maps| !maps.is_empty());
        let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
        let own_users = namespaces.is_some_and(|all| all.iter().any(|one| one.typ() == Type::User));
        let users = match (record.userns, mapped) {
            (_, Some(uids)) if own_users => UserPlan::Mapped {
                uids: uids.clone(),
                gids: linux.and_then(|linux| linux.gid_mappings().clone()).unwrap_or_default(),
            },
            (Some(crate::options::NamespaceMode::Host), _) => UserPlan::Host(spec::why_host_users(record).to_owned()),
            (wish, _) => {
                let (base, _) = self.lease_users(id)?;
                UserPlan::Leased { base, size: super::users::SIZE, required: wish.is_some() }
            }
        };
        let leased = match &users {
            UserPlan::Leased { base, .. } => Some(*base),
            _ => None,
        };
        let files = self.files(record, lease.as_ref())?;
        let cgroup = match linux.and_then(|linux| linux.cgroups_path().as_ref()) {
            Some(path) if path.is_absolute() => path.to_string_lossy().trim_start_matches('/').to_owned(),
            _ => self.layout.cgroup(id),
        };
        debug_assert!(lease.is_none() || matches!(record.network, Mode::Bridge(_)));
        Ok(Plan {
            program: self.program_of(record),
            record: record.clone(),
            container: self.layout.container(id),
            running: self.layout.running(id),
            cgroup,
            users,
            lease,
            files,
            monitor: monitor::install(&self.layout).at("install the monitor in", self.layout.run())?,
            unlink: self.at_end_of(id, leased),
            finally: self.finally(record)?,
            folders: (self.layout.data().to_owned(), self.layout.run().to_owned()),
            held: u32::try_from(held).unwrap_or(u32::MAX),
            client,
        })
    }

    fn run_shim(
        &self,
        plan: &Plan,
        lock: BorrowedFd<'_>,
        reserved: &[OwnedFd],
        attach: bool,
    ) -> Result<Started, EngineError> {
        let id = &plan.record.id;
        let running = &plan.running;
        let paper = plan_file(plan).at("write the plan of", running)?;
        let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (report, theirs) = pair().at("open a socket for", running)?;
        let (client, far) = match attach {
            true => pair().map(|(near, far)| (Some(near), Some(far))).at("open a socket for", running)?,
            false => (None, None),
        };
        let null =
            open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open", Path::new("/dev/null"))?;
        let mut descriptors: Vec<(BorrowedFd<'_>, RawFd)> = vec![
            (null.as_fd(), 0),
            (null.as_fd(), 1),
            (null.as_fd(), 2),
            (paper.as_fd(), number::PLAN),
            (theirs.as_fd(), number::REPORT),
            (lock, number::LOCK),
        ];
        descriptors.extend(far.iter().map(|far| (far.as_fd(), number::CLIENT)));
        descriptors.extend(reserved.iter().map(AsFd::as_fd).zip(number::HELD..));
        runtime::spawn(Role::Shim, &descriptors).at("run a shim for", running)?;
        drop((theirs, far));
        let client = client.map(attach::Client::from_fd);
        let (word, _) = runtime::receive_report(report.as_fd()).map_err(|source| EngineError::start(id, source))?;
        match word {
            Report::Started { pid, warnings } => Ok(Started { pid, client, warnings }),
            Report::Failed(source) => Err(EngineError::start(id, source)),
            Report::Ended(_) => Err(EngineError::busy("start", id)),
        }
    }

    /// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, where they are the engine's and the user mounted none.
    fn files(&self, record: &Record, lease: Option<&Lease>) -> Result<Vec<(PathBuf, PathBuf)>, EngineError> {
        if !record.manage_etc {
            return Ok(Vec::new());
        }
        let folder = self.layout.container(&record.id);
        let hostname = record.spec.hostname().clone().unwrap_or_else(|| record.id.short().to_owned());
        let addresses = lease.map(|lease| Addresses { ipv4: lease.ipv4, ipv6: lease.ipv6 });
        let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolved = fs::read_to_string("/run/systemd/resolve/resolv.conf").ok();
        let texts = [
            ("hosts", etc::hosts(&hostname, addresses.as_ref(), &record.dns.hosts)),
            ("hostname", etc::hostname(&hostname)),
            ("resolv.conf", etc::resolv_conf(&record.dns, &host, resolved.as_deref())),
        ];
        let taken = |path: &Path| record.spec.mounts().iter().flatten().any(|mount| mount.destination() == path);
        let mut files = Vec::new();
        for (name, text) in texts {
            let inside = Path::new("/etc").join(name);
            if taken(&inside) {
                continue;
            }
            let path = folder.join(name);
            fs::write(&path, text).at("write", &path)?;
            files.push((path, inside));
        }
        Ok(files)
    }
}

/// Whether a network namespace is made for it (and not joined by path, or the host's).
fn own_network(record: &Record) -> bool {
    use oci_spec::runtime::LinuxNamespaceType as Type;
    let namespaces = record.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.is_some_and(|all| all.iter().any(|one| one.typ() == Type::Network && one.path().is_none()))
}
