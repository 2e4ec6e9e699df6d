//! The child between clone and execve: it makes itself the container's init.

use super::{
    message::{self, During, Failure, FailureKind, Word},
    mounts,
    program::{self, Resolved},
};
use crate::{cgroup::ContainerMount, plan::Plan, sys};
use rustix::{
    fs::{Gid, Uid},
    process::{Signal, ioctl_tiocsctty, set_parent_process_death_signal, setsid},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the shim opened before the clone.
pub struct Inputs<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// To and from the shim.
    pub control: BorrowedFd<'a>,
    /// Files of v1 control groups to join through.
    pub tasks: &'a [OwnedFd],
    /// Whether to take a cgroup namespace once joined.
    pub cgroup_namespace: bool,
    /// Mounts of `/sys/fs/cgroup`.
    pub cgroups: &'a [ContainerMount],
    /// Standard input, output and error without a terminal.
    pub streams: [BorrowedFd<'a>; 3],
    /// Whether ids are mapped.
    pub mapped: bool,
    /// Whether a network namespace of its own has to have its loopback brought up here.
    pub loopback: bool,
    /// Whether the host name is its own to set.
    pub own_hostname: bool,
    /// A compiled filter read from a file of the host.
    pub filter: Option<Vec<u8>>,
}

/// Becomes the container's program, or tells the shim why not and ends.
pub fn run(inputs: Inputs<'_>) -> ! {
    let control = inputs.control;
    let failure = match try_run(inputs) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    // When the shim is gone as well there is nobody to tell; it died first, and this process ends either way.
    let code = if message::send(control, &Word::Failed(failure), &[]).is_ok() { 1 } else { 2 };
    sys::process::exit(code)
}

fn try_run(inputs: Inputs<'_>) -> Result<std::convert::Infallible, Failure> {
    let Inputs { plan, control, .. } = inputs;
    let spec = &plan.record.spec;
    die_with_the_shim()?;
    program::hide()?; // from those in a pid namespace that it was born into, and did not make
    setsid().during("start", "a session")?;
    // In this mount namespace, and while this is still the host's root: the way there may be closed to others.
    let stage = mounts::stage(&plan.running)?;
    join(inputs.tasks)?;
    if inputs.cgroup_namespace {
        sys::process::unshare(libc::CLONE_NEWCGROUP).during("make", "a cgroup namespace")?;
    }
    if inputs.mapped {
        expect(control, |word| matches!(word, Word::Mapped))?;
        become_root()?;
    }
    let trees = receive_trees(control)?;
    if inputs.own_hostname {
        if let Some(name) = spec.hostname() {
            rustix::system::sethostname(name.as_bytes()).during("set host name", name)?;
        }
        if let Some(name) = spec.domainname() {
            rustix::system::setdomainname(name.as_bytes()).during("set domain name", name)?;
        }
    }
    if inputs.loopback {
        sys::loopback::up().during("bring up", "loopback")?;
    }
    let mounted = mounts::build(plan, stage.as_fd(), trees, inputs.cgroups)?;
    if let Some(parameters) = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()) {
        let missing =
            || Failure::new(FailureKind::Invalid, "set kernel parameters", "linux.sysctl", "nothing mounts /proc");
        let proc = mounted.proc.as_ref().map(AsFd::as_fd);
        let mut sorted: Vec<_> = parameters.iter().collect();
        sorted.sort();
        for (name, value) in sorted {
            mounts::parameter(proc.ok_or_else(missing)?, name, value)?;
        }
    }
    let terminal = if plan.record.tty() {
        let missing = || Failure::new(FailureKind::Invalid, "make", "a terminal", "nothing mounts /dev/pts");
        let (master, slave) = mounts::terminal(mounted.pts.as_ref().map(AsFd::as_fd).ok_or_else(missing)?)?;
        if let Some(size) = plan.program.process.console_size() {
            resize(master.as_fd(), size.height(), size.width())?;
        }
        mounts::console(slave.as_fd())?;
        Some((master, slave))
    } else {
        None
    };
    mounts::finish(plan)?;
    let resolved = program::resolve(&plan.program, inputs.filter)?;
    let master: Vec<_> = terminal.iter().map(|(master, _)| master.as_fd()).collect();
    message::send(control, &Word::Ready, &master).during("tell", "the shim")?;
    expect(control, |word| matches!(word, Word::Go))?;
    streams(&resolved, terminal.as_ref().map(|(_, slave)| slave.as_fd()), inputs.streams)?;
    Err(resolved.execute(&plan.program))
}

/// Joins v1 control groups by writing 0 as a single thread, for which the kernel takes no global lock.
pub fn join(tasks: &[OwnedFd]) -> Result<(), Failure> {
    for file in tasks {
        rustix::io::write(file, b"0").during("join", "its control groups")?;
    }
    Ok(())
}

/// Ends when the shim does. The kernel forgets this at a change of user, so it is said again after each.
pub fn die_with_the_shim() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).during("follow", "the shim")
}

/// User and group 0 of a mapped user namespace.
pub fn become_root() -> Result<(), Failure> {
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).during("become", "group 0")?;
    set_thread_groups(&[]).during("drop", "supplementary groups")?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).during("become", "user 0")?;
    program::hide()?;
    die_with_the_shim()
}

fn expect(control: BorrowedFd<'_>, wanted: impl Fn(&Word) -> bool) -> Result<(), Failure> {
    let gone = || Failure::new(FailureKind::Failed, "wait for", "the shim", "it has gone");
    let (word, _) = message::receive::<Word>(control).during("hear", "the shim")?.ok_or_else(gone)?;
    if wanted(&word) {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Failed, "understand", "the shim", format!("it said {word:?}")))
}

fn receive_trees(control: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Failure> {
    let mut trees = Vec::new();
    loop {
        let gone = || Failure::new(FailureKind::Failed, "wait for", "the shim", "it has gone");
        let (word, mut more) = message::receive(control).during("hear", "the shim")?.ok_or_else(gone)?;
        trees.append(&mut more);
        match word {
            Word::Trees => {}
            Word::AllTrees => return Ok(trees),
            other => {
                return Err(Failure::new(FailureKind::Failed, "understand", "the shim", format!("it said {other:?}")));
            }
        }
    }
}

/// Sets a terminal's size.
pub fn resize(master: BorrowedFd<'_>, rows: u64, columns: u64) -> Result<(), Failure> {
    let side = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    let size = rustix::termios::Winsize { ws_row: side(rows), ws_col: side(columns), ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size).during("size", "the terminal")
}

/// Puts the terminal, or the streams, at 0 to 2, owned by the user who will use them.
pub fn streams(
    resolved: &Resolved,
    terminal: Option<BorrowedFd<'_>>,
    streams: [BorrowedFd<'_>; 3],
) -> Result<(), Failure> {
    let [input, output, error] = match terminal {
        Some(slave) => {
            ioctl_tiocsctty(slave).during("take", "the terminal")?;
            resolved.own_terminal(slave)?;
            [slave; 3]
        }
        None => {
            resolved.own_pipes(&streams)?;
            streams
        }
    };
    dup2_stdin(input).during("set", "standard input")?;
    dup2_stdout(output).during("set", "standard output")?;
    dup2_stderr(error).during("set", "standard error")
}
