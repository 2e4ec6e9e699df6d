//! What a program may not do when nothing was asked for, and what flags change of it.

use super::machine::Machine;

/// Docker's 14.
const DOCKER: &str = "00000000a80425fb";

fn status(machine: &Machine, flags: &[&str]) -> String {
    machine.run(flags, &["grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status"]).ok()
}

#[test]
fn the_defaults_are_dockers_and_no_new_privileges() {
    let machine = Machine::new();
    let none = "0".repeat(16);
    let wanted = format!(
        "CapInh:\t{none}\nCapPrm:\t{DOCKER}\nCapEff:\t{DOCKER}\nCapBnd:\t{DOCKER}\nCapAmb:\t{none}\nNoNewPrivs:\t1\nSeccomp:\t2"
    );
    assert_eq!(status(&machine, &[]), wanted);
}

#[test]
fn capabilities_are_added_and_taken_away() {
    let machine = Machine::new();
    let text = status(&machine, &["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"]);
    assert!(text.contains("CapEff:\t0000000000000400\nCapBnd:\t0000000000000400"), "{text}");
    let text = status(&machine, &["-u", "app"]);
    assert!(text.contains("CapPrm:\t0000000000000000\nCapEff:\t0000000000000000"), "{text}");
    let text = status(&machine, &["--security-opt", "no-new-privileges=false", "--security-opt", "seccomp=unconfined"]);
    assert!(text.ends_with("NoNewPrivs:\t0\nSeccomp:\t0"), "{text}");
}

#[test]
fn a_profile_of_ones_own_is_the_filter() {
    let machine = Machine::new();
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    let option = format!("seccomp={}", machine.file("profile.json", text).display());
    machine.sh(&["--security-opt", &option], "mkdir /tmp/x").code(1).says(&["No space left"]);
    let both = ["--security-opt", &option, "--security-opt", "no-new-privileges=false"];
    machine.sh(&both, "mkdir /tmp/x").code(1).says(&["No space left"]);
    machine.sleeper("one", &["--security-opt", &option]);
    machine.inside("one", "mkdir /tmp/x").code(1).says(&["No space left"]);
}

#[test]
fn namespaces_and_mounts_can_not_be_made() {
    let machine = Machine::new();
    machine.sh(&[], "unshare -U true").code(1).says(&["Operation not permitted"]);
    machine.sh(&[], "unshare -m true").code(1).says(&["Operation not permitted"]);
    machine.sh(&[], "mount -t tmpfs none /tmp").code(1).says(&["ermi"]);
    machine.sh(&[], "umount /proc/kcore || umount /sys/firmware || umount /proc").code(1);
    machine.sh(&[], "chroot / true").ok();
    machine.sh(&[], "hostname other").code(1);
    machine.sh(&[], "date -s 2001-01-01").says(&["Operation not permitted"]);
}

#[test]
fn block_devices_can_not_be_opened() {
    let machine = Machine::new();
    let disk = std::fs::read_to_string("/proc/partitions").unwrap();
    let disk: Vec<_> = disk.lines().nth(2).expect("a block device").split_whitespace().collect();
    let script = format!(
        "mknod /tmp/disk b {} {} && head -c 1 /tmp/disk; mknod /dev/mem c 1 1 && head -c 1 /dev/mem",
        disk[0], disk[1]
    );
    for flags in [&[][..], &["--userns", "host"]] {
        let outcome = machine.sh(flags, &script);
        assert!(outcome.code == 1 && outcome.stdout.is_empty(), "{flags:?} {outcome:?}");
        assert!(outcome.stderr.lines().all(|line| line.ends_with("Operation not permitted")), "{flags:?} {outcome:?}");
        drop(std::fs::remove_file(machine.root.join("tmp/disk"))); // made where only its opening is refused
    }
}

#[test]
fn paths_of_the_kernel_are_masked_or_read_only() {
    let machine = Machine::new();
    let script = "for file in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do \
        test ! -e $file || test $(wc -c < $file) = 0 || echo shown $file; done; \
        for folder in /sys/firmware /proc/acpi /proc/scsi; do test ! -d $folder || test -z \"$(ls $folder)\" || echo shown $folder; done; \
        for file in /proc/sysrq-trigger /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/irq/default_smp_affinity /sys/kernel/mm/ksm/run; do \
        test ! -e $file || (echo 0 > $file) 2>/dev/null && test -e $file && echo written $file; done; echo done";
    for flags in [&[][..], &["--userns", "host"]] {
        assert_eq!(machine.sh(flags, script).ok(), "done", "{flags:?}");
    }
}

#[test]
fn users_are_private_unless_asked_for_the_hosts() {
    let machine = Machine::new();
    let map = |flags: &[&str]| machine.run(flags, &["cat", "/proc/self/uid_map"]).ok();
    let whole = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let words = |text: &str| text.split_whitespace().map(|word| word.parse::<u32>().unwrap()).collect::<Vec<_>>();
    assert_eq!(words(&map(&["--userns", "host"])), words(&whole));
    let private = words(&map(&[]));
    assert!(private[0] == 0 && private[1] >= 65536 && private[2] == 65536, "{private:?}");
}

#[test]
fn namespaces_are_its_own_unless_asked_for_the_hosts() {
    let machine = Machine::new();
    let hosts = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned();
    for (kind, flag) in [("pid", "--pid"), ("ipc", "--ipc"), ("uts", "--uts"), ("cgroup", "--cgroupns")] {
        let inside = |flags: &[&str]| machine.run(flags, &["readlink", &format!("/proc/self/ns/{kind}")]).ok();
        assert_ne!(inside(&[]), hosts(kind), "{kind}");
        assert_eq!(inside(&["--userns", "host", flag, "host"]), hosts(kind), "{kind}");
    }
    for kind in ["mnt", "net", "user"] {
        assert_ne!(machine.run(&[], &["readlink", &format!("/proc/self/ns/{kind}")]).ok(), hosts(kind), "{kind}");
    }
}

#[test]
fn a_set_user_id_program_gives_nothing() {
    let machine = Machine::new();
    machine.sh(&[], "mkdir /raised && cp /bin/busybox /raised/id && chmod 4755 /raised/id").ok();
    assert_eq!(machine.run(&["-u", "app"], &["/raised/id", "-u"]).ok(), "1000");
}

#[test]
fn everything_is_allowed_when_privileged() {
    let machine = Machine::new();
    let script = "mount -t tmpfs none /tmp && grep -E '^(NoNewPrivs|Seccomp:)' /proc/self/status";
    let text = machine.sh(&["--privileged", "--userns", "host"], script).ok();
    assert_eq!(text, "NoNewPrivs:\t0\nSeccomp:\t0");
}
