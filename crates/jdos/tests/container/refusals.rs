//! Requests that can not be met: a clear error, the right exit code, and nothing left behind.

use super::machine::Machine;

#[test]
fn what_can_not_be_is_refused_with_its_reason() {
    let machine = Machine::new();
    let missing = machine.path("nowhere");
    let root = machine.root.to_str().unwrap();
    let cases: [(&[&str], i32, &[&str]); 10] = [
        (&["--rootfs", missing.to_str().unwrap()], 125, &["nowhere"]),
        (&["--rootfs", root, "-u", "nobody-here"], 125, &["nobody-here"]),
        (&["--rootfs", root, "-m", "1k"], 125, &["memory"]),
        (&["--rootfs", root, "-m", "lots"], 125, &["--memory", "lots"]),
        (&["--rootfs", root, "--cap-add", "FLY"], 125, &["FLY"]),
        (&["--rootfs", root, "-v", "/no/such/path:/mnt"], 125, &["/no/such/path"]),
        (&["--rootfs", root, "--security-opt", "seccomp=/no/such/profile"], 125, &["/no/such/profile"]),
        (&["--rootfs", root, "--device", "/dev/no-such"], 125, &["/dev/no-such"]),
        (&["--rootfs", root, "--sysctl", "kernel.panic=1"], 125, &["kernel.panic"]),
        (&["--rootfs", root, "-w", "relative"], 125, &["workdir"]),
    ];
    for (flags, code, words) in cases {
        let outcome = machine.jdos(&[&["run", "--network", "none"], flags, &["true"]].concat());
        assert!(outcome.stdout.is_empty() && outcome.stderr.starts_with("error: "), "{flags:?} {outcome:?}");
        outcome.code(code).says(words);
        assert!(machine.containers().is_empty(), "{flags:?}");
    }
    machine.nothing_is_left();
}

#[test]
fn a_name_is_given_once() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    let root = machine.root.to_str().unwrap();
    machine.jdos(&["create", "--name", "one", "--rootfs", root, "true"]).code(4).says(&["one", "taken"]);
    machine.run(&["--name", "one"], &["true"]).code(125).says(&["one", "taken"]);
    assert_eq!(machine.inspect("one")["status"], "running");
    assert_eq!(machine.run(&["--name", "one", "--replace"], &["echo", "new"]).ok(), "new");
}

#[test]
fn what_is_not_there_is_not_found() {
    let machine = Machine::new();
    machine.sleeper("web-server", &[]);
    for verb in ["start", "stop", "kill", "pause", "resume", "wait", "rm", "inspect", "logs"] {
        machine.jdos(&[verb, "web-servr"]).code(3).says(&["web-servr", "web-server"]);
    }
    machine.jdos(&["exec", "web-servr", "true"]).code(125).says(&["web-server"]);
}

#[test]
fn flags_of_a_filter_that_can_not_be_had_are_refused() {
    let machine = Machine::new();
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#;
    let option = format!("seccomp={}", machine.file("profile.json", text).display());
    machine.run(&["--security-opt", &option], &["true"]).code(125).says(&["flags[0]"]);
    assert!(machine.containers().is_empty());
}
