//! Mount options as mount(8) and the OCI runtime specification write them, sorted by the system call that takes them.

use oci_spec::runtime::Mount;
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags};
use std::path::{Component, Path, PathBuf};

/// Attributes to change (mount_setattr(2)): first all of `clear`, then all of `set`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Turned on.
    pub set: MountAttrFlags,
    /// Turned off; has the whole field of access times when `set` says which.
    pub clear: MountAttrFlags,
}

/// How mounts spread to and from the peers of a mount (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// Exactly one of `SHARED`, `DOWNSTREAM` (slave), `PRIVATE`, `UNBINDABLE`.
    pub kind: MountPropagationFlags,
    /// Whether the mounts below change as well.
    pub recursive: bool,
}

/// The options of one mount. Where two contradict each other the later one holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Attributes of this mount alone: `ro`, `nosuid`, `noatime`, …
    pub attributes: Attributes,
    /// Attributes of this mount and of all below it: `rro`, `rnosuid`, …
    pub recursive: Attributes,
    /// Flags of a new file system (`ro`, `sync`, `dirsync`, `lazytime`, `mand`, `silent`, `iversion`); not for a bind mount.
    pub filesystem: MountFlags,
    /// A bind mount: `Some(true)` with all mounts below the source (`rbind`), `Some(false)` without (`bind`).
    pub bind: Option<bool>,
    /// Change what is mounted there already.
    pub remount: bool,
    /// Propagation, in the order to be applied.
    pub propagation: Vec<Propagation>,
    /// Map owners by the mount's or the container's id mappings: `Some(true)` for all mounts below as well (`ridmap`).
    pub idmap: Option<bool>,
    /// Fill a new tmpfs with what it covers (`tmpcopyup`).
    pub copy_up: bool,
    /// What the file system itself understands, such as `size=64m`.
    pub data: Vec<String>,
}

/// What one word means.
#[derive(Clone, Copy)]
enum Word {
    Set(MountAttrFlags),
    Clear(MountAttrFlags),
    Filesystem(MountFlags, bool),
    Ignored,
}

const NONE: Attributes = Attributes { set: MountAttrFlags::empty(), clear: MountAttrFlags::empty() };
/// The kernel keeps i_version under this bit (`MS_I_VERSION`).
const IVERSION: MountFlags = MountFlags::from_bits_retain(1 << 23);

impl Attributes {
    /// Whether nothing changes.
    pub fn is_empty(self) -> bool {
        self.set.is_empty() && self.clear.is_empty()
    }
    fn set(&mut self, flag: MountAttrFlags) {
        // Access time is one field of several bits: a value replaces the field.
        if MountAttrFlags::MOUNT_ATTR__ATIME.contains(flag) {
            self.set = self.set.difference(MountAttrFlags::MOUNT_ATTR__ATIME) | flag;
            self.clear |= MountAttrFlags::MOUNT_ATTR__ATIME;
        } else {
            self.set |= flag;
            self.clear = self.clear.difference(flag);
        }
    }
    fn clear(&mut self, flag: MountAttrFlags) {
        self.clear |= flag;
        self.set = self.set.difference(flag);
    }
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            attributes: NONE,
            recursive: NONE,
            filesystem: MountFlags::empty(),
            bind: None,
            remount: false,
            propagation: Vec::new(),
            idmap: None,
            copy_up: false,
            data: Vec::new(),
        }
    }
}

impl MountOptions {
    /// Sorts options. What is no option of mount(8) is taken to be the file system's own: see [`MountOptions::unknown`].
    pub fn parse<T: AsRef<str>>(options: &[T]) -> Self {
        let mut all = Self::default();
        for option in options {
            all.add(option.as_ref());
        }
        all
    }

    /// The options of a mount; one of type `bind` is a bind mount whether its options say so or not.
    pub fn of(mount: &Mount) -> Self {
        let mut all = Self::parse(mount.options().as_deref().unwrap_or_default());
        if mount.typ().as_deref() == Some("bind") {
            all.bind.get_or_insert(false);
        }
        all
    }

    /// Whether the mount is to be read-only, below it or not.
    pub fn read_only(&self) -> bool {
        (self.attributes.set | self.recursive.set).contains(MountAttrFlags::MOUNT_ATTR_RDONLY)
    }

    /// The flags of a new file system as fsconfig(2) (`FSCONFIG_SET_FLAG`) names them.
    pub fn filesystem_flags(&self) -> impl Iterator<Item = &'static str> {
        let names = [
            (MountFlags::RDONLY, "ro"),
            (MountFlags::SYNCHRONOUS, "sync"),
            (MountFlags::DIRSYNC, "dirsync"),
            (MountFlags::LAZYTIME, "lazytime"),
            (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, "mand"),
        ];
        let set = self.filesystem;
        names.into_iter().filter(move |(flag, _)| set.contains(*flag)).map(|(_, name)| name)
    }

    /// Options that can not be honoured: any of a file system's own for a bind mount, and those that the file system is
    /// known not to have. Of file systems not listed here the kernel is the judge.
    pub fn unknown(&self, fstype: Option<&str>) -> Vec<&str> {
        let known: &[&str] = match (self.bind, fstype.unwrap_or_default()) {
            (Some(_), _) | (None, "" | "none" | "bind" | "sysfs" | "mqueue") => &[],
            (None, "tmpfs") => &[
                "size",
                "nr_blocks",
                "nr_inodes",
                "mode",
                "uid",
                "gid",
                "huge",
                "mpol",
                "inode32",
                "inode64",
                "noswap",
                "usrquota",
                "grpquota",
            ],
            (None, "ramfs") => &["mode"],
            (None, "proc") => &["hidepid", "gid", "subset", "pidns"],
            (None, "devpts") => &["newinstance", "uid", "gid", "mode", "ptmxmode", "max"],
            _ => return Vec::new(),
        };
        let unknown = |data: &&String| !known.contains(&data.split('=').next().unwrap_or_default());
        self.data.iter().filter(unknown).map(String::as_str).collect()
    }

    fn add(&mut self, option: &str) {
        let propagation = |kind, recursive| Propagation { kind, recursive };
        match option {
            "bind" => self.bind = Some(false),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "shared" => self.propagation.push(propagation(MountPropagationFlags::SHARED, false)),
            "rshared" => self.propagation.push(propagation(MountPropagationFlags::SHARED, true)),
            "slave" => self.propagation.push(propagation(MountPropagationFlags::DOWNSTREAM, false)),
            "rslave" => self.propagation.push(propagation(MountPropagationFlags::DOWNSTREAM, true)),
            "private" => self.propagation.push(propagation(MountPropagationFlags::PRIVATE, false)),
            "rprivate" => self.propagation.push(propagation(MountPropagationFlags::PRIVATE, true)),
            "unbindable" => self.propagation.push(propagation(MountPropagationFlags::UNBINDABLE, false)),
            "runbindable" => self.propagation.push(propagation(MountPropagationFlags::UNBINDABLE, true)),
            other => match word(other) {
                Some(Word::Set(flag)) => {
                    self.attributes.set(flag);
                    if flag == MountAttrFlags::MOUNT_ATTR_RDONLY {
                        self.filesystem |= MountFlags::RDONLY;
                    }
                }
                Some(Word::Clear(flag)) => {
                    self.attributes.clear(flag);
                    if flag == MountAttrFlags::MOUNT_ATTR_RDONLY {
                        self.filesystem.remove(MountFlags::RDONLY);
                    }
                }
                Some(Word::Filesystem(flag, on)) => self.filesystem.set(flag, on),
                Some(Word::Ignored) => {}
                None => match other.strip_prefix('r').and_then(word) {
                    Some(Word::Set(flag)) => self.recursive.set(flag),
                    Some(Word::Clear(flag)) => self.recursive.clear(flag),
                    _ => self.data.push(other.to_owned()),
                },
            },
        }
    }
}

fn word(option: &str) -> Option<Word> {
    use MountAttrFlags as Attr;
    Some(match option {
        "ro" => Word::Set(Attr::MOUNT_ATTR_RDONLY),
        "rw" => Word::Clear(Attr::MOUNT_ATTR_RDONLY),
        "nosuid" => Word::Set(Attr::MOUNT_ATTR_NOSUID),
        "suid" => Word::Clear(Attr::MOUNT_ATTR_NOSUID),
        "nodev" => Word::Set(Attr::MOUNT_ATTR_NODEV),
        "dev" => Word::Clear(Attr::MOUNT_ATTR_NODEV),
        "noexec" => Word::Set(Attr::MOUNT_ATTR_NOEXEC),
        "exec" => Word::Clear(Attr::MOUNT_ATTR_NOEXEC),
        "nodiratime" => Word::Set(Attr::MOUNT_ATTR_NODIRATIME),
        "diratime" => Word::Clear(Attr::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => Word::Set(Attr::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => Word::Clear(Attr::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => Word::Set(Attr::MOUNT_ATTR_NOATIME),
        "strictatime" => Word::Set(Attr::MOUNT_ATTR_STRICTATIME),
        // Without another word access times are relative (since Linux 2.6.30), so these all ask for that.
        "relatime" | "norelatime" | "atime" | "nostrictatime" => Word::Set(Attr::MOUNT_ATTR_RELATIME),
        "sync" => Word::Filesystem(MountFlags::SYNCHRONOUS, true),
        "async" => Word::Filesystem(MountFlags::SYNCHRONOUS, false),
        "dirsync" => Word::Filesystem(MountFlags::DIRSYNC, true),
        "lazytime" => Word::Filesystem(MountFlags::LAZYTIME, true),
        "nolazytime" => Word::Filesystem(MountFlags::LAZYTIME, false),
        "mand" => Word::Filesystem(MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
        "nomand" => Word::Filesystem(MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
        "silent" => Word::Filesystem(MountFlags::SILENT, true),
        "loud" => Word::Filesystem(MountFlags::SILENT, false),
        "iversion" => Word::Filesystem(IVERSION, true),
        "noiversion" => Word::Filesystem(IVERSION, false),
        // For mount(8) itself and for fstab(5), not for the kernel.
        "defaults" | "auto" | "noauto" | "nouser" | "nofail" | "_netdev" | "notmpcopyup" => Word::Ignored,
        other if other.starts_with("x-") || other.starts_with("X-") || other.starts_with("comment=") => Word::Ignored,
        _ => return None,
    })
}

/// An absolute path without `.`, `..` and doubled slashes; `..` stops at the root. `None` when it is relative or has a
/// NUL byte.
pub(crate) fn clean(path: &Path) -> Option<PathBuf> {
    if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
        return None;
    }
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    Some(clean)
}

/// Why nothing may be mounted at this (clean) path inside: what hides or stands in for `/proc` undoes its masked paths
/// and deceives whatever reads `/proc/self` (CVE-2019-16884). The exceptions are files that lxcfs and the like replace.
pub(crate) fn forbidden(destination: &Path, is_proc: bool) -> Option<&'static str> {
    const REPLACEABLE: [&str; 11] = [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "net/dev",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ];
    if destination == Path::new("/") {
        return Some("nothing can be mounted over the root of the container");
    }
    let inside = destination.strip_prefix("/proc").ok()?;
    let fine = (inside.as_os_str().is_empty() && is_proc) || REPLACEABLE.iter().any(|file| inside == Path::new(file));
    (!fine).then_some("nothing but proc can be mounted at /proc, and only files such as cpuinfo inside it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use MountAttrFlags as Attr;
    use proptest::prelude::*;

    #[test]
    fn words_are_sorted() {
        let options = MountOptions::parse(&["nosuid", "strictatime", "mode=755", "size=65536k", "ro", "sync"]);
        assert_eq!(
            options.attributes.set,
            Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_STRICTATIME | Attr::MOUNT_ATTR_RDONLY
        );
        assert_eq!(options.attributes.clear, Attr::MOUNT_ATTR__ATIME);
        assert_eq!(options.data, ["mode=755", "size=65536k"]);
        assert_eq!(options.filesystem_flags().collect::<Vec<_>>(), ["ro", "sync"]);
        assert!(options.read_only() && options.bind.is_none() && options.recursive.is_empty());
        let bind = MountOptions::parse(&["rbind", "rslave", "shared", "rro", "rnoexec", "ridmap"]);
        assert_eq!((bind.bind, bind.idmap, bind.read_only()), (Some(true), Some(true), true));
        assert_eq!(bind.recursive.set, Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOEXEC);
        assert!(bind.attributes.is_empty() && bind.filesystem.is_empty());
        let kinds: Vec<_> = bind.propagation.iter().map(|change| (change.kind, change.recursive)).collect();
        assert_eq!(kinds, [(MountPropagationFlags::DOWNSTREAM, true), (MountPropagationFlags::SHARED, false)]);
    }

    #[test]
    fn the_later_word_holds() {
        let options = MountOptions::parse(&["ro", "rw", "nosuid", "suid", "noexec", "noatime", "relatime"]);
        assert_eq!(options.attributes.set, Attr::MOUNT_ATTR_NOEXEC);
        let cleared = Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR__ATIME;
        assert_eq!(options.attributes.clear, cleared);
        assert_eq!(options.filesystem_flags().count(), 0);
        assert!(MountOptions::parse(&["rw", "ro"]).read_only());
        assert_eq!(MountOptions::parse(&["sync", "async"]).filesystem, MountFlags::empty());
    }

    #[test]
    fn every_word_of_the_specification_is_known() {
        for word in "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime \
            noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private rbind rdev rdiratime \
            relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro \
            rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable ratime rw shared silent slave \
            strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap"
            .split_whitespace()
        {
            assert!(MountOptions::parse(&[word]).data.is_empty(), "{word}");
        }
    }

    #[test]
    fn unknown_options_are_named() {
        let unknown = |fstype, options: &[&str]| {
            MountOptions::parse(options).unknown(Some(fstype)).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(unknown("bind", &["rbind", "ro", "frob", "size=1"]), ["frob", "size=1"]);
        assert_eq!(unknown("tmpfs", &["size=1", "mode=755", "sise=1"]), ["sise=1"]);
        assert_eq!(unknown("proc", &["hidepid=2", "nosuid"]), [""; 0]);
        assert_eq!(unknown("overlay", &["lowerdir=/a", "whatever"]), [""; 0]);
        assert_eq!(unknown("none", &["rbind", "x-gvfs-hide"]), [""; 0]);
        assert_eq!(unknown("devpts", &["newinstance", "rsync"]), ["rsync"]);
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, cleaned) in
            [("/a//b/./c/", "/a/b/c"), ("/a/../../b", "/b"), ("/", "/"), ("/..", "/"), ("/a/b/..", "/a")]
        {
            assert_eq!(clean(Path::new(path)).as_deref(), Some(Path::new(cleaned)), "{path}");
        }
        assert!(
            clean(Path::new("a")).is_none() && clean(Path::new("/a\0")).is_none() && clean(Path::new("")).is_none()
        );
    }

    #[test]
    fn proc_stays_proc() {
        assert!(forbidden(Path::new("/"), false).is_some());
        assert!(forbidden(Path::new("/proc"), false).is_some() && forbidden(Path::new("/proc"), true).is_none());
        assert!(forbidden(Path::new("/proc/self"), true).is_some());
        assert!(forbidden(Path::new("/proc/cpuinfo"), false).is_none());
        assert!(forbidden(Path::new("/process"), false).is_none());
    }

    proptest! {
        #[test]
        fn never_panics(options in proptest::collection::vec("r?[a-z]{0,8}|.{0,8}", 0..8), fstype in "[a-z]{0,6}") {
            let all = MountOptions::parse(&options);
            prop_assert!(all.unknown(Some(&fstype)).len() <= options.len());
            prop_assert!((all.attributes.set & all.attributes.clear).difference(Attr::MOUNT_ATTR__ATIME).is_empty());
        }
    }
}
