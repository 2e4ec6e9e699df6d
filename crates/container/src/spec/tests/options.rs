//! Requests by options.

use super::*;
use crate::{
    capability::CapabilitySet,
    options::{LogOptions, NamespaceMode, ResourceOptions, SeccompChoice},
    record::Root,
};
use model::{ByteSize, NetworkMode, PortMapping};
use proptest::prelude::*;
use std::path::Path;

/// Set `JDOS_GOLDEN=write` to renew the file after a deliberate change.
#[test]
fn the_default_specification_is_this_file() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spec/tests/default.json");
    let built = built(|_| {});
    let spec = sorted(serde_json::to_value(&built.record.spec).unwrap());
    if std::env::var_os("JDOS_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&file, serde_json::to_string_pretty(&spec).unwrap() + "\n").unwrap();
    }
    let golden: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(spec, golden, "{}", serde_json::to_string_pretty(&spec).unwrap());
    assert_eq!(built.warnings, [""; 0]);
    // It also passes for a foreign one.
    let there = facts_with(|files| {
        files.add("/srv/root", Kind::Directory, "");
    });
    assert_eq!(check(&built.record.spec, &there), Ok(Vec::new()));
}

#[test]
fn the_default_record() {
    let built = built(|_| {});
    let record = &built.record;
    assert_eq!(record.root, Root::Directory("/srv/root".into()));
    assert!(record.default_seccomp && record.manage_etc && !record.named && !record.remove && !record.tty());
    assert_eq!((record.user.as_deref(), record.userns), (Some("0"), None));
    assert_eq!((record.stop_signal, record.stop_timeout), (15, 10));
    assert_eq!(record.network.to_string(), "bridge");
    assert_eq!(built.capabilities, CapabilitySet::DOCKER);
    assert_eq!(built.cgroup, context().cgroup);
    assert!(built.unpack.is_none() && built.volumes.is_empty() && built.record.chown.is_empty());
    // What is stored reads back.
    let text = serde_json::to_string(record).unwrap();
    let read: crate::record::Record = serde_json::from_str(&text).unwrap();
    assert_eq!(read.spec, record.spec);
}

#[test]
fn all_faults_come_at_once() {
    let text = errors(|options| {
        options.command.clear();
        options.root = RootSource::Directory("/srv/none".into());
        options.env = vec![("A=B".into(), String::new())];
        options.workdir = Some("here".into());
        options.user = Some("a:b:c".into());
        options.groups = vec!["x:y".into()];
        options.hostname = Some("-".into());
        options.cap_add = vec!["FROB".into()];
        options.cap_drop = vec!["FRUB".into()];
        options.devices = vec!["/dev/none".into()];
        options.volumes = vec!["rel/path:/x".into(), "/srv/none:/y".into()];
        options.tmpfs = vec!["/z:frob".into()];
        options.sysctl = vec![("vm.swappiness".into(), "1".into())];
        options.ulimit = vec!["frob=1".into()];
        options.resources.memory = Some(ByteSize(1));
        options.oom_score_adj = Some(1001);
        options.shm_size = Some(ByteSize(1));
        options.publish = [PortMapping::parse_all("80:80").unwrap(), PortMapping::parse_all("80:81").unwrap()].concat();
        options.stop_signal = Some("FROB".into());
        options.labels.insert(String::new(), String::new());
        options.log = LogOptions { max_size: ByteSize(1), max_files: 0 };
        options.dns.search = vec!["a b".into()];
        options.dns.hosts = vec![("a\nb".into(), [127, 0, 0, 1].into())];
        options.seccomp = SeccompChoice::Profile("/srv/profile".into());
    });
    for field in [
        "command",
        "--rootfs",
        "--env",
        "--workdir",
        "--user",
        "--group-add",
        "--hostname",
        "--cap-add",
        "--cap-drop",
        "--device",
        "--volume `rel/path:/x`",
        "--volume `/srv/none:/y`",
        "--tmpfs",
        "--sysctl",
        "--ulimit",
        "--memory",
        "--oom-score-adj",
        "--shm-size",
        "--publish",
        "--stop-signal",
        "--label",
        "--log-opt max-size",
        "--log-opt max-file",
        "--dns-search",
        "--add-host",
        "--security-opt seccomp",
    ] {
        assert!(text.contains(&format!("\n  {field}")), "{field} is missing in:\n{text}");
    }
    assert_eq!(text.lines().count(), 27, "{text}");
}

#[test]
fn the_program_and_its_environment() {
    let built = built(|options| {
        options.tty = true;
        options.hostname = Some("web".into());
        options.env = vec![
            ("A".into(), "1".into()),
            ("PATH".into(), "/bin".into()),
            ("A".into(), "a=b".into()),
            ("EMPTY".into(), String::new()),
        ];
        options.workdir = Some("/srv/../tmp".into());
        options.user = Some("1000:5".into());
        options.stop_signal = Some("RTMIN+3".into());
        options.oom_score_adj = Some(-5);
        options.ulimit = vec!["nofile=100:99999999".into(), "core=0".into()];
    });
    let process = process(&built);
    assert_eq!(process.env().clone().unwrap(), ["PATH=/bin", "HOSTNAME=web", "TERM=xterm", "A=a=b", "EMPTY="]);
    assert_eq!(process.cwd(), Path::new("/tmp"));
    assert_eq!((process.user().uid(), process.user().gid()), (1000, 5));
    assert_eq!(built.record.user.as_deref(), Some("1000:5"));
    assert_eq!(built.record.stop_signal, 37);
    assert!(built.record.tty());
    let limits: Vec<_> = process.rlimits().iter().flatten().map(|limit| (limit.soft(), limit.hard())).collect();
    assert_eq!(limits, [(100, 20_000), (0, 0)]);
    assert_eq!(process.oom_score_adj(), Some(0));
    assert_eq!(built.warnings.len(), 2, "{:?}", built.warnings);
    assert!(built.warnings[0].contains("nofile: 20000 instead of 99999999"));
    assert!(built.warnings[1].contains("oom score adjustment: 0 instead of -5"));
    assert!(errors(|options| options.command = vec!["a\0b".into()]).contains("NUL"));
    assert!(errors(|options| options.command = vec!["x".repeat(200_000)]).contains("128 KiB"));
    assert!(errors(|options| options.ulimit = vec!["core=1".into(), "core=2".into()]).contains("twice"));
}

#[test]
fn capabilities_are_dockers_with_changes() {
    let set = |add: &[&str], drop: &[&str]| {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let built = built(|options| (options.cap_add, options.cap_drop) = (own(add), own(drop)));
        let sets = process(&built).capabilities().clone().unwrap();
        assert!(sets.inheritable().is_none() && sets.ambient().is_none());
        assert_eq!(sets.bounding(), sets.effective());
        assert_eq!(sets.bounding(), sets.permitted());
        assert_eq!(sets.bounding().as_ref().unwrap().len(), built.capabilities.iter().count());
        built.capabilities
    };
    let named = |names: &[&str]| names.iter().fold(CapabilitySet::EMPTY, |set, name| set.with(name.parse().unwrap()));
    assert_eq!(set(&["net_admin", "CAP_KILL"], &[]), CapabilitySet::DOCKER.with("NET_ADMIN".parse().unwrap()));
    assert_eq!(set(&[], &["CHOWN"]), CapabilitySet::DOCKER.without("CHOWN".parse().unwrap()));
    assert_eq!(set(&["NET_RAW"], &["all"]), named(&["NET_RAW"]));
    assert_eq!(set(&["ALL"], &["SYS_ADMIN"]), CapabilitySet::full().without("SYS_ADMIN".parse().unwrap()));
    assert!(
        errors(|options| {
            (options.cap_add, options.cap_drop) = (vec!["KILL".into()], vec!["CAP_KILL".into()]);
        })
        .contains("both added and dropped")
    );
    assert!(
        errors(|options| {
            (options.cap_add, options.cap_drop) = (vec!["ALL".into()], vec!["ALL".into()]);
        })
        .contains("`ALL`")
    );
    // With the host's users none can be given that this process lacks.
    let host = built(|options| {
        options.userns = Some(NamespaceMode::Host);
        options.cap_add = vec!["SYS_RESOURCE".into()];
    });
    assert_eq!(host.capabilities, CapabilitySet::DOCKER);
    assert!(host.warnings[0].contains("CAP_SYS_RESOURCE"), "{:?}", host.warnings);
}

#[test]
fn privileged_is_everything() {
    let built = built(|options| options.privileged = true);
    let linux = built.record.spec.linux().clone().unwrap();
    assert_eq!(built.record.userns, Some(NamespaceMode::Host));
    assert_eq!(built.capabilities, facts().capabilities);
    assert!(!built.record.default_seccomp && linux.seccomp().is_none());
    assert!(linux.masked_paths().is_none() && linux.readonly_paths().is_none());
    let nodes: Vec<_> = linux.devices().iter().flatten().map(|node| node.path().display().to_string()).collect();
    assert_eq!(nodes, ["/dev/fuse", "/dev/snd/timer", "/dev/vda"]);
    let rules: Vec<_> =
        linux.resources().clone().unwrap().devices().iter().flatten().map(|rule| rule.to_string()).collect();
    assert_eq!(rules, ["a *:* rwm"]);
    assert_eq!(words(mount_at(&built, "/sys").unwrap()), "nosuid noexec nodev");
    assert!(!words(mount_at(&built, "/sys/fs/cgroup").unwrap()).contains("ro"));
    assert_eq!(why_host_users(&built.record), "asked for");
}

#[test]
fn devices() {
    let built = built(|options| {
        options.devices = vec!["/dev/fuse:r".into(), "/dev/vda:/dev/disk".into(), "/dev/snd".into()];
    });
    let linux = built.record.spec.linux().clone().unwrap();
    let nodes: Vec<_> = linux.devices().iter().flatten().map(|node| node.path().display().to_string()).collect();
    assert_eq!(nodes, ["/dev/fuse", "/dev/disk", "/dev/snd/timer"]);
    let rules: Vec<_> =
        linux.resources().clone().unwrap().devices().iter().flatten().map(|rule| rule.to_string()).collect();
    assert_eq!(rules[0], "a *:* rwm");
    assert_eq!(rules[rules.len() - 3..], ["c 10:229 r", "b 254:0 rwm", "c 116:33 rwm"]);
    let twice = errors(|options| options.devices = vec!["/dev/fuse".into(), "/dev/vda:/dev/fuse".into()]);
    assert!(twice.contains("taken already"), "{twice}");
}

#[test]
fn volumes_and_tmpfs() {
    let built = built(|options| {
        options.volumes = vec![
            "/srv/data:/var/lib/deep/er".into(),
            "cache:/var/lib:ro".into(),
            "cache:/again:nocopy".into(),
            "/srv/file:/etc/file:U,rslave".into(),
        ];
        options.tmpfs = vec!["/dev/shm:size=1m".into(), "/run".into()];
        options.read_only = true;
    });
    let spec = &built.record.spec;
    let order: Vec<_> = spec.mounts().iter().flatten().map(|mount| mount.destination().clone()).collect();
    let depth = |path: &std::path::PathBuf| path.iter().count();
    assert!(order.is_sorted_by_key(depth), "{order:?}");
    assert_eq!(order.len(), 7 + 5, "the default /dev/shm was replaced: {order:?}");
    assert_eq!(words(mount_at(&built, "/dev/shm").unwrap()), "noexec nosuid nodev size=1024k");
    let cache = mount_at(&built, "/var/lib").unwrap();
    assert_eq!(cache.source().as_deref(), Some(Path::new("/data/volumes/cache")));
    assert_eq!((cache.typ().as_deref(), words(cache).as_str()), (Some("bind"), "rbind rprivate rro rnosuid rnodev"));
    assert_eq!(built.volumes.iter().map(|volume| volume.copy).collect::<Vec<_>>(), [true, false]);
    assert_eq!(built.record.chown, [Path::new("/srv/file")]);
    assert_eq!(spec.linux().as_ref().unwrap().rootfs_propagation().as_deref(), Some("rslave"));
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
}

#[test]
fn a_mount_over_dev_hides_what_was_below() {
    let built = built(|options| options.volumes = vec!["/dev:/dev:rshared".into()]);
    let below = built.record.spec.mounts().iter().flatten().filter(|mount| mount.destination().starts_with("/dev"));
    assert_eq!(below.count(), 1);
    assert_eq!(built.record.spec.linux().as_ref().unwrap().rootfs_propagation().as_deref(), Some("shared"));
}

#[test]
fn mounts_that_can_not_be() {
    for (volumes, tmpfs, part) in [
        (vec!["/srv/data:/x", "/srv/file:/x/."], vec![], "/x is taken already, by --volume /srv/data:/x"),
        (vec!["/srv/data:/x"], vec!["/x/"], "--tmpfs `/x/`: /x is taken already"),
        (vec!["/srv/gone:/x"], vec![], "mkdir -p /srv/gone"),
        (vec!["data:/x"], vec!["/proc/x"], "/proc"),
    ] {
        let own = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let text = errors(|options| (options.volumes, options.tmpfs) = (own(volumes), own(tmpfs)));
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn namespaces_of_the_host() {
    let host = built(|options| {
        options.network = Some(NetworkMode::Host);
        options.publish = PortMapping::parse_all("80:80").unwrap();
    });
    assert!(!has(&host, LinuxNamespaceType::Network) && has(&host, LinuxNamespaceType::Pid));
    assert_eq!(host.record.spec.hostname().as_deref(), Some("host"));
    assert_eq!(host.record.userns, Some(NamespaceMode::Host));
    assert_eq!(why_host_users(&host.record), "it shares the host's network");
    assert!(host.record.ports.is_empty() && host.warnings.len() == 1);
    assert!(host.record.spec.linux().as_ref().unwrap().sysctl().is_none());
    let own_users = built(|options| {
        (options.network, options.userns) = (Some(NetworkMode::Host), Some(NamespaceMode::Private));
        options.pid = NamespaceMode::Host;
    });
    assert_eq!(own_users.record.userns, Some(NamespaceMode::Private));
    for path in ["/sys", "/proc"] {
        assert_eq!(mount_at(&own_users, path).unwrap().typ().as_deref(), Some("bind"), "{path}");
    }
    let ipc = built(|options| options.ipc = NamespaceMode::Host);
    assert!(mount_at(&ipc, "/dev/shm").is_none(), "this host has none");
    let uts = built(|options| (options.uts, options.cgroupns) = (NamespaceMode::Host, NamespaceMode::Host));
    assert!(uts.record.spec.hostname().is_none() && !has(&uts, LinuxNamespaceType::Cgroup));
    assert!(process(&uts).env().clone().unwrap().contains(&"HOSTNAME=host".to_owned()));
    assert_eq!(uts.record.userns, None);
    let named = errors(|options| (options.uts, options.hostname) = (NamespaceMode::Host, Some("web".into())));
    assert!(named.contains("--hostname `web`"), "{named}");
    let shm = errors(|options| (options.ipc, options.shm_size) = (NamespaceMode::Host, Some(ByteSize(1 << 20))));
    assert!(shm.contains("--ipc host"), "{shm}");
}

#[test]
fn kernel_parameters() {
    let set = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let built = built(|options| {
        options.sysctl = set(&[("net/ipv4/ip_unprivileged_port_start", "1024"), ("kernel.sem", "1 2 3 4")]);
    });
    let all = built.record.spec.linux().as_ref().unwrap().sysctl().clone().unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all["net/ipv4/ip_unprivileged_port_start"], "1024");
    for (pairs, network, part) in [
        (vec![("net.core.somaxconn", "1")], Some(NetworkMode::Host), "leave out --network host"),
        (vec![("net.core.somaxconn", "1"), ("net/core/somaxconn", "2")], None, "twice"),
        (vec![("net.core.somaxconn", "1\n2")], None, "line break"),
        (vec![("net.core.somaxconn", "")], None, "empty"),
    ] {
        let text = errors(|options| (options.sysctl, options.network) = (set(&pairs), network));
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn ports_and_addresses() {
    let publish =
        |texts: &[&str]| texts.iter().flat_map(|text| PortMapping::parse_all(text).unwrap()).collect::<Vec<_>>();
    for texts in [
        vec!["80:80", "81:80", "80:80/udp"],
        vec!["127.0.0.1:80:80", "127.0.0.2:80:80"],
        vec!["0.0.0.0:80:80", "[::]:80:80"],
    ] {
        assert_eq!(built(|options| options.publish = publish(&texts)).record.ports.len(), texts.len(), "{texts:?}");
    }
    for texts in [
        vec!["80:80", "80:80"],
        vec!["80:80", "127.0.0.1:80:81"],
        vec!["0.0.0.0:80:80", "127.0.0.1:80:81"],
        vec!["[::]:80:80", "[::1]:80:80"],
        vec!["8000-8002:1-3", "8001:9"],
    ] {
        assert!(errors(|options| options.publish = publish(&texts)).contains("published already"), "{texts:?}");
    }
    let none = errors(|options| (options.network, options.publish) = (Some(NetworkMode::None), publish(&["80:80"])));
    assert!(none.contains("--publish"), "{none}");
    let ip = errors(|options| (options.network, options.ip) = (Some(NetworkMode::None), Some([10, 0, 0, 2].into())));
    assert!(ip.contains("--ip"), "{ip}");
}

#[test]
fn roots() {
    let relative = facts_with(|files| {
        files.add("/home/me/root", Kind::Directory, "").add("/home/me/root.tar", Kind::File, "");
    });
    let with = |root| {
        let options = CreateOptions { root, ..request() };
        build(&options, &relative, &context())
    };
    let directory = with(RootSource::Directory("root".into())).unwrap();
    assert_eq!(directory.record.root, Root::Directory("/home/me/root".into()));
    let tar = with(RootSource::Tar("root.tar".into())).unwrap();
    assert_eq!((tar.record.root, tar.unpack.as_deref()), (Root::Owned, Some(Path::new("/home/me/root.tar"))));
    assert_eq!(tar.record.spec.root().as_ref().unwrap().path(), Path::new("/data/containers/x/rootfs"));
    let layers = with(RootSource::Layers(vec!["/srv/root".into(), "root".into()])).unwrap();
    assert_eq!(layers.record.root, Root::Layers(vec!["/srv/root".into(), "/home/me/root".into()]));
    for (root, part) in [
        (RootSource::Directory("/srv/file".into()), "not a directory"),
        (RootSource::Directory("/srv/none".into()), "there is no /srv/none"),
        (RootSource::Tar("/srv/data".into()), "not a file"),
        (RootSource::Layers(vec![]), "0 layers"),
        (RootSource::Layers(vec!["/srv/root".into(); 2]), "twice"),
        (RootSource::Layers(vec!["/srv/none".into()]), "--layer"),
        (RootSource::Bundle("/srv/none".into()), "--bundle"),
        (RootSource::Bundle("/srv/data".into()), "no config.json"),
    ] {
        let text = with(root).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn filters() {
    let open = built(|options| options.seccomp = SeccompChoice::Unconfined);
    assert!(!open.record.default_seccomp && open.record.spec.linux().as_ref().unwrap().seccomp().is_none());
    let options = CreateOptions { seccomp: SeccompChoice::Profile("/srv/profile".into()), ..request() };
    let with = |text: &str| {
        let seccomp = Some(serde_json::from_str(text).unwrap());
        build(&options, &facts(), &Context { seccomp, ..context() })
    };
    let profile = with(r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#).unwrap();
    assert!(!profile.record.default_seccomp && profile.record.spec.linux().as_ref().unwrap().seccomp().is_some());
    let refused = with(r#"{"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}"#).unwrap_err().to_string();
    assert!(refused.contains("listenerPath") && refused.contains("defaultAction"), "{refused}");
}

#[test]
fn an_update_is_all_or_nothing() {
    let mut record = built(|options| options.resources.memory = Some(ByteSize(64 << 20))).record;
    let before = record.spec.clone();
    let bad = ResourceOptions { pids_limit: Some(5), cpus: Some(99.0), ..Default::default() };
    assert!(apply_update(&mut record, &bad, &facts()).unwrap_err().to_string().starts_with("--cpus"));
    assert!(apply_update(&mut record, &ResourceOptions::default(), &facts()).is_err());
    assert_eq!(record.spec, before);
    let good = ResourceOptions { pids_limit: Some(5), memory: Some(ByteSize(128 << 20)), ..Default::default() };
    apply_update(&mut record, &good, &facts()).unwrap();
    let limits = record.spec.linux().as_ref().unwrap().resources().clone().unwrap();
    assert_eq!(limits.pids().map(|pids| pids.limit()), Some(5));
    assert_eq!(limits.memory().and_then(|memory| memory.swap()), Some(256 << 20));
    assert!(limits.devices().as_ref().is_some_and(|rules| rules.len() > 5), "device rules stay");
}

#[test]
fn names() {
    let built = built(|_| {});
    assert_eq!(built.record.name, generate_name(7).unwrap());
    let named = super::built(|options| options.name = Some("web".parse().unwrap()));
    assert!(named.record.named && named.record.identity() == "web");
}

#[test]
fn this_machine_can_have_the_default() {
    let facts = Facts::read().unwrap();
    let root = tempfile::tempdir().unwrap();
    let mut options = CreateOptions::new(RootSource::Directory(root.path().into()), vec!["/bin/true".into()]);
    let full = facts.cpus().unwrap().count();
    options.resources = ResourceOptions {
        memory: Some(ByteSize(64 << 20)),
        cpus: Some(f64::from(full)),
        cpuset_cpus: Some(facts.cpus().unwrap().to_string()),
        cpuset_mems: Some(facts.memory_nodes().unwrap().to_string()),
        ..Default::default()
    };
    options.volumes = vec![format!("{}:/data", root.path().display())];
    options.devices = vec!["/dev/null:/dev/nothing:r".into()];
    let built = build(&options, &facts, &context()).unwrap();
    assert_eq!(check(&built.record.spec, &facts), Ok(Vec::new()));
    let device = built.record.spec.linux().clone().unwrap().devices().clone().unwrap().remove(0);
    assert_eq!((device.major(), device.minor()), (1, 3));
}

proptest! {
    #[test]
    fn never_panics(texts in proptest::collection::vec(".{0,12}|/[a-z:,/.]{0,12}", 12), number: i64, cpus: f64) {
        let mut options = request();
        options.env = vec![(texts[0].clone(), texts[1].clone())];
        options.workdir = Some(texts[2].clone());
        options.user = Some(texts[3].clone());
        options.volumes = vec![texts[4].clone(), texts[5].clone()];
        options.tmpfs = vec![texts[6].clone()];
        options.devices = vec![texts[7].clone()];
        options.sysctl = vec![(texts[8].clone(), texts[9].clone())];
        options.hostname = Some(texts[10].clone());
        options.ulimit = vec![texts[11].clone()];
        options.resources.memory_swap = Some(number);
        options.resources.cpus = Some(cpus);
        options.resources.cpu_quota = Some(number);
        options.resources.memory = Some(ByteSize(number.unsigned_abs()));
        if let Err(errors) = build(&options, &facts(), &context()) {
            prop_assert!(!errors.0.is_empty() && !errors.to_string().is_empty());
        }
    }
}
