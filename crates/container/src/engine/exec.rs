//! A process more in a running container.

use super::{Engine, Status, error::EngineError};
use crate::{
    capability::CapabilitySet,
    options::{RuntimeKind, WindowSize},
    plan::{ExecPlan, Filter, Program},
    record::Record,
    runtime::{self, Report, Role, number},
    seccomp,
    spec::{self, Fault},
    state::{Exit, Users},
};
use jiff::Timestamp;
use model::ContainerId;
use oci_spec::runtime::{LinuxCapabilities, LinuxNamespaceType};
use rustix::{
    fs::{Gid, MemfdFlags, Mode, OFlags, Uid, fchown, memfd_create, open},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    pipe::{PipeFlags, pipe_with},
};
use std::{
    fs, io,
    io::{Seek, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

/// What to run in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment in addition to the container's.
    pub env: Vec<(String, String)>,
    /// Working directory; the container's when absent.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`; the container's when absent.
    pub user: Option<String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// The terminal's size from the first moment.
    pub window: Option<WindowSize>,
    /// Keep standard input open.
    pub interactive: bool,
    /// With all capabilities and no filter.
    pub privileged: bool,
    /// Nobody will wait for it.
    pub detach: bool,
}

/// What the process's standard streams are; with a terminal they are that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecIo {
    /// The caller's own.
    Inherit,
    /// Pipes, whose other ends are in [`Exec`].
    Pipes,
    /// The null device.
    Null,
}

/// A process that was started in a container.
#[derive(Debug)]
pub struct Exec {
    /// In the container's own pid namespace's view from the host's shim; 0 when unknown.
    pub pid: i32,
    /// Where to write its input.
    pub stdin: Option<OwnedFd>,
    /// Its output.
    pub stdout: Option<OwnedFd>,
    /// Its error output.
    pub stderr: Option<OwnedFd>,
    /// The master of its terminal.
    pub pty: Option<OwnedFd>,
    report: OwnedFd,
    id: ContainerId,
}

impl Exec {
    /// Waits for its end; gives the exit code as Docker does (128 + signal).
    ///
    /// # Errors
    /// [`EngineError::Process`] when what waits for it inside was killed.
    pub fn wait(self) -> Result<i32, EngineError> {
        let lost = |source| EngineError::process("wait for the process in", &self.id, source);
        let (report, _) = runtime::receive_report(self.report.as_fd()).map_err(lost)?;
        match report {
            Report::Ended(status) => {
                Ok(Exit::from_wait_status(status, false, 0, Timestamp::UNIX_EPOCH).code.unwrap_or(255))
            }
            Report::Failed(source) => Err(lost(source)),
            Report::Started { .. } => Err(EngineError::busy("wait for the process in", &self.id)),
        }
    }
}

impl Engine {
    /// Starts a process in a running container.
    ///
    /// # Errors
    /// [`EngineError::WrongState`], [`EngineError::Spec`], [`EngineError::Process`].
    pub fn exec(&self, id: &ContainerId, options: &ExecOptions, io: ExecIo) -> Result<Exec, EngineError> {
        let record = self.record(id)?;
        let state = self.running(id, "run a process in")?;
        if self.frozen(&state).map_err(|source| EngineError::cgroup("run a process in", id, source))? {
            // It would be frozen on its way in, and whoever waits for it with it.
            let status = Status::Paused;
            return Err(EngineError::WrongState { doing: "run a process in", id: id.short().to_owned(), status });
        }
        let mut namespaces = namespaces(&record);
        if matches!(state.users, Users::Private { .. }) {
            namespaces |= libc::CLONE_NEWUSER;
        }
        let program = program(&record, options, self.layout.container(id))?;
        let oom_score_adj = program.process.oom_score_adj();
        let plan = ExecPlan {
            runtime: record.runtime,
            id: id.clone(),
            running: self.layout.running(id),
            pid: state.pid,
            start_time: state.start_time,
            cgroup: state.cgroup,
            namespaces,
            users: state.users,
            program,
            oom_score_adj,
        };
        let failed = |error: io::Error| EngineError::File {
            operation: "prepare a process in",
            path: self.layout.running(id),
            source: error,
        };
        self.enter(id, &plan, options, io).map_err(|error| match error {
            Enter::Io(error) => failed(error),
            Enter::Start(source) => EngineError::process("run the process in", id, source),
        })
    }

    fn enter(&self, id: &ContainerId, plan: &ExecPlan, options: &ExecOptions, io: ExecIo) -> Result<Exec, Enter> {
        let paper = plan_file(plan)?;
        let kind = SocketType::SEQPACKET;
        let (report, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        let null = || open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let mut ours: [Option<OwnedFd>; 3] = [None, None, None];
        let mut inside: Vec<OwnedFd> = Vec::new();
        for (index, slot) in ours.iter_mut().enumerate() {
            let piped = io == ExecIo::Pipes && !options.tty && (index > 0 || options.interactive);
            inside.push(if piped {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
                let (mine, yours) = if index == 0 { (write, read) } else { (read, write) };
                // To the container's root, who gives it to the process's user: /dev/stdout can be opened by name then.
                if let Users::Private { base, .. } = &plan.users {
                    fchown(&yours, Some(Uid::from_raw(*base)), Some(Gid::from_raw(*base)))?;
                }
                *slot = Some(mine);
                yours
            } else if io == ExecIo::Inherit && !options.tty && (index > 0 || options.interactive) {
                let own: BorrowedFd<'_> = match index {
                    0 => rustix::stdio::stdin(),
                    1 => rustix::stdio::stdout(),
                    _ => rustix::stdio::stderr(),
                };
                rustix::io::fcntl_dupfd_cloexec(own, 3)?
            } else {
                null()?
            });
        }
        let mut descriptors: Vec<(BorrowedFd<'_>, RawFd)> =
            vec![(paper.as_fd(), number::PLAN), (theirs.as_fd(), number::REPORT)];
        for (descriptor, at) in inside.iter().zip(0..) {
            descriptors.push((descriptor.as_fd(), at));
        }
        runtime::spawn(Role::Enter, &descriptors)?;
        drop((theirs, paper, inside));
        let (report_word, mut rights) = runtime::receive_report(report.as_fd()).map_err(Enter::Start)?;
        let pid = match report_word {
            Report::Started { pid, .. } => pid,
            Report::Failed(failure) => return Err(Enter::Start(failure)),
            Report::Ended(_) => 0,
        };
        let [stdin, stdout, stderr] = ours;
        Ok(Exec { pid, stdin, stdout, stderr, pty: rights.pop(), report, id: id.clone() })
    }
}

enum Enter {
    Io(io::Error),
    Start(runtime::Failure),
}
impl From<io::Error> for Enter {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
impl From<rustix::io::Errno> for Enter {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A plan as a file without a name, to be read from its beginning.
pub(super) fn plan_file<T: serde::Serialize>(plan: &T) -> io::Result<OwnedFd> {
    let mut file = fs::File::from(memfd_create(c"jdos-plan", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(plan)?)?;
    file.rewind()?;
    Ok(file.into())
}

fn namespaces(record: &Record) -> i32 {
    use LinuxNamespaceType as Type;
    let listed = record.spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    listed.fold(libc::CLONE_NEWNS, |flags, namespace| {
        flags
            | match namespace.typ() {
                Type::Mount => libc::CLONE_NEWNS,
                Type::Uts => libc::CLONE_NEWUTS,
                Type::Ipc => libc::CLONE_NEWIPC,
                Type::Pid => libc::CLONE_NEWPID,
                Type::Network => libc::CLONE_NEWNET,
                Type::Cgroup => libc::CLONE_NEWCGROUP,
                Type::User | Type::Time => 0,
            }
    })
}

/// The program of a container itself.
pub(super) fn own_program(record: &Record, container: PathBuf) -> Program {
    let process = record.spec.process().clone().unwrap_or_default();
    let profile = record.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = match (record.default_seccomp, profile) {
        (true, _) => Filter::Default(bounding(process.capabilities().as_ref())),
        // Flags that can not be had were refused when it was created.
        (false, Some(profile)) => {
            Filter::File(container.join("seccomp.bpf"), seccomp::flags(profile).unwrap_or_default())
        }
        (false, None) => Filter::None,
    };
    Program { process, user: record.user.clone(), groups: record.groups.clone(), filter }
}

fn bounding(capabilities: Option<&LinuxCapabilities>) -> CapabilitySet {
    let names = capabilities.and_then(|all| all.bounding().as_ref());
    let known = names.into_iter().flatten().filter_map(|name| name.to_string().parse().ok());
    known.fold(CapabilitySet::EMPTY, CapabilitySet::with)
}

fn program(record: &Record, options: &ExecOptions, container: PathBuf) -> Result<Program, EngineError> {
    let mut faults = Vec::new();
    if options.command.is_empty() {
        faults.push(Fault::new("exec", "no command was given").hint("say what to run after the container's name"));
    }
    let mut program = own_program(record, container);
    let process = &mut program.process;
    process.set_args(Some(options.command.clone()));
    let mut environment = process.env().clone().unwrap_or_default();
    for (name, value) in &options.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            faults.push(Fault::new("--env", "it is not the name of a variable").of(name));
        }
        environment.retain(|pair| pair.split_once('=').is_none_or(|(known, _)| known != name));
        environment.push(format!("{name}={value}"));
    }
    if options.tty && !environment.iter().any(|pair| pair.starts_with("TERM=")) {
        environment.push("TERM=xterm".to_owned());
    }
    process.set_env(Some(environment));
    if let Some(directory) = &options.workdir {
        if !Path::new(directory).is_absolute() {
            faults.push(Fault::new("--workdir", "it must begin with /").of(directory));
        }
        process.set_cwd(directory.into());
    }
    process.set_terminal(Some(options.tty));
    process.set_console_size(options.window.filter(|_| options.tty).map(Into::into));
    if options.privileged {
        if record.runtime != RuntimeKind::Jdos && program.filter != Filter::None {
            let why = "runc gives every process of a container the container's filter of system calls";
            let hint = "leave it out, or run the container with --security-opt seccomp=unconfined";
            faults.push(Fault::new("--privileged", why).hint(hint));
        }
        process.set_capabilities(Some(spec::defaults::capabilities(CapabilitySet::full())));
        process.set_no_new_privileges(Some(false));
        program.filter = Filter::None;
    }
    if let Some(user) = &options.user {
        program.user = Some(user.clone());
        program.groups.clear();
    }
    if faults.is_empty() { Ok(program) } else { Err(EngineError::Spec(spec::SpecErrors(faults))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layout::Layout,
        options::{CreateOptions, RootSource, SeccompChoice},
        seccomp::FilterFlags,
        spec::Facts,
    };

    #[test]
    fn a_profile_is_installed_with_its_flags() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(&folder.path().join("data"), Some(&folder.path().join("run"))).unwrap();
        let mut options = CreateOptions::new(RootSource::Directory("/".into()), vec!["true".to_owned()]);
        options.seccomp = SeccompChoice::Profile("given below".into());
        let filter = |text: &str| {
            let mut context = spec::Context::new(&layout, ContainerId::from_random([1; 16]), 1, Timestamp::UNIX_EPOCH);
            context.seccomp = Some(seccomp::parse(text.as_bytes(), CapabilitySet::DOCKER).unwrap());
            let built = spec::build(&options, &Facts::read().unwrap(), &context).unwrap();
            own_program(&built.record, "/c".into()).filter
        };
        let file = |flags| Filter::File("/c/seccomp.bpf".into(), flags);
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}"#;
        assert_eq!(filter(text), file(FilterFlags::LOG));
        assert_eq!(filter(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#), file(FilterFlags::SPEC_ALLOW));
    }
}
