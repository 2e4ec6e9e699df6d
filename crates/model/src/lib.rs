//! Plain data and rules: ids, names, digests, sizes, ports, validation.
//!
//! Knows no IO, no async, no clock and no randomness: time and random bytes are arguments. Types here are what users
//! type and what files hold; each parses from text (`FromStr`), prints itself back (`Display`) and says in its error
//! what was expected.
#![forbid(unsafe_code)]

pub mod image;
pub mod name;
pub mod network;
pub mod size;

pub use image::{Algorithm, Digest, DigestError, ImageName, ReferenceError, Registry, Repository, Tag};
pub use name::{ContainerId, ContainerName, NameError, NetworkName};
pub use network::{NetworkMode, PortError, PortMapping, Protocol};
pub use size::{ByteSize, SizeError};
