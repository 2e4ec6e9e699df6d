//! What `reconcile` mends, and what it does about what it can not mend.

use super::machine::{Machine, until};
use serde_json::Value;
use std::{
    fs,
    io::{PipeReader, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Stdio},
};

#[test]
fn a_port_taken_meanwhile_hinders_nobody() {
    let machine = Machine::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    machine.sleeper("web", &["--network", "bridge", "-p", &format!("127.0.0.1:{port}:80")]);
    machine.sleeper("other", &[]);
    let ids = ["web", "other"].map(|name| machine.inspect(name)["id"].clone());
    for name in ["web", "other"] {
        machine.kill_monitor(name);
    }
    let mut taken = None;
    until("nobody holds it any more", || {
        taken = TcpListener::bind(("127.0.0.1", port)).ok();
        taken.is_some()
    });
    let outcome = machine.jdos(&["reconcile", "--json"]).code(1).says(&["web", &port.to_string()]);
    let done: Value = serde_json::from_str(&outcome.stdout).unwrap();
    for id in &ids {
        assert!(done["monitors_replaced"].as_array().unwrap().contains(id), "{done}");
    }
    let [trouble] = done["troubles"].as_array().unwrap().as_slice() else { panic!("{done}") };
    assert_eq!((trouble["name"].as_str(), &trouble["container"]), (Some("web"), &ids[0]));
    assert!(trouble["message"].as_str().unwrap().contains(&port.to_string()), "{trouble}");
    let warnings = machine.inspect("web")["warnings"].to_string();
    assert!(warnings.contains(&port.to_string()), "{warnings}");
    let done = machine.ok(&["reconcile"]);
    assert!(done.contains("adopted") && !done.contains("replaced"), "{done}");
    drop(taken);
}

#[test]
fn a_container_that_can_not_be_read_hinders_nobody() {
    let machine = Machine::new();
    for name in ["bad", "good"] {
        machine.sleeper(name, &[]);
    }
    let id = machine.inspect("bad")["id"].as_str().unwrap().to_owned();
    for name in ["bad", "good"] {
        machine.kill_monitor(name);
    }
    let state = machine.path("run").join("containers").join(&id).join("state.json");
    let kept = fs::read(&state).unwrap();
    fs::write(&state, "nonsense").unwrap();
    machine.jdos(&["reconcile"]).code(1).says(&["bad", "state.json"]);
    machine.ok(&["stop", "-t", "0", "good"]);
    fs::write(&state, kept).unwrap();
    machine.ok(&["reconcile"]);
    machine.ok(&["stop", "-t", "0", "bad"]);
}

fn folder_of(machine: &Machine, part: &str, name: &str) -> PathBuf {
    machine.path(part).join("containers").join(machine.inspect(name)["id"].as_str().unwrap())
}

fn names(machine: &Machine) -> Vec<String> {
    let all: Value = serde_json::from_str(&machine.ok(&["ps", "-a", "--json"])).unwrap();
    let mut names: Vec<_> =
        all.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// A `run` that has created its container and not started it: it waits to write a warning to a full pipe.
fn run_held(machine: &Machine, name: &str, flags: &[&str]) -> (Child, PipeReader) {
    let root = machine.root.to_str().unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; 65536]).unwrap(); // as much as a pipe holds
    let words = ["run", "-d", "--name", name, "--network", "host", "-p", "80:80", "--rootfs", root];
    let mut run = machine.command(&[&words[..], flags, &["true"]].concat());
    let child = run.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    until("it is created", || machine.jdos(&["inspect", name]).code == 0);
    (child, reader)
}

#[test]
fn what_was_to_run_once_does_not_outlive_its_maker() {
    let machine = Machine::new();
    let root = machine.root.to_str().unwrap();
    machine.ok(&["create", "--rm", "--name", "meant", "--network", "none", "--rootfs", root, "true"]);
    let mut makers = [run_held(&machine, "once", &["--rm"]), run_held(&machine, "often", &[])];
    machine.ok(&["reconcile"]);
    assert_eq!(names(&machine), ["meant", "often", "once"], "their makers are about to start them");
    machine.jdos(&["rm", "once"]).code(4);
    for (maker, _) in &mut makers {
        maker.kill().unwrap();
        maker.wait().unwrap();
    }
    machine.ok(&["reconcile"]);
    assert_eq!(names(&machine), ["meant", "often"]);
    machine.ok(&["start", "meant"]);
    until("it has run", || names(&machine) == ["often"]);
}

#[test]
fn a_power_cut_is_the_end_of_what_ran() {
    let machine = Machine::new();
    machine.sleeper("stays", &[]);
    machine.sleeper("passes", &["--rm"]);
    let (mut maker, _pipe) = run_held(&machine, "once", &["--rm"]);
    maker.kill().unwrap();
    maker.wait().unwrap();
    for name in ["stays", "passes", "once"] {
        let folder = folder_of(&machine, "run", name);
        if name != "once" {
            machine.kill_monitor(name);
            machine.ok(&["kill", name]);
            until("it is gone", || machine.inspect(name)["pid"].is_null());
        }
        fs::remove_dir_all(folder).unwrap();
    }
    assert_eq!(machine.inspect("stays")["status"], "exited");
    machine.ok(&["reconcile"]);
    assert_eq!(names(&machine), ["stays"]);
    assert_eq!(machine.inspect("stays")["exit"]["code"], Value::Null);
    machine.ok(&["start", "stays"]);
}

#[test]
fn reset_leaves_the_machine_as_it_was() {
    let machine = Machine::new();
    let parameter = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    machine.sleeper("web", &["--network", "front", "-v", "store:/store"]);
    machine.sleeper("alone", &["--rm"]);
    let root = machine.root.to_str().unwrap();
    machine.ok(&["create", "--name", "never", "--network", "front", "--rootfs", root, "true"]);
    // As if forwarding had been off before; whether it may go off again depends on other folders of this machine.
    let record = machine.path("data/host-changes.json");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let change = serde_json::json!({ "parameter": "net/ipv4/ip_forward", "old": "1", "new": "1",
        "changed_at": "2026-01-01T00:00:00Z" });
    fs::write(&record, serde_json::json!({ "boot": boot.trim(), "changes": [change] }).to_string()).unwrap();
    let before = parameter();

    machine.jdos(&["reset"]).code(2).says(&["--force"]);
    assert_eq!(names(&machine), ["alone", "never", "web"]);
    let done: Value = serde_json::from_str(&machine.ok(&["reset", "--force", "--json"])).unwrap();
    let removed: Vec<_> = done["containers"].as_array().unwrap().iter().map(|one| one["name"].as_str()).collect();
    assert_eq!(removed.len(), 3, "{done}");
    assert_eq!(done["networks"], serde_json::json!(["front"]));
    assert_eq!((&done["volumes"], &done["troubles"]), (&serde_json::json!([]), &serde_json::json!([])));
    let host = done["host"].to_string();
    assert!(host.contains("net/ipv4/ip_forward back to 1") || host.contains("kernel parameters stay"), "{host}");
    assert_eq!(record.exists(), host.contains("kernel parameters stay"));
    assert_eq!(parameter(), before);
    assert!(names(&machine).is_empty() && machine.path("data/volumes/store").is_dir());
    machine.nothing_is_left();

    machine.sleeper("web", &["--network", "front"]);
    let text = machine.ok(&["reset", "--force", "--volumes"]);
    assert!(text.contains("container  web\n") && text.contains("volume     store"), "{text}");
    assert_eq!(machine.path("data/volumes").read_dir().unwrap().count(), 0);
    drop(fs::remove_file(&record)); // there only if it could not be put back
    assert_eq!(machine.ok(&["reset", "--force"]), "nothing to do");
}

#[test]
fn networks_that_nobody_is_on_are_pruned() {
    let machine = Machine::new();
    machine.sleeper("one", &["--network", "front"]);
    let root = machine.root.to_str().unwrap();
    machine.ok(&["stop", "-t", "0", "one"]);
    machine.run(&["--network", "back"], &["true"]).ok();
    let shown: Value = serde_json::from_str(&machine.ok(&["network", "inspect", "back", "front"])).unwrap();
    assert_eq!((&shown[0]["name"], &shown[1]["leases"]), (&"back".into(), &1.into()));
    machine.jdos(&["network", "inspect", "side"]).code(3).says(&["side"]);
    assert_eq!(machine.ok(&["network", "prune", "--force"]), "back", "the other is of a container at rest");
    machine.ok(&["create", "--name", "two", "--network", "side", "--rootfs", root, "true"]);
    machine.ok(&["rm", "one"]);
    assert_eq!(machine.ok(&["network", "prune", "--force"]), "front");
}

/// What a power cut leaves of a record that was never forced to disk, and what another version may have written.
#[test]
fn a_damaged_record_hinders_no_other_container() {
    let machine = Machine::new();
    machine.sleeper("well", &[]);
    let folder = |digit: &str| machine.path("data/containers").join(digit.repeat(32));
    for (digit, text) in [("a", ""), ("b", "\0\0\0\0"), ("c", "{\"of\": \"another version\"}")] {
        fs::create_dir_all(folder(digit)).unwrap();
        fs::write(folder(digit).join("record.json"), text).unwrap();
    }
    let listed = machine.jdos(&["ps", "-a"]).says(&["cccccccccccc is left out", "rm --force"]);
    assert!(listed.ok().contains("well"));
    machine.jdos(&["rm", &"c".repeat(32)]).code(1);
    machine.ok(&["rm", "--force", &"c".repeat(32)]);
    machine.ok(&["reconcile"]);
    assert!(!folder("a").exists() && !folder("c").exists());
    machine.ok(&["stop", "-t", "0", "well"]);
}
