//! The shim: one single-threaded process per container that starts it and then becomes its monitor.

use super::{
    identity,
    message::{self, During, Failure, FailureKind, Report},
    mounts, number,
};
use crate::{
    cgroup::{Cgroup, Extras, Host},
    monitor,
    network::Networks,
    plan::{Plan, UserPlan},
    state::{Addresses, State, Users},
    sys::{
        mount::{Change, set_attributes},
        process,
    },
};
use jiff::Timestamp;
use oci_spec::runtime::LinuxIdMapping;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{CWD, FileType, Mode, OFlags, fchmod, fchown, mknodat, open},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
    process::{Signal, WaitId, WaitIdOptions, chdir, pidfd_send_signal, set_child_subreaper, umask, waitid},
};
use std::{
    fs, io,
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Entry of the role.
pub fn main() -> ExitCode {
    let Ok(report) = process::inherited(number::REPORT) else { return ExitCode::from(2) };
    let failure = match start(report.as_fd()) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    // A manager that is gone sweeps what this container left when it looks next.
    match message::send(report.as_fd(), &Report::Failed(failure), &[]) {
        Ok(()) => ExitCode::FAILURE,
        Err(_) => ExitCode::from(2),
    }
}

fn start(report: BorrowedFd<'_>) -> Result<std::convert::Infallible, Failure> {
    let mut text = Vec::new();
    let mut file = fs::File::from(process::inherited(number::PLAN).during("take", "the plan")?);
    file.read_to_end(&mut text).during("read", "the plan")?;
    drop(file);
    let plan: Plan = serde_json::from_slice(&text).map_err(io::Error::from).during("read", "the plan")?;
    let mut kept = vec![process::inherited(number::LOCK).during("take", "the lock")?];
    for index in 0..plan.held {
        let at = number::HELD + i32::try_from(index).unwrap_or(i32::MAX);
        kept.push(process::inherited(at).during("take", "a reserved port")?);
    }
    let client = match plan.client {
        true => Some(process::inherited(number::CLIENT).during("take", "the first client")?),
        false => None,
    };
    set_child_subreaper(Some(rustix::process::getpid())).during("become", "a subreaper")?;
    chdir(c"/").during("enter", "/")?;
    umask(Mode::empty());

    let host = Host::detect().map_err(failed("find", "control groups"))?;
    let resources = plan.record.spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    let cgroup = host
        .create(&plan.cgroup, &resources, &Extras::default())
        .map_err(failed("make", "the container's control groups"))?;
    let channels = Channels::open(&plan)?;
    let site = Site { plan: &plan, host: &host, cgroup: &cgroup, channels: &channels };
    let mut warnings = Vec::new();
    let mut users = plan.users.clone();
    let started = loop {
        let result = plan.record.runtime.chosen().start(&site, &users, &mut warnings);
        match (result, &users) {
            (Err(failure), UserPlan::Leased { required: false, .. }) if failure.kind == FailureKind::NoIdmap => {
                warnings.push(format!("runs with the host's users: {failure}"));
                users = UserPlan::Host(failure.to_string());
            }
            (result, _) => break result,
        }
    };
    let started = match started {
        Ok(started) => started,
        Err(failure) => {
            undo(&plan, &cgroup);
            return Err(failure);
        }
    };
    let told = message::send(report, &Report::Started { pid: started.pid, warnings }, &[]);
    if let Err(error) = told {
        tracing::debug!(%error, "the manager has gone; the container runs on");
    }
    become_monitor(&plan, &cgroup, &channels, &started, client.as_ref(), &kept)
}

pub(super) fn failed<E: std::error::Error>(operation: &'static str, subject: &'static str) -> impl Fn(E) -> Failure {
    move |error| {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            reason = format!("{reason}: {inner}");
            source = inner.source();
        }
        Failure::new(FailureKind::Failed, operation, subject, reason)
    }
}

/// Leaves nothing of a start that failed. What can not be removed now has no recorded state and is swept later.
fn undo(plan: &Plan, cgroup: &Cgroup) {
    if let Err(error) = cgroup.kill().and_then(|()| cgroup.remove()) {
        tracing::warn!(%error, "control groups of a failed start remain until the next sweep");
    }
    for name in ["state.json", "attach", "out", "err", "in"] {
        match fs::remove_file(plan.running.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, name, "a file of a failed start remains until the next sweep");
            }
            _ => {}
        }
    }
}

/// Pipes and the socket of one container.
pub struct Channels {
    /// The container's ends of standard input, output and error.
    pub inside: [OwnedFd; 3],
    /// The monitor's ends.
    outside: Outside,
    listen: OwnedFd,
}
struct Outside {
    input: Option<OwnedFd>,
    output: OwnedFd,
    error: OwnedFd,
}

impl Channels {
    fn open(plan: &Plan) -> Result<Self, Failure> {
        let fifo = |name: &str| -> Result<(OwnedFd, OwnedFd), Failure> {
            let path = plan.running.join(name);
            match mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).during("make", path.display()),
            }
            let flags = OFlags::CLOEXEC | OFlags::NONBLOCK;
            let outside = open(&path, OFlags::RDONLY | flags, Mode::empty()).during("open", path.display())?;
            // Read and write: the pipe then has a reader at any time, and a killed monitor does not end the container.
            let inside = open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).during("open", path.display())?;
            Ok((inside, outside))
        };
        let (output, output_outside) = fifo("out")?;
        let (error, error_outside) = fifo("err")?;
        let (input, input_outside) = if plan.record.interactive && !plan.record.tty() {
            let path = plan.running.join("in");
            match mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).during("make", path.display()),
            }
            let hold = open(&path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
                .during("open", path.display())?;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let outside = open(&path, flags, Mode::empty()).during("open", path.display())?;
            let inside = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path.display())?;
            drop(hold);
            (inside, Some(outside))
        } else {
            let null =
                open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", "/dev/null")?;
            (null, None)
        };
        Ok(Self {
            inside: [input, output, error],
            outside: Outside { input: input_outside, output: output_outside, error: error_outside },
            listen: listen_at(&plan.running)?,
        })
    }
}

/// The socket `attach` of a container. The folder is named by descriptor: its path may be longer than an address holds.
pub fn listen_at(running: &Path) -> Result<OwnedFd, Failure> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).during("open", "a socket")?;
    let folder = mounts::stage(running)?;
    let address = format!("/proc/self/fd/{}/attach", folder.as_raw_fd());
    match fs::remove_file(&address) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).during("replace", "the socket"),
        _ => {}
    }
    let address = SocketAddrUnix::new(address.as_str()).during("name", "the socket")?;
    // The file takes the mode that the socket has when it is bound: what is typed into a container is root's to type.
    fchmod(&socket, Mode::from_raw_mode(0o600)).during("keep to root", "the socket")?;
    bind(&socket, &address).during("bind", running.join("attach").display())?;
    listen(&socket, 8).during("listen at", running.join("attach").display())?;
    Ok(socket)
}

/// A container that is about to run, or does.
pub struct Started {
    /// Its init, as the host numbers it.
    pub pid: i32,
    /// Refers to it.
    pub pidfd: OwnedFd,
    /// The master of its terminal.
    pub master: Option<OwnedFd>,
}

/// Where a container is to be made: what there is of it before its first process.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// The machine's control groups.
    pub host: &'a Host,
    /// The container's, with their limits.
    pub cgroup: &'a Cgroup,
    /// Its pipes.
    pub channels: &'a Channels,
}

/// A mount namespace that only this process is in, which receives what is mounted on the host meanwhile.
pub struct OwnMounts {
    outside: OwnedFd,
}

impl OwnMounts {
    /// Makes it and enters it; paths are looked up from its root from now on.
    pub fn enter() -> Result<Self, Failure> {
        let path = "/proc/self/ns/mnt";
        let outside = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)?;
        process::unshare(libc::CLONE_NEWNS).during("make", "a mount namespace")?;
        let own = Self { outside };
        let separate = || {
            let root = super::tree::open_host(Path::new("/")).during("open", "/")?;
            let propagation = Some(rustix::mount::MountPropagationFlags::DOWNSTREAM);
            let change = Change { propagation, recursive: true, ..Change::default() };
            set_attributes(root.as_fd(), change).during("separate", "its mounts")
        };
        match separate() {
            Ok(()) => Ok(own),
            Err(failure) => own.leave().and(Err(failure)),
        }
    }

    /// Returns to the host's. What was mounted here goes, but for what others have taken, once what this gives is dropped:
    /// the kernel takes its time for that.
    pub fn leave(self) -> Result<OwnedFd, Failure> {
        let path = "/proc/self/ns/mnt";
        let inside = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path);
        let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
        rustix::thread::move_into_link_name_space(self.outside.as_fd(), kind)
            .during("return to", "the host's mounts")?;
        inside
    }
}

/// Gives the pipes to the container's root.
pub(super) fn give_channels(plan: &Plan, owner: (u32, u32)) -> Result<(), Failure> {
    for name in ["out", "err", "in"] {
        let path = plan.running.join(name);
        match open(&path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
            Ok(fifo) => {
                fchown(&fifo, Some(rustix::fs::Uid::from_raw(owner.0)), Some(rustix::fs::Gid::from_raw(owner.1)))
                    .during("give to the container", path.display())?
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).during("open", path.display()),
        }
    }
    Ok(())
}

/// Sets the network up from outside, when it has a lease.
pub(super) fn attach_network(plan: &Plan, pid: i32) -> Result<(), Failure> {
    let Some(lease) = &plan.lease else { return Ok(()) };
    let networks = Networks::new(&plan.layout().during("open", plan.folders.0.display())?);
    let namespace = namespace(pid, "net")?;
    networks.attach(lease, &plan.record.id, namespace.as_fd()).map_err(failed("set up", "the container's network"))
}

/// Kills and reaps a child that is not to run.
pub(super) fn end(pidfd: &OwnedFd) {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => tracing::warn!(%error, "the child of a failed start could not be killed"),
    }
    if let Err(error) = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
        tracing::debug!(%error, "the child of a failed start was reaped by another");
    }
}

/// Who the container's root is on the host.
pub(super) fn root_of(mappings: &[LinuxIdMapping]) -> u32 {
    mappings.iter().find(|one| one.container_id() == 0).map_or(0, LinuxIdMapping::host_id)
}

/// Maps the users and groups of a process.
pub(super) fn write_maps(pid: i32, uids: &str, gids: &str) -> Result<(), Failure> {
    fs::write(format!("/proc/{pid}/uid_map"), uids).during("map users", uids.trim())?;
    fs::write(format!("/proc/{pid}/gid_map"), gids).during("map groups", gids.trim())
}

/// A namespace of a process.
pub(super) fn namespace(pid: i32, kind: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{pid}/ns/{kind}");
    open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)
}

/// Writes `state.json`, before the program runs: what runs is known.
pub(super) fn record(
    plan: &Plan,
    users: &UserPlan,
    pid: i32,
    unstarted: Option<PathBuf>,
    warnings: &[String],
) -> Result<(), Failure> {
    let died = || Failure::new(FailureKind::Failed, "start", "the container", "it died while it was being set up");
    let state = State {
        pid,
        start_time: identity::start_time(pid).ok_or_else(died)?,
        cgroup: plan.cgroup.clone(),
        started_at: Timestamp::now(),
        users: match users {
            UserPlan::Host(reason) => Users::Host { reason: reason.clone() },
            UserPlan::Leased { base, size, .. } => Users::Private { base: *base, size: *size },
            UserPlan::Mapped { uids, .. } => {
                Users::Private { base: root_of(uids), size: uids.iter().map(LinuxIdMapping::size).sum() }
            }
        },
        address: plan.lease.as_ref().map(|lease| Addresses { ipv4: lease.ipv4, ipv6: lease.ipv6 }),
        unstarted,
        warnings: warnings.to_vec(),
    };
    let path = plan.running.join("state.json");
    let text = serde_json::to_vec(&state).map_err(io::Error::from).during("write", path.display())?;
    let temporary = plan.running.join("state.json.tmp");
    // For root alone: what it says is believed, and this process masks no permissions.
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let written = opened.and_then(|mut file| file.write_all(&text));
    written.during("write", temporary.display())?;
    fs::rename(&temporary, &path).during("write", path.display())
}

fn become_monitor(
    plan: &Plan,
    cgroup: &Cgroup,
    channels: &Channels,
    started: &Started,
    client: Option<&OwnedFd>,
    kept: &[OwnedFd],
) -> Result<std::convert::Infallible, Failure> {
    let arguments = monitor::Arguments {
        pid: started.pid,
        pidfd: started.pidfd.as_raw_fd(),
        adopted: false,
        output: started.master.as_ref().map_or(channels.outside.output.as_raw_fd(), AsRawFd::as_raw_fd),
        error: started.master.is_none().then(|| channels.outside.error.as_raw_fd()),
        input: channels.outside.input.as_ref().map(AsRawFd::as_raw_fd),
        tty: started.master.is_some(),
        interactive: plan.record.interactive,
        listen: channels.listen.as_raw_fd(),
        client: client.map(AsRawFd::as_raw_fd),
        log: plan.container.join("log"),
        max_size: plan.record.log.max_size.0,
        max_files: plan.record.log.max_files,
        exit: plan.container.join("exit"),
        sync: !plan.record.remove,
        oom: cgroup.oom_file(),
        // A group with others in it is more than the monitor removes: it would try for seconds.
        cgroups: if plan.record.may_make_groups() { Vec::new() } else { cgroup.directories() },
        unlink: plan.unlink.clone(),
        finally: plan.finally.clone(),
    };
    let mut inherit: Vec<BorrowedFd<'_>> = kept.iter().map(AsFd::as_fd).collect();
    inherit.extend([started.pidfd.as_fd(), channels.listen.as_fd()]);
    inherit.extend(started.master.as_ref().map(AsFd::as_fd));
    inherit.extend(client.map(AsFd::as_fd));
    if started.master.is_none() {
        inherit.extend([channels.outside.output.as_fd(), channels.outside.error.as_fd()]);
        inherit.extend(channels.outside.input.as_ref().map(AsFd::as_fd));
    }
    for descriptor in inherit {
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).during("hand over to", "the monitor")?;
    }
    let file = std::ffi::CString::new(plan.monitor.as_os_str().as_encoded_bytes())
        .map_err(io::Error::from)
        .during("name", "the monitor")?;
    let errno = process::execute(&file, &arguments.to_argv().during("tell", "the monitor")?, &[]);
    // The container runs; whoever looks next finds it without a monitor and gives it one.
    Err(errno).during("become the monitor", plan.monitor.display())
}

/// Waits until a descriptor is readable.
pub fn wait_readable(descriptor: BorrowedFd<'_>) -> rustix::io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
