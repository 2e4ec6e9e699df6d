//! Reads a profile that a user brings: the form of the OCI runtime specification, or Docker's, which adds `archMap`,
//! `name`, `comment` and rules that apply to some capabilities, machines or kernels only.
//!
//! An unknown field is an error. A misspelt `excludes` that goes unnoticed would leave a hole.

use super::{
    capability::{Capability, CapabilitySet},
    compile::{argument, check},
    error::SeccompError,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;
use std::path::PathBuf;

/// Reads a profile for a container with these capabilities on this machine.
///
/// # Errors
/// What is not as it must be, by line and column or by field. Nothing but the form is checked here, and each rule also
/// if it does not apply; see [`compile`](super::compile) for the rest.
pub fn parse(text: &[u8], capabilities: CapabilitySet) -> Result<LinuxSeccomp, SeccompError> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    // A kernel that does not say its version is taken for the newest.
    parse_for(text, capabilities, version(&release).unwrap_or((u32::MAX, 0)))
}

fn parse_for(text: &[u8], capabilities: CapabilitySet, kernel: (u32, u32)) -> Result<LinuxSeccomp, SeccompError> {
    let file: Profile = serde_json::from_slice(text).map_err(|source| SeccompError::Json { source })?;
    let mut rules = Vec::new();
    for (index, rule) in file.syscalls.into_iter().flatten().enumerate() {
        let field = format!("syscalls[{index}]");
        let includes = Condition::read(&format!("{field}.includes"), &rule.includes)?;
        let excludes = Condition::read(&format!("{field}.excludes"), &rule.excludes)?;
        let rule = rule.read(&field)?;
        check(&field, &rule)?;
        if includes.all(capabilities, kernel) && !excludes.any(capabilities, kernel) {
            rules.push(rule);
        }
    }

    let listed = file.architectures.unwrap_or_default();
    let map = file.arch_map.unwrap_or_default();
    if !listed.is_empty() && !map.is_empty() {
        return Err(SeccompError::Both { field: String::new(), one: "architectures", other: "archMap" });
    }
    let mapped = map.into_iter().find(|entry| entry.architecture == NATIVE);
    let mapped = mapped.map(|entry| [vec![entry.architecture], entry.sub_architectures.unwrap_or_default()].concat());

    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(file.default_action);
    profile.set_default_errno_ret(file.default_errno_ret);
    profile.set_architectures(mapped.or(Some(listed)).filter(|architectures| !architectures.is_empty()));
    profile.set_flags(file.flags);
    profile.set_listener_path(file.listener_path);
    profile.set_listener_metadata(file.listener_metadata);
    profile.set_syscalls(Some(rules));
    Ok(profile)
}

/// This machine, as profiles name it.
#[cfg(target_arch = "x86_64")]
const NATIVE: Arch = Arch::ScmpArchX86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: Arch = Arch::ScmpArchAarch64;
/// The same in `includes` and `excludes`.
#[cfg(target_arch = "x86_64")]
const NATIVE_NAME: &str = "amd64";
#[cfg(target_arch = "aarch64")]
const NATIVE_NAME: &str = "arm64";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<Architecture>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Architecture {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Argument {
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Rule {
    fn read(self, field: &str) -> Result<LinuxSyscall, SeccompError> {
        let names = match (self.name.filter(|name| !name.is_empty()), self.names.filter(|names| !names.is_empty())) {
            (Some(_), Some(_)) => {
                return Err(SeccompError::Both { field: field.to_owned(), one: "name", other: "names" });
            }
            (Some(name), None) => vec![name],
            (None, names) => names.unwrap_or_default(),
        };
        let mut rule = LinuxSyscall::default();
        rule.set_names(names);
        rule.set_action(self.action);
        rule.set_errno_ret(self.errno_ret);
        let arguments = self.args.map(|arguments| {
            let read = |read: Argument| argument(read.index, read.value, read.value_two, read.op);
            arguments.into_iter().map(read).collect()
        });
        rule.set_args(arguments);
        Ok(rule)
    }
}

/// What a rule is bound to; an absent or empty list binds to nothing.
#[derive(Default)]
struct Condition {
    capabilities: Vec<Capability>,
    /// Whether this machine is in the list, when there is one.
    machine: Option<bool>,
    kernel: Option<(u32, u32)>,
}

impl Condition {
    fn read(field: &str, filter: &Option<Filter>) -> Result<Self, SeccompError> {
        let Some(filter) = filter else { return Ok(Self::default()) };
        let capabilities = filter.caps.iter().flatten().enumerate().map(|(index, name)| {
            let field = || format!("{field}.caps[{index}]");
            name.parse().map_err(|source| SeccompError::Capability { field: field(), source })
        });
        let arches = filter.arches.iter().flatten();
        let kernel = filter.min_kernel.as_ref().filter(|text| !text.is_empty());
        let kernel = kernel.map(|text| {
            let invalid = || SeccompError::KernelVersion { field: format!("{field}.minKernel"), text: text.clone() };
            exact_version(text).ok_or_else(invalid)
        });
        Ok(Self {
            capabilities: capabilities.collect::<Result<_, _>>()?,
            machine: arches.map(|name| name == NATIVE_NAME).reduce(|one, other| one || other),
            kernel: kernel.transpose()?,
        })
    }

    fn all(&self, capabilities: CapabilitySet, kernel: (u32, u32)) -> bool {
        self.capabilities.iter().all(|capability| capabilities.contains(*capability))
            && self.machine.unwrap_or(true)
            && self.kernel.is_none_or(|least| kernel >= least)
    }

    fn any(&self, capabilities: CapabilitySet, kernel: (u32, u32)) -> bool {
        self.capabilities.iter().any(|capability| capabilities.contains(*capability))
            || self.machine.unwrap_or(false)
            || self.kernel.is_some_and(|least| kernel >= least)
    }
}

/// The first two numbers of a kernel's release, like `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let minor = rest.split(|character: char| !character.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn exact_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    let digits = |text: &str| text.chars().all(|character| character.is_ascii_digit());
    (digits(major) && digits(minor)).then_some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: (u32, u32) = (5, 15);

    fn read(text: &str) -> Result<LinuxSeccomp, SeccompError> {
        parse_for(text.as_bytes(), CapabilitySet::DOCKER, KERNEL)
    }
    /// A profile with one rule, in which these fields stand besides `names` and `action`.
    fn applies(fields: &str) -> bool {
        let rule = format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW"{fields}}}"#);
        let profile = read(&format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rule}]}}"#)).unwrap();
        profile.syscalls().as_ref().unwrap().len() == 1
    }
    fn problem(text: &str) -> String {
        let error = read(text).unwrap_err();
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    }

    #[test]
    fn reads_the_form_of_the_specification() {
        let profile = read(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_KILL_PROCESS",
                              "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
        );
        let oci: LinuxSeccomp = serde_json::from_str(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_KILL_PROCESS",
                              "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
        )
        .unwrap();
        assert_eq!(profile.unwrap(), oci);
    }

    #[test]
    fn reads_dockers_form() {
        let profile = read(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": [], "archMap": [
                 {"architecture": "SCMP_ARCH_MIPS", "subArchitectures": null},
                 {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                 {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
               "syscalls": [{"name": "read", "names": [], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "why",
                             "includes": {}, "excludes": {"caps": []}}]}"#,
        )
        .unwrap();
        let rule = &profile.syscalls().as_ref().unwrap()[0];
        assert_eq!(rule.names(), &["read"]);
        let architectures = profile.architectures().as_ref().unwrap();
        assert_eq!((architectures.len(), architectures[0]), (2, NATIVE));
    }

    #[test]
    fn rules_apply_by_capability_machine_and_kernel() {
        assert!(applies(r#", "includes": {"caps": ["CAP_SYS_CHROOT", "CAP_MKNOD"]}"#));
        assert!(!applies(r#", "includes": {"caps": ["CAP_SYS_CHROOT", "CAP_SYS_ADMIN"]}"#));
        assert!(applies(r#", "excludes": {"caps": ["CAP_SYS_ADMIN"]}"#));
        assert!(!applies(r#", "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_MKNOD"]}"#));
        assert!(applies(r#", "includes": {"arches": ["amd64", "arm64"]}"#));
        assert!(!applies(r#", "includes": {"arches": ["s390x"]}"#));
        assert!(!applies(r#", "excludes": {"arches": ["amd64", "arm64"]}"#));
        assert!(applies(r#", "includes": {"minKernel": "5.15"}, "excludes": {"minKernel": "5.16"}"#));
        assert!(!applies(r#", "includes": {"minKernel": "6.1"}"#));
        assert!(!applies(r#", "excludes": {"minKernel": "4.8"}"#));
    }

    #[test]
    fn errors_say_where() {
        let rule =
            |fields: &str| problem(&format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{{fields}}}]}}"#));
        let errors = [
            problem("{\n\"defaultAction\": \"SCMP_ACT_DENY\"}"),
            problem("{"),
            problem(r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscall": []}"#),
            problem(
                r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
                    "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
            ),
            rule(r#""name": "read", "names": ["write"], "action": "SCMP_ACT_ALLOW""#),
            rule(r#""names": [], "action": "SCMP_ACT_ALLOW""#),
            rule(r#""names": ["read", ""], "action": "SCMP_ACT_ALLOW""#),
            rule(r#""names": ["read"], "action": "SCMP_ACT_NOTIFY""#),
            rule(r#""names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1"#),
            rule(r#""names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096"#),
            rule(
                r#""names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#,
            ),
            rule(r#""names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_ADMIN"]}"#),
            rule(r#""names": ["read"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "5.15.1"}"#),
            // Also in a rule that does not apply.
            rule(r#""names": ["read"], "action": "SCMP_ACT_NOTIFY", "includes": {"caps": ["CAP_SYS_ADMIN"]}"#),
        ];
        let expected = [
            "line 2, column 32: not what a profile has there: unknown variant `SCMP_ACT_DENY`",
            "line 1, column 1",
            "unknown field `syscall`",
            "both `architectures` and `archMap`",
            "`syscalls[0]` gives both `name` and `names`",
            "`syscalls[0]` names no system call",
            "`syscalls[0].names[1]` names no system call",
            "`syscalls[0].action` asks a listener",
            "`syscalls[0].errnoRet` is given, but action SCMP_ACT_ALLOW",
            "`syscalls[0].errnoRet` is 4096; the largest possible is 4095",
            "`syscalls[0].args[0].index` is 6",
            "`syscalls[0].includes.caps[0]` does not name a capability: `CAP_ADMIN`",
            "`syscalls[0].excludes.minKernel` is `5.15.1`",
            "`syscalls[0].action` asks a listener",
        ];
        assert_eq!(errors.len(), expected.len());
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.contains(expected), "{error:?} should have {expected:?}");
        }
    }

    #[test]
    fn kernels_say_their_version() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.15-rc3"), Some((5, 15)));
        assert_eq!(version("7"), None);
        assert!(parse(br#"{"defaultAction": "SCMP_ACT_ALLOW"}"#, CapabilitySet::EMPTY).is_ok());
    }
}
