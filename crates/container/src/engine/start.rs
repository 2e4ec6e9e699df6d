//! Starting: from a record to a plan, and a shim that follows it.

use super::{
    Engine, Status,
    error::{At, EngineError},
    exec::plan_file,
    remove::ignore_missing,
};
use crate::{
    attach, monitor,
    network::{Lease, etc},
    options::RuntimeKind,
    plan::{Plan, UserPlan},
    record::Record,
    runtime::{self, Report, Role, number},
    spec::{self, SpecErrors},
    state::Addresses,
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

impl Engine {
    /// Starts a container that does not run. When it fails nothing of the run is left.
    ///
    /// # Errors
    /// [`EngineError::WrongState`] when it runs, [`EngineError::Network`] for a port in use, [`EngineError::Start`] with
    /// what failed, [`EngineError::Spec`] when its runtime is not there.
    pub fn start(&self, id: &ContainerId, attach: bool) -> Result<Started, EngineError> {
        let record = self.record(id)?;
        if let RuntimeKind::Runc(runc) = &record.runtime {
            runc.is_there().map_err(|fault| EngineError::Spec(SpecErrors(vec![fault])))?;
        }
        let wrong = || EngineError::WrongState { doing: "start", id: id.short().to_owned(), status: Status::Running };
        let Some(lock) = self.try_lock(id)? else {
            return Err(if self.observe(id)?.state.is_some() { wrong() } else { EngineError::busy("start", id) });
        };
        if let Some(state) = self.observe(id)?.state {
            self.replace_monitor(id, &state, &lock)?;
            return Err(wrong());
        }
        ignore_missing(fs::remove_file(self.layout.container(id).join("exit")))
            .at("remove", &self.layout.container(id))?;
        match self.launch(&record, lock.as_fd(), attach) {
            Ok(started) => Ok(started),
            Err(error) => {
                if let Err(rest) = self.finish(id, &lock) {
                    tracing::warn!(error = %rest, %id, "the rest of a failed start is left to the next sweep");
                }
                Err(error)
            }
        }
    }

    fn launch(&self, record: &Record, lock: BorrowedFd<'_>, attach: bool) -> Result<Started, EngineError> {
        let id = &record.id;
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
        let plan = self.plan(record, lease, reserved.len(), attach)?;
        let result = self.run_shim(&plan, lock, &reserved, attach);
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
