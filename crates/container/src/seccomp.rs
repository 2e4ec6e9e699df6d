//! System call filters: the default one, those that users bring, and the compiler that makes programs of them.
//!
//! A profile is an [`oci_spec`] value, so that it can be shown, stored and handed to another runtime. [`compile`] makes
//! the program that `sys::seccomp::install` gives to the kernel, in the container's first process right before it
//! executes the user's program. The filter of containers with Docker's capabilities is compiled when this crate is built.

use crate::capability::{self, CapabilitySet};
use oci_spec::runtime::LinuxSeccomp;
use std::borrow::Cow;

mod bpf;
mod compile;
mod error;
mod flags;
mod i386;
mod numbers;
mod parse;
mod profile;
#[cfg(test)]
mod tests;

pub use compile::compile;
pub use error::SeccompError;
pub use flags::{FilterFlags, flags};
pub use parse::parse;

/// The default profile for Docker's capabilities, compiled by the build script; empty when that ran on another kind of
/// machine than this is for.
const COMMON: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/seccomp.bpf"));

/// The compiled default profile for a container with these capabilities: an array of `struct sock_filter`.
pub fn default_program(capabilities: &CapabilitySet) -> Cow<'static, [u8]> {
    if !COMMON.is_empty() && profile::relevant(*capabilities) == profile::relevant(CapabilitySet::DOCKER) {
        return Cow::Borrowed(COMMON);
    }
    // What can go wrong depends on the table alone, and tests compile all of it.
    Cow::Owned(
        compile(&default_profile(*capabilities)).expect("the default profile compiles, whatever the capabilities"),
    )
}

/// The default profile for a container with these capabilities. It refuses 32-bit programs.
pub fn default_profile(capabilities: CapabilitySet) -> LinuxSeccomp {
    profile::default_profile(capabilities, false)
}

/// The default profile for a container whose image is for 32-bit x86, on a 64-bit x86 machine. It is weaker than the other:
/// through `socketcall`, whose arguments no filter sees, all socket families can be had.
pub fn default_profile_i386(capabilities: CapabilitySet) -> LinuxSeccomp {
    profile::default_profile(capabilities, true)
}
