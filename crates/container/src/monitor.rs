//! The monitor: the tiny program that a shim becomes, kept apart from this one so that it costs a few pages of memory.
//!
//! Its source is in `monitor/` beside this crate's `src/`; the build script compiles it, and it travels inside this
//! program.

use crate::layout::Layout;
use rustix::fs::{StatVfsMountFlags, statvfs};
use std::{
    ffi::CString,
    fs,
    io::{self, Write},
    os::{
        fd::RawFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
};

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/monitor"));

/// How the name of a program begins that is being installed.
pub(crate) const HALF_INSTALLED: &str = ".monitor-";

/// Mode of the program's file.
const MODE: u32 = 0o755;

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

/// Makes sure that the program can be executed, and says where. Nothing is written when it is there already.
///
/// It lies in the run folder, under a name that its content determines, so that two versions of this program do not meet
/// and one file's pages serve all monitors; or in the data folder where the run folder is mounted `noexec`, as `/run` is
/// on Debian.
///
/// # Errors
/// That of the file system, or `PermissionDenied` when both folders are mounted `noexec`.
pub fn install(layout: &Layout) -> io::Result<PathBuf> {
    for folder in [layout.run(), layout.data()] {
        if !statvfs(folder)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            return install_in(&folder.join("bin"));
        }
    }
    let (run, data) = (layout.run().display(), layout.data().display());
    let reason = format!("no program can be executed in {run} or {data}: mount one of them without `noexec`");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

fn install_in(folder: &Path) -> io::Result<PathBuf> {
    let path = folder.join(format!("monitor-{:016x}", hash(PROGRAM)));
    let is_installed = || -> io::Result<bool> {
        Ok(fs::read(&path)? == PROGRAM && fs::metadata(&path)?.permissions().mode() & 0o7777 == MODE)
    };
    match is_installed() {
        Ok(true) => return Ok(path),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
    // A name of our own: whoever installs at the same time puts the same content in place.
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let temporary = folder.join(format!("{HALF_INSTALLED}{:016x}", u64::from_ne_bytes(random)));
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(&temporary)?;
        file.write_all(PROGRAM)?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        // On a disk, a name must not come before its content.
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, &path)
    };
    match write() {
        Ok(()) => Ok(path),
        Err(error) => {
            // The error tells more than that of the cleaning up would.
            drop(fs::remove_file(&temporary));
            Err(error)
        }
    }
}

/// FNV-1a, 64 bit: only tells versions apart, the content is compared.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests;
