//! The privileged tests once more, in guests: another kernel, pure cgroup v2, all capabilities.
//!
//! As many guests as this machine has processors run at once, each with a share of the tests and one processor. The test
//! programs and their files lie where they lie on the host, since their paths are compiled into them. Each test runs in a
//! process of its own, as on the host. `JDOS_TEST_EMULATED=1` tells tests that time is dear. A power cut comes last.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Builder, power};
use crate::test::Count;
use crate::workspace::{Workspace, cargo};
use crate::{output, run};

/// Crates whose tests depend on the kernel. Those whose tests take longest come first, so that no guest has a long one left
/// when the others have ended.
const PACKAGES: [&str; 3] = ["jdos", "container", "cli"];

/// Where tests see no kernel, by crate and the start of their names, or need what no guest has, such as a mirror of Debian
/// or the whole of podman: once, on the host, is enough for these.
const PURE: [(&str, &str); 6] = [
    ("container", "capability::"),
    ("container", "seccomp::"),
    ("container", "spec::"),
    ("cli", ""),
    ("jdos", "killed_"),
    ("jdos", "registry::skopeo_"),
];

/// Words in the names of tests there that look at the machine all the same.
const LOOKS: [&str; 3] = ["this_machine", "on_the_host", "session::"];

/// Before a test's result on its line.
const PASSED: &str = "@@passed ";
const FAILED: &str = "@@failed ";

/// The name of the test that cuts the power.
const POWER: &str = "a_power_cut_loses_nothing_that_was_done";

/// How often the number of tests passed so far is told.
const PROGRESS: Duration = Duration::from_secs(20);

/// How many of the slowest tests are named at the end.
const SLOWEST: usize = 5;

/// Guests at once, however many processors there are: each takes memory.
const GUESTS: usize = 4;

/// A message of cargo's about something it built.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    #[serde(default)]
    profile: Profile,
    executable: Option<PathBuf>,
    #[serde(default)]
    manifest_path: PathBuf,
}

#[derive(Default, Deserialize)]
struct Profile {
    #[serde(default)]
    test: bool,
}

/// What to run, and what the guests need for it.
struct Suite {
    programs: Vec<PathBuf>,
    data: Vec<PathBuf>,
    tests: Vec<Test>,
}

struct Test {
    program: PathBuf,
    /// The crate's folder, in which its tests run.
    folder: PathBuf,
    name: String,
}

/// What the guests said so far.
struct Tally {
    count: Count,
    /// Hundredths of a second, and the test that took them.
    times: Vec<(u64, String)>,
    told: Instant,
}

/// Builds, boots and runs: all, or those whose name contains one of `names`.
///
/// # Errors
/// The tests do not build, or a guest does not boot or end.
pub fn run(workspace: &Workspace, names: &[String]) -> Result<Count> {
    let suite = Suite::build(workspace, names)?;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let guests = processors.min(GUESTS).min(suite.tests.len());
    output::detail(&format!("{} tests in {guests} guests", suite.tests.len()));
    let tally = Mutex::new(Tally { count: Count::default(), times: Vec::new(), told: Instant::now() });
    std::thread::scope(|scope| {
        let (suite, tally) = (&suite, &tally);
        let running: Vec<_> =
            (0..guests).map(|number| scope.spawn(move || suite.share(workspace, number, guests, tally))).collect();
        running.into_iter().try_for_each(|guest| match guest.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.times.sort_by_key(|(hundredths, _)| Reverse(*hundredths));
    for (hundredths, name) in tally.times.iter().take(SLOWEST) {
        output::detail(&format!("slow: {} {name}", output::seconds(Duration::from_millis(hundredths * 10))));
    }
    if names.is_empty() || names.iter().any(|name| POWER.contains(name.as_str())) {
        let jdos = suite.programs.iter().find(|path| path.ends_with("debug/jdos")).context("cargo built no jdos")?;
        match power::check(workspace, jdos) {
            Ok(()) => tally.count.passed += 1,
            Err(error) => {
                tally.count.failed += 1;
                output::detail(&format!("FAILED {POWER}: {error:#}"));
            }
        }
    }
    Ok(tally.count)
}

impl Suite {
    /// Builds the test programs and the programs that they run, and asks them for their tests.
    fn build(workspace: &Workspace, names: &[String]) -> Result<Self> {
        let mut command = cargo();
        command.current_dir(workspace.root()).args(["test", "--no-run", "--locked", "--message-format", "json"]);
        for package in PACKAGES {
            command.args(["--package", package]);
        }
        let text = run::quiet(&mut command)?;
        let lines = text.lines().filter(|line| line.starts_with('{'));
        let artifacts: Vec<Artifact> =
            lines.map(serde_json::from_str).collect::<Result<_, _>>().context("cannot read what cargo built")?;

        let mut suite = Self { programs: Vec::new(), data: Vec::new(), tests: Vec::new() };
        for package in PACKAGES {
            let found = workspace.packages().iter().find(|one| one.name == package);
            let folder = found.with_context(|| format!("no crate {package} in the workspace"))?.folder();
            suite.data.extend(data(folder)?);
            let ours = artifacts.iter().filter(|one| one.reason == "compiler-artifact");
            let ours = ours.filter(|one| one.manifest_path.parent() == Some(folder));
            let mut ours: Vec<_> = ours.filter_map(|one| Some((one.executable.as_ref()?, one.profile.test))).collect();
            // Cargo names them as they are ready; backwards, the longest tests of all come first.
            ours.sort_by_key(|(program, _)| Reverse(*program));
            for (program, is_test) in ours {
                suite.programs.push(program.clone());
                if is_test {
                    let all = list(program, &[])?;
                    let ignored = list(program, &["--ignored"])?;
                    let wanted = |name: &String| {
                        !ignored.contains(name)
                            && !is_pure(package, name)
                            && (names.is_empty() || names.iter().any(|word| name.contains(word.as_str())))
                    };
                    suite.tests.extend(all.into_iter().filter(wanted).map(|name| Test {
                        program: program.clone(),
                        folder: folder.to_path_buf(),
                        name,
                    }));
                }
            }
        }
        Ok(suite)
    }

    /// Runs a guest's share of the tests: each `guests`th, from the one with its number on.
    fn share(&self, workspace: &Workspace, number: usize, guests: usize, tally: &Mutex<Tally>) -> Result<()> {
        let name = format!("tests-{number}");
        let tests: Vec<&Test> = self.tests.iter().skip(number).step_by(guests).collect();
        let lines: String = tests
            .iter()
            .map(|test| format!("{} {} {}\n", test.program.display(), test.folder.display(), test.name))
            .collect();
        let mut guest = Builder::new(workspace, &name)?
            .memory(1536)
            .deadline(Duration::from_secs(1800))
            .variable("RUST_BACKTRACE", "1")
            .variable("PROPTEST_CASES", "16")
            .variable("JDOS_TEST_EMULATED", "1")
            .text("/guest/tests", lines, 0o644)
            .text("/guest/run-tests", include_str!("run-tests.sh"), 0o755)
            .command("/guest/run-tests");
        for file in &self.data {
            guest = guest.file(file, file);
        }
        for program in &self.programs {
            guest = guest.executable(program, program);
        }
        let (mut ended, mut printed) = (0, Vec::new());
        guest.boot()?.wait(|line| {
            let said = [PASSED, FAILED].iter().find_map(|mark| Some((*mark, line.strip_prefix(mark)?)));
            let Some((mark, (number, test))) = said.and_then(|(mark, rest)| Some((mark, rest.split_once(' ')?))) else {
                return printed.push(line.to_owned());
            };
            ended += 1;
            let test = short(test);
            let mut tally = lock(tally);
            if mark == PASSED {
                tally.count.passed += 1;
                tally.times.push((number.parse().unwrap_or(0), test));
            } else {
                tally.count.failed += 1;
                // Held back until here, so that what two guests say does not mix.
                printed.iter().for_each(|line| output::detail(&format!("  {line}")));
                output::detail(&format!("FAILED {test} ({number})"));
            }
            printed.clear();
            if tally.told.elapsed() > PROGRESS {
                tally.told = Instant::now();
                let Count { passed, failed } = tally.count;
                output::detail(&format!("{passed} passed, {failed} failed of {}", self.tests.len()));
            }
        })?;
        ensure!(
            ended == tests.len(),
            "the guest {name} ran {ended} of {} tests; it said last:\n  │ {}",
            tests.len(),
            printed.join("\n  │ ")
        );
        Ok(())
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `PROGRAM TEST` with the program's name only, without the number that cargo gives it.
fn short(test: &str) -> String {
    let (program, name) = test.split_once(' ').unwrap_or(("", test));
    let program = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    format!("{} {name}", program.rsplit_once('-').map_or(&*program, |(program, _)| program))
}

/// The names of a program's tests.
fn list(program: &Path, flags: &[&str]) -> Result<Vec<String>> {
    let text = run::quiet(Command::new(program).args(["--list", "--format", "terse"]).args(flags))?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Whether a test sees no kernel.
fn is_pure(package: &str, test: &str) -> bool {
    PURE.iter().any(|(name, start)| *name == package && test.starts_with(start))
        && !LOOKS.iter().any(|word| test.contains(word))
}

/// Files of a crate that its tests may read: everything in it but Rust.
fn data(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_none_or(|ending| ending != "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{is_pure, short};

    #[test]
    fn tests_that_see_the_kernel_are_told_from_others() {
        for (package, test) in [
            ("container", "sys::seccomp::tests::every_action_does_what_it_says"),
            ("container", "spec::facts::tests::this_machine"),
            ("cli", "containers::session::tests::a_slow_reader_loses_nothing"),
            ("jdos", "attacks::no_descriptor_leaks"),
        ] {
            assert!(!is_pure(package, test), "{test}");
        }
        assert!(is_pure("container", "spec::tests::options::names") && is_pure("cli", "help"));
    }

    #[test]
    fn names_are_short() {
        assert_eq!(short("/a-b/deps/survival-0123abcd life::one"), "survival life::one");
    }
}
