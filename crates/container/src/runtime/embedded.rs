//! Our own runtime: the container's init is a child of the shim, which makes itself what it is to be.

use super::{
    Runtime, child, enter,
    message::{self, DESCRIPTORS, During, Failure, FailureKind, Word},
    prepare, program,
    shim::{self, Site, Started, failed, namespace, root_of, write_maps},
};
use crate::{
    plan::{ExecPlan, Plan, UserPlan},
    spec::ulimit,
    sys::process::{self, Side},
};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType};
use rustix::{
    fs::{Mode, OFlags, open},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::Pid,
};
use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The runtime that is part of this program.
#[derive(Debug, Clone, Copy)]
pub struct Embedded;

impl Runtime for Embedded {
    fn start(&self, site: &Site<'_>, users: &UserPlan, warnings: &mut Vec<String>) -> Result<Started, Failure> {
        attempt(site, users, warnings)
    }

    fn enter(&self, plan: &ExecPlan, report: BorrowedFd<'_>) -> Result<i32, Failure> {
        enter::enter(plan, report)
    }
}

fn attempt(site: &Site<'_>, users: &UserPlan, warnings: &mut Vec<String>) -> Result<Started, Failure> {
    let Site { plan, host, cgroup, channels } = *site;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .during("open", "a socket")?;
    let tasks = cgroup.task_files().map_err(failed("open", "the container's control groups"))?;
    let unified = cgroup.unified_fd().map_err(failed("open", "the container's control groups"))?;
    let cgroups = host.mounts_for_container();
    let directories = cgroup.directories();
    let groups = prepare::Groups { directories: &directories, path: cgroup.path(), mounts: &cgroups };
    let filter = program::read_filter(&plan.program)?;
    let mut namespaces = Namespaces::of(plan)?;
    let mapped = !matches!(users, UserPlan::Host(_));
    if mapped {
        namespaces.new |= libc::CLONE_NEWUSER;
    }
    let side =
        process::clone(namespaces.new, unified.as_ref().map(AsFd::as_fd)).during("clone", "the container's init")?;
    let (pid, pidfd) = match side {
        Side::Child => {
            drop(ours);
            let [input, output, error] = &channels.inside;
            let new = |flag| namespaces.new & flag != 0;
            child::run(child::Inputs {
                plan,
                control: theirs.as_fd(),
                tasks: &tasks,
                cgroup_namespace: namespaces.cgroup,
                cgroups: &cgroups,
                streams: [input.as_fd(), output.as_fd(), error.as_fd()],
                mapped,
                loopback: new(libc::CLONE_NEWNET) && plan.lease.is_none(),
                own_hostname: new(libc::CLONE_NEWUTS),
                filter,
            })
        }
        Side::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop((theirs, tasks, unified));
    let result = guide(plan, users, ours.as_fd(), pid, &groups, warnings);
    match result {
        Ok(master) => Ok(Started { pid, pidfd, master }),
        Err(failure) => {
            shim::end(&pidfd);
            Err(failure)
        }
    }
}

/// All that is done to the child from outside, until it runs.
fn guide(
    plan: &Plan,
    users: &UserPlan,
    control: BorrowedFd<'_>,
    pid: i32,
    groups: &prepare::Groups<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<OwnedFd>, Failure> {
    adjust(plan, pid)?;
    let (owner, user_namespace) = match users {
        UserPlan::Host(_) => ((0, 0), None),
        UserPlan::Leased { base, size, .. } => {
            let line = format!("0 {base} {size}\n");
            write_maps(pid, &line, &line)?;
            ((*base, *base), Some(namespace(pid, "user")?))
        }
        UserPlan::Mapped { uids, gids } => {
            write_maps(pid, &lines(uids), &lines(gids))?;
            ((root_of(uids), root_of(gids)), None)
        }
    };
    if !matches!(users, UserPlan::Host(_)) {
        message::send(control, &Word::Mapped, &[]).during("tell", "the child")?;
        shim::give_channels(plan, owner)?;
    }
    let owner = prepare::Owner { uid: owner.0, gid: owner.1, idmap: user_namespace.as_ref().map(AsFd::as_fd) };
    let prepare::Made { trees, rest: _rest } = prepare::all(plan, owner, groups, warnings)?;
    let borrowed: Vec<_> = trees.iter().map(AsFd::as_fd).collect();
    for some in borrowed.chunks(DESCRIPTORS) {
        message::send(control, &Word::Trees, some).during("tell", "the child")?;
    }
    message::send(control, &Word::AllTrees, &[]).during("tell", "the child")?;
    drop(trees);
    shim::attach_network(plan, pid)?;
    let master = match hear(control)? {
        Some((Word::Ready, mut descriptors)) => descriptors.pop(),
        Some((Word::Failed(failure), _)) => return Err(failure),
        other => {
            let said = format!("it said {:?}", other.map(|(word, _)| word));
            return Err(Failure::new(FailureKind::Failed, "prepare", "the container", said));
        }
    };
    shim::record(plan, users, pid, None, warnings)?;
    message::send(control, &Word::Go, &[]).during("tell", "the child")?;
    match hear(control)? {
        None => Ok(master), // its end was closed by execve
        Some((Word::Failed(failure), _)) => Err(failure),
        Some((word, _)) => Err(Failure::new(FailureKind::Failed, "run", "the container", format!("it said {word:?}"))),
    }
}

fn hear(control: BorrowedFd<'_>) -> Result<Option<(Word, Vec<OwnedFd>)>, Failure> {
    message::receive(control).during("hear", "the child")
}

/// What the child is not allowed to do itself.
fn adjust(plan: &Plan, pid: i32) -> Result<(), Failure> {
    let process = &plan.program.process;
    for limit in process.rlimits().iter().flatten() {
        let name = ulimit::name(limit.typ());
        let unknown = || Failure::new(FailureKind::Invalid, "set limit", name, "this kernel does not have it");
        let resource = ulimit::resource(limit.typ()).ok_or_else(unknown)?;
        let value = |value: u64| (value != u64::MAX).then_some(value);
        let new = rustix::process::Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) };
        rustix::process::prlimit(Pid::from_raw(pid), resource, new)
            .during("set limit", format!("{name}={}:{}", limit.soft(), limit.hard()))?;
    }
    if let Some(score) = process.oom_score_adj() {
        fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()).during("set oom_score_adj to", score)?;
    }
    Ok(())
}

fn lines(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().map(|one| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size())).collect()
}

/// Namespaces to make, after those to join have been joined.
struct Namespaces {
    new: i32,
    cgroup: bool,
}
impl Namespaces {
    fn of(plan: &Plan) -> Result<Self, Failure> {
        use LinuxNamespaceType as Type;
        let mut all = Self { new: 0, cgroup: false };
        let listed = plan.record.spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
        for namespace in listed {
            let flag = match namespace.typ() {
                Type::Mount => libc::CLONE_NEWNS,
                Type::Uts => libc::CLONE_NEWUTS,
                Type::Ipc => libc::CLONE_NEWIPC,
                Type::Pid => libc::CLONE_NEWPID,
                Type::Network => libc::CLONE_NEWNET,
                Type::Cgroup => {
                    all.cgroup = namespace.path().is_none();
                    libc::CLONE_NEWCGROUP
                }
                Type::User => continue, // from the plan
                Type::Time => {
                    let why = "time namespaces are not made";
                    return Err(Failure::new(FailureKind::Invalid, "make", "linux.namespaces", why));
                }
            };
            match namespace.path() {
                Some(path) => {
                    let opened =
                        open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path.display())?;
                    // The child is born in it: clone comes after.
                    rustix::thread::move_into_link_name_space(opened.as_fd(), None).during("join", path.display())?;
                }
                None if flag == libc::CLONE_NEWCGROUP => {} // after it has joined its groups
                None => all.new |= flag,
            }
        }
        all.new |= libc::CLONE_NEWNS; // a root of its own is not possible without
        Ok(all)
    }
}
