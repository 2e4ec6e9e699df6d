//! The filter that a container has unless it brings its own.
//!
//! It is a list of what is allowed, by purpose. Everything else fails with `EPERM`, and what is newer than this list
//! with `ENOSYS`, so that C libraries fall back to older calls. It is at least as strict as Docker's: what Docker denies
//! to a container with the same capabilities, this denies too. Where it is stricter:
//! - `socket` looks at the 32 bits that the kernel looks at. A comparison of all 64 lets `AF_ALG` and `AF_VSOCK` through
//!   to whoever sets a bit above them.
//! - 32-bit programs are refused, unless the image is a 32-bit one: their `socketcall` passes its arguments in memory,
//!   where no filter sees them, and 64-bit programs can use it as well.
//! - Calls that the kernel no longer has, or never had, are not listed.
//!
//! Not listed for anybody, because they reach kernel memory, other tenants or large unreviewed parts of the kernel:
//! `io_uring_*`, `keyctl` and its kin, `userfaultfd`, `kexec_*`, `swapon`, `pivot_root`, `migrate_pages`, `move_pages`,
//! `uselib`, `ustat`, `sysfs`, `_sysctl`, `vm86`, `nfsservctl`.

use super::{
    capability::{Capability, CapabilitySet},
    compile::argument,
};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

/// Allowed whatever the capabilities are.
#[rustfmt::skip] // a table
const ALWAYS: &[(&str, &[&str])] = &[
    ("open files", &[
        "open", "openat", "openat2", "creat", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "flock", "ioctl",
        "memfd_create", "memfd_secret", "name_to_handle_at",
    ]),
    ("read and write", &[
        "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "lseek",
        "sendfile", "splice", "tee", "vmsplice", "copy_file_range", "readahead", "fadvise64", "fallocate", "truncate",
        "ftruncate", "sync", "syncfs", "fsync", "fdatasync", "sync_file_range", "cachestat",
        "io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents",
    ]),
    ("names in the file system", &[
        "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir",
        "mkdirat", "rmdir", "mknod", "mknodat", "readlink", "readlinkat", "getdents", "getdents64", "chdir", "fchdir",
        "getcwd", "umask", "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "fanotify_mark",
    ]),
    ("attributes of files", &[
        "stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "statmount", "listmount", "access",
        "faccessat", "faccessat2", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat",
        "utime", "utimes", "futimesat", "utimensat",
        "getxattr", "lgetxattr", "fgetxattr", "getxattrat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat",
        "listxattr", "llistxattr", "flistxattr", "listxattrat",
        "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
    ]),
    ("waiting for descriptors", &[
        "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait",
        "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "signalfd", "signalfd4", "pipe", "pipe2",
    ]),
    ("memory", &[
        "brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "mincore", "msync", "mlock", "mlock2", "mlockall",
        "munlock", "munlockall", "remap_file_pages", "mseal", "map_shadow_stack", "membarrier",
        "pkey_alloc", "pkey_free", "pkey_mprotect",
    ]),
    // clone and clone3 stand below: they can make namespaces.
    ("processes", &[
        "fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "getpid", "getppid", "gettid",
        "getpgid", "getpgrp", "setpgid", "getsid", "setsid", "set_tid_address", "prctl", "getrusage", "getrlimit",
        "setrlimit", "prlimit64", "getpriority", "setpriority", "ioprio_get", "ioprio_set", "pidfd_open",
        "process_mrelease", "uname", "sysinfo", "getrandom", "rseq", "restart_syscall",
        // Seen by no one but the caller's own processes; ptrace cannot escape a filter since Linux 4.8.
        "ptrace", "process_vm_readv", "process_vm_writev",
    ]),
    ("scheduling", &[
        "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr", "sched_setattr", "sched_getparam",
        "sched_setparam", "sched_getscheduler", "sched_setscheduler", "sched_get_priority_max",
        "sched_get_priority_min", "sched_rr_get_interval", "getcpu",
    ]),
    ("users, groups and a smaller set of rights", &[
        "getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid", "setuid", "setgid",
        "setgroups", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "capget", "capset",
        "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
    ]),
    ("signals", &[
        "kill", "tkill", "tgkill", "pidfd_send_signal", "pause", "sigaltstack", "rt_sigaction", "rt_sigpending",
        "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo",
    ]),
    ("locks between threads", &[
        "futex", "futex_waitv", "futex_wait", "futex_wake", "futex_requeue", "set_robust_list", "get_robust_list",
    ]),
    // socket stands below: not every family is allowed.
    ("sockets", &[
        "socketpair", "bind", "listen", "accept", "accept4", "connect", "shutdown", "getsockname", "getpeername",
        "getsockopt", "setsockopt", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg",
    ]),
    ("System V and POSIX IPC", &[
        "shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv",
        "msgctl", "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr",
    ]),
    // Setting the clock stands below; the adjusting calls also read it, and the kernel asks for CAP_SYS_TIME otherwise.
    ("time", &[
        "time", "times", "gettimeofday", "clock_gettime", "clock_getres", "clock_nanosleep", "clock_adjtime",
        "adjtimex", "nanosleep", "alarm", "getitimer", "setitimer", "timer_create", "timer_delete",
        "timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime",
    ]),
];

/// What x86_64 needs for thread-local storage and old programs, and the kernel for the probes of the host in them.
#[cfg(target_arch = "x86_64")]
const MACHINE: &[&str] = &["arch_prctl", "modify_ldt", "set_thread_area", "get_thread_area", "uretprobe"];
#[cfg(target_arch = "aarch64")]
const MACHINE: &[&str] = &[];

/// What 32-bit x86 has instead of the calls above, or beside them: the same with wider numbers, and the multiplexers.
#[rustfmt::skip] // a table
const I386: &[(&str, &[&str])] = &[
    ("files", &[
        "_llseek", "fcntl64", "fadvise64_64", "sendfile64", "truncate64", "ftruncate64", "stat64", "lstat64",
        "fstat64", "fstatat64", "statfs64", "fstatfs64", "chown32", "fchown32", "lchown32", "utimensat_time64",
        "_newselect", "pselect6_time64", "ppoll_time64", "io_pgetevents_time64", "mmap2",
    ]),
    ("processes and signals", &[
        "waitpid", "ugetrlimit", "sigprocmask", "sigreturn", "rt_sigtimedwait_time64", "futex_time64",
        "sched_rr_get_interval_time64",
    ]),
    ("users and groups", &[
        "getuid32", "geteuid32", "getgid32", "getegid32", "getgroups32", "getresuid32", "getresgid32", "setuid32",
        "setgid32", "setgroups32", "setreuid32", "setregid32", "setresuid32", "setresgid32", "setfsuid32",
        "setfsgid32",
    ]),
    ("sockets and IPC", &[
        "socketcall", "recvmmsg_time64", "ipc", "semtimedop_time64", "mq_timedsend_time64", "mq_timedreceive_time64",
    ]),
    ("time", &[
        "clock_gettime64", "clock_getres_time64", "clock_nanosleep_time64", "clock_adjtime64", "timer_gettime64",
        "timer_settime64", "timerfd_gettime64", "timerfd_settime64",
    ]),
];

/// Allowed with this capability: what the kernel asks it for, and nothing before it does.
#[rustfmt::skip] // a table
const WITH: &[(&str, &[&str])] = &[
    ("CAP_SYS_ADMIN", &[
        "mount", "umount", "umount2", "mount_setattr", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
        "clone", "clone3", "unshare", "setns", "sethostname", "setdomainname",
        "quotactl", "quotactl_fd", "fanotify_init", "lookup_dcookie", "syslog", "bpf", "perf_event_open",
        "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules",
    ]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["init_module", "finit_module", "delete_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    ("CAP_SYS_TIME", &["settimeofday", "clock_settime", "clock_settime64", "stime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "set_mempolicy", "mbind", "set_mempolicy_home_node"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

/// What `clone` must not be asked for without CAP_SYS_ADMIN. `CLONE_NEWTIME` is no flag of `clone`: its bit is part of
/// the signal number there.
const NEW_NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// Socket families whose sockets reach past the container: the hypervisor, and the kernel's ciphers, which are a steady
/// source of privilege escalations.
const REFUSED_FAMILIES: [i32; 2] = [libc::AF_VSOCK, libc::AF_ALG];
/// A power of two that no family reaches (`AF_MAX` is 46 in Linux 6.18); the kernel has nothing beyond.
const FAMILIES: u32 = 64;

/// Execution domains (personality(2)): Linux, Linux/32, either without the newer parts of uname, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The profile for a container with these capabilities.
///
/// `i386` adds the calls of 32-bit x86, for images of that kind; elsewhere than on x86_64 it adds nothing.
pub(super) fn default_profile(capabilities: CapabilitySet, i386: bool) -> LinuxSeccomp {
    let i386 = i386 && cfg!(target_arch = "x86_64");
    let mut rules: Vec<LinuxSyscall> = ALWAYS.iter().map(|(_, names)| allow(names, Vec::new())).collect();
    if !MACHINE.is_empty() {
        rules.push(allow(MACHINE, Vec::new()));
    }
    if i386 {
        rules.extend(I386.iter().map(|(_, names)| allow(names, Vec::new())));
    }
    rules.extend(families().map(|family| allow(&["socket"], vec![family])));
    rules.extend(
        PERSONALITIES
            .map(|domain| allow(&["personality"], vec![argument(0, domain, None, LinuxSeccompOperator::ScmpCmpEq)])),
    );
    if !holds(capabilities, "CAP_SYS_ADMIN") {
        let flags = u64::from(NEW_NAMESPACES.unsigned_abs());
        rules.push(allow(&["clone"], vec![argument(0, flags, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq)]));
        // Its flags are in memory, where no filter sees them; C libraries then use clone.
        let mut clone3 = rule(&["clone3"], LinuxSeccompAction::ScmpActErrno);
        clone3.set_errno_ret(Some(libc::ENOSYS.unsigned_abs()));
        rules.push(clone3);
    }
    let granted = WITH.iter().filter(|(capability, _)| holds(capabilities, capability));
    rules.extend(granted.map(|(_, names)| allow(names, Vec::new())));

    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(libc::EPERM.unsigned_abs()));
    profile.set_architectures(Some(if i386 { vec![NATIVE, Arch::ScmpArchX86] } else { vec![NATIVE] }));
    profile.set_syscalls(Some(rules));
    profile
}

/// The capabilities that make a difference to the profile.
pub(super) fn relevant(capabilities: CapabilitySet) -> CapabilitySet {
    let relevant = WITH.iter().filter_map(|(name, _)| name.parse::<Capability>().ok());
    relevant.filter(|capability| capabilities.contains(*capability)).fold(CapabilitySet::EMPTY, CapabilitySet::with)
}

#[cfg(target_arch = "x86_64")]
const NATIVE: Arch = Arch::ScmpArchX86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: Arch = Arch::ScmpArchAarch64;

fn holds(capabilities: CapabilitySet, name: &str) -> bool {
    name.parse().is_ok_and(|capability| capabilities.contains(capability))
}

/// Conditions on the family that together allow all but the refused ones: aligned blocks, halved where they hold one.
fn families() -> impl Iterator<Item = LinuxSeccompArg> {
    let mut blocks = vec![(0, FAMILIES)];
    let mut allowed = Vec::new();
    while let Some((first, count)) = blocks.pop() {
        let refused = REFUSED_FAMILIES.iter().any(|family| (first..first + count).contains(&family.unsigned_abs()));
        match (refused, count / 2) {
            (false, _) => allowed.push((first, count)),
            (true, 0) => {}
            (true, half) => blocks.extend([(first + half, half), (first, half)]),
        }
    }
    // The kernel takes the family as a 32-bit number.
    allowed.into_iter().map(|(first, count)| {
        argument(0, u64::from(!(count - 1)), Some(u64::from(first)), LinuxSeccompOperator::ScmpCmpMaskedEq)
    })
}

fn allow(names: &[&str], arguments: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut allowed = rule(names, LinuxSeccompAction::ScmpActAllow);
    allowed.set_args(Some(arguments).filter(|arguments| !arguments.is_empty()));
    allowed
}

fn rule(names: &[&str], action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect());
    rule.set_action(action);
    rule
}
