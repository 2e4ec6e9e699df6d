//! Images: one content store for engine and registry, and everything that fills and empties it.
//!
//! Knows no container and no build. The three types to know: [`Store`] (a folder that any number of processes of this
//! machine use at the same time), [`Lease`] (why content may not be collected yet), [`Progress`] (who is told what is
//! going on). The store's calls block; asynchronous callers use a pool. Nothing needs to be started or stopped: after
//! `kill -9` or a power cut the store is as the last finished step left it, and [`collect`] takes away the rest.
#![forbid(unsafe_code)]

pub mod archive;
pub mod bootstrap;
pub mod client;
pub mod collect;
pub mod digest;
pub mod layer;
pub mod media;
pub mod progress;
pub mod store;
pub mod tarball;

pub use client::{Client, ClientError};
pub use digest::Hasher;
pub use progress::{Event, LayerState, Progress, Silent};
pub use store::{Blob, CommitError, Image, Ingest, IngestId, Lease, Manifest, Owner, Store, StoreError};
