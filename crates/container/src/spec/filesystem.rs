//! What a container sees: mounts, volumes, devices, hidden paths.

use super::{
    build::{Builder, NewVolume},
    defaults::{depth, is_at, mount},
    device,
    facts::Kind,
    fault::Fault,
    tmpfs,
    volume::{Source, Volume},
};
use crate::options::NamespaceMode;
use model::NetworkMode;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType, Mount};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Nodes that every container gets from the runtime.
const OWN_NODES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

impl Builder<'_> {
    /// Fills in mounts, devices and their rules, masked and read-only paths.
    pub(super) fn filesystem(&mut self, network: &NetworkMode, userns: Option<NamespaceMode>) {
        let mut mounts = self.spec.mounts().clone().unwrap_or_default();
        if !self.bundle {
            self.shared_mounts(&mut mounts, network, userns);
        }
        self.shm(&mut mounts);
        if self.options.privileged {
            self.linux.set_masked_paths(None).set_readonly_paths(None);
            for mount in
                mounts.iter_mut().filter(|mount| matches!(mount.typ().as_deref(), Some("sysfs" | "cgroup" | "cgroup2")))
            {
                if let Some(options) = mount.options_mut() {
                    options.retain(|option| option != "ro");
                }
            }
        }
        let own = self.own_mounts();
        self.propagation(&own);
        place(&mut mounts, own, self.bundle);
        self.spec.set_mounts(Some(mounts));
        self.devices();
    }

    /// Where a namespace is the host's, what belongs to it is the host's as well.
    fn shared_mounts(&self, mounts: &mut Vec<Mount>, network: &NetworkMode, userns: Option<NamespaceMode>) {
        let own_users = userns == Some(NamespaceMode::Private);
        let mut replace = |inside: &str, with: Option<Mount>| {
            if let Some(position) = mounts.iter().position(|mount| is_at(mount, Path::new(inside))) {
                match with {
                    Some(mount) => mounts[position] = mount,
                    None => drop(mounts.remove(position)),
                }
            }
        };
        if self.find(LinuxNamespaceType::Ipc).is_none() {
            let shared = |path: &str| {
                self.facts.exists(path).then(|| mount(path, "bind", path, "rbind rprivate nosuid noexec nodev"))
            };
            replace("/dev/shm", shared("/dev/shm"));
            replace("/dev/mqueue", shared("/dev/mqueue"));
        }
        // A new sysfs or proc shows the namespace of whoever mounts it, who must own that namespace: root of other users
        // does not own the host's.
        if own_users && *network == NetworkMode::Host {
            replace("/sys", Some(mount("/sys", "bind", "/sys", "rbind rprivate nosuid noexec nodev rro")));
        }
        if own_users && self.find(LinuxNamespaceType::Pid).is_none() {
            replace("/proc", Some(mount("/proc", "bind", "/proc", "rbind rprivate nosuid noexec nodev")));
        }
    }

    fn shm(&mut self, mounts: &mut [Mount]) {
        let Some(size) = self.options.shm_size else { return };
        let fail = |why: String| Fault::new("--shm-size", why).of(size);
        let page = self.facts.page_size();
        if size.0 < page {
            self.faults.push(fail(format!("it is less than a page of {page} bytes")).hint("64m is normal"));
        }
        let shm = mounts.iter_mut().find(|mount| is_at(mount, Path::new("/dev/shm")));
        match shm.filter(|mount| mount.typ().as_deref() == Some("tmpfs")) {
            Some(shm) => {
                let options = shm.options_mut().get_or_insert_default();
                options.retain(|option| !option.starts_with("size="));
                options.push(tmpfs::size(size));
            }
            None if self.bundle => self.faults.push(fail("the bundle mounts no tmpfs at /dev/shm".into())),
            None => self.faults.push(fail("/dev/shm is the host's".into()).hint("leave out --ipc host")),
        }
    }

    /// The mounts of `--volume` and `--tmpfs`.
    fn own_mounts(&mut self) -> Vec<Mount> {
        let mut own: Vec<(Mount, String)> = Vec::new();
        let mut add = |mount: Mount, flag: &str, text: &str, builder: &mut Self| {
            let taken = own.iter().find(|(other, _)| other.destination() == mount.destination());
            if let Some((_, earlier)) = taken {
                let why = format!("{} is taken already, by {earlier}", mount.destination().display());
                builder.faults.push(Fault::new(flag, why).of(text).hint("mount one thing at one place"));
            }
            own.push((mount, format!("{flag} {text}")));
        };
        for text in &self.options.volumes {
            let parsed = Volume::parse(text, self.facts.directory.as_deref());
            if let Some(mount) = self.faults.take(parsed).and_then(|parsed| self.volume(text, parsed)) {
                add(mount, "--volume", text, self);
            }
        }
        for text in &self.options.image_volumes {
            if let Some(mount) = self.faults.take(Volume::own(text)).and_then(|own| self.volume(text, own)) {
                add(mount, "the image's volume", text, self);
            }
        }
        for text in &self.options.tmpfs {
            if let Some(parsed) = self.faults.take(tmpfs::parse(text)) {
                add(mount(parsed.inside, "tmpfs", "tmpfs", &parsed.options.join(" ")), "--tmpfs", text, self);
            }
        }
        own.into_iter().map(|(mount, _)| mount).collect()
    }

    fn volume(&mut self, text: &str, volume: Volume) -> Option<Mount> {
        let fail = |why: String| Fault::new("--volume", why).of(text);
        if volume.relabel && self.facts.exists("/sys/fs/selinux/enforce") {
            self.warnings.push(format!("--volume `{text}`: not relabelled, since this engine sets no SELinux labels"));
        }
        let source = match volume.source {
            Source::Path(path) => {
                if let Err(error) = self.facts.files.look(&path) {
                    self.faults.push(match error.kind() {
                        ErrorKind::NotFound => fail(format!("there is no {} on this machine", path.display()))
                            .hint(format!("make it first: mkdir -p {}", path.display())),
                        _ => fail(format!("{} can not be looked up: {error}", path.display())),
                    });
                    return None;
                }
                path
            }
            Source::Own => {
                // The id is unique, so the name is; and it tells whose the volume is.
                let name = format!("{}-{}", self.context.id, self.own_volumes.len());
                self.own_volumes.push(name.clone());
                let path = self.context.volumes.join(&name);
                self.volumes.push(NewVolume {
                    name,
                    path: path.clone(),
                    inside: volume.inside.clone(),
                    copy: volume.copy,
                });
                path
            }
            Source::Named(name) => {
                let path = self.context.volumes.join(&name);
                let inside = volume.inside.clone();
                // The first mount of a volume fills it.
                let first = !self.volumes.iter().any(|other| other.name == name);
                let copy = volume.copy && first;
                self.volumes.push(NewVolume { name, path: path.clone(), inside, copy });
                path
            }
        };
        if volume.chown && !self.chown.contains(&source) {
            self.chown.push(source.clone());
        }
        Some(mount(volume.inside, "bind", source, &volume.options.join(" ")))
    }

    /// A mount spreads only as far as the root it is in lets it (mount_namespaces(7)).
    fn propagation(&mut self, own: &[Mount]) {
        let has = |words: [&str; 2]| {
            own.iter().flat_map(|mount| mount.options().iter().flatten()).any(|option| words.contains(&option.as_str()))
        };
        let root = match () {
            () if has(["shared", "rshared"]) => "shared",
            () if has(["slave", "rslave"]) => "rslave",
            () => return,
        };
        let already = self.linux.rootfs_propagation().as_deref();
        if !matches!(already, Some("shared" | "rshared")) {
            self.linux.set_rootfs_propagation(Some(root.to_owned()));
        }
    }

    fn devices(&mut self) {
        let mut nodes: Vec<LinuxDevice> = self.linux.devices().clone().unwrap_or_default();
        let mut allowed: Vec<LinuxDeviceCgroup> = Vec::new();
        if self.options.privileged
            && let Some(all) = self.faults.take(device::all(self.facts))
        {
            nodes.retain(|node| !all.iter().any(|other| other.path() == node.path()));
            nodes.extend(all);
        }
        let mut given: Vec<PathBuf> = Vec::new();
        for text in &self.options.devices {
            for (node, rule) in self.faults.take(device::resolve(text, self.facts)).unwrap_or_default() {
                if given.contains(node.path()) {
                    let why = format!("{} is taken already", node.path().display());
                    self.faults.push(Fault::new("--device", why).of(text).hint("give one device one path"));
                }
                given.push(node.path().clone());
                nodes.retain(|other| other.path() != node.path());
                nodes.push(node);
                allowed.push(rule);
            }
        }
        nodes.retain(|node| !OWN_NODES.iter().any(|own| node.path() == Path::new(own)));
        self.linux.set_devices((!nodes.is_empty()).then_some(nodes));
        let mut resources = self.linux.resources().clone().unwrap_or_default();
        let rules = if self.options.privileged {
            vec![device::allow_all()]
        } else {
            let mut rules = resources.devices().clone().unwrap_or_default();
            rules.extend(allowed);
            rules
        };
        resources.set_devices(Some(rules));
        self.linux.set_resources(Some(resources));
    }
}

/// Rules of a bundle with what every runtime adds: all is denied unless it says otherwise first, and every container can
/// use the devices that it is given.
pub(super) fn bundle_rules(theirs: Vec<LinuxDeviceCgroup>) -> Vec<LinuxDeviceCgroup> {
    let all = |rule: &LinuxDeviceCgroup| matches!(rule.typ(), None | Some(LinuxDeviceType::A));
    let settled = theirs.first().is_some_and(all);
    let deny = (!settled).then(device::deny_all);
    deny.into_iter().chain(theirs).chain(device::default_rules()).collect()
}

/// What the user mounts replaces what is mounted at the same place, and hides what is mounted below `/dev`. Parents come
/// before their children, except that a bundle's order is its own.
fn place(mounts: &mut Vec<Mount>, own: Vec<Mount>, bundle: bool) {
    if !bundle && own.iter().any(|mount| mount.destination() == Path::new("/dev")) {
        mounts.retain(|mount| !mount.destination().starts_with("/dev"));
    }
    for mount in own {
        match mounts.iter().position(|other| is_at(other, mount.destination())) {
            Some(position) => mounts[position] = mount,
            None => mounts.push(mount),
        }
    }
    if !bundle {
        mounts.sort_by_key(depth);
    }
}

/// Kinds of file that can be mounted; here for the checks of a bundle's bind mounts.
pub(super) fn exists(path: &Path, facts: &super::facts::Facts) -> Result<Kind, String> {
    facts.files.look(path).map(|look| look.kind).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("there is no {} on this machine", path.display()),
        _ => format!("{} can not be looked up: {error}", path.display()),
    })
}
