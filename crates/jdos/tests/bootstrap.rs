//! `jdos image bootstrap` killed in the middle: what it started ends with it, and what it left goes with the next work.
#![allow(clippy::unwrap_used)] // helpers of tests are tests, which clippy sees in functions marked so only

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

/// Runs until it says that it does this.
fn bootstrap(recipe: &str, data: &Path, step: &str) -> (Child, Lines<BufReader<ChildStderr>>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
    command.args(["image", "bootstrap", recipe, "--data"]).arg(data);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let seen: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.contains(step)).collect();
    assert!(seen.iter().any(|line| line.contains("resolving packages")), "{seen:?}");
    // It may write more, and nobody should be in its way.
    (child, lines)
}

fn wait(what: &str, limit: Duration, done: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kill(mut child: Child, folder: &Path) {
    child.kill().unwrap();
    child.wait().unwrap();
    wait("nothing runs", Duration::from_secs(10), || processes(folder).is_empty());
}

/// A collection finds what was left, and the works are gone.
fn prune(folder: &Path) {
    let works = folder.join("images/bootstrap");
    assert_eq!(fs::read_dir(&works).unwrap().count(), 1);
    let prune =
        Command::new(env!("CARGO_BIN_EXE_jdos")).args(["image", "prune", "--data"]).arg(folder).output().unwrap();
    assert!(prune.status.success(), "{prune:?}");
    assert_eq!(fs::read_dir(&works).unwrap().count(), 0);
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

/// What is mounted below the folder, as this process (`self`) or that one sees it.
fn mounts(process: &str, folder: &Path) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    places.filter(|place| Path::new(place).starts_with(folder)).map(str::to_owned).collect()
}

#[test]
fn killed_it_takes_everything_along() {
    let folder = tempfile::tempdir().unwrap();
    let (child, _lines) = bootstrap("base", folder.path(), "downloading packages");
    kill(child, folder.path());
    prune(folder.path());
    assert_eq!(mounts("self", folder.path()), Vec::<String>::new());
}

#[test]
fn killed_while_it_installs_it_leaves_nothing_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let (child, _lines) = bootstrap("debian", folder.path(), "installing");
    // Scripts of packages want to see the kernel's file systems, wherever these were mounted for them.
    wait("mounts", Duration::from_secs(60), || {
        let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
        names.filter_map(|name| name.into_string().ok()).any(|process| !mounts(&process, folder.path()).is_empty())
    });
    kill(child, folder.path());
    let left = mounts("self", folder.path());
    for place in left.iter().rev() {
        // Else the test's own folder could not be removed either.
        drop(Command::new("umount").args(["--lazy", place]).output());
    }
    assert_eq!(left, Vec::<String>::new());
    prune(folder.path());
}
