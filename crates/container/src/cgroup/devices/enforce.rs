//! Putting the rules into force in a group.

use super::{super::directory, Exceptions, Rules, compile, program::Instruction};
use crate::{
    cgroup::{Cgroup, CgroupError, Extras, Inner, directory::Directory},
    sys::bpf,
};
use oci_spec::runtime::LinuxResources;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::OFlags,
    io::Errno,
};

/// Rules in the form for the hierarchy that enforces them.
#[derive(Debug)]
pub(in crate::cgroup) enum Enforced {
    V1(Exceptions),
    V2(Rules),
    /// There is nothing to enforce, nor who would do it.
    Nothing,
}

impl Enforced {
    /// From the OCI resources.
    ///
    /// # Errors
    /// Names the rule that is wrong or can not be enforced here.
    pub(in crate::cgroup) fn new(
        host: &Inner,
        resources: &LinuxResources,
        extras: Extras,
    ) -> Result<Self, CgroupError> {
        let rules = Rules::new(resources.devices().as_deref().unwrap_or_default(), extras.usual_devices)?;
        if host.version_of("devices").is_some() {
            return Exceptions::new(&rules).map(Self::V1);
        }
        if host.unified().is_some() {
            return Ok(Self::V2(rules));
        }
        if rules.allows_everything() {
            return Ok(Self::Nothing);
        }
        Err(CgroupError::setting("devices", host.why_unavailable("devices")))
    }

    /// Puts them into force, in place of the former ones unless the group is being made.
    ///
    /// # Errors
    /// The former ones are in force again, or the error says that they are not.
    pub(in crate::cgroup) fn enforce(&self, cgroup: &Cgroup, creating: bool) -> Result<(), CgroupError> {
        match self {
            Self::Nothing => Ok(()),
            Self::V1(target) => cgroup.directory_of("devices").map_or(Ok(()), |place| write(place, target, creating)),
            Self::V2(rules) => cgroup.unified().map_or(Ok(()), |place| attach(place, rules)),
        }
    }
}

/// v1: what is to be written, into files that are opened once.
fn write(directory: &Directory, target: &Exceptions, creating: bool) -> Result<(), CgroupError> {
    // A new group has what the one above it has: everything, or as much of it as may be had here.
    if creating && target.default && target.exceptions.is_empty() {
        return Ok(());
    }
    let list = |error| CgroupError::io("read", directory.path().join("devices.list"), error);
    let former = if creating { None } else { Exceptions::parse(&directory.read("devices.list").map_err(list)?) };
    let mut files = [("devices.deny", None), ("devices.allow", None)];
    for write in target.writes(former.as_ref()) {
        let Err((file, error)) = put(directory, &mut files, &write) else { continue };
        let refused = CgroupError::Refused {
            field: "devices".to_owned(),
            value: write.1,
            file: directory.path().join(file),
            hint: if error == Errno::PERM { " (the group above may not use it)" } else { "" }.to_owned(),
            source: error.into(),
        };
        if let Some(former) = former {
            let now = directory.read("devices.list").ok().and_then(|list| Exceptions::parse(&list));
            let lost = former.writes(now.as_ref()).iter().find_map(|write| put(directory, &mut files, write).err());
            if let Some((file, error)) = lost {
                let settings = format!("{} ({error})", directory.path().join(file).display());
                return Err(CgroupError::NotRestored { settings, source: Box::new(refused) });
            }
        }
        return Err(refused);
    }
    Ok(())
}

/// One rule to one of the two files.
fn put(
    directory: &Directory,
    files: &mut [(&'static str, Option<OwnedFd>); 2],
    (allow, value): &(bool, String),
) -> Result<(), (&'static str, Errno)> {
    let (name, file) = &mut files[usize::from(*allow)];
    let opened = match file.take() {
        Some(opened) => opened,
        None => directory.file(name, OFlags::WRONLY).map_err(|error| (*name, error))?,
    };
    directory::write(file.insert(opened).as_fd(), value).map_err(|error| (*name, error))
}

/// v2: replaces the program of a directory in one step, so that there is no time without one.
fn attach(directory: &Directory, rules: &Rules) -> Result<(), CgroupError> {
    let refused = |error: Errno, log: String| CgroupError::Program {
        path: directory.path().to_owned(),
        log: if log.is_empty() { log } else { format!("\n{log}") },
        source: error.into(),
    };
    let plain = |error| refused(error, String::new());
    let former = bpf::device_programs(directory.as_fd()).map_err(plain)?;
    let mut former = former.iter().map(AsFd::as_fd);
    if !rules.allows_everything() {
        let instructions: Vec<_> = compile(rules).into_iter().map(Instruction::encode).collect();
        let program = bpf::load_device_program(&instructions).map_err(|(error, log)| refused(error, log))?;
        bpf::attach_device_program(directory.as_fd(), program.as_fd(), former.next()).map_err(plain)?;
    }
    for program in former {
        bpf::detach_device_program(directory.as_fd(), program).map_err(plain)?;
    }
    Ok(())
}
