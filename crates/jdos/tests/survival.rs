//! Whatever is killed, whenever: nothing else is lost, and nothing is left.
//!
//! Drives the program itself, with folders of its own, on the real kernel as root. Every check is on what the kernel and
//! the folders hold, not on what the program says of itself.
#![allow(clippy::unwrap_used, missing_docs)] // helpers of tests are tests, which clippy sees in functions marked so only

#[path = "survival/ground.rs"]
mod ground;
#[path = "survival/images.rs"]
mod images;

use ground::{Ground, Random, Role, Running, kill_9, names_in, rounds, until};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::TcpListener,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A port that nobody has at the moment.
fn port() -> String {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port().to_string()
}

/// Containers that stay, of every kind: each is started again when it itself was killed.
struct Standing {
    flags: Vec<(&'static str, Vec<String>)>,
    pids: BTreeMap<String, i32>,
}

impl Standing {
    fn new() -> Self {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let flags = vec![
            ("published", words(&format!("-p {}:80", port()))),
            ("bridged", words("--network bridge")),
            ("passing", words(&format!("--rm -p {}:80", port()))),
            ("alone", words("--network none")),
        ];
        Self { flags, pids: BTreeMap::new() }
    }
    fn run(&mut self, ground: &Ground, index: usize) {
        let (name, flags) = &self.flags[index];
        let root = ground.root();
        let mut words = vec!["run", "-d", "--replace", "--name", name];
        words.extend(flags.iter().map(String::as_str));
        words.extend(["--rootfs", &root, "sleep", "1000"]);
        ground.done(&words);
        let running = ground.running();
        let mine = running.iter().find(|one| one.name == *name).expect("it was just started");
        self.pids.insert((*name).to_owned(), mine.pid);
    }
    fn all(&mut self, ground: &Ground) {
        for index in 0..self.flags.len() {
            self.run(ground, index);
        }
    }
    /// Those that were not killed run on, with the same process.
    fn check(&self, running: &[Running]) {
        for (name, pid) in &self.pids {
            let found = running.iter().find(|one| one.name == *name);
            assert_eq!(found.map(|one| one.pid), Some(*pid), "{name} was lost, though it was not killed");
        }
    }
}

#[test]
fn two_hundred_kills_lose_and_leave_nothing() {
    const SEED: u64 = 0x5eed_1e55_0bad_cafe;
    let seed = std::env::var("JDOS_SEED").map_or(SEED, |text| text.parse().unwrap());
    println!("seed {seed} (JDOS_SEED sets another)");
    let ground = Ground::new();
    let random = &mut Random(seed);
    let mut standing = Standing::new();
    standing.all(&ground);
    let mut count = BTreeMap::new();
    let mut kills = 0;
    while kills < rounds(200, 40) {
        for _ in 0..random.below(5) + 1 {
            kills += 1;
            // As long as most verbs take.
            let delay = Duration::from_micros(random.below(25_000) as u64);
            let what = match random.below(10) {
                0..4 => manager(&ground, random, delay),
                4..7 => shim(&ground, random, delay),
                7..9 => monitor(&ground, random),
                _ => init(&mut standing, random),
            };
            *count.entry(what).or_insert(0) += 1;
        }
        let running = ground.settle();
        standing.check(&running);
        for index in 0..standing.flags.len() {
            if !standing.pids.contains_key(standing.flags[index].0) {
                standing.run(&ground, index);
            }
        }
    }
    println!("{kills} kills: {count:?}");
    standing.check(&ground.settle());
    ground.clear();
}

/// The verbs that are cut off, on containers that nothing else is expected of.
fn verb(ground: &Ground, random: &mut Random, starts: bool) -> Command {
    let name = ["victim-0", "victim-1", "victim-2"][random.below(3)];
    let root = ground.root();
    let network = ["none", "bridge"][random.below(2)];
    let port = format!("{}:80", port());
    let mut run = vec!["run", "-d", "--replace", "--name", name, "--network", network];
    if random.below(2) == 0 {
        run.push("--rm");
    }
    if network == "bridge" {
        run.extend(["-p", &port]);
    }
    let tail = ["--rootfs", &root, "sleep", "1000"];
    run.extend(tail);
    let create = [&["create", "--name", name][..], &tail].concat();
    let mut command = match random.below(if starts { 1 } else { 7 }) {
        0..2 => ground.command(&run),
        2 => ground.command(&["stop", "-t", "0", name]),
        3 => ground.command(&["rm", "-f", name]),
        4 => ground.command(&["start", name]),
        5 => ground.command(&["reconcile"]),
        _ => ground.command(&create),
    };
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Waits for a verb that was left alone, and has to come to an end.
fn ended(ground: &Ground, child: &mut Child) -> ExitStatus {
    until("a verb to end", || {
        let seen = || {
            let wchan = fs::read_to_string(format!("/proc/{}/wchan", child.id())).unwrap_or_default();
            let words = fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
            format!("{} waits in {wchan}; {:?}", words.replace('\0', " "), ground.processes())
        };
        let last = seen();
        child.try_wait().unwrap().ok_or(last)
    })
}

fn manager(ground: &Ground, random: &mut Random, delay: Duration) -> &'static str {
    let mut child = verb(ground, random, false).spawn().unwrap();
    // Now and then another one is at work at the same time, on the same container or not, and is left alone.
    let other = (random.below(2) == 0).then(|| verb(ground, random, false).spawn().unwrap());
    std::thread::sleep(delay); // the moment of the kill, not a wait for anything
    child.kill().unwrap();
    child.wait().unwrap();
    if let Some(mut other) = other {
        ended(ground, &mut other);
    }
    "managers"
}

fn shim(ground: &Ground, random: &mut Random, delay: Duration) -> &'static str {
    let mut child = verb(ground, random, true).spawn().unwrap();
    let found = loop {
        if let Some(shim) = ground.of_role(Role::Shim).first() {
            break Some(shim.pid);
        }
        if child.try_wait().unwrap().is_some() {
            break None;
        }
    };
    if let Some(pid) = found {
        std::thread::sleep(delay);
        kill_9(pid); // which may have become the monitor by now
    }
    ended(ground, &mut child);
    if found.is_some() { "shims" } else { "shims missed" }
}

fn monitor(ground: &Ground, random: &mut Random) -> &'static str {
    let monitors = ground.of_role(Role::Monitor);
    match monitors.len() {
        0 => "monitors missed",
        many => {
            kill_9(monitors[random.below(many)].pid);
            "monitors"
        }
    }
}

fn init(standing: &mut Standing, random: &mut Random) -> &'static str {
    let names: Vec<_> = standing.pids.keys().cloned().collect();
    let Some(name) = names.get(random.below(names.len().max(1))) else { return "inits missed" };
    kill_9(standing.pids.remove(name).unwrap());
    "inits"
}

#[test]
fn what_is_written_while_nobody_monitors_is_kept() {
    let ground = Ground::new();
    for name in ["go1", "go2"] {
        let path = ground.path().join("root").join(name);
        let made = Command::new("/bin/busybox").arg("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    }
    let script = "echo one; read x </go1; echo two; echo err >&2; read x </go2; echo three; exit 7";
    let root = ground.root();
    ground.done(&["run", "-d", "--name", "writer", "--network", "none", "--rootfs", &root, "sh", "-c", script]);
    let id = ground.running()[0].id.clone();
    let log = || ground.log(&id);
    let holds = |wanted: &[&str]| {
        until("the log", || {
            let text = log();
            if wanted.iter().all(|word| text.lines().any(|line| line == *word)) { Ok(()) } else { Err(text) }
        });
    };
    // Opens only once the container waits at the other end.
    let tell = |name: &str| {
        let path = ground.path().join("root").join(name);
        let mut open = fs::OpenOptions::new();
        open.write(true).custom_flags(0o4000); // O_NONBLOCK
        until("the container to read", || open.open(&path).map_err(|error| error.to_string()))
    };
    let mut first = tell("go1");
    holds(&["one"]);
    let before = ground.running();
    let monitor = ground.of_role(Role::Monitor).first().expect("one runs").pid;
    kill_9(monitor);
    until("the monitor to go", || match ground.of_role(Role::Monitor) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    first.write_all(b"go\n").unwrap();
    let mut second = tell("go2"); // so it has written, and nobody has read
    assert_eq!(ground.of_role(Role::Monitor), [], "nobody monitors yet");
    let done = ground.json(&["reconcile"]);
    assert_eq!(done["monitors_replaced"][0], before[0].id.as_str(), "{done}");
    assert_eq!(ground.running(), before);
    holds(&["one", "two"]);
    second.write_all(b"go\n").unwrap();
    drop(second);
    let known = kernel() >= (6, 15);
    let code = ground.output(&["wait", "writer"]);
    let text = String::from_utf8_lossy(&code.stdout).into_owned();
    if known {
        assert_eq!(text.trim(), "7", "{code:?}");
    }
    holds(&["one", "two", "three"]);
    assert_eq!(log().lines().filter(|line| *line == "two").count(), 1, "{}", log());
    ground.clear();
}

/// Version of the running kernel.
fn kernel() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split('.').map(|part| part.trim().parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn a_hundred_containers_are_adopted() {
    let count = rounds(100, 20);
    let ground = Ground::new();
    let root = ground.root();
    for number in 0..count {
        let name = format!("c{number}");
        ground.done(&["run", "-d", "--name", &name, "--network", "none", "--rootfs", &root, "sleep", "1000"]);
    }
    let mut before = ground.running();
    assert_eq!(before.len(), count);
    let adopt = |killed: usize| {
        let monitors = ground.of_role(Role::Monitor);
        assert_eq!(monitors.len(), count);
        for monitor in &monitors[..killed] {
            kill_9(monitor.pid);
        }
        until("the killed to go", || match ground.of_role(Role::Monitor).len() {
            left if left == count - killed => Ok(()),
            left => Err(format!("{left} monitors")),
        });
        let start = Instant::now();
        let done = ground.json(&["reconcile"]);
        println!("{count} containers adopted, {killed} without a monitor: {:?}", start.elapsed());
        let length = |key: &str| done[key].as_array().unwrap().len();
        assert_eq!((length("adopted"), length("monitors_replaced"), length("swept")), (count, killed, 0), "{done}");
    };
    for killed in [0, count / 2, count] {
        adopt(killed);
    }
    let mut after = ground.settle();
    before.sort_by(|a, b| a.name.cmp(&b.name));
    after.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(after, before);
    let names: Vec<&str> = before.iter().map(|one| one.name.as_str()).collect();
    ground.done(&[&["rm", "-f"][..], &names].concat());
    ground.clear();
}

/// What can be seen of how far a start is.
type Stage = (&'static str, fn(&Ground, &str) -> bool);
const STAGES: [Stage; 6] = [
    ("runs", |_, _| true),
    ("has its groups", |ground, id| ground.surplus(&[]).iter().any(|left| *left == format!("control group of {id}"))),
    ("has its pipes", |ground, id| ground.path().join("run/containers").join(id).join("err").exists()),
    ("has a child", |ground, _| !ground.of_role(Role::Inside).is_empty()),
    ("has its interface", |ground, id| ground.surplus(&[]).iter().any(|left| *left == format!("interface of {id}"))),
    ("has its state", |ground, id| ground.path().join("run/containers").join(id).join("state.json").exists()),
];

#[test]
fn a_shim_killed_at_any_stage_leaves_nothing() {
    let ground = Ground::new();
    let root = ground.root();
    let port = format!("{}:80", port());
    for (stage, reached) in STAGES {
        let mut child = ground
            .command(&["run", "-d", "--rm", "--name", "victim", "-p", &port, "--rootfs", &root, "sleep", "1000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // When it is quick it has become the monitor by the time it is seen.
        let shim = until("a shim", || {
            let all = ground.processes();
            let shim = all.iter().find(|one| matches!(one.role, Role::Shim | Role::Monitor));
            shim.cloned().ok_or_else(|| format!("{all:?}"))
        });
        let id = shim.id.expect("a shim holds a lock");
        until(stage, || {
            let ended = ground.of_role(Role::Shim).is_empty();
            if ended || reached(&ground, &id) { Ok(()) } else { Err(String::new()) }
        });
        kill_9(shim.pid);
        let code = ended(&ground, &mut child);
        let running = ground.settle();
        println!("killed once it {stage}: run said {code}, left running: {}", running.len());
        // Killed before its program ran: it is gone. Killed as the monitor that it had become: the program runs on.
        assert_eq!(code.success(), !running.is_empty(), "{stage}");
        for one in &running {
            ground.done(&["rm", "-f", &one.name]);
        }
        ground.settle();
        assert_eq!(names_in(&ground.path().join("data/containers")), Vec::<String>::new(), "{stage}");
    }
    ground.clear();
}
