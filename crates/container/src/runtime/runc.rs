//! runc as the runtime: the shim prepares what runc can not, and runc makes the processes.
//!
//! Control groups with their limits, the root and every bind mount (id-mapped, with their attributes), pipes, network and
//! state are made as for our own runtime. runc gets a bundle whose mounts all lie in one folder that only the shim and runc
//! see, makes the container's init, and starts it when the rest is done; its processes become children of the shim, so
//! everything after that is the same as well.
//!
//! What runc keeps of a container is in `runc/` of the container's run folder, and goes with that.

mod bundle;
mod call;
mod console;
mod find;
mod stage;

use super::{
    Runtime, enter, identity,
    message::{self, During, Failure, FailureKind, Report},
    prepare::Owner,
    program,
    shim::{self, OwnMounts, Site, Started, root_of},
};
use crate::{
    options::Runc,
    plan::{ExecPlan, Plan, UserPlan},
    state::Users,
    sys::process::{self, Side},
    user::Identity,
};
use call::Call;
use console::Console;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    process::{Pid, PidfdFlags, WaitIdOptions, getpid, pidfd_open, set_child_subreaper, waitid},
};
use stage::Trees;
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// What runc keeps of its containers, in a container's run folder.
pub(crate) const FOLDER: &str = "runc";
/// What a start leaves in the run folder for runc to read and write.
const PAPERS: [&str; 4] = [bundle::FILE, PID, LOG, CONSOLE];
const PID: &str = "runc.pid";
const LOG: &str = "runc.log";
const CONSOLE: &str = "console";

impl Runtime for Runc {
    fn start(&self, site: &Site<'_>, users: &UserPlan, warnings: &mut Vec<String>) -> Result<Started, Failure> {
        let plan = site.plan;
        clear(&plan.running)?;
        let started = self.try_start(site, users, warnings);
        let cleared = if started.is_ok() {
            remove(&plan.running, &PAPERS)
        } else {
            reap_orphans();
            clear(&plan.running)
        };
        if let Err(failure) = cleared {
            tracing::warn!(%failure, "what a start needed is left until the run folder goes");
        }
        started
    }

    fn enter(&self, plan: &ExecPlan, report: BorrowedFd<'_>) -> Result<i32, Failure> {
        // What runc leaves behind is this process's child then.
        set_child_subreaper(Some(getpid())).during("become", "a subreaper")?;
        let papers = Papers::of(plan);
        let entered = self.try_enter(plan, &papers);
        papers.remove();
        let Entered { pid, pidfd, master } = entered?;
        let master: Vec<_> = master.iter().map(AsFd::as_fd).collect();
        if let Err(error) = message::send(report, &Report::Started { pid, warnings: Vec::new() }, &master) {
            tracing::debug!(%error, "nobody waits for this process any more");
        }
        enter::reap(&pidfd)
    }
}

impl Runc {
    fn try_start(&self, site: &Site<'_>, users: &UserPlan, warnings: &mut Vec<String>) -> Result<Started, Failure> {
        let Site { plan, channels, .. } = *site;
        let (uid, gid) = match users {
            UserPlan::Host(_) => (0, 0),
            UserPlan::Leased { base, .. } => (*base, *base),
            UserPlan::Mapped { uids, gids } => (root_of(uids), root_of(gids)),
        };
        shim::give_channels(plan, (uid, gid))?;
        let namespace = match users {
            UserPlan::Leased { base, size, .. } => Some(user_namespace(*base, *size)?),
            UserPlan::Host(_) | UserPlan::Mapped { .. } => None,
        };
        let owner = Owner { uid, gid, idmap: namespace.as_ref().map(AsFd::as_fd) };
        // In the host's mount namespace still: a shared mount would not be one any more in another.
        let trees = Trees::make(plan, owner, warnings)?;
        let console = plan.record.tty().then(|| Console::listen(&plan.running, CONSOLE)).transpose()?;
        let own = OwnMounts::enter()?;
        let made = self.make(plan, users, trees, channels);
        drop(own.leave()?);
        drop(namespace);
        made?;
        let pid = read_pid(&plan.running.join(PID))?;
        let number = Pid::from_raw(pid).ok_or_else(|| strange(&plan.running.join(PID)))?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).during("open", "the container's init")?;
        let result = self.let_go(plan, users, pid, console, warnings);
        match result {
            Ok(master) => Ok(Started { pid, pidfd, master }),
            Err(failure) => {
                shim::end(&pidfd);
                Err(failure)
            }
        }
    }

    /// All that happens in the shim's own mount namespace: the bundle and its mounts, and `runc create`.
    fn make(&self, plan: &Plan, users: &UserPlan, trees: Trees, channels: &shim::Channels) -> Result<(), Failure> {
        let identity = program::identity(&plan.program, |path| trees.read(path))?;
        let bundle = bundle::of(plan, users, &identity, &trees)?;
        bundle::write(&plan.running, &bundle)?;
        let mapped = !matches!(users, UserPlan::Host(_));
        trees.attach(&plan.running, mapped.then_some(self.0.as_path()))?;
        let [input, output, error] = &channels.inside;
        let mut call = Call::new(self, &plan.running, LOG, &plan.program.process);
        call.arguments(["create", "--bundle", ".", "--pid-file", PID]);
        if plan.record.tty() {
            call.arguments(["--console-socket", CONSOLE]);
        }
        call.arguments([plan.record.id.as_str()]);
        call.run([input.as_fd(), output.as_fd(), error.as_fd()])
    }

    /// From a made container to one that runs.
    fn let_go(
        &self,
        plan: &Plan,
        users: &UserPlan,
        pid: i32,
        console: Option<Console>,
        warnings: &[String],
    ) -> Result<Option<OwnedFd>, Failure> {
        let master = console.map(|console| console.receive()).transpose()?;
        shim::attach_network(plan, pid)?;
        let unstarted = plan.running.join(FOLDER).join(&plan.record.id).join("exec.fifo");
        shim::record(plan, users, pid, Some(unstarted), warnings)?;
        let null = null()?;
        let mut call = Call::new(self, &plan.running, LOG, &plan.program.process);
        call.arguments(["start", plan.record.id.as_str()]);
        call.run([null.as_fd(); 3])?;
        Ok(master)
    }

    fn try_enter(&self, plan: &ExecPlan, papers: &Papers) -> Result<Entered, Failure> {
        let gone = || Failure::new(FailureKind::Failed, "enter", "the container", "it has ended");
        let init =
            identity::open(plan.pid, plan.start_time).during("open", "the container's init")?.ok_or_else(gone)?;
        let path = format!("/proc/{}/root", plan.pid);
        let root = open(path.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("open", path)?;
        // The number was its own until the descriptor of its root was there.
        if identity::start_time(plan.pid) != Some(plan.start_time) {
            return Err(gone());
        }
        drop(init);
        let identity = program::identity(&plan.program, |path| program::read_bounded(root.as_fd(), Path::new(path)))?;
        let base = match plan.users {
            Users::Private { base, .. } => base,
            Users::Host { .. } => 0,
        };
        let directory = plan.program.process.cwd();
        // runc makes that of the container's own program only.
        process::with_file_ids(base, base, || super::tree::mount_point(root.as_fd(), directory, true, false))
            .and_then(|made| made)
            .during("make working directory", directory.display())?;
        drop(root);
        let process = bundle::process(&plan.program.process, &identity, base == 0)?;
        let text = serde_json::to_vec(&process).map_err(io::Error::from).during("write", papers.process.as_str())?;
        bundle::store(&plan.running.join(&papers.process), &text)?;
        let console = process.terminal().unwrap_or(false);
        let console = console.then(|| Console::listen(&plan.running, &papers.console)).transpose()?;
        let mut call = Call::new(self, &plan.running, &papers.log, &process);
        call.arguments(["exec", "--detach", "--process", &papers.process, "--pid-file", &papers.pid]);
        if console.is_some() {
            call.arguments(["--console-socket", &papers.console]);
        }
        call.arguments([plan.id.as_str()]);
        call.run([rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()])?;
        let file = plan.running.join(&papers.pid);
        let pid = read_pid(&file)?;
        let number = Pid::from_raw(pid).ok_or_else(|| strange(&file))?;
        // Our child, so the number is its own until it is waited for.
        let pidfd = pidfd_open(number, PidfdFlags::empty()).during("open", "the process")?;
        let master = console.map(|console| console.receive()).transpose()?;
        Ok(Entered { pid, pidfd, master })
    }
}

/// A process that runs in a container.
struct Entered {
    pid: i32,
    pidfd: OwnedFd,
    master: Option<OwnedFd>,
}

/// Files of one process more, in the container's run folder, named after the process that makes it.
struct Papers {
    folder: PathBuf,
    process: String,
    pid: String,
    log: String,
    console: String,
}

impl Papers {
    fn of(plan: &ExecPlan) -> Self {
        let name = |kind: &str| format!("exec-{}.{kind}", getpid().as_raw_nonzero());
        let folder = plan.running.clone();
        Self { folder, process: name("json"), pid: name("pid"), log: name("log"), console: name("tty") }
    }

    fn remove(&self) {
        if let Err(failure) = remove(&self.folder, &[&self.process, &self.pid, &self.log, &self.console]) {
            tracing::debug!(%failure, "it goes with the run folder");
        }
    }
}

/// Removes what a former start has left.
fn clear(running: &Path) -> Result<(), Failure> {
    let folder = running.join(FOLDER);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).during("remove", folder.display()),
        _ => {}
    }
    for name in [stage::ROOT, stage::FOLDER] {
        let path = running.join(name);
        match fs::remove_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).during("remove", path.display());
            }
            _ => {}
        }
    }
    remove(running, &PAPERS)
}

fn remove(folder: &Path, names: &[&str]) -> Result<(), Failure> {
    for name in names {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).during("remove", path.display());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reaps whatever has become this process's child without its doing.
fn reap_orphans() {
    loop {
        match waitid(rustix::process::WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

fn null() -> Result<OwnedFd, Failure> {
    open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).during("open", "/dev/null")
}

fn strange(path: &Path) -> Failure {
    Failure::new(FailureKind::Failed, "read", path.display(), "it holds no number of a process")
}

fn read_pid(path: &Path) -> Result<i32, Failure> {
    let text = fs::read_to_string(path).during("read", path.display())?;
    text.trim().parse().map_err(|_| strange(path))
}

/// A user namespace with this range, to map mounts by; it lasts as long as the descriptor.
fn user_namespace(base: u32, size: u32) -> Result<OwnedFd, Failure> {
    const WHAT: &str = "a user namespace";
    let (hold, release) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during("open", "a pipe")?;
    match process::clone(libc::CLONE_NEWUSER, None).during("make", WHAT)? {
        Side::Child => {
            drop(release);
            // Until the parent has what it wants, or is gone.
            let ended = rustix::io::read(&hold, &mut [0; 1]).is_ok();
            process::exit(i32::from(!ended))
        }
        Side::Parent { pid, pidfd } => {
            let line = format!("0 {base} {size}\n");
            let made = shim::write_maps(pid, &line, &line).and_then(|()| shim::namespace(pid, "user"));
            drop(release);
            shim::end(&pidfd);
            made
        }
    }
}

impl Identity {
    fn home_of(&self, environment: &[String]) -> Option<String> {
        let given = environment.iter().any(|pair| pair.starts_with("HOME="));
        (!given).then(|| format!("HOME={}", self.home.display()))
    }
}
