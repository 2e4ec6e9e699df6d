//! The registry over real connections: the cases of the OCI distribution specification, and what it leaves to us.
#![allow(clippy::unwrap_used)] // helpers of tests are tests, which clippy sees in functions marked so only

#[path = "registry/access.rs"]
mod access;
#[path = "registry/blobs.rs"]
mod blobs;
#[path = "registry/collection.rs"]
mod collection;
#[path = "registry/harness.rs"]
mod harness;
#[path = "registry/limits.rs"]
mod limits;
#[path = "registry/lists.rs"]
mod lists;
#[path = "registry/manifests.rs"]
mod manifests;
#[path = "registry/tls.rs"]
mod tls;
#[path = "registry/uploads.rs"]
mod uploads;
