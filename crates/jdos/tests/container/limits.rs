//! Control groups: limits hold, and are not for the container to change.

use super::machine::{Machine, until};
use std::fs;

#[test]
fn a_memory_bomb_is_contained_and_told_of() {
    let machine = Machine::new();
    let root = machine.root.to_str().unwrap();
    let bomb = "x=a; while :; do x=$x$x; done";
    let words = ["run", "--name", "bomb", "-m", "16m", "--network", "none", "--rootfs", root, "sh", "-c", bomb];
    machine.jdos(&words).code(137);
    assert_eq!(machine.inspect("bomb")["exit"]["oom"], true);
}

#[test]
fn a_fork_bomb_is_contained() {
    let machine = Machine::new();
    machine.start("bomb", &["--pids-limit", "20"], "f() { f | f & }; f; while :; do sleep 1000 & wait; done");
    let group = machine.group("bomb", "pids");
    let processes = || fs::read_to_string(group.join("pids.current")).unwrap().trim().parse::<u32>().unwrap();
    until("the bomb goes off or out", || fs::read_to_string(group.join("pids.events")).unwrap() != "max 0\n");
    assert!(processes() <= 20);
    machine.ok(&["rm", "-f", "bomb"]);
    assert!(!group.exists());
}

#[test]
fn limits_can_not_be_changed_from_inside() {
    let machine = Machine::new();
    let script = "cd /sys/fs/cgroup; \
        for file in $(find . -name memory.limit_in_bytes -o -name memory.max -o -name pids.max -o -name devices.allow); do \
        found=1; echo 1000000000 2>/dev/null > $file && echo changed $file; done; \
        mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted; \
        mkdir /sys/fs/cgroup/*/mine /sys/fs/cgroup/mine 2>/dev/null && echo made; \
        echo found $found";
    assert_eq!(machine.sh(&["-m", "64m", "--pids-limit", "50"], script).ok(), "found 1");
}

#[test]
fn limits_of_a_running_container_change_at_once() {
    let machine = Machine::new();
    machine.sleeper("one", &["-m", "64m", "--pids-limit", "50"]);
    let (memory, pids) = (machine.group("one", "memory"), machine.group("one", "pids"));
    let memory = ["memory.limit_in_bytes", "memory.max"].map(|name| memory.join(name)).into_iter().find(|p| p.exists());
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap().trim().to_owned();
    let memory = memory.unwrap();
    assert_eq!((read(&memory).as_str(), read(&pids.join("pids.max")).as_str()), ("67108864", "50"));
    machine.ok(&["update", "-m", "32m", "--pids-limit", "40", "one"]);
    assert_eq!((read(&memory).as_str(), read(&pids.join("pids.max")).as_str()), ("33554432", "40"));
    machine.ok(&["stop", "one"]);
    machine.ok(&["start", "one"]);
    assert_eq!(read(&memory), "33554432", "what was changed is kept");
}

#[test]
fn stats_are_those_of_the_container() {
    let machine = Machine::new();
    machine.sleeper("one", &["-m", "64m", "--pids-limit", "50"]);
    let text = machine.ok(&["stats", "--no-stream", "one"]);
    assert!(text.contains("one"), "{text}");
}
