//! The `process` section.

use super::{Check, missing};
use crate::spec::{process::unfit, ulimit};
use oci_spec::runtime::{LinuxNamespaceType, Process};

impl Check<'_> {
    pub(super) fn process(&mut self) {
        let Some(process) = self.spec.process() else {
            self.fault("process", "it is missing");
            return;
        };
        match process.args().as_deref() {
            None | Some([]) => self.fault("process.args", "there is nothing to run"),
            Some([program, ..]) if program.is_empty() => self.fault("process.args[0]", "it is empty"),
            Some(_) => {}
        }
        for (list, strings) in [("args", process.args()), ("env", process.env())] {
            for (position, text) in strings.iter().flatten().enumerate() {
                let field = format!("process.{list}[{position}]");
                if let Some(why) = unfit(text) {
                    self.fault_of(&field, text, why);
                } else if list == "env" && text.find('=').is_none_or(|at| at == 0) {
                    self.fault_of(&field, text, "it is not of the form NAME=VALUE");
                }
            }
        }
        self.absolute("process.cwd", process.cwd());
        if process.console_size().is_some() && process.terminal() != Some(true) {
            self.fault("process.consoleSize", "there is no terminal whose size this could be");
        }
        if let Some(score) = process.oom_score_adj().filter(|score| !(-1000..=1000).contains(score)) {
            self.fault_of("process.oomScoreAdj", score, "it is not within -1000 and 1000");
        }
        self.refused(process);
        self.user(process);
        self.rlimits(process);
        self.capabilities(process);
    }

    fn refused(&mut self, process: &Process) {
        const WHY: &str = "it is not supported";
        self.refuse(process.command_line().is_some(), "process.commandLine", "it is for Windows");
        self.refuse(process.io_priority().is_some(), "process.ioPriority", WHY);
        self.refuse(process.scheduler().is_some(), "process.scheduler", WHY);
        self.refuse(process.exec_cpu_affinity().is_some(), "process.execCPUAffinity", WHY);
        let apparmor = process.apparmor_profile().as_deref().filter(|label| !matches!(*label, "" | "unconfined"));
        if let Some(label) = apparmor {
            let why = self.labels("/sys/module/apparmor", "AppArmor");
            self.fault_of("process.apparmorProfile", label, why);
        }
        if let Some(label) = process.selinux_label().as_deref().filter(|label| !label.is_empty()) {
            let why = self.labels("/sys/fs/selinux/enforce", "SELinux");
            self.fault_of("process.selinuxLabel", label, why);
        }
    }

    /// Why a label of a security module is refused.
    pub(super) fn labels(&self, path: &str, module: &str) -> &'static str {
        match (self.facts.exists(path), module) {
            (true, _) => "labels are not applied by this engine",
            (false, "AppArmor") => "this machine has no AppArmor",
            (false, _) => "this machine has no SELinux",
        }
    }

    fn user(&mut self, process: &Process) {
        let user = process.user();
        self.refuse(
            user.username().as_ref().is_some_and(|name| !name.is_empty()),
            "process.user.username",
            "it is for Windows",
        );
        if let Some(umask) = user.umask().filter(|umask| *umask > 0o777) {
            self.fault_of("process.user.umask", umask, "it is above 0777");
        }
        let groups = user.additional_gids().as_deref().unwrap_or_default();
        let linux = self.spec.linux().as_ref();
        let users = linux.and_then(|linux| linux.uid_mappings().clone()).unwrap_or_default();
        let group_map = linux.and_then(|linux| linux.gid_mappings().clone()).unwrap_or_default();
        let own_users = self.has(LinuxNamespaceType::User);
        let mapped = |mappings: &[oci_spec::runtime::LinuxIdMapping], id: u32| {
            let holds = |mapping: &oci_spec::runtime::LinuxIdMapping| {
                id.checked_sub(mapping.container_id()).is_some_and(|offset| offset < mapping.size())
            };
            !own_users || mappings.is_empty() || mappings.iter().any(holds)
        };
        let ids = [
            ("uid".to_owned(), user.uid(), mapped(&users, user.uid())),
            ("gid".to_owned(), user.gid(), mapped(&group_map, user.gid())),
        ];
        let more = groups.iter().enumerate();
        let more = more.map(|(position, gid)| (format!("additionalGids[{position}]"), *gid, mapped(&group_map, *gid)));
        for (field, id, mapped) in ids.into_iter().chain(more) {
            let field = format!("process.user.{field}");
            if id == u32::MAX {
                self.fault_of(&field, id, "the highest number is nobody's");
            } else if !mapped {
                self.fault_of(&field, id, "the mappings of the user namespace do not hold it");
            }
        }
    }

    fn rlimits(&mut self, process: &Process) {
        let limits = process.rlimits().as_deref().unwrap_or_default();
        for (position, limit) in limits.iter().enumerate() {
            let field = format!("process.rlimits[{position}]");
            if limits[..position].iter().any(|earlier| earlier.typ() == limit.typ()) {
                self.fault_of(&format!("{field}.type"), ulimit::name(limit.typ()), "this limit is given twice");
            }
            if limit.soft() > limit.hard() {
                self.fault_of(&format!("{field}.soft"), limit.soft(), "the soft limit is above the hard one");
            }
        }
    }

    fn capabilities(&mut self, process: &Process) {
        let Some(sets) = process.capabilities() else { return };
        // capset(2) would refuse it; the other relations between the sets are no errors there.
        if let Some(names) = missing(sets.effective(), sets.permitted()) {
            self.fault_of("process.capabilities.effective", names, "it is not permitted as well");
        }
    }
}
