//! OCI bundles as `runc spec` makes them; and runc itself as the yardstick: the same bundle, the same view from inside.

use super::machine::Machine;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

/// Differences from runc that are wanted: the line of the report, ours, runc's, why.
const WANTED: [(&str, &str, &str, &str); 6] = [
    (
        "dev/core",
        "dev: /dev/core symbolic link 777 0:0 0:0 /proc/kcore",
        "",
        "the link is there on every machine, as on a host; where the kernel has no kcore it leads to nothing",
    ),
    (
        "proc/acpi",
        "mount: /proc/acpi ro,relatime tmpfs none ro,nr_inodes=1,mode=755",
        "mount: /proc/acpi ro,relatime tmpfs tmpfs ro",
        "a mask holds nothing, so it has room for nothing",
    ),
    (
        "sys/firmware",
        "mount: /sys/firmware ro,relatime tmpfs none ro,nr_inodes=1,mode=755",
        "mount: /sys/firmware ro,relatime tmpfs tmpfs ro",
        "as above",
    ),
    (
        "sys",
        "mount: /sys ro,nosuid,nodev,noexec,relatime sysfs sysfs rw",
        "mount: /sys ro,nosuid,nodev,noexec,relatime sysfs sysfs ro",
        "the instance may be shared, so being read-only is the mount's matter and not the file system's",
    ),
    (
        "sys/fs/cgroup",
        "mount: /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime tmpfs tmpfs rw,mode=755",
        "mount: /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime tmpfs tmpfs rw,mode=755",
        "the bundle asks for it to be read-only",
    ),
    (
        "unified",
        "mount: /sys/fs/cgroup/unified ro,nosuid,nodev,noexec,relatime cgroup2 cgroup2 rw",
        "",
        "the container sees every hierarchy that it is in",
    ),
];

/// A bundle by `runc spec` that runs this script.
fn bundle(machine: &Machine, script: &str) -> PathBuf {
    let folder = machine.path("bundle");
    fs::create_dir(&folder).unwrap();
    let made = Command::new("runc").args(["spec", "--bundle"]).arg(&folder).output().expect("these tests need runc");
    assert!(made.status.success(), "{made:?}");
    fs::rename(&machine.root, folder.join("rootfs")).unwrap();
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sh", "-c", script]);
    fs::write(&path, config.to_string()).unwrap();
    folder
}

/// A view from inside, one thing a line.
const LOOK: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Umask|Uid|Gid)' /proc/self/status; \
    env | sort | sed 's/^/env: /'; echo \"cwd: $(pwd)\"; echo \"host: $(hostname)\"; \
    tail -n +2 /proc/self/limits | sed 's/   */ /g; s/^/limit: /'; \
    awk '{ print \"mount: \" $5 \" \" $6 \" \" substr($0, index($0, \" - \") + 3) }' /proc/self/mountinfo | sort; \
    for file in $(find /dev | sort); do echo \"dev: $(stat -c '%n %F %a %u:%g %t:%T' $file) $(readlink $file)\"; done; \
    echo \"oom: $(cat /proc/self/oom_score_adj)\"; exit 23";

fn report(text: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        *lines.entry(line.to_owned()).or_default() += 1;
    }
    lines
}

#[test]
fn a_bundle_of_runc_runs() {
    let machine = Machine::new();
    let folder = bundle(&machine, "hostname; echo $PATH; exit 9");
    let outcome = machine.run(&["--bundle", folder.to_str().unwrap()], &[]).code(9);
    assert_eq!(outcome.stdout, "runc\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
}

#[test]
fn from_inside_it_looks_as_under_runc() {
    let machine = Machine::new();
    let folder = bundle(&machine, LOOK);
    let state = machine.path("runc");
    let name = machine.path("").file_name().unwrap().to_owned();
    let theirs = Command::new("runc")
        .arg("--root")
        .arg(&state)
        .args(["run", "--bundle"])
        .arg(&folder)
        .arg(&name)
        .output()
        .unwrap();
    assert_eq!(theirs.status.code(), Some(23), "{theirs:?}");
    let ours = machine.run(&["--bundle", folder.to_str().unwrap(), "--userns", "host"], &[]).code(23);
    let (mut ours, mut theirs) = (report(&ours.stdout), report(&String::from_utf8(theirs.stdout).unwrap()));
    assert!(ours.len() > 50, "{ours:#?}");
    for line in ours.clone().keys() {
        if ours.get(line) == theirs.get(line) {
            ours.remove(line);
            theirs.remove(line);
        }
    }
    for (what, our, their, why) in WANTED {
        // On a machine without the one or the other there is neither.
        let (ours, theirs) = (ours.remove(our).is_some(), theirs.remove(their).is_some());
        assert!(ours == theirs || our.is_empty() || their.is_empty(), "{what} ({why}): ours {ours}, runc's {theirs}");
    }
    assert!(ours.is_empty() && theirs.is_empty(), "ours: {ours:#?}\nrunc: {theirs:#?}");
}
