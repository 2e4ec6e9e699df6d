//! Real processes: signals, exit codes, panics, logs. Each test starts this binary again, in one of the roles below.
#![allow(clippy::unwrap_used, reason = "a test, though not one of the standard harness")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    env,
    error::Error,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    os::fd::OwnedFd,
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use supervisor::{
    Fate, LogConfig, Logs, Metrics, OnShutdown, Supervisor, TaskSpec, Writing, block_on, install_panic_hook,
};

const ROLE: &str = "SUPERVISOR_TEST_ROLE";
/// A test that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

const TESTS: [(&str, fn()); 9] = [
    ("a_signal_drains", a_signal_drains),
    ("a_second_signal_ends_at_once", a_second_signal_ends_at_once),
    ("a_deaf_task_is_named", a_deaf_task_is_named),
    ("hang_up_reloads", hang_up_reloads),
    ("hang_up_without_reload_drains", hang_up_without_reload_drains),
    ("nohup_is_respected", nohup_is_respected),
    ("a_panic_is_logged_wherever_it_is", a_panic_is_logged_wherever_it_is),
    ("a_terminal_gets_text", a_terminal_gets_text),
    ("a_stuck_reader_stops_nothing", a_stuck_reader_stops_nothing),
];

/// A role, or the part of the standard harness's arguments and output that cargo and nextest use. The standard harness
/// itself would start threads and write to standard output in the processes under test.
fn main() -> ExitCode {
    if let Ok(role) = env::var(ROLE) {
        return play(&role);
    }
    let arguments: Vec<_> = env::args().skip(1).collect();
    let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let mut filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if let Some(position) = arguments.iter().position(|argument| argument == "--format") {
        let value = arguments.get(position + 1);
        filters.retain(|filter| Some(*filter) != value);
    }
    let wanted = |name: &str| match filters.as_slice() {
        [] => true,
        filters if given("--exact") => filters.iter().any(|filter| *filter == name),
        filters => filters.iter().any(|filter| name.contains(filter.as_str())),
    };
    // None is ignored, so whoever asks for those gets none.
    let tests = TESTS.iter().filter(|(name, _)| wanted(name) && !given("--ignored"));
    if given("--list") {
        tests.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests {
        let ok = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        *if ok { &mut passed } else { &mut failed } += 1;
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    // As the standard harness ends.
    if failed == 0 { ExitCode::SUCCESS } else { 101.into() }
}

// Roles.

fn play(role: &str) -> ExitCode {
    let result = match role {
        "serve" | "serve deaf" | "serve reload" => serve(role),
        "panic" => panics(),
        "flood" => flood(),
        role => Err(format!("no role {role}").into()),
    };
    match result {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("{error}");
            99.into()
        }
    }
}

/// Says `ready`, and waits for a signal. A deaf one does not end by itself.
fn serve(role: &str) -> Result<u8, Box<dyn Error>> {
    let metrics = Metrics::new();
    let logs = Logs::install(&LogConfig::default(), &metrics)?;
    let deaf = role == "serve deaf";
    let exit = block_on(async {
        let mut builder = Supervisor::builder().metrics(&metrics).drain_within(Duration::from_millis(300));
        if deaf && env::var_os("LONG").is_some() {
            builder = builder.drain_within(PATIENCE * 2);
        }
        if role == "serve reload" {
            let logs = logs.clone();
            builder = builder.on_reload(move || {
                logs.set_filter("debug").unwrap();
                tracing::debug!("seen since the reload");
                println!("reloaded");
            });
        }
        let supervisor = builder.start()?;
        let spec = TaskSpec::new("server").detail("loopback").on_shutdown(OnShutdown::Drain);
        supervisor.spawn(spec, move |shutdown| async move {
            tracing::debug!("not seen");
            println!("ready");
            shutdown.requested().await;
            println!("told");
            if deaf {
                let _hold = shutdown.hold("the last request");
                std::future::pending::<()>().await;
            }
            println!("drained");
            io::Result::Ok(())
        });
        io::Result::Ok(supervisor.run().await)
    })??;
    Ok(exit.code())
}

/// A panic that no task answers for, one in a task, one on a thread of a task; the metrics afterwards.
fn panics() -> Result<u8, Box<dyn Error>> {
    let metrics = Metrics::new();
    let logs = Logs::install(&LogConfig::default(), &metrics)?;
    install_panic_hook(&metrics, &logs);
    let join = thread::Builder::new().name("raw".into()).spawn(|| panic!("nobody's fault"))?.join();
    assert!(join.is_err());
    let exit = block_on(async {
        let supervisor = Supervisor::builder().metrics(&metrics).start()?;
        let spawner = supervisor.spawner().clone();
        supervisor.spawn(TaskSpec::new("caller").on_error(Fate::Ignore), move |_| {
            let spawner = spawner.clone();
            async move { spawner.blocking("reader", supervisor::JobFate::Ignore, || panic!("page torn")).await }
        });
        supervisor.spawn(TaskSpec::new("parser"), |_| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let bytes = [0u8; 0];
            println!("{}", bytes[bytes.len() / 2]);
            io::Result::Ok(())
        });
        io::Result::Ok(supervisor.run().await)
    })??;
    print!("{}", metrics.encode());
    Ok(exit.code())
}

/// Logs more than anybody keeps for it, and says how long that took and how many lines were dropped.
fn flood() -> Result<u8, Box<dyn Error>> {
    let metrics = Metrics::new();
    let config = LogConfig { writing: Writing::Queued, ..LogConfig::default() };
    let logs = Logs::install(&config, &metrics)?;
    let text = "x".repeat(1000);
    for number in 0..20_000 {
        tracing::info!(number, text, "line");
    }
    println!("{}", metrics.encode().lines().find(|line| line.starts_with("log_lines_dropped_total")).unwrap_or("none"));
    io::stdin().read_line(&mut String::new())?;
    println!("{}", logs.flush(PATIENCE));
    Ok(0)
}

// What tests have in common.

struct Played {
    child: std::process::Child,
    stdout: BufReader<std::process::ChildStdout>,
    done: Option<mpsc::Sender<()>>,
}

impl Played {
    fn start(command: &mut Command, role: &str) -> Self {
        let mut child = command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let pid = Pid::from_child(&child);
        let (done, watched) = mpsc::channel();
        // Ends with the sender, and before the process is waited for: the number cannot be somebody else's.
        thread::spawn(move || {
            if watched.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                kill_process(pid, Signal::KILL).unwrap();
            }
        });
        Self { child, stdout, done: Some(done) }
    }

    fn this() -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.stderr(Stdio::piped()).env_remove("NO_COLOR").env_remove("RUST_BACKTRACE");
        command
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it had to say, and how it ended.
    fn end(mut self) -> (String, String, ExitStatus) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        if let Some(mut stream) = self.child.stderr.take() {
            stream.read_to_string(&mut stderr).unwrap();
        }
        self.stdout.read_to_string(&mut stdout).unwrap();
        drop(self.done.take());
        (stdout, stderr, self.child.wait().unwrap())
    }
}

fn json(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn find<'a>(log: &'a [Value], message: &str) -> &'a Value {
    let found = log.iter().find(|line| line["message"].as_str().is_some_and(|text| text.contains(message)));
    found.unwrap_or_else(|| panic!("no `{message}` in {log:#?}"))
}

// Tests.

fn a_signal_drains() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut played = Played::start(&mut Played::this(), "serve");
        assert_eq!(played.line(), "ready");
        played.signal(signal);
        let (stdout, stderr, status) = played.end();
        assert_eq!((stdout.as_str(), status.code()), ("told\ndrained\n", Some(0)), "{stderr}");
        let log = json(&stderr);
        assert_eq!(find(&log, "shutting down")["cause"], name);
        assert_eq!(find(&log, "shut down")["code"], 0);
        assert!(!stderr.contains("not seen"), "{stderr}");
    }
}

fn a_second_signal_ends_at_once() {
    for (second, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut played = Played::start(Played::this().env("LONG", "1"), "serve deaf");
        assert_eq!(played.line(), "ready");
        played.signal(Signal::TERM);
        assert_eq!(played.line(), "told");
        let began = Instant::now();
        played.signal(second);
        let (_, stderr, status) = played.end();
        assert_eq!(status.code(), Some(code), "{stderr}");
        assert!(began.elapsed() < PATIENCE / 3, "it does not wait for its deadline");
        let log = json(&stderr);
        find(&log, "second signal");
        find(&log, "cancelled before it ended: server (loopback)");
    }
}

fn a_deaf_task_is_named() {
    let mut played = Played::start(&mut Played::this(), "serve deaf");
    assert_eq!(played.line(), "ready");
    played.signal(Signal::TERM);
    let (stdout, stderr, status) = played.end();
    assert_eq!((stdout.as_str(), status.code()), ("told\n", Some(1)), "{stderr}");
    let log = json(&stderr);
    find(&log, "not all tasks ended in time");
    let line = find(&log, "cancelled before it ended");
    assert_eq!(line["task"], "server");
    assert!(line["message"].as_str().unwrap().contains("held up by the last request"), "{line}");
}

fn hang_up_reloads() {
    let mut played = Played::start(&mut Played::this(), "serve reload");
    assert_eq!(played.line(), "ready");
    played.signal(Signal::HUP);
    assert_eq!(played.line(), "reloaded");
    played.signal(Signal::TERM);
    let (stdout, stderr, status) = played.end();
    assert_eq!((stdout.as_str(), status.code()), ("told\ndrained\n", Some(0)), "{stderr}");
    let log = json(&stderr);
    let changed = find(&log, "log levels changed");
    assert_eq!((&changed["before"], &changed["filter"]), (&"info".into(), &"debug".into()));
    assert_eq!(find(&log, "seen since the reload")["level"], "DEBUG");
    let ended = find(&log, "task ended");
    assert_eq!((&ended["span"]["task"], &ended["span"]["detail"]), (&"server".into(), &"loopback".into()));
}

fn hang_up_without_reload_drains() {
    let mut played = Played::start(&mut Played::this(), "serve");
    assert_eq!(played.line(), "ready");
    played.signal(Signal::HUP);
    let (stdout, stderr, status) = played.end();
    assert_eq!((stdout.as_str(), status.code()), ("told\ndrained\n", Some(0)), "{stderr}");
}

fn nohup_is_respected() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\""]).arg(env::current_exe().unwrap()).stderr(Stdio::piped());
    let mut played = Played::start(&mut command, "serve");
    assert_eq!(played.line(), "ready");
    played.signal(Signal::HUP);
    played.signal(Signal::TERM);
    let (_, stderr, status) = played.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(find(&json(&stderr), "shutting down")["cause"], "SIGTERM", "{stderr}");
}

fn a_panic_is_logged_wherever_it_is() {
    let (stdout, stderr, status) = Played::start(&mut Played::this(), "panic").end();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let log = json(&stderr);
    let raw = find(&log, "panic: nobody's fault");
    assert_eq!((&raw["task"], &raw["thread"], &raw["level"]), (&"(outside)".into(), &"raw".into(), &"ERROR".into()));
    assert!(raw["place"].as_str().unwrap().contains("process.rs:"), "{raw}");
    assert_eq!(find(&log, "panic: page torn")["task"], "reader");
    assert_eq!(find(&log, "panic: index out of bounds")["task"], "parser");
    let ends = find(&log, "task panicked; the process ends");
    assert_eq!((&ends["task"], &ends["level"]), (&"parser".into(), &"ERROR".into()));
    assert!(ends["panic"].as_str().unwrap().starts_with("index out of bounds"), "{ends}");
    assert_eq!(find(&log, "task failed; the others go on")["error"], "reader panicked: page torn");
    for name in ["(outside)", "reader", "parser"] {
        assert!(stdout.contains(&format!("task_panics_total{{task=\"{name}\"}} 1\n")), "{stdout}");
    }
    assert!(stdout.contains("task_errors_total{task=\"caller\"} 1\n"), "{stdout}");
}

fn a_terminal_gets_text() {
    for colour in [true, false] {
        let (mut master, slave) = terminal();
        let mut command = Played::this();
        command.stderr(Stdio::from(slave));
        if !colour {
            command.env("NO_COLOR", "1");
        }
        let mut played = Played::start(&mut command, "serve");
        // It keeps the terminal open as well; only the last close ends what is read from the other side.
        drop(command);
        assert_eq!(played.line(), "ready");
        played.signal(Signal::TERM);
        let (_, _, status) = played.end();
        assert_eq!(status.code(), Some(0));
        let mut text = Vec::new();
        // The kernel says EIO when the other side is closed, after all that was written.
        let end = master.read_to_end(&mut text).unwrap_err();
        assert_eq!(end.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("INFO") && text.contains("shutting down"), "{text}");
        assert!(!text.contains("{\"timestamp"), "{text}");
        assert_eq!(text.contains('\u{1b}'), colour, "{text}");
    }
}

fn terminal() -> (File, OwnedFd) {
    use rustix::{
        fs::{Mode, OFlags, open},
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    };
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (master.into(), slave)
}

fn a_stuck_reader_stops_nothing() {
    let mut played = Played::start(&mut Played::this(), "flood");
    // Nobody reads standard error, and yet it gets here.
    let dropped = played.line();
    let dropped: u64 = dropped.strip_prefix("log_lines_dropped_total ").unwrap().parse().unwrap();
    assert!((10_000..20_000).contains(&dropped), "{dropped}");
    played.child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    let (stdout, stderr, status) = played.end();
    assert_eq!((stdout.as_str(), status.code()), ("true\n", Some(0)));
    let log = json(&stderr);
    let said: u64 = log.iter().filter(|line| line["message"] != "line").filter_map(|line| line["lines"].as_u64()).sum();
    let written = log.iter().filter(|line| line["message"] == "line").count() as u64;
    assert_eq!((said, written), (dropped, 20_000 - dropped), "what is not there is said");
}
