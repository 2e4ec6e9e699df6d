//! What long operations tell while they run.

use model::image::Digest;
use std::time::Duration;

/// Somebody who wants to know how a long operation comes along. Called often and from several threads: must be quick.
pub trait Progress: Send + Sync {
    /// One thing that happened.
    fn event(&self, event: Event<'_>);
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A layer (or another large blob) came along.
    Layer {
        /// The blob's digest, or the diff id where only that is known.
        digest: &'a Digest,
        /// Its size in bytes as transferred; 0 when unknown.
        size: u64,
        /// Where it is now.
        state: LayerState<'a>,
    },
    /// A manifest or an index was taken in or sent.
    Manifest {
        /// Its digest.
        digest: &'a Digest,
    },
    /// A step of a work that is no transfer began or came along.
    Step {
        /// What is being done.
        what: &'a str,
        /// How much of it is done…
        done: u64,
        /// …of how much; 0 when that is not known.
        of: u64,
    },
    /// Something worth a line to the user.
    Message(&'a str),
}

/// Where a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState<'a> {
    /// Nothing to do: it is there.
    Exists,
    /// Its turn has not come.
    Waiting,
    /// Being sent or received.
    Transfer {
        /// Bytes so far.
        done: u64,
    },
    /// Being unpacked.
    Unpack {
        /// Bytes of the compressed layer so far.
        done: u64,
    },
    /// Finished.
    Done,
    /// A transfer failed and will be tried again.
    Retry {
        /// How long until then.
        after: Duration,
        /// Why it failed.
        why: &'a str,
    },
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
