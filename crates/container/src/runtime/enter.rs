//! A process more in a running container (`exec`): enter its namespaces, join its groups, become the program.

use super::{
    child, identity,
    message::{self, During, Failure, FailureKind, Report, Word},
    mounts, number, program, shim,
};
use crate::{
    cgroup::Host,
    plan::ExecPlan,
    state::Users,
    sys::process::{self, Side},
};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{WaitId, WaitIdOptions, setsid, umask, waitid},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};
use std::{
    fs, io,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::ExitCode,
};

/// Entry of the role: reports the start (with the terminal's master), then the end.
pub fn main() -> ExitCode {
    let Ok(report) = process::inherited(number::REPORT) else { return ExitCode::from(2) };
    let last = match start(report.as_fd()) {
        Ok(status) => Report::Ended(status),
        Err(failure) => Report::Failed(failure),
    };
    // Nobody waits any more when the manager has gone; the process has had its run.
    match message::send(report.as_fd(), &last, &[]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}

fn start(report: BorrowedFd<'_>) -> Result<i32, Failure> {
    let mut text = Vec::new();
    let mut file = fs::File::from(process::inherited(number::PLAN).during("take", "the plan")?);
    file.read_to_end(&mut text).during("read", "the plan")?;
    drop(file);
    let plan: ExecPlan = serde_json::from_slice(&text).map_err(io::Error::from).during("read", "the plan")?;
    umask(rustix::fs::Mode::empty());
    plan.runtime.chosen().enter(&plan, report)
}

/// The same without another's help: enters the namespaces through the container's init.
pub fn enter(plan: &ExecPlan, report: BorrowedFd<'_>) -> Result<i32, Failure> {
    let gone = || Failure::new(FailureKind::Failed, "enter", "the container", "it has ended");
    let init = identity::open(plan.pid, plan.start_time).during("open", "the container's init")?.ok_or_else(gone)?;
    let failed = |error| Failure::new(FailureKind::Failed, "open", "the container's control groups", error);
    let cgroup = Host::detect().and_then(|host| host.open(&plan.cgroup)).map_err(failed)?;
    let tasks = cgroup.task_files().map_err(failed)?;
    let mut unified = cgroup.unified_fd().map_err(failed)?;
    drop(cgroup);
    let filter = program::read_filter(&plan.program)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .during("open", "a socket")?;
    for limit in plan.program.process.rlimits().iter().flatten() {
        let value = |value: u64| (value != u64::MAX).then_some(value);
        let new = rustix::process::Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) };
        if let Some(resource) = crate::spec::ulimit::resource(limit.typ()) {
            rustix::process::setrlimit(resource, new).during("set limit", crate::spec::ulimit::name(limit.typ()))?;
        }
    }
    if let Some(score) = plan.oom_score_adj {
        fs::write("/proc/self/oom_score_adj", score.to_string()).during("set oom_score_adj to", score)?;
    }
    program::hide()?;
    let (birth, told) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .during("open", "a socket")?;
    // Two steps, because whoever may trace the process from inside (with CAP_SYS_PTRACE) may do so from its birth on: a first
    // one is born in the container's v2 group and nowhere else, lets go of what leads back to the host, enters, and has the
    // process born as a child of this one. The kernel also lets nobody into a group from within its namespace.
    let born_in = |group: Option<&OwnedFd>| process::clone(0, group.map(AsFd::as_fd));
    let first = match born_in(unified.as_ref()) {
        // The container has handed controllers down to groups of its own, and so no process can be in this one: into
        // that of its init, then.
        Err(rustix::io::Errno::BUSY) => {
            let group = group_of_init(plan)?;
            let open = || Host::detect()?.open(&group)?.unified_fd();
            unified = open().map_err(failed)?;
            born_in(unified.as_ref())
        }
        first => first,
    }
    .during("clone", "the way into the container")?;
    let first = match first {
        Side::Child => {
            drop((ours, birth, unified));
            let told = step_in(plan, init, theirs.as_fd(), told, &tasks, filter);
            process::exit(i32::from(told.is_err())) // when nobody hears it, nobody waits for it either
        }
        Side::Parent { pidfd, .. } => pidfd,
    };
    drop((theirs, told, init, tasks, unified));
    let born = message::receive(birth.as_fd()).during("hear", "the way into the container")?;
    reap(&first)?;
    let (pid, pidfd) = match born {
        Some((Word::Born(pid), mut descriptors)) => (pid, descriptors.pop().ok_or_else(gone)?),
        Some((Word::Failed(failure), _)) => return Err(failure),
        Some(_) | None => return Err(gone()),
    };
    let fail = |word| Failure::new(FailureKind::Failed, "enter", "the container", format!("the child said {word:?}"));
    let result = match message::receive(ours.as_fd()).during("hear", "the child")? {
        Some((Word::Ready, master)) => {
            message::send(ours.as_fd(), &Word::Go, &[]).during("tell", "the child")?;
            match message::receive(ours.as_fd()).during("hear", "the child")? {
                None => Ok(master),
                Some((Word::Failed(failure), _)) => Err(failure),
                Some((word, _)) => Err(fail(word)),
            }
        }
        Some((Word::Failed(failure), _)) => Err(failure),
        Some((word, _)) => Err(fail(word)),
        None => Err(gone()),
    };
    match result {
        Ok(master) => {
            let master: Vec<_> = master.iter().map(AsFd::as_fd).collect();
            let word = Report::Started { pid, warnings: Vec::new() };
            if let Err(error) = message::send(report, &word, &master) {
                tracing::debug!(%error, "nobody waits for this process any more");
            }
        }
        Err(failure) => {
            reap(&pidfd)?;
            return Err(failure);
        }
    }
    reap(&pidfd)
}

/// The group of the container's init in the v2 hierarchy, at or below the container's own.
fn group_of_init(plan: &ExecPlan) -> Result<String, Failure> {
    let path = format!("/proc/{}/cgroup", plan.pid);
    let bytes = fs::read(&path).during("read", &path)?;
    let (text, own) = (String::from_utf8_lossy(&bytes), format!("/{}/", plan.cgroup));
    let unified = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let below = unified.find(&own).map(|at| &unified[at + 1..]);
    let elsewhere = || Failure::new(FailureKind::Failed, "find", "the group of the container's init", unified);
    below.map(str::to_owned).ok_or_else(elsewhere)
}

/// Enters the container's namespaces, has its process born there and tells of it.
fn step_in(
    plan: &ExecPlan,
    init: OwnedFd,
    control: BorrowedFd<'_>,
    told: OwnedFd,
    tasks: &[OwnedFd],
    filter: Option<Vec<u8>>,
) -> io::Result<()> {
    let enter = || {
        child::die_with_the_shim()?;
        let namespaces = ThreadNameSpaceType::from_bits_retain(plan.namespaces.unsigned_abs());
        move_into_thread_name_spaces(init.as_fd(), namespaces).during("enter", "the container's namespaces")?;
        drop(init);
        program::limit(&plan.program)?;
        program::hide()?;
        // Born in its pid namespace; v1 groups are joined by the child itself, so that it counts against their limits.
        process::clone_sibling().during("clone", "a process of the container")
    };
    match enter() {
        Ok(Side::Child) => {
            drop(told); // whoever listens is to hear the end of this one's parent
            run(plan, control, tasks, filter)
        }
        Ok(Side::Parent { pid, pidfd }) => message::send(told.as_fd(), &Word::Born(pid), &[pidfd.as_fd()]),
        Err(failure) => message::send(told.as_fd(), &Word::Failed(failure), &[]),
    }
}

/// Waits for the end of a child; gives its wait status.
pub fn reap(pidfd: &OwnedFd) -> Result<i32, Failure> {
    shim::wait_readable(pidfd.as_fd()).during("wait for", "the process")?;
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).during("wait for", "the process")?;
    // Back to the form of wait(2), which is what exit files hold as well.
    Ok(status.map_or(-1, |status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code << 8,
        (None, Some(signal)) => signal,
        (None, None) => -1,
    }))
}

fn run(plan: &ExecPlan, control: BorrowedFd<'_>, tasks: &[OwnedFd], filter: Option<Vec<u8>>) -> ! {
    let failure = match try_run(plan, control, tasks, filter) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    let code = if message::send(control, &Word::Failed(failure), &[]).is_ok() { 1 } else { 2 };
    process::exit(code)
}

fn try_run(
    plan: &ExecPlan,
    control: BorrowedFd<'_>,
    tasks: &[OwnedFd],
    filter: Option<Vec<u8>>,
) -> Result<std::convert::Infallible, Failure> {
    child::die_with_the_shim()?;
    setsid().during("start", "a session")?;
    child::join(tasks)?;
    if matches!(plan.users, Users::Private { .. }) {
        child::become_root()?;
    }
    let terminal = if plan.program.process.terminal().unwrap_or(false) {
        let root = super::tree::open_host(Path::new("/")).during("open", "/")?;
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let pts = super::tree::open_plain(root.as_fd(), Path::new("/dev/pts"), flags).during("open", "/dev/pts")?;
        let found = rustix::fs::fstatfs(&pts).during("look at", "/dev/pts")?.f_type;
        if found != DEVPTS_SUPER_MAGIC {
            return Err(Failure::new(FailureKind::Invalid, "open a terminal in", "/dev/pts", "it is not a devpts"));
        }
        let (master, slave) = mounts::terminal(pts.as_fd())?;
        if let Some(size) = plan.program.process.console_size() {
            child::resize(master.as_fd(), size.height(), size.width())?;
        }
        Some((master, slave))
    } else {
        None
    };
    program::require_directory(plan.program.process.cwd())?;
    let resolved = program::resolve(&plan.program, filter)?;
    let master: Vec<_> = terminal.iter().map(|(master, _)| master.as_fd()).collect();
    message::send(control, &Word::Ready, &master).during("tell", "the manager")?;
    match message::receive(control).during("hear", "the manager")? {
        Some((Word::Go, _)) => {}
        _ => return Err(Failure::new(FailureKind::Failed, "wait for", "the manager", "it has gone")),
    }
    let standard = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    child::streams(&resolved, terminal.as_ref().map(|(_, slave)| slave.as_fd()), standard)?;
    Err(resolved.execute(&plan.program))
}

/// Of statfs(2).
const DEVPTS_SUPER_MAGIC: rustix::fs::FsWord = 0x1cd1;
