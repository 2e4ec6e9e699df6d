//! Blobs from a registry, each resumed where it was cut.

use super::{
    auth::Scope,
    blocking,
    downloads::{self, Begun},
    error::{Asked, ClientError},
    retry::Attempts,
    session::Session,
};
use crate::{
    progress::{Event, LayerState, Progress},
    store::{Blob, CommitError, Ingest, Lease, Store, StoreError},
};
use bytes::Bytes;
use model::image::Digest;
use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE},
};
use std::{
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Parts of a body that wait for the disk.
const WAITING: usize = 16;
/// Time between two looks at a download that somebody else is at.
const LOOK: Duration = Duration::from_millis(100);

/// Where blobs come from and go to.
#[derive(Clone, Copy)]
pub(super) struct Source<'s> {
    pub(super) session: &'s Session,
    pub(super) store: &'s Store,
    pub(super) lease: &'s Arc<Lease>,
    pub(super) repository: &'s str,
    pub(super) scope: &'s Scope,
    pub(super) progress: &'s dyn Progress,
}

/// What one download has come to.
struct Download<'d> {
    source: Source<'d>,
    digest: &'d Digest,
    size: u64,
    asked: Asked,
    attempts: Attempts,
    /// Names the representation that the first bytes are of.
    etag: Option<String>,
    /// The most bytes there ever were: those that come again are no progress.
    most: u64,
    /// Whether the server once had none of the bytes from where we were on, and all was begun anew.
    anew: bool,
}

impl Source<'_> {
    /// Brings a blob into the store, unless it is there, and holds it.
    pub(super) async fn blob(&self, digest: &Digest, size: u64) -> Result<(), ClientError> {
        let tell = |state: LayerState<'static>| self.progress.event(Event::Layer { digest, size, state });
        let ingest = match self.begin(digest, size, &tell).await? {
            Some(ingest) => ingest,
            None => {
                tell(LayerState::Exists);
                return Ok(());
            }
        };
        let asked = self.session.asked("get", format!("blob {} of {}", digest.short(), self.repository));
        let attempts = Attempts::new(self.session.settings().retry);
        let most = ingest.written();
        Download { source: *self, digest, size, asked, attempts, etag: None, most, anew: false }.run(ingest).await?;
        tell(LayerState::Done);
        Ok(())
    }

    /// What is there of it; `None` when that is all.
    async fn begin(
        &self,
        digest: &Digest,
        size: u64,
        tell: &(dyn Fn(LayerState<'static>) + Sync),
    ) -> Result<Option<Ingest>, ClientError> {
        // Somebody who does not come along is not waited for.
        let patience = Instant::now() + self.session.settings().stall;
        loop {
            let (lease, wanted) = (self.lease.clone(), digest.clone());
            let impatient = Instant::now() > patience;
            let begun = blocking(move || -> Result<Option<Begun>, StoreError> {
                if let Some(blob) = lease.hold(&wanted)?
                    && is_sound(&blob, size)?
                {
                    return Ok(None);
                }
                match impatient {
                    true => downloads::fresh(lease.store(), &wanted).map(|ingest| Begun::Ours(Box::new(ingest))),
                    false => downloads::begin(lease.store(), &wanted),
                }
                .map(Some)
            });
            match begun.await?.map_err(ClientError::store(format!("take in {digest}")))? {
                None => return Ok(None),
                Some(Begun::Ours(ingest)) => return Ok(Some(*ingest)),
                Some(Begun::Theirs) => {
                    tell(LayerState::Waiting);
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }
}

/// Whether a blob has the size that it should have. When not, its content decides.
fn is_sound(blob: &Blob, size: u64) -> Result<bool, StoreError> {
    if blob.size == size {
        return Ok(true);
    }
    match blob.verify() {
        Ok(()) => Ok(true),
        Err(StoreError::Corrupt { .. } | StoreError::Missing { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Download<'_> {
    async fn run(&mut self, mut ingest: Ingest) -> Result<(), ClientError> {
        // Bytes of before may be damaged; if so, once all anew.
        let mut second = ingest.written() == 0;
        loop {
            if ingest.written() > self.size {
                // Of another size, so of something else. What comes is never more than it should be: this is so once.
                ingest = self.restart(ingest).await?;
                self.most = 0;
            }
            if ingest.written() < self.size {
                ingest = self.transfer(ingest).await?;
                continue;
            }
            let (digest, lease) = (self.digest.clone(), self.source.lease.clone());
            let committed = blocking(move || {
                let committed = ingest.commit(&digest, &lease);
                downloads::end(lease.store(), &digest).map_err(CommitError::Store).and(committed)
            });
            match committed.await? {
                Ok(_) => return Ok(()),
                Err(CommitError::Mismatch { .. }) if !second => {
                    second = true;
                    let (store, digest) = (self.source.store.clone(), self.digest.clone());
                    let fresh = blocking(move || downloads::fresh(&store, &digest)).await?;
                    ingest = fresh.map_err(self.of_store())?;
                    self.most = 0;
                }
                Err(CommitError::Mismatch { expected, found }) => {
                    return Err(ClientError::Digest { asked: self.asked.clone(), expected, found: found.to_string() });
                }
                Err(CommitError::Store(error)) => return Err(self.of_store()(error)),
            }
        }
    }

    /// One more attempt; a failure that may pass has been waited out.
    async fn transfer(&mut self, ingest: Ingest) -> Result<Ingest, ClientError> {
        let (ingest, failed) = self.attempt(ingest).await?;
        if ingest.written() > self.most {
            self.most = ingest.written();
            self.attempts.progressed();
        }
        match failed {
            None => Ok(ingest),
            Some(error) if error.is_transient() => {
                let (source, digest, size) = (self.source, self.digest, self.size);
                let notice = move |after: Duration, error: &ClientError| {
                    let why = error.to_string();
                    source.progress.event(Event::Layer { digest, size, state: LayerState::Retry { after, why: &why } });
                };
                source.session.pause(&mut self.attempts, error, &self.asked, Some(&notice)).await.map(|()| ingest)
            }
            Some(error) => Err(error),
        }
    }

    /// The bytes from where we are, into the ingest. The second value is what ended it early.
    async fn attempt(&mut self, ingest: Ingest) -> Result<(Ingest, Option<ClientError>), ClientError> {
        let from = ingest.written();
        let session = self.source.session;
        let url = session.url(&format!("{}/blobs/{}", self.source.repository, self.digest));
        // Where all is asked for, there is no range that could not be had.
        let expected: &[u16] = if from > 0 { &[200, 206, 416] } else { &[200, 206] };
        let mut call = session.call(Method::GET, url, self.source.scope, self.asked.clone(), expected);
        if from > 0 {
            call = call.header(RANGE, &format!("bytes={from}-"));
            if let Some(etag) = &self.etag {
                call = call.header(IF_RANGE, etag);
            }
        }
        let mut response = match session.once(&call).await {
            Ok(response) => response,
            Err(error) => return Ok((ingest, Some(error))),
        };
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => match starts_at(response.headers()) {
                Some(start) if start == from => 0,
                _ => return Err(self.malformed("it sent another part than the one asked for")),
            },
            // It would have none of our bytes; then none of them is good.
            StatusCode::RANGE_NOT_SATISFIABLE if !self.anew => {
                self.anew = true;
                return Ok((self.restart(ingest).await?, None));
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let why = format!("it has nothing after {from} of the {} bytes that it should have", self.size);
                return Err(self.malformed(&why));
            }
            // The whole: the same bytes again up to where we are, for a digest names one content only.
            _ => from,
        };
        self.etag = strong_tag(response.headers()).or(self.etag.take());
        let (ingest, failed) = self.receive(ingest, &mut response, skip).await?;
        Ok((ingest, failed))
    }

    async fn receive(
        &self,
        ingest: Ingest,
        response: &mut Response,
        skip: u64,
    ) -> Result<(Ingest, Option<ClientError>), ClientError> {
        let (parts, received) = mpsc::channel(WAITING);
        let mut done = ingest.written();
        let writing = blocking(move || write(ingest, received));
        let reading = async {
            let mut skip = skip;
            // Moved in, so that the writer learns of the end.
            let parts = parts;
            loop {
                let mut chunk = match self.source.session.chunk(response, &self.asked).await {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) if done < self.size => return Err(self.cut()),
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(error),
                };
                let passed = skip.min(chunk.len() as u64);
                skip -= passed;
                // No more than the length of the chunk.
                drop(chunk.split_to(usize::try_from(passed).unwrap_or(chunk.len())));
                done += chunk.len() as u64;
                if done > self.size {
                    return Err(
                        self.malformed(&format!("it has more than the {} bytes that it should have", self.size))
                    );
                }
                if !chunk.is_empty() && parts.send(chunk).await.is_err() {
                    // The writer failed, and tells why.
                    return Ok(());
                }
                self.tell(LayerState::Transfer { done });
            }
        };
        let (written, read) = tokio::join!(writing, reading);
        let (ingest, written) = written?;
        match written {
            Ok(()) => Ok((ingest, read.err())),
            Err(error) => {
                let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
                let path = self.source.store.folder().to_owned();
                // What is left of the disk is not for content that can be had again.
                let aborted = if full { blocking(move || ingest.abort()).await? } else { Ok(()) };
                aborted.map_err(self.of_store())?;
                Err(self.of_store()(StoreError::Io { operation: "write content into", path, source: error }))
            }
        }
    }

    async fn restart(&self, mut ingest: Ingest) -> Result<Ingest, ClientError> {
        let restarted = blocking(move || ingest.restart().map(|()| ingest)).await?;
        restarted.map_err(self.of_store())
    }

    fn tell(&self, state: LayerState<'_>) {
        self.source.progress.event(Event::Layer { digest: self.digest, size: self.size, state });
    }

    fn of_store(&self) -> impl FnOnce(StoreError) -> ClientError + use<> {
        ClientError::store(format!("keep {}", self.asked.subject))
    }

    fn malformed(&self, why: &str) -> ClientError {
        ClientError::Malformed { asked: self.asked.clone(), why: why.to_owned() }
    }

    fn cut(&self) -> ClientError {
        let server = self.source.session.name().to_owned();
        ClientError::Connection { asked: self.asked.clone(), server, what: "it ended too early", source: None }
    }
}

/// Writes what comes until there is no more.
fn write(mut ingest: Ingest, mut parts: mpsc::Receiver<Bytes>) -> (Ingest, io::Result<()>) {
    while let Some(part) = parts.blocking_recv() {
        if let Err(error) = ingest.write_all(&part) {
            return (ingest, Err(error));
        }
    }
    (ingest, Ok(()))
}

/// The first byte of a part (RFC 9110, section 14.4).
fn starts_at(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// The tag, if it stands for these very bytes.
fn strong_tag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    (tag.len() <= 512 && tag.starts_with('"')).then(|| tag.to_owned())
}
