//! The content store against a real file system and real processes. Needs root, as the store does.

mod archives;
mod bootstrap;
mod collect;
mod disk;
mod hostile;
mod kill;
mod layers;
mod store;
mod support;
