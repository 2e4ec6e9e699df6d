//! Images from and to registries.
//!
//! [`Client::pull`] and [`Client::push`] speak the OCI distribution protocol with any registry. What they promise: content
//! is verified before it is believed; a transfer that was cut, also by the end of this process, goes on where it was;
//! what may be otherwise later is tried again, and a registry that asks for time is given it; credentials go to the
//! registry that they are for, over TLS unless plain HTTP was asked for, and are never shown.
//!
//! All of it runs within the caller's task; only what blocks (the store, files, credential helpers) runs on the runtime's
//! threads for that.

mod auth;
mod challenge;
pub mod credentials;
mod download;
pub(crate) mod downloads;
mod error;
mod manifest;
mod parallel;
mod pull;
mod push;
mod retry;
mod send;
mod session;
mod settings;
mod token;
mod transport;
mod upload;

#[cfg(test)]
mod tests;

pub use credentials::{CredentialError, Credentials, DockerConfig};
pub use error::{Asked, ClientError, ClientErrorKind};
pub use pull::{Platforms, Pulled};
pub use push::Pushed;
pub use retry::RetryPolicy;
pub use settings::{CredentialSource, Registries, Settings};

use crate::store::Store;
use auth::Scope;
use model::image::Registry;
use reqwest::Method;
use session::Session;
use settings::Place;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use transport::Transport;

/// Talks to registries on behalf of one store. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Client {
    store: Store,
    settings: Arc<Settings>,
    /// Registries spoken to; a process speaks to few.
    sessions: Arc<Mutex<HashMap<Registry, Arc<Session>>>>,
}

impl Client {
    /// A client for this store. Connects to nothing yet.
    pub fn new(store: Store, settings: Settings) -> Self {
        Self { store, settings: Arc::new(settings), sessions: Arc::default() }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }
    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Proves who we are to a registry, to see whether it believes it.
    ///
    /// # Errors
    /// [`ClientError::Denied`], and whatever keeps the registry from answering.
    pub async fn check(&self, registry: &Registry) -> Result<(), ClientError> {
        let session = self.session(registry)?;
        let asked = session.asked("log in", "to it");
        let call = session.call(Method::GET, session.url(""), &LOGIN, asked, &[200]);
        session.send(&call).await.map(drop)
    }

    fn session(&self, registry: &Registry) -> Result<Arc<Session>, ClientError> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(registry) {
            return Ok(session.clone());
        }
        let (base, authority) = self.settings.base(registry)?;
        let authorities: Vec<PathBuf> = self.settings.authorities.iter().cloned().chain(authority).collect();
        let transport = Arc::new(Transport::new(authorities, self.settings.connect));
        let session = Arc::new(Session::new(registry.to_string(), base, transport, self.settings.clone()));
        sessions.insert(registry.clone(), session.clone());
        Ok(session)
    }

    /// The registry of an image, and where the image is in it.
    fn locate(&self, name: &model::image::ImageName) -> Result<(Arc<Session>, Place), ClientError> {
        let place = self.settings.place(name)?;
        Ok((self.session(&place.registry)?, place))
    }
}

static LOGIN: Scope = Scope(Vec::new());

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Runs what blocks on a thread where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ClientError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ClientError::Process { doing: "do a step on a thread of its own", why: error.to_string() })
}
