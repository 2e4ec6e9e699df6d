//! `test`: everything that must hold before a change lands, in one command, from a machine with nothing but Rust.
//!
//! A stage that fails does not hide what later stages find; the last line sums up the tests of all runs.

use std::iter::Sum;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::workspace::{Workspace, cargo};
use crate::{guest, layers, output, run, setup};

/// What to run.
#[derive(Args)]
pub struct Options {
    /// Only this stage (may be given several times); all when none is named
    #[arg(long = "stage", value_enum, value_name = "STAGE")]
    stages: Vec<Stage>,
    /// Only tests whose names contain one of these, in the stages `tests` and `guest`
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// A part of the suite, in the order in which it runs: what is quick first.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// rustfmt
    Format,
    /// layers.toml
    Layers,
    /// Bans, licences and sources of dependencies
    Dependencies,
    /// clippy, warnings are errors
    Lints,
    /// Unit, integration and privileged tests on this machine
    Tests,
    /// Examples in documentation
    Examples,
    /// The privileged tests on pure cgroup v2 and another kernel, in virtual machines, and a power cut
    Guest,
}

/// Tests run, by how they ended.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Count {
    /// Ended well.
    pub passed: u64,
    /// Failed, timed out, or could not be run.
    pub failed: u64,
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, count| Self {
            passed: sum.passed + count.passed,
            failed: sum.failed + count.failed,
        })
    }
}

/// Runs the stages.
///
/// # Errors
/// Not root, or a stage failed.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the tests make namespaces, cgroups and networks, which needs root; next: sudo -E cargo xtask test"
    );
    setup::run()?;
    let workspace = Workspace::read()?;
    let (mut counts, mut failed) = (Vec::new(), Vec::new());
    for stage in Stage::value_variants() {
        if !options.stages.is_empty() && !options.stages.contains(stage) {
            continue;
        }
        let mut count = Count::default();
        if let Err(error) = output::step(stage.title(), || stage.run(&workspace, &options.names, &mut count)) {
            output::say(&format!("{}: {error:#}", stage.title()));
            failed.push(stage.title());
        }
        counts.push(count);
    }
    let sum: Count = counts.into_iter().sum();
    if !failed.is_empty() {
        output::say(&format!("failed: {}", failed.join(", ")));
    }
    // The plain closing line that tools look for; alone on its line, on standard output.
    println!("{} passed, {} failed", sum.passed, sum.failed);
    ensure!(failed.is_empty(), "{} of the stages failed: {}", failed.len(), failed.join(", "));
    Ok(())
}

impl Stage {
    fn title(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Layers => "layers",
            Self::Dependencies => "dependencies",
            Self::Lints => "lints",
            Self::Tests => "tests",
            Self::Examples => "examples in documentation",
            Self::Guest => "tests in guests",
        }
    }

    /// Runs one stage; what it counted stands in `count` even when it fails.
    fn run(self, workspace: &Workspace, names: &[String], count: &mut Count) -> Result<()> {
        let mut command = cargo();
        command.current_dir(workspace.root());
        match self {
            Self::Format => run::quiet(command.args(["fmt", "--all", "--check"])).map(drop),
            Self::Layers => layers::check_workspace(),
            Self::Dependencies => dependencies(workspace),
            Self::Lints => {
                let lints = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
                let (ok, _) = run::shown(command.args(lints))?;
                ensure!(ok, "clippy found something");
                Ok(())
            }
            Self::Tests => tests(workspace, names, count),
            Self::Examples => counted(command.args(["test", "--workspace", "--doc", "--locked"]), libtest, count),
            Self::Guest => {
                *count = guest::suite::run(workspace, names)?;
                ensure!(count.failed == 0, "{} tests failed in the guests", count.failed);
                ensure!(count.passed > 0, "no test ran in the guests");
                Ok(())
            }
        }
    }
}

fn dependencies(workspace: &Workspace) -> Result<()> {
    // Without advisories: their database cannot be had from a package registry.
    let mut command = Command::new(setup::tool(workspace, "cargo-deny")?);
    command.current_dir(workspace.root()).args(["--log-level", "error", "--workspace", "--locked"]);
    run::quiet(command.args(["check", "bans", "licenses", "sources"])).map(drop)
}

fn tests(workspace: &Workspace, names: &[String], count: &mut Count) -> Result<()> {
    match setup::tool(workspace, "cargo-nextest") {
        Ok(nextest) => {
            let mut command = Command::new(nextest);
            command.current_dir(workspace.root()).args([
                "nextest",
                "run",
                "--workspace",
                "--locked",
                "--color",
                "never",
            ]);
            counted(command.args(names), nextest_summary, count)
        }
        Err(error) => {
            output::detail(&format!("{error:#}; using cargo test, which shares one process among a crate's tests"));
            let mut command = cargo();
            command.current_dir(workspace.root()).args([
                "test",
                "--workspace",
                "--lib",
                "--bins",
                "--tests",
                "--locked",
            ]);
            counted(command.args(["--no-fail-fast", "--"]).args(names), libtest, count)
        }
    }
}

fn counted(command: &mut Command, read: fn(&str) -> Count, count: &mut Count) -> Result<()> {
    let (ok, text) = run::shown(command)?;
    *count = read(&text);
    ensure!(count.failed == 0, "{} tests failed", count.failed);
    if !ok {
        bail!("the test runner failed");
    }
    Ok(())
}

/// Reads `Summary [0.1s] 10 tests run: 9 passed (1 slow), 1 failed, 2 skipped`.
fn nextest_summary(text: &str) -> Count {
    let Some(summary) = text.lines().rev().find(|line| line.trim_start().starts_with("Summary [")) else {
        return Count::default();
    };
    let Some((_, counts)) = summary.split_once("run: ") else { return Count::default() };
    // What stands in brackets says how some of the passed ones passed.
    let counts: String =
        counts.split('(').enumerate().map(|(at, part)| if at == 0 { part } else { after(part) }).collect();
    let mut count = Count::default();
    for part in counts.split(',') {
        let mut words = part.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
        match words.next() {
            Some("passed") => count.passed += number,
            Some("skipped") => {}
            // failed, timed out, exec failed
            _ => count.failed += number,
        }
    }
    count
}

fn after(part: &str) -> &str {
    part.split_once(')').map_or("", |(_, rest)| rest)
}

/// Sums `test result: ok. 3 passed; 1 failed; …` over all binaries.
pub fn libtest(text: &str) -> Count {
    let results = text.lines().filter_map(|line| line.trim().strip_prefix("test result: "));
    let number = |line: &str, word: &str| {
        let mut parts = line.split([';', '.']).filter_map(|part| part.trim().strip_suffix(word));
        parts.find_map(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    results.map(|line| Count { passed: number(line, "passed"), failed: number(line, "failed") }).sum()
}

#[cfg(test)]
mod tests {
    use super::{Count, libtest, nextest_summary};

    #[test]
    fn reads_nextest() {
        let text = "   PASS x\n────\n     Summary [   1.0s] 12 tests run: 8 passed (1 slow, 1 leaky), 2 failed, 1 timed out, 1 exec failed, 3 skipped\n FAIL y";
        assert_eq!(nextest_summary(text), Count { passed: 8, failed: 4 });
        assert_eq!(nextest_summary("error: could not compile"), Count::default());
        assert_eq!(
            nextest_summary("Summary [ 0.003s] 1 test run: 1 passed, 0 skipped"),
            Count { passed: 1, failed: 0 }
        );
        assert_eq!(
            nextest_summary("Summary [ 9s] 2/5 tests run: 1 passed, 1 failed, 0 skipped"),
            Count { passed: 1, failed: 1 }
        );
    }

    #[test]
    fn reads_libtest() {
        let text = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                    test result: FAILED. 4 passed; 2 failed; 0 ignored\n";
        assert_eq!(libtest(text), Count { passed: 7, failed: 2 });
    }
}
