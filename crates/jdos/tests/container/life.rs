//! Create, start, pause, stop, kill, wait, logs, remove.

use super::machine::{Machine, finish, sleeps, until};
use rustix::fs::{FlockOperation, flock};

#[test]
fn a_container_goes_through_its_life() {
    let machine = Machine::new();
    let root = machine.root.to_str().unwrap();
    machine.ok(&["create", "--name", "one", "--network", "none", "--rootfs", root, "sh", "-c", "echo hello; exit 4"]);
    assert_eq!(machine.inspect("one")["status"], "created");
    for _ in 0..2 {
        assert_eq!(machine.jdos(&["start", "-a", "one"]).code(4).stdout, "hello\n");
        assert_eq!(machine.inspect("one")["status"], "exited");
        assert_eq!(machine.ok(&["wait", "one"]), "4");
    }
    machine.ok(&["rm", "one"]);
    machine.jdos(&["inspect", "one"]).code(3).says(&["one"]);
}

/// When a container ends, its lock is held until all of its run is cleared away.
#[test]
fn start_waits_for_the_end_of_the_run_before() {
    let machine = Machine::new();
    machine.start("one", &[], "exit 3");
    assert_eq!(machine.ok(&["wait", "one"]), "3");
    let id = machine.inspect("one")["id"].as_str().unwrap().to_owned();
    let lock = std::fs::File::create(machine.file(&format!("run/containers/{id}/lock"), "")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let mut child = machine.command(&["start", "one"]).spawn().unwrap();
    until("start waits, or has ended", || sleeps(&child) || child.try_wait().unwrap().is_some());
    drop(lock);
    finish(child).code(0);
    assert_eq!(machine.ok(&["wait", "one"]), "3");
}

#[test]
fn a_paused_container_stands_still() {
    let machine = Machine::new();
    machine.start("one", &[], "while :; do echo x >> /tmp/ticks; done");
    let ticks = || std::fs::metadata(machine.root.join("tmp/ticks")).map_or(0, |file| file.len());
    until("it runs", || ticks() > 0);
    machine.ok(&["pause", "one"]);
    assert_eq!(machine.inspect("one")["status"], "paused");
    let frozen = ticks();
    machine.jdos(&["exec", "one", "true"]).code(125).says(&["paused"]);
    assert_eq!(ticks(), frozen);
    machine.ok(&["resume", "one"]);
    assert_eq!(machine.inspect("one")["status"], "running");
    until("it goes on", || ticks() > frozen);
    machine.ok(&["pause", "one"]);
    machine.ok(&["stop", "-t", "0", "one"]);
    assert_eq!(machine.inspect("one")["status"], "exited");
}

#[test]
fn stop_asks_first_and_forces_after_the_grace() {
    let machine = Machine::new();
    machine.start(
        "polite",
        &[],
        "trap 'touch /tmp/bye; exit 9' TERM; touch /tmp/ready; while :; do sleep 1000 & wait; done",
    );
    until("the trap is set", || machine.root.join("tmp/ready").exists());
    machine.ok(&["stop", "polite"]);
    assert_eq!(machine.ok(&["wait", "polite"]), "9");
    assert!(machine.root.join("tmp/bye").exists());
    machine.start("stubborn", &[], "trap '' TERM; touch /tmp/set; while :; do sleep 1000 & wait; done");
    until("the trap is set", || machine.root.join("tmp/set").exists());
    machine.ok(&["stop", "-t", "1", "stubborn"]);
    assert_eq!(machine.ok(&["wait", "stubborn"]), "137");
    machine.start(
        "other",
        &["--stop-signal", "USR1"],
        "trap 'exit 8' USR1; touch /tmp/up; while :; do sleep 1000 & wait; done",
    );
    until("the trap is set", || machine.root.join("tmp/up").exists());
    machine.ok(&["stop", "other"]);
    assert_eq!(machine.ok(&["wait", "other"]), "8");
}

/// The stop signal is thrown away as long as the first process has no handler for it.
#[test]
fn who_learns_to_hear_within_the_grace_is_asked_again() {
    let machine = Machine::new();
    let script = "touch /tmp/up; until test -e /tmp/asked; do sleep 0.01; done; \
        trap 'touch /tmp/bye; exit 9' TERM; echo x > /tmp/ready; while :; do sleep 1000 & wait; done";
    machine.start("late", &[], script);
    until("it runs", || machine.root.join("tmp/up").exists());
    let stop = machine.command(&["stop", "-t", "50", "late"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    // poll(2), with which it waits for the end: the signal has been sent by then.
    let waits = || {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", stop.id())).unwrap_or_default();
        ["7 ", "271 "].iter().any(|number| call.starts_with(number))
    };
    until("it waits for the end", waits);
    std::fs::write(machine.root.join("tmp/asked"), "").unwrap();
    let started = std::time::Instant::now();
    finish(stop).ok();
    assert!(started.elapsed() < std::time::Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(machine.ok(&["wait", "late"]), "9");
    assert!(machine.root.join("tmp/bye").exists());
}

#[test]
fn a_signal_reaches_the_program() {
    let machine = Machine::new();
    machine.start("one", &[], "trap 'touch /tmp/got' USR1; touch /tmp/ready; while :; do sleep 1000 & wait; done");
    until("the trap is set", || machine.root.join("tmp/ready").exists());
    machine.ok(&["kill", "-s", "USR1", "one"]);
    until("it says so", || machine.root.join("tmp/got").exists());
    assert_eq!(machine.inspect("one")["status"], "running");
}

#[test]
fn what_runs_is_removed_by_force_only() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    machine.jdos(&["rm", "one"]).code(4).says(&["running", "--force"]);
    machine.ok(&["rm", "-f", "one"]);
    assert!(machine.containers().is_empty());
}

#[test]
fn what_does_not_run_is_pruned() {
    let machine = Machine::new();
    let root = machine.root.to_str().unwrap();
    let create = |name: &str, label: &str| {
        machine.ok(&["create", "--name", name, "-l", label, "--network", "none", "--rootfs", root, "true"])
    };
    let ids = ["first", "second", "kept"].map(|name| create(name, &format!("role={name}")));
    machine.ok(&["start", "second"]);
    machine.ok(&["wait", "second"]);
    machine.sleeper("runs", &[]);
    let prune = |filter: &str| machine.ok(&["prune", "--force", "--filter", filter]);
    assert_eq!(prune("until=1h"), "");
    assert_eq!(prune("label=role=first"), ids[0]);
    assert_eq!(prune("label!=role=kept"), ids[1]);
    assert_eq!(machine.containers().len(), 2);
    assert_eq!(machine.ok(&["prune", "--force"]), ids[2]);
    assert_eq!(machine.inspect("runs")["status"], "running");
    machine.jdos(&["prune", "--force", "--filter", "until=soon"]).code(2).says(&["soon"]);
}

#[test]
fn what_is_stopped_is_removed_when_it_was_to_be() {
    let machine = Machine::new();
    for _ in 0..10 {
        machine.sleeper("one", &["--rm"]);
        machine.ok(&["stop", "one"]);
        assert!(machine.containers().is_empty());
    }
    machine.sleeper("one", &["--rm"]);
    machine.ok(&["rm", "-f", "one"]);
}

#[test]
fn logs_are_kept_by_stream_and_line() {
    let machine = Machine::new();
    machine.start("one", &[], "echo out; echo err >&2; printf 'no end'");
    assert_eq!(machine.ok(&["wait", "one"]), "0");
    let outcome = machine.jdos(&["logs", "one"]).code(0);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\nno end", "err\n"));
    assert_eq!(machine.ok(&["logs", "-n", "1", "one"]), "no end");
    machine.start("two", &[], "seq 1 50000");
    let outcome = machine.jdos(&["logs", "-f", "two"]).code(0);
    assert!(outcome.stdout.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=50_000));
}

#[test]
fn what_ends_with_rm_leaves_nothing() {
    let machine = Machine::new();
    let root = machine.root.to_str().unwrap();
    machine.ok(&["run", "-d", "--rm", "--rootfs", root, "true"]);
    until("it is gone", || machine.containers().is_empty());
    machine.ok(&["network", "rm", "bridge"]);
    machine.nothing_is_left();
}

#[test]
fn processes_that_outlive_their_init_are_ended() {
    let machine = Machine::new();
    let outcome = machine.sh(&[], "for i in 1 2 3; do setsid sleep 1000 >/dev/null 2>&1 & done; exit 6");
    outcome.code(6);
    machine.nothing_is_left();
}
