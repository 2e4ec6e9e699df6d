//! `--runtime runc`: the same container, made by another program.

use super::machine::{Machine, finish, make_root, until};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const RUNC: [&str; 2] = ["--runtime", "runc"];

/// With these flags as well.
fn runc<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [&RUNC[..], flags].concat()
}

/// A runc that does at one of its verbs what a test wants, as long as there is the file `trouble`.
fn troubled(machine: &Machine, verb: &str, trouble: &str) -> PathBuf {
    let mark = machine.file("odd/trouble", "");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" {verb} \"*) if test -e {}; then {trouble}; fi;; esac\nexec runc \"$@\"\n",
        mark.display()
    );
    let program = machine.file("odd/runc", &script);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

fn send_kill(pid: &str) {
    assert!(Command::new("kill").args(["-KILL", pid.trim()]).status().unwrap().success());
}

/// Whether there is such a process, other than one that nobody has waited for yet.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat"));
    stat.is_ok_and(|text| !text.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

fn pid_of(machine: &Machine, name: &str) -> String {
    machine.inspect(name)["pid"].to_string()
}

/// The process that waits for a container: its monitor.
fn monitor_of(machine: &Machine, name: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid_of(machine, name))).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn runc_passes_code_signal_and_streams_on() {
    let machine = Machine::new();
    let outcome = machine.sh(&RUNC, "echo out; echo err >&2; exit 7").code(7);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    let input = machine.file("input", "one\ntwo\n");
    let root = machine.root.to_str().unwrap();
    let words = ["run", "--rm", "-i", "--runtime", "runc", "--network", "none", "--rootfs", root, "cat"];
    let mut command = machine.command(&words);
    let outcome = command.stdin(fs::File::open(input).unwrap()).output().unwrap();
    assert_eq!(outcome.stdout, b"one\ntwo\n", "{outcome:?}");
    let text = machine.sh(&RUNC, "seq 1 100000").ok();
    assert!(text.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=100_000));
    machine.sleeper("one", &RUNC);
    machine.ok(&["kill", "one"]);
    assert_eq!(machine.ok(&["wait", "one"]), "137");
    assert_eq!(machine.inspect("one")["exit"]["signal"], 9);
}

#[test]
fn a_container_of_runc_says_so_and_is_made_by_it() {
    let machine = Machine::new();
    machine.sleeper("one", &RUNC);
    let seen = machine.inspect("one");
    let program = seen["config"]["runtime"]["runc"].as_str().unwrap();
    assert!(program.starts_with('/') && program.ends_with("/runc"), "{seen}");
    let id = seen["id"].as_str().unwrap();
    let own = machine.path("run").join("containers").join(id).join("runc");
    let known = Command::new(program).arg("--root").arg(&own).args(["state", id]).output().unwrap();
    let known: serde_json::Value = serde_json::from_slice(&known.stdout).unwrap();
    assert_eq!((&known["pid"], known["status"].as_str()), (&seen["pid"], Some("running")));
    machine.ok(&["rm", "-f", "one"]);
    assert!(!own.exists());
    machine.sleeper("two", &["--runtime", "jdos"]);
    assert_eq!(machine.inspect("two")["config"]["runtime"], "jdos");
}

#[test]
fn under_runc_as_under_ours_from_inside() {
    let machine = Machine::new();
    let flags = [
        "-e",
        "A=b c",
        "-h",
        "box",
        "-u",
        "app",
        "-w",
        "/srv/deep",
        "-m",
        "64m",
        "--ulimit",
        "nofile=64:128",
        "--oom-score-adj",
        "500",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--add-host",
        "db:10.1.2.3",
        "--cap-drop",
        "CHOWN",
        "--group-add",
        "77",
    ];
    let look = "id -u; id -G | tr ' ' '\\n' | sort -u; env | sort; pwd; hostname; ulimit -n; ulimit -Hn; \
        cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_forward /etc/hosts /etc/hostname; ls /sys/class/net; \
        grep -E '^(Cap|NoNewPrivs|Seccomp:|SigIgn)' /proc/self/status | sed 's/SigIgn:.*\\(.......\\)$/SigIgn: \\1/'; \
        for call in 'unshare -U true' 'mount -t tmpfs x /tmp' 'mknod /tmp/x b 8 0' 'chown 5 /tmp'; \
        do $call 2>/dev/null; echo $call: $?; done; \
        for file in /proc/keys /proc/sys/kernel/core_pattern /sys/kernel/profiling; \
        do echo 1 2>/dev/null > $file; echo $file: $? $(head -c 5 $file | wc -c); done";
    let ours = machine.sh(&flags, look).ok();
    assert!(ours.lines().count() > 40, "{ours}");
    assert_eq!(machine.sh(&runc(&flags), look).ok(), ours);
}

#[test]
fn users_of_its_own_under_runc_too() {
    let machine = Machine::new();
    machine.file("shared/given", "text");
    let volume = format!("{}:/mnt/shared", machine.path("shared").display());
    let script = "read a b c < /proc/self/uid_map; test $b -gt 0 && cat /mnt/shared/given && echo x > /mnt/shared/new \
        && touch /made && chown 1000:1001 /made && stat -c %u /made /mnt/shared/given";
    assert_eq!(machine.sh(&runc(&["-v", &volume]), script).ok(), "text1000\n0");
    assert_eq!(fs::metadata(machine.path("shared/new")).unwrap().uid(), 0, "root inside is root on the host's files");
    assert_eq!(fs::metadata(machine.root.join("made")).unwrap().uid(), 1000);
    let fixed = format!("{volume}:ro");
    machine.sh(&runc(&["-v", &fixed]), "! touch /mnt/shared/more").code(0).says(&["Read-only"]);
    machine.sleeper("own", &runc(&["--userns", "private"]));
    assert!(machine.inspect("own")["users"]["private"]["base"].as_u64().unwrap() > 0);
    machine.sleeper("hosts", &runc(&["--userns", "host"]));
    assert!(machine.inspect("hosts")["users"]["host"]["reason"].is_string());
    assert_eq!(machine.inside("hosts", "cat /proc/self/uid_map | tr -s ' '").ok(), " 0 0 4294967295");
}

#[test]
fn layers_tar_files_and_devices_under_runc() {
    let machine = Machine::new();
    let (lower, upper) = (machine.path("lower"), machine.path("upper"));
    make_root(&lower);
    fs::write(lower.join("etc/fact"), "below").unwrap();
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/fact"), "above").unwrap();
    let flags = runc(&["--layer", lower.to_str().unwrap(), "--layer", upper.to_str().unwrap()]);
    assert_eq!(machine.sh(&flags, "cat /etc/fact; echo x > /etc/fact; rm /etc/passwd; cat /etc/fact").ok(), "abovex");
    assert_eq!(fs::read_to_string(upper.join("etc/fact")).unwrap(), "above");
    assert!(lower.join("etc/passwd").exists());
    let tar = machine.path("root.tar");
    assert!(Command::new("tar").arg("-C").arg(&lower).arg("-cf").arg(&tar).arg(".").status().unwrap().success());
    let words = ["run", "--rm", "--runtime", "runc", "--network", "none", "--rootfs", tar.to_str().unwrap()];
    assert_eq!(machine.ok(&[&words[..], &["cat", "/etc/fact"]].concat()), "below");
    for users in ["private", "host"] {
        let flags = runc(&["--userns", users, "--device", "/dev/zero:/dev/nothing", "--read-only", "--tmpfs", "/tmp"]);
        let script = "head -c 4 /dev/nothing | wc -c; touch /made 2>/dev/null || touch /tmp/made && echo fixed";
        assert_eq!(machine.sh(&flags, script).ok(), "4\nfixed", "{users}");
    }
}

#[test]
fn exec_through_runc() {
    let machine = Machine::new();
    machine.sleeper("one", &runc(&["-e", "FROM=container", "-w", "/home", "-m", "32m", "--pids-limit", "20"]));
    let outcome = machine.inside("one", "echo out; echo err >&2; exit 5").code(5);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    machine.jdos(&["exec", "one", "no-such-program"]).code(127).says(&["no-such-program"]);
    machine.jdos(&["exec", "one", "/etc/passwd"]).code(126).says(&["/etc/passwd"]);
    machine.inside("one", "kill -KILL $$").code(137);
    let flags = ["exec", "-u", "app", "-e", "MORE=exec", "-w", "/tmp/new", "one", "sh", "-c"];
    let text = machine.ok(&[&flags[..], &["id -u; id -G; pwd; echo $FROM $MORE $HOME"]].concat());
    assert_eq!(text, "1000\n1001 1002\n/tmp/new\ncontainer exec /home/app");
    assert_eq!(machine.inside("one", "pwd; id -u; stat -c %u /tmp/new").ok(), "/home\n0\n0");
    let mut child = machine.command(&["exec", "-i", "one", "cat"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed").unwrap();
    assert_eq!(finish(child).ok(), "typed");
    let text = machine.ok(&["exec", "-t", "one", "sh", "-c", "tty; test -t 0 && test -t 1 && test -t 2 && echo all"]);
    assert_eq!(text.replace('\r', ""), "/dev/pts/0\nall");
    let confined = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/PID/ns/$n; done; cat /proc/PID/cgroup; \
        grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/PID/status";
    let of = |pid: &str| machine.inside("one", &confined.replace("PID", pid)).ok();
    assert_eq!(of("1"), of("self"));
    machine.inside("one", "x=a; while :; do x=$x$x; done").code(137);
    assert_eq!(machine.inspect("one")["status"], "running", "its own program was not the victim");
    let id = machine.inspect("one")["id"].as_str().unwrap().to_owned();
    let run = machine.path("run").join("containers").join(id);
    let left = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!left.into_iter().any(|name| name.starts_with("exec-")), "what one process needed is gone");
    machine.jdos(&["exec", "--privileged", "one", "true"]).code(125).says(&["--privileged", "filter"]);
    machine.sleeper("open", &runc(&["--security-opt", "seccomp=unconfined"]));
    let text = machine.ok(&["exec", "--privileged", "open", "grep", "CapEff", "/proc/self/status"]);
    let bits = u64::from_str_radix(text.split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert!(bits & (1 << 21) != 0, "{text}");
}

#[test]
fn a_terminal_under_runc_is_one() {
    let machine = Machine::new();
    let flags = runc(&["-t"]);
    let text = machine.run(&flags, &["sh", "-c", "tty; echo $TERM; stat -c %F /dev/console"]).ok();
    assert_eq!(text.replace('\r', ""), "/dev/pts/0\nxterm\ncharacter special file");
    let root = machine.root.to_str().unwrap();
    let words = ["run", "-dit", "--name", "one", "--runtime", "runc", "--network", "none", "--rootfs", root];
    machine.ok(&[&words[..], &["sh", "-c", "read x; echo got $x; exit 5"]].concat());
    let mut child = machine.command(&["attach", "one"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"word\n").unwrap();
    let outcome = finish(child).code(5);
    assert!(outcome.stdout.contains("got word"), "{outcome:?}");
}

#[test]
fn limits_under_runc_hold_and_change() {
    let machine = Machine::new();
    let root = machine.root.to_str().unwrap();
    let words = ["run", "--name", "bomb", "--runtime", "runc", "-m", "16m", "--network", "none", "--rootfs", root];
    machine.jdos(&[&words[..], &["sh", "-c", "x=a; while :; do x=$x$x; done"]].concat()).code(137);
    assert_eq!(machine.inspect("bomb")["exit"]["oom"], true);
    machine.sleeper("one", &runc(&["-m", "64m", "--pids-limit", "50"]));
    let (memory, pids) = (machine.group("one", "memory"), machine.group("one", "pids"));
    let memory = ["memory.limit_in_bytes", "memory.max"].map(|name| memory.join(name)).into_iter().find(|p| p.exists());
    let read = |path: &Path| fs::read_to_string(path).unwrap().trim().to_owned();
    let memory = memory.unwrap();
    assert_eq!((read(&memory).as_str(), read(&pids.join("pids.max")).as_str()), ("67108864", "50"));
    assert!(read(&pids.join("cgroup.procs")).lines().any(|pid| pid == pid_of(&machine, "one")));
    machine.ok(&["update", "-m", "32m", "--pids-limit", "40", "one"]);
    assert_eq!((read(&memory).as_str(), read(&pids.join("pids.max")).as_str()), ("33554432", "40"));
    assert!(machine.ok(&["stats", "--no-stream", "one"]).contains("32MiB"));
    let script = "cd /sys/fs/cgroup; for file in $(find . -name memory.limit_in_bytes -o -name memory.max -o -name pids.max \
        -o -name devices.allow); do found=1; echo 1000000000 2>/dev/null > $file && echo changed $file; done; \
        mkdir /sys/fs/cgroup/*/mine 2>/dev/null && echo made; echo found $found";
    assert_eq!(machine.sh(&runc(&["-m", "64m"]), script).ok(), "found 1");
    // Made inside, the node would work if the group did not deny it.
    let script = "mknod /tmp/disk b 7 0 && head -c 1 /tmp/disk; rm -f /tmp/disk; head -c 1 /dev/zero | wc -c";
    let outcome = machine.sh(&runc(&["--userns", "host"]), script);
    assert_eq!(outcome.stdout, "1\n", "{outcome:?}");
    assert!(outcome.stderr.contains("not permitted"), "{outcome:?}");
}

#[test]
fn a_network_and_a_published_port_under_runc() {
    let machine = Machine::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{port}:80");
    machine.start("web", &runc(&["--network", "bridge", "-p", &publish]), "nc -ll -p 80 -e echo hello");
    let answer = |address: &str, port: u16| {
        let mut text = String::new();
        TcpStream::connect((address, port)).ok()?.read_to_string(&mut text).ok()?;
        (!text.is_empty()).then_some(text)
    };
    until("it answers", || answer("127.0.0.1", port).as_deref() == Some("hello\n"));
    let address = machine.inspect("web")["addresses"]["ipv4"].as_str().unwrap().to_owned();
    assert_eq!(answer(&address, 80).as_deref(), Some("hello\n"));
    // One of ours and one of runc's are neighbours.
    let client = machine.sh(&["--network", "bridge"], &format!("nc {address} 80 < /dev/null"));
    assert_eq!(client.ok(), "hello");
    machine.ok(&["rm", "-f", "web"]);
    // Not at once: a stranger's connection may have been given the same number for its own end.
    until("the port is free again", || TcpListener::bind(("127.0.0.1", port)).is_ok());
}

#[test]
fn a_life_under_runc() {
    let machine = Machine::new();
    let root = machine.root.to_str().unwrap();
    let words = ["create", "--name", "one", "--runtime", "runc", "--network", "none", "--rootfs", root];
    machine.ok(&[&words[..], &["sh", "-c", "echo hello; exit 4"]].concat());
    assert_eq!(machine.inspect("one")["status"], "created");
    for _ in 0..2 {
        assert_eq!(machine.jdos(&["start", "-a", "one"]).code(4).stdout, "hello\n");
        assert_eq!(machine.inspect("one")["status"], "exited");
        assert_eq!(machine.ok(&["wait", "one"]), "4");
    }
    assert_eq!(machine.ok(&["logs", "one"]), "hello\nhello");
    machine.ok(&["rm", "one"]);

    machine.start("two", &RUNC, "trap 'exit 9' TERM; while :; do echo x >> /tmp/ticks; sleep 0.01; done");
    let ticks = || fs::metadata(machine.root.join("tmp/ticks")).map_or(0, |file| file.len());
    until("it runs", || ticks() > 0);
    machine.ok(&["pause", "two"]);
    assert_eq!(machine.inspect("two")["status"], "paused");
    let frozen = ticks();
    machine.jdos(&["exec", "two", "true"]).code(125).says(&["paused"]);
    assert_eq!(ticks(), frozen);
    machine.ok(&["resume", "two"]);
    until("it goes on", || ticks() > frozen);
    machine.ok(&["stop", "two"]);
    assert_eq!(machine.ok(&["wait", "two"]), "9");
    machine.sleeper("three", &runc(&["--rm"]));
    machine.ok(&["stop", "-t", "0", "three"]);
    let outcome = machine.sh(&RUNC, "for i in 1 2 3; do setsid sleep 1000 >/dev/null 2>&1 & done; exit 6");
    outcome.code(6);
    machine.ok(&["rm", "two"]);
    machine.nothing_is_left();
}

#[test]
fn a_monitor_of_a_container_of_runc_is_replaced() {
    let machine = Machine::new();
    machine.start(
        "one",
        &RUNC,
        "trap 'exit 11' TERM; echo before; while test ! -e /tmp/go; do sleep 0.01; done; \
        echo after; while :; do sleep 0.01; done",
    );
    until("it has written", || machine.ok(&["logs", "one"]) == "before");
    let monitor = monitor_of(&machine, "one");
    send_kill(&monitor);
    until("it is gone", || !lives(&monitor));
    machine.file("root/tmp/go", "");
    let id = machine.inspect("one")["id"].clone();
    let done: serde_json::Value = serde_json::from_str(&machine.ok(&["reconcile", "--json"])).unwrap();
    assert_eq!(done["monitors_replaced"][0], id, "{done}");
    until("it has written", || machine.ok(&["logs", "one"]) == "before\nafter");
    assert_eq!(machine.inside("one", "echo in").ok(), "in");
    machine.ok(&["stop", "one"]);
    assert!(["11", "unknown"].contains(&machine.ok(&["wait", "one"]).as_str()));
}

#[test]
fn a_start_by_runc_that_fails_leaves_nothing() {
    let machine = Machine::new();
    let flags = runc(&["--network", "bridge"]);
    let networks = || machine.jdos(&["network", "rm", "bridge"]);
    machine.run(&flags, &["no-such-program"]).code(127).says(&["no-such-program", "PATH"]);
    machine.run(&flags, &["/bin/no-such-program"]).code(127);
    machine.run(&flags, &["/etc/passwd"]).code(126).says(&["/etc/passwd"]);
    machine.run(&[&flags[..], &["-u", "nobody-here"]].concat(), &["true"]).code(125).says(&["nobody-here"]);
    networks().ok();
    machine.nothing_is_left();
    let says = "echo '{\"level\":\"error\",\"msg\":\"out of luck\"}' > $4; exit 3";
    let dumb = "exit 3";
    let dies = "kill -KILL $$";
    for (verb, trouble, words) in [
        ("create", says, "out of luck"),
        ("create", dumb, "code 3"),
        ("create", dies, "signal 9"),
        // All is made by then: the network and a process that waits to be let go.
        ("start", says, "out of luck"),
        ("start", dies, "signal 9"),
    ] {
        let program = troubled(&machine, verb, trouble);
        let program = program.to_str().unwrap();
        for users in ["private", "host"] {
            let flags = ["--runtime", program, "--network", "bridge", "--userns", users];
            machine.run(&flags, &["touch", "/tmp/ran"]).code(125).says(&[words]);
            assert!(!machine.root.join("tmp/ran").exists());
        }
        networks().ok();
        machine.nothing_is_left();
    }
}

#[test]
fn a_start_by_runc_that_is_killed_is_swept_and_can_be_made_again() {
    let machine = Machine::new();
    let (ppid, own) = (machine.path("ppid"), machine.path("own"));
    let stop = format!("echo $PPID > {}; echo $$ > {}; exec sleep 1000", ppid.display(), own.display());
    let program = troubled(&machine, "start", &stop);
    let root = machine.root.to_str().unwrap();
    let words = ["create", "--name", "one", "--runtime", program.to_str().unwrap(), "--rootfs", root];
    machine.ok(&[&words[..], &["sh", "-c", "echo ran; touch /tmp/ran"]].concat());
    let mut starter = machine.command(&["start", "one"]).stderr(Stdio::null()).spawn().unwrap();
    until("runc is about to let it go", || fs::read_to_string(&own).is_ok_and(|text| text.ends_with('\n')));
    assert_eq!(machine.inspect("one")["status"], "starting");
    let id = machine.inspect("one")["id"].as_str().unwrap().to_owned();
    let state = machine.path("run").join("containers").join(id).join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
    let init = state["pid"].to_string();
    assert!(lives(&init));
    send_kill(&starter.id().to_string());
    starter.wait().unwrap();
    send_kill(&fs::read_to_string(&ppid).unwrap());
    until("runc went with the shim", || !lives(&fs::read_to_string(&own).unwrap()));
    assert_ne!(machine.inspect("one")["status"], "running", "it was never let go");
    machine.ok(&["reconcile"]);
    assert!(!lives(&init));
    assert!(!machine.root.join("tmp/ran").exists());
    fs::remove_file(machine.path("odd/trouble")).unwrap();
    assert_eq!(machine.ok(&["start", "-a", "one"]), "ran");
    machine.ok(&["rm", "one"]);
    machine.ok(&["network", "rm", "bridge"]);
    machine.nothing_is_left();
}

#[test]
fn what_is_no_runc_is_refused_before_anything_is_touched() {
    let machine = Machine::new();
    let text = machine.file("odd/text", "no program");
    let old = machine.file("odd/old", "#!/bin/sh\necho runc version 1.0.3\n");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, words) in [
        ("kata", &["kata", "not a runtime"][..]),
        ("/no/such/runc", &["/no/such/runc", "install runc"]),
        (text.to_str().unwrap(), &["not executable", "install runc"]),
        ("/bin/true", &["not runc"]),
        (old.to_str().unwrap(), &["version 1.0", "too old"]),
    ] {
        let outcome = machine.run(&["--runtime", name], &["true"]).code(125).says(words).says(&["--runtime"]);
        assert!(outcome.stderr.starts_with("error: "), "{outcome:?}");
    }
    let root = machine.root.to_str().unwrap();
    let words = ["run", "--runtime", "runc", "--network", "none", "--rootfs", root, "true"];
    let nowhere = machine.command(&words).env("PATH", machine.path("")).output().unwrap();
    let said = String::from_utf8(nowhere.stderr).unwrap();
    assert!(nowhere.status.code() == Some(125) && said.contains("PATH") && said.contains("install runc"), "{said}");
    assert!(machine.containers().is_empty());
    machine.nothing_is_left();
    // One that goes away between create and start.
    let program = troubled(&machine, "nothing", ":");
    let words = ["create", "--name", "one", "--runtime", program.to_str().unwrap(), "--network", "none"];
    machine.ok(&[&words[..], &["--rootfs", root, "true"]].concat());
    fs::rename(&program, machine.path("odd/elsewhere")).unwrap();
    machine.jdos(&["start", "one"]).code(2).says(&["install runc", program.to_str().unwrap()]);
    assert_eq!(machine.inspect("one")["status"], "created");
    fs::rename(machine.path("odd/elsewhere"), &program).unwrap();
    machine.ok(&["start", "one"]);
    assert_eq!(machine.ok(&["wait", "one"]), "0");
}

#[test]
fn what_is_mounted_in_a_shared_volume_is_seen_on_the_host_whoever_makes_the_container() {
    let machine = Machine::new();
    /// Goes with everything on it, however the test ends.
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let umount = Command::new("umount").args(["-R", "-l"]).arg(&self.0).status();
            assert!(umount.unwrap().success() || std::thread::panicking());
        }
    }
    let shared = machine.path("shared");
    fs::create_dir(&shared).unwrap();
    let mount = |words: &[&str]| assert!(Command::new("mount").args(words).arg(&shared).status().unwrap().success());
    mount(&["-t", "tmpfs", "shared"]);
    let _mounted = Mounted(shared.clone());
    mount(&["--make-shared"]);
    let inner = shared.join("inner");
    let volume = format!("{}:/mnt:rshared", shared.display());
    let root = machine.root.to_str().unwrap();
    for (runtime, place) in [("jdos", "--rootfs"), ("jdos", "--layer"), ("runc", "--rootfs"), ("runc", "--layer")] {
        let words = ["run", "-d", "--name", "one", "--runtime", runtime, place, root, "--network", "none"];
        let script = "mkdir -p /mnt/inner && mount -t tmpfs inner /mnt/inner && touch /mnt/inner/made && sleep 1000";
        machine.ok(&[&words[..], &["--privileged", "-v", &volume, "sh", "-c", script]].concat());
        until(&format!("{runtime} {place}: it is seen"), || inner.join("made").exists());
        machine.ok(&["rm", "-f", "one"]);
        assert!(Command::new("umount").arg(&inner).status().unwrap().success());
    }
}
