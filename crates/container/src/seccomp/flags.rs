//! How a filter is installed.

use super::error::SeccompError;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};
use serde::{Deserialize, Serialize};

/// `SECCOMP_FILTER_FLAG_*` (seccomp(2)) for the installation of a filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FilterFlags(u32);

impl FilterFlags {
    /// No flag: what is refused is not logged, and a kernel before 5.16 protects the container's processes against
    /// Speculative Store Bypass whether they want it or not, which costs them speed.
    pub const NONE: Self = Self(0);
    /// All threads of the process.
    pub const TSYNC: Self = Self(1 << 0);
    /// Log what is not allowed, for the actions in `/proc/sys/kernel/seccomp/actions_logged`.
    pub const LOG: Self = Self(1 << 1);
    /// No protection against Speculative Store Bypass on behalf of the filter.
    pub const SPEC_ALLOW: Self = Self(1 << 2);

    /// Both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Whether it has all of those.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// The kernel's number.
    pub fn bits(self) -> u32 {
        self.0
    }
}

/// The flags that a profile asks for. A profile that has no `flags` at all, not even an empty list, gets `SPEC_ALLOW` as
/// with runc: kernels from 5.16 on do the same by themselves.
///
/// # Errors
/// [`SeccompError::Listener`] for `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, which is of use to a listener only.
pub fn flags(profile: &LinuxSeccomp) -> Result<FilterFlags, SeccompError> {
    let Some(listed) = profile.flags() else { return Ok(FilterFlags::SPEC_ALLOW) };
    listed.iter().enumerate().try_fold(FilterFlags::NONE, |flags, (index, flag)| {
        Ok(flags.with(match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FilterFlags::LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => FilterFlags::TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FilterFlags::SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(SeccompError::Listener { field: format!("flags[{index}]") });
            }
        }))
    })
}
