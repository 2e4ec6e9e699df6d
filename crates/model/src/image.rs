//! Names of content and of images: digest, repository, tag, reference.
//!
//! The grammars are those of the OCI image and distribution specifications; texts that do not match are refused where
//! they enter, so that a digest or a repository can be used in a path without another check.

mod digest;
mod reference;

pub use digest::{Algorithm, Digest, DigestError};
pub use reference::{ImageName, ReferenceError, Registry, Repository, Tag};
