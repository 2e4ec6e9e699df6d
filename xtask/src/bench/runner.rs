//! One subject's runner: a process that starts commands and takes their times.
//!
//! It lives in a control group of its own, so that the processor time of everything a command starts is seen, also of what
//! outlives it or is re-parented; and it is the reaper of all of it, so that a run is over only when nothing is left. It reads one
//! [`Request`] a line and answers with one [`Sample`] a line. Its own share of the time is taken off.

use std::fs::{self, File};
use std::io::{self, BufRead, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, set_child_subreaper, wait};
use serde::{Deserialize, Serialize};

/// Where the runner lives.
#[derive(Args)]
pub struct Options {
    /// Control group of the subject, below the root
    #[arg(long)]
    group: String,
    /// Further groups whose processor time is the subject's
    #[arg(long)]
    also: Vec<String>,
}

/// Commands to start at once.
#[derive(Serialize, Deserialize)]
pub struct Request {
    /// Each with its arguments.
    pub commands: Vec<Vec<String>>,
}

/// What one run took.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// From the first start until every command has written its first byte, milliseconds.
    pub first: f64,
    /// From the first start until nothing is left, milliseconds.
    pub all: f64,
    /// Processor time of everything that was started, milliseconds.
    pub cpu: f64,
}

/// An answer: a sample, or why there is none.
pub type Reply = Result<Sample, String>;

/// Serves requests until standard input ends.
///
/// # Errors
/// The control group cannot be made, or the other end is gone.
pub fn run(options: &Options) -> Result<()> {
    let meter = Meter::new(&options.group, &options.also)?;
    set_child_subreaper(Some(rustix::process::Pid::INIT)).context("cannot become the reaper")?;
    let errors = tempfile::tempfile().context("cannot make a temporary file")?;
    let mut stdout = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?).context("cannot read a request")?;
        let reply: Reply = measure(&meter, &request, &errors).map_err(|error| format!("{error:#}"));
        serde_json::to_writer(&mut stdout, &reply)?;
        stdout.write_all(b"\n")?;
        stdout.flush()?;
    }
    Ok(())
}

fn measure(meter: &Meter, request: &Request, mut errors: &File) -> Result<Sample> {
    errors.set_len(0)?;
    errors.rewind()?;
    let before = meter.read()?;
    let (mut children, mut pipes) = (Vec::new(), Vec::new());
    let mut commands = Vec::new();
    for words in &request.commands {
        let (program, arguments) = words.split_first().context("a command without words")?;
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(writer).stderr(errors.try_clone()?);
        commands.push(command);
        pipes.push(reader);
    }
    let start = Instant::now();
    for mut command in commands {
        children.push(command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?.id());
        // Dropping the command closes our copy of the pipe's writing end.
    }
    let first = first_bytes(&pipes, start)?;
    let mut failed = None;
    // Waits for what was re-parented to us as well.
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let ours = u32::try_from(pid.as_raw_nonzero().get()).is_ok_and(|pid| children.contains(&pid));
                if ours && status.exit_status() != Some(0) {
                    failed = Some(status);
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => break,
            Err(error) => return Err(error).context("cannot wait for what was started"),
        }
    }
    let all = start.elapsed();
    let after = meter.read()?;
    if let Some(status) = failed {
        let mut text = String::new();
        errors.rewind()?;
        errors.read_to_string(&mut text)?;
        bail!("{} failed ({status:?}): {}", request.commands[0].join(" "), text.trim());
    }
    let first = first.with_context(|| format!("{} wrote nothing", request.commands[0].join(" ")))?;
    Ok(Sample { first: milliseconds(first), all: milliseconds(all), cpu: milliseconds(after.saturating_sub(before)) })
}

/// The time until each pipe has had a byte, if each had one; reads them to their ends.
fn first_bytes(pipes: &[io::PipeReader], start: Instant) -> Result<Option<Duration>> {
    let (mut last, mut seen) = (Duration::ZERO, vec![false; pipes.len()]);
    let mut open: Vec<usize> = (0..pipes.len()).collect();
    let mut buffer = [0; 4096];
    while !open.is_empty() {
        let mut fds: Vec<PollFd<'_>> =
            open.iter().map(|at| PollFd::from_borrowed_fd(pipes[*at].as_fd(), PollFlags::IN)).collect();
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).context("cannot wait for output"),
        }
        let now = start.elapsed();
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ended = Vec::new();
        for at in open.iter().zip(ready).filter_map(|(at, ready)| ready.then_some(*at)) {
            if (&pipes[at]).read(&mut buffer)? == 0 {
                ended.push(at);
            } else if !seen[at] {
                seen[at] = true;
                last = now;
            }
        }
        open.retain(|at| !ended.contains(at));
    }
    Ok(seen.iter().all(|seen| *seen).then_some(last))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Removes control groups, deepest first. What ended a moment ago may still hold one.
pub fn remove_groups(group: &Path) {
    let children = fs::read_dir(group).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    for child in children.filter(|path| path.is_dir()) {
        remove_groups(&child);
    }
    for _ in 0..100 {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return crate::output::detail(&format!("the control group {} stays: {error}", group.display()));
            }
            _ => return,
        }
    }
    crate::output::detail(&format!("the control group {} stays: it is in use", group.display()));
}

/// Reads the processor time of control groups, less this process's own.
pub struct Meter {
    files: Vec<PathBuf>,
}

impl Meter {
    /// Makes the subject's group and moves this process into a group below it: below, because a version 2 group with
    /// processes of its own could not have the subject's containers beside them.
    fn new(group: &str, also: &[String]) -> Result<Self> {
        let (root, file) = accounting()?;
        let home = root.join(group).join("runner");
        fs::create_dir_all(&home).with_context(|| format!("cannot make the control group {}", home.display()))?;
        fs::write(home.join("cgroup.procs"), "0")
            .with_context(|| format!("cannot enter the control group {}", home.display()))?;
        let groups = std::iter::once(group).chain(also.iter().map(String::as_str));
        Ok(Self { files: groups.map(|group| root.join(group.trim_start_matches('/')).join(file)).collect() })
    }

    /// Makes a group for another process, and gives the file through which that enters it.
    ///
    /// # Errors
    /// The group cannot be made.
    pub fn of_group(group: &str) -> Result<(Self, PathBuf)> {
        let (root, file) = accounting()?;
        let home = root.join(group);
        fs::create_dir_all(&home).with_context(|| format!("cannot make the control group {}", home.display()))?;
        Ok((Self { files: vec![home.join(file)] }, home.join("cgroup.procs")))
    }

    /// The time of everything that was in the groups.
    ///
    /// # Errors
    /// A group is gone.
    pub fn total(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for path in &self.files {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            sum += parse(&text).with_context(|| format!("{} holds no time", path.display()))?;
        }
        Ok(sum)
    }

    fn read(&self) -> Result<Duration> {
        let sum = self.total()?;
        // First field of schedstat (proc(5)): time on the processor, nanoseconds.
        let own = fs::read_to_string("/proc/self/schedstat").context("cannot read the runner's own time")?;
        let own = own.split_whitespace().next().and_then(|word| word.parse().ok()).context("no time in schedstat")?;
        Ok(sum.saturating_sub(Duration::from_nanos(own)))
    }
}

/// Version 2's `cpu.stat`, or version 1's `cpuacct.usage`.
fn parse(text: &str) -> Option<Duration> {
    match text.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
        Some(microseconds) => microseconds.trim().parse().ok().map(Duration::from_micros),
        None => text.trim().parse().ok().map(Duration::from_nanos),
    }
}

/// A mounted hierarchy of control groups.
pub struct Hierarchy {
    /// Where.
    pub path: PathBuf,
    /// Whether it is version 2.
    unified: bool,
    /// Of version 1.
    controllers: String,
}

/// All hierarchies that are mounted.
///
/// # Errors
/// The mount table cannot be read.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let mounts = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut kind = right.split(' ');
        let unified = match kind.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let path = left.split(' ').nth(4)?.into();
        Some(Hierarchy { path, unified, controllers: kind.nth(1)?.to_owned() })
    });
    Ok(mounts.collect())
}

/// The hierarchy that accounts for processor time, and its file.
///
/// # Errors
/// There is none.
pub fn accounting() -> Result<(PathBuf, &'static str)> {
    let all = hierarchies()?;
    let has = |one: &&Hierarchy| one.controllers.split(',').any(|word| word == "cpuacct");
    if let Some(found) = all.iter().find(has) {
        return Ok((found.path.clone(), "cpuacct.usage"));
    }
    let found = all
        .into_iter()
        .find(|one| one.unified)
        .context("no hierarchy of control groups accounts for processor time")?;
    ensure!(found.path.join("cpu.stat").is_file(), "{} has no cpu.stat", found.path.display());
    Ok((found.path, "cpu.stat"))
}

#[cfg(test)]
mod tests {
    use super::{first_bytes, parse};
    use std::io::Write;
    use std::time::{Duration, Instant};

    #[test]
    fn both_versions_are_read() {
        assert_eq!(parse("1500000\n"), Some(Duration::from_micros(1500)));
        assert_eq!(parse("usage_usec 2500\nuser_usec 1\n"), Some(Duration::from_micros(2500)));
        assert_eq!(parse("nothing"), None);
    }

    #[test]
    fn the_last_first_byte_counts() {
        let (one, mut to_one) = std::io::pipe().expect("a pipe");
        let (two, mut to_two) = std::io::pipe().expect("a pipe");
        let start = Instant::now();
        let writer = std::thread::spawn(move || {
            to_one.write_all(b"x").expect("read");
            std::thread::sleep(Duration::from_millis(30));
            to_two.write_all(b"y").expect("read");
        });
        let time = first_bytes(&[one, two], start).expect("reads").expect("both wrote");
        writer.join().expect("wrote");
        assert!(time >= Duration::from_millis(30), "{time:?}");
        let (silent, writer) = std::io::pipe().expect("a pipe");
        drop(writer);
        assert_eq!(first_bytes(&[silent], start).expect("reads"), None);
    }
}
