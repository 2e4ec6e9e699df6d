//! Known ways out of containers.

use super::machine::{Machine, rounds, until};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

/// Descriptors beyond the standard ones and the one with which `ls` reads the folder.
fn extra(listing: &str) -> Vec<&str> {
    listing.split_whitespace().filter(|number| !["0", "1", "2", "3"].contains(number)).collect()
}

#[test]
fn no_descriptor_leaks() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    for (what, listing) in [
        ("run", machine.run(&[], &["ls", "/proc/self/fd"]).ok()),
        ("run -t", machine.run(&["-t"], &["ls", "/proc/self/fd"]).ok()),
        ("exec", machine.ok(&["exec", "one", "ls", "/proc/self/fd"])),
        ("exec -t", machine.ok(&["exec", "-t", "one", "ls", "/proc/self/fd"])),
        ("init", machine.inside("one", "ls /proc/1/fd").ok()),
    ] {
        assert_eq!(extra(&listing), Vec::<&str>::new(), "{what}");
    }
}

/// CVE-2024-21626: a descriptor of the host's file system as working directory.
#[test]
fn the_working_directory_is_no_leaked_descriptor() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    for number in 3..20 {
        let path = format!("/proc/self/fd/{number}");
        let outcome = machine.run(&["-w", &path], &["ls", "../../../../"]);
        assert!(outcome.code == 125 && outcome.stdout.is_empty(), "{path}: {outcome:?}");
    }
    symlink("/proc/self/fd/7/../../..", machine.root.join("sly")).unwrap();
    for number in [3, 4, 5, 6, 7, 8, 9] {
        let path = format!("/proc/self/fd/{number}");
        let outcome = machine.jdos(&["exec", "-w", &path, "one", "ls", "../../../../"]);
        assert!(outcome.code != 0 && outcome.stdout.is_empty(), "{path}: {outcome:?}");
    }
    let outcome = machine.jdos(&["exec", "-w", "/sly", "one", "ls"]);
    assert!(outcome.code != 0 && outcome.stdout.is_empty(), "{outcome:?}");
}

/// CVE-2019-5736: what enters the container is held open through `/proc/PID/exe` and overwritten once it has ended.
#[test]
fn the_program_of_the_host_can_not_be_overwritten_from_inside() {
    let machine = Machine::new();
    let before = fs::read(env!("CARGO_BIN_EXE_jdos")).unwrap();
    // Makes no process of its own until it has caught one, so that every other one has come from outside.
    let catcher = "touch /tmp/ready; while :; do for process in /proc/[0-9]*; do \
        test $process = /proc/1 || { \
        while test -e $process; do :; done; \
        cmp -s /bin/busybox /proc/self/fd/9 || { touch /tmp/caught; \
        { echo pwned > /proc/self/fd/9; } 2>>/tmp/tries && touch /tmp/written; }; \
        } 9<$process/exe 2>/dev/null; done; done";
    let evil = machine.file("root/bin/evil", "#!/proc/self/exe\n");
    fs::set_permissions(evil, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, flags) in [("private", &[][..]), ("shared", &["--userns", "host"])] {
        let mark = |file: &str| machine.root.join("tmp").join(file);
        for file in ["ready", "caught", "tries"] {
            drop(fs::remove_file(mark(file))); // there only in the second round
        }
        machine.start(name, flags, catcher);
        until("the catcher runs", || mark("ready").exists());
        until("it has caught one of ours", || {
            assert_ne!(machine.jdos(&["exec", name, "/bin/evil"]).code, 0);
            mark("caught").exists()
        });
        until("it has tried", || {
            mark("written").exists() || fs::metadata(mark("tries")).is_ok_and(|file| file.len() > 0)
        });
        let tries = fs::read_to_string(mark("tries")).unwrap();
        assert!(tries.contains("Read-only file system") && !mark("written").exists(), "{tries}");
        assert!(fs::read(env!("CARGO_BIN_EXE_jdos")).unwrap() == before);
        machine.ok(&["rm", "-f", name]);
    }
}

/// CVE-2016-9962: what enters is looked into before it has become the program.
#[test]
fn what_enters_shows_nothing_of_the_host() {
    let machine = Machine::new();
    let catcher = "touch /tmp/ready; while :; do for process in /proc/[0-9]*; do test $process = /proc/1 || { \
        echo $process > /tmp/met; for fd in $process/fd/*; do \
        case $fd in */fd/[012*]) ;; *) link=$(readlink $fd) && echo $link >> /tmp/seen;; esac; done; }; done; done";
    for (name, flags) in [("private", &[][..]), ("shared", &["--userns", "host"])] {
        let mark = |file: &str| machine.root.join("tmp").join(file);
        for file in ["ready", "met"] {
            drop(fs::remove_file(mark(file))); // there only in the second round
        }
        machine.start(name, flags, catcher);
        until("the catcher runs", || mark("ready").exists());
        for _ in 0..rounds(30, 5) {
            machine.ok(&["exec", name, "true"]);
        }
        until("it has met one of ours", || {
            machine.ok(&["exec", name, "true"]);
            mark("met").exists()
        });
        assert!(!mark("seen").exists(), "{}", fs::read_to_string(mark("seen")).unwrap());
        machine.ok(&["rm", "-f", name]);
    }
}

/// The same by one who may trace whatever runs in its pid namespace: what it could take over has neither a capability that
/// it has not itself, nor a folder of the host.
#[test]
fn who_may_trace_what_enters_gains_nothing() {
    // Nothing but words of the shell itself, so that nothing else is met than what enters.
    let catcher = "touch /tmp/ready; while :; do for process in /proc/[0-9]*; do test $process = /proc/1 || { \
        while read name value; do case $name in CapPrm:|CapBnd:) echo $value >> /tmp/sets;; esac; \
        done < $process/status; for fd in $process/fd/*; do \
        case $fd in */fd/[012*]) ;; *) test -d $fd && ! test -e $fd/mark && test -d $fd && echo $fd >> /tmp/folders;; \
        esac; done; }; done; done 2>/dev/null";
    for users in ["private", "host"] {
        let machine = Machine::new();
        let mark = |file: &str| machine.root.join("tmp").join(file);
        machine.file("root/mark", "the container's own root, which may be open");
        machine.start("one", &["--userns", users, "--cap-add", "SYS_PTRACE"], catcher);
        until("the catcher runs", || mark("ready").exists());
        let met = || fs::read_to_string(mark("sets")).map_or(0, |text| text.lines().count());
        until("it has met many of ours", || {
            machine.ok(&["exec", "one", "true"]);
            met() > 40
        });
        let own = 0xa804_25fb_u64 | 1 << 19; // Docker's, and SYS_PTRACE
        let sets = fs::read_to_string(mark("sets")).unwrap();
        let more = sets.lines().filter(|set| u64::from_str_radix(set, 16).unwrap() & !own != 0);
        assert_eq!(more.collect::<Vec<_>>(), Vec::<&str>::new(), "{users}");
        assert!(!mark("folders").exists(), "{users}: {}", fs::read_to_string(mark("folders")).unwrap());
    }
}

#[test]
fn folders_of_the_kernel_as_symbolic_links_do_not_lead_out() {
    for name in ["dev", "sys"] {
        let machine = Machine::new();
        machine.file("victim/file", "host");
        fs::remove_dir(machine.root.join(name)).unwrap();
        symlink(machine.path("victim"), machine.root.join(name)).unwrap();
        let outcome = machine.sh(&[], &format!("test -L /{name} || echo replaced"));
        assert!(outcome.code == 125 && outcome.stderr.contains(name), "{outcome:?}");
        assert_eq!(fs::read_dir(machine.path("victim")).unwrap().count(), 1);
    }
}

#[test]
fn the_hosts_helpers_can_not_be_named_from_inside() {
    let machine = Machine::new();
    // release_agent (CVE-2022-0492), core_pattern, modprobe, uevent_helper: programs that the kernel starts on the host.
    let script = "for file in $(find /sys/fs/cgroup -name release_agent) /sys/kernel/uevent_helper \
        /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/fs/binfmt_misc/register; do \
        test -e $file && { echo /tmp/x > $file; } 2>/dev/null && echo written $file; done; echo done";
    for flags in [&[][..], &["--userns", "host"], &["--userns", "host", "--cap-add", "SYS_ADMIN"]] {
        assert_eq!(machine.sh(flags, script).ok(), "done", "{flags:?}");
    }
}

/// CVE-2019-19921: `/proc` that leads elsewhere makes masks and attribute files the attacker's.
#[test]
fn proc_as_a_symbolic_link_is_refused() {
    let machine = Machine::new();
    fs::remove_dir(machine.root.join("proc")).unwrap();
    fs::create_dir(machine.root.join("fake")).unwrap();
    symlink("/fake", machine.root.join("proc")).unwrap();
    machine.run(&[], &["true"]).code(125).says(&["proc"]);
    assert_eq!(fs::read_dir(machine.root.join("fake")).unwrap().count(), 0);
}

/// CVE-2025-31133: a `/dev/null` that is a link unmasks what is masked with it.
#[test]
fn masks_do_not_depend_on_the_containers_null_device() {
    let machine = Machine::new();
    fs::create_dir_all(machine.root.join("dev")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", machine.root.join("dev/null")).unwrap();
    let script =
        "test -c /dev/null && wc -c < /proc/timer_list; echo x > /proc/sys/kernel/core_pattern || echo refused";
    assert_eq!(machine.sh(&["--userns", "host"], script).ok(), "0\nrefused");
}

/// CVE-2025-52565 and its like: the console is a link when it is mounted over.
#[test]
fn a_console_in_the_root_is_not_followed() {
    let machine = Machine::new();
    machine.file("victim", "host");
    symlink(machine.path("victim"), machine.root.join("dev/console")).unwrap();
    machine.run(&["-t"], &["sh", "-c", "echo > /dev/console"]).ok();
    assert_eq!(fs::read_to_string(machine.path("victim")).unwrap(), "host");
}

#[test]
fn the_files_of_the_engine_are_not_followed_out_of_the_root() {
    let machine = Machine::new();
    machine.file("victim", "host");
    for name in ["hosts", "hostname", "resolv.conf"] {
        symlink(machine.path("victim"), machine.root.join("etc").join(name)).unwrap();
    }
    let outcome = machine.sh(&["-h", "box"], "echo overwritten > /etc/hosts; hostname");
    assert!(outcome.code == 125 || outcome.stdout == "box\n", "{outcome:?}");
    assert_eq!(fs::read_to_string(machine.path("victim")).unwrap(), "host");
}

#[test]
fn the_root_of_the_host_is_out_of_reach() {
    let machine = Machine::new();
    let secret = machine.file("secret", "host");
    let secret = secret.to_str().unwrap();
    let script = format!(
        "cat /..{secret} /proc/1/root{secret} /proc/self/root/../../..{secret} /proc/1/cwd/../../..{secret}; mkdir j && chroot j 2>/dev/null; :"
    );
    let outcome = machine.sh(&["--userns", "host"], &script);
    assert!(outcome.stdout.is_empty(), "{outcome:?}");
}

#[test]
fn mounts_of_the_host_are_neither_seen_nor_changed() {
    let machine = Machine::new();
    let ours = || {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        text.lines().filter(|line| line.contains(machine.path("").to_str().unwrap())).count()
    };
    for flags in [&[][..], &["--userns", "host"]] {
        let text = machine.run(flags, &["cat", "/proc/self/mountinfo"]).ok();
        let points = text.lines().filter_map(|line| line.split(' ').nth(4));
        let known = |point: &&str| {
            let below = ["/proc", "/dev", "/sys"].iter().any(|top| point.starts_with(top));
            below || ["/", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"].contains(point)
        };
        assert_eq!(points.filter(|point| !known(point)).collect::<Vec<_>>(), Vec::<&str>::new(), "{text}");
        // The way of mounts from one side to the other is closed: no peer group, whoever the master.
        assert!(text.lines().all(|line| !line.contains(" shared:")), "{text}");
        assert_eq!(ours(), 0);
    }
    machine.sleeper("one", &[]);
    assert_eq!(ours(), 0, "nothing of a running container is mounted where the host sees it");
}

#[test]
fn what_the_engine_believes_can_be_written_by_root_alone() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    let id = machine.inspect("one")["id"].as_str().unwrap().to_owned();
    let run = machine.path("run").join("containers").join(&id);
    for file in [run.join("state.json"), run.join("attach"), run.join("lock"), run.join("out"), run.join("err")] {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", file.display());
    }
}

/// CVE-2021-41091: what containers write is nobody's on the host but root's, or a set-uid program in there would be so for
/// every user of the machine. Variables are in the record, and may be secrets.
#[test]
fn no_user_of_the_host_reaches_what_containers_write() {
    let machine = Machine::new();
    for folder in ["containers", "volumes"] {
        // As an earlier version made them.
        fs::set_permissions(machine.path("data").join(folder), fs::Permissions::from_mode(0o711)).unwrap();
    }
    machine.ok(&["create", "--name", "one", "--rootfs", machine.root.to_str().unwrap(), "-e", "SECRET=x", "true"]);
    let mode = |path: &str| fs::metadata(machine.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data/containers"), mode("data/volumes")), (0o700, 0o700));
    let id = machine.inspect("one")["id"].as_str().unwrap().to_owned();
    assert_eq!(mode(&format!("data/containers/{id}/record.json")), 0o600);
    machine.ok(&["rm", "one"]);
}

/// The kernel shows the name of a process as the process wrote it.
#[test]
fn a_name_that_is_no_text_hides_nothing() {
    let machine = Machine::new();
    machine.start(
        "one",
        &[],
        "printf 'ab\\377)' > /proc/1/comm; trap 'exit 3' TERM; echo named; while :; do sleep 0.05; done",
    );
    until("it has named itself", || machine.ok(&["logs", "one"]).contains("named"));
    assert_eq!(machine.inspect("one")["status"], "running");
    assert_eq!(machine.inside("one", "echo in").ok(), "in");
    machine.ok(&["reconcile"]);
    machine.ok(&["stop", "one"]);
    assert_eq!(machine.ok(&["wait", "one"]), "3");
}

#[test]
fn exec_takes_no_input_that_is_not_given_to_it() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    let given = machine.file("given", "for somebody else\n");
    for (flags, expected) in [(&[][..], ""), (&["-i"], "for somebody else\n")] {
        let mut command = machine.command(&[&["exec"], flags, &["one", "cat"]].concat());
        let output = command.stdin(fs::File::open(&given).unwrap()).output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{flags:?}");
    }
}
