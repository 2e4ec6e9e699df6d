//! The last steps of a start: users, privileges, filter, and the program itself.

use super::{
    message::{During, Failure, FailureKind},
    tree,
};
use crate::{
    capability::{Capability, CapabilitySet},
    plan::{Filter, Program},
    seccomp::{self, FilterFlags},
    sys::{process, seccomp as kernel},
    user::{self, Identity},
};
use oci_spec::runtime::Capabilities;
use rustix::{
    fs::{Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, accessat, fchown, fstat, statat},
    process::{getcwd, set_parent_process_death_signal, umask},
    thread::{
        CapabilitySet as Bits, CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set,
        remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_gid,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};
use std::{
    ffi::CString,
    io::Read,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Everything that has to be read from the container's files, before privileges are given up.
pub struct Resolved {
    identity: Identity,
    filter: Vec<u8>,
    flags: FilterFlags,
}

/// Who a program runs as, by the container's own files, which `read` gives.
pub fn identity(program: &Program, read: impl Fn(&str) -> Result<Vec<u8>, Failure>) -> Result<Identity, Failure> {
    match &program.user {
        Some(user) => user::lookup(user, &program.groups, &read("/etc/passwd")?, &read("/etc/group")?)
            .map_err(|error| Failure::new(FailureKind::Invalid, "find user", user, error)),
        None => {
            let user = program.process.user();
            Ok(Identity {
                uid: user.uid(),
                gid: user.gid(),
                groups: user.additional_gids().clone().unwrap_or_default(),
                home: PathBuf::from(if user.uid() == 0 { "/root" } else { "/" }),
            })
        }
    }
}

/// Looks up the user inside; the root directory is the container's by now. The filter's file is the host's, so it is
/// handed over open.
pub fn resolve(program: &Program, filter: Option<Vec<u8>>) -> Result<Resolved, Failure> {
    let identity = identity(program, |path| {
        let root = tree::open_host(Path::new("/")).during("open", "/")?;
        read_bounded(root.as_fd(), Path::new(path))
    })?;
    let filter = match &program.filter {
        Filter::None => Vec::new(),
        Filter::Default(capabilities) => seccomp::default_program(capabilities).into_owned(),
        Filter::File(path, _) => {
            filter.ok_or_else(|| Failure::new(FailureKind::Failed, "read filter", path.display(), "it was not read"))?
        }
    };
    let flags = match &program.filter {
        Filter::File(_, flags) => *flags,
        Filter::None | Filter::Default(_) => FilterFlags::NONE,
    };
    Ok(Resolved { identity, filter, flags })
}

/// The compiled filter of a program, read from the host's file.
pub fn read_filter(program: &Program) -> Result<Option<Vec<u8>>, Failure> {
    match &program.filter {
        Filter::File(path, _) => std::fs::read(path).map(Some).during("read filter", path.display()),
        Filter::None | Filter::Default(_) => Ok(None),
    }
}

/// What becoming a program takes, whatever it may do itself: its terminal is given to its user, its files are looked up, its
/// folder is made, users and capabilities are changed.
const TAKEN: [u8; 5] = [0, 1, 6, 7, 8]; // CHOWN, DAC_OVERRIDE, SETGID, SETUID, SETPCAP
const SYS_ADMIN: u8 = 21;

/// Keeps what this program may do and what becoming it takes, and gives the rest up for good. To be called before a process
/// is visible to who may trace it: what is taken over then can do little that its tracer can not do anyway. Without
/// `no_new_privs` loading a filter takes CAP_SYS_ADMIN, which is kept for it.
pub fn limit(program: &Program) -> Result<(), Failure> {
    let sets = Sets::of(program.process.capabilities().as_ref());
    let loads = !program.process.no_new_privileges().unwrap_or(false) && program.filter != Filter::None;
    let taken = TAKEN.into_iter().chain(loads.then_some(SYS_ADMIN)).fold(0, |bits, number| bits | 1 << number);
    let kept = CapabilitySet(sets.permitted.0 | sets.bounding.0 | taken);
    for capability in Capability::all().filter(|one| !kept.contains(*one)) {
        drop_from_bounding_set(capability)?;
    }
    let held = rustix::thread::capabilities(None).during("read", "capabilities")?;
    let bits = Bits::from_bits_retain(kept.0);
    let left = CapabilitySets {
        effective: held.effective.intersection(bits),
        permitted: held.permitted.intersection(bits),
        inheritable: held.inheritable.intersection(bits),
    };
    set_capabilities(None, left).during("give up", "capabilities")
}

fn drop_from_bounding_set(capability: Capability) -> Result<(), Failure> {
    match remove_capability_from_bounding_set(Bits::from_bits_retain(1 << capability.number())) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()), // a kernel that does not know it yet can not give it
        Err(errno) => Err(errno).during("drop capability", capability),
    }
}

/// Nobody without CAP_SYS_PTRACE may trace this process or read what it holds, until it executes the program
/// (CVE-2016-9962). A change of users may undo it (`fs.suid_dumpable`), so it is said again after each.
pub fn hide() -> Result<(), Failure> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable).during("hide from", "the container")
}

/// A regular file beneath a root, as far as it is looked at; empty when there is none. Nothing else is opened: to open some
/// devices is to do something to them.
pub fn read_bounded(root: BorrowedFd<'_>, path: &Path) -> Result<Vec<u8>, Failure> {
    let found = match tree::open(root, path, OFlags::PATH) {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(Vec::new()),
        Err(errno) => return Err(errno).during("open", path.display()),
    };
    let looked = fstat(&found).during("look at", path.display())?;
    if FileType::from_raw_mode(looked.st_mode) != FileType::RegularFile {
        return Ok(Vec::new());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let same = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = match rustix::fs::open(same.as_str(), flags, rustix::fs::Mode::empty()) {
        // Where nothing mounts /proc we are inside, where only the container's own devices open.
        Err(rustix::io::Errno::NOENT) => tree::open(root, path, flags),
        file => file,
    };
    read_file(file.during("open", path.display())?, path)
}

/// The same of an open file.
pub fn read_file(file: OwnedFd, path: &Path) -> Result<Vec<u8>, Failure> {
    let file = std::fs::File::from(file);
    if !file.metadata().during("look at", path.display())?.is_file() {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    file.take(user::MAX_FILE).read_to_end(&mut bytes).during("read", path.display())?;
    Ok(bytes)
}

impl Resolved {
    /// Gives a terminal of the container's own to the user.
    pub fn own_terminal(&self, slave: BorrowedFd<'_>) -> Result<(), Failure> {
        self.own(slave)
    }

    /// Gives pipes to the user, so that `/dev/stdout` can be opened by its name inside. Anything else keeps its owner: the
    /// host's null device, and the terminal of whoever calls, which another user of the host could open otherwise.
    pub fn own_pipes(&self, streams: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        for stream in streams {
            let found = fstat(*stream).during("look at", "a standard stream")?;
            if FileType::from_raw_mode(found.st_mode) == FileType::Fifo {
                self.own(*stream)?;
            }
        }
        Ok(())
    }

    fn own(&self, stream: BorrowedFd<'_>) -> Result<(), Failure> {
        match fchown(stream, Some(Uid::from_raw(self.identity.uid)), Some(Gid::from_raw(self.identity.gid))) {
            // An inherited pipe may belong to somebody else; the program can use it all the same.
            Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno).during("give to the user", "a standard stream"),
        }
    }

    /// Becomes the program; gives why it could not.
    pub fn execute(self, program: &Program) -> Failure {
        match self.try_execute(program) {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    fn try_execute(self, program: &Program) -> Result<std::convert::Infallible, Failure> {
        let process = &program.process;
        let no_new_privileges = process.no_new_privileges().unwrap_or(false);
        let sets = Sets::of(process.capabilities().as_ref());
        let identity = self.identity;
        umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
        enter_directory(process.cwd())?;
        for capability in Capability::all().filter(|one| !sets.bounding.contains(*one)) {
            drop_from_bounding_set(capability)?;
        }
        if !no_new_privileges {
            load(&self.filter, self.flags)?; // needs CAP_SYS_ADMIN, which is about to go
        }
        set_keep_capabilities(true).during("keep capabilities for", "the change of user")?;
        let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups).during("set groups", format!("{:?}", identity.groups))?;
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        set_thread_gid(gid).during("set group", identity.gid)?;
        set_thread_res_gid(gid, gid, gid).during("set group", identity.gid)?;
        set_thread_res_uid(uid, uid, uid).during("set user", identity.uid)?;
        set_keep_capabilities(false).during("keep capabilities for", "nothing more")?;
        sets.apply()?;
        hide()?;
        check_directory()?;
        let mut environment: Vec<String> = process.env().clone().unwrap_or_default();
        if !environment.iter().any(|pair| pair.starts_with("HOME=")) {
            environment.push(format!("HOME={}", identity.home.display()));
        }
        let arguments = process.args().clone().unwrap_or_default();
        let path = find_program(&arguments, &environment)?;
        let strings = |all: &[String]| all.iter().map(|one| CString::new(one.as_str())).collect::<Result<Vec<_>, _>>();
        let nul = |error| Failure::new(FailureKind::Invalid, "run", path.display(), error);
        let (arguments, environment) = (strings(&arguments).map_err(nul)?, strings(&environment).map_err(nul)?);
        let file = CString::new(path.as_os_str().as_bytes()).map_err(nul)?;
        process::close_on_exec_from(3).during("close", "what is not the program's")?;
        process::default_sigpipe().during("let", "SIGPIPE end the program")?;
        set_parent_process_death_signal(None).during("outlive", "the shim")?;
        if no_new_privileges {
            set_no_new_privs(true).during("set", "no_new_privs")?;
            load(&self.filter, self.flags)?;
        }
        let errno = process::execute(&file, &arguments, &environment);
        let kind = match errno {
            rustix::io::Errno::NOENT => FailureKind::NotFound,
            _ => FailureKind::NotExecutable,
        };
        Err(Failure::new(kind, "run", path.display(), explain(errno)))
    }
}

fn explain(errno: rustix::io::Errno) -> String {
    match errno {
        rustix::io::Errno::NOENT => "its interpreter or loader is not in the root file system".to_owned(),
        rustix::io::Errno::NOEXEC => {
            "it is neither a program for this machine nor a script that begins with `#!`".to_owned()
        }
        errno => std::io::Error::from(errno).to_string(),
    }
}

fn load(filter: &[u8], flags: FilterFlags) -> Result<(), Failure> {
    if filter.is_empty() {
        return Ok(());
    }
    kernel::install(filter, flags).during("load", "the system call filter")
}

struct Sets {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl Sets {
    fn of(capabilities: Option<&oci_spec::runtime::LinuxCapabilities>) -> Self {
        let set = |list: Option<&Capabilities>| {
            list.into_iter()
                .flatten()
                .filter_map(|one| one.to_string().parse::<Capability>().ok())
                .fold(CapabilitySet::EMPTY, CapabilitySet::with)
        };
        Self {
            bounding: set(capabilities.and_then(|all| all.bounding().as_ref())),
            effective: set(capabilities.and_then(|all| all.effective().as_ref())),
            permitted: set(capabilities.and_then(|all| all.permitted().as_ref())),
            inheritable: set(capabilities.and_then(|all| all.inheritable().as_ref())),
            ambient: set(capabilities.and_then(|all| all.ambient().as_ref())),
        }
    }

    fn apply(&self) -> Result<(), Failure> {
        // What the caller itself lacks (a machine without cap_sys_resource, say) can not be given.
        let held = rustix::thread::capabilities(None).during("read", "capabilities")?.permitted;
        let bits = |set: CapabilitySet| Bits::from_bits_retain(set.0).intersection(held);
        let sets = CapabilitySets {
            effective: bits(self.effective).intersection(bits(self.permitted)),
            permitted: bits(self.permitted),
            inheritable: bits(self.inheritable),
        };
        set_capabilities(None, sets).during("set", "capabilities")?;
        clear_ambient_capability_set().during("clear", "ambient capabilities")?;
        let both = CapabilitySet(self.ambient.0 & sets.inheritable.bits() & sets.permitted.bits());
        for capability in both.iter() {
            let bit = Bits::from_bits_retain(1 << capability.number());
            configure_capability_in_ambient_set(bit, true).during("raise ambient", capability)?;
        }
        Ok(())
    }
}

/// Makes the working directory where it is missing, as Docker does.
fn enter_directory(path: &Path) -> Result<(), Failure> {
    let root = tree::open_host(Path::new("/")).during("open", "/")?;
    let directory =
        tree::mount_point(root.as_fd(), path, true, false).during("make working directory", path.display())?;
    rustix::process::fchdir(&directory).during("enter working directory", path.display())
}

/// Refuses a working directory that is not there.
///
/// # Errors
/// [`FailureKind::Invalid`] when it is missing or no directory.
pub fn require_directory(path: &Path) -> Result<(), Failure> {
    let root = tree::open_host(Path::new("/")).during("open", "/")?;
    match tree::open(root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(_) => Ok(()),
        Err(errno @ (rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR)) => {
            let why = std::io::Error::from(errno);
            Err(Failure::new(FailureKind::Invalid, "enter working directory", path.display(), why))
        }
        Err(errno) => Err(errno).during("enter working directory", path.display()),
    }
}

/// Refuses to run outside the root: a leaked descriptor as working directory gives the host away (CVE-2024-21626).
fn check_directory() -> Result<(), Failure> {
    let now = getcwd(Vec::new()).during("find", "the working directory")?;
    if now.as_bytes().first() == Some(&b'/') {
        return Ok(());
    }
    let why = "it lies outside the container's root file system";
    Err(Failure::new(FailureKind::Invalid, "enter working directory", now.to_string_lossy(), why))
}

fn find_program(arguments: &[String], environment: &[String]) -> Result<PathBuf, Failure> {
    let empty = || Failure::new(FailureKind::Invalid, "run", "the container", "no command was given");
    let name = arguments.first().filter(|name| !name.is_empty()).ok_or_else(empty)?;
    if name.contains('/') {
        return check_program(Path::new(name)).map(|()| PathBuf::from(name));
    }
    let path = environment.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("/usr/local/bin:/usr/bin:/bin");
    let mut worst = None;
    for folder in path.split(':') {
        let file = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
        match check_program(&file) {
            Ok(()) => return Ok(file),
            Err(failure) if failure.kind == FailureKind::NotExecutable => worst = Some(failure),
            Err(_) => {}
        }
    }
    let why = format!("there is no such program in PATH ({path}) of the root file system");
    Err(worst.unwrap_or_else(|| Failure::new(FailureKind::NotFound, "run", name, why)))
}

fn check_program(path: &Path) -> Result<(), Failure> {
    let fail = |kind, why: &str| Failure::new(kind, "run", path.display(), why);
    let found = statat(CWD, path, AtFlags::empty())
        .map_err(|_| fail(FailureKind::NotFound, "there is no such file in the root file system"))?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(fail(FailureKind::NotExecutable, "it is not a file"));
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|_| fail(FailureKind::NotExecutable, "the user has no permission to execute it"))
}
