//! From OCI resources to settings, whichever version each controller is on.
//!
//! The units and the meaning of 0 (not asked for) and -1 (unlimited) are those of OCI; what one version can not express is
//! an error that names the field, found before anything is written.

use super::{
    CgroupError, Inner,
    detect::Version,
    setting::Setting,
    {v1, v2},
};
use oci_spec::runtime::{LinuxCpu, LinuxResources};
use std::collections::{BTreeMap, BTreeSet};

/// Settings that belong together, see [`super::setting::apply`].
pub(super) type Groups = Vec<Vec<Setting>>;
/// Reads a file of the group as it is now; absent for a group that is being made.
pub(super) type Current<'a> = Option<&'a dyn Fn(&str, &str) -> Option<String>>;

/// An amount in the sense of OCI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    Unlimited,
    Of(u64),
}

impl Amount {
    /// `None` when not asked for (absent or 0).
    pub(super) fn parse(field: &str, value: Option<i64>) -> Result<Option<Self>, CgroupError> {
        match value {
            None | Some(0) => Ok(None),
            Some(-1) => Ok(Some(Self::Unlimited)),
            Some(value) => match u64::try_from(value) {
                Ok(value) => Ok(Some(Self::Of(value))),
                Err(_) => Err(CgroupError::setting(field, format!("{value} is no amount; -1 means unlimited"))),
            },
        }
    }
    /// For the kernel, with its word for unlimited.
    pub(super) fn text(self, unlimited: &str) -> String {
        match self {
            Self::Unlimited => unlimited.to_owned(),
            Self::Of(value) => value.to_string(),
        }
    }
}

/// All settings for these resources, but for the devices.
pub(super) fn plan(host: &Inner, resources: &LinuxResources, current: Current<'_>) -> Result<Groups, CgroupError> {
    let mut groups = Groups::new();
    let matters = |setting: &&Setting| !(setting.optional || setting.is_default && current.is_none());
    let mut add = |version: Option<Version>, settings: Groups| {
        let settings: Groups = settings.into_iter().filter(|group| !group.is_empty()).collect();
        match (version, settings.iter().flatten().find(matters)) {
            (None, Some(first)) => Err(CgroupError::setting(&first.field, host.why_unavailable(&first.controller))),
            (None, None) => Ok(()),
            (Some(_), _) => {
                groups.extend(settings);
                Ok(())
            }
        }
    };
    if let Some(cpu) = resources.cpu() {
        let version = host.version_of("cpuset");
        add(version, cpuset(cpu))?;
        let version = host.version_of("cpu");
        add(version, if version == Some(Version::V1) { v1::cpu(cpu) } else { v2::cpu(cpu, current)? })?;
    }
    if let Some(memory) = resources.memory() {
        let version = host.version_of("memory");
        let v1 = version == Some(Version::V1);
        add(version, if v1 { v1::memory(memory, current)? } else { v2::memory(memory, current)? })?;
    }
    if let Some(pids) = resources.pids().filter(|pids| pids.limit() != 0) {
        let value = if pids.limit() < 0 { "max".to_owned() } else { pids.limit().to_string() };
        let setting = Setting::new("pids", "pids.limit", "pids.max", value).default_when(pids.limit() < 0);
        add(host.version_of("pids"), vec![vec![setting]])?;
    }
    if let Some(io) = resources.block_io() {
        let v1 = host.version_of("blkio");
        add(v1.or(host.version_of("io")), if v1.is_some() { v1::block_io(io) } else { v2::block_io(io)? })?;
    }
    let version = host.version_of("hugetlb");
    for limit in resources.hugepage_limits().iter().flatten() {
        let field = format!("hugepageLimits[{}]", limit.page_size());
        let size = page_size(&field, limit.page_size())?;
        let amount = match limit.limit() {
            // Unlike elsewhere none at all is a limit here.
            0 => Amount::Of(0),
            value => Amount::parse(&field, Some(value))?.unwrap_or(Amount::Unlimited),
        };
        let v1 = version == Some(Version::V1);
        add(version, if v1 { v1::huge_pages(&field, size, amount) } else { v2::huge_pages(&field, size, amount) })?;
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            let setting = Setting::new("net_cls", "network.classID", "net_cls.classid", class);
            add(host.version_of("net_cls"), vec![vec![setting.default_when(class == 0)]])?;
        }
        for priority in network.priorities().iter().flatten() {
            let (name, value) = (priority.name(), priority.priority());
            let field = format!("network.priorities[{name}]");
            let setting = Setting::new("net_prio", field, "net_prio.ifpriomap", format!("{name} {value}"))
                .line(name, format!("{name} 0"));
            add(host.version_of("net_prio"), vec![vec![setting]])?;
        }
    }
    for (device, limit) in resources.rdma().iter().flatten().collect::<BTreeMap<_, _>>() {
        let part = |name: &str, value: Option<u32>| value.map(|value| format!(" {name}={value}")).unwrap_or_default();
        let (handles, objects) = (part("hca_handle", limit.hca_handles()), part("hca_object", limit.hca_objects()));
        let setting =
            Setting::new("rdma", format!("rdma[{device}]"), "rdma.max", format!("{device}{handles}{objects}"))
                .line(device, format!("{device} hca_handle=max hca_object=max"));
        add(host.version_of("rdma"), vec![vec![setting]])?;
    }
    for (file, value) in resources.unified().iter().flatten().collect::<BTreeMap<_, _>>() {
        let controller = unified_controller(file)?;
        if host.unified().is_none() {
            let reason = "needs the unified hierarchy (control groups v2), which is not mounted here".to_owned();
            return Err(CgroupError::setting(format!("unified[{file}]"), reason));
        }
        let version = if controller == "cgroup" { Some(Version::V2) } else { host.version_of(&controller) };
        if version == Some(Version::V1) {
            let reason = format!("`{controller}` is on a v1 hierarchy here; use the resource's own field");
            return Err(CgroupError::setting(format!("unified[{file}]"), reason));
        }
        // Files with one line per key take one line a call.
        let lines = value.lines().filter(|line| !line.is_empty());
        let settings = lines
            .map(|line| Setting::new(controller.clone(), format!("unified[{file}]"), file, line).needs("such setting"));
        add(version, settings.map(|setting| vec![setting]).collect())?;
    }
    Ok(groups)
}

/// Controllers that must be enabled for the resources beside those that always are.
pub(super) fn additional_controllers(resources: &LinuxResources) -> BTreeSet<String> {
    let mut controllers: BTreeSet<String> = resources
        .unified()
        .iter()
        .flatten()
        .filter_map(|(file, _)| file.split_once('.').map(|(controller, _)| controller.to_owned()))
        .collect();
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        controllers.insert("rdma".to_owned());
    }
    controllers
}

/// The files have the same names and meaning in both versions.
fn cpuset(cpu: &LinuxCpu) -> Groups {
    let setting = |field, file, value: &Option<String>| {
        value
            .iter()
            .filter(|list| !list.trim().is_empty())
            .map(|list| Setting::new("cpuset", field, file, list))
            .collect()
    };
    vec![setting("cpu.cpus", "cpuset.cpus", cpu.cpus()), setting("cpu.mems", "cpuset.mems", cpu.mems())]
}

/// Part of a file name, so it must be no path.
fn page_size<'a>(field: &str, size: &'a str) -> Result<&'a str, CgroupError> {
    if !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(size);
    }
    Err(CgroupError::setting(field, "a page size is written such as `2MB`"))
}

/// The controller of a file of the unified hierarchy.
///
/// # Errors
/// When it is no name of a file, or one that moves, stops or kills processes: those are not limits.
fn unified_controller(file: &str) -> Result<String, CgroupError> {
    const ACTIONS: [&str; 6] = ["procs", "threads", "kill", "freeze", "type", "subtree_control"];
    let field = || format!("unified[{file}]");
    match file.split_once('.') {
        Some((controller, rest))
            if !controller.is_empty()
                && !rest.is_empty()
                && file.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) =>
        {
            if controller == "cgroup" && ACTIONS.contains(&rest) {
                return Err(CgroupError::setting(field(), "is no limit but an action on the group"));
            }
            Ok(controller.to_owned())
        }
        _ => Err(CgroupError::setting(field(), "is no name of a file such as `memory.high`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_ocis() {
        assert_eq!(Amount::parse("f", None).unwrap(), None);
        assert_eq!(Amount::parse("f", Some(0)).unwrap(), None);
        assert_eq!(Amount::parse("f", Some(-1)).unwrap(), Some(Amount::Unlimited));
        assert_eq!(Amount::parse("f", Some(7)).unwrap(), Some(Amount::Of(7)));
        assert_eq!(Amount::parse("f", Some(-2)).unwrap_err().to_string(), "f: -2 is no amount; -1 means unlimited");
    }

    #[test]
    fn unified_takes_files_only() {
        assert_eq!(unified_controller("memory.high").unwrap(), "memory");
        assert_eq!(unified_controller("hugetlb.2MB.max").unwrap(), "hugetlb");
        assert_eq!(unified_controller("cgroup.max.depth").unwrap(), "cgroup");
        for bad in ["", "memory", "../memory.max", "memory.max/x", ".max", "memory.", "cgroup.procs", "cgroup.kill"] {
            assert!(unified_controller(bad).is_err(), "{bad}");
        }
        assert!(page_size("f", "2MB").is_ok() && page_size("f", "../x").is_err() && page_size("f", "").is_err());
    }
}
