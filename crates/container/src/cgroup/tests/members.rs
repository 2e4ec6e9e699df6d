//! Joining, freezing, killing, removing.

use super::*;

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
    if files.is_empty() {
        fs::write(cgroup.directories()[0].join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    kill_all(&cgroup, child);
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
        let child = start(&below, "exec sleep 100");
        assert_eq!(cgroup.processes().unwrap(), [pid(&child)], "what is below counts");
        assert!(cgroup.contains(pid(&child)));
        let children = [child, start(&below, "trap '' TERM; while :; do sleep 1; done")];
        cgroup.remove().unwrap();
        for mut child in children {
            assert_eq!(child.wait().unwrap().signal(), Some(9));
        }
        assert_eq!(scope.host.children(&scope.tag).unwrap(), Vec::<String>::new());
    }
}
