//! From the archive that mmdebstrap writes to the entries of a layer: names without `./`, times not later than the
//! image's, without what says something about this machine or this moment, and with what an image has besides.

use super::{BootstrapError, Kind, keystore};
use crate::{
    layer::PackError,
    tarball::{Entry, Kind as EntryKind, Limits, Reader, TarError},
};
use std::{collections::BTreeMap, io::BufRead};

/// Somebody who looks at every entry of a tree.
pub(super) trait Visitor {
    /// One entry; a file's data follows. Entries come sorted by name, directories before what is in them, but for what
    /// was added, which comes last.
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError>;
    /// Data of the entry before.
    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError>;
}

/// A tree can not be read or written.
#[derive(Debug)]
pub(super) enum TreeError {
    Archive(TarError),
    Pack(PackError),
    /// The caller wants it to stop.
    Stopped,
}

impl TreeError {
    pub fn write(source: std::io::Error) -> Self {
        Self::Pack(PackError::Write { source })
    }
}

impl From<TreeError> for BootstrapError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Archive(source) => Self::Archive { source },
            TreeError::Pack(source) => Self::Pack { source },
            TreeError::Stopped => Self::Stopped,
        }
    }
}

/// A file, directory or link that an image has besides what its packages bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addition {
    entry: Entry,
    data: Vec<u8>,
}

impl Addition {
    pub fn file(path: &str, mode: u32, data: impl Into<Vec<u8>>) -> Self {
        let data = data.into();
        let mut entry = Entry::new(path, EntryKind::File);
        (entry.mode, entry.size) = (mode, data.len() as u64);
        Self { entry, data }
    }
    pub fn directory(path: &str, mode: u32, owner: u32) -> Self {
        let mut entry = Entry::new(format!("{path}/"), EntryKind::Directory);
        (entry.mode, entry.uid, entry.gid) = (mode, owner, owner);
        Self { entry, data: Vec::new() }
    }
    pub fn link(path: &str, target: &str) -> Self {
        let mut entry = Entry::new(path, EntryKind::Symlink);
        entry.mode = 0o777;
        entry.link = target.into();
        Self { entry, data: Vec::new() }
    }
}

/// What becomes of a tree on the way.
#[derive(Debug, Default)]
pub(super) struct Rules {
    kind: Option<Kind>,
    epoch: i64,
    additions: BTreeMap<Vec<u8>, Addition>,
}

impl Rules {
    /// For what mmdebstrap made.
    pub fn new(kind: Kind, epoch: i64, additions: Vec<Addition>) -> Self {
        let stamped = additions.into_iter().map(|mut addition| {
            addition.entry.mtime = epoch;
            (addition.entry.path.clone(), addition)
        });
        Self { kind: Some(kind), epoch, additions: stamped.collect() }
    }

    /// For a layer that was made by these rules: it stays as it is.
    pub fn none() -> Self {
        Self { kind: None, epoch: i64::MAX, additions: BTreeMap::new() }
    }

    fn keeps(&self, path: &[u8], entry: &Entry) -> bool {
        match self.kind {
            None => true,
            Some(Kind::System) => !is_of_the_moment(path, entry),
            Some(Kind::Files) => !is_of_the_moment(path, entry) && !is_useless_alone(path, entry),
        }
    }
}

/// The largest file that is looked at as a whole, in bytes.
const MOST_WHOLE: u64 = 16 << 20;

/// Shows the entries of an archive to `visitor`.
pub(super) fn visit<R: BufRead>(source: R, rules: &Rules, visitor: &mut impl Visitor) -> Result<(), TreeError> {
    let mut reader = Reader::new(source, Limits::default());
    while let Some(mut entry) = reader.entry().map_err(TreeError::Archive)? {
        entry.path = normal(&entry.path, entry.kind);
        let name = name_of(&entry);
        if name.is_empty() || rules.additions.contains_key(&entry.path) || !rules.keeps(name, &entry) {
            continue;
        }
        if entry.kind == EntryKind::HardLink {
            entry.link = normal(&entry.link, EntryKind::File);
        }
        entry.mtime = entry.mtime.min(rules.epoch);
        visitor.entry(&entry)?;
        // One file is looked at as a whole.
        let mut whole =
            (rules.kind.is_some() && name_of(&entry) == keystore::PATH && entry.size <= MOST_WHOLE).then(Vec::new);
        loop {
            let bytes = reader.data(u64::MAX).map_err(TreeError::Archive)?;
            if bytes.is_empty() {
                break;
            }
            match &mut whole {
                Some(whole) => whole.extend_from_slice(bytes),
                None => visitor.data(bytes)?,
            }
            let length = bytes.len();
            reader.consume(length);
        }
        if let Some(mut whole) = whole.filter(|whole| !whole.is_empty()) {
            keystore::stamp(&mut whole, rules.epoch);
            visitor.data(&whole)?;
        }
    }
    reader.finish().map_err(TreeError::Archive)?;
    for addition in rules.additions.values() {
        visitor.entry(&addition.entry)?;
        if !addition.data.is_empty() {
            visitor.data(&addition.data)?;
        }
    }
    Ok(())
}

fn name_of(entry: &Entry) -> &[u8] {
    entry.path.strip_suffix(b"/").unwrap_or(&entry.path)
}

/// `./usr/bin/` becomes `usr/bin/`; directories end in a slash.
fn normal(path: &[u8], kind: EntryKind) -> Vec<u8> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = if path == b"." { b"" } else { path.strip_suffix(b"/").unwrap_or(path) };
    let slash: &[u8] = if kind == EntryKind::Directory && !path.is_empty() { b"/" } else { b"" };
    [path, slash].concat()
}

/// Files that tell about the machine or the moment, or that are made again when they are needed. The directories they
/// are in stay.
fn is_of_the_moment(path: &[u8], entry: &Entry) -> bool {
    const EMPTY: [&[u8]; 7] =
        [b"dev/", b"proc/", b"sys/", b"tmp/", b"var/cache/apt/", b"var/lib/apt/lists/", b"var/cache/ldconfig/"];
    const GONE: [&[u8]; 18] = [
        b"etc/.pwd.lock",
        b"etc/apt/apt.conf.d/99mmdebstrap",
        b"etc/apt/sources.list",
        b"etc/dpkg/dpkg.cfg.d/99mmdebstrap",
        b"etc/fstab",
        b"etc/group-",
        b"etc/gshadow-",
        b"etc/hostname",
        b"etc/passwd-",
        b"etc/resolv.conf",
        b"etc/shadow-",
        b"etc/subgid-",
        b"etc/subuid-",
        b"var/lib/dpkg/lock",
        b"var/lib/dpkg/lock-frontend",
        b"var/lib/dpkg/triggers/Lock",
        b"var/lib/systemd/random-seed",
        b"var/lib/urandom/random-seed",
    ];
    let directory = entry.kind == EntryKind::Directory;
    let emptied = EMPTY.iter().any(|folder| path.starts_with(folder));
    // apt wants the folders of its caches; devices and kernel file systems are the engine's.
    let whole = [&b"dev/"[..], b"proc/", b"sys/", b"tmp/"].iter().any(|folder| path.starts_with(folder));
    let log = path.starts_with(b"var/log/") && entry.kind == EntryKind::File && entry.size > 0;
    let old =
        path.ends_with(b"-old") && (path.starts_with(b"var/lib/dpkg/") || path.starts_with(b"var/cache/debconf/"));
    emptied && (!directory || whole) || !directory && (GONE.contains(&path) || log || old)
}

/// What packages bring for a shell, an interpreter or a person that is not there.
fn is_useless_alone(path: &[u8], entry: &Entry) -> bool {
    const GONE: [&[u8]; 21] = [
        b"boot",
        b"etc/apt",
        b"etc/ca-certificates",
        b"etc/debconf.conf",
        b"etc/dpkg",
        b"etc/skel",
        b"etc/update-motd.d",
        b"usr/bin/c_rehash",
        b"usr/bin/mawk",
        b"usr/lib/ssl/misc",
        b"usr/sbin/update-ca-certificates",
        b"usr/share/base-files",
        b"usr/share/bash-completion",
        b"usr/share/debconf",
        b"usr/share/info",
        b"usr/share/lintian",
        b"usr/share/locale",
        b"usr/share/man",
        b"usr/share/perl5",
        b"usr/share/pixmaps",
        b"var/lib/dpkg",
    ];
    let within =
        |folder: &&[u8]| path.strip_prefix(*folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
    let debconf = path.starts_with(b"usr/bin/debconf") || path.starts_with(b"usr/sbin/dpkg-");
    let document = path.starts_with(b"usr/share/doc/")
        && entry.kind != EntryKind::Directory
        && !path.ends_with(b"/copyright")
        && entry.kind != EntryKind::Symlink;
    GONE.iter().any(within) || debconf || document
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tarball::Writer;

    /// An archive of these entries.
    pub fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (entry, data) in entries {
            let mut entry = entry.clone();
            entry.size = data.len() as u64;
            writer.entry(&entry).unwrap();
            writer.data(data).unwrap();
        }
        writer.finish().unwrap()
    }

    pub fn file(path: &str) -> Entry {
        let mut entry = Entry::new(path, EntryKind::File);
        entry.mode = 0o644;
        entry
    }
    pub fn directory(path: &str) -> Entry {
        Entry::new(path, EntryKind::Directory)
    }

    /// Names and data in their order.
    #[derive(Default)]
    pub struct Seen(pub Vec<(String, Vec<u8>)>);

    impl Visitor for Seen {
        fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
            self.0.push((entry.name(), Vec::new()));
            Ok(())
        }
        fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
            self.0.last_mut().unwrap().1.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn names(seen: &Seen) -> Vec<&str> {
        seen.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn what_is_of_the_moment_goes_and_folders_stay() {
        let mut log = file("./var/log/dpkg.log");
        log.mtime = 9;
        let bytes = archive(&[
            (directory("./"), b""),
            (directory("./dev/"), b""),
            (directory("./dev/pts/"), b""),
            (file("./etc/hostname"), b"me"),
            (file("./etc/resolv.conf"), b"x"),
            (file("./etc/passwd"), b"root"),
            (directory("./var/lib/apt/lists/"), b""),
            (directory("./var/lib/apt/lists/partial/"), b""),
            (file("./var/lib/apt/lists/lock"), b""),
            (file("./var/lib/dpkg/status-old"), b"x"),
            (log, b"now"),
            (file("./var/log/wtmp"), b""),
        ]);
        let mut seen = Seen::default();
        let rules = Rules::new(Kind::System, 5, vec![Addition::file("etc/passwd", 0o644, "other")]);
        visit(&bytes[..], &rules, &mut seen).unwrap();
        let expected = ["dev/", "var/lib/apt/lists/", "var/lib/apt/lists/partial/", "var/log/wtmp", "etc/passwd"];
        assert_eq!(names(&seen), expected);
        assert_eq!(seen.0[4].1, b"other");
    }

    #[test]
    fn a_few_files_have_no_manual() {
        let bytes = archive(&[
            (file("./usr/share/doc/a/changelog.gz"), b"x"),
            (file("./usr/share/doc/a/copyright"), b"mine"),
            (file("./usr/share/man/man1/a.1.gz"), b"x"),
            (file("./usr/share/manual"), b"x"),
            (file("./usr/bin/debconf-show"), b"x"),
        ]);
        let mut seen = Seen::default();
        visit(&bytes[..], &Rules::new(Kind::Files, 5, Vec::new()), &mut seen).unwrap();
        assert_eq!(names(&seen), ["usr/share/doc/a/copyright", "usr/share/manual"]);
    }

    #[test]
    fn names_in_one_form() {
        assert_eq!(normal(b"./usr/bin/", EntryKind::Directory), b"usr/bin/");
        assert_eq!(normal(b"usr/bin", EntryKind::Directory), b"usr/bin/");
        assert_eq!(normal(b"./", EntryKind::Directory), b"");
        assert_eq!(normal(b".", EntryKind::Directory), b"");
        assert_eq!(normal(b"./a", EntryKind::File), b"a");
    }
}
