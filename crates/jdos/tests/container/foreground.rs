//! A container in the foreground: the user's terminal, signals, and a reader that goes away.

use crate::machine::{Machine, Outcome, finish, sleeps, until};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize},
};
use std::{
    fs,
    fs::File,
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

/// A user's terminal: a keyboard, a screen, and the end that programs have.
struct Terminal {
    keyboard: File,
    end: File,
    screen: Arc<Mutex<String>>,
    before: Termios,
}

impl Terminal {
    fn new(rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let end = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        let keyboard = File::from(master);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut output, shown) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with an error when the last holder of the other end is gone.
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        let before = tcgetattr(&end).unwrap();
        let terminal = Self { keyboard, end, screen, before };
        terminal.resize(rows, columns);
        terminal
    }

    fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.end, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    fn spawn(&self, mut command: Command) -> Child {
        let stdio = || Stdio::from(self.end.try_clone().unwrap());
        command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap()
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        until(&format!("the screen shows {text:?}"), || self.screen.lock().unwrap().contains(text));
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.end).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    #[track_caller]
    fn is_as_before(&self) {
        let now = tcgetattr(&self.end).unwrap();
        assert_eq!(now.local_modes, self.before.local_modes);
        assert_eq!(now.input_modes, self.before.input_modes);
        assert_eq!(now.output_modes, self.before.output_modes);
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// `run` of a script in the foreground, its output in pipes.
fn run(machine: &Machine, name: &str, script: &str) -> Child {
    let root = machine.root.to_str().unwrap();
    let words = ["run", "--rm", "--network", "none", "--name", name, "--rootfs", root, "sh", "-c", script];
    machine.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn line(child: &mut Child) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn is_running(machine: &Machine, name: &str) -> bool {
    !machine.ok(&["ps", "-q", "--filter", &format!("name={name}")]).is_empty()
}

#[test]
fn keys_and_sizes_of_the_terminal_are_the_programs() {
    let machine = Machine::new();
    let mut terminal = Terminal::new(33, 111);
    let root = machine.root.to_str().unwrap();
    let script = "trap 'stty size' WINCH; trap 'echo interrupted; exit 4' INT; stty size; while :; do sleep 0.05; done";
    let command = machine.command(&["run", "--rm", "-it", "--network", "none", "--rootfs", root, "sh", "-c", script]);
    let mut child = terminal.spawn(command);
    terminal.shows("33 111");
    assert!(terminal.is_raw());
    terminal.resize(40, 90);
    send(&child, Signal::WINCH);
    terminal.shows("40 90");
    terminal.types("\x03");
    assert_eq!(child.wait().unwrap().code(), Some(4));
    terminal.shows("interrupted");
    terminal.is_as_before();
}

#[test]
fn the_detach_keys_leave_it_running_and_attach_finds_it_again() {
    let machine = Machine::new();
    let mut terminal = Terminal::new(24, 80);
    let root = machine.root.to_str().unwrap();
    let script = "while read word; do echo \"<$word>\"; test $word = end && exit 6; done";
    let flags = ["run", "-it", "--name", "one", "--network", "none", "--rootfs", root, "sh", "-c", script];
    let mut child = terminal.spawn(machine.command(&flags));
    until("keys are passed on", || terminal.is_raw());
    terminal.types("first\r");
    terminal.shows("<first>");
    terminal.types("\x10\x11");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    terminal.shows("jdos container attach one");
    terminal.is_as_before();
    assert!(is_running(&machine, "one"));

    let mut child = terminal.spawn(machine.command(&["attach", "--detach-keys", "ctrl-x", "one"]));
    until("keys are passed on", || terminal.is_raw());
    terminal.types("second\r");
    terminal.shows("<second>");
    terminal.types("\x18");
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let mut child = terminal.spawn(machine.command(&["attach", "one"]));
    until("keys are passed on", || terminal.is_raw());
    terminal.types("end\r");
    assert_eq!(child.wait().unwrap().code(), Some(6));
    terminal.is_as_before();

    let mut child = terminal.spawn(machine.command(&["start", "-a", "-i", "one"]));
    until("keys are passed on", || terminal.is_raw());
    terminal.types("end\r");
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

#[test]
fn a_signal_to_a_raw_session_restores_the_terminal_and_leaves_the_container() {
    let machine = Machine::new();
    let terminal = Terminal::new(24, 80);
    let root = machine.root.to_str().unwrap();
    let flags = ["run", "-it", "--name", "one", "--network", "none", "--rootfs", root, "sleep", "1000"];
    for (signal, code) in [(Signal::HUP, 129), (Signal::TERM, 143)] {
        let words = if signal == Signal::HUP { &flags[..] } else { &["attach", "one"] };
        let mut child = terminal.spawn(machine.command(words));
        until("keys are passed on", || terminal.is_raw());
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        terminal.is_as_before();
        assert!(is_running(&machine, "one"));
    }
    machine.ok(&["rm", "-f", "one"]);
}

#[test]
fn exec_on_a_terminal_follows_it() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    let mut terminal = Terminal::new(30, 100);
    let script = "trap 'stty size' WINCH; trap 'echo interrupted; exit 8' INT; stty size; while :; do sleep 0.05; done";
    let mut child = terminal.spawn(machine.command(&["exec", "-it", "one", "sh", "-c", script]));
    terminal.shows("30 100");
    terminal.resize(41, 91);
    send(&child, Signal::WINCH);
    terminal.shows("41 91");
    terminal.types("\x03");
    assert_eq!(child.wait().unwrap().code(), Some(8));
    terminal.shows("interrupted");
    terminal.is_as_before();
    machine.ok(&["rm", "-f", "one"]);
}

#[test]
fn a_terminal_has_its_size_before_the_program_looks() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    let root = machine.root.to_str().unwrap();
    let run = ["run", "-it", "--name", "two", "--network", "none", "--rootfs", root, "stty", "size"];
    machine.jdos(&["create", "--name", "three", "-it", "--network", "none", "--rootfs", root, "stty", "size"]).ok();
    // More than once: that the size came later was a matter of luck.
    for _ in 0..10 {
        for words in [&["exec", "-it", "one", "stty", "size"][..], &run, &["start", "-ai", "three"]] {
            let terminal = Terminal::new(33, 111);
            let mut child = terminal.spawn(machine.command(words));
            assert_eq!(child.wait().unwrap().code(), Some(0), "{words:?}: {}", terminal.screen.lock().unwrap());
            terminal.shows("33 111");
        }
        machine.ok(&["rm", "two"]);
    }
    machine.ok(&["rm", "-f", "one", "three"]);
}

#[test]
fn exec_leaves_the_callers_terminal_to_its_owner() {
    use std::os::unix::fs::MetadataExt;
    let machine = Machine::new();
    machine.sleeper("one", &["--userns", "host"]);
    let terminal = Terminal::new(24, 80);
    let mut child = terminal.spawn(machine.command(&["exec", "-u", "app", "one", "id", "-u"]));
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", terminal.screen.lock().unwrap());
    terminal.shows("1000");
    assert_eq!(terminal.end.metadata().unwrap().uid(), 0);
    machine.ok(&["rm", "-f", "one"]);
}

#[test]
fn stats_go_on_until_all_that_is_watched_has_ended() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    machine.sleeper("two", &[]);
    let terminal = Terminal::new(24, 100);
    let mut child = terminal.spawn(machine.command(&["stats", "-i", "1", "one", "two"]));
    terminal.shows("one ");
    machine.ok(&["kill", "one"]);
    machine.ok(&["wait", "one"]);
    terminal.screen.lock().unwrap().clear();
    until("only the other one is shown", || {
        let screen = terminal.screen.lock().unwrap();
        screen.rsplit("NAME").next().is_some_and(|last| last.contains("two ") && !last.contains("one "))
    });
    machine.ok(&["rm", "-f", "two"]);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", terminal.screen.lock().unwrap());
    machine.jdos(&["stats", "one"]).code(4).says(&["exited"]);
}

#[test]
fn signals_go_to_the_program_until_patience_ends() {
    let machine = Machine::new();
    let mut child = run(&machine, "one", "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    assert_eq!(line(&mut child), "ready");
    send(&child, Signal::TERM);
    let outcome = finish(child).code(5);
    assert_eq!(outcome.stdout, "got\n");

    let mut child = run(&machine, "two", "trap 'echo no' INT; echo ready; while :; do sleep 0.05; done");
    assert_eq!(line(&mut child), "ready");
    for _ in 0..2 {
        send(&child, Signal::INT);
        assert_eq!(line(&mut child), "no");
    }
    send(&child, Signal::INT);
    finish(child).code(130).says(&["two goes on", "jdos container stop two"]);
    assert!(is_running(&machine, "two"));
    machine.ok(&["rm", "-f", "two"]);
}

#[test]
fn a_container_whose_output_nobody_reads_is_stopped() {
    let machine = Machine::new();
    let mut child = run(&machine, "one", "trap 'exit 0' TERM; while :; do echo y; done");
    assert_eq!(line(&mut child), "y");
    drop(child.stdout.take());
    finish(child).code(141).says(&["nobody reads the output of one"]);
    machine.nothing_is_left();

    // One that does not heed the stop signal: waiting for it can be interrupted.
    let mut child = run(&machine, "two", "trap '' TERM; while :; do echo y; done");
    assert_eq!(line(&mut child), "y");
    drop(child.stdout.take());
    let mut said = [0; 6];
    child.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"nobody");
    send(&child, Signal::INT);
    let Outcome { code, .. } = finish(child);
    assert_eq!(code, 130);
    machine.ok(&["rm", "-f", "two"]);
}

#[test]
fn input_in_a_pipe_ends_where_it_ends() {
    let machine = Machine::new();
    let root = machine.root.to_str().unwrap();
    let flags = ["run", "--rm", "-i", "--network", "none", "--rootfs", root, "sh", "-c", "cat | wc -c; exit 3"];
    let mut child = machine.command(&flags).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&vec![b'x'; 5_000_000]));
    let outcome = finish(child).code(3);
    writer.join().unwrap().unwrap();
    assert_eq!(outcome.stdout.trim(), "5000000");
}

/// With its error output on a terminal the program gets pipes, and this command carries what goes through them.
#[test]
fn exec_carries_all_that_goes_in_and_comes_out() {
    let machine = Machine::new();
    machine.sleeper("one", &[]);
    let terminal = Terminal::new(24, 80);
    let text: Vec<u8> = (0..20_000_000u32).map(|at| (at ^ (at >> 9)).to_le_bytes()[0]).collect();
    for script in ["cat", "cat; echo end; exit 5"] {
        let mut command = machine.command(&["exec", "-i", "one", "sh", "-c", script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(terminal.end.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let (mut stdin, all) = (child.stdin.take().unwrap(), text.clone());
        let writer = thread::spawn(move || stdin.write_all(&all));
        let mut out = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
        writer.join().unwrap().unwrap();
        let (ending, code): (&[u8], i32) = if script == "cat" { (b"", 0) } else { (b"end\n", 5) };
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(out.strip_suffix(ending) == Some(&text), "{script}: {} bytes came back", out.len());
    }
}

#[test]
fn the_ninth_client_is_told_that_there_are_eight() {
    let machine = Machine::new();
    machine.start("one", &[], "trap 'exit 3' TERM; while :; do echo y; sleep 0.05; done");
    let mut clients: Vec<_> = (0..8)
        .map(|_| machine.command(&["attach", "one"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for client in &mut clients {
        assert_eq!(line(client), "y");
    }
    machine.jdos(&["attach", "one"]).code(125).says(&["lost the connection to one", "which is 8"]);
    machine.ok(&["stop", "one"]);
    for client in clients {
        finish(client).code(3);
    }
}

#[test]
fn a_session_outlives_the_monitor() {
    let machine = Machine::new();
    let mut child = run(&machine, "one", "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    assert_eq!(line(&mut child), "ready");
    let id = machine.inspect("one")["id"].as_str().unwrap().to_owned();
    let monitor = monitor_of(&id);
    kill_process(monitor, Signal::KILL).unwrap();
    until("another monitor took over", || find_monitor(&id).is_some_and(|other| other != monitor));
    send(&child, Signal::TERM);
    let outcome = finish(child).code_of_adopted(5);
    assert_eq!(outcome.stdout, "got\n");
}

/// A process that is killed closes its files one after another, its socket maybe before its lock.
#[test]
fn attach_waits_for_the_last_of_a_killed_monitor_and_gives_another() {
    let machine = Machine::new();
    machine.start("one", &[], "while :; do echo y; sleep 0.05; done");
    let id = machine.inspect("one")["id"].as_str().unwrap().to_owned();
    let monitor = monitor_of(&id);
    let lock = File::open(machine.path("run/containers").join(&id).join("lock")).unwrap();
    kill_process(monitor, Signal::KILL).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let mut child = machine.command(&["attach", "one"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    until("attach waits, or has ended", || sleeps(&child) || child.try_wait().unwrap().is_some());
    drop(lock);
    assert_eq!(line(&mut child), "y");
    assert_ne!(monitor_of(&id), monitor);
    machine.ok(&["kill", "one"]);
    finish(child).code_of_adopted(137);
}

fn monitor_of(id: &str) -> Pid {
    find_monitor(id).expect("a running container has a monitor")
}

/// The process that was told of this container's log and is no ancestor of ours.
fn find_monitor(id: &str) -> Option<Pid> {
    let log = format!("containers/{id}/log");
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let folder = entry.ok()?.path();
            let pid = folder.file_name()?.to_str()?.parse().ok()?;
            let line = fs::read_to_string(folder.join("cmdline")).ok()?;
            (line.starts_with("jdos-monitor") && line.contains(&log)).then(|| Pid::from_raw(pid)).flatten()
        })
        .next()
}
