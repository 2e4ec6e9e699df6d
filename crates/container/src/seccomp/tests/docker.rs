//! What Docker denies, by name.

use super::{ALLOW, ENOSYS, EPERM, KILL, call, number};
use crate::{
    capability::{Capability, CapabilitySet},
    seccomp::{
        compile, default_profile_i386, default_program,
        numbers::Machine,
        tests::interpreter::{Call, Filter},
    },
};
use std::collections::BTreeSet;

/// Denied to a container with Docker's default capabilities, whatever the arguments are.
#[rustfmt::skip] // a table
const DENIED: &[&str] = &[
    // the file system as a whole
    "mount", "umount2", "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount",
    "fspick", "pivot_root", "swapon", "swapoff", "quotactl", "quotactl_fd", "nfsservctl", "lookup_dcookie",
    "open_by_handle_at", "fanotify_init", "sysfs", "ustat", "uselib",
    // namespaces and the machine's names
    "unshare", "setns", "sethostname", "setdomainname",
    // the kernel itself
    "init_module", "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms", "kexec_load",
    "kexec_file_load", "reboot", "syslog", "bpf", "perf_event_open", "iopl", "ioperm", "acct", "_sysctl", "uprobe",
    "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules",
    // large and often broken parts of it
    "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "add_key", "request_key", "keyctl",
    // other processes, memory placement
    "kcmp", "pidfd_getfd", "process_madvise", "get_mempolicy", "set_mempolicy", "set_mempolicy_home_node", "mbind",
    "migrate_pages", "move_pages",
    // clocks and terminals
    "clock_settime", "settimeofday", "vhangup",
    // seen by no filter
    "clone3",
    // newer than the profile
    "file_getattr", "file_setattr",
    // never there
    "afs_syscall", "getpmsg", "putpmsg", "security", "tuxcall", "vserver",
];

/// What one capability opens, as Docker has it.
const GATES: &[(&str, &[&str])] = &[
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    ("CAP_SYS_TIME", &["settimeofday", "clock_settime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount2",
            "unshare",
        ],
    ),
];

/// x86_64's, where the lists above name calls that other machines do not have.
fn native(name: &str) -> Option<u32> {
    Machine::Native.calls().get(name).copied()
}

fn filter(capabilities: &CapabilitySet) -> Filter {
    Filter::new(&default_program(capabilities))
}

fn answers(program: &Filter, number: u32) -> BTreeSet<u32> {
    let machine = Machine::Native.audit_arch();
    let values = [0, 1, 2, 16, 38, 40, 0x0200_0000, 0x1000_0000, 0xffff_ffff, u64::MAX];
    values.map(|value| program.answer(&Call { number, machine, arguments: [value; 6] })).into_iter().collect()
}

#[test]
fn what_docker_denies_is_denied() {
    let program = filter(&CapabilitySet::DOCKER);
    for name in DENIED.iter().filter(|name| native(name).is_some()) {
        let expected = match *name {
            "clone3" | "open_tree_attr" | "file_getattr" | "file_setattr" => ENOSYS,
            _ => EPERM,
        };
        assert_eq!(answers(&program, number(name)), BTreeSet::from([expected]), "{name}");
    }
}

/// The list above is complete: every other call is one that Docker allows, but for two that no kernel ever had.
#[test]
fn nothing_else_is_denied() {
    let program = filter(&CapabilitySet::DOCKER);
    let denied =
        |(name, number): (&&'static str, &u32)| (!answers(&program, *number).contains(&ALLOW)).then_some(*name);
    let denied: BTreeSet<&str> = Machine::Native.calls().iter().filter_map(denied).collect();
    let stricter = ["epoll_ctl_old", "epoll_wait_old"];
    let expected = DENIED.iter().copied().chain(stricter).filter(|name| native(name).is_some()).collect();
    assert_eq!(denied, expected);
}

#[test]
fn capabilities_open_what_docker_opens_for_them() {
    let bare = filter(&CapabilitySet::EMPTY);
    for (name, calls) in GATES {
        let capability: Capability = name.parse().unwrap();
        let program = filter(&CapabilitySet::EMPTY.with(capability));
        for (call, number) in Machine::Native.calls() {
            let (without, with) = (answers(&bare, *number), answers(&program, *number));
            if calls.contains(call) {
                assert!(!without.contains(&ALLOW), "{call} without {name}");
                assert_eq!(with, BTreeSet::from([ALLOW]), "{call} with {name}");
            } else if *call != "clone" {
                assert_eq!(without, with, "{call} with {name}");
            }
        }
    }
    let gating: BTreeSet<&str> = GATES.iter().map(|(name, _)| *name).collect();
    for capability in Capability::all().filter(|capability| !gating.contains(capability.to_string().as_str())) {
        assert_eq!(filter(&CapabilitySet::EMPTY.with(capability)), bare, "{capability}");
    }
}

#[test]
fn clone_makes_threads_and_processes_but_no_namespaces() {
    let program = filter(&CapabilitySet::DOCKER);
    let answer = |flags: u64| program.answer(&call("clone", flags));
    assert_eq!(answer(17), ALLOW, "fork: SIGCHLD");
    assert_eq!(answer(0x3d_0f00), ALLOW, "pthread_create");
    assert_eq!(answer(0x4111), ALLOW, "posix_spawn: CLONE_VM | CLONE_VFORK | SIGCHLD");
    for flag in [0x0002_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000, 0x0200_0000] {
        assert_eq!(answer(flag | 17), EPERM, "{flag:#x}");
        assert_eq!(answer(flag | 17 | 1 << 32), EPERM, "{flag:#x}");
    }
    let admin = filter(&CapabilitySet::EMPTY.with("SYS_ADMIN".parse().unwrap()));
    assert_eq!(admin.answer(&call("clone", 0x7e02_0011)), ALLOW);
}

#[test]
fn sockets_of_every_family_but_two() {
    let program = filter(&CapabilitySet::full());
    for family in 0..64 {
        let refused = family == 38 || family == 40;
        for above in [0, 1 << 32, 0xffff_ffff << 32] {
            let answer = program.answer(&call("socket", family | above));
            assert_eq!(answer, if refused { EPERM } else { ALLOW }, "family {family} with {above:#x}");
        }
    }
    assert_eq!(program.answer(&call("socket", 64)), EPERM);
}

#[test]
fn five_personalities() {
    let program = filter(&CapabilitySet::full());
    let allowed = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
    for domain in (0..0x100).chain([0x2_0000, 0x2_0008, 0x4_0000, 0x8_0000, 0xffff_ffff, u64::MAX, 1 << 32]) {
        let answer = program.answer(&call("personality", domain));
        assert_eq!(answer, if allowed.contains(&domain) { ALLOW } else { EPERM }, "{domain:#x}");
    }
}

#[test]
fn other_machines_and_unknown_calls() {
    let program = filter(&CapabilitySet::DOCKER);
    let answer = |machine, number| program.answer(&Call { number, machine, arguments: [0; 6] });
    let native = Machine::Native.audit_arch();
    for foreign in [Machine::I386.audit_arch(), 0x4000_0028, 0xc000_00f3, 0] {
        assert_eq!(answer(foreign, 0), KILL, "{foreign:#x}");
    }
    assert_eq!((answer(native, 466), answer(native, 467)), (ALLOW, ENOSYS));
    for number in [1000, 0x3fff_ffff, 0x4000_0000, 0x4000_0001, u32::MAX] {
        assert_eq!(answer(native, number), ENOSYS, "{number:#x}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn i386_images_have_the_same_rules() {
    let program = Filter::new(&compile(&default_profile_i386(CapabilitySet::DOCKER)).unwrap());
    let answer = |name: &str, first| {
        let number = Machine::I386.calls()[name];
        program.answer(&Call { number, machine: Machine::I386.audit_arch(), arguments: [first, 0, 0, 0, 0, 0] })
    };
    for name in
        ["read", "mmap2", "waitpid", "socketcall", "futex_time64", "clock_gettime64", "chroot", "set_thread_area"]
    {
        assert_eq!(answer(name, 0), ALLOW, "{name}");
    }
    // Those denied on x86_64, and the ones that only i386 has.
    let only_here = ["umount", "stime", "clock_settime64", "vm86", "vm86old", "bdflush", "idle"];
    let both = DENIED.iter().copied().filter(|name| Machine::I386.calls().contains_key(name));
    for name in both.chain(only_here) {
        assert!([EPERM, ENOSYS].contains(&answer(name, 0)), "{name}");
    }
    assert_eq!((answer("clone", 17), answer("clone", 0x1000_0011)), (ALLOW, EPERM));
    assert_eq!((answer("socket", 2), answer("socket", 38)), (ALLOW, EPERM));
}
