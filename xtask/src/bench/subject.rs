//! A subject of a benchmark: a runner process with the commands to give it, and the samples it gave back.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::report::median;
use super::runner::{Reply, Request, Sample};

/// How long one run may take before the subject is given up.
const PATIENCE: Duration = Duration::from_secs(180);

/// Builds the commands of a run from a number that is new each time.
type Make = Box<dyn Fn(u64) -> Vec<Vec<String>>>;

/// One subject.
pub struct Subject {
    name: String,
    runner: Child,
    requests: ChildStdin,
    replies: Receiver<String>,
    make: Make,
    runs: u64,
    samples: Vec<Sample>,
}

impl Subject {
    /// Starts a runner. `wrap` are words before it, to start it elsewhere (in a namespace); `group` is its control group and
    /// `also` are those of others that work for it.
    ///
    /// # Errors
    /// The runner cannot be started.
    pub fn start(name: &str, wrap: &[&str], group: &str, also: &[&str], make: Make) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this binary")?;
        let own = own.to_string_lossy();
        let mut words: Vec<&str> = wrap.to_vec();
        words.extend([&*own, "runner", "--group", group]);
        words.extend(also.iter().flat_map(|group| ["--also", *group]));
        let mut runner = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the runner of {name}"))?;
        let requests = runner.stdin.take().context("the runner was started without an input")?;
        let output = runner.stdout.take().context("the runner was started without an output")?;
        let (sender, replies) = sync_channel(1);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name: name.to_owned(), runner, requests, replies, make, runs: 0, samples: Vec::new() })
    }

    /// One run, kept unless it is a warm-up.
    ///
    /// # Errors
    /// The run failed or took too long; the error holds what the subject printed.
    pub fn run(&mut self, keep: bool) -> Result<()> {
        self.runs += 1;
        let request = Request { commands: (self.make)(self.runs) };
        let line = serde_json::to_string(&request)?;
        writeln!(self.requests, "{line}").with_context(|| format!("the runner of {} is gone", self.name))?;
        let Ok(line) = self.replies.recv_timeout(PATIENCE) else {
            bail!("{} did not end within {} s, or its runner died", self.name, PATIENCE.as_secs());
        };
        let reply: Reply = serde_json::from_str(&line).with_context(|| format!("cannot read {line}"))?;
        let sample = reply.map_err(|error| anyhow!("{}: {error}", self.name))?;
        if keep {
            self.samples.push(sample);
        }
        Ok(())
    }

    /// The median of one figure of the kept runs.
    pub fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.samples.iter().map(figure).collect::<Vec<_>>())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Killed: one that hangs would not notice that its input ends.
        _ = self.runner.kill();
        _ = self.runner.wait();
    }
}

/// Runs all subjects in turn, each round beginning with another one, after two rounds of warm-up.
///
/// # Errors
/// The first failed run.
pub fn interleave(subjects: &mut [&mut Subject], rounds: u32) -> Result<()> {
    for round in 0..rounds + 2 {
        for turn in 0..subjects.len() {
            let at = (turn + round as usize) % subjects.len();
            subjects[at].run(round >= 2)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians_do_not_follow_outliers() {
        assert!((median(&[1.0, 1.0, 1.0, 900.0, 1.0]) - 1.0).abs() < 1e-9);
    }
}
