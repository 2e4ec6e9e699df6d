//! OCI containers on one machine: runtime, shim and monitor, cgroups, root file system, network, exec and logs.
//!
//! Stands alone: it needs no daemon and knows neither where images come from nor what a platform wants with a
//! container. The three key types are [`engine::Engine`] (the folder-backed set of containers of this machine),
//! [`record::Record`] (the intent of one container, stored before anything is done) and [`plan::Plan`] (all that the
//! shim needs to start it; the shim makes no choices).
//!
//! It starts by opening a data folder, has nothing to stop, and fails by leaving what a later
//! [`engine::Engine::reconcile`] sweeps: what has no record is removed, what has one is adopted.

pub mod attach;
pub mod capability;
pub mod cgroup;
pub mod engine;
pub mod layout;
pub mod logs;
pub mod monitor;
pub mod network;
pub mod options;
pub mod plan;
pub mod record;
mod removal;
pub mod runtime;
pub mod seccomp;
pub mod spec;
pub mod state;
mod sys;
pub mod user;
pub mod volume;
