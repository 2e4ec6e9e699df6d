//! The `mounts` section.

use super::Check;
use crate::spec::{filesystem, mounts, mounts::MountOptions};
use oci_spec::runtime::Mount;

impl Check<'_> {
    pub(super) fn mounts(&mut self) {
        for (position, mount) in self.spec.mounts().iter().flatten().enumerate() {
            self.mount(&format!("mounts[{position}]"), mount);
        }
    }

    fn mount(&mut self, field: &str, mount: &Mount) {
        let fstype = mount.typ().as_deref();
        let options = MountOptions::of(mount);
        let bind = options.bind.is_some();
        if let Some(destination) = mounts::clean(mount.destination()) {
            let source = mount.source().as_deref();
            let is_proc = if bind { source == Some("/proc".as_ref()) } else { fstype == Some("proc") };
            if let Some(why) = mounts::forbidden(&destination, is_proc) {
                self.fault_of(&format!("{field}.destination"), destination.display(), why);
            }
        } else {
            let destination = mount.destination().display();
            self.fault_of(&format!("{field}.destination"), destination, "it is not an absolute path");
        }
        if !bind && matches!(fstype, None | Some("" | "none")) {
            self.fault(&format!("{field}.type"), "it is missing, and no option says that it is a bind mount");
        }
        if fstype.is_some_and(|fstype| fstype.contains(['\0', '/'])) {
            self.fault_of(&format!("{field}.type"), fstype.unwrap_or_default(), "it is not the name of a file system");
        }
        for option in options.unknown(fstype) {
            self.fault_of(&format!("{field}.options"), option, "this kind of mount does not have this option");
        }
        for option in mount.options().iter().flatten().filter(|option| option.is_empty() || option.contains('\0')) {
            self.fault_of(&format!("{field}.options"), option, "an option is empty or has a NUL byte");
        }
        self.refuse(options.remount, &format!("{field}.options"), "`remount` changes a mount that is there already");
        self.refuse(options.copy_up, &format!("{field}.options"), "`tmpcopyup` is not supported: a tmpfs starts empty");
        match mount.source() {
            Some(source) if bind => {
                if let Err(why) = filesystem::exists(source, self.facts) {
                    self.fault_of(&format!("{field}.source"), source.display(), &why);
                }
            }
            None if bind => self.fault(&format!("{field}.source"), "a bind mount needs one"),
            _ => {}
        }
        let (users, groups) = (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
        let (users, groups) = (users.unwrap_or_default(), groups.unwrap_or_default());
        if users.is_empty() != groups.is_empty() {
            let lacking = if users.is_empty() { "uidMappings" } else { "gidMappings" };
            self.fault(&format!("{field}.{lacking}"), "it is missing, while the other mapping is there");
        }
        if !bind && !users.is_empty() {
            self.fault(&format!("{field}.uidMappings"), "only bind mounts can be mapped");
        }
        self.mappings(&format!("{field}.uidMappings"), users);
        self.mappings(&format!("{field}.gidMappings"), groups);
    }
}
