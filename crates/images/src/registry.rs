//! A registry: OCI distribution 1.1 over the content store.
//!
//! It knows HTTP, repositories, tags and accounts; content itself is the store's. What a repository has are rows in the
//! store's index ([`schema`]), so a local push or pull copies nothing, several processes may serve the same store, and
//! collection runs at any time: a row keeps its content, and an answer that says "it is there" is given only by a row.
//!
//! The three types to know: [`Settings`] (how it is to be), [`Registry`] (bound, then serving), [`Accounts`] (who may
//! what). **Start**: [`Registry::bind`] opens and takes everything that can fail, [`Registry::serve`] starts its tasks
//! under the caller's supervisor; [`run`] does both for a process of its own. **Stop**: the supervisor ends intake, then
//! the connections after the requests they have. **Fail**: a request's failure is told to its client with a code of the
//! specification and, when it is ours, logged; a failure of the accept loop begins it again. Uploads survive the process.
//!
//! ```text
//! server (listeners, TLS) ─ transport (TCP, sendfile) ─ hyper ─ service (route, authority, audit)
//!     ├ manifests ─ check, cache        ├ uploads ─ sessions, receive
//!     ├ blobs ─ range, body             └ lists ─ query          all: rows ─ store::index
//! ```

mod access;
mod accounts;
mod audit;
mod authority;
mod blobs;
mod blocking;
mod body;
mod cache;
mod check;
mod codec;
mod exporter;
mod lists;
mod logins;
mod manifests;
mod metrics;
mod problem;
mod query;
mod range;
mod receive;
mod route;
mod rows;
mod run;
pub mod schema;
mod server;
mod service;
mod sessions;
mod settings;
mod throttle;
mod tls;
mod token;
mod tokens;
mod transport;
mod uploads;

pub use access::{AccessError, Grant, ImmutableTags, Pattern, Scope, Verbs};
pub use accounts::{Account, AccountError, Accounts, Kind, ROBOT_PREFIX};
pub use run::{RunError, run};
pub use server::{Addresses, Registry, RegistryError, Reload};
pub use settings::{Challenge, Limits, Settings, TlsFiles};
pub use tls::TlsError;

use crate::store::{Store, StoreError};
use std::time::Duration;

/// Takes blobs from their repositories that no manifest there refers to and nobody has relied on for so long, and removes
/// repositories without content. Gives the number of blobs. Their content goes with the next collection, if nothing else
/// keeps it.
///
/// # Errors
/// The index cannot be written.
pub fn sweep(store: &Store, unused_for: Duration) -> Result<usize, StoreError> {
    let age = i64::try_from(unused_for.as_secs()).unwrap_or(i64::MAX);
    let before = crate::store::now().saturating_sub(age);
    store.index().write("sweep repositories", |transaction| rows::sweep(transaction, before))
}
