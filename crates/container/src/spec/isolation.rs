//! What a container shares with the host: namespaces, host name, kernel parameters.

use super::{build::Builder, defaults, fault::Fault, sysctl};
use crate::{options::NamespaceMode, record::Record};
use model::NetworkMode;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

impl Builder<'_> {
    /// Where the network stack comes from; for a bundle what its namespaces say, unless a flag says otherwise.
    pub(super) fn network(&mut self) -> NetworkMode {
        let asked = self.options.network.clone();
        let theirs = self.find(LinuxNamespaceType::Network).cloned();
        let network = match (&asked, self.bundle, &theirs) {
            (Some(network), ..) => network.clone(),
            (None, true, None) => NetworkMode::Host,
            (None, true, Some(_)) => return NetworkMode::None,
            (None, false, _) => match NetworkMode::DEFAULT.parse() {
                Ok(network) => network,
                Err(error) => {
                    self.faults.push(Fault::new("--network", format!("{error}")));
                    NetworkMode::None
                }
            },
        };
        self.namespace(LinuxNamespaceType::Network, network != NetworkMode::Host);
        network
    }

    /// Namespaces, host name and kernel parameters; gives whose users the container has, where that is settled.
    pub(super) fn isolation(&mut self, network: &NetworkMode) -> Option<NamespaceMode> {
        let options = self.options;
        for (kind, mode) in [
            (LinuxNamespaceType::Pid, options.pid),
            (LinuxNamespaceType::Ipc, options.ipc),
            (LinuxNamespaceType::Uts, options.uts),
            (LinuxNamespaceType::Cgroup, options.cgroupns),
        ] {
            if mode == NamespaceMode::Host {
                self.namespace(kind, false);
            }
        }
        self.hostname(network);
        self.sysctls();
        self.users()
    }

    fn users(&mut self) -> Option<NamespaceMode> {
        let asked = self.options.userns;
        if self.bundle {
            let theirs = self.find(LinuxNamespaceType::User).is_some();
            if asked == Some(NamespaceMode::Host) {
                self.namespace(LinuxNamespaceType::User, false);
                self.linux.set_uid_mappings(None).set_gid_mappings(None);
            }
            let own = if theirs { NamespaceMode::Private } else { NamespaceMode::Host };
            return asked.or(Some(own));
        }
        // Root in a user namespace of its own has no power over what belongs to the host: a container that is given the
        // host's network, processes or IPC, or everything, is meant to have it.
        let shared = [LinuxNamespaceType::Network, LinuxNamespaceType::Pid, LinuxNamespaceType::Ipc];
        let shares = shared.into_iter().any(|kind| self.find(kind).is_none());
        asked.or((self.options.privileged || shares).then_some(NamespaceMode::Host))
    }

    fn hostname(&mut self, network: &NetworkMode) {
        let own = self.find(LinuxNamespaceType::Uts).is_some();
        match &self.options.hostname {
            Some(name) => {
                let fail = |why: &str| Fault::new("--hostname", why).of(name);
                if !own {
                    self.faults.push(fail("the host name is the host's").hint("leave out --uts host"));
                } else if let Some(why) = unfit_hostname(name) {
                    self.faults.push(fail(why).hint("use letters, digits, `-`, `_` and `.`"));
                }
                self.spec.set_hostname(Some(name.clone()));
            }
            None if self.bundle => {}
            // As Docker: who shares the host's network answers to the host's name.
            None if own => {
                let shared = *network == NetworkMode::Host && unfit_hostname(&self.facts.hostname).is_none();
                let id = self.context.id.short();
                self.spec.set_hostname(Some(if shared { self.facts.hostname.clone() } else { id.to_owned() }));
            }
            None => {}
        }
    }

    fn sysctls(&mut self) {
        let mut all = self.linux.sysctl().clone().unwrap_or_default();
        let has_network = self.find(LinuxNamespaceType::Network).is_some();
        // Docker's: ports below 1024 mean nothing on a network of one's own.
        if !self.bundle && has_network {
            all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        }
        let mut given: Vec<std::path::PathBuf> = Vec::new();
        for (name, value) in &self.options.sysctl {
            let fail = |why: &str| Fault::new("--sysctl", why).of(name);
            let Some(owner) = self.faults.take(sysctl::owner("--sysctl", name)) else { continue };
            self.faults.take(sysctl::check_value("--sysctl", name, value));
            let (kind, flag) = namespace_of(owner);
            if self.find(kind).is_none() {
                let fault = fail("it would change the host, whose namespace the container shares");
                self.faults.push(fault.hint(format!("leave out {flag}, or set it on the host")));
            }
            let path = sysctl::path(name).unwrap_or_default();
            if given.contains(&path) {
                self.faults.push(fail("it is given twice").hint("give it once"));
            }
            all.retain(|other, _| sysctl::path(other).as_ref() != Some(&path));
            all.insert(name.clone(), value.clone());
            given.push(path);
        }
        self.linux.set_sysctl((!all.is_empty()).then_some(all));
    }

    /// The namespace of this kind, if the container does not share the host's.
    pub(super) fn find(&self, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
        self.linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == kind)
    }

    fn namespace(&mut self, kind: LinuxNamespaceType, own: bool) {
        let mut all = self.linux.namespaces().clone().unwrap_or_default();
        // One that is joined by its path gives way to what a flag asks for.
        let keep = |other: &LinuxNamespace| other.typ() != kind || (own && other.path().is_none());
        all.retain(keep);
        if own && !all.iter().any(|other| other.typ() == kind) {
            all.push(defaults::namespace(kind));
        }
        self.linux.set_namespaces(Some(all));
    }
}

/// The namespace that a parameter needs, and the flag that would give it away.
pub(super) fn namespace_of(owner: sysctl::Owner) -> (LinuxNamespaceType, &'static str) {
    match owner {
        sysctl::Owner::Ipc => (LinuxNamespaceType::Ipc, "--ipc host"),
        sysctl::Owner::Network => (LinuxNamespaceType::Network, "--network host"),
        sysctl::Owner::Uts => (LinuxNamespaceType::Uts, "--uts host"),
    }
}

/// Why the kernel or a program would not take a host name.
pub(super) fn unfit_hostname(name: &str) -> Option<&'static str> {
    /// What the kernel keeps (`__NEW_UTS_LEN`).
    const LONGEST: usize = 64;
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > LONGEST {
        Some("it is longer than 64 characters")
    } else if !name.bytes().all(sound) || name.starts_with(['-', '.']) {
        Some("it is not a host name")
    } else {
        None
    }
}

/// Why a container whose record says so has the host's users: for `State::users`.
pub fn why_host_users(record: &Record) -> &'static str {
    let linux = record.spec.linux().as_ref();
    let own = |kind| {
        linux
            .and_then(|linux| linux.namespaces().as_ref())
            .is_some_and(|all| all.iter().any(|namespace| namespace.typ() == kind))
    };
    if !own(LinuxNamespaceType::Network) {
        "it shares the host's network"
    } else if !own(LinuxNamespaceType::Pid) {
        "it shares the host's processes"
    } else if !own(LinuxNamespaceType::Ipc) {
        "it shares the host's IPC"
    } else if !record.manage_etc {
        "its bundle has no user namespace"
    } else {
        "asked for"
    }
}
