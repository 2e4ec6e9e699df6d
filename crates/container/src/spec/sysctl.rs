//! Kernel parameters that belong to a namespace (`--sysctl`, `linux.sysctl`).

use super::fault::Fault;
use std::path::PathBuf;

/// The namespace that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Ipc,
    Network,
    Uts,
}

/// The file of a parameter below `/proc/sys`, such as `net/ipv4/ip_forward`.
///
/// As in sysctl(8): the first separator tells the form; in the dotted one `/` stands for a dot inside a name
/// (`net.ipv4.conf.eth0/1.forwarding`), in the slashed one a dot is a dot. `None` when a component is empty, `.` or `..`
/// or has a NUL byte: the file would then lie elsewhere.
pub fn path(name: &str) -> Option<PathBuf> {
    let dotted = name.find(['.', '/']).is_none_or(|first| name.as_bytes()[first] == b'.');
    let swap = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = if dotted { name.chars().map(swap).collect() } else { name.to_owned() };
    let sound = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    path.split('/').all(sound).then(|| PathBuf::from(path))
}

/// Which namespace a parameter belongs to; the fault says why it can not be set for a container.
pub(crate) fn owner(field: &str, name: &str) -> Result<Owner, Fault> {
    let fail = |why: &str| Fault::new(field, why).of(name);
    let Some(path) = path(name) else {
        return Err(fail("it is not the name of a kernel parameter").hint("write it as net.ipv4.ip_forward"));
    };
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    match parts.as_slice() {
        ["kernel", "msgmax" | "msgmnb" | "msgmni" | "sem" | "shmall" | "shmmax" | "shmmni" | "shm_rmid_forced"]
        | ["fs", "mqueue", _] => Ok(Owner::Ipc),
        ["net", _, ..] => Ok(Owner::Network),
        ["kernel", "domainname"] => Ok(Owner::Uts),
        ["kernel", "hostname"] => Err(fail("the host name has an option of its own").hint("use --hostname")),
        _ => Err(fail("it belongs to no namespace, so it would change the whole host").hint(
            "a container can set kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.*; set others on the host",
        )),
    }
}

/// Checks that a value can be written to such a file.
pub(crate) fn check_value(field: &str, name: &str, value: &str) -> Result<(), Fault> {
    /// proc_sys takes no more in one write than a page, less its end.
    const LONGEST: usize = 4095;
    let why = if value.is_empty() {
        "its value is empty"
    } else if value.len() > LONGEST {
        "its value is longer than 4095 bytes"
    } else if value.contains(['\0', '\n']) {
        "its value has a NUL byte or a line break"
    } else {
        return Ok(());
    };
    Err(Fault::new(field, why).of(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn both_forms_name_a_file() {
        for (name, file) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("kernel", "kernel"),
        ] {
            assert_eq!(path(name).as_deref(), Some(Path::new(file)), "{name}");
        }
        for name in ["", ".", "net..x", "net/../kernel/core_pattern", "/net/x", "net/", "net.a\0", "net.//.kernel"] {
            assert_eq!(path(name), None, "{name:?}");
        }
    }

    #[test]
    fn only_what_belongs_to_a_namespace() {
        for (name, expected) in [
            ("kernel.shmmax", Owner::Ipc),
            ("kernel/sem", Owner::Ipc),
            ("fs.mqueue.msg_max", Owner::Ipc),
            ("net.core.somaxconn", Owner::Network),
            ("kernel.domainname", Owner::Uts),
        ] {
            assert_eq!(owner("--sysctl", name), Ok(expected), "{name}");
        }
        for name in [
            "vm.swappiness",
            "kernel.core_pattern",
            "kernel.hostname",
            "net",
            "net/../kernel/core_pattern",
            "fs.mqueue",
            "fs.file-max",
            "kernel.shmmax.x",
            "",
        ] {
            assert!(owner("--sysctl", name).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_the_folder(name in "[./a]{0,12}|.{0,12}") {
            if let Some(path) = path(&name) {
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
            }
            prop_assert!(owner("x", &name).is_err() || path(&name).is_some());
        }
    }
}
