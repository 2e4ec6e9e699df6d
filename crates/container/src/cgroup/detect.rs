//! Which hierarchies there are and where they are mounted.
//!
//! Read from `/proc/self/mountinfo` and `/proc/self/cgroup`, never assumed: controllers may share a v1 hierarchy
//! (`cpu,cpuacct`), a hierarchy may be mounted more than once or be hidden under another mount, and inside a container
//! what is mounted may be a part of the tree only. Paths of groups are therefore always below the root of the *mount*.

use super::{CgroupError, directory::Directory};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Where the standard puts the hierarchies.
pub(super) const STANDARD: &str = "/sys/fs/cgroup";

/// Version of one hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// A legacy hierarchy with some controllers, or just a name.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A hierarchy that can be used.
#[derive(Debug)]
pub struct Hierarchy {
    pub(super) version: Version,
    pub(super) controllers: Vec<String>,
    pub(super) name: Option<String>,
    pub(super) root: String,
    pub(super) directory: Directory,
}

impl Hierarchy {
    /// Version.
    pub fn version(&self) -> Version {
        self.version
    }
    /// Controllers it has, as the kernel spells them (`cpu`, `blkio`, on v2 `io`).
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }
    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        self.directory.path()
    }
    /// Whether it has this controller.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
    /// Name of the folder in which it is mounted.
    pub(super) fn folder(&self) -> String {
        self.mount_point().file_name().map_or_else(|| "cgroup".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

/// One line of the mount table that mounts a hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    id: u64,
    /// Device number of the file system, the same for all mounts of one hierarchy.
    device: String,
    root: String,
    point: PathBuf,
    version: Version,
    controllers: Vec<String>,
    name: Option<String>,
}

/// What was found.
pub(super) struct Found {
    pub(super) hierarchies: Vec<Hierarchy>,
    /// Controllers that are bound to a v1 hierarchy, mounted or not.
    pub(super) legacy: BTreeSet<String>,
}

/// Finds and opens all hierarchies.
pub(super) fn detect() -> Result<Found, CgroupError> {
    let read =
        |path: &str| fs::read_to_string(path).map_err(|source| CgroupError::Detect { path: path.into(), source });
    let legacy = legacy_controllers(&read("/proc/self/cgroup")?);
    let mut hierarchies = Vec::new();
    for candidates in candidates(&read("/proc/self/mountinfo")?, &legacy) {
        if let Some(hierarchy) = candidates.into_iter().find_map(open) {
            hierarchies.push(hierarchy);
        }
    }
    if hierarchies.is_empty() {
        return Err(CgroupError::NotMounted);
    }
    Ok(Found { hierarchies, legacy })
}

/// The hierarchy behind a line of the mount table, unless something else is mounted over it.
fn open(mounted: Mounted) -> Option<Hierarchy> {
    let directory = Directory::open(&mounted.point).ok()?;
    if directory.mount_id() != Ok(mounted.id) {
        return None;
    }
    let controllers = match mounted.version {
        Version::V1 => mounted.controllers,
        Version::V2 => directory.read("cgroup.controllers").ok()?.split_ascii_whitespace().map(str::to_owned).collect(),
    };
    Some(Hierarchy { version: mounted.version, controllers, name: mounted.name, root: mounted.root, directory })
}

/// Controllers on v1 hierarchies, from `/proc/self/cgroup`: lines `ID:CONTROLLERS:PATH`.
fn legacy_controllers(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.split(':').nth(1))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty() && !name.starts_with("name="))
        .map(str::to_owned)
        .collect()
}

/// The mounts of each hierarchy, best first: the whole tree before a part of it, the standard place before others, and
/// of two at one place the later, which hides the earlier.
fn candidates(mountinfo: &str, legacy: &BTreeSet<String>) -> Vec<Vec<Mounted>> {
    let mut hierarchies: BTreeMap<String, Vec<Mounted>> = BTreeMap::new();
    let mut order = Vec::new();
    for mounted in mountinfo.lines().filter_map(|line| parse(line, legacy)) {
        if !hierarchies.contains_key(&mounted.device) {
            order.push(mounted.device.clone());
        }
        hierarchies.entry(mounted.device.clone()).or_default().push(mounted);
    }
    let mut sorted: Vec<_> = order.iter().filter_map(|device| hierarchies.remove(device)).collect();
    for mounts in &mut sorted {
        mounts.sort_by_key(|mount| (mount.root != "/", !mount.point.starts_with(STANDARD), Reverse(mount.id)));
    }
    sorted
}

/// One line of mountinfo, proc(5): `ID PARENT DEVICE ROOT POINT OPTIONS [TAG…] - TYPE SOURCE SUPER-OPTIONS`.
fn parse(line: &str, legacy: &BTreeSet<String>) -> Option<Mounted> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ');
    let id = mount.next()?.parse().ok()?;
    let (device, root, point) = (mount.nth(1)?, unescape(mount.next()?), unescape(mount.next()?));
    let mut system = system.split(' ');
    let version = match system.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = || system.clone().nth(1).unwrap_or_default().split(',');
    let is_v1 = version == Version::V1;
    Some(Mounted {
        id,
        device: device.to_owned(),
        root,
        point: point.into(),
        version,
        controllers: options().filter(|option| is_v1 && legacy.contains(*option)).map(str::to_owned).collect(),
        name: options().find_map(|option| option.strip_prefix("name=")).filter(|_| is_v1).map(str::to_owned),
    })
}

/// Undoes mountinfo's `\ooo` for blanks, tabs, line breaks and backslashes.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((&byte, rest)) = bytes.split_first() {
        let octal = rest.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) if byte == b'\\' => {
                plain.push(value);
                bytes = &rest[3..];
            }
            _ => {
                plain.push(byte);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The group of a process in one hierarchy, below the root of the mount, from its `/proc/PID/cgroup`; `None` when it is
/// outside of what is mounted or in no group of it.
pub(super) fn group_of<'a>(text: &'a str, hierarchy: &Hierarchy) -> Option<&'a str> {
    find_group(text, hierarchy.version, &hierarchy.controllers, hierarchy.name.as_deref(), &hierarchy.root)
}

fn find_group<'a>(
    text: &'a str,
    version: Version,
    controllers: &[String],
    name: Option<&str>,
    root: &str,
) -> Option<&'a str> {
    let path = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let same = match version {
            Version::V2 => number == "0" && names.is_empty(),
            Version::V1 => names.split(',').any(|found| {
                controllers.iter().any(|controller| controller == found)
                    || name.is_some() && found.strip_prefix("name=") == name
            }),
        };
        same.then_some(path)
    })?;
    let below = if root == "/" { path } else { path.strip_prefix(root)? };
    if below.is_empty() { Some("") } else { below.strip_prefix('/') }
}

#[cfg(test)]
mod tests;
