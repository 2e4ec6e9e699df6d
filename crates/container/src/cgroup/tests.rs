//! Against the real kernel, as root, in whichever mode this machine is; a hybrid one is also tested as if it had its v1
//! part or its unified part only.

use super::*;
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder, LinuxPidsBuilder,
    LinuxResourcesBuilder,
};
use std::{
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

mod devices;
mod limits;
mod members;

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
    let deadline = Instant::now() + Duration::from_secs(180);
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
fn without_limits_there_is_accounting() {
    for host in hosts() {
        let scope = Scope::on(host);
        let cgroup = scope.create("a", &nothing()).unwrap();
        let mut child = start(&cgroup, "v=x; while [ ${#v} -lt 1000000 ]; do v=$v$v; done; while :; do :; done");
        assert_eq!(cgroup.processes().unwrap(), [pid(&child)]);
        assert!(cgroup.contains(pid(&child)));
        assert!(!cgroup.contains(i32::try_from(std::process::id()).unwrap()) && !cgroup.contains(i32::MAX));
        let first = cgroup.stats().unwrap();
        wait_until("time is counted", || {
            let now = cgroup.stats().unwrap();
            let used = now.cpu.unwrap().total_ns - first.cpu.unwrap().total_ns;
            let percent = now.cpu_percent_since(&first).unwrap_or(0.0);
            // How much of one processor depends on who else is at work, and in an emulated machine on its clock.
            if used > 200_000_000 && percent > 1.0 { Ok(()) } else { Err(format!("{used} ns, {percent} %")) }
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
fn a_leftover_is_made_anew_but_not_one_in_use() {
    let scope = Scope::new();
    let cgroup = scope.create("a", &pids(5)).unwrap();
    let last = cgroup.directories().pop().unwrap();
    fs::create_dir(last.join("below")).unwrap();
    let again = scope.create("a", &nothing()).unwrap();
    assert_eq!(again.stats().unwrap().pids.unwrap().limit, None);
    let mut child = start(&again, "exec sleep 100");
    let error = scope.create("a", &nothing()).unwrap_err();
    assert!(
        matches!(&error, CgroupError::Exists { processes, .. } if processes.contains(&child.id().to_string())),
        "{error}"
    );
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
        LinuxResourcesBuilder::default()
            .memory(LinuxMemoryBuilder::default().swap(5).build().unwrap())
            .build()
            .unwrap(),
        devices(vec![device(true, -5, 1, "r")]),
    ];
    let fields = [
        "cpu.cpus: the kernel refused `4000` for /",
        "cpu.quota: the kernel refused `10",
        "memory.swap: ",
        "devices[0].major: ",
    ];
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

/// What it takes is printed, and judged by the benchmarks.
#[test]
fn groups_are_made_and_removed_again_and_again() {
    let rounds = if std::env::var_os("JDOS_TEST_EMULATED").is_some() { 20 } else { 200 };
    for host in hosts() {
        let scope = Scope::on(host);
        let limits = LinuxMemoryBuilder::default().limit(64 * MIB).swap(64 * MIB).build().unwrap();
        let builder = LinuxResourcesBuilder::default().memory(limits).cpu(quota(50_000));
        let builder = builder.pids(LinuxPidsBuilder::default().limit(100).build().unwrap());
        let limits = if scope.host.has_controller("memory") { builder.build().unwrap() } else { nothing() };
        let mut times = Vec::new();
        for round in 0..rounds {
            let clock = Instant::now();
            Host::detect().unwrap();
            let detected = clock.elapsed();
            let cgroup = scope.create(&round.to_string(), &limits).unwrap();
            let created = clock.elapsed() - detected;
            let clock = Instant::now();
            assert!(cgroup.stats().unwrap().cpu.is_some());
            let read = clock.elapsed();
            let clock = Instant::now();
            cgroup.remove().unwrap();
            times.push([detected, created, read, clock.elapsed()]);
        }
        let column = |which: usize| {
            let mut column: Vec<_> = times.iter().map(|row| row[which].as_micros()).collect();
            column.sort_unstable();
            column
        };
        let [detect, create, stats, remove] = [0, 1, 2, 3].map(|which| column(which)[times.len() / 2]);
        println!(
            "{:?}, {} hierarchies: detect {detect} µs, create {create} µs, stats {stats} µs, remove {remove} µs",
            scope.host.mode(),
            scope.host.hierarchies().len()
        );
        assert_eq!(scope.host.children(&scope.tag).unwrap(), Vec::<String>::new());
    }
}

/// In namespaces of its own, as the shim does it with system calls.
#[test]
fn a_container_sees_its_own_groups_and_can_not_write_them() {
    let scope = Scope::new();
    let cgroup = scope.create("a", &pids(20)).unwrap();
    let place = std::env::temp_dir().join(&scope.tag);
    fs::create_dir(&place).unwrap();
    let mut script = format!("set -e; cd {}\n", place.display());
    for step in scope.host.mounts_for_container() {
        script += &match step {
            ContainerMount::Mount { name, fstype: "tmpfs", options } => {
                format!("mount -t tmpfs -o {options} tmpfs ./{name}; cd {}\n", place.display())
            }
            ContainerMount::Mount { name, fstype, options } => {
                let options = if options.is_empty() { "ro".to_owned() } else { format!("ro,{options}") };
                format!("[ -d ./{name} ] || mkdir ./{name}; mount -t {fstype} -o {options} {fstype} ./{name}\n")
            }
            ContainerMount::Link { name, target } => format!("ln -s {target} ./{name}\n"),
        };
    }
    let pids = if scope.host.mode() == Mode::V2 { "." } else { "./pids" };
    script += &format!(
        "cd {}; read max < {pids}/pids.max; echo max $max; ( echo 100 > {pids}/pids.max ) 2>&1 || true\n\
         while read pid; do [ $pid = $$ ] && echo myself; done < {pids}/cgroup.procs",
        place.display()
    );
    let output = run(&cgroup, &format!("exec unshare --mount --cgroup /bin/sh -c '{script}'"));
    fs::remove_dir(&place).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("max 20") && said.contains("myself"), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
}

/// As inside of a container that sees a part of the tree only, and lives in the root of that part.
#[test]
fn in_a_part_of_the_tree() {
    let outer = Scope::new();
    let home = outer.create("home", &nothing()).unwrap();
    let found = detect::detect().unwrap();
    let part = found.hierarchies.into_iter().map(|hierarchy| Hierarchy {
        root: format!("/{}", home.path()),
        directory: hierarchy.directory.below(home.path()).unwrap(),
        ..hierarchy
    });
    let (hierarchies, legacy) = (part.collect(), found.legacy);
    let inner = Scope::on(Host(Arc::new(Inner { mode: outer.host.mode(), hierarchies, legacy })));
    let mut resident = start(&home, "exec sleep 100");
    let cgroup = inner.create("a", &nothing()).unwrap();
    assert_eq!(cgroup.directories()[0], home.directories()[0].join(cgroup.path()));
    let child = start(&cgroup, "exec sleep 100");
    assert!(cgroup.contains(pid(&child)) && !cgroup.contains(pid(&resident)));
    assert!(home.contains(pid(&child)), "seen from outside");
    assert!(inner.host.open("home").is_err());
    // v2 hands no controller down from a group with processes of its own: said when one is needed.
    let unified = home.unified().map(|directory| directory.read("cgroup.controllers").unwrap()).unwrap_or_default();
    let limited = match unified.split_ascii_whitespace().find(|name| matches!(*name, "memory" | "hugetlb")) {
        Some("memory") => Some(memory(64 * MIB)),
        Some(_) => {
            let limit = oci_spec::runtime::LinuxHugepageLimitBuilder::default().page_size("2MB".to_owned()).limit(MIB);
            let limits = vec![limit.build().unwrap()];
            Some(LinuxResourcesBuilder::default().hugepage_limits(limits).build().unwrap())
        }
        None => None,
    };
    if let Some(limited) = limited {
        let error = text(&inner.create("b", &limited).unwrap_err());
        assert!(
            error.contains("could not be enabled in /") && error.contains("processes live in that group"),
            "{error}"
        );
        println!("{error}");
        assert_eq!(inner.host.children(&inner.tag).unwrap(), ["a"]);
    }
    // And where somebody enabled one that counts threads, no process could join.
    if let Some(directory) =
        home.unified().filter(|directory| directory.write("cgroup.subtree_control", "+cpu").is_ok())
    {
        let error = inner.create("c", &nothing()).unwrap_err();
        assert!(matches!(error, CgroupError::Threaded { .. }), "{error}");
        assert_eq!(inner.host.children(&inner.tag).unwrap(), ["a"]);
        directory.write("cgroup.subtree_control", "-cpu").unwrap();
    }
    kill_all(&cgroup, child);
    resident.kill().unwrap();
    resident.wait().unwrap();
    drop(inner);
    home.remove().unwrap();
}
fn kill_all(cgroup: &Cgroup, mut child: Child) {
    cgroup.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}
