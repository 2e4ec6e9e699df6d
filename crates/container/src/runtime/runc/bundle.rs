//! The OCI bundle that runc gets: the container's specification, with all that our own runtime takes from elsewhere.

use super::stage::{self, Trees};
use crate::{
    plan::{Filter, Plan, UserPlan},
    runtime::message::{During, Failure},
    seccomp,
    user::Identity,
};
use oci_spec::runtime::{
    Capabilities, Linux, LinuxCapabilities, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType,
    LinuxResources, Process, Spec,
};
use rustix::thread::CapabilitySet;
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Its file.
pub const FILE: &str = "config.json";

/// The specification of a container whose mounts are staged.
pub fn of(plan: &Plan, users: &UserPlan, identity: &Identity, trees: &Trees) -> Result<Spec, Failure> {
    let mut spec = plan.record.spec.clone();
    let mut root = spec.root().clone().unwrap_or_default();
    root.set_path(plan.running.join(stage::ROOT));
    let host = matches!(users, UserPlan::Host(_));
    let process = process(&plan.program.process, identity, host)?;
    spec.set_root(Some(root))
        .set_process(Some(process))
        .set_mounts(Some(trees.mounts(&plan.running.join(stage::FOLDER))));
    let mut linux = spec.linux().clone().unwrap_or_default();
    namespaces(&mut linux, users)?;
    linux.set_seccomp(match &plan.program.filter {
        Filter::None => None,
        Filter::Default(capabilities) => Some(seccomp::default_profile(*capabilities)),
        Filter::File(..) => linux.seccomp().clone(),
    });
    // The limits are set: runc joins the groups. Its own device rules it would set whatever we say.
    let mut resources = LinuxResources::default();
    resources.set_devices(linux.resources().as_ref().and_then(|all| all.devices().clone()));
    linux.set_resources(Some(resources)).set_cgroups_path(Some(PathBuf::from(format!("/{}", plan.cgroup))));
    if trees.has_devices() {
        linux.set_devices(None);
    }
    // As Docker: without it nothing that is mounted inside spreads to the host, shared or not.
    let shared = |option: &String| option == "shared" || option == "rshared";
    let mut options = plan.mounts().filter_map(|(mount, _)| mount.options().as_ref());
    if linux.rootfs_propagation().is_none() && options.any(|all| all.iter().any(shared)) {
        linux.set_rootfs_propagation(Some("rshared".to_owned()));
    }
    spec.set_linux(Some(linux));
    Ok(spec)
}

/// A process with the numbers of its user, and no more rights than there are to give.
pub fn process(process: &Process, identity: &Identity, host_users: bool) -> Result<Process, Failure> {
    let mut process = process.clone();
    let mut user = process.user().clone();
    user.set_uid(identity.uid).set_gid(identity.gid).set_additional_gids(Some(identity.groups.clone()));
    process.set_user(user);
    let mut environment = process.env().clone().unwrap_or_default();
    environment.extend(identity.home_of(&environment));
    process.set_env(Some(environment));
    if host_users && let Some(capabilities) = process.capabilities() {
        // What this process itself lacks can not be given, and runc would fail over it.
        let held = rustix::thread::capabilities(None).during("read", "capabilities")?.permitted;
        process.set_capabilities(Some(within(capabilities, held)));
    }
    Ok(process)
}

fn within(capabilities: &LinuxCapabilities, held: CapabilitySet) -> LinuxCapabilities {
    let is_held = |name: &oci_spec::runtime::Capability| {
        let known = name.to_string().parse::<crate::capability::Capability>();
        known.is_ok_and(|one| held.bits() & (1 << one.number()) != 0)
    };
    let some = |set: &Option<Capabilities>| set.as_ref().map(|set| set.iter().copied().filter(is_held).collect());
    let mut all = capabilities.clone();
    all.set_bounding(some(capabilities.bounding()))
        .set_effective(some(capabilities.effective()))
        .set_inheritable(some(capabilities.inheritable()))
        .set_permitted(some(capabilities.permitted()))
        .set_ambient(some(capabilities.ambient()));
    all
}

fn namespaces(linux: &mut Linux, users: &UserPlan) -> Result<(), Failure> {
    let mut all = linux.namespaces().clone().unwrap_or_default();
    all.retain(|one| one.typ() != LinuxNamespaceType::User);
    let own = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    if !all.iter().any(|one| one.typ() == LinuxNamespaceType::Mount) {
        all.push(own(LinuxNamespaceType::Mount));
    }
    let (uids, gids) = match users {
        UserPlan::Host(_) => (None, None),
        UserPlan::Leased { base, size, .. } => {
            let range = vec![range(*base, *size)?];
            (Some(range.clone()), Some(range))
        }
        UserPlan::Mapped { uids, gids } => (Some(uids.clone()), Some(gids.clone())),
    };
    if uids.is_some() {
        all.push(own(LinuxNamespaceType::User));
    }
    linux.set_namespaces(Some(all)).set_uid_mappings(uids).set_gid_mappings(gids);
    Ok(())
}

fn range(base: u32, size: u32) -> Result<LinuxIdMapping, Failure> {
    let built = LinuxIdMappingBuilder::default().container_id(0u32).host_id(base).size(size).build();
    built.map_err(io::Error::other).during("map", "users")
}

/// Writes the bundle's file into the run folder.
pub fn write(running: &Path, spec: &Spec) -> Result<(), Failure> {
    let path = running.join(FILE);
    let text = serde_json::to_vec(spec).map_err(io::Error::from).during("write", path.display())?;
    store(&path, &text)
}

/// Writes a file for root alone: the environment may hold secrets, and this process masks no permissions.
pub fn store(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(text)).during("write", path.display())
}
