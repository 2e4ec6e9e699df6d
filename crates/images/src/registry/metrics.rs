//! What a registry counts.

use std::{fmt, sync::Arc};
use supervisor::{
    Metrics, PrefixTaken,
    prometheus_client::{
        encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder},
        metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    },
};

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Request {
    /// The end point.
    pub route: &'static str,
    /// The method.
    pub method: &'static str,
    /// The status of the response.
    pub status: u16,
}

/// Labels of time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// The end point.
    pub route: &'static str,
    /// The method.
    pub method: &'static str,
}

// By hand: the derived code would look for its library at the root of this crate.
impl EncodeLabelSet for Request {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        Place { route: self.route, method: self.method }.encode(encoder)?;
        ("status", self.status).encode(encoder.encode_label())
    }
}
impl EncodeLabelSet for Place {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("route", self.route).encode(encoder.encode_label())?;
        ("method", self.method).encode(encoder.encode_label())
    }
}

/// The counters, shared by handle.
#[derive(Clone)]
pub(super) struct Counters(Arc<Inner>);

pub(super) struct Inner {
    pub requests: Family<Request, Counter>,
    pub seconds: Family<Place, Histogram>,
    pub received: Counter,
    pub sent: Counter,
    pub connections: Gauge,
    pub refused: Counter,
    pub uploads: Gauge,
    pub cache_hits: Counter,
    pub cache_misses: Counter,
    pub logins_failed: Counter,
    pub logins_put_off: Counter,
}

impl std::ops::Deref for Counters {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Counters {
    /// Registers them, as `registry_…`.
    ///
    /// # Errors
    /// When another registry of this process has done so.
    pub fn register(metrics: &Metrics) -> Result<Self, PrefixTaken> {
        // From half a millisecond to half a minute, until the head of the response is there.
        let histogram: fn() -> Histogram =
            || Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0]);
        let counters = Inner {
            requests: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            received: Counter::default(),
            sent: Counter::default(),
            connections: Gauge::default(),
            refused: Counter::default(),
            uploads: Gauge::default(),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            logins_failed: Counter::default(),
            logins_put_off: Counter::default(),
        };
        metrics.register("registry", |registry| {
            registry.register("requests", "Requests answered", counters.requests.clone());
            registry.register(
                "request_seconds",
                "Time from the head of a request to the head of its response",
                counters.seconds.clone(),
            );
            registry.register("blob_bytes_received", "Bytes of blobs that came in", counters.received.clone());
            registry.register("blob_bytes_sent", "Bytes of blobs that were begun to be sent", counters.sent.clone());
            registry.register("connections", "Connections open", counters.connections.clone());
            registry.register("uploads", "Uploads that send", counters.uploads.clone());
            registry.register("uploads_refused", "Uploads and manifests told to come back", counters.refused.clone());
            registry.register("cache_hits", "Manifests served from memory", counters.cache_hits.clone());
            registry.register("cache_misses", "Manifests looked up", counters.cache_misses.clone());
            registry.register("logins_failed", "Wrong names, passwords and tokens", counters.logins_failed.clone());
            registry.register("logins_put_off", "Logins told to come back", counters.logins_put_off.clone());
        })?;
        Ok(Self(Arc::new(counters)))
    }
}

/// One more, until dropped.
pub(super) struct Present(Gauge);

impl Present {
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.dec();
    }
}
