//! What a container has when nothing is said: Docker's defaults, so that images made for it run here.

use super::{device, facts::Facts, mounts, tmpfs};
use crate::capability::CapabilitySet;
use model::ByteSize;
use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxResources, Mount, Process, Root, Spec, User,
};
use std::path::{Path, PathBuf};

/// `PATH` inside (Docker's).
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Size of `/dev/shm`.
pub(crate) const SHM: ByteSize = ByteSize(64 << 20);
/// Version of the OCI runtime specification whose fields are written.
const VERSION: &str = "1.0.2";

/// Paths that would tell of the host, or change it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts", // timing of keys and disks on the host
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap", // power meters leak secrets (CVE-2020-8694)
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A specification with namespaces of its own for everything but users, and nothing of the request yet.
pub(crate) fn spec(facts: &Facts) -> Spec {
    let mut process = Process::default();
    process.set_terminal(None).set_args(None).set_rlimits(None).set_capabilities(None).set_no_new_privileges(None);
    process.set_env(Some(vec![format!("PATH={PATH}")])).set_cwd("/".into()).set_oom_score_adj(Some(0));
    let mut user = User::default();
    user.set_umask(Some(0o022));
    process.set_user(user);
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(std::iter::once(device::deny_all()).chain(device::default_rules()).collect()));
    let kinds = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    let mut linux = Linux::default();
    linux
        .set_resources(Some(resources))
        .set_namespaces(Some(kinds.into_iter().map(namespace).collect()))
        .set_masked_paths(Some(masked_paths(facts)))
        .set_readonly_paths(Some(READ_ONLY.map(str::to_owned).to_vec()));
    let mut spec = Spec::default();
    spec.set_version(VERSION.to_owned())
        .set_process(Some(process))
        .set_root(Some(Root::default()))
        .set_hostname(None)
        .set_annotations(None)
        .set_mounts(Some(default_mounts()))
        .set_linux(Some(linux));
    spec
}

/// A namespace of the container's own.
pub(crate) fn namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    LinuxNamespaceBuilder::default().typ(kind).build().unwrap_or_default() // every field has a default: it can not fail
}

/// Throttling counters of a CPU tell what else runs on it.
fn masked_paths(facts: &Facts) -> Vec<String> {
    let cpus = facts.cpus().unwrap_or_default();
    let counters = cpus.iter().map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
    MASKED.map(str::to_owned).into_iter().chain(counters.filter(|path| facts.exists(path))).collect()
}

fn default_mounts() -> Vec<Mount> {
    let shm = tmpfs::size(SHM);
    vec![
        mount("/proc", "proc", "proc", "nosuid noexec nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid strictatime mode=755 size=65536k"),
        mount("/sys", "sysfs", "sysfs", "nosuid noexec nodev ro"),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev"),
        mount("/dev/pts", "devpts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5"),
        mount("/dev/shm", "tmpfs", "shm", &format!("nosuid noexec nodev mode=1777 {shm}")),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid noexec nodev relatime ro"),
    ]
}

/// A mount with options between blanks.
pub(crate) fn mount(inside: impl Into<PathBuf>, fstype: &str, source: impl Into<PathBuf>, options: &str) -> Mount {
    let options = options.split_ascii_whitespace().map(str::to_owned).collect();
    let mut mount = Mount::default();
    mount
        .set_destination(inside.into())
        .set_typ(Some(fstype.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options));
    mount
}

/// Number of steps to a destination; what is mounted deeper must be mounted later.
pub(crate) fn depth(mount: &Mount) -> usize {
    mounts::clean(mount.destination()).map_or(0, |path| path.iter().count())
}

/// Whether a mount is at this path.
pub(crate) fn is_at(mount: &Mount, path: &Path) -> bool {
    mounts::clean(mount.destination()).as_deref() == Some(path)
}

/// Bounding, effective and permitted sets of these; nothing inheritable or ambient, so that a program run by a user other
/// than root has none (Docker, CVE-2022-24769).
pub(crate) fn capabilities(set: CapabilitySet) -> LinuxCapabilities {
    let all: Capabilities = set.iter().filter_map(|capability| known(&capability.to_string())).collect();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(all.clone())).set_effective(Some(all.clone())).set_permitted(Some(all));
    sets.set_inheritable(None).set_ambient(None);
    sets
}

fn known(name: &str) -> Option<Capability> {
    name.strip_prefix("CAP_")?.parse().ok()
}

/// A specification's set as a mask; what this version does not know is left out.
pub(crate) fn mask(set: Option<&Capabilities>) -> CapabilitySet {
    let known = set.into_iter().flatten().filter_map(|capability| capability.to_string().parse().ok());
    known.fold(CapabilitySet::EMPTY, CapabilitySet::with)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_survive_the_conversion() {
        for set in [CapabilitySet::DOCKER, CapabilitySet::full(), CapabilitySet::EMPTY] {
            let sets = capabilities(set);
            assert_eq!(mask(sets.bounding().as_ref()), set);
            assert_eq!(mask(sets.effective().as_ref()), set);
            assert_eq!(mask(sets.permitted().as_ref()), set);
            assert!(sets.ambient().is_none() && sets.inheritable().is_none());
        }
    }

    #[test]
    fn default_mounts_come_in_order() {
        assert!(default_mounts().is_sorted_by_key(depth));
    }
}
