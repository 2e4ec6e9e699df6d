//! Limits: set, kept, changed, refused.

use super::*;
use oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxHugepageLimitBuilder, LinuxInterfacePriorityBuilder, LinuxNetworkBuilder,
    LinuxThrottleDeviceBuilder,
};
use std::{collections::HashMap, path::Path};

#[test]
fn limits_are_those_asked_for() {
    let scope = Scope::new();
    let memory = LinuxMemoryBuilder::default().limit(64 * MIB).swap(96 * MIB).reservation(32 * MIB).build().unwrap();
    let cpu =
        LinuxCpuBuilder::default().quota(50_000).period(100_000u64).shares(512u64).cpus("0").mems("0").build().unwrap();
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
fn the_limit_of_processes_holds() {
    let scope = Scope::new();
    let cgroup = scope.create("a", &pids(10)).unwrap();
    let output = run(&cgroup, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do /bin/sleep 60 >/dev/null 2>&1 & done");
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
        cases.push((
            of().hugepage_limits(vec![pages]),
            "hugepageLimits[3MB]: this kernel has no huge pages of this size",
        ));
    }
    match scope.host.mode() {
        Mode::V1 => cases.push((of().unified(map("pids.max")), "unified[pids.max]: needs the unified hierarchy")),
        Mode::Hybrid => {
            cases.push((of().unified(map("pids.max")), "unified[pids.max]: `pids` is on a v1 hierarchy here"))
        }
        Mode::V2 => {
            let memory = LinuxMemoryBuilder::default().swappiness(5u64).build().unwrap();
            cases.push((of().memory(memory), "memory.swappiness: exists with control groups v1 only"));
            cases.push((
                of().unified(map("memory.nonsense")),
                "unified[memory.nonsense]: this kernel has no such setting",
            ));
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
        let pages = scope.host.0.version_of("hugetlb") == Some(Version::V2)
            && Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists();
        if pages {
            let limit =
                LinuxHugepageLimitBuilder::default().page_size("2MB".to_owned()).limit(4 * MIB).build().unwrap();
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
        cgroup
            .update(&LinuxResourcesBuilder::default().cpu(quota(wanted)).build().unwrap(), &Extras::default())
            .unwrap();
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
    let disk = LinuxThrottleDeviceBuilder::default().major(4000).minor(1).rate(5u64).build().unwrap();
    let io = LinuxBlockIoBuilder::default().throttle_read_bps_device(vec![disk]).build().unwrap();
    let error = text(&cgroup.update(&builder.block_io(io).build().unwrap(), &Extras::default()).unwrap_err());
    assert!(
        error.contains("[4000:1]: the kernel refused `4000:1 ") && error.contains("no such block device"),
        "{error}"
    );
    assert_eq!(state(), before);
}

#[test]
fn memory_in_use_is_not_taken_away() {
    let scope = Scope::new();
    let limit = LinuxMemoryBuilder::default().limit(128 * MIB).swap(128 * MIB).build().unwrap();
    let cgroup = scope.create("a", &LinuxResourcesBuilder::default().memory(limit).build().unwrap()).unwrap();
    let mut child = start(&cgroup, "(head -c 50331648 /dev/zero; exec sleep 100) | tail -c 50331648");
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
        assert!(
            error.starts_with("memory.limit: the kernel refused `20971520` for /") && error.contains("in use: "),
            "{error}"
        );
        println!("{error}");
    }
    assert_eq!(cgroup.stats().unwrap().memory.unwrap().limit, Some(128 << 20));
    cgroup.remove().unwrap();
    child.wait().unwrap();
}

/// Uses a disk of this machine, whose limits concern nobody but the group; without a disk, that there is none is said.
#[test]
fn block_io_is_limited() {
    let scope = Scope::new();
    let disks = fs::read_dir("/sys/block").unwrap().map(|disk| disk.unwrap().path().join("dev"));
    let number = disks.map(|file| fs::read_to_string(file).unwrap()).next();
    let key = number.as_deref().map_or("7:0", str::trim).to_owned();
    let (major, minor) = key.split_once(':').unwrap();
    let limit = |rate: u64| {
        let builder = LinuxThrottleDeviceBuilder::default().major(major.parse::<i64>().unwrap());
        vec![builder.minor(minor.parse::<i64>().unwrap()).rate(rate).build().unwrap()]
    };
    let io = |rate: u64| {
        let builder = LinuxBlockIoBuilder::default().throttle_read_bps_device(limit(rate));
        let io = builder.throttle_write_iops_device(limit(rate / 1024)).build().unwrap();
        LinuxResourcesBuilder::default().block_io(io).build().unwrap()
    };
    if number.is_none() {
        let error = text(&scope.create("a", &io(1 << 20)).unwrap_err());
        assert!(error.starts_with("blockIO.throttle") && error.contains("no such block device"), "{error}");
        return;
    }
    let cgroup = scope.create("a", &io(1 << 20)).unwrap();
    let controller = if scope.host.has_controller("blkio") { "blkio" } else { "io" };
    let reads = || file(&cgroup, controller, "blkio.throttle.read_bps_device", "io.max");
    let writes = || file(&cgroup, controller, "blkio.throttle.write_iops_device", "io.max");
    let v1 = controller == "blkio";
    let both = |bytes: u64| format!("{key} rbps={bytes} wbps=max riops=max wiops={}", bytes / 1024);
    assert_eq!(reads(), if v1 { format!("{key} 1048576") } else { both(1 << 20) });
    assert_eq!(writes(), if v1 { format!("{key} 1024") } else { both(1 << 20) });
    cgroup.update(&io(2 << 20), &Extras::default()).unwrap();
    assert_eq!(reads(), if v1 { format!("{key} 2097152") } else { both(2 << 20) });
    let mut wrong = io(4 << 20);
    wrong.set_cpu(Some(quota(50_000)));
    wrong.set_rdma(None).set_unified(Some(HashMap::from([("cgroup.nonsense".to_owned(), "1".to_owned())])));
    cgroup.update(&wrong, &Extras::default()).unwrap_err();
    assert_eq!(reads(), if v1 { format!("{key} 2097152") } else { both(2 << 20) }, "put back");
    cgroup.update(&io(0), &Extras::default()).unwrap();
    assert_eq!((reads(), writes()), (String::new(), String::new()));
    assert!(cgroup.stats().unwrap().io.is_some());
}

#[test]
fn weights_are_taken_or_the_scheduler_is_named() {
    let scope = Scope::new();
    let io = LinuxBlockIoBuilder::default().weight(200u16).build().unwrap();
    let asked = LinuxResourcesBuilder::default().block_io(io).build().unwrap();
    let v1 = scope.host.has_controller("blkio");
    let plain = scope.create("plain", &nothing()).unwrap();
    let directory = plain.directory_of(if v1 { "blkio" } else { "io" }).unwrap();
    let names = if v1 { ["blkio.bfq.weight", "blkio.weight"] } else { ["io.bfq.weight", "io.weight"] };
    match names.iter().find(|name| directory.has(name)) {
        Some(name) => {
            let cgroup = scope.create("a", &asked).unwrap();
            let text = cgroup.directory_of(if v1 { "blkio" } else { "io" }).unwrap().read(name).unwrap();
            let expected = if *name == "io.weight" { "1920" } else { "200" };
            assert_eq!(text.lines().next().unwrap().trim_start_matches("default "), expected);
        }
        None => {
            let error = text(&scope.create("a", &asked).unwrap_err());
            assert!(error.starts_with("blockIO.weight: this kernel has no block IO weights"), "{error}");
        }
    }
}

#[test]
fn network_classes_and_priorities() {
    let scope = Scope::new();
    let priority = LinuxInterfacePriorityBuilder::default().name("lo".to_owned()).priority(5u32).build().unwrap();
    let network = LinuxNetworkBuilder::default().class_id(0x10_0001u32).priorities(vec![priority]).build().unwrap();
    let result = scope.create("a", &LinuxResourcesBuilder::default().network(network).build().unwrap());
    if scope.host.has_controller("net_cls") && scope.host.has_controller("net_prio") {
        let cgroup = result.unwrap();
        assert_eq!(file(&cgroup, "net_cls", "net_cls.classid", ""), 0x10_0001.to_string());
        let map = file(&cgroup, "net_prio", "net_prio.ifpriomap", "");
        assert!(map.lines().any(|line| line == "lo 5"), "{map}");
    } else {
        let error = text(&result.unwrap_err());
        assert!(error.starts_with("network.classID: ") && error.contains("`net_cls`"), "{error}");
    }
}

#[test]
fn swap_accounting_is_known() {
    let scope = Scope::new();
    let both = LinuxMemoryBuilder::default().limit(64 * MIB).swap(64 * MIB).build().unwrap();
    let result = scope.create("a", &LinuxResourcesBuilder::default().memory(both).build().unwrap());
    assert_eq!(result.is_ok(), scope.host.has_swap_accounting());
    if let Err(error) = result {
        assert!(text(&error).starts_with("memory.swap: this kernel has no swap accounting"), "{error}");
    }
    scope.create("b", &memory(64 * MIB)).unwrap();
    scope.create("c", &memory(-1)).unwrap();
}
