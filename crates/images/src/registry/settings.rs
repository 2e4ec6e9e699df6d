//! How a registry is to be.

use super::access::{Grant, ImmutableTags};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// How a registry is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Certificate and key; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// Where metrics are served, without authentication; nowhere when absent.
    pub metrics: Option<SocketAddr>,
    /// What somebody without an account may do. With [`Settings::open`] this is everything.
    pub anonymous: Vec<Grant>,
    /// Anybody who can reach it may do anything. For loopback and tests.
    pub open: bool,
    /// How clients are asked who they are. Both ways are accepted always.
    pub challenge: Challenge,
    /// The address that clients reach it by (`https://registry.example`), where it is not the one they name in `Host`.
    pub url: Option<String>,
    /// Tags that are set once and then stay.
    pub immutable: Vec<ImmutableTags>,
    /// Whether manifests may refer to content that is not in the repository, such as an index of which one platform
    /// was copied.
    pub sparse: bool,
    /// How often content that nothing keeps is collected; and whenever the disk is past its watermark.
    pub collect_every: Duration,
    /// Bounds.
    pub limits: Limits,
    /// Where writes are recorded; nowhere when absent.
    pub audit: Option<PathBuf>,
}

impl Settings {
    /// A registry on this address that only accounts can use, without TLS and metrics.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            metrics: None,
            anonymous: Vec::new(),
            open: false,
            challenge: Challenge::Bearer,
            url: None,
            immutable: Vec::new(),
            sparse: false,
            collect_every: Duration::from_secs(24 * 3600),
            limits: Limits::default(),
            audit: None,
        }
    }
}

/// A certificate and its key, in PEM files that are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// How clients are asked who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Challenge {
    /// They get a token at `/v2/token` and bring that: the password travels once in five minutes.
    #[default]
    Bearer,
    /// They bring name and password each time.
    Basic,
}

/// Bounds of a registry, so that no client can take more than its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Uploads that send at a time; further ones are told to come back (429).
    pub uploads: usize,
    /// Uploads begun and not finished of which it is remembered what they hash to so far.
    pub sessions: usize,
    /// Manifests that are taken in at a time; further ones wait.
    pub manifests: usize,
    /// How long a manifest waits before its client is told to come back (429).
    pub queue: Duration,
    /// Bytes of a blob.
    pub blob: u64,
    /// Threads that work on files and the database.
    pub threads: usize,
    /// How long the head of a request may take, and how long a connection may be idle.
    pub head: Duration,
    /// How long a client may send nothing of a body, or take nothing of a response.
    pub stall: Duration,
    /// Bytes of manifests that are kept in memory.
    pub cache: usize,
    /// How long requests may take to finish when the registry ends.
    pub drain: Duration,
    /// How long a blob that no manifest refers to stays in its repository.
    pub unreferenced: Duration,
    /// Bytes of one file of the audit log.
    pub audit_bytes: u64,
    /// Files of the audit log, the current one among them.
    pub audit_files: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            uploads: 64,
            sessions: 512,
            manifests: 16,
            queue: Duration::from_secs(5),
            blob: 64 << 30,
            threads: 16,
            head: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            cache: 16 << 20,
            drain: Duration::from_secs(30),
            unreferenced: Duration::from_secs(24 * 3600),
            audit_bytes: 16 << 20,
            audit_files: 8,
        }
    }
}
