//! The privileged tests once more, in a guest: another kernel, pure cgroup v2, all capabilities.
//!
//! The test programs and their files lie where they lie on the host, since their paths are compiled into them. Each test
//! runs in a process of its own, as on the host. `JDOS_TEST_EMULATED=1` tells tests that time is dear.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Builder;
use crate::output;
use crate::test::Count;
use crate::workspace::{Package, Workspace, cargo};

/// Crates whose tests depend on the kernel.
const PACKAGES: [&str; 3] = ["container", "cli", "jdos"];

/// Before a test's result on its line.
const PASSED: &str = "@@passed ";
const FAILED: &str = "@@failed ";

/// A message of cargo's about something it built.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    #[serde(default)]
    profile: Profile,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
struct Profile {
    #[serde(default)]
    test: bool,
}

/// Builds, boots and runs.
///
/// # Errors
/// The tests do not build, or the guest does not boot or end.
pub fn run(workspace: &Workspace) -> Result<Count> {
    let artifacts = build(workspace)?;
    let mut guest = Builder::new(workspace, "tests")?
        .deadline(Duration::from_secs(1200))
        .variable("RUST_BACKTRACE", "1")
        .variable("PROPTEST_CASES", "16")
        .variable("JDOS_TEST_EMULATED", "1")
        .text("/guest/run-tests", include_str!("run-tests.sh"), 0o755);
    for package in workspace.packages().iter().filter(|package| PACKAGES.contains(&package.name.as_str())) {
        for file in data(package)? {
            guest = guest.file(&file, &file);
        }
    }
    for artifact in &artifacts {
        let Some(path) = &artifact.executable else { continue };
        guest = guest.executable(path, path);
        if artifact.profile.test {
            let folder = artifact.manifest_path.as_deref().and_then(Path::parent).unwrap_or(Path::new("/"));
            guest = guest.command(format!("/guest/run-tests '{}' '{}'", path.display(), folder.display()));
        }
    }
    let mut count = Count::default();
    let outcome = guest.boot()?.wait(|line| {
        if let Some(name) = line.strip_prefix(PASSED) {
            count.passed += 1;
            output::detail(&format!("passed {name}"));
        } else if let Some(name) = line.strip_prefix(FAILED) {
            count.failed += 1;
            output::detail(&format!("FAILED {name}"));
        } else {
            output::detail(&format!("  {line}"));
        }
    })?;
    if count.failed == 0 && outcome.statuses.iter().any(|status| *status != 0) {
        bail!("a test program failed in the guest, but none of its tests did");
    }
    Ok(count)
}

/// Builds the test programs, and the programs that they run.
fn build(workspace: &Workspace) -> Result<Vec<Artifact>> {
    let mut command = cargo();
    command.current_dir(workspace.root()).args(["test", "--no-run", "--locked", "--message-format", "json"]);
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    let text = crate::run::quiet(&mut command)?;
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let artifacts: Vec<Artifact> =
        lines.map(serde_json::from_str).collect::<Result<_, _>>().context("cannot read what cargo built")?;
    Ok(artifacts.into_iter().filter(|one| one.reason == "compiler-artifact" && one.executable.is_some()).collect())
}

/// Files of a crate that its tests may read: everything in it but Rust.
fn data(package: &Package) -> Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![package.folder().to_path_buf()], Vec::new());
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
