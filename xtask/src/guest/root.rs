//! A guest's root file system: a folder put together from host files and texts, made into an ext4 disk.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::debian;
use crate::run;

/// Size of the disk; the file is sparse.
const DISK: &str = "6G";

/// What will be in the root.
pub struct Root {
    entries: Vec<(PathBuf, Source)>,
    libraries: BTreeSet<PathBuf>,
}

enum Source {
    File(PathBuf),
    Executable(PathBuf),
    Bytes(Vec<u8>, u32),
}

impl Root {
    /// Busybox, and the few files that programs look for.
    ///
    /// # Errors
    /// Busybox cannot be found, or is not static.
    pub fn new() -> Result<Self> {
        let mut root = Self { entries: Vec::new(), libraries: BTreeSet::new() };
        root.bytes("/bin/busybox", busybox()?, 0o755);
        root.text(
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
            0o644,
        );
        root.text("/etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n", 0o644);
        root.text("/etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n", 0o644);
        root.text("/etc/resolv.conf", "nameserver 127.0.0.1\n", 0o644);
        // By these nft prints names instead of numbers, as on any host.
        root.text("/etc/protocols", "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n", 0o644);
        root.text("/etc/services", "ssh 22/tcp\ndomain 53/tcp\ndomain 53/udp\nhttp 80/tcp\nhttps 443/tcp\n", 0o644);
        // Without it skopeo trusts no image.
        root.text("/etc/containers/policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#, 0o644);
        root.text("/etc/os-release", "ID=guest\nNAME=guest\n", 0o644);
        Ok(root)
    }

    /// A copy of a host file.
    pub fn file(&mut self, host: impl Into<PathBuf>, guest: impl Into<PathBuf>) {
        self.entries.push((guest.into(), Source::File(host.into())));
    }

    /// A copy of an executable, stripped.
    pub fn executable(&mut self, host: impl Into<PathBuf>, guest: impl Into<PathBuf>) {
        self.entries.push((guest.into(), Source::Executable(host.into())));
    }

    /// A text.
    pub fn text(&mut self, guest: impl Into<PathBuf>, text: impl Into<String>, mode: u32) {
        self.bytes(guest, text.into().into_bytes(), mode);
    }

    /// Bytes.
    pub fn bytes(&mut self, guest: impl Into<PathBuf>, bytes: Vec<u8>, mode: u32) {
        self.entries.push((guest.into(), Source::Bytes(bytes, mode)));
    }

    /// A program of the host with the libraries it is linked with, where the host has them.
    ///
    /// # Errors
    /// The host does not have the program, or a library of it.
    pub fn program(&mut self, name: &str) -> Result<()> {
        let path = find(name).with_context(|| format!("the host has no program {name}; next: cargo xtask setup"))?;
        let output = Command::new("ldd").arg(&path).output().context("cannot run ldd")?;
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines() {
            ensure!(!line.contains("not found"), "a library of {name} is missing: {}", line.trim());
            // `libc.so.6 => /lib/… (0x…)` or, for the loader, `/lib64/ld-… (0x…)`
            let library = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(library) = library.filter(|library| self.libraries.insert(library.into())) {
                self.file(library, library);
            }
        }
        // Where the host has it: who looks for, or hides, the programs of root finds them in the same folder.
        let folder =
            if path.parent().is_some_and(|folder| folder.ends_with("sbin")) { "/usr/sbin" } else { "/usr/bin" };
        self.file(&path, Path::new(folder).join(name));
        Ok(())
    }

    /// Lays the root out below `folder` and makes an ext4 file system of it.
    ///
    /// # Errors
    /// A file cannot be read, or the disk cannot be made.
    pub fn make_disk(&self, folder: &Path, disk: &Path) -> Result<()> {
        debian::remove(folder)?;
        let folders = [
            "dev",
            "proc",
            "sys",
            "run",
            "tmp",
            "root",
            "home",
            "mnt",
            "media",
            "opt",
            "srv",
            "etc",
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
            "usr/share",
            "usr/local/bin",
            "usr/local/sbin",
            "var/lib",
            "var/log",
            "var/tmp",
        ];
        for name in folders {
            fs::create_dir_all(folder.join(name)).with_context(|| format!("cannot make {name} of the guest"))?;
        }
        fs::set_permissions(folder.join("tmp"), Permissions::from_mode(0o1777))
            .context("cannot open /tmp of the guest")?;
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), folder.join(name))
                .with_context(|| format!("cannot link /{name} of the guest"))?;
        }
        for (guest, source) in &self.entries {
            let path = folder.join(guest.strip_prefix("/").unwrap_or(guest));
            put(source, &path).with_context(|| format!("cannot put {} into the guest", guest.display()))?;
        }
        applets(&folder.join("usr"))?;
        run::quiet(
            Command::new("mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-d"])
                .arg(folder)
                .arg(fresh(disk)?)
                .arg(DISK),
        )?;
        debian::remove(folder)
    }
}

/// A new file in the place of an old disk.
///
/// # Errors
/// The old one cannot be removed.
pub fn fresh(disk: &Path) -> Result<&Path> {
    match fs::remove_file(disk) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", disk.display()))
        }
        _ => Ok(disk),
    }
}

fn put(source: &Source, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match source {
        Source::File(host) => fs::copy(host, path).map(drop).with_context(|| format!("cannot copy {}", host.display())),
        Source::Executable(host) => {
            run::quiet(Command::new("strip").arg("--strip-debug").arg("-o").arg(path).arg(host)).map(drop)
        }
        Source::Bytes(bytes, mode) => {
            fs::write(path, bytes)?;
            Ok(fs::set_permissions(path, Permissions::from_mode(*mode))?)
        }
    }
}

/// Names for what busybox can do, where no program of the host took the name.
fn applets(usr: &Path) -> Result<()> {
    let folder = usr.join("bin");
    let list = run::quiet(Command::new(folder.join("busybox")).arg("--list"))?;
    let taken = |name: &str| ["bin", "sbin"].iter().any(|folder| usr.join(folder).join(name).exists());
    for name in list.lines().filter(|name| !taken(name)) {
        symlink("busybox", folder.join(name)).with_context(|| format!("cannot link {name} of the guest"))?;
    }
    Ok(())
}

/// The host's static busybox.
///
/// # Errors
/// There is none, or it needs libraries.
pub fn busybox() -> Result<Vec<u8>> {
    let path = find("busybox").context("the host has no busybox; next: cargo xtask setup")?;
    let linked = Command::new("ldd").arg(&path).output().context("cannot run ldd")?;
    let dynamic = String::from_utf8_lossy(&linked.stdout).contains("=>");
    ensure!(!dynamic, "{} is not static; next: install the static one (Debian: busybox-static)", path.display());
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// A program of the host, also where only root's path has it.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    system.into_iter().chain(std::env::split_paths(&path)).map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::Root;

    #[test]
    fn a_program_brings_its_libraries_once() {
        let mut root = Root { entries: Vec::new(), libraries: Default::default() };
        root.program("sh").expect("every host has a shell");
        let first = root.entries.len();
        root.program("sh").expect("again");
        assert_eq!(root.entries.len(), first + 1);
        assert!(root.program("no-such-program").expect_err("missing").to_string().contains("no-such-program"));
    }
}
