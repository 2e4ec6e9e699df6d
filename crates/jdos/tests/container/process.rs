//! What the program is given, and how its end is told.

use super::machine::{Machine, finish};
use std::{io::Write, process::Stdio};

#[test]
fn the_exit_code_is_the_programs() {
    let machine = Machine::new();
    for code in [0, 3, 255] {
        machine.sh(&[], &format!("exit {code}")).code(code);
    }
}

#[test]
fn a_signal_is_128_and_its_number() {
    let machine = Machine::new();
    machine.sh(&[], "sh -c 'kill -KILL $$'; exit $?").code(137);
    machine.sleeper("one", &[]);
    machine.ok(&["kill", "one"]);
    assert_eq!(machine.ok(&["wait", "one"]), "137");
    assert_eq!(machine.inspect("one")["exit"]["signal"], 9);
}

#[test]
fn a_program_that_is_missing_or_no_program_is_told_apart() {
    let machine = Machine::new();
    machine.run(&[], &["no-such-program"]).code(127).says(&["no-such-program", "PATH"]);
    machine.run(&[], &["/bin/no-such-program"]).code(127);
    machine.run(&[], &["/etc/passwd"]).code(126).says(&["/etc/passwd"]);
    machine.run(&[], &["/etc"]).code(126);
    assert_eq!(machine.containers(), Vec::<String>::new());
}

#[test]
fn output_and_errors_stay_apart_and_input_is_forwarded() {
    let machine = Machine::new();
    let outcome = machine.sh(&[], "echo out; echo err >&2").code(0);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    let input = machine.file("input", "one\ntwo\n");
    let root = machine.root.to_str().unwrap();
    let mut command = machine.command(&["run", "--rm", "-i", "--network", "none", "--rootfs", root, "cat"]);
    let outcome = command.stdin(std::fs::File::open(input).unwrap()).output().unwrap();
    assert_eq!(outcome.stdout, b"one\ntwo\n", "{outcome:?}");
}

#[test]
fn large_output_arrives_whole() {
    let machine = Machine::new();
    let text = machine.sh(&[], "seq 1 200000").ok();
    assert!(text.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=200_000));
}

#[test]
fn the_environment_is_clean() {
    let machine = Machine::new();
    let text = machine.run(&["-e", "A=b c", "--hostname", "box"], &["env"]).ok();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["A=b c", "HOME=/root", "HOSTNAME=box", path]);
}

#[test]
fn the_working_directory_is_made_when_missing() {
    let machine = Machine::new();
    assert_eq!(machine.run(&["-w", "/srv/deep"], &["pwd"]).ok(), "/srv/deep");
    assert_eq!(machine.run(&[], &["pwd"]).ok(), "/");
}

#[test]
fn users_by_name_and_by_number() {
    let machine = Machine::new();
    let look = "id -u; id -g; id -G; echo $HOME; pwd";
    for (user, wanted) in [
        ("app", "1000 1001 1001 1002 /home/app /"),
        ("1000", "1000 1001 1001 1002 /home/app /"),
        ("1000:logs", "1000 1002 1002 /home/app /"),
        ("4242:4243", "4242 4243 4243 / /"),
        ("root", "0 0 0 /root /"),
    ] {
        let text = machine.sh(&["-u", user], look).ok();
        assert_eq!(text.split_whitespace().collect::<Vec<_>>().join(" "), wanted, "{user}");
    }
    let groups = machine.run(&["-u", "4242", "--group-add", "logs", "--group-add", "77"], &["id", "-G"]).ok();
    assert_eq!(groups, "0 77 1002");
}

#[test]
fn the_host_name_and_the_hosts_file_are_its_own() {
    let machine = Machine::new();
    let text = machine.sh(&["-h", "box", "--add-host", "db:10.1.2.3"], "hostname; cat /etc/hostname /etc/hosts").ok();
    assert!(text.starts_with("box\nbox\n"), "{text}");
    assert!(text.lines().any(|line| line.split_whitespace().eq(["10.1.2.3", "db"])), "{text}");
    assert!(text.lines().any(|line| line.split_whitespace().eq(["127.0.0.1", "localhost"])), "{text}");
}

#[test]
fn it_is_process_1_and_sees_no_others() {
    let machine = Machine::new();
    // Not in a pipe: whether its other end has begun when this one looks is a matter of luck.
    let script = "echo $$; ls /proc > /tmp/seen; grep -c '^[0-9]' /tmp/seen; :";
    assert_eq!(machine.sh(&[], script).ok(), "1\n2", "sh and ls");
}

#[test]
fn limits_of_a_process_and_kernel_parameters_are_as_asked_for() {
    let machine = Machine::new();
    let flags = [
        "--ulimit",
        "nofile=64:128",
        "--ulimit",
        "core=0",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--oom-score-adj",
        "500",
    ];
    let script = "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj";
    assert_eq!(machine.sh(&flags, script).ok(), "64\n128\n0\n1\n500");
    machine.sleeper("one", &flags);
    assert_eq!(machine.inside("one", script).ok(), "64\n128\n0\n1\n500");
}

#[test]
fn a_detached_terminal_and_an_attached_one_are_the_same() {
    let machine = Machine::new();
    let root = machine.root.to_str().unwrap();
    let words = [
        "run",
        "-dit",
        "--name",
        "one",
        "--network",
        "none",
        "--rootfs",
        root,
        "sh",
        "-c",
        "read x; echo got $x; exit 5",
    ];
    machine.ok(&words);
    let mut child = machine.command(&["attach", "one"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"word\n").unwrap();
    let outcome = finish(child).code(5);
    assert!(outcome.stdout.contains("got word"), "{outcome:?}");
}

#[test]
fn a_terminal_is_one() {
    let machine = Machine::new();
    let text = machine.run(&["-t"], &["sh", "-c", "tty; echo $TERM; stat -c %F /dev/console"]).ok();
    assert_eq!(text.replace('\r', ""), "/dev/pts/0\nxterm\ncharacter special file");
}

/// What the engine itself ignores is no matter of the program's: one that writes to nobody is to end.
#[test]
fn no_signal_is_ignored_or_blocked_from_the_start() {
    let machine = Machine::new();
    let look = ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"];
    machine.sleeper("one", &[]);
    for text in [machine.run(&[], &look).ok(), machine.ok(&[&["exec", "one"], &look[..]].concat())] {
        let masks = text.split_whitespace().filter_map(|word| u64::from_str_radix(word, 16).ok());
        // 32 and 33 are the C library's own.
        assert_eq!(masks.map(|mask| mask & !(3 << 31)).collect::<Vec<_>>(), [0, 0], "{text}");
    }
    assert_eq!(machine.sh(&[], "(yes; echo $? > /tmp/code) | head -n 1; cat /tmp/code").ok(), "y\n141");
}
