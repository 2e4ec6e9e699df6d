//! Requests by bundle.

use super::*;
use crate::{
    capability::CapabilitySet,
    options::{NamespaceMode, SeccompChoice},
    record::Root,
};
use model::{ByteSize, NetworkMode};
use proptest::prelude::*;
use serde_json::json;
use std::path::Path;

/// What `runc spec` writes, in short.
fn config() -> Value {
    json!({
        "ociVersion": "1.0.2-dev",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_AUDIT_WRITE", "CAP_KILL"],
                "effective": ["CAP_AUDIT_WRITE", "CAP_KILL"],
                "permitted": ["CAP_AUDIT_WRITE", "CAP_KILL"],
                "ambient": ["CAP_AUDIT_WRITE", "CAP_KILL"]
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "runc",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "relatime", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"]
        },
        "annotations": {"who": "me"}
    })
}

fn machine(config: &str) -> Facts {
    facts_with(|files: &mut Fake| {
        files
            .add("/srv/bundle", Kind::Directory, "")
            .add("/srv/bundle/rootfs", Kind::Directory, "")
            .add("/srv/bundle/data", Kind::Directory, "")
            .add("/run/netns/blue", Kind::File, "")
            .add("/srv/bundle/config.json", Kind::File, config);
    })
}

fn bundle(config: &Value, change: impl FnOnce(&mut CreateOptions)) -> Result<Built, SpecErrors> {
    let mut options = CreateOptions::new(RootSource::Bundle("/srv/bundle".into()), Vec::new());
    change(&mut options);
    build(&options, &machine(&config.to_string()), &context())
}

/// The example with one value changed (`null` removes it).
fn with(pointer: &str, value: Value) -> Value {
    let mut config = config();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
    match parent {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        parent => parent[key] = value,
    }
    config
}

#[test]
fn a_bundle_is_taken_as_it_is() {
    let built = bundle(&config(), |_| {}).unwrap();
    let record = &built.record;
    assert_eq!(record.root, Root::Directory("/srv/bundle/rootfs".into()));
    assert!(!record.manage_etc && !record.default_seccomp);
    assert_eq!((record.user.as_deref(), record.userns), (None, Some(NamespaceMode::Host)));
    assert_eq!(record.network, NetworkMode::None);
    assert_eq!(why_host_users(record), "its bundle has no user namespace");
    // The ambient set is asked for in vain, which is said.
    assert_eq!(built.warnings.len(), 1, "{:?}", built.warnings);
    let mut expected = config();
    expected["root"]["path"] = "/srv/bundle/rootfs".into();
    expected["mounts"][4]["source"] = "/srv/bundle/data".into();
    expected["process"]["capabilities"]["ambient"] = json!([]);
    expected["linux"]["cgroupsPath"] = format!("/{}", context().cgroup).into();
    let mut spec = sorted(serde_json::to_value(&record.spec).unwrap());
    let rules = spec["linux"]["resources"]["devices"].take();
    assert_eq!(rules.as_array().unwrap().len(), 1 + 10);
    expected["linux"]["resources"]["devices"] = Value::Null;
    assert_eq!(spec, expected);
    assert_eq!(built.capabilities.iter().count(), 2);
}

#[test]
fn flags_go_over_a_bundle() {
    let built = bundle(&config(), |options| {
        options.command = vec!["ls".into(), "/".into()];
        options.env = vec![("TERM".into(), "vt100".into()), ("A".into(), "1".into())];
        options.workdir = Some("/tmp".into());
        options.user = Some("www".into());
        options.hostname = Some("web".into());
        options.tty = true;
        options.cap_add = vec!["NET_ADMIN".into()];
        options.cap_drop = vec!["KILL".into()];
        options.volumes = vec!["/srv/file:/data".into(), "/srv/data:/more".into()];
        options.tmpfs = vec!["/tmp".into()];
        options.ulimit = vec!["nofile=10".into(), "core=0".into()];
        options.sysctl = vec![("net.core.somaxconn".into(), "7".into())];
        options.resources.memory = Some(ByteSize(64 << 20));
        options.shm_size = Some(ByteSize(1 << 20));
        options.network = Some("blue".parse().unwrap());
        options.userns = Some(NamespaceMode::Private);
        options.seccomp = SeccompChoice::Unconfined;
        options.oom_score_adj = Some(10);
    })
    .unwrap();
    let process = process(&built);
    assert_eq!(process.args().clone().unwrap(), ["ls", "/"]);
    assert_eq!(process.env().clone().unwrap(), ["PATH=/bin", "TERM=vt100", "A=1"]);
    assert_eq!(
        (process.cwd().as_path(), process.terminal(), process.oom_score_adj()),
        (Path::new("/tmp"), Some(true), Some(10))
    );
    assert_eq!(built.record.user.as_deref(), Some("www"));
    assert_eq!(built.record.network.to_string(), "blue");
    assert_eq!(built.record.userns, Some(NamespaceMode::Private));
    let caps =
        ["AUDIT_WRITE", "NET_ADMIN"].iter().fold(CapabilitySet::EMPTY, |set, name| set.with(name.parse().unwrap()));
    assert_eq!(built.capabilities, caps);
    let order: Vec<_> =
        built.record.spec.mounts().iter().flatten().map(|mount| mount.destination().display().to_string()).collect();
    assert_eq!(order, ["/proc", "/dev", "/dev/shm", "/sys", "/data", "/sys/fs/cgroup", "/more", "/tmp"]);
    assert_eq!(mount_at(&built, "/data").unwrap().source().as_deref(), Some(Path::new("/srv/file")));
    assert!(words(mount_at(&built, "/dev/shm").unwrap()).ends_with("mode=1777 size=1024k"));
    let limits: Vec<_> = process.rlimits().iter().flatten().map(|limit| limit.soft()).collect();
    assert_eq!(limits, [10, 0]);
    assert!(built.record.spec.linux().as_ref().unwrap().resources().as_ref().unwrap().memory().is_some());
    // A command also makes up for one that the bundle lacks.
    let without = with("/process/args", json!([]));
    assert!(bundle(&without, |_| {}).is_err());
    assert!(bundle(&without, |options| options.command = vec!["sh".into()]).is_ok());
}

#[test]
fn the_network_is_what_the_namespaces_say() {
    let network = |config: &Value, mode: Option<&str>| {
        let built = bundle(config, |options| options.network = mode.map(|mode| mode.parse().unwrap())).unwrap();
        let linux = built.record.spec.linux().clone().unwrap();
        let path = linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
        (built.record.network.to_string(), path.map(|namespace| namespace.path().is_some()))
    };
    let joined = with("/linux/namespaces/1", json!({"type": "network", "path": "/run/netns/blue"}));
    let shared = with("/linux/namespaces/1", json!({"type": "user"}));
    for (config, mode, expected) in [
        (config(), None, ("none", Some(false))),
        (config(), Some("bridge"), ("bridge", Some(false))),
        (config(), Some("host"), ("host", None)),
        (joined.clone(), None, ("none", Some(true))),
        (joined, Some("bridge"), ("bridge", Some(false))),
        (shared.clone(), None, ("host", None)),
        (shared, Some("none"), ("none", Some(false))),
    ] {
        let (network, path) = network(&config, mode);
        assert_eq!((network.as_str(), path), expected, "{mode:?}");
    }
}

#[test]
fn users_are_what_the_namespaces_say() {
    let mut own = with("/linux/namespaces/5", json!({"type": "user"}));
    own["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    own["linux"]["gidMappings"] = own["linux"]["uidMappings"].clone();
    let private = bundle(&own, |_| {}).unwrap().record;
    assert_eq!(private.userns, Some(NamespaceMode::Private));
    assert!(private.spec.linux().as_ref().unwrap().uid_mappings().is_some());
    let host = bundle(&own, |options| options.userns = Some(NamespaceMode::Host)).unwrap().record;
    assert_eq!(host.userns, Some(NamespaceMode::Host));
    let linux = host.spec.linux().clone().unwrap();
    assert!(linux.uid_mappings().is_none() && linux.gid_mappings().is_none());
    assert!(!linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::User));
}

#[test]
fn control_groups_of_bundles() {
    let path = |path: &str| bundle(&with("/linux/cgroupsPath", path.into()), |_| {}).map(|built| built.cgroup);
    assert_eq!(path("/docker/x"), Ok("docker/x".to_owned()));
    assert_eq!(path("docker/x"), Ok(context().cgroup));
    for bad in ["/", "/a/../b", "system.slice:docker:x", "/a\n"] {
        assert!(path(bad).unwrap_err().to_string().contains("linux.cgroupsPath"), "{bad}");
    }
}

#[test]
fn every_field_that_can_not_be_had_is_named() {
    let hook = json!([{"path": "/bin/true"}]);
    let range = |inside: u32, outside: u32, size: u32| json!({"containerID": inside, "hostID": outside, "size": size});
    for (pointer, value, field) in [
        ("/ociVersion", json!(""), "ociVersion"),
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        ("/process", Value::Null, "process"),
        ("/process/args", json!([]), "process.args"),
        ("/process/args", json!([""]), "process.args[0]"),
        ("/process/args/0", json!("a\0"), "process.args[0]"),
        ("/process/env/1", json!("TERM"), "process.env[1]"),
        ("/process/env/1", json!("=x"), "process.env[1]"),
        ("/process/cwd", json!("tmp"), "process.cwd"),
        ("/process/consoleSize", json!({"height": 1, "width": 1}), "process.consoleSize"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 1}), "process.ioPriority"),
        ("/process/scheduler", json!({"policy": "SCHED_BATCH"}), "process.scheduler"),
        ("/process/execCPUAffinity", json!({"initial": "0"}), "process.execCPUAffinity"),
        ("/process/commandLine", json!("x"), "process.commandLine"),
        ("/process/apparmorProfile", json!("docker-default"), "process.apparmorProfile"),
        ("/process/selinuxLabel", json!("a:b:c"), "process.selinuxLabel"),
        ("/process/user/uid", json!(4294967295u32), "process.user.uid"),
        ("/process/user/umask", json!(4096), "process.user.umask"),
        ("/process/user/additionalGids", json!([1, 4294967295u32]), "process.user.additionalGids[1]"),
        ("/process/rlimits/0/soft", json!(2048), "process.rlimits[0].soft"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
            "process.rlimits[1].type",
        ),
        ("/process/rlimits/0/type", json!("RLIMIT_FOO"), "process.rlimits[0].type"),
        ("/process/capabilities/effective", json!(["CAP_SYS_ADMIN"]), "process.capabilities.effective"),
        ("/root", Value::Null, "root"),
        ("/root/path", json!(""), "root.path"),
        ("/root/path", json!("none"), "root.path"),
        ("/root/path", json!("/srv/file"), "root.path"),
        ("/hooks", json!({"prestart": hook.clone()}), "hooks.prestart"),
        ("/hooks", json!({"createRuntime": hook.clone()}), "hooks.createRuntime"),
        ("/hooks", json!({"poststop": hook}), "hooks.poststop"),
        ("/windows", json!({"layerFolders": []}), "windows"),
        ("/solaris", json!({}), "solaris"),
        ("/hostname", json!("x".repeat(65)), "hostname"),
        ("/domainname", json!("x\0"), "domainname"),
        ("/mounts/0/destination", json!("proc"), "mounts[0].destination"),
        ("/mounts/0/destination", json!("/"), "mounts[0].destination"),
        ("/mounts/0/destination", json!("/proc/self"), "mounts[0].destination"),
        ("/mounts/1/destination", json!("/proc"), "mounts[1].destination"),
        ("/mounts/0/type", Value::Null, "mounts[0].type"),
        ("/mounts/1/options", json!(["frob"]), "mounts[1].options"),
        ("/mounts/1/options", json!(["remount"]), "mounts[1].options"),
        ("/mounts/1/options", json!(["tmpcopyup"]), "mounts[1].options"),
        ("/mounts/1/options", json!([""]), "mounts[1].options"),
        ("/mounts/4/options", json!(["rbind", "size=1"]), "mounts[4].options"),
        ("/mounts/4/source", json!("none"), "mounts[4].source"),
        ("/mounts/4/source", Value::Null, "mounts[4].source"),
        ("/mounts/4/uidMappings", json!([range(0, 1, 1)]), "mounts[4].gidMappings"),
        ("/linux", Value::Null, "linux"),
        ("/linux/namespaces/0/type", json!("frob"), "linux.namespaces[0].type"),
        ("/linux/namespaces/0/type", json!("time"), "linux.namespaces[0].type"),
        ("/linux/namespaces/0/type", json!("network"), "linux.namespaces[1].type"),
        ("/linux/namespaces/1/path", json!("/run/netns/none"), "linux.namespaces[1].path"),
        ("/linux/namespaces/1/path", json!("netns"), "linux.namespaces[1].path"),
        ("/linux/namespaces/4/path", json!("/run/netns/blue"), "linux.namespaces[4].path"),
        ("/linux/namespaces/4/type", json!("user"), "linux.namespaces"),
        ("/linux/uidMappings", json!([range(0, 1, 1)]), "linux.uidMappings"),
        ("/linux/gidMappings", json!([range(0, 1, 0)]), "linux.gidMappings[0].size"),
        ("/linux/gidMappings", json!([range(0, u32::MAX, 2)]), "linux.gidMappings[0].size"),
        ("/linux/gidMappings", json!([range(0, 1, 9), range(8, 100, 9)]), "linux.gidMappings[1].containerID"),
        ("/linux/gidMappings", json!([range(0, 1, 9), range(9, 9, 9)]), "linux.gidMappings[1].hostID"),
        ("/linux/devices", json!([{"path": "x", "type": "c", "major": 1, "minor": 1}]), "linux.devices[0].path"),
        ("/linux/devices", json!([{"path": "/etc/x", "type": "c", "major": 1, "minor": 1}]), "linux.devices[0].path"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "a"}]), "linux.devices[0].type"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": -1}]), "linux.devices[0].major"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "minor": 1048576}]), "linux.devices[0].minor"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "fileMode": 1048576}]), "linux.devices[0].fileMode"),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c"}, {"path": "/dev/x", "type": "b"}]),
            "linux.devices[1].path",
        ),
        ("/linux/sysctl", json!({"vm.swappiness": "1"}), "linux.sysctl"),
        ("/linux/sysctl", json!({"net/../kernel/core_pattern": "|/x"}), "linux.sysctl"),
        ("/linux/maskedPaths/0", json!("proc"), "linux.maskedPaths[0]"),
        ("/linux/readonlyPaths/0", json!(""), "linux.readonlyPaths[0]"),
        ("/linux/rootfsPropagation", json!("frob"), "linux.rootfsPropagation"),
        ("/linux/mountLabel", json!("a:b:c"), "linux.mountLabel"),
        ("/linux/intelRdt", json!({}), "linux.intelRdt"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}), "linux.memoryPolicy"),
        ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
        ("/linux/timeOffsets", json!({"boottime": {"secs": 1}}), "linux.timeOffsets"),
        ("/linux/personality", json!({"domain": "LINUX32"}), "linux.personality.domain"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "linux.seccomp.defaultAction"),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}),
            "linux.seccomp.listenerPath",
        ),
        ("/linux/resources/memory", json!({"limit": -2}), "linux.resources.memory.limit"),
        ("/linux/resources/memory", json!({"limit": 2, "swap": 1}), "linux.resources.memory.swap"),
        ("/linux/resources/memory", json!({"swappiness": 101}), "linux.resources.memory.swappiness"),
        ("/linux/resources/cpu", json!({"shares": 1}), "linux.resources.cpu.shares"),
        ("/linux/resources/cpu", json!({"period": 1}), "linux.resources.cpu.period"),
        ("/linux/resources/cpu", json!({"quota": 1}), "linux.resources.cpu.quota"),
        ("/linux/resources/cpu", json!({"cpus": "x"}), "linux.resources.cpu.cpus"),
        ("/linux/resources/pids", json!({"limit": -2}), "linux.resources.pids.limit"),
        ("/linux/resources/blockIO", json!({"weight": 1}), "linux.resources.blockIO.weight"),
        ("/linux/resources/devices/0/access", json!("x"), "linux.resources.devices[0].access"),
        ("/linux/resources/unified", json!({"cgroup.procs": "1"}), "linux.resources.unified"),
        ("/linux/resources/unified", json!({"../x.y": "1"}), "linux.resources.unified"),
    ] {
        let text = match bundle(&with(pointer, value), |_| {}) {
            Ok(_) => panic!("{pointer} was taken"),
            Err(errors) => errors.to_string(),
        };
        let named = text.lines().any(|line| {
            line.trim().strip_prefix("config.json: ").is_some_and(|line| {
                line.starts_with(field) && [":", " "].iter().any(|end| line[field.len()..].starts_with(end))
            })
        });
        assert!(named, "{field} is not named in: {text}");
    }
}

#[test]
fn fields_that_can_be_had_are_taken() {
    let mut config = with("/linux/namespaces/5", json!({"type": "user"}));
    config["domainname"] = json!("example");
    config["process"]["user"] = json!({"uid": 5, "gid": 6, "umask": 63, "additionalGids": [7]});
    config["process"]["oomScoreAdj"] = json!(500);
    config["process"]["apparmorProfile"] = json!("unconfined");
    config["hooks"] = json!({"prestart": []});
    config["mounts"][4]["uidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    config["mounts"][4]["gidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    config["mounts"][4]["options"] = json!(["rbind", "ridmap", "rro", "rslave", "nosymfollow"]);
    let linux = &mut config["linux"];
    linux["uidMappings"] =
        json!([{"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 10, "hostID": 9, "size": 1}]);
    linux["gidMappings"] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    linux["devices"] = json!([{"path": "/dev/x", "type": "p", "major": 0, "minor": 0, "fileMode": 438, "uid": 1}, {"path": "/dev/y", "type": "c", "major": 1, "minor": 3, "fileMode": 8630}]);
    linux["sysctl"] = json!({"net.core.somaxconn": "7", "kernel.domainname": "x"});
    linux["rootfsPropagation"] = json!("rslave");
    linux["personality"] = json!({"domain": "LINUX"});
    linux["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]});
    linux["resources"] = json!({
        "memory": {"limit": -1, "kernel": 5}, "cpu": {"idle": 1, "burst": 5}, "unified": {"memory.high": "max"},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "devices": [{"allow": true, "access": "rwm"}],
    });
    let built = bundle(&config, |_| {}).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(built.warnings.iter().filter(|warning| warning.contains("memory.kernel")).count(), 1);
    let spec = serde_json::to_value(&built.record.spec).unwrap();
    for pointer in [
        "/domainname",
        "/process/user",
        "/linux/uidMappings",
        "/linux/devices",
        "/linux/sysctl",
        "/linux/seccomp",
        "/annotations",
    ] {
        assert_eq!(spec.pointer(pointer), config.pointer(pointer), "{pointer}");
    }
    assert!(bundle(&with("/linux/resources", Value::Null), |_| {}).is_ok());
}

#[test]
fn faults_of_flags_and_bundle_come_together() {
    let text =
        bundle(&with("/process/cwd", json!("x")), |options| options.tmpfs = vec!["x".into()]).unwrap_err().to_string();
    assert!(text.contains("process.cwd") && text.contains("--tmpfs"), "{text}");
    let options = CreateOptions {
        tmpfs: vec!["x".into()],
        ..CreateOptions::new(RootSource::Bundle("/srv/bundle".into()), vec![])
    };
    let text = build(&options, &machine("{"), &context()).unwrap_err().to_string();
    assert!(text.contains("line 1, column 1") && text.contains("--tmpfs"), "{text}");
}

/// Replaces one value somewhere in the example.
fn mutate(value: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        *value = with.clone();
    }
    *at = at.wrapping_sub(1);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| mutate(item, at, with)),
        Value::Object(fields) => fields.values_mut().for_each(|field| mutate(field, at, with)),
        _ => {}
    }
}

proptest! {
    #[test]
    fn never_panics(at in 0usize..120, text in ".{0,6}|/[a-z/.]{0,6}", number: i64, pick in 0usize..4) {
        let mut config = config();
        let values = [json!(text), json!(number), json!([]), json!({})];
        mutate(&mut config, &mut { at }, &values[pick]);
        if let Err(errors) = bundle(&config, |_| {}) {
            prop_assert!(!errors.0.is_empty());
        }
    }
    #[test]
    fn any_text_is_refused_or_taken(text in ".{0,40}|[{}\\[\\]\",:a-z]{0,40}") {
        let options = CreateOptions::new(RootSource::Bundle("/srv/bundle".into()), vec![]);
        prop_assert!(build(&options, &machine(&text), &context()).is_err());
    }
}
