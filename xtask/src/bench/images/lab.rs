//! What the works share: our binary, the peer, a base image as an OCI layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::layout::Layout;
use crate::bench::runner;
use crate::workspace::Workspace;
use crate::{debian, run};

/// The peer among registries, the fastest that was found.
const REGISTRY: &str = "github.com/distribution/distribution/v3/cmd/registry@v3.0.0";
/// The recipe of the base.
const RECIPE: &str = "python";

/// Everything a work needs.
pub struct Lab {
    /// Our binary.
    pub jdos: PathBuf,
    /// The peer's.
    pub registry: PathBuf,
    /// Where everything is made.
    pub folder: PathBuf,
    /// The base.
    pub base: Layout,
    /// The control groups of this run are below this one.
    pub group: String,
}

impl Lab {
    /// Installs the peers, builds ours, makes the base.
    ///
    /// # Errors
    /// Any of it fails.
    pub fn new(workspace: &Workspace, ours: Option<&Path>) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "unpacking needs root; next: sudo -E cargo xtask bench images");
        debian::install(&["mmdebstrap", "debian-archive-keyring", "zstd"])?;
        let jdos = match ours {
            Some(path) => path.canonicalize().with_context(|| format!("no file {}", path.display()))?,
            None => workspace.release_binary("jdos")?,
        };
        let folder = workspace.scratch("bench/images")?;
        let registry = peer(&folder)?;
        let base = base(&jdos, &folder)?;
        let group = format!("jdos-bench-{}", std::process::id());
        let runs = folder.join("runs");
        debian::remove(&runs)?;
        fs::create_dir_all(&runs).with_context(|| format!("cannot make {}", runs.display()))?;
        Ok(Self { jdos, registry, folder, base, group })
    }

    /// A folder for one run or server, empty.
    ///
    /// # Errors
    /// It cannot be emptied or made.
    pub fn run_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join("runs").join(name);
        debian::remove(&path)?;
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Removes what the works made; the peer and the base stay for the next time.
    ///
    /// # Errors
    /// A folder cannot be removed.
    pub fn clear(&self) -> Result<()> {
        for hierarchy in runner::hierarchies()? {
            runner::remove_groups(&hierarchy.path.join(&self.group));
        }
        debian::remove(&self.folder.join("runs"))
    }

    /// Who was measured, on what.
    ///
    /// # Errors
    /// Something about the machine cannot be read.
    pub fn conditions(&self) -> Result<Vec<String>> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
        let cores = std::thread::available_parallelism().context("cannot count the cores")?;
        let date = run::quiet(Command::new("date").arg("+%Y-%m-%d"))?;
        let (packed, layers) = (self.base.size()? >> 20, self.base.layers().len());
        let plain = self.base.plain_size()? >> 20;
        Ok(vec![
            format!("{}: distribution 3.0.0 (its own defaults, cache in memory, no access log), tar {}", date.trim(), debian::version("tar")?),
            format!("Linux {}, {cores} cores; base: {plain} MiB in {layers} layers, {packed} MiB with zstd", kernel.trim()),
            "processor time of a registry: of its process alone, from before the first request until after the last answer".to_owned(),
        ])
    }
}

fn peer(folder: &Path) -> Result<PathBuf> {
    let tools = folder.join("tools");
    let path = tools.join("registry");
    if !path.exists() {
        ensure!(run::exists("go"), "the registry of the distribution project is built with Go; next: install golang");
        let install = Command::new("go")
            .args(["install", REGISTRY])
            .env("GOBIN", &tools)
            .env("GOFLAGS", "-mod=mod")
            .current_dir(folder)
            .output();
        let output = install.context("cannot run go")?;
        ensure!(
            output.status.success(),
            "go install {REGISTRY} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(path)
}

fn base(jdos: &Path, folder: &Path) -> Result<Layout> {
    let path = folder.join("base");
    if !path.join("index.json").exists() {
        let data = folder.join("source");
        let words = |verb: &[&str]| {
            let mut command = Command::new(jdos);
            command.args(["image", "--data"]).arg(&data).args(verb);
            command
        };
        run::quiet(&mut words(&["bootstrap", "--quiet", RECIPE]))?;
        let partial = folder.join("base.partial");
        debian::remove(&partial)?;
        let name = format!("{RECIPE}:trixie");
        run::quiet(words(&["export", "--format", "oci-dir", "--output"]).arg(&partial).arg(name))?;
        fs::rename(&partial, &path).with_context(|| format!("cannot rename {}", partial.display()))?;
        debian::remove(&data)?;
    }
    Layout::read(&path)
}
