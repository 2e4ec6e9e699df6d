//! System call numbers by name.
//!
//! The native table is made of the `libc` crate's constants. Numbers that the crate does not have, or has for one C
//! library only, stand beside them with their source; they are part of the kernel's stable interface.

use super::i386;
use std::{collections::BTreeMap, sync::LazyLock};

/// An instruction set whose system calls a filter can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    /// The one this program is built for.
    Native,
    /// 32-bit x86 programs on a 64-bit x86 kernel.
    I386,
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("system call filters are written for x86_64 and aarch64");

/// `AUDIT_ARCH_X86_64` (linux/audit.h): EM_X86_64, 64-bit, little-endian.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
/// `AUDIT_ARCH_AARCH64` (linux/audit.h): EM_AARCH64, 64-bit, little-endian.
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
/// `AUDIT_ARCH_I386` (linux/audit.h): EM_386, little-endian.
const AUDIT_ARCH_I386: u32 = 0x4000_0003;

/// The calls of the x32 interface are numbers of x86_64 with this bit (asm/unistd.h, `__X32_SYSCALL_BIT`); no machine
/// has a true call that far up.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// From this number on, a system call has the same number on every machine (asm-generic/unistd.h, since Linux 5.1).
const UNIFIED: u32 = 424;

static NATIVE: LazyLock<BTreeMap<&str, u32>> = LazyLock::new(|| {
    let of_libc = [EVERYWHERE, LEGACY].concat().into_iter().filter_map(|(constant, number)| {
        // A constant is `SYS_` and the call's name; all are small positive numbers.
        Some((constant.strip_prefix("SYS_")?, u32::try_from(number).ok()?))
    });
    of_libc.chain(OWN.iter().chain(NEWER).copied()).collect()
});
static I386: LazyLock<BTreeMap<&str, u32>> = LazyLock::new(|| {
    let unified = NATIVE.iter().map(|(name, number)| (*name, *number)).filter(|(_, number)| *number >= UNIFIED);
    i386::calls().chain(unified).collect()
});

impl Machine {
    /// `seccomp_data.arch` of its calls.
    pub(super) fn audit_arch(self) -> u32 {
        match self {
            Self::Native => AUDIT_ARCH,
            Self::I386 => AUDIT_ARCH_I386,
        }
    }

    /// Whether its arguments have 64 bits; else only the low 32 of a profile's values count, as with libseccomp.
    pub(super) fn is_64_bit(self) -> bool {
        self == Self::Native
    }

    /// Its system calls: numbers by name.
    pub(super) fn calls(self) -> &'static BTreeMap<&'static str, u32> {
        match self {
            Self::Native => &NATIVE,
            Self::I386 => &I386,
        }
    }
}

/// Pairs of a constant's name and its value.
macro_rules! calls {
    ($($constant:ident),* $(,)?) => { &[$((stringify!($constant), libc::$constant)),*] };
}

/// What both machines have, with both C libraries.
#[rustfmt::skip] // a table
const EVERYWHERE: &[(&str, libc::c_long)] = calls![
        SYS_read, SYS_write, SYS_close, SYS_fstat, SYS_lseek, SYS_mmap, SYS_mprotect, SYS_munmap, SYS_brk,
        SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_ioctl, SYS_pread64, SYS_pwrite64, SYS_readv,
        SYS_writev, SYS_sched_yield, SYS_mremap, SYS_msync, SYS_mincore, SYS_madvise, SYS_shmget, SYS_shmat,
        SYS_shmctl, SYS_dup, SYS_nanosleep, SYS_getitimer, SYS_setitimer, SYS_getpid, SYS_sendfile, SYS_socket,
        SYS_connect, SYS_accept, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_shutdown, SYS_bind,
        SYS_listen, SYS_getsockname, SYS_getpeername, SYS_socketpair, SYS_setsockopt, SYS_getsockopt, SYS_clone,
        SYS_execve, SYS_exit, SYS_wait4, SYS_kill, SYS_uname, SYS_semget, SYS_semop, SYS_semctl, SYS_shmdt, SYS_msgget,
        SYS_msgsnd, SYS_msgrcv, SYS_msgctl, SYS_fcntl, SYS_flock, SYS_fsync, SYS_fdatasync, SYS_truncate,
        SYS_ftruncate, SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_fchmod, SYS_fchown, SYS_umask, SYS_gettimeofday,
        SYS_getrusage, SYS_sysinfo, SYS_times, SYS_ptrace, SYS_getuid, SYS_syslog, SYS_getgid, SYS_setuid, SYS_setgid,
        SYS_geteuid, SYS_getegid, SYS_setpgid, SYS_getppid, SYS_setsid, SYS_setreuid, SYS_setregid, SYS_getgroups,
        SYS_setgroups, SYS_setresuid, SYS_getresuid, SYS_setresgid, SYS_getresgid, SYS_getpgid, SYS_setfsuid,
        SYS_setfsgid, SYS_getsid, SYS_capget, SYS_capset, SYS_rt_sigpending, SYS_rt_sigtimedwait, SYS_rt_sigqueueinfo,
        SYS_rt_sigsuspend, SYS_sigaltstack, SYS_personality, SYS_statfs, SYS_fstatfs, SYS_getpriority, SYS_setpriority,
        SYS_sched_setparam, SYS_sched_getparam, SYS_sched_setscheduler, SYS_sched_getscheduler,
        SYS_sched_get_priority_max, SYS_sched_get_priority_min, SYS_sched_rr_get_interval, SYS_mlock, SYS_munlock,
        SYS_mlockall, SYS_munlockall, SYS_vhangup, SYS_pivot_root, SYS_prctl, SYS_adjtimex, SYS_chroot, SYS_sync,
        SYS_acct, SYS_settimeofday, SYS_mount, SYS_umount2, SYS_swapon, SYS_swapoff, SYS_reboot, SYS_sethostname,
        SYS_setdomainname, SYS_init_module, SYS_delete_module, SYS_quotactl, SYS_nfsservctl, SYS_gettid, SYS_readahead,
        SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_listxattr,
        SYS_llistxattr, SYS_flistxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr, SYS_tkill, SYS_futex,
        SYS_sched_setaffinity, SYS_sched_getaffinity, SYS_io_setup, SYS_io_destroy, SYS_io_getevents, SYS_io_submit,
        SYS_io_cancel, SYS_lookup_dcookie, SYS_remap_file_pages, SYS_getdents64, SYS_set_tid_address,
        SYS_restart_syscall, SYS_semtimedop, SYS_fadvise64, SYS_timer_create, SYS_timer_settime, SYS_timer_gettime,
        SYS_timer_getoverrun, SYS_timer_delete, SYS_clock_settime, SYS_clock_gettime, SYS_clock_getres,
        SYS_clock_nanosleep, SYS_exit_group, SYS_epoll_ctl, SYS_tgkill, SYS_mbind, SYS_set_mempolicy,
        SYS_get_mempolicy, SYS_mq_open, SYS_mq_unlink, SYS_mq_timedsend, SYS_mq_timedreceive, SYS_mq_notify,
        SYS_mq_getsetattr, SYS_kexec_load, SYS_waitid, SYS_add_key, SYS_request_key, SYS_keyctl, SYS_ioprio_set,
        SYS_ioprio_get, SYS_inotify_add_watch, SYS_inotify_rm_watch, SYS_migrate_pages, SYS_openat, SYS_mkdirat,
        SYS_mknodat, SYS_fchownat, SYS_newfstatat, SYS_unlinkat, SYS_linkat, SYS_symlinkat, SYS_readlinkat,
        SYS_fchmodat, SYS_faccessat, SYS_pselect6, SYS_ppoll, SYS_unshare, SYS_set_robust_list, SYS_get_robust_list,
        SYS_splice, SYS_tee, SYS_vmsplice, SYS_move_pages, SYS_utimensat, SYS_epoll_pwait, SYS_timerfd_create,
        SYS_fallocate, SYS_timerfd_settime, SYS_timerfd_gettime, SYS_accept4, SYS_signalfd4, SYS_eventfd2,
        SYS_epoll_create1, SYS_dup3, SYS_pipe2, SYS_inotify_init1, SYS_preadv, SYS_pwritev, SYS_rt_tgsigqueueinfo,
        SYS_perf_event_open, SYS_recvmmsg, SYS_fanotify_init, SYS_fanotify_mark, SYS_prlimit64, SYS_name_to_handle_at,
        SYS_open_by_handle_at, SYS_clock_adjtime, SYS_syncfs, SYS_sendmmsg, SYS_setns, SYS_getcpu,
        SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_finit_module, SYS_sched_setattr, SYS_sched_getattr,
        SYS_renameat2, SYS_seccomp, SYS_getrandom, SYS_memfd_create, SYS_bpf, SYS_execveat, SYS_userfaultfd,
        SYS_membarrier, SYS_mlock2, SYS_copy_file_range, SYS_preadv2, SYS_pwritev2, SYS_pkey_mprotect, SYS_pkey_alloc,
        SYS_pkey_free, SYS_statx, SYS_rseq, SYS_pidfd_send_signal, SYS_io_uring_setup, SYS_io_uring_enter,
        SYS_io_uring_register, SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick,
        SYS_pidfd_open, SYS_clone3, SYS_close_range, SYS_openat2, SYS_pidfd_getfd, SYS_faccessat2, SYS_process_madvise,
        SYS_epoll_pwait2, SYS_mount_setattr, SYS_quotactl_fd, SYS_landlock_create_ruleset, SYS_landlock_add_rule,
        SYS_landlock_restrict_self, SYS_memfd_secret, SYS_process_mrelease, SYS_futex_waitv,
        SYS_set_mempolicy_home_node, SYS_mseal,
];

/// Calls of x86_64 that later machines replaced by more general ones.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip] // a table
const LEGACY: &[(&str, libc::c_long)] = calls![
        SYS_open, SYS_stat, SYS_lstat, SYS_poll, SYS_access, SYS_pipe, SYS_select, SYS_dup2, SYS_pause, SYS_alarm,
        SYS_fork, SYS_vfork, SYS_getdents, SYS_rename, SYS_mkdir, SYS_rmdir, SYS_creat, SYS_link, SYS_unlink,
        SYS_symlink, SYS_readlink, SYS_chmod, SYS_chown, SYS_lchown, SYS_getrlimit, SYS_getpgrp, SYS_utime, SYS_mknod,
        SYS_uselib, SYS_ustat, SYS_sysfs, SYS_modify_ldt, SYS__sysctl, SYS_arch_prctl, SYS_setrlimit, SYS_iopl,
        SYS_ioperm, SYS_getpmsg, SYS_putpmsg, SYS_afs_syscall, SYS_tuxcall, SYS_security, SYS_time,
        SYS_set_thread_area, SYS_get_thread_area, SYS_epoll_create, SYS_epoll_ctl_old, SYS_epoll_wait_old,
        SYS_epoll_wait, SYS_utimes, SYS_vserver, SYS_inotify_init, SYS_futimesat, SYS_renameat, SYS_sync_file_range,
        SYS_signalfd, SYS_eventfd,
];
#[cfg(target_arch = "aarch64")]
const LEGACY: &[(&str, libc::c_long)] = &[];

/// Not in the `libc` crate (arch/x86/entry/syscalls/syscall_64.tbl), or there for one C library only.
#[cfg(target_arch = "x86_64")]
const OWN: &[(&str, u32)] = &[
    ("create_module", 174),
    ("get_kernel_syms", 177),
    ("query_module", 178),
    ("kexec_file_load", 320),
    ("io_pgetevents", 333),
    ("uretprobe", 335), // Linux 6.11
    ("uprobe", 336),    // Linux 6.18
];
/// Not in the `libc` crate (asm-generic/unistd.h), or there for one C library only.
#[cfg(target_arch = "aarch64")]
const OWN: &[(&str, u32)] = &[
    ("renameat", 38),
    ("sync_file_range", 84),
    ("getrlimit", 163),
    ("setrlimit", 164),
    ("io_pgetevents", 292),
    ("kexec_file_load", 294),
];

/// Newer than the `libc` crate, or there for one machine only; the same number everywhere (asm-generic/unistd.h).
const NEWER: &[(&str, u32)] = &[
    ("cachestat", 451),         // Linux 6.5
    ("fchmodat2", 452),         // 6.6
    ("map_shadow_stack", 453),  // 6.6
    ("futex_wake", 454),        // 6.7
    ("futex_wait", 455),        // 6.7
    ("futex_requeue", 456),     // 6.7
    ("statmount", 457),         // 6.8
    ("listmount", 458),         // 6.8
    ("lsm_get_self_attr", 459), // 6.8
    ("lsm_set_self_attr", 460), // 6.8
    ("lsm_list_modules", 461),  // 6.8
    ("setxattrat", 463),        // 6.13
    ("getxattrat", 464),        // 6.13
    ("listxattrat", 465),       // 6.13
    ("removexattrat", 466),     // 6.13
    ("open_tree_attr", 467),    // 6.15
    ("file_getattr", 468),      // 6.17
    ("file_setattr", 469),      // 6.17
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_are_the_machines() {
        let native = Machine::Native.calls();
        assert_eq!(native.get("read"), u32::try_from(libc::SYS_read).ok().as_ref());
        assert_eq!(native.get("clone3"), Some(&435));
        assert_eq!(native.get("mseal"), Some(&462));
        assert_eq!(native.get("SYS_read"), None);
        let i386 = Machine::I386.calls();
        assert_eq!((i386["read"], i386["socketcall"], i386["futex_time64"]), (3, 102, 422));
        assert_eq!((i386["clone3"], i386["removexattrat"]), (435, 466));
        assert!(!i386.contains_key("uretprobe"));
    }

    #[test]
    fn no_number_has_two_names() {
        for machine in [Machine::Native, Machine::I386] {
            let calls = machine.calls();
            let numbers: BTreeSet<_> = calls.values().collect();
            assert_eq!(numbers.len(), calls.len(), "{machine:?}");
            assert!(numbers.iter().all(|number| **number < X32_BIT));
        }
    }

    /// A hole below the newest call would be a call that no profile can name.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn no_call_is_missing() {
        let known: BTreeSet<u32> = Machine::Native.calls().values().copied().collect();
        // 337 to 423 were never given out on x86_64.
        let holes: Vec<u32> =
            (0..470).filter(|number| !(337..424).contains(number) && !known.contains(number)).collect();
        assert_eq!(holes, [] as [u32; 0]);
    }
}
