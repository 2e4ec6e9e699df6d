//! Blobs to a registry: not sent when it has them, taken from another repository when it can, resumed at its offset.

use super::{
    auth::Scope,
    blocking,
    error::{Asked, ClientError},
    retry::Attempts,
    session::{Payload, Session},
    upload::{Part, Pulse},
};
use crate::{
    progress::{Event, LayerState, Progress},
    store::{Blob, Store, StoreError},
};
use bytes::Bytes;
use model::image::Digest;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE},
};
use std::{sync::Arc, time::Duration};

/// Up to this size a blob is sent with the request that ends its upload.
const SMALL: u64 = 1 << 20;
const OCTETS: &str = "application/octet-stream";

/// Where blobs go.
#[derive(Clone, Copy)]
pub(super) struct Target<'t> {
    pub(super) session: &'t Session,
    pub(super) store: &'t Store,
    pub(super) repository: &'t str,
    pub(super) progress: &'t Arc<dyn Progress>,
}

/// One blob on its way.
struct Upload<'u> {
    target: Target<'u>,
    blob: Blob,
    scope: Scope,
    asked: Asked,
    attempts: Attempts,
    /// The most that the registry ever said to have: only more than that is progress.
    most: u64,
}

impl Target<'_> {
    /// Brings a blob to the registry, unless it is there; `from` is another repository there that may have it.
    pub(super) async fn blob(&self, digest: &Digest, size: u64, from: Option<&str>) -> Result<(), ClientError> {
        let (store, wanted) = (self.store.clone(), digest.clone());
        let blob =
            blocking(move || store.need(&wanted)).await?.map_err(ClientError::store(format!("read {digest}")))?;
        let asked = self.session.asked("put", format!("blob {} into {}", digest.short(), self.repository));
        let from = from.filter(|from| *from != self.repository);
        let attempts = Attempts::new(self.session.settings().retry);
        let scope = Scope::push(self.repository, None);
        let upload = Upload { target: *self, blob, scope, asked, attempts, most: 0 };
        let state = upload.run(from).await?;
        self.progress.event(Event::Layer { digest, size, state });
        Ok(())
    }
}

impl Upload<'_> {
    async fn run(mut self, from: Option<&str>) -> Result<LayerState<'static>, ClientError> {
        if self.is_there().await? {
            return Ok(LayerState::Exists);
        }
        let mut location = match self.begin(from).await? {
            None => return Ok(LayerState::Exists),
            Some(location) => location,
        };
        let mut offset = 0;
        loop {
            let failed = match self.transfer(&location, offset).await {
                Ok(()) => return Ok(LayerState::Done),
                // The upload is not known any more, or not at this offset.
                Err(error @ (ClientError::NotFound { .. } | ClientError::Answer { .. })) if !is_final(&error) => error,
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            self.wait(failed).await?;
            match self.status(&location).await? {
                Some((next, received)) => {
                    let received = received.min(self.blob.size);
                    if received > self.most {
                        self.most = received;
                        self.attempts.progressed();
                    }
                    (location, offset) = (next, received);
                }
                // It may have been finished, and only the answer lost.
                None if self.is_there().await? => return Ok(LayerState::Done),
                None => match self.begin(None).await? {
                    None => return Ok(LayerState::Exists),
                    Some(fresh) => (location, offset) = (fresh, 0),
                },
            }
        }
    }

    async fn is_there(&self) -> Result<bool, ClientError> {
        let session = self.target.session;
        let asked =
            session.asked("look for", format!("blob {} in {}", self.blob.digest.short(), self.target.repository));
        let url = session.url(&format!("{}/blobs/{}", self.target.repository, self.blob.digest));
        let call = session.call(Method::HEAD, url, &self.scope, asked, &[200, 404]);
        let notice = notice(self.target.progress, &self.blob);
        Ok(session.send(&call.notice(&notice)).await?.status() == StatusCode::OK)
    }

    /// Where to send it; `None` when the registry took it from the other repository.
    async fn begin(&self, from: Option<&str>) -> Result<Option<Url>, ClientError> {
        let session = self.target.session;
        let mut url = session.url(&format!("{}/blobs/uploads/", self.target.repository));
        let scope = Scope::push(self.target.repository, from);
        if let Some(from) = from {
            url.query_pairs_mut().append_pair("mount", self.blob.digest.as_str()).append_pair("from", from);
        }
        let notice = notice(self.target.progress, &self.blob);
        let call = session.call(Method::POST, url, &scope, self.asked.clone(), &[201, 202]).notice(&notice);
        match session.send(&call).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(None),
            Ok(response) => session.location(&response, &self.asked).map(Some),
            // Not to be allowed to read the other repository is no reason not to write this one.
            Err(ClientError::Denied { .. }) if from.is_some() => Box::pin(self.begin(None)).await,
            Err(error) => Err(error),
        }
    }

    /// The rest from `offset`, and the end.
    async fn transfer(&self, location: &Url, offset: u64) -> Result<(), ClientError> {
        let session = self.target.session;
        if offset == 0 && self.blob.size <= SMALL {
            let blob = self.blob.clone();
            let bytes = blocking(move || blob.read(SMALL)).await?.map_err(self.of_store())?;
            self.tell(LayerState::Transfer { done: 0 });
            return self.end(location, Payload::Bytes(Bytes::from(bytes))).await;
        }
        let blob = self.blob.clone();
        let file = Arc::new(blocking(move || blob.open()).await?.map_err(self.of_store())?);
        let part = Part { file, from: offset, size: self.blob.size };
        let (progress, digest, size) = (self.target.progress.clone(), self.blob.digest.clone(), self.blob.size);
        let sent: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(move |done| {
            progress.event(Event::Layer { digest: &digest, size, state: LayerState::Transfer { done } });
        });
        let make = move |pulse: &Arc<Pulse>| part.body(pulse, sent.clone());
        let last = self.blob.size.saturating_sub(1);
        let mut location = location.clone();
        if offset < self.blob.size {
            let call = session
                .call(Method::PATCH, location.clone(), &self.scope, self.asked.clone(), &[202])
                .header(CONTENT_TYPE, OCTETS)
                .header(CONTENT_RANGE, &format!("{offset}-{last}"))
                .payload(Payload::Stream(&make));
            let response = session.once(&call).await?;
            location = session.location(&response, &self.asked)?;
        }
        self.end(&location, Payload::Empty).await
    }

    async fn end(&self, location: &Url, payload: Payload<'_>) -> Result<(), ClientError> {
        let session = self.target.session;
        let mut url = location.clone();
        url.query_pairs_mut().append_pair("digest", self.blob.digest.as_str());
        let call = session
            .call(Method::PUT, url, &self.scope, self.asked.clone(), &[201, 204])
            .header(CONTENT_TYPE, OCTETS)
            .payload(payload);
        session.once(&call).await.map(drop)
    }

    /// Where the upload goes on, and how much of it the registry has; `None` when it does not know it.
    async fn status(&self, location: &Url) -> Result<Option<(Url, u64)>, ClientError> {
        let session = self.target.session;
        let call = session.call(Method::GET, location.clone(), &self.scope, self.asked.clone(), &[204, 202, 200, 404]);
        let notice = notice(self.target.progress, &self.blob);
        let response: Response = session.send(&call.notice(&notice)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let next = session.location(&response, &self.asked).unwrap_or_else(|_| location.clone());
        Ok(Some((next, received(response.headers()))))
    }

    async fn wait(&mut self, error: ClientError) -> Result<(), ClientError> {
        let notice = notice(self.target.progress, &self.blob);
        self.target.session.pause(&mut self.attempts, error, &self.asked, Some(&notice)).await
    }

    fn tell(&self, state: LayerState<'_>) {
        self.target.progress.event(Event::Layer { digest: &self.blob.digest, size: self.blob.size, state });
    }

    fn of_store(&self) -> impl FnOnce(StoreError) -> ClientError + use<> {
        ClientError::store(format!("read {}", self.blob.digest))
    }
}

/// Tells of retries.
fn notice<'n>(progress: &'n Arc<dyn Progress>, blob: &'n Blob) -> impl Fn(Duration, &ClientError) + Send + Sync + 'n {
    |after, error| {
        let why = error.to_string();
        let state = LayerState::Retry { after, why: &why };
        progress.event(Event::Layer { digest: &blob.digest, size: blob.size, state });
    }
}

/// Whether an answer will not change by asking where the upload is and going on from there.
fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::Answer { status, .. } => {
            !matches!(*status, StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::CONFLICT) && !error.is_transient()
        }
        _ => false,
    }
}

/// Bytes that a registry has of an upload: `Range: 0-N` names the last of them; without the header it has none.
fn received(headers: &HeaderMap) -> u64 {
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    match range.split_once('-').and_then(|(_, last)| last.trim().parse::<u64>().ok()) {
        // It can not be told from one byte; Distribution sends it for none.
        Some(0) | None => 0,
        Some(last) => last.saturating_add(1),
    }
}
