//! Listeners and connections: how a registry starts, serves and ends.

use super::{
    accounts::{AccountError, Accounts},
    audit::Audit,
    authority::Authority,
    blocking::Pool,
    cache::Cache,
    metrics::{Counters, Present},
    service::{Peer, Service},
    sessions::Sessions,
    settings::{Limits, Settings},
    tls::{Certificate, TlsError},
    token::Key,
    transport::{Outbox, Transport},
};
use crate::store::{Store, StoreError};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};
use supervisor::{
    Backoff, Fate, JobFate, JobSpec, Metrics, OnShutdown, PrefixTaken, Shutdown, Spawner, Stage, TaskSpec,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

/// How often files of the certificate are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long it is remembered what an upload hashes to that nobody goes on with. It stays on disk after that.
const IDLE_UPLOAD: Duration = Duration::from_secs(600);
/// How often the room on the disk is looked at.
const MEASURE_EVERY: Duration = Duration::from_secs(60);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of the head of a request at most.
const HEAD: usize = 32 << 10;
/// How long to wait when the kernel has no more descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A registry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The address.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The certificate.
    #[error("cannot use the certificate")]
    Tls(#[source] TlsError),
    /// The audit log.
    #[error("cannot write the audit log in {}", folder.display())]
    Audit {
        /// Where.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error("cannot use the content store")]
    Store(#[source] StoreError),
    /// The key.
    #[error("cannot read the signing key")]
    Key(#[source] AccountError),
    /// There is another one in this process.
    #[error("cannot register metrics")]
    Metrics(#[source] PrefixTaken),
}

/// A registry that has its addresses and does not serve yet.
pub struct Registry {
    service: Arc<Service>,
    listener: Arc<TcpListener>,
    metrics_listener: Option<Arc<TcpListener>>,
    metrics: Metrics,
    certificate: Option<Arc<Certificate>>,
    reload: Arc<Notify>,
    addresses: Addresses,
}

/// Where a registry can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The registry.
    pub registry: SocketAddr,
    /// Its metrics, at `/metrics`.
    pub metrics: Option<SocketAddr>,
}

/// Asks a registry to read its certificate again.
#[derive(Debug, Clone)]
pub struct Reload(Arc<Notify>);

impl Reload {
    /// Soon.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

impl Registry {
    /// Takes the addresses and opens all that it needs.
    ///
    /// # Errors
    /// What cannot be had. Nothing has been started then.
    pub async fn bind(
        store: &Store,
        settings: Settings,
        spawner: &Spawner,
        metrics: &Metrics,
    ) -> Result<Self, RegistryError> {
        let certificate = settings.tls.clone().map(Certificate::load).transpose().map_err(RegistryError::Tls)?;
        let listener = listen(settings.listen).await?;
        let metrics_listener = match settings.metrics {
            Some(address) => Some(Arc::new(listen(address).await?)),
            None => None,
        };
        let local = |listener: &TcpListener, address| {
            listener.local_addr().map_err(|source| RegistryError::Listen { address, source })
        };
        let addresses = Addresses {
            registry: local(&listener, settings.listen)?,
            metrics: match (&metrics_listener, settings.metrics) {
                (Some(listener), Some(address)) => Some(local(listener, address)?),
                _ => None,
            },
        };
        let Limits { audit_bytes, audit_files, threads, cache, sessions, uploads, manifests, .. } = settings.limits;
        let audit = settings.audit.as_ref().map(|folder| {
            Audit::open(folder, audit_bytes, audit_files)
                .map_err(|source| RegistryError::Audit { folder: folder.clone(), source })
        });
        let audit = audit.transpose()?.map(Arc::new);
        let counters = Counters::register(metrics).map_err(RegistryError::Metrics)?;
        let pool = Pool::new(spawner.clone(), threads);
        let cache = Arc::new(Cache::new(store, cache).map_err(RegistryError::Store)?);
        let accounts = Accounts::new(store);
        let key = Key::new(accounts.key().map_err(RegistryError::Key)?);
        let authority =
            Authority::new(&settings, accounts, key, cache.clone(), pool.clone(), counters.clone(), audit.clone());
        let service = Service {
            store: store.clone(),
            sessions: Sessions::new(store, &pool, sessions),
            pool,
            cache,
            authority,
            settings,
            counters,
            audit,
            spawner: spawner.clone(),
            sending: Arc::new(Semaphore::new(uploads)),
            manifests: Arc::new(Semaphore::new(manifests)),
            in_place: Semaphore::new(tokio::runtime::Handle::current().metrics().num_workers() / 2),
        };
        Ok(Self {
            service: Arc::new(service),
            listener: Arc::new(listener),
            metrics_listener,
            metrics: metrics.clone(),
            certificate: certificate.map(Arc::new),
            reload: Arc::default(),
            addresses,
        })
    }

    /// Where it is.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What makes it read its certificate again.
    pub fn reload(&self) -> Reload {
        Reload(self.reload.clone())
    }

    /// Serves until the supervisor ends it: then no connection is taken any more, and requests that are under way end.
    pub fn serve(self, spawner: &Spawner) {
        let restart = Fate::Restart(Backoff::default());
        let places = Arc::new(Semaphore::new(self.service.settings.limits.connections));
        let (service, certificate, listener) = (self.service.clone(), self.certificate.clone(), self.listener);
        let own = spawner.clone();
        let spec = TaskSpec::new("registry-accept").on_error(restart).on_panic(restart).stage(Stage::Intake);
        spawner.spawn(spec, move |_| {
            let (own, places) = (own.clone(), places.clone());
            accept(listener.clone(), service.clone(), certificate.clone(), own, places)
        });

        if let Some(listener) = self.metrics_listener {
            let (metrics, own) = (self.metrics, spawner.clone());
            let spec = TaskSpec::new("registry-metrics").on_error(restart).on_panic(restart).stage(Stage::Base);
            spawner.spawn(spec, move |_| super::exporter::accept(listener.clone(), metrics.clone(), own.clone()));
        }

        let collecting = self.service.clone();
        let spec = TaskSpec::new("registry-collector").on_error(restart).on_panic(restart);
        spawner.spawn(spec, move |shutdown| collector(collecting.clone(), shutdown));

        let (service, certificate, reload) = (self.service, self.certificate, self.reload);
        let spec = TaskSpec::new("registry-upkeep").on_error(restart).on_panic(restart);
        spawner.spawn(spec, move |_| upkeep(service.clone(), certificate.clone(), reload.clone()));
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RegistryError> {
    TcpListener::bind(address).await.map_err(|source| RegistryError::Listen { address, source })
}

/// Takes connections in as there is room for them.
async fn accept(
    listener: Arc<TcpListener>,
    service: Arc<Service>,
    certificate: Option<Arc<Certificate>>,
    spawner: Spawner,
    places: Arc<Semaphore>,
) -> Result<(), io::Error> {
    loop {
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client has gone again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::warn!(%error, "connection not taken");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (service, certificate) = (service.clone(), certificate.clone());
        let spec = JobSpec::new("registry-connection")
            .on_error(JobFate::Ignore)
            .on_panic(JobFate::Ignore)
            .on_shutdown(OnShutdown::Drain)
            .stage(Stage::Work);
        spawner.spawn_job(spec, move |shutdown| connection(socket, address, service, certificate, shutdown, place));
    }
}

/// Serves one connection to its end. That clients break off is no error of ours.
async fn connection(
    socket: TcpStream,
    address: SocketAddr,
    service: Arc<Service>,
    certificate: Option<Arc<Certificate>>,
    shutdown: Shutdown,
    _place: OwnedSemaphorePermit,
) -> Result<(), Infallible> {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%address, %error, "connection lost");
        return Ok(());
    }
    let limits = &service.settings.limits;
    let (transport, outbox) = match certificate {
        None => {
            let outbox = Outbox::new(service.pool.clone());
            (Transport::plain(socket, outbox.clone(), limits.stall), Some(outbox))
        }
        Some(certificate) => match timeout(HANDSHAKE, certificate.acceptor().accept(socket)).await {
            Ok(Ok(stream)) => (Transport::tls(stream, limits.stall), None),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "no TLS");
                return Ok(());
            }
            Err(_) => return Ok(()),
        },
    };
    let _present = Present::new(&service.counters.connections);
    let head = limits.head;
    let peer = Peer { address, outbox };
    let handle = service_fn(move |request| {
        let (service, peer) = (service.clone(), peer.clone());
        async move { Ok::<_, Infallible>(service.handle(peer, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head).max_header_size(HEAD).writev(true);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(transport), handle));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection broken off");
    }
    Ok(())
}

/// What is due from time to time and takes no time.
async fn upkeep(
    service: Arc<Service>,
    certificate: Option<Arc<Certificate>>,
    reload: Arc<Notify>,
) -> Result<(), io::Error> {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_told = tokio::select! {
            _ = look.tick() => false,
            () = reload.notified() => true,
        };
        if let Some(certificate) = &certificate {
            match certificate.reload(is_told) {
                Ok(true) => tracing::info!("the certificate was read, and is in use"),
                Ok(false) => {}
                Err(error) => tracing::error!(error = chain(&error), "certificate not changed: the old one stays"),
            }
        }
        service.sessions.forget_idle(IDLE_UPLOAD);
        if let Some(audit) = service.audit.clone() {
            let written = service.pool.run("registry-audit", move || audit.sum_up(false)).await;
            if let Err(error) = written.map_err(io::Error::other)? {
                tracing::error!(%error, "audit log not written");
            }
        }
    }
}

/// Collects when it is time to, or the disk is past its watermark. Requests go on meanwhile.
async fn collector(service: Arc<Service>, shutdown: Shutdown) -> Result<(), io::Error> {
    let every = service.settings.collect_every;
    let mut look = interval(MEASURE_EVERY.min(every));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut collected = Instant::now();
    loop {
        look.tick().await;
        let is_due = collected.elapsed() >= every;
        if is_due {
            collected = Instant::now();
        }
        let (service, shutdown) = (service.clone(), shutdown.clone());
        let pool = service.pool.clone();
        let work = move || collect(&service, is_due, &|| shutdown.is_requested());
        match pool.run("registry-collect", work).await.map_err(io::Error::other)? {
            Ok(()) => {}
            Err(error) => tracing::error!(error = chain(&error), "nothing collected"),
        }
    }
}

fn collect(service: &Service, is_due: bool, stop: &dyn Fn() -> bool) -> Result<(), StoreError> {
    if !is_due && !service.store.wants_collection()? {
        return Ok(());
    }
    let sweep = || super::sweep(&service.store, service.settings.limits.unreferenced);
    let swept = sweep();
    // Another process may be at it, and tells what it did.
    let collected = crate::collect::try_run_until(&service.store, &crate::collect::Options::default(), stop);
    // On a full disk the index may have had no room to note what is swept; a collection makes some.
    let swept = match swept {
        Err(error) if !stop() => {
            tracing::warn!(error = chain(&error), "nothing taken from repositories: tried again after the collection");
            sweep()
        }
        swept => swept,
    };
    let report = collected?;
    let swept = swept?;
    tracing::debug!(swept, ran = report.is_some(), "blobs that no manifest refers to taken from their repositories");
    Ok(())
}

/// An error and its sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |&error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
