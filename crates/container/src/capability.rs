//! Capabilities by name and number (capabilities(7)).

use std::{fmt, str::FromStr};

/// Names in the order of their numbers; the position is the number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One capability, by its kernel number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability(u8);

/// The text names no capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a capability (see capabilities(7)); write it as NET_ADMIN or CAP_NET_ADMIN")]
pub struct CapabilityError(pub String);

impl Capability {
    /// All that this version knows, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        (0u8..).take(NAMES.len()).map(Self)
    }
    /// The kernel's number, 0 to 40.
    pub fn number(self) -> u8 {
        self.0
    }
}
impl FromStr for Capability {
    type Err = CapabilityError;
    fn from_str(text: &str) -> Result<Self, CapabilityError> {
        let upper = text.to_ascii_uppercase();
        let stem = upper.strip_prefix("CAP_").unwrap_or(&upper);
        Self::all()
            .find(|capability| NAMES[usize::from(capability.0)] == stem)
            .ok_or_else(|| CapabilityError(text.to_owned()))
    }
}
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", NAMES[usize::from(self.0)])
    }
}

/// A set of capabilities as the kernel's bit mask: bit N is capability N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// No capability.
    pub const EMPTY: Self = Self(0);
    /// Docker's default 14: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW,
    /// SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
    pub const DOCKER: Self = Self(0xa804_25fb);

    /// Every capability that this version knows.
    pub fn full() -> Self {
        Capability::all().fold(Self::EMPTY, |set, capability| set.with(capability))
    }
    /// With this one as well.
    pub fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability.0)
    }
    /// Without this one.
    pub fn without(self, capability: Capability) -> Self {
        Self(self.0 & !(1 << capability.0))
    }
    /// Whether it is in the set.
    pub fn contains(self, capability: Capability) -> bool {
        self.0 >> capability.0 & 1 == 1
    }
    /// Its members in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::all().filter(move |capability| self.contains(*capability))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_has_14() {
        let names: Vec<_> = CapabilitySet::DOCKER.iter().map(|capability| capability.to_string()).collect();
        assert_eq!(names.len(), 14);
        assert!(names.contains(&"CAP_MKNOD".to_owned()) && names.contains(&"CAP_SETFCAP".to_owned()), "{names:?}");
    }

    #[test]
    fn names_read_back() {
        for capability in Capability::all() {
            assert_eq!(capability.to_string().parse(), Ok(capability));
        }
        assert_eq!("net_admin".parse::<Capability>().map(Capability::number), Ok(12));
        assert!("NET_ROOT".parse::<Capability>().is_err());
    }
}
