//! What must be known of this machine to check a request.
//!
//! Read once, cheaply, in the process that will start the container. What only some requests need (which CPUs are
//! online, whether a path exists) is asked through [`Files`] when it is needed.

use super::idlist::IdList;
use crate::capability::CapabilitySet;
use oci_spec::runtime::PosixRlimitType;
use rustix::{
    fs::{major, minor},
    process::{Resource, getrlimit},
};
use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// What kind of file a path leads to, symbolic links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A block device of this number.
    Block {
        /// Driver.
        major: u32,
        /// Which of the driver's devices.
        minor: u32,
    },
    /// A character device of this number.
    Char {
        /// Driver.
        major: u32,
        /// Which of the driver's devices.
        minor: u32,
    },
    /// Anything else: a FIFO or a socket.
    Other,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Its kind.
    pub kind: Kind,
    /// Permission bits, the low twelve of its mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The host's file system, as far as checking needs it.
pub trait Files {
    /// What is at a path, symbolic links followed.
    ///
    /// # Errors
    /// That of the file system.
    fn look(&self, path: &Path) -> io::Result<Look>;
    /// A file's content.
    ///
    /// # Errors
    /// That of the file system, or `FileTooLarge` when it has more than `limit` bytes.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// The block and character devices below a folder, symbolic links left out, ordered by path.
    ///
    /// # Errors
    /// That of the file system.
    fn devices(&self, folder: &Path) -> io::Result<Vec<(PathBuf, Look)>>;
}

/// The machine and the process that makes containers on it.
pub struct Facts {
    /// Hard resource limits of this process; `u64::MAX` is unlimited.
    pub hard_limits: Vec<(PosixRlimitType, u64)>,
    /// Whether this process may raise hard limits and lower OOM scores (`CAP_SYS_RESOURCE`).
    pub may_raise: bool,
    /// Capabilities that this process can pass on where the container shares its users.
    pub capabilities: CapabilitySet,
    /// The host's name.
    pub hostname: String,
    /// Working directory against which relative paths are completed; absent when it was deleted.
    pub directory: Option<PathBuf>,
    /// The host's files.
    pub files: Box<dyn Files + Send + Sync>,
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts")
            .field("may_raise", &self.may_raise)
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

impl Facts {
    /// Those of this machine and process.
    ///
    /// # Errors
    /// That of capget(2).
    pub fn read() -> io::Result<Self> {
        let capabilities = CapabilitySet(rustix::thread::capabilities(None)?.effective.bits());
        let hard_limits = super::ulimit::KINDS
            .iter()
            .map(|(_, kind, resource): &(_, _, Resource)| (*kind, getrlimit(*resource).maximum.unwrap_or(u64::MAX)))
            .collect();
        let sys_resource = rustix::thread::CapabilitySet::SYS_RESOURCE.bits();
        Ok(Self {
            hard_limits,
            may_raise: capabilities.0 & sys_resource != 0,
            capabilities,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            directory: std::env::current_dir().ok(),
            files: Box::new(Host),
        })
    }

    /// CPUs online.
    ///
    /// # Errors
    /// That of sysfs.
    pub fn cpus(&self) -> io::Result<IdList> {
        self.list("/sys/devices/system/cpu/online")
    }
    /// Memory nodes with memory; node 0 alone on a kernel without NUMA.
    ///
    /// # Errors
    /// That of sysfs.
    pub fn memory_nodes(&self) -> io::Result<IdList> {
        match self.list("/sys/devices/system/node/has_memory") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                "0".parse().map_err(|why: &str| io::Error::new(io::ErrorKind::InvalidData, why))
            }
            other => other,
        }
    }
    /// Hard limit of this process; `u64::MAX` is unlimited.
    pub fn hard_limit(&self, kind: PosixRlimitType) -> u64 {
        self.hard_limits.iter().find(|(known, _)| *known == kind).map_or(u64::MAX, |(_, limit)| *limit)
    }
    /// Largest number of open files that any process may be allowed (`fs.nr_open`).
    pub fn most_files(&self) -> u64 {
        self.number("/proc/sys/fs/nr_open").unwrap_or(1 << 20)
    }
    /// This process's OOM score adjustment, below which it can not go without `CAP_SYS_RESOURCE`.
    pub fn oom_score_adj(&self) -> i32 {
        self.number("/proc/self/oom_score_adj").unwrap_or(0)
    }
    /// Whether the kernel counts swap per control group.
    pub fn counts_swap(&self) -> bool {
        ["/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "/sys/fs/cgroup/cgroup.controllers"]
            .iter()
            .any(|path| self.exists(path))
    }
    /// Size of a memory page, bytes (getauxval(3), `AT_PAGESZ`).
    pub fn page_size(&self) -> u64 {
        const AT_PAGESZ: u64 = 6;
        let auxv = self.files.read(Path::new("/proc/self/auxv"), 4096).unwrap_or_default();
        let words: Vec<u64> = auxv
            .chunks_exact(size_of::<usize>())
            .map(|word| word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            .collect();
        words.chunks_exact(2).find(|pair| pair[0] == AT_PAGESZ).map_or(4096, |pair| pair[1])
    }
    /// Whether there is something at this path of the host.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.files.look(path.as_ref()).is_ok()
    }

    fn text(&self, path: &str) -> io::Result<String> {
        let bytes = self.files.read(Path::new(path), 4096)?;
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
    fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.text(path).ok()?.trim().parse().ok()
    }
    fn list(&self, path: &str) -> io::Result<IdList> {
        let text = self.text(path)?;
        let fail = |why| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {why}"));
        text.trim().parse().map_err(fail)
    }
}

/// The machine's own file system.
struct Host;

impl Files for Host {
    fn look(&self, path: &Path) -> io::Result<Look> {
        fs::metadata(path).map(|metadata| look(&metadata))
    }
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        fs::File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut content)?;
        match u64::try_from(content.len()) {
            Ok(length) if length <= limit => Ok(content),
            _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes"))),
        }
    }
    fn devices(&self, folder: &Path) -> io::Result<Vec<(PathBuf, Look)>> {
        /// Deepest nesting followed; devtmpfs has three.
        const DEPTH: usize = 16;
        let mut found = Vec::new();
        let mut folders = vec![(folder.to_owned(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // unplugged meanwhile
                    Err(error) => return Err(error),
                };
                match look(&metadata) {
                    _ if metadata.is_symlink() => {}
                    Look { kind: Kind::Directory, .. } if depth < DEPTH => folders.push((entry.path(), depth + 1)),
                    found_here @ Look { kind: Kind::Block { .. } | Kind::Char { .. }, .. } => {
                        found.push((entry.path(), found_here));
                    }
                    _ => {}
                }
            }
        }
        found.sort_by(|one, two| one.0.cmp(&two.0));
        Ok(found)
    }
}

fn look(metadata: &fs::Metadata) -> Look {
    let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_file() => Kind::File,
        kind if kind.is_block_device() => Kind::Block { major, minor },
        kind if kind.is_char_device() => Kind::Char { major, minor },
        _ => Kind::Other,
    };
    Look { kind, mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A file system of these entries, for pure tests.
    #[derive(Default)]
    pub(crate) struct Fake(pub(crate) BTreeMap<PathBuf, (Look, Vec<u8>)>);

    impl Fake {
        pub(crate) fn add(&mut self, path: &str, kind: Kind, content: &str) -> &mut Self {
            let look = Look { kind, mode: 0o666, uid: 0, gid: 0 };
            self.0.insert(path.into(), (look, content.as_bytes().to_vec()));
            self
        }
    }
    impl Files for Fake {
        fn look(&self, path: &Path) -> io::Result<Look> {
            self.0.get(path).map(|(look, _)| *look).ok_or_else(|| io::ErrorKind::NotFound.into())
        }
        fn read(&self, path: &Path, _: u64) -> io::Result<Vec<u8>> {
            self.0.get(path).map(|(_, content)| content.clone()).ok_or_else(|| io::ErrorKind::NotFound.into())
        }
        fn devices(&self, folder: &Path) -> io::Result<Vec<(PathBuf, Look)>> {
            let device = |look: &Look| matches!(look.kind, Kind::Block { .. } | Kind::Char { .. });
            let entries = self.0.iter().filter(|(path, (look, _))| path.starts_with(folder) && device(look));
            Ok(entries.map(|(path, (look, _))| (path.clone(), *look)).collect())
        }
    }

    /// A machine with four CPUs and one memory node, whose engine may not raise limits.
    pub(crate) fn facts() -> Facts {
        facts_with(|_| {})
    }
    /// The same with other files.
    pub(crate) fn facts_with(change: impl FnOnce(&mut Fake)) -> Facts {
        let mut files = Fake::default();
        files
            .add("/sys/devices/system/cpu/online", Kind::File, "0-3\n")
            .add("/sys/devices/system/node/has_memory", Kind::File, "0\n")
            .add("/sys/devices/system/cpu/cpu0/thermal_throttle", Kind::Directory, "")
            .add("/sys/fs/cgroup/cgroup.controllers", Kind::File, "cpu memory\n")
            .add("/proc/sys/fs/nr_open", Kind::File, "1048576\n")
            .add("/proc/self/oom_score_adj", Kind::File, "0\n")
            .add("/srv/root", Kind::Directory, "")
            .add("/srv/data", Kind::Directory, "")
            .add("/srv/file", Kind::File, "")
            .add("/dev", Kind::Directory, "")
            .add("/dev/fuse", Kind::Char { major: 10, minor: 229 }, "")
            .add("/dev/vda", Kind::Block { major: 254, minor: 0 }, "")
            .add("/dev/pts/0", Kind::Char { major: 136, minor: 0 }, "")
            .add("/dev/snd", Kind::Directory, "")
            .add("/dev/snd/timer", Kind::Char { major: 116, minor: 33 }, "");
        change(&mut files);
        let limit = |kind| match kind {
            PosixRlimitType::RlimitNofile => 20_000,
            PosixRlimitType::RlimitMemlock => 8 << 20,
            _ => u64::MAX,
        };
        Facts {
            hard_limits: crate::spec::ulimit::KINDS.iter().map(|(_, kind, _)| (*kind, limit(*kind))).collect(),
            may_raise: false,
            capabilities: CapabilitySet(CapabilitySet::full().0 & !(1 << 24)),
            hostname: "host".to_owned(),
            directory: Some("/home/me".into()),
            files: Box::new(files),
        }
    }

    #[test]
    fn this_machine() {
        let facts = Facts::read().unwrap();
        assert!(facts.cpus().unwrap().count() >= 1);
        assert!(facts.memory_nodes().unwrap().count() >= 1);
        assert!(facts.page_size().is_power_of_two() && facts.page_size() >= 4096);
        assert!(facts.most_files() >= 1024);
        assert!((-1000..=1000).contains(&facts.oom_score_adj()));
        let null = facts.files.look(Path::new("/dev/null")).unwrap();
        assert_eq!(null.kind, Kind::Char { major: 1, minor: 3 });
        let devices = facts.files.devices(Path::new("/dev")).unwrap();
        assert!(devices.iter().any(|(path, look)| path == Path::new("/dev/null") && *look == null));
        assert!(facts.files.look(Path::new("/nowhere/at/all")).is_err());
        let error = facts.files.read(Path::new("/proc/self/status"), 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
