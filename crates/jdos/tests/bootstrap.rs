//! `jdos image bootstrap` killed in the middle: what it started ends with it, and what it left goes with the next work.
#![allow(clippy::unwrap_used)] // helpers of tests are tests, which clippy sees in functions marked so only

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

fn bootstrap(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
    command.args(["image", "bootstrap", "base", "--data"]).arg(data);
    command
}

/// Processes with this folder among their arguments, or whose root or working folder is below it.
fn processes(folder: &Path) -> Vec<String> {
    let of = |entry: fs::DirEntry| {
        let path = entry.path();
        let line = String::from_utf8_lossy(&fs::read(path.join("cmdline")).ok()?).replace('\0', " ");
        let links = ["cwd", "root"].map(|name| fs::read_link(path.join(name)).unwrap_or_default());
        (line.contains(folder.to_str()?) || links.iter().any(|link| link.starts_with(folder))).then_some(line)
    };
    fs::read_dir("/proc").unwrap().filter_map(|entry| of(entry.ok()?)).collect()
}

#[test]
fn killed_it_takes_everything_along() {
    let folder = tempfile::tempdir().unwrap();
    let works = folder.path().join("images/bootstrap");
    let mut child = bootstrap(folder.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let seen: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.contains("downloading packages")).collect();
    assert!(seen.iter().any(|line| line.contains("resolving packages")), "{seen:?}");
    assert_eq!(fs::read_dir(&works).unwrap().count(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes(folder.path());
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "still there: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(fs::read_dir(&works).unwrap().count(), 1);
    // A collection finds it.
    let prune = Command::new(env!("CARGO_BIN_EXE_jdos"))
        .args(["image", "prune", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(prune.status.success(), "{prune:?}");
    assert_eq!(fs::read_dir(&works).unwrap().count(), 0);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(folder.path().to_str().unwrap()), "{table}");
}
