//! Works on containers that run for a while: what watches them, what they write, who finds them again.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::lab::Lab;
use super::{BOUND, CROWD};
use crate::bench::report::{Row, median};
use crate::jdos::field;
use crate::run;

/// Bytes a flooding container writes.
const FLOOD: u64 = 1 << 30;

/// Memory and threads of the process that watches a container, beside podman's.
pub fn monitor(lab: &Lab, _: u32) -> Result<Vec<Row>> {
    lab.jdos.run(&lab.with_root(
        &["-d", "--replace", "--name", "watched", "--network", "none"],
        &["/bin/busybox", "sleep", "1000"],
    ))?;
    let ours = lab.jdos.monitor("watched")?;
    let memory =
        |pid: i32| field::<f64>(&format!("/proc/{pid}/smaps_rollup"), "Pss:").context("cannot read a monitor's memory");
    let threads =
        |pid: i32| field::<f64>(&format!("/proc/{pid}/status"), "Threads:").context("cannot count a monitor's threads");
    let (own, count) = (memory(ours)?, threads(ours)?);
    lab.jdos.run(&["rm", "--force", "watched"])?;

    let id = podman(&lab.podman_words(&["run", "--detach"], &["sleep", "1000"]))?;
    let conmon = podman_on(lab, &["inspect", "--format", "{{.State.ConmonPid}}", id.trim()]);
    let theirs = conmon.and_then(|pid| memory(pid.trim().parse().context("podman named no process")?));
    podman_on(lab, &["rm", "--force", "--time", "0", id.trim()])?;
    Ok(vec![
        Row::new("memory of a container's monitor (PSS)", (own, 64.0), BOUND, "kB", Some(1.0)),
        Row::new("memory of a container's monitor (PSS)", (own, theirs?), "conmon", "kB", None),
        Row::new("threads of a container's monitor", (count, 1.0), BOUND, "threads", Some(1.0)),
    ])
}

fn podman(words: &[String]) -> Result<String> {
    run::quiet(Command::new(&words[0]).args(&words[1..]))
}

/// A command of podman's about its storage here.
fn podman_on(lab: &Lab, rest: &[&str]) -> Result<String> {
    let words = lab.podman_words(&[], &[]);
    let globals = words.iter().take_while(|word| *word != "--network").cloned();
    podman(&globals.chain(rest.iter().map(|word| (*word).to_owned())).collect::<Vec<_>>())
}

/// 1 GiB to a log of three files of 16 MiB, against the same to a file, and to podman's log of one file of 16 MiB.
pub fn flood(lab: &Lab, rounds: u32) -> Result<Vec<Row>> {
    let rounds = (rounds / 8).max(3);
    let sink = lab.folder.join("sink");
    fs::create_dir_all(&sink).with_context(|| format!("cannot make {}", sink.display()))?;
    let volume = format!("{}:/sink", sink.display());
    let count = format!("count={}", FLOOD >> 16);
    let (mut log, mut file, mut theirs, mut largest) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let flags = [
            "-d",
            "--name",
            "flood",
            "--network",
            "none",
            "--userns",
            "host",
            "-v",
            &volume,
            "--log-opt",
            "max-size=16m",
            "--log-opt",
            "max-file=3",
        ];
        let to_log = ["/bin/busybox", "dd", "if=/dev/zero", "bs=65536", &count];
        let to_file = ["/bin/busybox", "dd", "if=/dev/zero", "bs=65536", &count, "of=/sink/file"];
        theirs.push(podman_flood(lab, &to_log[1..])?.as_secs_f64());
        // The order changes, and what one leaves to be written back is not paid for by the other.
        let order = if round % 2 == 0 { [true, false] } else { [false, true] };
        for is_log in order {
            rustix::fs::sync();
            let (time, size) = until_end(lab, &lab.with_root(&flags, if is_log { &to_log } else { &to_file }))?;
            let (times, written) = if is_log { (&mut log, size) } else { (&mut file, size_of(&sink)) };
            times.push(time.as_secs_f64());
            if is_log {
                largest = largest.max(written);
            } else {
                ensure!(written >= FLOOD, "the container wrote {written} bytes to a file instead of {FLOOD}");
                fs::remove_file(sink.join("file")).context("cannot remove the file that was written")?;
            }
        }
    }
    ensure!(largest > 0, "the flooded log was never seen on disk");
    // A throughput of at least 0.8 is a time of at most 1.25.
    let mebibytes = f64::from(u32::try_from(largest >> 10)?) / 1024.0;
    Ok(vec![
        Row::new("writing 1 GiB to the log", (median(&log), median(&file)), "to a file", "s", Some(1.25)),
        Row::new("writing 1 GiB to the log", (median(&log), median(&theirs)), "podman", "s", None),
        Row::new("that log's largest size on disk", (mebibytes, 64.0), BOUND, "MiB", Some(1.0)),
    ])
}

/// The same with podman's log of plain lines, which is cut to nothing when it is full.
fn podman_flood(lab: &Lab, program: &[&str]) -> Result<Duration> {
    let start = Instant::now();
    let verb = ["run", "--detach", "--log-driver", "k8s-file", "--log-opt", "max-size=16m"];
    let id = podman(&lab.podman_words(&verb, program))?;
    let code = podman_on(lab, &["wait", id.trim()])?;
    let time = start.elapsed();
    ensure!(code.trim() == "0", "podman's flooding container ended with {code:?}");
    podman_on(lab, &["rm", "--force", "--time", "0", id.trim()])?;
    Ok(time)
}

/// Runs the container `flood` to its end and removes it; gives the time and the largest size of its log.
fn until_end(lab: &Lab, words: &[&str]) -> Result<(Duration, u64)> {
    let start = Instant::now();
    let id = lab.jdos.run(words)?;
    let log = lab.folder.join("data/containers").join(id.trim()).join("log");
    let mut wait = lab
        .jdos
        .command(&["wait", "flood"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run jdos container wait")?;
    let mut largest = 0;
    while wait.try_wait().context("cannot wait for jdos container wait")?.is_none() {
        largest = largest.max(size_of(&log));
        std::thread::sleep(Duration::from_millis(10));
    }
    let time = start.elapsed();
    let output = wait.wait_with_output().context("cannot read what jdos container wait printed")?;
    let code = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(code == "0", "the flooding container ended with {code:?}");
    largest = largest.max(size_of(&log));
    lab.jdos.run(&["rm", "--force", "flood"])?;
    Ok((time, largest))
}

/// Bytes that the files of a folder take on disk.
fn size_of(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten();
    files
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|data| std::os::unix::fs::MetadataExt::blocks(&data) * 512)
        .sum()
}

/// 100 running containers found again: with their monitors alive, and after all monitors were killed.
pub fn adoption(lab: &Lab, _: u32) -> Result<Vec<Row>> {
    let names: Vec<String> = (0..CROWD).map(|number| format!("crowd-{number}")).collect();
    for name in &names {
        lab.jdos.run(&lab.with_root(&["-d", "--replace", "--name", name], &["/bin/busybox", "sleep", "10000"]))?;
    }
    let (alive, _) = reconcile(lab)?;
    for name in &names {
        let monitor = lab.jdos.monitor(name)?;
        let pid = Pid::from_raw(monitor).with_context(|| format!("{monitor} is no process"))?;
        kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill the monitor {monitor}"))?;
    }
    let (replaced, done) = reconcile(lab)?;
    let count = |list: &Value, wanted: &dyn Fn(&Value) -> bool| {
        list.as_array().map_or(0, |list| list.iter().filter(|one| wanted(one)).count())
    };
    let new = count(&done["monitors_replaced"], &|_| true);
    ensure!(new == names.len(), "{new} monitors were replaced instead of {}", names.len());
    let ours = |one: &Value| one["name"].as_str().is_some_and(|name| name.starts_with("crowd-"));
    let running = count(&lab.jdos.json(&["ps"])?, &ours);
    ensure!(
        running == names.len(),
        "{running} of {} containers are left after their monitors were killed",
        names.len()
    );
    lab.jdos.run(&[&["rm", "--force"], &names.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())?;
    Ok(vec![
        Row::new("adopting 100 containers", (alive, 1.0), BOUND, "s", Some(1.0)),
        Row::new("adopting 100 containers whose monitors were killed", (replaced, 1.0), BOUND, "s", Some(1.0)),
    ])
}

/// Seconds, and what was done.
fn reconcile(lab: &Lab) -> Result<(f64, Value)> {
    let start = Instant::now();
    let done = lab.jdos.json(&["reconcile"])?;
    Ok((start.elapsed().as_secs_f64(), done))
}
