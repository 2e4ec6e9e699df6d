//! Kernel calls: seccomp.

use crate::seccomp::FilterFlags;
use rustix::io::Errno;

/// Bytes of a `struct sock_filter`.
const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// Puts the calling thread (with [`FilterFlags::TSYNC`], the process) and all its future children under a filter: an array
/// of `struct sock_filter` as [`compile`](crate::seccomp::compile) makes it. Nothing undoes it.
///
/// It neither allocates nor locks, so that a child may call it between clone and execve. The caller must have
/// `no_new_privs` set or CAP_SYS_ADMIN in its user namespace.
///
/// # Errors
/// `EINVAL`: the program is not one for the kernel, or a flag is unknown to it. `EACCES`: neither `no_new_privs` nor
/// CAP_SYS_ADMIN. `ENOMEM`: too many filters. `ESRCH`: another thread could not be synchronised. `ENOSYS`: no seccomp.
pub fn install(program: &[u8], flags: FilterFlags) -> rustix::io::Result<()> {
    let whole = program.len().is_multiple_of(INSTRUCTION);
    let length = u16::try_from(program.len() / INSTRUCTION).ok().filter(|length| whole && *length > 0);
    let length = length.ok_or(Errno::INVAL)?;
    // The kernel copies the instructions and does not ask for alignment; it does not write to them.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `program` points to `length` instructions of initialised memory, and both it and they outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::c_ulong::from(flags.bits()),
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        // With TSYNC: the thread that has another filter of its own.
        1.. => Err(Errno::SRCH),
        // SAFETY: the C library's address of this thread's errno, always valid.
        _ => Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() })),
    }
}

/// Against the real kernel. A filter cannot be taken off again, so each of these tests runs this very binary once more,
/// and the process that comes of it tries the calls and prints what came of them.
#[cfg(test)]
mod tests {
    use super::install;
    use crate::{
        capability::CapabilitySet,
        seccomp::{self, FilterFlags},
    };
    use rustix::io::Errno;
    use std::{
        collections::BTreeMap,
        env,
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::unix::process::ExitStatusExt,
        process::{Command, ExitStatus},
        thread,
    };

    const SCENARIO: &str = "JDOS_TEST_SECCOMP";

    /// Runs a scenario in a process of its own: what it printed, by name, and how it ended.
    fn play(scenario: &str) -> (BTreeMap<String, i64>, ExitStatus) {
        let program = env::current_exe().unwrap();
        let arguments = ["--exact", "sys::seccomp::tests::stage", "--ignored", "--nocapture", "--test-threads=1"];
        let output = Command::new(program).args(arguments).env(SCENARIO, scenario).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let result = |line: &str| {
            let (name, value) = line.split_once("@ ")?.1.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        let results: BTreeMap<_, _> = text.lines().filter_map(result).collect();
        assert!(!results.is_empty(), "{scenario}: {text}{}", String::from_utf8_lossy(&output.stderr));
        (results, output.status)
    }

    fn print(name: &str, result: i64) {
        println!("@ {name} {result}");
    }

    #[test]
    #[ignore = "the other side of the tests below, which run it"]
    fn stage() {
        match env::var(SCENARIO).as_deref() {
            Ok("bare") => probe(),
            Ok("default") => {
                install(&seccomp::default_program(&CapabilitySet::DOCKER), FilterFlags::SPEC_ALLOW).unwrap();
                probe();
                live();
            }
            Ok("logged") => {
                install(&seccomp::default_program(&CapabilitySet::DOCKER), FilterFlags::LOG).unwrap();
                probe();
            }
            Ok("i386 refused") => {
                install(&seccomp::default_program(&CapabilitySet::DOCKER), FilterFlags::NONE).unwrap();
                print("before", 0);
                print("getpid", int_80(20));
            }
            Ok("i386 image") => {
                let profile = seccomp::default_profile_i386(CapabilitySet::DOCKER);
                install(&seccomp::compile(&profile).unwrap(), FilterFlags::NONE).unwrap();
                print("getpid", int_80(20));
                print("mount", int_80(21));
                print("clone3", int_80(435));
                print("unknown", int_80(900));
            }
            Ok("custom") => custom(),
            Ok("unprivileged") => {
                let nobody = 65534;
                assert_eq!(call(libc::SYS_setresuid, [nobody, nobody, nobody, 0, 0, 0]), 0);
                let program = seccomp::default_program(&CapabilitySet::DOCKER);
                let refused = install(&program, FilterFlags::NONE);
                print("refused", i64::from(refused.unwrap_err().raw_os_error()));
                rustix::thread::set_no_new_privs(true).unwrap();
                install(&program, FilterFlags::NONE).unwrap();
                print("keyctl", call(libc::SYS_keyctl, [0; 6]));
            }
            other => panic!("{SCENARIO} is {other:?}"),
        }
    }

    /// The result of a system call: what it returns, or minus the error number.
    fn call(number: libc::c_long, arguments: [u64; 6]) -> i64 {
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: callers pass no address of memory that the kernel would write to: null and numbers only.
        match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
            // SAFETY: the C library's address of this thread's errno, always valid.
            -1 => -i64::from(unsafe { *libc::__errno_location() }),
            result => result,
        }
    }

    /// The same by the 32-bit interface, without arguments that mean anything.
    #[cfg(target_arch = "x86_64")]
    fn int_80(number: i32) -> i64 {
        let result: i32;
        // SAFETY: the calls that come here take no arguments, or are refused before they look at one. The 32-bit
        // interface keeps all registers but the result and, with old kernels, r8 to r11.
        unsafe {
            std::arch::asm!("int 0x80", inout("eax") number => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _, options(nostack));
        }
        i64::from(result)
    }
    #[cfg(not(target_arch = "x86_64"))]
    fn int_80(_: i32) -> i64 {
        panic!("x86 only")
    }

    const NOWHERE: u64 = u64::MAX; // a descriptor that is none
    /// Calls that the kernel refuses to a privileged process for their arguments only, so that EPERM is the filter's.
    const PROBES: [(&str, libc::c_long, [u64; 6]); 30] = [
        ("mount", libc::SYS_mount, [0; 6]),
        ("umount2", libc::SYS_umount2, [0; 6]),
        ("pivot_root", libc::SYS_pivot_root, [0; 6]),
        ("mount_setattr", libc::SYS_mount_setattr, [NOWHERE, 0, 0, 0, 0, 0]),
        ("move_mount", libc::SYS_move_mount, [NOWHERE, 0, NOWHERE, 0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [NOWHERE, 0, 0, 0, 0, 0]),
        ("fsopen", libc::SYS_fsopen, [0; 6]),
        ("fsmount", libc::SYS_fsmount, [NOWHERE, 0, 0, 0, 0, 0]),
        ("unshare", libc::SYS_unshare, [0; 6]),
        ("unshare_user", libc::SYS_unshare, [0x1000_0000 | 1, 0, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [NOWHERE, 0, 0, 0, 0, 0]),
        ("clone_user", libc::SYS_clone, [0x1000_0200 | 17, 0, 0, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [0; 6]),
        ("keyctl", libc::SYS_keyctl, [0, NOWHERE - 1, 0, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [0; 6]),
        ("request_key", libc::SYS_request_key, [0; 6]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 6]),
        ("io_uring_enter", libc::SYS_io_uring_enter, [NOWHERE, 0, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [NOWHERE, 0, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 6]),
        ("userfaultfd", libc::SYS_userfaultfd, [1 << 30, 0, 0, 0, 0, 0]),
        ("quotactl_fd", libc::SYS_quotactl_fd, [NOWHERE, 0, 0, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [NOWHERE, 0, 0, 0, 0, 0]),
        ("process_madvise", libc::SYS_process_madvise, [NOWHERE, 0, 0, 0, 0, 0]),
        ("sethostname", libc::SYS_sethostname, [0, NOWHERE, 0, 0, 0, 0]),
        ("personality", libc::SYS_personality, [0x4_0000, 0, 0, 0, 0, 0]),
        ("socket_alg", libc::SYS_socket, [38 | 1 << 32, 0, 0, 0, 0, 0]),
        ("socket_vsock", libc::SYS_socket, [40, 0, 0, 0, 0, 0]),
        ("x32", 0x4000_0027, [0; 6]),
        ("unknown", 1000, [0; 6]),
    ];
    /// Calls that stay allowed.
    const ALLOWED: [(&str, libc::c_long, [u64; 6]); 9] = [
        ("getpid", libc::SYS_getpid, [0; 6]),
        ("ptrace", libc::SYS_ptrace, [2, 0, 0, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [0, 0, 0, 0, 0, 1]),
        ("chroot", libc::SYS_chroot, [0; 6]),
        ("mknodat", libc::SYS_mknodat, [NOWHERE, 0, 0, 0, 0, 0]),
        ("personality_asked", libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0]),
        ("socket_unix", libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        ("landlock", libc::SYS_landlock_restrict_self, [NOWHERE, 0, 0, 0, 0, 0]),
        ("removexattrat", 466, [NOWHERE, 0, 0, 0, 0, 0]),
    ];

    fn probe() {
        for (name, number, arguments) in ALLOWED.into_iter().chain(PROBES) {
            print(name, call(number, arguments));
        }
    }

    /// What programs do all day: threads, processes, sockets, files.
    fn live() {
        print("thread", thread::spawn(|| 7).join().unwrap());
        let status = Command::new("/bin/true").status().unwrap();
        print("process", status.code().map_or(-1, i64::from));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.accept().unwrap().0.write_all(b"ab").unwrap();
        print("tcp", client.read(&mut [0; 8]).unwrap().try_into().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "text").unwrap();
        print("file", std::fs::read(file).unwrap().len().try_into().unwrap());
    }

    fn custom() {
        // Not through the whole of `parse`: each action has its own place in the kernel's answer.
        let profile = br#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
            {"names": ["getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
            {"names": ["getpgid"], "action": "SCMP_ACT_TRACE"},
            {"names": ["getuid"], "action": "SCMP_ACT_LOG"},
            {"names": ["alarm", "getitimer"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
             "args": [{"index": 0, "value": 4294967297, "op": "SCMP_CMP_GE"}]},
            {"names": ["getgid"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;
        let profile = seccomp::parse(profile, CapabilitySet::DOCKER).unwrap();
        install(&seccomp::compile(&profile).unwrap(), seccomp::flags(&profile).unwrap()).unwrap();
        print("getppid", call(libc::SYS_getppid, [0; 6]));
        print("getsid", call(libc::SYS_getsid, [0; 6]));
        print("getpgid", call(libc::SYS_getpgid, [0; 6]));
        print("getuid", call(libc::SYS_getuid, [0; 6]));
        print("below", call(libc::SYS_getitimer, [1 << 32, 0, 0, 0, 0, 0]));
        print("above", call(libc::SYS_getitimer, [(1 << 32) + 1, 0, 0, 0, 0, 0]));
        print("getgid", call(libc::SYS_getgid, [0; 6]));
    }

    const EPERM: i64 = -1;
    const ENOSYS: i64 = -38;

    #[test]
    fn the_kernel_refuses_what_the_default_profile_does_not_list() {
        let (bare, status) = play("bare");
        assert!(status.success(), "{status}");
        for scenario in ["default", "logged"] {
            let (filtered, status) = play(scenario);
            assert!(status.success(), "{status}");
            for (name, ..) in PROBES {
                let expected = if ["clone3", "x32", "unknown"].contains(&name) { ENOSYS } else { EPERM };
                assert_eq!(filtered[name], expected, "{name}");
                // Some kernels are built without a call, or keep it to themselves by a sysctl.
                assert!(
                    bare[name] != EPERM || ["perf_event_open", "io_uring_setup", "personality"].contains(&name),
                    "{name}"
                );
            }
            for (name, ..) in ALLOWED {
                let alike =
                    bare[name] == filtered[name] || ["getpid", "socket_unix"].contains(&name) && filtered[name] > 0;
                assert!(alike, "{name}: {} without, {} with the filter", bare[name], filtered[name]);
            }
            if scenario == "default" {
                let lived = ["thread", "process", "tcp", "file"].map(|name| filtered[name]);
                assert_eq!(lived, [7, 0, 2, 4]);
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn thirty_two_bit_calls_end_the_process_unless_the_image_is_of_that_kind() {
        let (results, status) = play("i386 refused");
        assert_eq!((results.len(), status.signal()), (1, Some(libc::SIGSYS)), "{results:?}");
        let (results, status) = play("i386 image");
        assert!(status.success(), "{status}");
        assert!(results["getpid"] > 1, "{results:?}");
        assert_eq!(["mount", "clone3", "unknown"].map(|name| results[name]), [EPERM, ENOSYS, ENOSYS]);
    }

    #[test]
    fn every_action_does_what_it_says() {
        let (results, status) = play("custom");
        assert_eq!(status.signal(), Some(libc::SIGSYS), "getgid ends the process");
        let names = ["getppid", "getsid", "getpgid", "below", "above"];
        // No tracer: ENOSYS. getitimer(2³²): the kernel sees timer 0, whose result it cannot write to null.
        assert_eq!(names.map(|name| results[name]), [-77, 0, ENOSYS, -14, -5]);
        assert!(results["getuid"] >= 0 && !results.contains_key("getgid"), "{results:?}");
    }

    #[test]
    fn without_privileges_there_must_be_no_new_ones() {
        let (results, _) = play("unprivileged");
        assert_eq!((results["refused"], results["keyctl"]), (13, EPERM));
    }

    #[test]
    fn what_is_no_program_is_not_installed() {
        let garbage = [0xff; 16];
        for program in [&[][..], &[0; 7], &[0; 9], &garbage] {
            assert_eq!(install(program, FilterFlags::NONE), Err(Errno::INVAL));
        }
        assert_eq!(install(&vec![0; 8 * 65536], FilterFlags::NONE), Err(Errno::INVAL));
    }
}
