//! Against the real kernel, as root, in whichever mode this machine is; a hybrid one is also tested as if it had its v1
//! part or its unified part only.

use super::*;
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxHugepageLimitBuilder, LinuxMemoryBuilder,
    LinuxNetworkBuilder, LinuxPidsBuilder, LinuxResourcesBuilder,
};
use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

const MIB: i64 = 1 << 20;

/// A folder of groups of its own, removed in the end with all that is in it.
struct Scope {
    host: Host,
    tag: String,
}
impl Scope {
    fn on(host: Host) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("jdos-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { host, tag }
    }
    fn new() -> Self {
        Self::on(Host::detect().unwrap())
    }
    fn path(&self, id: &str) -> String {
        format!("{}/{id}", self.tag)
    }
    fn create(&self, id: &str, resources: &LinuxResources) -> Result<Cgroup, CgroupError> {
        self.host.create(&self.path(id), resources, &Extras::default())
    }
    /// What there is of this folder in any hierarchy.
    fn found(&self) -> Vec<PathBuf> {
        let all = self.host.hierarchies().iter().map(|hierarchy| hierarchy.mount_point().join(&self.tag));
        all.filter(|path| path.exists()).collect()
    }
}
impl Drop for Scope {
    fn drop(&mut self) {
        for id in self.host.children(&self.tag).unwrap() {
            self.host.open(&self.path(&id)).unwrap().remove().unwrap();
        }
        self.host.remove_unused(&self.tag).unwrap();
        assert_eq!(self.found(), Vec::<PathBuf>::new());
    }
}

/// This machine, and on a hybrid one each of its two parts alone.
fn hosts() -> Vec<Host> {
    let part = |version, mode| {
        let found = detect::detect().unwrap();
        let hierarchies = found.hierarchies.into_iter().filter(|hierarchy| hierarchy.version == version).collect();
        Host(Arc::new(Inner { mode, hierarchies, legacy: found.legacy }))
    };
    let host = Host::detect().unwrap();
    match host.mode() {
        Mode::Hybrid => vec![host, part(Version::V1, Mode::V1), part(Version::V2, Mode::V2)],
        _ => vec![host],
    }
}

/// A shell script in a group: it joins before its first command.
fn start(cgroup: &Cgroup, script: &str) -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("read go; exec <&- 2>&1; {script}")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    for directory in cgroup.directories() {
        fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    child
}
fn run(cgroup: &Cgroup, script: &str) -> Output {
    start(cgroup, script).wait_with_output().unwrap()
}
fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}
fn wait_until(what: &str, mut state: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(last) = state() {
        assert!(Instant::now() < deadline, "{what}: {last}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
fn file(cgroup: &Cgroup, controller: &str, v1: &str, v2: &str) -> String {
    let name = if cgroup.host.version_of(controller) == Some(Version::V1) { v1 } else { v2 };
    cgroup.directory_of(controller).unwrap().read(name).unwrap().trim().to_owned()
}
fn text(error: &CgroupError) -> String {
    let mut text = error.to_string();
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        text += &format!(": {source}");
        error = source;
    }
    text
}

fn nothing() -> LinuxResources {
    LinuxResourcesBuilder::default().build().unwrap()
}
fn memory(limit: i64) -> LinuxResources {
    let memory = LinuxMemoryBuilder::default().limit(limit).build().unwrap();
    LinuxResourcesBuilder::default().memory(memory).build().unwrap()
}
fn pids(limit: i64) -> LinuxResources {
    LinuxResourcesBuilder::default().pids(LinuxPidsBuilder::default().limit(limit).build().unwrap()).build().unwrap()
}
fn quota(quota: i64) -> oci_spec::runtime::LinuxCpu {
    LinuxCpuBuilder::default().quota(quota).period(100_000u64).build().unwrap()
}
fn device(allow: bool, major: i64, minor: i64, access: &str) -> oci_spec::runtime::LinuxDeviceCgroup {
    let builder = LinuxDeviceCgroupBuilder::default().allow(allow).typ(LinuxDeviceType::C).access(access);
    builder.major(major).minor(minor).build().unwrap()
}
fn devices(list: Vec<oci_spec::runtime::LinuxDeviceCgroup>) -> LinuxResources {
    LinuxResourcesBuilder::default().devices(list).build().unwrap()
}

#[test]
fn paths_lead_nowhere_else() {
    for bad in ["", "/jdos", "jdos/", "a//b", "../a", "a/../b", ".", "a\nb"] {
        assert!(matches!(check_path(bad), Err(CgroupError::Path { .. })), "{bad:?}");
    }
    assert!(check_path("jdos/0123abcd").is_ok());
    assert_eq!(ancestors("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
}

#[test]
fn this_machine_is_found() {
    let host = Host::detect().unwrap();
    assert!(host.has_controller("memory") && host.has_controller("pids") && !host.has_controller("nonsense"));
    assert_eq!(host.mode() == Mode::V2, Path::new("/sys/fs/cgroup/cgroup.controllers").exists());
    let bound: usize = host.0.legacy.iter().filter(|name| host.has_controller(name)).count();
    assert_eq!(bound, host.0.legacy.len(), "all of the bound ones are mounted here");
    let mounts = host.mounts_for_container();
    assert_eq!(mounts.len() == 1, host.mode() == Mode::V2, "{mounts:?}");
}

#[test]
fn limits_are_those_asked_for() {
    let scope = Scope::new();
    let memory = LinuxMemoryBuilder::default().limit(64 * MIB).swap(96 * MIB).reservation(32 * MIB).build().unwrap();
    let cpu = LinuxCpuBuilder::default().quota(50_000).period(100_000u64).shares(512u64).cpus("0").mems("0").build().unwrap();
    let builder = LinuxResourcesBuilder::default().memory(memory).cpu(cpu);
    let resources = builder.pids(LinuxPidsBuilder::default().limit(17).build().unwrap()).build().unwrap();
    let cgroup = scope.create("a", &resources).unwrap();
    let read = |controller, v1, v2| file(&cgroup, controller, v1, v2);
    let v1 = |controller| scope.host.0.version_of(controller) == Some(Version::V1);
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    let swap = if v1("memory") { 96 * MIB } else { 32 * MIB };
    assert_eq!(read("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), swap.to_string());
    assert_eq!(read("memory", "memory.soft_limit_in_bytes", "memory.low"), "33554432");
    assert_eq!(read("cpu", "cpu.cfs_quota_us", "cpu.max"), if v1("cpu") { "50000" } else { "50000 100000" });
    assert_eq!(read("cpu", "cpu.shares", "cpu.weight"), if v1("cpu") { "512" } else { "20" });
    assert_eq!(read("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(read("pids", "pids.max", "pids.max"), "17");
    let stats = cgroup.stats().unwrap();
    assert_eq!(stats.memory.unwrap().limit, Some(64 << 20));
    assert_eq!(stats.pids, Some(Pids { current: 0, limit: Some(17) }));
    let opened = scope.host.open(cgroup.path()).unwrap();
    assert_eq!(opened.directories(), cgroup.directories());
    assert_eq!(opened.directories().len(), scope.host.hierarchies().len());
}

#[test]
fn without_limits_there_is_accounting() {
    for host in hosts() {
        let scope = Scope::on(host);
        let cgroup = scope.create("a", &nothing()).unwrap();
        let mut child = start(&cgroup, "while :; do :; done");
        assert_eq!(cgroup.processes().unwrap(), [pid(&child)]);
        assert!(cgroup.contains(pid(&child)));
        assert!(!cgroup.contains(i32::try_from(std::process::id()).unwrap()) && !cgroup.contains(i32::MAX));
        let first = cgroup.stats().unwrap();
        wait_until("time is counted", || {
            let now = cgroup.stats().unwrap();
            let used = now.cpu.unwrap().total_ns - first.cpu.unwrap().total_ns;
            let percent = now.cpu_percent_since(&first).unwrap_or(0.0);
            if used > 200_000_000 && (10.0..=130.0).contains(&percent) {
                Ok(())
            } else {
                Err(format!("{used} ns, {percent} %"))
            }
        });
        let stats = cgroup.stats().unwrap();
        assert!(stats.host_cpu.cores > 0);
        if scope.host.has_controller("memory") {
            let memory = stats.memory.unwrap();
            assert!(memory.usage > 0 && memory.limit.is_none() && memory.oom_kills == 0, "{memory:?}");
            assert_eq!(stats.pids.unwrap(), Pids { current: 1, limit: None });
        }
        let json = serde_json::to_string(&stats).unwrap();
        assert_eq!(serde_json::from_str::<Stats>(&json).unwrap(), stats);
        cgroup.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        cgroup.remove().unwrap();
        assert!(matches!(cgroup.stats(), Err(CgroupError::NotFound { .. })));
        assert!(matches!(scope.host.open(cgroup.path()), Err(CgroupError::NotFound { .. })));
        cgroup.remove().unwrap();
    }
}

#[test]
fn a_single_thread_joins_through_the_files() {
    let scope = Scope::new();
    let cgroup = scope.create("a", &nothing()).unwrap();
    let mut files: Vec<_> = cgroup.task_files().unwrap().into_iter().map(fs::File::from).collect();
    let v1 = scope.host.hierarchies().iter().filter(|hierarchy| hierarchy.version() == Version::V1);
    assert_eq!(files.len(), v1.count());
    assert_eq!(cgroup.unified_fd().unwrap().is_some(), scope.host.mode() != Mode::V1);
    let child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    for file in &mut files {
        file.write_all(child.id().to_string().as_bytes()).unwrap();
    }
    if !files.is_empty() {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        let joined = text.lines().filter(|line| line.ends_with(cgroup.path())).count();
        assert_eq!(joined, files.len(), "{text}");
    }
    // On a hybrid machine it is in the v1 hierarchies only, and is killed nevertheless.
    kill_and_reap(&cgroup, child, files.is_empty());
}
fn kill_and_reap(cgroup: &Cgroup, mut child: Child, directly: bool) {
    if directly {
        child.kill().unwrap();
    }
    cgroup.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn the_limit_of_processes_holds() {
    let scope = Scope::new();
    let cgroup = scope.create("a", &pids(10)).unwrap();
    let output = run(&cgroup, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do /bin/sleep 60 >/dev/null & done; wait");
    let said = String::from_utf8_lossy(&output.stdout).to_lowercase();
    assert!(said.contains("fork"), "{said}");
    let here = cgroup.processes().unwrap().len();
    assert!((1..=10).contains(&here), "{here}");
    assert_eq!(cgroup.stats().unwrap().pids.unwrap().limit, Some(10));
    cgroup.remove().unwrap();
}

#[test]
fn a_memory_eater_is_killed_and_counted() {
    let scope = Scope::new();
    let memory = LinuxMemoryBuilder::default().limit(32 * MIB).swap(32 * MIB).build().unwrap();
    let cgroup = scope.create("a", &LinuxResourcesBuilder::default().memory(memory).build().unwrap()).unwrap();
    let output = run(&cgroup, "exec tail /dev/zero");
    assert_eq!(output.status.signal(), Some(9));
    let memory = cgroup.stats().unwrap().memory.unwrap();
    assert!(memory.oom_kills >= 1, "{memory:?}");
    assert!(memory.peak.is_none_or(|peak| (16 << 20..=32 << 20).contains(&peak)), "{memory:?}");
    let text = fs::read_to_string(cgroup.oom_file().unwrap()).unwrap();
    assert!(text.lines().any(|line| line == format!("oom_kill {}", memory.oom_kills)), "{text}");
}

#[test]
fn frozen_processes_stand_still_and_can_be_killed() {
    for host in hosts() {
        let scope = Scope::on(host);
        let cgroup = scope.create("a", &nothing()).unwrap();
        let mut child = start(&cgroup, "while :; do :; done");
        assert!(!cgroup.frozen().unwrap());
        cgroup.freeze(true).unwrap();
        assert!(cgroup.frozen().unwrap());
        let used = || cgroup.stats().unwrap().cpu.unwrap().total_ns;
        let before = used();
        std::thread::sleep(Duration::from_millis(50));
        assert!(used() - before < 1_000_000, "{} ns in its sleep", used() - before);
        cgroup.freeze(false).unwrap();
        assert!(!cgroup.frozen().unwrap());
        wait_until("it runs on", || if used() > before + 5_000_000 { Ok(()) } else { Err(used().to_string()) });
        cgroup.freeze(true).unwrap();
        cgroup.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        cgroup.remove().unwrap();
    }
}

#[test]
fn a_fork_bomb_is_ended() {
    for host in hosts() {
        let scope = Scope::on(host);
        let limit = if scope.host.has_controller("pids") { pids(300) } else { nothing() };
        // Each generation is two processes: the whole tree dies by itself in the part without a limit.
        let bomb = "f() { [ $1 -gt 0 ] && { f $(($1-1)) & f $(($1-1)) & }; exec /bin/sleep 100 >/dev/null; }; f 7";
        let cgroup = scope.create("a", &limit).unwrap();
        let mut child = start(&cgroup, bomb);
        wait_until("it spreads", || match cgroup.processes().unwrap().len() {
            some if some > 60 => Ok(()),
            few => Err(format!("{few} processes")),
        });
        let clock = Instant::now();
        cgroup.kill().unwrap();
        wait_until("all end", || {
            let left: Vec<_> = cgroup.processes().unwrap();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        println!("{:?}: fork bomb ended in {:?}", scope.host.mode(), clock.elapsed());
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        cgroup.remove().unwrap();
    }
}

#[test]
fn removing_ends_whoever_is_left_and_what_is_below() {
    for host in hosts() {
        let scope = Scope::on(host);
        let cgroup = scope.create("a", &nothing()).unwrap();
        let below = scope.create("a/b/c", &nothing()).unwrap();
        assert_eq!(scope.host.children(cgroup.path()).unwrap(), ["b"]);
        let mut children = Vec::new();
        if scope.host.mode() != Mode::V2 || !below.directory_of("cgroup").unwrap().read("cgroup.controllers").unwrap().contains("memory") {
            children.push(start(&below, "exec sleep 100"));
            assert_eq!(cgroup.processes().unwrap(), [pid(&children[0])], "what is below counts");
            assert!(cgroup.contains(pid(&children[0])));
        }
        children.push(start(&below, "trap '' TERM; while :; do sleep 1; done"));
        cgroup.remove().unwrap();
        for mut child in children {
            assert_eq!(child.wait().unwrap().signal(), Some(9));
        }
        assert_eq!(scope.host.children(&scope.tag).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_leftover_is_made_anew_but_not_one_in_use() {
    let scope = Scope::new();
    let cgroup = scope.create("a", &pids(5)).unwrap();
    let last = cgroup.directories().pop().unwrap();
    fs::create_dir(last.join("below")).unwrap();
    let again = scope.create("a", &nothing()).unwrap();
    assert_eq!(again.stats().unwrap().pids.unwrap().limit, None);
    let mut child = start(&again, "exec sleep 100");
    let error = scope.create("a", &nothing()).unwrap_err();
    assert!(matches!(&error, CgroupError::Exists { processes, .. } if processes.contains(&child.id().to_string())), "{error}");
    assert_eq!(again.processes().unwrap(), [pid(&child)], "nothing was done to it");
    child.kill().unwrap();
    child.wait().unwrap();
    // One whose maker was killed between the hierarchies.
    fs::remove_dir(again.directories().first().unwrap()).unwrap();
    if scope.host.hierarchies().len() > 1 {
        assert_eq!(scope.host.children(&scope.tag).unwrap(), ["a"]);
        scope.host.open(again.path()).unwrap().remove().unwrap();
    }
}

#[test]
fn failing_half_way_leaves_nothing() {
    let scope = Scope::new();
    let cpus = LinuxCpuBuilder::default().cpus("4000").build().unwrap();
    let cases = [
        LinuxResourcesBuilder::default().cpu(cpus).build().unwrap(),
        LinuxResourcesBuilder::default().cpu(quota(10)).build().unwrap(),
        LinuxResourcesBuilder::default().memory(LinuxMemoryBuilder::default().swap(5).build().unwrap()).build().unwrap(),
        devices(vec![device(true, -5, 1, "r")]),
    ];
    let fields = ["cpu.cpus: the kernel refused `4000` for /", "cpu.quota: the kernel refused `10", "memory.swap: ", "devices[0].major: "];
    for (resources, field) in cases.iter().zip(fields) {
        let error = text(&scope.create("a", resources).unwrap_err());
        assert!(error.starts_with(field), "{error}");
        println!("{error}");
        assert_eq!(scope.found(), Vec::<PathBuf>::new());
    }
    let other = scope.create("other", &nothing()).unwrap();
    scope.create("a", &cases[0]).unwrap_err();
    assert_eq!(scope.host.children(&scope.tag).unwrap(), ["other"], "the folder stays when others are in it");
    assert_eq!(other.directories().len(), scope.host.hierarchies().len());
}

#[test]
fn what_is_not_here_is_named() {
    let scope = Scope::new();
    let class = LinuxNetworkBuilder::default().class_id(5u32).build().unwrap();
    let pages = LinuxHugepageLimitBuilder::default().page_size("3MB".to_owned()).limit(MIB).build().unwrap();
    let map = |key: &str| HashMap::from([(key.to_owned(), "1".to_owned())]);
    let of = LinuxResourcesBuilder::default;
    let mut cases = vec![(of().unified(map("cgroup.procs")), "unified[cgroup.procs]: is no limit")];
    if scope.host.0.version_of("net_cls").is_none() {
        cases.push((of().network(class), "network.classID: this machine has no control group controller `net_cls`"));
    }
    if scope.host.has_controller("hugetlb") {
        cases.push((of().hugepage_limits(vec![pages]), "hugepageLimits[3MB]: this kernel has no huge pages of this size"));
    }
    match scope.host.mode() {
        Mode::V1 => cases.push((of().unified(map("pids.max")), "unified[pids.max]: needs the unified hierarchy")),
        Mode::Hybrid => cases.push((of().unified(map("pids.max")), "unified[pids.max]: `pids` is on a v1 hierarchy here")),
        Mode::V2 => {
            let memory = LinuxMemoryBuilder::default().swappiness(5u64).build().unwrap();
            cases.push((of().memory(memory), "memory.swappiness: exists with control groups v1 only"));
            cases.push((of().unified(map("memory.nonsense")), "unified[memory.nonsense]: this kernel has no such setting"));
        }
    }
    for (builder, start) in cases {
        let error = text(&scope.create("a", &builder.build().unwrap()).unwrap_err());
        assert!(error.starts_with(start), "{error}");
        assert_eq!(scope.found(), Vec::<PathBuf>::new());
    }
}

#[test]
fn the_unified_hierarchy_takes_its_own() {
    for host in hosts() {
        if host.0.unified().is_none() {
            continue;
        }
        let scope = Scope::on(host);
        let map = HashMap::from([("cgroup.max.depth".to_owned(), "3".to_owned())]);
        let mut builder = LinuxResourcesBuilder::default().unified(map);
        let pages = scope.host.0.version_of("hugetlb") == Some(Version::V2) && Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists();
        if pages {
            let limit = LinuxHugepageLimitBuilder::default().page_size("2MB".to_owned()).limit(4 * MIB).build().unwrap();
            builder = builder.hugepage_limits(vec![limit]);
        }
        let cgroup = scope.create("a", &builder.build().unwrap()).unwrap();
        assert_eq!(cgroup.unified().unwrap().read("cgroup.max.depth").unwrap(), "3\n");
        if pages {
            assert_eq!(file(&cgroup, "hugetlb", "", "hugetlb.2MB.max"), "4194304");
            assert_eq!(file(&cgroup, "hugetlb", "", "hugetlb.2MB.rsvd.max"), "4194304");
        }
    }
}

#[test]
fn updates_go_up_and_down() {
    let scope = Scope::new();
    let both = |limit: i64, swap: i64| {
        let memory = LinuxMemoryBuilder::default().limit(limit).swap(swap).build().unwrap();
        LinuxResourcesBuilder::default().memory(memory).build().unwrap()
    };
    let cgroup = scope.create("a", &both(64 * MIB, 64 * MIB)).unwrap();
    let now = || {
        let limit = file(&cgroup, "memory", "memory.limit_in_bytes", "memory.max");
        (limit, file(&cgroup, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"))
    };
    let is_v1 = scope.host.0.version_of("memory") == Some(Version::V1);
    let expect = |limit: i64, swap: i64| (limit.to_string(), if is_v1 { swap } else { swap - limit }.to_string());
    for (limit, swap) in [(128, 256), (32, 32), (512, 512), (48, 64)] {
        cgroup.update(&both(limit * MIB, swap * MIB), &Extras::default()).unwrap();
        assert_eq!(now(), expect(limit * MIB, swap * MIB));
    }
    cgroup.update(&both(-1, -1), &Extras::default()).unwrap();
    assert_eq!(cgroup.stats().unwrap().memory.unwrap().limit, None);
    cgroup.update(&memory(40 * MIB), &Extras::default()).unwrap();
    assert_eq!(now().0, (40 * MIB).to_string());
    cgroup.update(&pids(7), &Extras::default()).unwrap();
    assert_eq!(file(&cgroup, "pids", "pids.max", "pids.max"), "7");
    cgroup.update(&pids(-1), &Extras::default()).unwrap();
    assert_eq!(file(&cgroup, "pids", "pids.max", "pids.max"), "max");
    for wanted in [50_000, 200_000, 20_000, -1] {
        cgroup.update(&LinuxResourcesBuilder::default().cpu(quota(wanted)).build().unwrap(), &Extras::default()).unwrap();
        let is = file(&cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max");
        assert_eq!(is.split(' ').next().unwrap().parse::<i64>().unwrap_or(-1), wanted);
    }
}

#[test]
fn a_refused_update_changes_nothing() {
    let scope = Scope::new();
    let memory = LinuxMemoryBuilder::default().limit(64 * MIB).swap(64 * MIB).build().unwrap();
    let of = LinuxResourcesBuilder::default;
    let cgroup = scope.create("a", &of().memory(memory).cpu(quota(50_000)).build().unwrap()).unwrap();
    let state = || {
        [
            file(&cgroup, "memory", "memory.limit_in_bytes", "memory.max"),
            file(&cgroup, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
            file(&cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max"),
            file(&cgroup, "cpu", "cpu.shares", "cpu.weight"),
            file(&cgroup, "cpuset", "cpuset.cpus", "cpuset.cpus"),
            file(&cgroup, "pids", "pids.max", "pids.max"),
        ]
    };
    let before = state();
    // All of these are written before the last one, which no machine has.
    let cpu = LinuxCpuBuilder::default().quota(70_000).shares(100u64).cpus("0").build().unwrap();
    let more = LinuxMemoryBuilder::default().limit(128 * MIB).swap(256 * MIB).build().unwrap();
    let builder = of().cpu(cpu).memory(more).pids(LinuxPidsBuilder::default().limit(9).build().unwrap());
    let disk = oci_spec::runtime::LinuxThrottleDeviceBuilder::default().major(4000).minor(1).rate(5u64).build().unwrap();
    let io = oci_spec::runtime::LinuxBlockIoBuilder::default().throttle_read_bps_device(vec![disk]).build().unwrap();
    let error = text(&cgroup.update(&builder.block_io(io).build().unwrap(), &Extras::default()).unwrap_err());
    assert!(error.contains("[4000:1]: the kernel refused `4000:1 ") && error.contains("no such block device"), "{error}");
    assert_eq!(state(), before);
}

#[test]
fn memory_in_use_is_not_taken_away() {
    let scope = Scope::new();
    let limit = LinuxMemoryBuilder::default().limit(128 * MIB).swap(128 * MIB).build().unwrap();
    let cgroup = scope.create("a", &LinuxResourcesBuilder::default().memory(limit).build().unwrap()).unwrap();
    // The second part of the pipe holds 48 MiB that end in no line break.
    let mut child = start(&cgroup, "(head -c 50331648 /dev/zero; echo ready >&2; exec sleep 100) 2>&1 >/dev/stdout | tail -c 50331648 & wait");
    wait_until("it eats", || match cgroup.stats().unwrap().memory.unwrap().working_set {
        some if some > 40 << 20 => Ok(()),
        few => Err(few.to_string()),
    });
    let checked = LinuxMemoryBuilder::default().limit(20 * MIB).check_before_update(true).build().unwrap();
    let checked = LinuxResourcesBuilder::default().memory(checked).build().unwrap();
    let error = text(&cgroup.update(&checked, &Extras::default()).unwrap_err());
    assert!(error.starts_with("memory.limit: ") && error.contains("bytes are in use, more than 20971520"), "{error}");
    if scope.host.0.version_of("memory") == Some(Version::V1) {
        let error = text(&cgroup.update(&memory(20 * MIB), &Extras::default()).unwrap_err());
        assert!(error.starts_with("memory.limit: the kernel refused `20971520` for /") && error.contains("in use: "), "{error}");
        println!("{error}");
    }
    assert_eq!(cgroup.stats().unwrap().memory.unwrap().limit, Some(128 << 20));
    cgroup.remove().unwrap();
    child.wait().unwrap();
}

/// `full` is among the usual devices, `kmsg` is not, and both can be opened for reading by root.
fn opens(cgroup: &Cgroup, device: &str) -> bool {
    let output = run(cgroup, &format!("exec 3</dev/{device} && echo opened"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.success(), said.contains("opened"), "{said}");
    assert!(said.contains("opened") || said.contains("not permitted"), "{said}");
    said.contains("opened")
}

#[test]
fn devices_are_denied_unless_allowed() {
    for host in hosts() {
        let scope = Scope::on(host);
        let cgroup = scope.create("a", &nothing()).unwrap();
        assert!(opens(&cgroup, "full") && opens(&cgroup, "null") && !opens(&cgroup, "kmsg"));
        cgroup.update(&devices(vec![device(true, 1, 11, "r")]), &Extras::default()).unwrap();
        assert!(opens(&cgroup, "full") && opens(&cgroup, "kmsg"));
        cgroup.update(&devices(vec![device(true, 1, 3, "rw")]), &Extras { usual_devices: false }).unwrap();
        assert!(opens(&cgroup, "null") && !opens(&cgroup, "full") && !opens(&cgroup, "kmsg"));
        let everything = LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build().unwrap();
        cgroup.update(&devices(vec![everything]), &Extras::default()).unwrap();
        assert!(opens(&cgroup, "full") && opens(&cgroup, "kmsg"));
        cgroup.update(&devices(everything_and(device(false, 1, 11, "r"))), &Extras { usual_devices: false }).unwrap();
        assert!(opens(&cgroup, "full") && !opens(&cgroup, "kmsg"));
        if let Some(directory) = cgroup.unified().filter(|_| scope.host.mode() == Mode::V2) {
            assert_eq!(bpf::device_programs(directory.as_fd()).unwrap().len(), 1, "the former ones are gone");
        }
        let whole = scope.create("whole", &devices(everything_and(device(true, 1, 1, "r")))).unwrap();
        assert!(opens(&whole, "kmsg"));
    }
}
fn everything_and(rule: oci_spec::runtime::LinuxDeviceCgroup) -> Vec<oci_spec::runtime::LinuxDeviceCgroup> {
    vec![LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build().unwrap(), rule]
}

#[test]
fn the_verifiers_words_are_kept() {
    // Reads a register that was never written.
    let (error, log) = bpf::load_device_program(&[u64::from_ne_bytes([0xbf, 0x50, 0, 0, 0, 0, 0, 0]), 0x95]).unwrap_err();
    assert_eq!(error, Errno::ACCESS);
    assert!(log.contains("R5 !read_ok"), "{log}");
}

#[test]
fn many_are_made_at_once() {
    let scope = Scope::new();
    std::thread::scope(|threads| {
        for thread in 0..8 {
            let scope = &scope;
            threads.spawn(move || {
                for round in 0..5 {
                    let cgroup = scope.create(&format!("{thread}-{round}"), &pids(5)).unwrap();
                    let mut child = start(&cgroup, "exec true");
                    assert!(child.wait().unwrap().success());
                    cgroup.remove().unwrap();
                    // The folder above may go at any time.
                    scope.host.remove_unused(&scope.tag).unwrap();
                }
            });
        }
    });
}

/// Not a benchmark, but a start must not pay for more than this.
#[test]
fn making_and_removing_is_cheap() {
    let scope = Scope::new();
    let limits = LinuxMemoryBuilder::default().limit(64 * MIB).swap(64 * MIB).build().unwrap();
    let builder = LinuxResourcesBuilder::default().memory(limits).cpu(quota(50_000));
    let limited = builder.pids(LinuxPidsBuilder::default().limit(100).build().unwrap()).build().unwrap();
    let first = scope.create("first", &nothing()).unwrap();
    let mut times = Vec::new();
    for round in 0..200 {
        let clock = Instant::now();
        let host = Host::detect().unwrap();
        let detected = clock.elapsed();
        let cgroup = host.create(&scope.path(&round.to_string()), &limited, &Extras::default()).unwrap();
        let created = clock.elapsed() - detected;
        let files = cgroup.task_files().unwrap();
        let clock = Instant::now();
        drop(cgroup.stats().unwrap());
        let read = clock.elapsed();
        drop(files);
        let clock = Instant::now();
        cgroup.remove().unwrap();
        times.push([detected, created, read, clock.elapsed()]);
    }
    let median = |which: usize| {
        let mut column: Vec<_> = times.iter().map(|row| row[which]).collect();
        column.sort();
        column[column.len() / 2].as_micros()
    };
    let [detect, create, stats, remove] = [0, 1, 2, 3].map(median);
    println!(
        "{:?}, {} hierarchies: detect {detect} µs, create {create} µs, stats {stats} µs, remove {remove} µs",
        scope.host.mode(),
        scope.host.hierarchies().len()
    );
    assert!(create < 5000 && remove < 5000, "create {create} µs, remove {remove} µs");
    first.remove().unwrap();
}
