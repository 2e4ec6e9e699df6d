//! What a container sees of its groups.

use super::detect::{Hierarchy, STANDARD, Version};
use std::path::Path;

/// One step to a container's `/sys/fs/cgroup`. All mounts are to be made in the container's own cgroup namespace (so that
/// they show its group as root), with nosuid, nodev and noexec, and must be **read-only** in the end: a process that is
/// root could raise its own limits otherwise. (The tmpfs after the steps that follow it.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerMount {
    /// Mount a file system.
    Mount {
        /// Below `/sys/fs/cgroup`; empty for that directory itself.
        name: String,
        /// `tmpfs`, `cgroup` or `cgroup2`; its source has the same name.
        fstype: &'static str,
        /// Data of the mount, such as `cpu,cpuacct`; may be empty.
        options: String,
    },
    /// Make a symbolic link: a controller that shares its hierarchy is found by its own name as well.
    Link {
        /// Below `/sys/fs/cgroup`.
        name: String,
        /// Where it leads, in the same directory.
        target: String,
    },
}

/// As Docker and runc show them: pure v2 is one mount; else a tmpfs with one mount for each v1 hierarchy, links for the
/// names of controllers that share one, and on hybrid machines the unified hierarchy where it is on the host.
pub(super) fn mounts(hierarchies: &[Hierarchy]) -> Vec<ContainerMount> {
    let seen: Vec<_> = hierarchies
        .iter()
        .map(|one| (one.version, one.mount_point(), one.folder(), one.controllers(), one.name.as_deref()))
        .collect();
    steps(&seen)
}

type Seen<'a> = (Version, &'a Path, String, &'a [String], Option<&'a str>);

fn steps(hierarchies: &[Seen<'_>]) -> Vec<ContainerMount> {
    let mount = |name: &str, fstype, options: String| ContainerMount::Mount { name: name.to_owned(), fstype, options };
    let v1 = || hierarchies.iter().filter(|(version, ..)| *version == Version::V1);
    let unified = hierarchies.iter().find(|(version, ..)| *version == Version::V2);
    // Also where some stray v1 hierarchy is mounted elsewhere on a machine that otherwise is v2.
    if unified.is_some_and(|(_, point, ..)| *point == Path::new(STANDARD) || v1().next().is_none()) {
        return vec![mount("", "cgroup2", String::new())];
    }
    let mut steps = vec![mount("", "tmpfs", "mode=755".to_owned())];
    for (_, _, folder, controllers, name) in v1() {
        let named = name.map(|name| format!("name={name}"));
        let options: Vec<_> = controllers.iter().map(String::as_str).chain(named.as_deref()).collect();
        steps.push(mount(folder, "cgroup", options.join(",")));
        let others = controllers.iter().filter(|controller| *controller != folder);
        steps.extend(others.map(|name| ContainerMount::Link { name: name.clone(), target: folder.clone() }));
    }
    if unified.is_some() {
        steps.push(mount("unified", "cgroup2", String::new()));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(hierarchies: &[Seen<'_>]) -> Vec<String> {
        let show = |step| match step {
            ContainerMount::Mount { name, fstype, options } => format!("{fstype} {name} {options}"),
            ContainerMount::Link { name, target } => format!("{name} -> {target}"),
        };
        steps(hierarchies).into_iter().map(show).collect()
    }

    #[test]
    fn shapes_are_dockers() {
        let shared = ["cpu".to_owned(), "cpuacct".to_owned()];
        let memory = ["memory".to_owned()];
        let at = |name: &'static str| Path::new(name);
        let cpu = (Version::V1, at("/sys/fs/cgroup/cpu,cpuacct"), "cpu,cpuacct".to_owned(), &shared[..], None);
        let systemd = (Version::V1, at("/sys/fs/cgroup/systemd"), "systemd".to_owned(), &[][..], Some("systemd"));
        let memory = (Version::V1, at("/sys/fs/cgroup/memory"), "memory".to_owned(), &memory[..], None);
        let hybrid = (Version::V2, at("/sys/fs/cgroup/unified"), "unified".to_owned(), &[][..], None);
        let pure = (Version::V2, at("/sys/fs/cgroup"), "cgroup".to_owned(), &[][..], None);
        let legacy = [
            "tmpfs  mode=755",
            "cgroup cpu,cpuacct cpu,cpuacct",
            "cpu -> cpu,cpuacct",
            "cpuacct -> cpu,cpuacct",
            "cgroup systemd name=systemd",
            "cgroup memory memory",
        ];
        assert_eq!(text(&[cpu.clone(), systemd.clone(), memory.clone()]), legacy);
        let mixed = text(&[cpu, systemd, memory.clone(), hybrid]);
        assert_eq!((mixed.len(), mixed[6].as_str()), (7, "cgroup2 unified "));
        assert_eq!(text(std::slice::from_ref(&pure)), ["cgroup2  "]);
        assert_eq!(text(&[memory, pure]), ["cgroup2  "]);
    }
}
