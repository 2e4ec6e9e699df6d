//! Uploads that were begun and are not finished.
//!
//! Between two requests an upload's ingest stays open here, so that what was hashed need not be hashed again. What does
//! not fit is closed; it is on disk, and the next request opens it again. An upload has one request at a time: a new one
//! ends the one before it, whose client is likely gone without the kernel having noticed.

use super::{
    blocking::Pool,
    problem::{Code, Problem, Result},
};
use crate::store::{Ingest, IngestId, Store, StoreError};
use hyper::StatusCode;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

/// How long a request waits for the one before it to end.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// How often it looks whether another process has let go.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// All of this process.
#[derive(Clone)]
pub(super) struct Sessions {
    store: Store,
    pool: Pool,
    slots: Arc<Mutex<HashMap<IngestId, Slot>>>,
    /// A request has let an upload go.
    freed: Arc<Notify>,
    most: usize,
}

enum Slot {
    Idle(Box<Ingest>, Instant),
    Busy(Arc<Running>),
}

/// A request that works on an upload.
pub(super) struct Running {
    /// Bytes so far.
    written: AtomicU64,
    /// Another request wants it.
    wanted: Notify,
}

impl Running {
    /// Returns when another request wants the upload.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
    /// Says how many bytes there are.
    pub fn at(&self, written: u64) {
        self.written.store(written, Ordering::Relaxed);
    }
}

/// The right to work on an upload; dropped, it is let go.
pub(super) struct Turn {
    sessions: Sessions,
    id: IngestId,
    running: Arc<Running>,
}

impl Turn {
    /// What others see of it.
    pub fn running(&self) -> &Running {
        &self.running
    }
    /// Lets the upload go, to be gone on with.
    pub fn keep(self, ingest: Ingest) {
        self.sessions.put(ingest);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut slots = self.sessions.lock();
        if matches!(slots.get(&self.id), Some(Slot::Busy(running)) if Arc::ptr_eq(running, &self.running)) {
            slots.remove(&self.id);
        }
        drop(slots);
        self.sessions.freed.notify_waiters();
    }
}

impl Sessions {
    /// None yet; at most `most` are kept open.
    pub fn new(store: &Store, pool: &Pool, most: usize) -> Self {
        let (store, pool) = (store.clone(), pool.clone());
        Self { store, pool, slots: Arc::default(), freed: Arc::default(), most }
    }

    /// Keeps an upload to be gone on with.
    pub fn put(&self, ingest: Ingest) {
        let mut slots = self.lock();
        let idle = |(id, slot): (&IngestId, &Slot)| match slot {
            Slot::Idle(_, since) => Some((*since, id.clone())),
            Slot::Busy(_) => None,
        };
        let oldest = if slots.len() >= self.most { slots.iter().filter_map(idle).min() } else { None };
        let closed = oldest.and_then(|(_, id)| slots.remove(&id));
        slots.insert(ingest.id().clone(), Slot::Idle(Box::new(ingest), Instant::now()));
        drop(slots);
        drop(closed);
        self.freed.notify_waiters();
    }

    /// Takes an upload to work on it.
    ///
    /// # Errors
    /// `BLOB_UPLOAD_UNKNOWN`; or another request does not let it go (409).
    pub async fn take(&self, id: &IngestId) -> Result<(Turn, Ingest)> {
        let deadline = Instant::now() + TAKE_OVER;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on no release is missed.
            freed.as_mut().enable();
            let (turn, idle) = match self.claim(id) {
                Ok(claimed) => claimed,
                Err(running) => {
                    running.wanted.notify_one();
                    if timeout_at(deadline, freed).await.is_err() {
                        return Err(busy(id));
                    }
                    continue;
                }
            };
            if let Some(ingest) = idle {
                return Ok((turn, ingest));
            }
            let (store, wanted) = (self.store.clone(), id.clone());
            let resumed = self.pool.run("registry-upload", move || store.resume(&wanted)).await;
            match resumed.map_err(|error| Problem::internal("resuming an upload", &error))? {
                Ok(Some(ingest)) => {
                    turn.running.at(ingest.written());
                    return Ok((turn, ingest));
                }
                Ok(None) => return Err(unknown(id.to_string())),
                // Another process has it, or a request of this one that was given up.
                Err(StoreError::Busy { .. }) if Instant::now() < deadline => {
                    drop(turn);
                    sleep(LOOK_EVERY).await;
                }
                Err(StoreError::Busy { .. }) => return Err(busy(id)),
                Err(error) => return Err(Problem::internal("resuming an upload", &error)),
            }
        }
    }

    /// Marks an upload as worked on; the ingest if it was open. `Err`: who works on it.
    fn claim(&self, id: &IngestId) -> std::result::Result<(Turn, Option<Ingest>), Arc<Running>> {
        let mut slots = self.lock();
        let idle = match slots.remove(id) {
            Some(Slot::Busy(running)) => {
                slots.insert(id.clone(), Slot::Busy(running.clone()));
                return Err(running);
            }
            Some(Slot::Idle(ingest, _)) => Some(*ingest),
            None => None,
        };
        let written = AtomicU64::new(idle.as_ref().map_or(0, Ingest::written));
        let running = Arc::new(Running { written, wanted: Notify::new() });
        slots.insert(id.clone(), Slot::Busy(running.clone()));
        Ok((Turn { sessions: self.clone(), id: id.clone(), running }, idle))
    }

    /// How many bytes of an upload there are, without disturbing it.
    ///
    /// # Errors
    /// As [`Sessions::take`].
    pub async fn written(&self, id: &IngestId) -> Result<u64> {
        let known = match self.lock().get(id) {
            Some(Slot::Idle(ingest, _)) => Some(ingest.written()),
            Some(Slot::Busy(running)) => Some(running.written.load(Ordering::Relaxed)),
            None => None,
        };
        if let Some(written) = known {
            return Ok(written);
        }
        let (turn, ingest) = self.take(id).await?;
        let written = ingest.written();
        turn.keep(ingest);
        Ok(written)
    }

    /// Closes what nobody has gone on with for so long. It stays on disk.
    pub fn close_idle(&self, longer_than: Duration) {
        let now = Instant::now();
        let is_old = |slot: &Slot| matches!(slot, Slot::Idle(_, since) if now.duration_since(*since) > longer_than);
        let closed: Vec<_> = self.lock().extract_if(|_, slot| is_old(slot)).collect();
        drop(closed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IngestId, Slot>> {
        // The map is whole between any two statements.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is no such upload.
pub(super) fn unknown(id: String) -> Box<Problem> {
    Problem::new(Code::BlobUploadUnknown, format!("there is no upload `{id}` in this repository: begin a new one"))
}

fn busy(id: &IngestId) -> Box<Problem> {
    let message = format!("upload `{id}` is being written by another request: come back when that has ended");
    Problem::new(Code::BlobUploadInvalid, message).status(StatusCode::CONFLICT)
}
