//! A program more in a running container.

use super::machine::Machine;

#[test]
fn exec_passes_code_and_output_on() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    let outcome = machine.inside("one", "echo out; echo err >&2; exit 5").code(5);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    machine.jdos(&["exec", "one", "no-such-program"]).code(127);
    machine.jdos(&["exec", "one", "/etc/passwd"]).code(126);
    machine.inside("one", "sh -c 'kill -KILL $$'").code(137);
}

#[test]
fn what_exec_can_not_start_is_told_of_the_process() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    for (words, code) in [(["exec", "one", "no-such-program"], 127), (["exec", "one", "/etc/passwd"], 126)] {
        let outcome = machine.jdos(&words).code(code).says(&["can not run the process in container", words[2]]);
        assert!(!outcome.stderr.contains("did not start"), "{outcome:?}");
    }
    machine.jdos(&["exec", "-w", "/no/where", "one", "true"]).code(125).says(&["working directory /no/where"]);
    assert!(!machine.root.join("no").exists(), "what was mistyped is not made");
    machine.jdos(&["exec", "-w", "/etc/passwd", "one", "true"]).code(125).says(&["/etc/passwd", "directory"]);
}

#[test]
fn exec_has_user_environment_and_working_directory() {
    let machine = Machine::new();
    machine.sleeper("one", &["-e", "FROM=container", "-w", "/home"]);
    let flags = ["exec", "-u", "app", "-e", "MORE=exec", "-w", "/tmp", "one", "sh", "-c"];
    let text = machine.ok(&[&flags[..], &["id -u; id -G; pwd; echo $FROM $MORE $HOME"]].concat());
    assert_eq!(text, "1000\n1001 1002\n/tmp\ncontainer exec /home/app");
    assert_eq!(machine.inside("one", "pwd; id -u").ok(), "/home\n0");
}

#[test]
fn exec_is_as_confined_as_the_container() {
    let machine = Machine::new();
    machine.sleeper("one", &["--cap-drop", "ALL", "--cap-add", "CHOWN"]);
    let look = |pid: &str| {
        let text =
            machine.inside("one", &format!("grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/{pid}/status")).ok();
        assert!(text.contains("CapBnd:\t0000000000000001") && text.contains("Seccomp:\t2"), "{text}");
        text
    };
    assert_eq!(look("1"), look("self"));
    let namespaces = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/PID/ns/$n; done";
    let of = |pid: &str| machine.inside("one", &namespaces.replace("PID", pid)).ok();
    assert_eq!(of("1"), of("self"));
    assert_eq!(machine.inside("one", "cat /proc/1/cgroup").ok(), machine.inside("one", "cat /proc/self/cgroup").ok());
}

#[test]
fn exec_is_privileged_when_asked_for_and_powerless_as_a_user() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    let words = |flags: &[&str]| {
        let look = ["one", "grep", "-E", "^(CapEff|NoNewPrivs|Seccomp:)", "/proc/self/status"];
        machine.ok(&[&["exec"], flags, &look].concat())
    };
    let text = words(&["--privileged"]);
    let (first, rest) = text.split_once('\n').unwrap();
    let effective = u64::from_str_radix(first.split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert!(effective & (1 << 21) != 0 && rest == "NoNewPrivs:\t0\nSeccomp:\t0", "{text}");
    assert_eq!(words(&["-u", "app"]), "CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2");
}

#[test]
fn exec_in_the_background_goes_on() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    machine.ok(&[
        "exec",
        "-d",
        "one",
        "sh",
        "-c",
        "touch /tmp/begun; while test ! -e /tmp/go; do :; done; touch /tmp/done",
    ]);
    super::machine::until("it runs", || machine.root.join("tmp/begun").exists());
    machine.file("root/tmp/go", "");
    super::machine::until("it ends", || machine.root.join("tmp/done").exists());
}

#[test]
fn exec_counts_against_the_containers_limits() {
    let machine = Machine::new();
    machine.sleeper("one", &["-m", "32m", "--pids-limit", "10"]);
    machine.inside("one", "x=a; while :; do x=$x$x; done").code(137);
    assert_eq!(machine.inspect("one")["status"], "running", "its own program was not the victim");
    let outcome =
        machine.inside("one", "i=0; while test $i -lt 20; do sleep 1000 > /dev/null 2>&1 & i=$((i + 1)); done");
    assert!(outcome.code != 0 && outcome.stderr.contains("fork"), "{outcome:?}");
}

#[test]
fn exec_can_have_a_terminal() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    let text = machine.ok(&["exec", "-t", "one", "sh", "-c", "tty; test -t 0 && test -t 1 && test -t 2 && echo all"]);
    assert_eq!(text.replace('\r', ""), "/dev/pts/0\nall");
}

#[test]
fn exec_ends_with_its_container() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    let mut command = machine.command(&["exec", "one", "sh", "-c", "touch /tmp/started; sleep 1000"]);
    let child = command.spawn().unwrap();
    super::machine::until("it runs", || machine.root.join("tmp/started").exists());
    machine.ok(&["kill", "one"]);
    super::machine::finish(child).code(137);
    machine.ok(&["wait", "one"]);
    machine.jdos(&["exec", "one", "true"]).code(125).says(&["exited"]);
}
