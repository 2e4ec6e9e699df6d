//! From options or a bundle to an OCI runtime specification.
//!
//! [`build`] is pure: what it must know of the machine is in [`Facts`]. It makes the [`crate::record::Record`] of a
//! container and says what else `create` has to do ([`Built`]); or it gives every fault of the request at once, each
//! with the flag or field, the value, why, and what to do ([`SpecErrors`]). [`check`] names every field of a foreign
//! specification that this engine can not honour, so that nothing asked for is quietly left out.
//!
//! A specification of our own leaves three things to the start: the user namespace and its mappings (leased then, see
//! `Record::userns`), the numbers of a user given by name (looked up inside, see [`crate::user`]) and `HOME`.

mod build;
mod bundle;
mod check;
pub(crate) mod defaults;
mod device;
mod facts;
mod fault;
mod filesystem;
mod idlist;
mod isolation;
mod json;
pub mod mounts;
mod names;
mod process;
mod resources;
pub mod signal;
pub mod sysctl;
mod tmpfs;
pub mod ulimit;
mod volume;

pub use build::{Built, Context, NewVolume, build};
pub use check::check;
pub use facts::{Facts, Files, Kind, Look};
pub use fault::{Fault, SpecErrors};
pub use idlist::IdList;
pub use isolation::why_host_users;
pub use mounts::MountOptions;
pub use names::generate as generate_name;
pub use signal::Signal;

use crate::{options::ResourceOptions, record::Record};
use fault::Faults;

#[cfg(test)]
mod tests;

/// Changes the limits of a container as `update` was asked to; the record stays as it is when anything is wrong.
///
/// # Errors
/// [`SpecErrors`] with all faults; nothing to change is one.
pub fn apply_update(record: &mut Record, options: &ResourceOptions, facts: &Facts) -> Result<(), SpecErrors> {
    let mut faults = Faults::default();
    if resources::is_empty(options) {
        let why = "there is nothing to change";
        faults.push(Fault::new("update", why).hint("give a limit, such as --memory 256m or --cpus 2"));
    }
    let mut linux = record.spec.linux().clone().unwrap_or_default();
    let mut limits = linux.resources().clone().unwrap_or_default();
    resources::merge(&mut limits, options, facts, &mut faults);
    linux.set_resources(Some(limits));
    let linux = faults.finish(linux)?;
    record.spec.set_linux(Some(linux));
    Ok(())
}
