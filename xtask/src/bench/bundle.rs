//! The bundle that all runtimes get: what Docker would give a container, and the system call filter it would load.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Docker's default capabilities.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Writes `config.json` into `folder`: `arguments` in `root`, in the control group `cgroup` if one is named.
///
/// # Errors
/// The profile cannot be read, or the file cannot be written.
pub fn write(folder: &Path, root: &Path, cgroup: Option<&str>, arguments: &[&str]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let profile =
        fs::read_to_string("/usr/share/containers/seccomp.json").context("cannot read podman's seccomp profile")?;
    let profile = serde_json::from_str(&profile).context("cannot read podman's seccomp profile")?;
    let mut config = config(root, arguments, seccomp(&profile));
    if let Some(cgroup) = cgroup {
        config["linux"]["cgroupsPath"] = cgroup.into();
    }
    let path = folder.join("config.json");
    fs::write(&path, serde_json::to_string_pretty(&config)?).with_context(|| format!("cannot write {}", path.display()))
}

fn config(root: &Path, arguments: &[&str], seccomp: Value) -> Value {
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let devices = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules
        .extend(devices.map(
            |(major, minor)| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}),
        ));
    rules.push(json!({"allow": true, "type": "c", "major": 136, "access": "rwm"}));
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": root, "readonly": false},
        "hostname": "bench",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
            "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "noNewPrivileges": true,
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": rules, "memory": {"limit": 256 << 20}, "pids": {"limit": 100}},
            "namespaces": namespaces,
            "maskedPaths": ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": seccomp,
        },
    })
}

/// Docker's form of a profile (rules that include and exclude by capability and architecture) as the runtime
/// specification's form, for the default capabilities on this architecture.
fn seccomp(profile: &Value) -> Value {
    let holds = |rule: &Value, kind: &str, ours: &[&str]| {
        let wanted = rule[kind].as_array().map(Vec::as_slice).unwrap_or_default();
        (wanted.len(), wanted.iter().filter_map(Value::as_str).filter(|word| ours.contains(word)).count())
    };
    let applies = |rule: &&Value| {
        let (caps, held) = holds(&rule["includes"], "caps", &CAPABILITIES);
        let (arches, ours) = holds(&rule["includes"], "arches", &["amd64", "x86_64"]);
        let (_, excluded) = holds(&rule["excludes"], "caps", &CAPABILITIES);
        let (_, elsewhere) = holds(&rule["excludes"], "arches", &["amd64", "x86_64"]);
        held == caps && (arches == 0 || ours > 0) && excluded == 0 && elsewhere == 0
    };
    let rules = profile["syscalls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rules: Vec<Value> = rules
        .iter()
        .filter(applies)
        .map(|rule| {
            let mut out = json!({"names": rule["names"], "action": rule["action"]});
            for key in ["args", "errnoRet"] {
                if rule[key].is_number() || rule[key].as_array().is_some_and(|list| !list.is_empty()) {
                    out[key] = rule[key].clone();
                }
            }
            out
        })
        .collect();
    let mut out = json!({
        "defaultAction": profile["defaultAction"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    });
    if profile["defaultErrnoRet"].is_number() {
        out["defaultErrnoRet"] = profile["defaultErrnoRet"].clone();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::seccomp;
    use serde_json::json;

    #[test]
    fn rules_are_chosen_by_capability_and_architecture() {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"names": ["sync_file_range2"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["ppc64le"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_KILL"]}},
        ]});
        let filter = seccomp(&profile);
        let names: Vec<_> =
            filter["syscalls"].as_array().expect("rules").iter().map(|rule| rule["names"][0].clone()).collect();
        assert_eq!(names, ["read", "chroot", "arch_prctl", "clone"]);
        assert_eq!(filter["syscalls"][3]["errnoRet"], 1);
        assert_eq!(filter["syscalls"][0].get("args"), None);
        assert_eq!(filter["defaultErrnoRet"], 38);
    }
}
