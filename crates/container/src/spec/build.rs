//! The whole of a request: root, names, network, and the parts that have files of their own.

use super::{
    bundle, defaults,
    facts::{Facts, Kind},
    fault::{Fault, Faults, SpecErrors},
    names, resources,
    signal::Signal,
};
use crate::{
    capability::CapabilitySet,
    layout::Layout,
    options::{CreateOptions, RootSource},
    record::{Record, Root},
};
use jiff::Timestamp;
use model::{ByteSize, ContainerId, NetworkMode, PortMapping};
use oci_spec::runtime::{Linux, LinuxSeccomp, Spec};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

/// What the engine brings to a request.
#[derive(Debug, Clone)]
pub struct Context {
    /// Id of the new container.
    pub id: ContainerId,
    /// A random number, from which a name is made when none was given.
    pub random: u64,
    /// Now.
    pub now: Timestamp,
    /// Folder of named volumes.
    pub volumes: PathBuf,
    /// Where a root of the container's own will be.
    pub rootfs: PathBuf,
    /// Path of the container's control group below the root of each hierarchy, without leading slash.
    pub cgroup: String,
    /// The profile of `SeccompChoice::Profile`, already read.
    pub seccomp: Option<LinuxSeccomp>,
}

impl Context {
    /// The folders and names of this layout.
    pub fn new(layout: &Layout, id: ContainerId, random: u64, now: Timestamp) -> Self {
        Self {
            volumes: layout.volumes(),
            rootfs: layout.container(&id).join("rootfs"),
            cgroup: layout.cgroup(&id),
            seccomp: None,
            id,
            random,
            now,
        }
    }
}

/// A named volume that a container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// Its folder on the host, made on first use.
    pub path: PathBuf,
    /// Where it is mounted.
    pub inside: PathBuf,
    /// Fill it, when it is made, with what the root has at `inside`.
    pub copy: bool,
}

/// A request that can be had, and what `create` has to do for it.
#[derive(Debug)]
pub struct Built {
    /// What to store.
    pub record: Record,
    /// What was asked for and can not be had in full.
    pub warnings: Vec<String>,
    /// Bounding set: what the built-in filter is chosen by.
    pub capabilities: CapabilitySet,
    /// Control group below the root of each hierarchy, without leading slash.
    pub cgroup: String,
    /// The tar file to unpack into the container's own root.
    pub unpack: Option<PathBuf>,
    /// Named volumes to make where they are missing.
    pub volumes: Vec<NewVolume>,
    /// Files and folders of the host that shall belong to the container's user (`--volume …:U`), with all below them.
    pub chown: Vec<PathBuf>,
}

/// A request on its way; the parts of `build` fill it.
pub(super) struct Builder<'a> {
    pub(super) options: &'a CreateOptions,
    pub(super) facts: &'a Facts,
    pub(super) context: &'a Context,
    /// Whether `spec` began as a bundle's: options at their default then leave it as it is.
    pub(super) bundle: bool,
    pub(super) spec: Spec,
    pub(super) linux: Linux,
    pub(super) faults: Faults,
    pub(super) warnings: Vec<String>,
    pub(super) volumes: Vec<NewVolume>,
    pub(super) own_volumes: Vec<String>,
    pub(super) chown: Vec<PathBuf>,
    pub(super) capabilities: CapabilitySet,
}

/// Makes the record of a container.
///
/// # Errors
/// [`SpecErrors`] with all faults of the request.
pub fn build(options: &CreateOptions, facts: &Facts, context: &Context) -> Result<Built, SpecErrors> {
    let mut faults = Faults::default();
    let mut warnings = Vec::new();
    let mut bundle = false;
    let mut spec = None;
    if let RootSource::Bundle(folder) = &options.root {
        bundle = true;
        spec = bundle::load(folder, &options.command, facts, &mut faults, &mut warnings);
    }
    // A bundle that can not be read is a fault already; the default stands in for it so that the flags are checked too.
    let mut spec = spec.unwrap_or_else(|| defaults::spec(facts));
    let linux = spec.linux().clone().unwrap_or_else(bundle::empty_linux);
    spec.set_linux(None);
    let capabilities = CapabilitySet::EMPTY;
    let (volumes, own_volumes, chown) = (Vec::new(), Vec::new(), Vec::new());
    Builder {
        options,
        facts,
        context,
        bundle,
        spec,
        linux,
        faults,
        warnings,
        volumes,
        own_volumes,
        chown,
        capabilities,
    }
    .build()
}

impl Builder<'_> {
    fn build(mut self) -> Result<Built, SpecErrors> {
        let options = self.options;
        let (root, unpack) = self.root();
        let network = self.network();
        let userns = self.isolation(&network);
        self.process(userns);
        self.filesystem(&network, userns);
        let mut limits = self.linux.resources().clone().unwrap_or_default();
        resources::merge(&mut limits, &options.resources, self.facts, &mut self.faults);
        self.linux.set_resources(Some(limits));
        let cgroup = self.cgroup();
        let name = match &options.name {
            Some(name) => Some(name.clone()),
            None => self
                .faults
                .take(names::generate(self.context.random).map_err(|error| Fault::new("--name", error.to_string()))),
        };
        let ports = self.ports(&network);
        self.lists();
        let stop_signal = match &options.stop_signal {
            None => Some(Signal::TERM),
            Some(text) => {
                self.faults.take(text.parse().map_err(|error| Fault::new("--stop-signal", format!("{error}"))))
            }
        };
        let Self { mut spec, linux, faults, warnings, volumes, own_volumes, chown, context, .. } = self;
        spec.set_linux(Some(linux));
        let (Some(name), Some(stop_signal), Some(root)) = (name, stop_signal, root) else {
            return faults.finish(()).and(Err(SpecErrors(Vec::new()))); // each missing part was noted as a fault
        };
        let record = Record {
            id: context.id.clone(),
            name,
            named: options.name.is_some(),
            created_at: context.now,
            root,
            spec,
            default_seccomp: !self.bundle && !options.privileged && options.seccomp == Default::default(),
            // Docker looks root up as well, which gives it the groups that /etc/group has it in.
            user: options.user.clone().or_else(|| (!self.bundle).then(|| "0".to_owned())),
            groups: options.groups.clone(),
            userns,
            network,
            ports,
            ip: options.ip,
            dns: options.dns.clone(),
            manage_etc: !self.bundle,
            interactive: options.interactive,
            remove: options.remove,
            stop_signal: stop_signal.number(),
            stop_timeout: options.stop_timeout.unwrap_or(10),
            labels: options.labels.clone(),
            log: options.log,
            runtime: options.runtime,
            image: options.image.clone(),
            own_volumes,
        };
        faults.finish(Built { record, warnings, capabilities: self.capabilities, cgroup, unpack, volumes, chown })
    }

    /// Where the root is, and the tar file it is to be made from.
    fn root(&mut self) -> (Option<Root>, Option<PathBuf>) {
        let mut root = self.spec.root().clone().unwrap_or_default();
        let folder = |path: &Path| absolute("--rootfs", path, Kind::Directory, self.facts);
        let (place, path, unpack) = match &self.options.root {
            RootSource::Bundle(_) => {
                let path = root.path().clone();
                (Some(Root::Directory(path.clone())), path, None)
            }
            RootSource::Directory(path) => match folder(path) {
                Ok(path) => (Some(Root::Directory(path.clone())), path, None),
                Err(fault) => {
                    self.faults.push(fault);
                    (None, PathBuf::new(), None)
                }
            },
            RootSource::Tar(path) => {
                let tar = self.faults.take(absolute("--rootfs", path, Kind::File, self.facts));
                (tar.is_some().then_some(Root::Owned), self.context.rootfs.clone(), tar)
            }
            RootSource::Layers(layers) => (self.layers(layers), self.context.rootfs.clone(), None),
        };
        root.set_path(path);
        if !self.bundle || self.options.read_only {
            root.set_readonly(Some(self.options.read_only));
        }
        self.spec.set_root(Some(root));
        (place, unpack)
    }

    fn layers(&mut self, layers: &[PathBuf]) -> Option<Root> {
        /// Most layers that overlayfs takes (`OVL_MAX_STACK`).
        const MOST: usize = 500;
        if layers.is_empty() || layers.len() > MOST {
            let why = format!("there are {} layers, but it must be 1 to {MOST}", layers.len());
            self.faults.push(Fault::new("--layer", why));
            return None;
        }
        let mut all: Vec<PathBuf> = Vec::new();
        for layer in layers {
            let Some(path) = self.faults.take(absolute("--layer", layer, Kind::Directory, self.facts)) else {
                continue;
            };
            if all.contains(&path) {
                self.faults.push(Fault::new("--layer", "it is given twice").of(path.display()));
            }
            all.push(path);
        }
        (all.len() == layers.len()).then_some(Root::Layers(all))
    }

    /// Takes the bundle's own path, or the engine's.
    fn cgroup(&mut self) -> String {
        let own = &self.context.cgroup;
        let cgroup = match self.linux.cgroups_path() {
            Some(path) if path.is_absolute() => path.to_string_lossy().trim_matches('/').to_owned(),
            Some(path) => {
                let why = "it is relative, so the runtime chooses where it lies";
                self.warnings.push(format!("linux.cgroupsPath `{}`: {why}: {own}", path.display()));
                own.clone()
            }
            None => own.clone(),
        };
        self.linux.set_cgroups_path(Some(Path::new("/").join(&cgroup)));
        cgroup
    }

    fn ports(&mut self, network: &NetworkMode) -> Vec<PortMapping> {
        let ports = &self.options.publish;
        let overlap = |one: &PortMapping, two: &PortMapping| {
            let any = |ip: &Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
            let family = |ip: Option<IpAddr>, other: Option<IpAddr>| match (ip, other) {
                (Some(ip), Some(other)) => ip.is_ipv4() == other.is_ipv4(),
                _ => true,
            };
            (one.host_port, one.protocol) == (two.host_port, two.protocol)
                && family(one.host_ip, two.host_ip)
                && (any(&one.host_ip) || any(&two.host_ip) || one.host_ip == two.host_ip)
        };
        for (position, port) in ports.iter().enumerate() {
            if port.host_port == 0 || port.container_port == 0 {
                self.faults.push(Fault::new("--publish", "a port is 0").of(port).hint("give a number from 1 to 65535"));
            }
            if let Some(earlier) = ports[..position].iter().find(|earlier| overlap(earlier, port)) {
                let why = format!("the host's port {} is published already, as {earlier}", port.host_port);
                self.faults.push(Fault::new("--publish", why).of(port).hint("choose another port of the host"));
            }
        }
        if let Some(ip) = self.options.ip.filter(|_| !matches!(network, NetworkMode::Bridge(_))) {
            let why = format!("the network `{network}` gives no addresses");
            self.faults.push(Fault::new("--ip", why).of(ip).hint("choose a bridge network with --network"));
        }
        match network {
            NetworkMode::Host if !ports.is_empty() => {
                self.warnings.push("--publish: left out, since the container's ports are the host's".to_owned());
                Vec::new()
            }
            NetworkMode::None if !ports.is_empty() => {
                let why = "the container is on no network that could be reached";
                self.faults.push(Fault::new("--publish", why).hint("choose a bridge network with --network"));
                Vec::new()
            }
            _ => ports.clone(),
        }
    }

    /// What is only stored: labels, logs, name resolution.
    fn lists(&mut self) {
        let Self { options, faults, .. } = self;
        for (key, value) in &options.labels {
            if key.is_empty() || key.contains('\0') || value.contains('\0') {
                faults
                    .push(Fault::new("--label", "its key is empty, or it has a NUL byte").of(format!("{key}={value}")));
            }
        }
        if options.log.max_size < ByteSize(64 << 10) {
            let why = "it is less than 64 KiB";
            faults.push(Fault::new("--log-opt max-size", why).of(options.log.max_size).hint("give at least 64k"));
        }
        if !(1..=1000).contains(&options.log.max_files) {
            let why = "it is not within 1 and 1000";
            faults.push(Fault::new("--log-opt max-file", why).of(options.log.max_files));
        }
        // Each ends in a line of resolv.conf or hosts, where a blank or line break would begin something else.
        let sound = |text: &str| {
            !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
        };
        for (flag, texts) in [("--dns-search", &options.dns.search), ("--dns-option", &options.dns.options)] {
            for text in texts.iter().filter(|text| !sound(text)) {
                faults.push(
                    Fault::new(flag, "it is empty, too long, or has a blank or other special character").of(text),
                );
            }
        }
        for (host, ip) in options.dns.hosts.iter().filter(|(host, _)| !sound(host)) {
            let why = "the name is empty, too long, or has a blank or other special character";
            faults.push(Fault::new("--add-host", why).of(format!("{host}:{ip}")));
        }
        for group in &options.groups {
            if group.contains(':') || crate::user::parse(group).is_err() {
                faults.push(Fault::new("--group-add", "it is not the name or number of a group").of(group));
            }
        }
    }
}

/// An absolute path of what must be there and of this kind.
pub(super) fn absolute(field: &str, path: &Path, kind: Kind, facts: &Facts) -> Result<PathBuf, Fault> {
    let fail = |why: String| Fault::new(field, why).of(path.display());
    let absolute = match &facts.directory {
        _ if path.is_absolute() => path.to_owned(),
        Some(directory) => directory.join(path),
        None => return Err(fail("it is relative to a directory that no longer exists".into())),
    };
    match facts.files.look(&absolute) {
        Ok(look) if look.kind == kind => Ok(absolute),
        Ok(_) if kind == Kind::Directory => Err(fail("it is not a directory".into())),
        Ok(_) => Err(fail("it is not a file".into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(fail(format!("there is no {} on this machine", absolute.display())).hint("check the path"))
        }
        Err(error) => Err(fail(format!("it can not be looked up: {error}"))),
    }
}
