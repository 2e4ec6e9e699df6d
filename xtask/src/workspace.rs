//! Where things are: the workspace's root, its target folder and its packages, from `cargo metadata`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The workspace this binary was built from.
#[derive(Debug, Deserialize)]
pub struct Workspace {
    #[serde(rename = "workspace_root")]
    root: PathBuf,
    #[serde(rename = "target_directory")]
    target: PathBuf,
    packages: Vec<Package>,
}

/// A crate of the workspace with its direct dependencies.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// The crate's name.
    pub name: String,
    manifest_path: PathBuf,
    /// Direct dependencies of every kind, of the workspace or not.
    pub dependencies: Vec<Dependency>,
}

/// An edge from a package to another.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// The package depended on (not what it is renamed to).
    pub name: String,
    /// The folder of a dependency by path: what is in the workspace.
    pub path: Option<PathBuf>,
}

impl Workspace {
    /// Asks cargo; resolves nothing, so it needs no network.
    ///
    /// # Errors
    /// Cargo cannot be run, or refuses a manifest.
    pub fn read() -> Result<Self> {
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .output()
            .context("cannot run cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        serde_json::from_slice(&output.stdout).context("cannot read what cargo metadata printed")
    }

    /// The folder with the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The crates of the workspace.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// A folder of ours below the target folder, made when it is missing.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.target.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(path)
    }

    /// Builds one package's binary in release mode and gives its path.
    ///
    /// # Errors
    /// The build fails.
    pub fn release_binary(&self, package: &str) -> Result<PathBuf> {
        let mut command = cargo();
        command.current_dir(&self.root).args(["build", "--release", "--package", package]);
        crate::run::quiet(&mut command)?;
        let path = self.target.join(TARGET).join("release").join(package);
        ensure!(path.is_file(), "cargo built {package}, but {} is missing", path.display());
        Ok(path)
    }
}

impl Package {
    /// The crate's folder.
    pub fn folder(&self) -> &Path {
        // A manifest path always has a parent: cargo gives absolute paths of files.
        self.manifest_path.parent().unwrap_or(Path::new("/"))
    }
}

/// The only target we build for; `.cargo/config.toml` names it.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A cargo command that does not inherit what `cargo run` set for *this* package, which would make build scripts run again.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO" {
            command.env_remove(&name);
        }
    }
    command
}
