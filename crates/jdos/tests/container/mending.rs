//! What `reconcile` mends, and what it does about what it can not mend.

use super::machine::Machine;
use serde_json::Value;
use std::{fs, net::TcpListener};

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
    let taken = TcpListener::bind(("127.0.0.1", port)).expect("nobody holds it any more");
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
