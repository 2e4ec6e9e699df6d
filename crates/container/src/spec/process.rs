//! What runs: program, environment, user, capabilities, limits of the process.

use super::{build::Builder, defaults, fault::Fault, mounts, ulimit};
use crate::{
    capability::{Capability, CapabilitySet},
    options::{NamespaceMode, SeccompChoice},
};
use oci_spec::runtime::{Capabilities, PosixRlimitType, Process};
use std::path::Path;

/// Longest argument or variable, bytes with its end (execve(2), `MAX_ARG_STRLEN` with the smallest pages).
pub(super) const LONGEST_STRING: usize = 128 << 10;

impl Builder<'_> {
    /// Fills in `process` and the filter of system calls.
    pub(super) fn process(&mut self, userns: Option<NamespaceMode>) {
        let options = self.options;
        let mut process = self.spec.process().clone().unwrap_or_default();
        if !self.bundle || !options.command.is_empty() {
            process.set_args(Some(options.command.clone()));
        }
        if !self.bundle && options.command.first().is_none_or(String::is_empty) {
            let hint = "name a program after the options, such as /bin/sh";
            self.faults.push(Fault::new("command", "there is nothing to run").hint(hint));
        }
        for argument in &options.command {
            if let Some(why) = unfit(argument) {
                self.faults.push(Fault::new("command", why).of(argument));
            }
        }
        if options.tty {
            process.set_terminal(Some(true));
        }
        if let Some(workdir) = &options.workdir {
            match mounts::clean(Path::new(workdir)) {
                Some(path) => {
                    process.set_cwd(path);
                }
                None => self
                    .faults
                    .push(Fault::new("--workdir", "it is not an absolute path").of(workdir).hint("start it with /")),
            }
        }
        self.environment(&mut process);
        self.user(&mut process);
        self.privileges(&mut process, userns);
        self.limits(&mut process);
        self.seccomp();
        self.spec.set_process(Some(process));
    }

    fn environment(&mut self, process: &mut Process) {
        let mut env = process.env().clone().unwrap_or_default();
        let set = |env: &mut Vec<String>, name: &str, value: &str, replace: bool| {
            let of = |entry: &String| entry.split('=').next() == Some(name);
            match env.iter().position(of) {
                Some(position) if replace => env[position] = format!("{name}={value}"),
                Some(_) => {}
                None => env.push(format!("{name}={value}")),
            }
        };
        if !self.bundle {
            let hostname = self.spec.hostname().clone().unwrap_or_else(|| self.facts.hostname.clone());
            set(&mut env, "HOSTNAME", &hostname, true);
        }
        if self.options.tty {
            set(&mut env, "TERM", "xterm", false);
        }
        for (name, value) in &self.options.env {
            let fail = |why: &str| Fault::new("--env", why).of(name);
            if name.is_empty() || name.contains('=') {
                self.faults
                    .push(fail("a variable's name can neither be empty nor have a `=`").hint("write NAME=VALUE"));
            } else if let Some(why) = unfit(&format!("{name}={value}")) {
                self.faults.push(fail(why));
            } else {
                set(&mut env, name, value, true);
            }
        }
        process.set_env(Some(env));
    }

    fn user(&mut self, process: &mut Process) {
        let Some(text) = &self.options.user else { return };
        match crate::user::parse(text) {
            // Numbers of a name are looked up inside; until then these stand.
            Ok((uid, gid)) => {
                process.user_mut().set_uid(uid.unwrap_or(0)).set_gid(gid.unwrap_or(0)).set_additional_gids(None);
            }
            Err(error) => self.faults.push(Fault::new("--user", error.to_string())),
        }
    }

    fn privileges(&mut self, process: &mut Process, userns: Option<NamespaceMode>) {
        let options = self.options;
        let sets = process.capabilities().clone();
        let theirs = sets.as_ref().map(|sets| defaults::mask(sets.bounding().as_ref()));
        let base = if self.bundle { theirs.unwrap_or_default() } else { CapabilitySet::DOCKER };
        let (add, drop) = (self.named("--cap-add", &options.cap_add), self.named("--cap-drop", &options.cap_drop));
        let both = CapabilitySet(add.set.0 & drop.set.0);
        for capability in both.iter() {
            let why = "it is both added and dropped";
            self.faults.push(Fault::new("--cap-add", why).of(capability).hint("give it once"));
        }
        if add.all && drop.all {
            self.faults.push(Fault::new("--cap-add", "ALL is both added and dropped").of("ALL").hint("give it once"));
        }
        let mut set = match () {
            () if options.privileged || add.all => CapabilitySet::full(),
            () if drop.all => CapabilitySet::EMPTY,
            () => base,
        };
        set = CapabilitySet((set.0 | add.set.0) & !drop.set.0);
        // In a user namespace of its own the container's root has them all; the host's root may lack some itself.
        let held = if userns == Some(NamespaceMode::Host) { self.facts.capabilities } else { CapabilitySet::full() };
        let missing = CapabilitySet(set.0 & !held.0);
        if missing != CapabilitySet::EMPTY {
            let names: Vec<_> = missing.iter().map(|capability| capability.to_string()).collect();
            self.warnings
                .push(format!("capabilities {}: left out, since this process has none to give", names.join(", ")));
            set = CapabilitySet(set.0 & held.0);
        }
        let changed = options.privileged || !options.cap_add.is_empty() || !options.cap_drop.is_empty();
        if !self.bundle || changed {
            process.set_capabilities(Some(defaults::capabilities(set)));
        } else if let Some(mut sets) = sets {
            let keep = |all: &Option<Capabilities>| {
                let held = |capability: &oci_spec::runtime::Capability| {
                    capability.to_string().parse().is_ok_and(|known: Capability| held.contains(known))
                };
                all.as_ref().map(|all| all.iter().copied().filter(held).collect::<Capabilities>())
            };
            let (bounding, effective, permitted) =
                (keep(sets.bounding()), keep(sets.effective()), keep(sets.permitted()));
            let (inheritable, mut ambient) = (keep(sets.inheritable()), keep(sets.ambient()));
            // The kernel raises no other (capabilities(7)); runc's own example asks for some in vain.
            let can = CapabilitySet(defaults::mask(inheritable.as_ref()).0 & defaults::mask(permitted.as_ref()).0);
            let vain = CapabilitySet(defaults::mask(ambient.as_ref()).0 & !can.0);
            if vain != CapabilitySet::EMPTY {
                let names: Vec<_> = vain.iter().map(|capability| capability.to_string()).collect();
                let why = "left out, since they are not both permitted and inheritable";
                self.warnings.push(format!("process.capabilities.ambient {}: {why}", names.join(", ")));
                ambient = defaults::capabilities(CapabilitySet(defaults::mask(ambient.as_ref()).0 & can.0))
                    .bounding()
                    .clone();
            }
            sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
            sets.set_inheritable(inheritable).set_ambient(ambient);
            process.set_capabilities(Some(sets));
        }
        self.capabilities = set;
        if !self.bundle {
            process.set_no_new_privileges(Some(options.no_new_privileges));
        }
    }

    fn named(&mut self, flag: &str, names: &[String]) -> Named {
        let mut named = Named { set: CapabilitySet::EMPTY, all: false };
        for name in names {
            if name.eq_ignore_ascii_case("all") {
                named.all = true;
                continue;
            }
            let capability = name.parse::<Capability>().map_err(|error| Fault::new(flag, error.to_string()));
            if let Some(capability) = self.faults.take(capability) {
                named.set = named.set.with(capability);
            }
        }
        named
    }

    fn limits(&mut self, process: &mut Process) {
        let mut limits = process.rlimits().clone().unwrap_or_default();
        let mut asked: Vec<PosixRlimitType> = limits.iter().map(|limit| limit.typ()).collect();
        let mut given: Vec<PosixRlimitType> = Vec::new();
        for text in &self.options.ulimit {
            let Some(limit) = self.faults.take(ulimit::parse(text)) else { continue };
            if given.contains(&limit.typ()) {
                self.faults.push(Fault::new("--ulimit", "this limit is given twice").of(text).hint("give it once"));
            }
            given.push(limit.typ());
            limits.retain(|other| other.typ() != limit.typ());
            limits.push(limit);
        }
        asked.extend(given);
        if !self.bundle && !asked.contains(&PosixRlimitType::RlimitNofile) {
            let (soft, hard) = ulimit::OPEN_FILES;
            limits.insert(0, ulimit::limit(PosixRlimitType::RlimitNofile, soft, hard));
        }
        for limit in &mut limits {
            let (cut, warning) = ulimit::clamp(*limit, self.facts);
            // Nobody asked for a default, so nobody misses what it lacks.
            self.warnings.extend(warning.filter(|_| asked.contains(&cut.typ())));
            *limit = cut;
        }
        process.set_rlimits((!limits.is_empty()).then_some(limits));
        self.oom_score(process);
    }

    fn oom_score(&mut self, process: &mut Process) {
        let asked = self.options.oom_score_adj.or_else(|| process.oom_score_adj().filter(|_| self.bundle));
        if let Some(score) = self.options.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
            self.faults.push(Fault::new("--oom-score-adj", "it is not within -1000 and 1000").of(score));
            return;
        }
        let Some(score) = asked.or(process.oom_score_adj()) else { return };
        let own = self.facts.oom_score_adj();
        let possible = if self.facts.may_raise { score } else { score.max(own) };
        if possible != score && asked.is_some() {
            let why = "this process may not go below its own (it lacks CAP_SYS_RESOURCE)";
            self.warnings.push(format!("oom score adjustment: {possible} instead of {score}: {why}"));
        }
        process.set_oom_score_adj(Some(possible));
    }

    fn seccomp(&mut self) {
        match &self.options.seccomp {
            SeccompChoice::Default if self.bundle && !self.options.privileged => {}
            SeccompChoice::Default | SeccompChoice::Unconfined => {
                self.linux.set_seccomp(None);
            }
            SeccompChoice::Profile(path) => {
                let profile = self.context.seccomp.clone();
                if profile.is_none() {
                    let fault = Fault::new("--security-opt seccomp", "the profile was not read");
                    self.faults.push(fault.of(path.display()));
                }
                for fault in profile.iter().flat_map(|profile| super::check::seccomp("--security-opt seccomp", profile))
                {
                    self.faults.push(fault);
                }
                self.linux.set_seccomp(profile);
            }
        }
    }
}

struct Named {
    set: CapabilitySet,
    all: bool,
}

/// Why a string can not be passed to a program.
pub(super) fn unfit(text: &str) -> Option<&'static str> {
    if text.contains('\0') {
        Some("it has a NUL byte")
    } else if text.len() >= LONGEST_STRING {
        Some("it is longer than the 128 KiB that a program can be given in one piece")
    } else {
        None
    }
}
