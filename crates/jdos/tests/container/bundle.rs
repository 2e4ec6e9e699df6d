//! OCI bundles as `runc spec` makes them; and runc itself as the yardstick: the same bundle, the same view from inside.

use super::machine::Machine;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::PathBuf, process::Command};

/// Differences from runc that are wanted: our line of the report, runc's, why.
const WANTED: [(&str, &str, &str); 6] = [
    (
        "dev: /dev/core symbolic link 777 0:0 0:0 /proc/kcore",
        "",
        "the link is there on every machine, as on a host; where the kernel has no kcore it leads to nothing",
    ),
    (
        "mount: /proc/acpi ro,relatime tmpfs none ro,nr_inodes=1,mode=755",
        "mount: /proc/acpi ro,relatime tmpfs tmpfs ro",
        "a mask holds nothing, so it has room for nothing",
    ),
    (
        "mount: /sys/firmware ro,relatime tmpfs none ro,nr_inodes=1,mode=755",
        "mount: /sys/firmware ro,relatime tmpfs tmpfs ro",
        "as above",
    ),
    (
        "mount: /sys ro,nosuid,nodev,noexec,relatime sysfs sysfs rw",
        "mount: /sys ro,nosuid,nodev,noexec,relatime sysfs sysfs ro",
        "the instance may be shared, so being read-only is the mount's matter and not the file system's",
    ),
    (
        "mount: /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime tmpfs tmpfs rw,mode=755",
        "mount: /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime tmpfs tmpfs rw,mode=755",
        "the bundle asks for it to be read-only",
    ),
    (
        "mount: /sys/fs/cgroup/unified ro,nosuid,nodev,noexec,relatime cgroup2 cgroup2 rw",
        "",
        "the container sees every hierarchy that it is in, bound from the host's mount and so under its name",
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
        // Older kernels say of every tmpfs that its inode numbers are wide.
        *lines.entry(line.replace(",inode64", "")).or_default() += 1;
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
fn a_bundle_can_bring_mappings_of_its_own() {
    let machine = Machine::new();
    let folder = bundle(&machine, "cat /proc/self/uid_map; touch /home/made; grep NoNew /proc/self/status");
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "user" }));
    for kind in ["uidMappings", "gidMappings"] {
        config["linux"][kind] = json!([{ "containerID": 0, "hostID": 200_000, "size": 1000 }]);
    }
    config["root"]["readonly"] = json!(false);
    fs::write(&path, config.to_string()).unwrap();
    // With mappings in the bundle its files have their owners on disk already.
    let owned = Command::new("chown").args(["-R", "-h", "200000:200000"]).arg(folder.join("rootfs")).status().unwrap();
    assert!(owned.success());
    let text = machine.run(&["--bundle", folder.to_str().unwrap()], &[]).ok();
    assert!(text.split_whitespace().take(3).eq(["0", "200000", "1000"]), "{text}");
    let made = fs::metadata(folder.join("rootfs/home/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (200_000, 200_000));
}

#[test]
fn a_bundle_without_cgroup_namespace_sees_its_own_groups_only() {
    let machine = Machine::new();
    let script = "for tree in /sys/fs/cgroup /sys/fs/cgroup/pids; do cat $tree/cgroup.procs; done; \
        ls /sys/fs/cgroup /sys/fs/cgroup/pids | grep -c jdos; mkdir /sys/fs/cgroup/pids/more /sys/fs/cgroup/more";
    let folder = bundle(&machine, script);
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    fs::write(&path, config.to_string()).unwrap();
    let outcome = machine.run(&["--bundle", folder.to_str().unwrap()], &[]);
    assert_ne!(outcome.code, 0, "its groups are read-only: {outcome:?}");
    let seen: Vec<&str> = outcome.stdout.lines().collect();
    let (groups, processes) = seen.split_last().unwrap();
    assert_eq!(*groups, "0", "no group of the engine's is in sight: {outcome:?}");
    assert!(processes.contains(&"1"), "it is in the group that it sees: {outcome:?}");
}

/// Runs the same bundle under runc and here, after `edit`; gives the lines that only we have, and only runc has.
fn differences(edit: impl FnOnce(&Machine, &mut Value)) -> [Vec<String>; 2] {
    let machine = Machine::new();
    let folder = bundle(&machine, LOOK);
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&machine, &mut config);
    fs::write(&path, config.to_string()).unwrap();
    let name = machine.path("").file_name().unwrap().to_owned();
    let mut runc = Command::new("runc");
    runc.arg("--root").arg(machine.path("runc")).args(["run", "--bundle"]).arg(&folder).arg(&name);
    let theirs = runc.output().unwrap();
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
    for (our, their, _) in WANTED {
        ours.remove(our);
        theirs.remove(their);
    }
    [ours, theirs].map(|lines| lines.into_keys().collect())
}

#[track_caller]
fn the_same([ours, runcs]: [Vec<String>; 2]) {
    assert!(ours.is_empty() && runcs.is_empty(), "only here: {ours:#?}\nonly under runc: {runcs:#?}");
}

#[test]
fn from_inside_it_looks_as_under_runc() {
    the_same(differences(|_, _| {}));
}

#[test]
fn as_under_runc_with_a_process_of_its_own_kind() {
    the_same(differences(|_, config| {
        let process = &mut config["process"];
        process["user"] = json!({ "uid": 1000, "gid": 1001, "umask": 0o77, "additionalGids": [5, 77] });
        process["cwd"] = json!("/home/app");
        process["env"] = json!(["PATH=/bin", "A=1", "HOME=/nowhere"]);
        process["noNewPrivileges"] = json!(false);
        process["oomScoreAdj"] = json!(300);
        process["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            { "type": "RLIMIT_STACK", "soft": 4194304, "hard": 8388608 },
        ]);
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            process["capabilities"][set] = json!(["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
        }
        config["hostname"] = json!("other");
    }));
}

#[test]
fn as_under_runc_with_mounts_of_every_kind() {
    the_same(differences(|machine, config| {
        machine.file("given/file", "text");
        let given = machine.path("given");
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.extend([
            json!({ "destination": "/a", "type": "bind", "source": given, "options": ["bind", "ro", "nosuid", "nodev"] }),
            json!({ "destination": "/b", "type": "bind", "source": given, "options": ["rbind", "rw", "noexec", "rprivate"] }),
            json!({ "destination": "/c", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=1700", "noexec"] }),
            json!({ "destination": "/d/e/f", "type": "tmpfs", "source": "name", "options": ["nosuid", "noatime"] }),
            json!({ "destination": "/etc/file", "type": "bind", "source": given.join("file"), "options": ["bind", "ro"] }),
        ]);
        config["root"]["readonly"] = json!(false);
        config["linux"]["maskedPaths"] = json!(["/proc/timer_list", "/sys/firmware", "/proc/no-such"]);
        config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/no-such", "/home"]);
    }));
}

#[test]
fn as_under_runc_with_a_filter_and_devices() {
    the_same(differences(|_, config| {
        let calls = json!([{ "names": ["keyctl", "unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 }]);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": calls,
        });
        config["linux"]["devices"] = json!([
            { "path": "/dev/more/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8 },
        ]);
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.shmmni": "123" });
    }));
}
