//! A process that is a registry and nothing else.

use super::{
    server::{Addresses, Registry, RegistryError},
    settings::Settings,
};
use crate::store::Store;
use std::{io, sync::OnceLock};
use supervisor::{Exit, LogConfig, LogError, Logs, Metrics, Supervisor, block_on, install_panic_hook};

/// The process could not be a registry.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Of the registry.
    #[error("cannot start the registry")]
    Registry(#[source] RegistryError),
    /// Of the runtime, or of signals.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// Of the log.
    #[error("cannot log")]
    Logs(#[source] LogError),
}

/// Serves until a signal, and gives why it ended. SIGHUP reads the certificate again. `ready` is called once, with where
/// it is, when it can be reached.
///
/// # Errors
/// When it cannot start; nothing was served then.
pub fn run(store: &Store, settings: Settings, ready: impl FnOnce(Addresses)) -> Result<Exit, RunError> {
    let metrics = Metrics::with_prefix("jdos");
    let logs = Logs::install(&LogConfig::default(), &metrics).map_err(RunError::Logs)?;
    install_panic_hook(&metrics, &logs);
    let serve = async {
        let reload = std::sync::Arc::new(OnceLock::<super::Reload>::new());
        let told = reload.clone();
        let on_reload = move || {
            if let Some(reload) = told.get() {
                reload.now();
            }
        };
        let builder = Supervisor::builder().metrics(&metrics).drain_within(settings.limits.drain);
        let supervisor = builder.on_reload(on_reload).start().map_err(RunError::Start)?;
        let registry = Registry::bind(store, settings, supervisor.spawner(), &metrics).await;
        let registry = registry.map_err(RunError::Registry)?;
        // Set once, here.
        let _first = reload.set(registry.reload()).is_ok();
        let addresses = registry.addresses();
        registry.serve(supervisor.spawner());
        let metrics = addresses.metrics.map(tracing::field::display);
        tracing::info!(address = %addresses.registry, metrics, "registry ready");
        ready(addresses);
        Ok(supervisor.run().await)
    };
    block_on(serve).map_err(RunError::Start)?
}
