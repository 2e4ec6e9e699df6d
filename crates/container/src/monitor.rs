//! The monitor: the tiny program that a shim becomes, kept apart from this one so that it costs a few pages of memory.
//!
//! Its source is in `monitor/` beside this crate's `src/`; the build script compiles it, and it travels inside this
//! program.

use crate::layout::Layout;
use std::{
    ffi::CString,
    fs, io,
    os::{fd::RawFd, unix::ffi::OsStrExt, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/monitor"));

/// Everything that a monitor is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The container's init on the host.
    pub pid: i32,
    /// A descriptor of it.
    pub pidfd: RawFd,
    /// Whether it is the child of another, who is gone.
    pub adopted: bool,
    /// Where its output is read, or the master of its terminal.
    pub output: RawFd,
    /// Where its error output is read.
    pub error: Option<RawFd>,
    /// Where its input is written.
    pub input: Option<RawFd>,
    /// Whether `output` is a terminal.
    pub tty: bool,
    /// Whether its input stays open.
    pub interactive: bool,
    /// The socket that clients connect to.
    pub listen: RawFd,
    /// A client that is connected already.
    pub client: Option<RawFd>,
    /// Folder of the log.
    pub log: PathBuf,
    /// Largest size of one log file, bytes.
    pub max_size: u64,
    /// Number of log files.
    pub max_files: u32,
    /// The exit file.
    pub exit: PathBuf,
    /// Whether the exit file is synchronised to the disk.
    pub sync: bool,
    /// Where the kernel counts what it killed for want of memory.
    pub oom: Option<PathBuf>,
    /// Control groups to remove at the end.
    pub cgroups: Vec<PathBuf>,
    /// Files to remove at the end.
    pub unlink: Vec<PathBuf>,
    /// What it becomes in the end; nothing when empty.
    pub finally: Vec<String>,
}

impl Arguments {
    /// As the monitor reads them.
    ///
    /// # Errors
    /// `InvalidInput` when a path holds a NUL byte.
    pub fn to_argv(&self) -> io::Result<Vec<CString>> {
        let mut all: Vec<Vec<u8>> = vec![b"jdos-monitor".to_vec()];
        let number = |key: &str, value: i64| format!("{key}={value}").into_bytes();
        let path = |key: &str, value: &Path| [key.as_bytes(), b"=", value.as_os_str().as_bytes()].concat();
        all.push(number("pid", self.pid.into()));
        all.push(number("pidfd", self.pidfd.into()));
        all.push(number("adopted", self.adopted.into()));
        all.push(number("out", self.output.into()));
        all.extend(self.error.map(|fd| number("err", fd.into())));
        all.extend(self.input.map(|fd| number("in", fd.into())));
        all.push(number("tty", self.tty.into()));
        all.push(number("interactive", self.interactive.into()));
        all.push(number("listen", self.listen.into()));
        all.extend(self.client.map(|fd| number("client", fd.into())));
        all.push(path("log", &self.log));
        all.push(format!("max={}", self.max_size).into_bytes());
        all.push(number("files", self.max_files.into()));
        all.push(path("exit", &self.exit));
        all.push(number("sync", self.sync.into()));
        all.extend(self.oom.iter().map(|file| path("oom", file)));
        all.extend(self.cgroups.iter().map(|folder| path("cgroup", folder)));
        all.extend(self.unlink.iter().map(|file| path("unlink", file)));
        if !self.finally.is_empty() {
            all.push(b"--".to_vec());
            all.extend(self.finally.iter().map(|word| word.clone().into_bytes()));
        }
        all.into_iter().map(|word| CString::new(word).map_err(io::Error::from)).collect()
    }
}

/// The monitor's program as a file, made when it is not there. Its name tells its content, so two versions of this
/// program do not meet, and one file's pages serve all monitors.
///
/// # Errors
/// That of the file system.
pub fn install(layout: &Layout) -> io::Result<PathBuf> {
    let hash = PROGRAM
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let path = layout.run().join("bin").join(format!("monitor-{hash:016x}"));
    if path.exists() {
        return Ok(path);
    }
    let temporary = path.with_extension(format!("{}", std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&temporary)?;
        io::Write::write_all(&mut file, PROGRAM)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    })();
    match written {
        Ok(()) => Ok(path),
        Err(error) => match fs::remove_file(&temporary) {
            Err(rest) if rest.kind() != io::ErrorKind::NotFound => Err(rest),
            _ => Err(error),
        },
    }
}
