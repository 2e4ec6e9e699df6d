//! Virtual machines for tests: Debian's cloud kernel in QEMU under software emulation, with a root file system made for
//! the occasion and pure cgroup v2.
//!
//! A guest is put together with [`Builder`], booted into a [`Machine`], and runs its commands one after another; each
//! command's output comes over a serial line of its own, so that kernel messages (kept in a log) never mix with it. The root
//! is an ext4 disk, because overlay and idmapped mounts want a real file system. A machine is a child process and a set of
//! files in one folder: several can run at once, and dropping one is pulling its plug.
//!
//! Hardware acceleration is never used: the guest behaves the same wherever the tests run.

mod cpio;
mod kernel;
mod power;
mod root;
pub mod suite;
pub mod verb;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::run;
use crate::workspace::Workspace;
use kernel::{Kernel, Module};
use root::Root;

/// Loaded in the first moments, to reach the disk.
const DISK_MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// What containers and their networks use, where it is not built in.
const MODULES: [&str; 24] = [
    "virtio_rng",
    "overlay",
    "loop",
    "fuse",
    "tun",
    "veth",
    "dummy",
    "bridge",
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_reject",
    "nft_reject_inet",
    "nft_fib",
    "nft_fib_inet",
    "nft_limit",
    "nft_log",
    "nft_hash",
];

/// Host programs every guest gets, with their libraries. The small versions of busybox serve for everything else.
const PROGRAMS: [&str; 13] = [
    "nft",
    "ip",
    "runc",
    "mount",
    "umount",
    "unshare",
    "nsenter",
    "setpriv",
    "tar",
    "sh",
    "openssl",
    "skopeo",
    "docker-registry",
];

/// A guest being put together.
pub struct Builder<'a> {
    workspace: &'a Workspace,
    name: String,
    root: Root,
    commands: Vec<String>,
    environment: Vec<(String, String)>,
    memory: u32,
    processors: u32,
    disk: Option<PathBuf>,
    deadline: Duration,
}

/// A running guest. Dropping it is a power cut: nothing in it is told.
pub struct Machine {
    qemu: Child,
    lines: Receiver<String>,
    mark: String,
    console: PathBuf,
    folder: PathBuf,
    ends: Instant,
    deadline: Duration,
}

/// How a guest ended.
pub struct Outcome {
    /// Exit codes of its commands, in order.
    pub statuses: Vec<i32>,
    /// Everything its commands printed.
    pub text: String,
}

impl<'a> Builder<'a> {
    /// A guest with the programs and modules that containers need. Its files go to `guest/<name>` below the target folder,
    /// so two guests that run at once need two names.
    ///
    /// # Errors
    /// A host program that every guest gets is missing, or its libraries cannot be found.
    pub fn new(workspace: &'a Workspace, name: &str) -> Result<Self> {
        let mut root = Root::new()?;
        for program in PROGRAMS {
            root.program(program)?;
        }
        Ok(Self {
            workspace,
            name: name.to_owned(),
            root,
            commands: Vec::new(),
            environment: Vec::new(),
            memory: 2048,
            processors: 1,
            disk: None,
            deadline: Duration::from_secs(600),
        })
    }

    /// Puts a copy of a host file into the guest, with its mode.
    pub fn file(mut self, host: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> Self {
        self.root.file(host, guest);
        self
    }

    /// Puts text into a file of the guest.
    pub fn text(mut self, guest: impl Into<PathBuf>, text: impl Into<String>, mode: u32) -> Self {
        self.root.text(guest, text, mode);
        self
    }

    /// Puts an executable into the guest without its debug information.
    pub fn executable(mut self, host: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> Self {
        self.root.executable(host, guest);
        self
    }

    /// Puts a program of the host with its libraries into the guest.
    ///
    /// # Errors
    /// The host does not have the program, or a library of it.
    pub fn program(mut self, name: &str) -> Result<Self> {
        self.root.program(name)?;
        Ok(self)
    }

    /// Adds a command for its shell; commands run in order, whether or not an earlier one failed.
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }

    /// Sets a variable for all commands.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Memory in MiB; 2048 by default.
    pub fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// Processors; one by default. More of them run what is parallel, but each slower: under emulation, keeping one view of
    /// memory makes a process take two to three times as long to start. Two guests do more than one with two processors.
    pub fn processors(mut self, number: u32) -> Self {
        self.processors = number;
        self
    }

    /// A further disk, `/dev/vdb` inside, that outlives the guest: see [`blank_disk`]. When the power is cut it holds what
    /// the guest had written to it, and not what was in the guest's memory still.
    pub fn disk(mut self, path: &Path) -> Self {
        self.disk = Some(path.to_path_buf());
        self
    }

    /// How long the guest may take from power-on to power-off; ten minutes by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Turns the power on. The guest runs its commands and powers off.
    ///
    /// # Errors
    /// The kernel cannot be fetched, the disk cannot be made, or QEMU cannot be started.
    pub fn boot(mut self) -> Result<Machine> {
        let (mut command, folder, mark) = self.prepare(false)?;
        let mut qemu = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot run QEMU")?;
        let output = qemu.stdout.take().context("QEMU was started without an output")?;
        let (sender, lines) = sync_channel(1024);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(output);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        let console = folder.join("console.log");
        Ok(Machine {
            qemu,
            lines,
            mark,
            console,
            folder,
            ends: Instant::now() + self.deadline,
            deadline: self.deadline,
        })
    }

    /// Boots with this terminal as the guest's, into a shell; returns when it has powered off.
    ///
    /// # Errors
    /// As [`Builder::boot`], or QEMU fails.
    pub fn shell(mut self) -> Result<()> {
        let (mut command, ..) = self.prepare(true)?;
        let status = command.status().context("cannot run QEMU")?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }

    /// Makes the disk and the first file system, and gives the QEMU command, its folder and the mark before exit codes.
    fn prepare(&mut self, interactive: bool) -> Result<(Command, PathBuf, String)> {
        ensure!(
            self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && !self.name.is_empty(),
            "a guest's name is letters, digits and dashes, not {:?}",
            self.name
        );
        let kernel = Kernel::fetch(&self.workspace.scratch("guest/kernel")?)?;
        let folder = self.workspace.scratch(&format!("guest/{}", self.name))?;
        let mark = mark();

        for (number, command) in self.commands.iter().enumerate() {
            self.root.text(format!("/guest/commands/{number:04}"), format!("{command}\n"), 0o755);
        }
        let exports: String = self
            .environment
            .iter()
            .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")))
            .collect();
        let settings = format!("mark='{mark}'\ninteractive={}\n{exports}", u8::from(interactive));
        self.root.text("/guest/settings", settings, 0o644);
        self.root.text("/sbin/init", include_str!("guest/init.sh"), 0o755);
        let mut order = String::new();
        let first = kernel.closure(&DISK_MODULES)?;
        let known = |name: &str| first.iter().any(|module| module.name == name);
        for Module { name, content } in kernel.closure(&MODULES)?.into_iter().filter(|module| !known(&module.name)) {
            order.push_str(&format!("{name}\n"));
            self.root.bytes(format!("/guest/modules/{name}"), content, 0o644);
        }
        self.root.text("/guest/modules/order", order, 0o644);

        let disk = folder.join("disk");
        self.root.make_disk(&folder.join("root"), &disk)?;
        let initramfs = folder.join("initramfs");
        first_root(&first, &initramfs)?;

        // Truncated here, so that an old log is never taken for this boot's.
        let console = folder.join("console.log");
        File::create(&console).with_context(|| format!("cannot make {}", console.display()))?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand,+smap,+smep"])
            .args(["-smp", &self.processors.to_string()])
            .args([
                "-m",
                &format!("{}M", self.memory),
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", "console=ttyS0 loglevel=5 panic=-1 mitigations=off nokaslr tsc=reliable"])
            .arg("-drive")
            .arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()))
            .args(self.disk.iter().flat_map(|disk| {
                ["-drive".to_owned(), format!("file={},if=virtio,format=raw,cache=unsafe", disk.display())]
            }))
            .args(["-device", "virtio-rng-pci"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", if interactive { "mon:stdio" } else { "stdio" }]);
        Ok((command, folder, mark))
    }
}

impl Machine {
    /// Waits until the guest has run its commands and powered off; `each` gets the lines as they come.
    ///
    /// # Errors
    /// The guest took too long, or stopped before its commands had ended (a panic, for example); the error holds the
    /// kernel's last lines.
    pub fn wait(mut self, mut each: impl FnMut(&str)) -> Result<Outcome> {
        let mut outcome = Outcome { statuses: Vec::new(), text: String::new() };
        let mut ended = false;
        while let Some(line) = self.line(&outcome.text)? {
            match line.strip_prefix(&self.mark) {
                Some(" end") => ended = true,
                Some(status) => {
                    let code = status.trim().parse();
                    outcome.statuses.push(code.with_context(|| format!("the guest gave no exit code: {line}"))?);
                }
                None => {
                    each(&line);
                    outcome.text.push_str(&line);
                    outcome.text.push('\n');
                }
            }
        }
        let status = self.qemu.wait().context("cannot wait for QEMU")?;
        let log = self.folder.join("output.log");
        fs::write(&log, &outcome.text).with_context(|| format!("cannot write {}", log.display()))?;
        let text = &outcome.text;
        ensure!(ended && status.success(), "the guest stopped early (QEMU: {status}); {}", self.last_words(text));
        Ok(outcome)
    }

    /// Waits for a line that is so and, after a delay, cuts the power. Gives all that the commands said until then; the last
    /// line may be cut short.
    ///
    /// # Errors
    /// The guest took too long, or ended before.
    pub fn cut_when(mut self, delay: Duration, mut is_so: impl FnMut(&str) -> bool) -> Result<Vec<String>> {
        let mut said = Vec::new();
        loop {
            let line = self.line(&said.join("\n"))?;
            let Some(line) = line.filter(|line| !line.starts_with(&self.mark)) else {
                bail!("the guest ended before its power was cut; {}", self.last_words(&said.join("\n")));
            };
            let so = is_so(&line);
            said.push(line);
            if so {
                break;
            }
        }
        std::thread::sleep(delay);
        self.qemu.kill().context("cannot cut the power")?;
        self.qemu.wait().context("cannot wait for QEMU")?;
        said.extend(self.lines.iter());
        Ok(said)
    }

    /// The next line; none when the guest is off. `text` is what it said before, for an error.
    fn line(&self, text: &str) -> Result<Option<String>> {
        match self.lines.recv_timeout(self.ends.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest did not end within {} s; {}", self.deadline.as_secs(), self.last_words(text))
            }
        }
    }

    /// What the kernel and the commands said last, for an error.
    fn last_words(&self, said: &str) -> String {
        let console = fs::read(&self.console).unwrap_or_default();
        let tail = |text: &str| {
            let lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches('\r')).collect();
            lines[lines.len().saturating_sub(15)..].join("\n  │ ")
        };
        format!(
            "kernel ({}):\n  │ {}\n  commands:\n  │ {}",
            self.console.display(),
            tail(&String::from_utf8_lossy(&console)),
            tail(said)
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Gone already after a regular end; both calls then do nothing.
        _ = self.qemu.kill();
        _ = self.qemu.wait();
    }
}

/// The file system in memory that finds the disk and goes over to it.
fn first_root(modules: &[Module], path: &Path) -> Result<()> {
    let mut archive = cpio::Writer::new(File::create(path).with_context(|| format!("cannot make {}", path.display()))?);
    let mut order = String::new();
    for folder in ["bin", "dev", "modules", "proc", "root"] {
        archive.folder(folder)?;
    }
    for module in modules {
        archive.file(&format!("modules/{}", module.name), 0o644, &module.content)?;
        order.push_str(&format!("{}\n", module.name));
    }
    archive.file("modules/order", 0o644, order.as_bytes())?;
    archive.file("bin/busybox", 0o755, &root::busybox()?)?;
    archive.link("bin/sh", "busybox")?;
    archive.device("dev/console", 5, 1)?;
    archive.file("init", 0o755, include_bytes!("guest/first.sh"))?;
    archive.finish()
}

/// Makes an empty disk for [`Builder::disk`], in the place of an old one.
///
/// # Errors
/// The file cannot be made.
pub fn blank_disk(path: &Path) -> Result<()> {
    root::fresh(path)?;
    run::quiet(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-E", "nodiscard"]).arg(path).arg("1G")).map(drop)
}

/// A word that no command prints by accident.
fn mark() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("@@guest-{}-{}", std::process::id(), now.subsec_nanos())
}
