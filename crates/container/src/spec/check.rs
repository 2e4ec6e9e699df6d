//! What of a foreign specification this engine can not honour, field by field.
//!
//! The rule: a field is either honoured or refused by name. The exceptions are those where runc warns, which are warnings
//! here as well, and fields that the OCI specification does not have, which it wants ignored.

mod linux;
mod mounts;
mod process;

use super::{
    defaults,
    facts::{Facts, Kind},
    fault::{Fault, Faults, SpecErrors},
    filesystem,
};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, LinuxSeccomp, LinuxSeccompAction, Spec};
use std::path::Path;

/// Names every field that can not be honoured, and tells what is left out (the value).
///
/// # Errors
/// [`SpecErrors`] with all faults.
pub fn check(spec: &Spec, facts: &Facts) -> Result<Vec<String>, SpecErrors> {
    let mut check = Check { spec, facts, faults: Faults::default(), warnings: Vec::new() };
    check.version();
    check.sections();
    check.root();
    check.hooks();
    check.names();
    check.process();
    check.mounts();
    check.linux();
    check.faults.finish(check.warnings)
}

struct Check<'a> {
    spec: &'a Spec,
    facts: &'a Facts,
    faults: Faults,
    warnings: Vec<String>,
}

impl Check<'_> {
    fn fault(&mut self, field: &str, why: &str) {
        self.faults.push(Fault::new(format!("config.json: {field}"), why));
    }
    fn fault_of(&mut self, field: &str, value: impl std::fmt::Display, why: &str) {
        self.faults.push(Fault::new(format!("config.json: {field}"), why).of(value));
    }
    /// Notes the field as not supported when it is there.
    fn refuse(&mut self, there: bool, field: &str, why: &str) {
        if there {
            self.fault(field, why);
        }
    }
    /// Whether the container has a namespace of its own of this kind, new or joined.
    fn has(&self, kind: LinuxNamespaceType) -> bool {
        let namespaces = self.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        namespaces.into_iter().flatten().any(|namespace| namespace.typ() == kind)
    }

    fn version(&mut self) {
        let version = self.spec.version();
        let mut parts = version.split(['.', '-', '+']);
        let number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u32>().is_ok());
        let sound = parts.next() == Some("1") && number(parts.next()) && number(parts.next());
        if !sound {
            self.fault_of("ociVersion", version, "it is not a version 1.x of the OCI runtime specification");
        }
    }

    fn sections(&mut self) {
        const WHY: &str = "this engine runs Linux containers only";
        self.refuse(self.spec.solaris().is_some(), "solaris", WHY);
        self.refuse(self.spec.windows().is_some(), "windows", WHY);
        self.refuse(self.spec.vm().is_some(), "vm", WHY);
        self.refuse(self.spec.zos().is_some(), "zos", WHY);
    }

    fn root(&mut self) {
        match self.spec.root() {
            None => self.fault("root", "it is missing"),
            Some(root) if root.path().as_os_str().is_empty() => self.fault("root.path", "it is empty"),
            Some(root) => match filesystem::exists(root.path(), self.facts) {
                Ok(Kind::Directory) => {}
                Ok(_) => self.fault_of("root.path", root.path().display(), "it is not a directory"),
                Err(why) => self.fault_of("root.path", root.path().display(), &why),
            },
        }
    }

    fn hooks(&mut self) {
        let Some(hooks) = self.spec.hooks() else { return };
        #[allow(deprecated)] // read only to be refused
        let lists = [
            ("prestart", hooks.prestart()),
            ("createRuntime", hooks.create_runtime()),
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
            ("poststart", hooks.poststart()),
            ("poststop", hooks.poststop()),
        ];
        for (name, list) in lists {
            let there = list.as_ref().is_some_and(|list| !list.is_empty());
            self.refuse(there, &format!("hooks.{name}"), "hooks are not run");
        }
    }

    fn names(&mut self) {
        for (field, name) in [("hostname", self.spec.hostname()), ("domainname", self.spec.domainname())] {
            let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else { continue };
            if !self.has(LinuxNamespaceType::Uts) {
                self.fault_of(field, name, "it would change the host's, without a namespace of type uts");
            } else if name.len() > 64 || name.contains('\0') {
                self.fault_of(field, name, "it is longer than 64 bytes or has a NUL byte");
            }
        }
    }

    /// Checks one list of mappings (user_namespaces(7)).
    fn mappings(&mut self, field: &str, mappings: &[LinuxIdMapping]) {
        /// Most lines that the kernel takes (`UID_GID_MAP_MAX_EXTENTS`).
        const MOST: usize = 340;
        if mappings.len() > MOST {
            self.fault(field, "it has more than the 340 ranges that the kernel takes");
        }
        let end = |first: u32, size: u32| u64::from(first) + u64::from(size);
        let overlap = |one: (u32, u32), two: (u32, u32)| {
            u64::from(one.0) < end(two.0, two.1) && u64::from(two.0) < end(one.0, one.1)
        };
        for (position, mapping) in mappings.iter().take(MOST).enumerate() {
            let field = format!("{field}[{position}]");
            let (inside, outside, size) = (mapping.container_id(), mapping.host_id(), mapping.size());
            if size == 0 {
                self.fault(&format!("{field}.size"), "the range is empty");
            }
            if end(inside, size).max(end(outside, size)) > u64::from(u32::MAX) {
                self.fault(&format!("{field}.size"), "the range goes beyond the highest id");
            }
            for earlier in &mappings[..position] {
                if overlap((inside, size), (earlier.container_id(), earlier.size())) {
                    self.fault(&format!("{field}.containerID"), "the range overlaps an earlier one");
                }
                if overlap((outside, size), (earlier.host_id(), earlier.size())) {
                    self.fault(&format!("{field}.hostID"), "the range overlaps an earlier one");
                }
            }
        }
    }

    /// Checks that a path is absolute and can be passed to the kernel.
    fn absolute(&mut self, field: &str, path: &Path) -> bool {
        let sound = super::mounts::clean(path).is_some();
        if !sound {
            self.fault_of(field, path.display(), "it is not an absolute path");
        }
        sound
    }
}

/// What a filter asks for that can not be had; the rest is for the compiler to judge.
pub(super) fn seccomp(field: &str, seccomp: &LinuxSeccomp) -> Vec<Fault> {
    let notify = |action: LinuxSeccompAction| action == LinuxSeccompAction::ScmpActNotify;
    let mut faults = Vec::new();
    let mut refuse = |there: bool, name: &str, why: &str| {
        if there {
            faults.push(Fault::new(format!("{field}.{name}"), why));
        }
    };
    const WHY: &str = "system calls are not handed to another program for a decision";
    refuse(seccomp.listener_path().is_some(), "listenerPath", WHY);
    refuse(seccomp.listener_metadata().is_some(), "listenerMetadata", WHY);
    refuse(notify(seccomp.default_action()), "defaultAction", WHY);
    for (position, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        refuse(notify(rule.action()), &format!("syscalls[{position}].action"), WHY);
    }
    faults
}

/// Names of the members of `one` that `two` lacks.
fn missing(
    one: &Option<oci_spec::runtime::Capabilities>,
    two: &Option<oci_spec::runtime::Capabilities>,
) -> Option<String> {
    let lacking = defaults::mask(one.as_ref()).0 & !defaults::mask(two.as_ref()).0;
    let names: Vec<_> = crate::capability::CapabilitySet(lacking).iter().map(|one| one.to_string()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
