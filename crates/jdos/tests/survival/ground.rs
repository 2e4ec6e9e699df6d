//! One engine on folders of its own, and everything that the kernel may hold of it.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How long anything may take before it counts as never happening.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition; panics with what was seen last when it does not come true.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(last) if Instant::now() > end => panic!("{what}: not after {PATIENCE:?}; seen last: {last}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// How often to do what is done again and again: less where time is dear.
pub fn rounds(many: usize, few: usize) -> usize {
    if std::env::var_os("JDOS_TEST_EMULATED").is_some() { few } else { many }
}

/// Ends a process at once.
pub fn kill_9(pid: i32) {
    // The process may be gone already: what matters is that it does not live.
    let done = Command::new("/bin/busybox").args(["kill", "-9", &pid.to_string()]).stderr(Stdio::null()).status();
    done.unwrap();
}

/// Random numbers that are the same in every run (xorshift64*, Vigna 2016).
pub struct Random(pub u64);
impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        usize::try_from(number >> 33).unwrap() % limit
    }
}

/// What a process of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Manager,
    Shim,
    Monitor,
    /// In a container's control group and none of the others.
    Inside,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub role: Role,
    pub pid: i32,
    /// The container that it belongs to.
    pub id: Option<String>,
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub id: String,
    pub name: String,
    pub pid: i32,
}

pub struct Ground {
    folder: tempfile::TempDir,
    tag: String,
}

impl Ground {
    /// An engine, and a root file system with a shell that all its containers share.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("jdos-survival-").tempdir().unwrap();
        let bin = folder.path().join("root/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).expect("the static busybox of package busybox-static");
        for name in ["sh", "sleep"] {
            symlink("busybox", bin.join(name)).unwrap();
        }
        let mut ground = Self { folder, tag: String::new() };
        ground.done(&["create", "--name", "first", "--network", "none", "--rootfs", &ground.root(), "sleep", "1000"]);
        ground.done(&["start", "first"]);
        let group = ground.json(&["inspect", "first"])[0]["cgroup"].as_str().unwrap().to_owned();
        ground.tag = group.split('/').next().unwrap().to_owned();
        assert!(ground.tag.len() > "jdos-".len(), "{group}");
        ground.done(&["rm", "-f", "first"]);
        ground
    }
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
    pub fn root(&self) -> String {
        self.path().join("root").display().to_string()
    }
    fn run(&self) -> PathBuf {
        self.path().join("run")
    }
    fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// One verb, not yet run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
        command.args(["container", "--data"]).arg(self.data()).arg("--run").arg(self.run()).args(words);
        command.stdin(Stdio::null());
        command
    }
    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }
    /// One verb that must succeed; gives what it prints.
    pub fn done(&self, words: &[&str]) -> String {
        let output = self.output(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {}: {errors}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }
    pub fn json(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = [words, &["--json"]].concat();
        serde_json::from_str(&self.done(&words)).unwrap()
    }
    pub fn running(&self) -> Vec<Running> {
        let all = self.json(&["ps", "-a"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let lives = all.as_array().unwrap().iter().filter(|one| one["status"] == "running");
        lives
            .map(|one| Running {
                id: text(&one["id"]),
                name: text(&one["name"]),
                pid: i32::try_from(one["pid"].as_i64().unwrap()).unwrap(),
            })
            .collect()
    }
    pub fn names(&self) -> Vec<String> {
        let all = self.json(&["ps", "-a"]);
        all.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What is kept of a container's output: records of a 16-byte header (nanoseconds, length, stream and others, little
    /// endian) and what was written.
    pub fn log(&self, id: &str) -> String {
        // The monitor makes it with the first output.
        let bytes = fs::read(self.data().join("containers").join(id).join("log/current")).unwrap_or_default();
        let (mut rest, mut text) = (bytes.as_slice(), Vec::new());
        while let Some((header, more)) = rest.split_at_checked(16) {
            let length = u32::from_le_bytes(header[8..12].try_into().unwrap());
            // The last record may be just being written.
            let Some((payload, next)) = more.split_at_checked(usize::try_from(length).unwrap()) else { break };
            text.extend_from_slice(payload);
            rest = next;
        }
        String::from_utf8(text).unwrap()
    }

    /// Every process that belongs to this engine, but zombies.
    pub fn processes(&self) -> Vec<Process> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            let Some(pid) = path.file_name().unwrap().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that ends while it is looked at has nothing to read, like one that is not ours.
            let words = fs::read(path.join("cmdline")).unwrap_or_default();
            if words.is_empty() {
                continue;
            }
            let words = String::from_utf8_lossy(&words).into_owned();
            let mine = words.contains(self.path().to_str().unwrap());
            let groups = fs::read_to_string(path.join("cgroup")).unwrap_or_default();
            let inside = groups.lines().find_map(|line| line.split_once(&format!(":/{}/", self.tag))).map(|(_, id)| id);
            let first = words.split('\0').next().unwrap_or_default();
            let locked = || {
                let target = fs::read_link(path.join("fd/5")).ok()?;
                let within = target.strip_prefix(self.run().join("containers")).ok()?;
                Some(within.components().next()?.as_os_str().to_str()?.to_owned())
            };
            let (role, id) = match (first, inside) {
                ("jdos-monitor", _) if mine => (Role::Monitor, locked()),
                ("jdos-shim", None) => match locked() {
                    Some(id) => (Role::Shim, Some(id)),
                    None => continue,
                },
                (_, Some(id)) => (Role::Inside, Some(id.trim().to_owned())),
                (first, None) if mine && first == env!("CARGO_BIN_EXE_jdos") => (Role::Manager, None),
                _ => continue,
            };
            found.push(Process { role, pid, id });
        }
        found
    }
    pub fn of_role(&self, role: Role) -> Vec<Process> {
        self.processes().into_iter().filter(|process| process.role == role).collect()
    }
    /// Waits until nothing is being started, stopped or cleared away.
    pub fn quiet(&self) {
        until("managers and shims to end", || {
            let busy: Vec<_> =
                self.processes().into_iter().filter(|one| matches!(one.role, Role::Manager | Role::Shim)).collect();
            if busy.is_empty() { Ok(()) } else { Err(format!("{busy:?}")) }
        });
    }

    /// Reconciles until what there is, is what the running containers need, and no more.
    pub fn settle(&self) -> Vec<Running> {
        self.quiet();
        until("all to fit together after `reconcile`", || {
            let output = self.output(&["reconcile"]);
            assert!(output.status.success(), "reconcile: {}", String::from_utf8_lossy(&output.stderr));
            let running = self.running();
            let wrong = self.surplus(&running);
            if wrong.is_empty() { Ok(running) } else { Err(wrong.join("; ")) }
        })
    }

    /// What does not fit these running containers: too much of anything, or a monitor too few.
    pub fn surplus(&self, running: &[Running]) -> Vec<String> {
        let alive: BTreeSet<String> = running.iter().map(|one| one.id.clone()).collect();
        let mut wrong = Vec::new();
        let mut expect = |what: &str, found: Vec<String>| {
            wrong.extend(found.into_iter().filter(|id| !alive.contains(id)).map(|id| format!("{what} of {id}")));
        };
        let processes = self.processes();
        expect("process", processes.iter().map(|one| one.id.clone().unwrap_or(format!("{one:?}"))).collect());
        expect("control group", self.groups());
        expect("run folder", names_in(&self.run().join("containers")));
        let published = names_in(&self.run().join("published")).into_iter();
        expect("published ports", published.map(|name| name.trim_end_matches(".json").to_owned()).collect());
        expect("user ids", self.leases().into_values().collect());
        expect("interface", self.interfaces());
        for one in running {
            let monitors =
                processes.iter().filter(|other| other.role == Role::Monitor && other.id.as_ref() == Some(&one.id));
            if monitors.count() != 1 {
                wrong.push(format!("not one monitor of {}", one.name));
            }
        }
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        wrong.extend(
            text.lines()
                .filter(|line| line.contains(self.path().to_str().unwrap()))
                .map(|line| format!("mount {line}")),
        );
        let programs = names_in(&self.run().join("bin")).into_iter();
        wrong.extend(programs.filter(|name| name.contains('.')).map(|name| format!("half a program {name}")));
        let recorded = names_in(&self.data().join("containers"));
        let records =
            recorded.iter().filter(|id| !self.data().join("containers").join(id).join("record.json").exists());
        wrong.extend(records.map(|id| format!("folder without record {id}")));
        for name in names_in(&self.data().join("names")) {
            let target = fs::read_link(self.data().join("names").join(&name)).unwrap_or_default();
            if !recorded.iter().any(|id| Path::new(id) == target) {
                wrong.push(format!("name {name} of nothing"));
            }
        }
        wrong
    }

    /// Ends and removes all; then nothing may be left anywhere.
    pub fn clear(&self) {
        let namespaces = self.namespaces();
        self.settle();
        for name in self.names() {
            self.done(&["rm", "-f", &name]);
        }
        let left = self.settle();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.names(), Vec::<String>::new());
        assert_eq!(names_in(&self.data().join("containers")), Vec::<String>::new());
        assert_eq!(names_in(&self.data().join("users")), Vec::<String>::new());
        let table = Command::new("nft").args(["list", "table", "inet", &self.tag]).output().unwrap();
        let table = String::from_utf8(table.stdout).unwrap();
        let published = table.lines().filter(|line| line.contains(" : ") && !line.trim_start().starts_with("type"));
        assert_eq!(published.collect::<Vec<_>>(), Vec::<&str>::new());
        until("the namespaces of containers to go", || {
            let left: Vec<_> = all_namespaces().into_iter().filter(|(_, name)| namespaces.contains(name)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }

    /// The namespaces that only containers of ours are in.
    fn namespaces(&self) -> BTreeSet<String> {
        let inside: BTreeSet<i32> = self.of_role(Role::Inside).iter().map(|one| one.pid).collect();
        let all = all_namespaces();
        let others: BTreeSet<_> =
            all.iter().filter(|(pid, _)| !inside.contains(pid)).map(|(_, name)| name.clone()).collect();
        all.into_iter().map(|(_, name)| name).filter(|name| !others.contains(name)).collect()
    }
    /// Containers with a control group, in whatever hierarchy.
    fn groups(&self) -> Vec<String> {
        let all = self.group_folders().into_iter().flat_map(|folder| folders_in(&folder));
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }
    /// The group above those of the containers, in every hierarchy.
    fn group_folders(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = text.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
        points.map(|point| Path::new(point).join(&self.tag)).filter(|folder| folder.exists()).collect()
    }
    /// Ranges of user ids, and whose they are.
    fn leases(&self) -> BTreeMap<String, String> {
        let folder = self.data().join("users");
        let holder = |name: &String| {
            let path = folder.join(name);
            let link = fs::read_link(&path).map(|target| target.display().to_string());
            link.or_else(|_| fs::read_to_string(&path)).unwrap_or_default()
        };
        names_in(&folder).into_iter().map(|name| (name.clone(), holder(&name))).collect()
    }
    /// Containers that the alias of an interface names.
    fn interfaces(&self) -> Vec<String> {
        let mark = format!("{} bridge ", self.tag);
        let aliases = names_in(Path::new("/sys/class/net")).into_iter();
        aliases
            .filter_map(|name| fs::read_to_string(Path::new("/sys/class/net").join(name).join("ifalias")).ok())
            .filter_map(|alias| Some(alias.strip_prefix(&mark)?.split_whitespace().next()?.to_owned()))
            .collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Also after a failed check: containers do not end by themselves, and the machine is used on.
        for process in self.processes().iter().filter(|one| one.role != Role::Inside) {
            kill_9(process.pid);
        }
        for process in self.processes() {
            kill_9(process.pid);
        }
        let output = self.output(&["reconcile"]);
        if !output.status.success() {
            eprintln!("reconcile: {}", String::from_utf8_lossy(&output.stderr));
        }
        for network in names_in(&self.data().join("networks")).iter().filter(|name| *name == "bridge.json") {
            let output = self.output(&["network", "rm", network.trim_end_matches(".json")]);
            if !output.status.success() {
                eprintln!("network rm: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        for folder in self.group_folders() {
            if let Err(error) = fs::remove_dir(&folder) {
                eprintln!("{}: {error}", folder.display());
            }
        }
        let table = Command::new("nft").args(["delete", "table", "inet", &self.tag]).stderr(Stdio::null()).status();
        if let Err(error) = table {
            eprintln!("nft: {error}");
        }
    }
}

fn all_namespaces() -> Vec<(i32, String)> {
    let mut all = Vec::new();
    for name in names_in(Path::new("/proc")) {
        let Ok(pid) = name.parse::<i32>() else { continue };
        for kind in ["net", "mnt", "user"] {
            if let Ok(target) = fs::read_link(format!("/proc/{pid}/ns/{kind}")) {
                all.push((pid, target.display().to_string()));
            }
        }
    }
    all
}

/// Names in a folder; none when there is no such folder.
pub fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}
fn folders_in(folder: &Path) -> Vec<String> {
    names_in(folder).into_iter().filter(|name| folder.join(name).is_dir()).collect()
}
