//! Uploads that were begun and are not finished.
//!
//! Between two requests an upload is nobody's: any process that serves the folder may go on with it. What was hashed is
//! remembered here, and need not be hashed again unless another process went on with it meanwhile; what does not fit is
//! forgotten, and hashed again. An upload has one request at a time: a new one ends the one before it, whose client is
//! likely gone without the kernel having noticed. A request of another process cannot be ended; it is waited for.

use super::{
    blocking::Pool,
    problem::{Code, Problem, Result},
    service::store_problem,
};
use crate::store::{Ingest, IngestId, Resting, Store, StoreError};
use hyper::StatusCode;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    Idle(Box<Resting>, Instant),
    Busy(Arc<Running>),
}

/// A request that works on an upload.
pub(super) struct Running {
    /// Another request wants it.
    wanted: Notify,
}

impl Running {
    /// Returns when another request wants the upload.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
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
    /// None yet; at most `most` are remembered.
    pub fn new(store: &Store, pool: &Pool, most: usize) -> Self {
        let (store, pool) = (store.clone(), pool.clone());
        Self { store, pool, slots: Arc::default(), freed: Arc::default(), most }
    }

    /// Keeps an upload to be gone on with.
    pub fn put(&self, ingest: Ingest) {
        let resting = ingest.rest();
        let mut slots = self.lock();
        let idle = |(id, slot): (&IngestId, &Slot)| match slot {
            Slot::Idle(_, since) => Some((*since, id.clone())),
            Slot::Busy(_) => None,
        };
        let oldest = if slots.len() >= self.most { slots.iter().filter_map(idle).min() } else { None };
        if let Some((_, id)) = oldest {
            slots.remove(&id);
        }
        slots.insert(resting.id().clone(), Slot::Idle(Box::new(resting), Instant::now()));
        drop(slots);
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
            let (store, wanted) = (self.store.clone(), id.clone());
            let resume = move || match idle {
                Some(resting) => store.wake(resting),
                None => store.resume(&wanted),
            };
            let resumed = self.pool.run("registry-upload", resume).await;
            match resumed.map_err(|error| Problem::internal("resuming an upload", &error))? {
                Ok(Some(ingest)) => return Ok((turn, ingest)),
                Ok(None) => return Err(unknown(id.to_string())),
                // Another process has it, or a request of this one that was given up.
                Err(StoreError::Busy { .. }) if Instant::now() < deadline => {
                    drop(turn);
                    sleep(LOOK_EVERY).await;
                }
                Err(StoreError::Busy { .. }) => return Err(busy(id)),
                Err(error) => return Err(store_problem("resuming an upload", &error)),
            }
        }
    }

    /// Marks an upload as worked on; what is remembered of it. `Err`: who works on it.
    fn claim(&self, id: &IngestId) -> std::result::Result<(Turn, Option<Resting>), Arc<Running>> {
        let mut slots = self.lock();
        let idle = match slots.remove(id) {
            Some(Slot::Busy(running)) => {
                slots.insert(id.clone(), Slot::Busy(running.clone()));
                return Err(running);
            }
            Some(Slot::Idle(resting, _)) => Some(*resting),
            None => None,
        };
        let running = Arc::new(Running { wanted: Notify::new() });
        slots.insert(id.clone(), Slot::Busy(running.clone()));
        Ok((Turn { sessions: self.clone(), id: id.clone(), running }, idle))
    }

    /// How many bytes of an upload there are, without disturbing whoever works on it.
    ///
    /// # Errors
    /// `BLOB_UPLOAD_UNKNOWN`.
    pub async fn written(&self, id: &IngestId) -> Result<u64> {
        let (store, wanted) = (self.store.clone(), id.clone());
        let look = self.pool.run("registry-upload", move || store.ingested(&wanted)).await;
        let look = look.map_err(|error| Problem::internal("looking at an upload", &error))?;
        let written = look.map_err(|error| store_problem("looking at an upload", &error))?;
        written.ok_or_else(|| unknown(id.to_string()))
    }

    /// Forgets what nobody has gone on with for so long. It stays on disk.
    pub fn forget_idle(&self, longer_than: Duration) {
        let now = Instant::now();
        let is_old = |slot: &Slot| matches!(slot, Slot::Idle(_, since) if now.duration_since(*since) > longer_than);
        self.lock().retain(|_, slot| !is_old(slot));
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
