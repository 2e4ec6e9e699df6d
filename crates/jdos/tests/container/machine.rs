//! Folders of one test, the program that works on them, and the proof that nothing is left of it.

use container::layout::Layout;
use serde_json::Value;
use std::{
    fs,
    io::Read,
    os::unix::{
        fs::{MetadataExt, symlink},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longer than any step takes on a loaded machine; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// Data, run folder and root file system of one test.
pub struct Machine {
    folder: TempDir,
    /// The container's root file system.
    pub root: PathBuf,
    tag: String,
    /// File systems of this test's own, to be unmounted at the end.
    mounted: Vec<PathBuf>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code, or 128 + the signal.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Machine {
    pub fn new() -> Self {
        assert_eq!(fs::metadata("/proc/self").unwrap().uid(), 0, "these tests make containers, which takes root");
        let folder = tempfile::Builder::new().prefix("jdos-test-").tempdir().unwrap();
        let root = folder.path().join("root");
        make_root(&root);
        let layout = Layout::open(&folder.path().join("data"), Some(&folder.path().join("run"))).unwrap();
        Self { tag: layout.tag().to_owned(), folder, root, mounted: Vec::new() }
    }

    /// With a data folder that holds no more than this (as mount(8) has it: `4m`).
    pub fn with_small_disk(size: &str) -> Self {
        let mut machine = Self::new();
        let data = machine.path("data");
        let options = format!("size={size},mode=0711");
        let mut mount = Command::new("mount");
        let done = mount.args(["-t", "tmpfs", "-o", &options, "none"]).arg(&data).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        machine.mounted.push(data);
        machine
    }

    /// A path in the test's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder made anew with this file in it.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The program with `container --data … --run …` before these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
        command.arg("container").arg("--data").arg(self.path("data")).arg("--run").arg(self.path("run"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Does it and waits for the end.
    pub fn jdos(&self, arguments: &[&str]) -> Outcome {
        finish(self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Does it, which must work; gives what it printed without white space at the end.
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.jdos(arguments).ok()
    }

    /// `run --rm` without a network on the test's root.
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Outcome {
        let root = self.root.to_str().unwrap();
        let mut words = vec!["run", "--rm"];
        if !flags.contains(&"--network") {
            words.extend(["--network", "none"]);
        }
        if !flags.contains(&"--layer") && !flags.contains(&"--bundle") {
            words.extend(["--rootfs", root]);
        }
        words.extend(flags);
        words.extend(command);
        self.jdos(&words)
    }

    /// A script in a container of its own.
    pub fn sh(&self, flags: &[&str], script: &str) -> Outcome {
        self.run(flags, &["sh", "-c", script])
    }

    /// Starts a container of this name in the background that runs a script.
    pub fn start(&self, name: &str, flags: &[&str], script: &str) {
        let root = self.root.to_str().unwrap();
        let mut words = vec!["run", "-d", "--name", name, "--rootfs", root];
        if !flags.contains(&"--network") {
            words.extend(["--network", "none"]);
        }
        words.extend(flags);
        words.extend(["sh", "-c", script]);
        self.ok(&words);
    }

    /// Starts a container of this name in the background that waits to be ended.
    pub fn sleeper(&self, name: &str, flags: &[&str]) {
        self.start(name, flags, "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done");
    }

    /// A script in a running container.
    pub fn inside(&self, name: &str, script: &str) -> Outcome {
        self.jdos(&["exec", name, "sh", "-c", script])
    }

    /// All that is known of a container.
    pub fn inspect(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.ok(&["inspect", name])).unwrap();
        all[0].clone()
    }

    /// The container's control group in a hierarchy of its own or, on pure v2, in the only one.
    pub fn group(&self, name: &str, controller: &str) -> PathBuf {
        let group = self.inspect(name)["cgroup"].as_str().unwrap().to_owned();
        let own = Path::new("/sys/fs/cgroup").join(controller).join(&group);
        if own.exists() { own } else { Path::new("/sys/fs/cgroup").join(group) }
    }

    /// Ends the monitor of a running container at once, and waits until its lock is free.
    pub fn kill_monitor(&self, name: &str) {
        let id = self.inspect(name)["id"].as_str().unwrap().to_owned();
        let lock = self.path("run").join("containers").join(&id).join("lock");
        let holder = entries(Path::new("/proc")).into_iter().find(|process| {
            let monitor = fs::read(process.join("cmdline")).is_ok_and(|line| line.starts_with(b"jdos-monitor"));
            monitor && fs::read_link(process.join("fd/5")).is_ok_and(|file| file == lock)
        });
        let holder = holder.expect("it has a monitor");
        let kill = Command::new("/bin/busybox").args(["kill", "-9"]).arg(holder.file_name().unwrap()).status().unwrap();
        assert!(kill.success(), "{kill}");
        until("the monitor is gone", || fs::read_link(holder.join("fd/5")).is_err());
    }

    /// Names of all containers there are.
    pub fn containers(&self) -> Vec<String> {
        let words = self.ok(&["ps", "-a", "-q", "--no-trunc"]);
        words.lines().map(str::to_owned).collect()
    }

    /// What is left on the machine that belongs to this test.
    fn left_over(&self) -> Vec<String> {
        let mut left = Vec::new();
        for hierarchy in entries(Path::new("/sys/fs/cgroup")) {
            let ours = hierarchy.join(&self.tag);
            left.extend(entries(&ours).into_iter().filter(|path| path.is_dir()).map(|path| path.display().to_string()));
        }
        let flat = Path::new("/sys/fs/cgroup").join(&self.tag);
        left.extend(entries(&flat).into_iter().filter(|path| path.is_dir()).map(|path| path.display().to_string()));
        for link in entries(Path::new("/sys/class/net")) {
            let alias = fs::read_to_string(link.join("ifalias")).unwrap_or_default();
            if alias.split_ascii_whitespace().next() == Some(self.tag.as_str()) {
                left.push(format!("{} ({})", link.display(), alias.trim()));
            }
        }
        let needle = self.folder.path().to_str().unwrap();
        for process in entries(Path::new("/proc")) {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let numbered = process.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit());
            if numbered && line.contains(needle) {
                left.push(format!("{}: {line}", process.display()));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(needle)).map(str::to_owned));
        for folder in ["data/containers", "data/names", "run/containers", "run/published"] {
            left.extend(entries(&self.path(folder)).into_iter().map(|path| path.display().to_string()));
        }
        let leases = entries(&self.path("data/users")).into_iter();
        let held = leases.filter(|path| fs::read_to_string(path).is_ok_and(|text| !text.is_empty()));
        left.extend(held.map(|path| path.display().to_string()));
        let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
        let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
        left.extend(
            tables.lines().filter(|line| line.split(' ').next_back() == Some(self.tag.as_str())).map(str::to_owned),
        );
        left
    }

    /// Fails when a container that was to end by itself has left something on the machine.
    pub fn nothing_is_left(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.left_over();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {left:#?}");
            pause();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let ids = self.jdos(&["ps", "-a", "-q", "--no-trunc"]).stdout;
        let ids: Vec<&str> = ids.lines().collect();
        if !ids.is_empty() {
            let removed = self.jdos(&[&["rm", "-f"], &ids[..]].concat());
            if !thread::panicking() {
                removed.ok();
            }
        }
        let networks = self.jdos(&["network", "ls", "-q"]).stdout;
        let networks: Vec<&str> = networks.lines().collect();
        if !networks.is_empty() {
            let removed = self.jdos(&[&["network", "rm"], &networks[..]].concat());
            if !thread::panicking() {
                removed.ok();
            }
        }
        if thread::panicking() {
            self.jdos(&["reconcile"]);
        }
        for folder in &self.mounted {
            let done = Command::new("umount").arg("--lazy").arg(folder).output().unwrap();
            assert!(done.status.success() || thread::panicking(), "{done:?}");
        }
        if !thread::panicking() {
            self.nothing_is_left();
        }
        for hierarchy in entries(Path::new("/sys/fs/cgroup")) {
            // The parent of the containers' groups stays by design; this one's data folder goes away.
            drop(fs::remove_dir(hierarchy.join(&self.tag)));
        }
        drop(fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.tag)));
    }
}

impl Outcome {
    /// It worked; gives its output without white space at the end.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout.trim_end().to_owned()
    }

    /// It ended with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// It was a session whose container ended with `code` under a second monitor. Since Linux 6.15 the kernel tells how a
    /// process ended that is not the asker's child; before, only who looks at it between its end and the moment when its
    /// parent takes notice can know.
    #[track_caller]
    pub fn code_of_adopted(self, code: i32) -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
        let is_told = (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 15);
        assert!(self.code == code || !is_told && self.code == 125, "{self:?}");
        self
    }

    /// It said this on its standard error.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in {self:?}");
        }
        self
    }
}

/// Waits for a command's end and for the end of its output: who keeps that open without need is found here.
pub fn finish(mut child: Child) -> Outcome {
    fn reader(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                stream.read_to_end(&mut bytes).unwrap();
            }
            drop(sender.send(bytes)); // nobody listens after a failure
        });
        receiver
    }
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("process {} did not end in {PATIENCE:?}", child.id());
        }
        pause();
    };
    let text = |stream: mpsc::Receiver<Vec<u8>>| {
        let bytes = stream.recv_timeout(PATIENCE).expect("the output ends with the command");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
    Outcome { code, stdout: text(out), stderr: text(err) }
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never so: {what}");
        pause();
    }
}

/// Whether a process is asleep for a time: in the system call `clock_nanosleep`, by its number.
pub fn sleeps(child: &Child) -> bool {
    const NUMBER: &str = if cfg!(target_arch = "x86_64") { "230 " } else { "115 " };
    fs::read_to_string(format!("/proc/{}/syscall", child.id())).is_ok_and(|text| text.starts_with(NUMBER))
}

/// How often to do what is done again and again: less where time is dear.
pub fn rounds(many: u32, few: u32) -> u32 {
    if std::env::var_os("JDOS_TEST_EMULATED").is_some() { few } else { many }
}

/// Between two looks at a condition.
fn pause() {
    thread::sleep(Duration::from_millis(5));
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|all| all.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

/// A root file system of nothing but busybox.
pub fn make_root(root: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| is_static(path));
    let busybox = busybox.expect("these tests need a static busybox: install the package busybox-static");
    for folder in ["bin", "etc", "root", "home/app", "tmp", "proc", "dev", "sys"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let applets = Command::new(busybox).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets).unwrap().lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\nlogs:x:1002:app\n").unwrap();
}

/// An ELF file without an interpreter (program header of type 3).
fn is_static(path: &Path) -> bool {
    let Ok(bytes) = fs::read(path) else { return false };
    let number = |at: usize, size: usize| {
        bytes.get(at..at + size).map(|bytes| bytes.iter().rev().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else { return false };
    bytes.starts_with(b"\x7fELF") && (0..count).all(|index| number(table + index * size, 4) != Some(3))
}
