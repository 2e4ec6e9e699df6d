//! The content store against a real file system and real processes. Needs root, as the store does.

#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod archives;
mod bootstrap;
mod collect;
mod disk;
mod fuzz;
mod hostile;
mod kill;
mod layers;
mod store;
mod support;
