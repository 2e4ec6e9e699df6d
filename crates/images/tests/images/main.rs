//! The content store against a real file system and real processes. Needs root, as the store does.
#![allow(clippy::unwrap_used)] // helpers of tests are tests, which clippy sees in functions marked so only

mod archives;
mod collect;
mod disk;
mod hostile;
mod kill;
mod layers;
mod store;
mod support;
