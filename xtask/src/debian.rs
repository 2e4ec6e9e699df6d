//! Debian's packages: what is installed, installing without questions, and fetching a package's content without installing it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{output, run};

/// Which distribution this is, from `os-release(5)`.
pub struct System {
    ids: Vec<String>,
    version: String,
}

impl System {
    /// Reads `/etc/os-release`; a machine without one is of an unknown system.
    pub fn detect() -> Self {
        Self::parse(&fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        let ids = format!("{} {}", value("ID"), value("ID_LIKE"));
        Self { ids: ids.split_whitespace().map(str::to_owned).collect(), version: value("VERSION_ID") }
    }

    /// Debian 12 or 13, where packages are installed for the user.
    pub fn is_supported(&self) -> bool {
        self.ids.first().is_some_and(|id| id == "debian") && ["12", "13"].contains(&self.version.as_str())
    }

    /// Whether the system is, or descends from, the named one.
    pub fn is_like(&self, id: &str) -> bool {
        self.ids.iter().any(|own| own == id)
    }

    /// The system's name for a sentence.
    pub fn name(&self) -> String {
        let id = self.ids.first().map_or("an unknown system", String::as_str);
        format!("{id} {}", self.version).trim().to_owned()
    }
}

/// Installs the packages that are missing; does nothing, and asks no mirror, when none is.
///
/// # Errors
/// Not root, not a Debian, or apt fails.
pub fn install(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<&str> = missing.iter().map(String::as_str).collect();
    output::step(&format!("install {}", list.join(" ")), || {
        ensure!(
            rustix::process::geteuid().is_root(),
            "installing packages needs root; run this as root, or install them yourself: apt-get install {}",
            list.join(" ")
        );
        update()?;
        run::quiet(apt().args(["install", "--no-install-recommends"]).args(&list))?;
        Ok(())
    })
}

/// Those of the packages that are not installed.
///
/// # Errors
/// dpkg cannot be run.
pub fn missing(packages: &[&str]) -> Result<Vec<String>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(packages)
        .output()
        .context("cannot run dpkg-query; is this a Debian system?")?;
    // Fails when a package is unknown, which is one of the answers.
    let text = String::from_utf8_lossy(&output.stdout);
    let installed: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    Ok(packages.iter().filter(|name| !installed.contains(*name)).map(|name| (*name).to_owned()).collect())
}

/// The version of an installed package.
///
/// # Errors
/// The package is not installed.
pub fn version(package: &str) -> Result<String> {
    let text = run::quiet(Command::new("dpkg-query").args(["--show", "--showformat", "${Version}", package]))?;
    Ok(text.trim().to_owned())
}

/// Downloads the package a meta package stands for and unpacks it below `folder`; keeps what an earlier call brought.
/// Gives the folder of its content and its file's name without ending.
///
/// # Errors
/// The package is unknown, or cannot be downloaded or unpacked.
pub fn unpack(meta: &str, folder: &Path) -> Result<(PathBuf, String)> {
    if let Some(found) = unpacked(folder)? {
        return Ok(found);
    }
    ensure!(run::exists("apt-get"), "{meta} is fetched with apt-get, which this system does not have");
    let package = match resolve(meta) {
        Ok(package) => package,
        Err(_) => {
            update()?;
            resolve(meta)?
        }
    };
    let download = || run::quiet(apt().current_dir(folder).args(["download", &package]));
    if download().is_err() {
        // The lists may be older than the mirror.
        update()?;
        download()?;
    }
    let file = only_package(folder)?.with_context(|| format!("apt-get downloaded {package}, but no file is there"))?;
    // Under another name until it is whole: an interrupted call must not look finished.
    let (content, partial) = (folder.join("content"), folder.join("content.partial"));
    remove(&partial)?;
    run::quiet(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&partial))?;
    fs::rename(&partial, &content).with_context(|| format!("cannot rename {}", partial.display()))?;
    unpacked(folder)?.with_context(|| format!("{} vanished while it was unpacked", content.display()))
}

fn unpacked(folder: &Path) -> Result<Option<(PathBuf, String)>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let content = folder.join("content");
    let name = only_package(folder)?.and_then(|file| Some(file.file_stem()?.to_string_lossy().into_owned()));
    Ok(name.filter(|_| content.is_dir()).map(|name| (content, name)))
}

fn only_package(folder: &Path) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "deb"));
    Ok(files.into_iter().max())
}

/// The first dependency of a meta package.
fn resolve(meta: &str) -> Result<String> {
    let text = run::quiet(Command::new("apt-cache").args(["depends", "--important", meta]))?;
    match text.lines().find_map(|line| line.trim().strip_prefix("Depends: ")) {
        Some(package) => Ok(package.trim_matches(['<', '>']).to_owned()),
        None => bail!("no package {meta} is known; its architecture or suite may not have it"),
    }
}

/// Brings the package lists up to date.
fn update() -> Result<()> {
    run::quiet(apt().arg("update")).map(drop)
}

/// Without questions, progress bars and waiting for ever behind another apt.
fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "--quiet=2",
        "--yes",
        "-o",
        "Dpkg::Use-Pty=0",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "APT::Sandbox::User=root",
    ]);
    command
}

/// Removes a folder that may not exist.
///
/// # Errors
/// It exists and cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::System;

    #[test]
    fn knows_systems() {
        let debian = System::parse("ID=debian\nVERSION_ID=\"13\"\n");
        assert!(debian.is_supported());
        assert_eq!(debian.name(), "debian 13");
        let rocky = System::parse("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\n");
        assert!(!rocky.is_supported() && rocky.is_like("fedora"));
        let ubuntu = System::parse("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n");
        assert!(!ubuntu.is_supported() && ubuntu.is_like("debian"));
        assert_eq!(System::parse("").name(), "an unknown system");
    }
}
