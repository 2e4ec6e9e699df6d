//! Base images from a Debian mirror: with no registry within reach there are still images to begin with.
//!
//! An image is named by what is in it. First the mirror is asked which versions of which packages it would be ([`Plan`]);
//! recipe, suite, architecture, versions and what else has a say make a key, and the image that was made here by that key is
//! the answer, if it is there still ([`known`]). Otherwise mmdebstrap makes it, in a folder that goes with the work, and bit for bit the same wherever
//! and whenever it is made: times are those of the suite's release, and what tells about the machine or the moment is
//! left out ([`tree`]). All systems share one base layer; the packages of a recipe are the difference of two archives
//! ([`difference`]).
//!
//! Everything that is run ends when this process or thread does, and is killed when the caller says stop.

mod build;
mod difference;
mod document;
mod error;
mod extras;
mod keystore;
mod known;
mod lists;
mod plan;
mod recipe;
mod sources;
mod tool;
mod tree;
mod work;

pub use build::Built;
pub use error::{BootstrapError, Said};
pub use plan::{Key, Plan, PlannedPackage};
pub use recipe::{Kind, Package, RECIPES, Recipe, Suite, WordError};
pub use sources::Mirrors;

pub(crate) use known::MODULE;
pub(crate) use work::sweep;

use crate::{progress::Progress, store::Store};
use std::{collections::BTreeSet, sync::atomic::AtomicBool};

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// How it is made.
    pub recipe: &'static Recipe,
    /// From which release.
    pub suite: Suite,
    /// With these besides.
    pub packages: BTreeSet<Package>,
    /// From where.
    pub mirrors: Mirrors,
}

/// Who follows the work.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Is told how it comes along.
    pub progress: &'a dyn Progress,
    /// Ends it when it becomes true.
    pub stop: &'a AtomicBool,
}

/// Asks the mirror what the image would be.
///
/// # Errors
/// [`BootstrapError`]: nothing was changed.
pub fn plan(store: &Store, request: Request, watch: Watch<'_>) -> Result<Plan, BootstrapError> {
    plan::plan(store, request, watch)
}
