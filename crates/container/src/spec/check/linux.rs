//! The `linux` section.

use super::Check;
use crate::spec::{device, idlist::IdList, isolation::namespace_of, mounts, sysctl};
use oci_spec::runtime::{Linux, LinuxDeviceType, LinuxNamespaceType, LinuxPersonalityDomain, LinuxResources};
use std::path::Path;

impl Check<'_> {
    pub(super) fn linux(&mut self) {
        let Some(linux) = self.spec.linux() else {
            self.fault("linux", "it is missing");
            return;
        };
        self.unsupported(linux);
        self.namespaces(linux);
        self.users(linux);
        self.devices(linux);
        for (name, value) in linux.sysctl().iter().flatten() {
            self.sysctl(name, value);
        }
        for (list, paths) in [("maskedPaths", linux.masked_paths()), ("readonlyPaths", linux.readonly_paths())] {
            for (position, path) in paths.iter().flatten().enumerate() {
                self.absolute(&format!("linux.{list}[{position}]"), Path::new(path));
            }
        }
        const KINDS: [&str; 9] =
            ["", "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"];
        if let Some(kind) = linux.rootfs_propagation().as_deref().filter(|kind| !KINDS.contains(kind)) {
            self.fault_of(
                "linux.rootfsPropagation",
                kind,
                "it is none of shared, slave, private and unbindable, or r…",
            );
        }
        self.cgroup(linux);
        if let Some(seccomp) = linux.seccomp() {
            let faults = super::seccomp("config.json: linux.seccomp", seccomp);
            faults.into_iter().for_each(|fault| self.faults.push(fault));
        }
        if let Some(resources) = linux.resources() {
            self.resources(resources);
        }
    }

    fn unsupported(&mut self, linux: &Linux) {
        const WHY: &str = "it is not supported";
        self.refuse(linux.intel_rdt().is_some(), "linux.intelRdt", WHY);
        self.refuse(linux.memory_policy().is_some(), "linux.memoryPolicy", WHY);
        let there = |empty: Option<bool>| empty == Some(false);
        self.refuse(there(linux.net_devices().as_ref().map(|all| all.is_empty())), "linux.netDevices", WHY);
        self.refuse(there(linux.time_offsets().as_ref().map(|all| all.is_empty())), "linux.timeOffsets", WHY);
        if let Some(personality) = linux.personality() {
            let plain = personality.domain() == LinuxPersonalityDomain::PerLinux;
            self.refuse(!plain, "linux.personality.domain", "only LINUX is supported");
            let flags = personality.flags().as_ref().is_some_and(|flags| !flags.is_empty());
            self.refuse(flags, "linux.personality.flags", WHY);
        }
        if let Some(label) = linux.mount_label().as_deref().filter(|label| !label.is_empty()) {
            let why = self.labels("/sys/fs/selinux/enforce", "SELinux");
            self.fault_of("linux.mountLabel", label, why);
        }
    }

    fn namespaces(&mut self, linux: &Linux) {
        let all = linux.namespaces().as_deref().unwrap_or_default();
        for (position, namespace) in all.iter().enumerate() {
            let field = format!("linux.namespaces[{position}]");
            let kind = namespace.typ();
            if all[..position].iter().any(|earlier| earlier.typ() == kind) {
                self.fault_of(&format!("{field}.type"), kind, "this namespace is given twice");
            }
            self.refuse(
                kind == LinuxNamespaceType::Time,
                &format!("{field}.type"),
                "time namespaces are not supported",
            );
            let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) else { continue };
            let field = format!("{field}.path");
            if matches!(kind, LinuxNamespaceType::Mount | LinuxNamespaceType::User) {
                self.fault_of(&field, path.display(), "an existing namespace of this type can not be joined");
            } else if self.absolute(&field, path) && !self.facts.exists(path) {
                self.fault_of(&field, path.display(), "there is no such file");
            }
        }
        if !all.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount) {
            self.fault("linux.namespaces", "there is none of type mount, without which nothing can be mounted");
        }
    }

    fn users(&mut self, linux: &Linux) {
        let users = linux.uid_mappings().as_deref().unwrap_or_default();
        let groups = linux.gid_mappings().as_deref().unwrap_or_default();
        for (field, mappings, other) in [("linux.uidMappings", users, groups), ("linux.gidMappings", groups, users)] {
            if !mappings.is_empty() && !self.has(LinuxNamespaceType::User) {
                self.fault(field, "there is no namespace of type user that it could be for");
            }
            self.refuse(
                mappings.is_empty() && !other.is_empty(),
                field,
                "it is missing, while the other mapping is there",
            );
            self.mappings(field, mappings);
        }
    }

    fn devices(&mut self, linux: &Linux) {
        let all = linux.devices().as_deref().unwrap_or_default();
        for (position, node) in all.iter().enumerate() {
            let field = format!("linux.devices[{position}]");
            if self.absolute(&format!("{field}.path"), node.path())
                && let Some(why) = mounts::clean(node.path()).and_then(|path| mounts::forbidden(&path, false))
            {
                self.fault_of(&format!("{field}.path"), node.path().display(), why);
            }
            if node.path().is_absolute() && mounts::clean(node.path()).is_some_and(|path| !device::has_place_for(&path))
            {
                self.fault_of(&format!("{field}.path"), node.path().display(), device::PLACE);
            }
            if all[..position].iter().any(|earlier| earlier.path() == node.path()) {
                self.fault_of(&format!("{field}.path"), node.path().display(), "this path is given twice");
            }
            self.refuse(node.typ() == LinuxDeviceType::A, &format!("{field}.type"), "a node is of type c, b, u or p");
            // Numbers of a device have 12 and 20 bits (kdev_t.h).
            if !(0..1 << 12).contains(&node.major()) {
                self.fault_of(&format!("{field}.major"), node.major(), "it is not within 0 and 4095");
            }
            if !(0..1 << 20).contains(&node.minor()) {
                self.fault_of(&format!("{field}.minor"), node.minor(), "it is not within 0 and 1048575");
            }
            // Tools put the type of the file here as well; the node's own type counts.
            if let Some(mode) = node.file_mode().filter(|mode| *mode & !0o17_0000 > 0o7777) {
                self.fault_of(&format!("{field}.fileMode"), mode, "it is not a mode");
            }
        }
    }

    fn sysctl(&mut self, name: &str, value: &str) {
        let field = "config.json: linux.sysctl";
        let Some(owner) = self.faults.take(sysctl::owner(field, name)) else { return };
        self.faults.take(sysctl::check_value(field, name, value));
        if !self.has(namespace_of(owner).0) {
            self.fault_of("linux.sysctl", name, "it would change the host, whose namespace the container shares");
        }
    }

    fn cgroup(&mut self, linux: &Linux) {
        let Some(path) = linux.cgroups_path().as_ref().filter(|path| !path.as_os_str().is_empty()) else { return };
        let why = match path.to_string_lossy() {
            text if text.contains(':') => {
                "it is of the form for systemd, which this engine does not use; write /FOLDER/NAME"
            }
            text if text.contains('\0') || text.chars().any(char::is_control) => "it has a control character",
            text if text.split('/').any(|part| part == ".." || part == ".") => "a part of it is `.` or `..`",
            text if text.trim_matches('/').is_empty() => "it is the root, whose limits are the whole machine's",
            text if text.len() > 4000 => "it is too long",
            _ => return,
        };
        self.fault_of("linux.cgroupsPath", path.display(), why);
    }

    fn resources(&mut self, resources: &LinuxResources) {
        let field = |name: &str| format!("linux.resources.{name}");
        if let Some(memory) = resources.memory() {
            let limits = [("limit", memory.limit()), ("reservation", memory.reservation()), ("swap", memory.swap())];
            for (name, value) in limits {
                if let Some(value) = value.filter(|value| *value < -1) {
                    self.fault_of(&field(&format!("memory.{name}")), value, "it is negative; -1 is no limit");
                }
            }
            if let (Some(limit @ 1..), Some(swap @ 1..)) = (memory.limit(), memory.swap())
                && swap < limit
            {
                self.fault_of(&field("memory.swap"), swap, "it is memory plus swap, but less than memory.limit");
            }
            if let Some(swappiness) = memory.swappiness().filter(|swappiness| *swappiness > 100) {
                self.fault_of(&field("memory.swappiness"), swappiness, "it is above 100");
            }
            #[allow(deprecated)] // read only to be warned of
            let kernel = [("kernel", memory.kernel()), ("kernelTCP", memory.kernel_tcp())];
            for (name, _) in kernel.iter().filter(|(_, value)| value.is_some_and(|value| value != 0)) {
                let why = "left out, since kernels no longer limit kernel memory by itself";
                self.warnings.push(format!("config.json: linux.resources.memory.{name}: {why}"));
            }
        }
        if let Some(cpu) = resources.cpu() {
            if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && !(2..=262_144).contains(shares)) {
                self.fault_of(&field("cpu.shares"), shares, "it is not within 2 and 262144");
            }
            if let Some(period) = cpu.period().filter(|period| *period != 0 && !(1000..=1_000_000).contains(period)) {
                self.fault_of(&field("cpu.period"), period, "it is not within 1000 and 1000000 microseconds");
            }
            if let Some(quota) = cpu.quota().filter(|quota| !matches!(quota, -1 | 0 | 1000..)) {
                self.fault_of(&field("cpu.quota"), quota, "it is less than 1000 microseconds");
            }
            if let Some(idle) = cpu.idle().filter(|idle| !(0..=1).contains(idle)) {
                self.fault_of(&field("cpu.idle"), idle, "it is neither 0 nor 1");
            }
            for (name, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
                let Some(list) = list.as_ref().filter(|list| !list.is_empty()) else { continue };
                if let Err(why) = list.parse::<IdList>() {
                    self.fault_of(&field(&format!("cpu.{name}")), list, why);
                }
            }
        }
        if let Some(pids) = resources.pids().filter(|pids| pids.limit() < -1) {
            self.fault_of(&field("pids.limit"), pids.limit(), "it is negative; -1 is no limit");
        }
        if let Some(block) = resources.block_io()
            && let Some(weight) = block.weight().filter(|weight| *weight != 0 && !(10..=1000).contains(weight))
        {
            self.fault_of(&field("blockIO.weight"), weight, "it is not within 10 and 1000");
        }
        for (position, rule) in resources.devices().iter().flatten().enumerate() {
            let name = field(&format!("devices[{position}]"));
            let access = rule.access().as_deref().unwrap_or_default();
            if !access.is_empty() && !device::access_is_sound(access) {
                self.fault_of(&format!("{name}.access"), access, "it is not made of r, w and m, each at most once");
            }
            let typed = matches!(rule.typ(), None | Some(LinuxDeviceType::A | LinuxDeviceType::B | LinuxDeviceType::C));
            self.refuse(!typed, &format!("{name}.type"), "a rule is for a, b or c");
            for (part, number) in [("major", rule.major()), ("minor", rule.minor())] {
                if let Some(number) = number.filter(|number| !(-1..=i64::from(u32::MAX)).contains(number)) {
                    self.fault_of(&format!("{name}.{part}"), number, "it is not a device number");
                }
            }
        }
        for (file, value) in resources.unified().iter().flatten() {
            // What begins with `cgroup.` are the knobs by which groups, processes and threads are managed.
            let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            let plain = file.contains('.') && file.bytes().all(sound) && !file.starts_with(['.', '-']);
            if !plain || file.starts_with("cgroup.") {
                self.fault_of(&field("unified"), file, "it is not a file of a controller, such as memory.high");
            } else if value.contains('\0') {
                self.fault_of(&field("unified"), file, "its value has a NUL byte");
            }
        }
    }
}
