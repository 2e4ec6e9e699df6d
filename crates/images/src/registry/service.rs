//! One request: what it is for, who sent it, whether that one may, and what is answered.

use super::{
    access::Verbs,
    audit::{Audit, Record},
    authority::{Authority, Identity},
    blocking::Pool,
    body::Content,
    cache::Cache,
    metrics::{Counters, Place, Request as Counted},
    problem::{Code, Problem, Result},
    query::Query,
    route::{self, Reference, Route},
    sessions::Sessions,
    settings::Settings,
    transport::Outbox,
};
use crate::store::{Store, StoreError};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue},
    http::request::Parts,
};
use jiff::Timestamp;
use model::image::Repository;
use std::{convert::Infallible, io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};
use supervisor::{JobFate, JobSpec, OnShutdown, Spawner};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout},
};

/// `Docker-Content-Digest`
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Bytes of the body of a refused request that are read before the answer, since a client that is still sending may
/// not see an answer that comes with the end of the connection; and how long that may take.
const DRAINED: usize = 32 << 20;
const DRAINED_WITHIN: Duration = Duration::from_secs(5);

/// The other end of a connection.
#[derive(Clone)]
pub(super) struct Peer {
    pub address: SocketAddr,
    /// How files are sent there without being read; absent over TLS.
    pub outbox: Option<Outbox>,
}

/// What all requests share.
pub(super) struct Service {
    pub store: Store,
    pub pool: Pool,
    pub cache: Arc<Cache>,
    pub authority: Authority,
    pub sessions: Sessions,
    pub settings: Settings,
    pub counters: Counters,
    pub audit: Option<Arc<Audit>>,
    pub spawner: Spawner,
    /// Uploads that send.
    pub sending: Arc<Semaphore>,
    /// Manifests that are brought.
    pub manifests: Arc<Semaphore>,
    /// Uploads that write on a thread of the runtime: fewer than it has.
    pub in_place: Semaphore,
}

/// A request as it came.
struct Exchange {
    peer: Peer,
    parts: Parts,
    body: Incoming,
    route: Result<Option<Route>>,
    /// What it would change.
    action: Option<&'static str>,
}

/// A request whose path was understood and whose sender is known.
pub(super) struct Call<'a> {
    pub service: &'a Arc<Service>,
    pub parts: &'a Parts,
    pub peer: &'a Peer,
    pub identity: &'a Identity,
    pub query: Query<'a>,
}

impl Call<'_> {
    /// A header, if it is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// Whether only the head of the answer is wanted.
    pub fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }

    fn require(&self, repository: &Repository, verbs: Verbs) -> Result<()> {
        self.service.authority.require(self.identity, repository, verbs, &self.parts.headers)
    }
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Content> {
    with_status(status, Content::Empty)
}

/// An answer with this body.
pub(super) fn with_status(status: StatusCode, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response
}

/// An answer that is a JSON document.
pub(super) fn json(document: impl Into<Bytes>) -> Response<Content> {
    let mut response = Response::new(Content::Whole(document.into()));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A header of text that was checked to be able to stand in one: a name, a digest, an address of ours.
pub(super) fn header(response: &mut Response<Content>, name: HeaderName, text: &str) {
    match HeaderValue::from_str(text) {
        Ok(value) => {
            response.headers_mut().insert(name, value);
        }
        Err(error) => tracing::error!(%name, %error, "header left out"),
    }
}

impl Service {
    /// Answers a request.
    pub async fn handle(self: Arc<Self>, peer: Peer, request: Request<Incoming>) -> Response<Content> {
        let (parts, body) = request.into_parts();
        let route = Route::parse(parts.uri.path());
        let action = action(&route, &parts.method);
        let exchange = Exchange { peer, parts, body, route, action };
        if action.is_none() {
            return self.respond(exchange).await;
        }
        // With a client that goes away ends whatever waits for its answer, but not the write that was begun: it is a task
        // of its own, and its record comes after it.
        let spec = JobSpec::new("registry-write")
            .on_error(JobFate::Ignore)
            .on_panic(JobFate::Ignore)
            .on_shutdown(OnShutdown::Drain);
        let (send, receive) = oneshot::channel();
        let service = self.clone();
        self.spawner.spawn_job(spec, move |_| async move {
            // There may be nobody who takes it.
            drop(send.send(service.respond(exchange).await));
            Ok::<_, Infallible>(())
        });
        receive.await.unwrap_or_else(|_| {
            let message = "the request came to no end; the log of the registry has the reason";
            refusal(&Problem::new(Code::Unknown, message).hang_up())
        })
    }

    async fn respond(self: Arc<Self>, exchange: Exchange) -> Response<Content> {
        let began = Instant::now();
        let Exchange { peer, parts, mut body, route: parsed, action } = exchange;
        let word = match &parsed {
            Ok(Some(route)) => route.word(),
            _ => "other",
        };
        let mut who = Identity::Anonymous;
        let answered = match &parsed {
            Ok(Some(route)) => self.answer(route, &parts, &peer, &mut body, &mut who).await,
            Ok(None) => {
                let message = format!("`{}` is not a path of this registry", parts.uri.path());
                Err(Problem::new(Code::Unsupported, message).status(StatusCode::NOT_FOUND))
            }
            Err(problem) => Err(problem.clone()),
        };
        let code = answered.as_ref().err().map(|problem| problem.code);
        let is_drained = answered.as_ref().is_err_and(|problem| !problem.hang_up);
        let mut response = answered.unwrap_or_else(|problem| refusal(&problem));
        response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        let status = response.status();
        // Who has not said who it is has not tried to write yet: every push begins so, and everybody can do it.
        let is_introduction = status == StatusCode::UNAUTHORIZED && who.name().is_empty();
        if let (Ok(Some(route)), Some(action)) = (&parsed, action)
            && !is_introduction
        {
            let digest = response.headers().get(CONTENT_DIGEST).cloned();
            self.record(route, action, &who, &peer, &parts, (status, code, digest)).await;
        }
        if is_drained && !parts.headers.contains_key(EXPECT) {
            drain(body).await;
        }
        let method = method(&parts.method);
        self.counters.requests.get_or_create(&Counted { route: word, method, status: status.as_u16() }).inc();
        self.counters.seconds.get_or_create(&Place { route: word, method }).observe(began.elapsed().as_secs_f64());
        if parts.method == Method::HEAD {
            // What the body would be is told by the headers; a length that is said stays said.
            let length = hyper::body::Body::size_hint(response.body()).exact().unwrap_or(0);
            if !response.headers().contains_key(CONTENT_LENGTH) {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            *response.body_mut() = Content::Empty;
        }
        response
    }

    async fn answer(
        self: &Arc<Self>,
        route: &Route,
        parts: &Parts,
        peer: &Peer,
        body: &mut Incoming,
        who: &mut Identity,
    ) -> Result<Response<Content>> {
        if *route == Route::Token {
            // The same header means something else there: wrong names are refused, not challenged.
            return super::tokens::answer(self, parts, peer, body).await;
        }
        let allowed = route.methods().split(", ").any(|known| known == parts.method.as_str());
        *who = self.authority.identify(&parts.headers, peer.address).await?;
        let query = Query::parse(parts.uri.query())?;
        let call = Call { service: self, parts, peer, identity: who, query };
        if let Some(repository) = route.repository() {
            call.require(repository, verbs(route, &parts.method))?;
        }
        if !allowed {
            let message = format!("{} is not possible here: expected {}", parts.method, route.methods());
            return Err(
                Problem::new(Code::Unsupported, message).header(ALLOW, HeaderValue::from_static(route.methods()))
            );
        }
        match (route, parts.method.as_str()) {
            (Route::Base | Route::Token, _) => {
                self.authority.require_introduction(who, &parts.headers)?;
                Ok(json(&b"{}"[..]))
            }
            (Route::Catalogue, _) => super::lists::catalogue(&call).await,
            (Route::Tags(name), _) => super::lists::tags(&call, name).await,
            (Route::Referrers(name, subject), _) => super::lists::referrers(&call, name, subject).await,
            (Route::Manifest(name, reference), "PUT") => super::manifests::put(&call, name, reference, body).await,
            (Route::Manifest(name, reference), "DELETE") => super::manifests::delete(&call, name, reference).await,
            (Route::Manifest(name, reference), _) => super::manifests::get(&call, name, reference).await,
            (Route::Blob(name, digest), "DELETE") => super::blobs::delete(&call, name, digest).await,
            (Route::Blob(name, digest), _) => super::blobs::get(&call, name, digest).await,
            (Route::Uploads(name), _) => super::uploads::begin(&call, name, body).await,
            (Route::Upload(name, id), "PATCH") => super::uploads::patch(&call, name, id, body).await,
            (Route::Upload(name, id), "PUT") => super::uploads::finish(&call, name, id, body).await,
            (Route::Upload(name, id), "DELETE") => super::uploads::cancel(&call, name, id).await,
            (Route::Upload(name, id), _) => super::uploads::status(&call, name, id).await,
        }
    }

    /// Runs blocking work on the store.
    ///
    /// # Errors
    /// What `work` says; or it panicked, or the process ends.
    pub async fn block<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.pool.run(what, work).await.map_err(|error| match error {
            supervisor::BlockingError::Ending { .. } => Problem::new(Code::Unavailable, "the registry is ending"),
            error => Problem::internal(what, &error),
        })?
    }

    /// A line in the audit log.
    async fn record(
        self: &Arc<Self>,
        route: &Route,
        action: &'static str,
        who: &Identity,
        peer: &Peer,
        parts: &Parts,
        (status, code, digest): (StatusCode, Option<Code>, Option<HeaderValue>),
    ) {
        if self.audit.is_none() {
            return;
        }
        let subject = match route {
            Route::Manifest(_, reference) => reference.as_str().to_owned(),
            Route::Blob(_, digest) => digest.to_string(),
            _ => String::new(),
        };
        // Tags that a manifest gets with its digest, as far as they are some.
        let tags: Vec<_> = match (route, Query::parse(parts.uri.query())) {
            (Route::Manifest(_, Reference::Digest(_)), Ok(query)) => {
                let tags = query.all("tag").filter(|tag| route::tag(tag).is_ok()).take(super::manifests::TAGS);
                tags.map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        let digest = digest.as_ref().and_then(|digest| digest.to_str().ok()).map(str::to_owned);
        let repository = route.repository().map(Repository::to_string).unwrap_or_default();
        let (account, client, status) = (who.name().to_owned(), peer.address, status.as_u16());
        let service = self.clone();
        let write = move || {
            let record = Record {
                time: Timestamp::now(),
                account: &account,
                client,
                action,
                repository: &repository,
                subject: &subject,
                tags: &tags,
                digest: digest.as_deref(),
                status,
                error: code.map(Code::as_str),
            };
            service.audit.as_ref().map_or(Ok(()), |audit| audit.write(&record))
        };
        match self.pool.run("registry-audit", write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, action, "audit log not written"),
            Err(error) => tracing::error!(%error, action, "audit log not written"),
        }
    }
}

/// What a request needs to be allowed.
fn verbs(route: &Route, method: &Method) -> Verbs {
    match (route, method) {
        (Route::Uploads(_) | Route::Upload(..), _) => Verbs::PUSH,
        (_, &Method::DELETE) => Verbs::DELETE,
        (_, &Method::PUT | &Method::POST | &Method::PATCH) => Verbs::PUSH,
        _ => Verbs::PULL,
    }
}

/// A word for what is recorded; `None` for what only reads.
fn action(route: &Result<Option<Route>>, method: &Method) -> Option<&'static str> {
    let Ok(Some(route)) = route else { return None };
    Some(match (route, method) {
        (Route::Manifest(..), &Method::PUT) => "push-manifest",
        (Route::Manifest(_, Reference::Tag(_)), &Method::DELETE) => "delete-tag",
        (Route::Manifest(..), &Method::DELETE) => "delete-manifest",
        (Route::Blob(..), &Method::DELETE) => "delete-blob",
        (Route::Uploads(_), &Method::POST) => "begin-upload",
        (Route::Upload(..), &Method::PUT) => "push-blob",
        (Route::Upload(..), &Method::DELETE) => "cancel-upload",
        _ => return None,
    })
}

/// One of few words, so that nobody can fill the metrics.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// The answer to a request that was not done.
pub(super) fn refusal(problem: &Problem) -> Response<Content> {
    let mut response = json(problem.document());
    *response.status_mut() = problem.status;
    response.headers_mut().extend(problem.headers.clone());
    if problem.hang_up {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads what a client is still sending.
async fn drain(mut body: Incoming) {
    let read = async {
        let mut drained = 0;
        while let Some(Ok(frame)) = body.frame().await {
            drained += frame.data_ref().map_or(0, Bytes::len);
            if drained > DRAINED {
                break;
            }
        }
    };
    // What comes later than that ends with the connection.
    let _in_time = timeout(DRAINED_WITHIN, read).await.is_ok();
}

/// The `Content-Length` of a request.
///
/// # Errors
/// `SIZE_INVALID`.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(value) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| Problem::new(Code::SizeInvalid, "Content-Length is not a number"))
}

/// What a client is told of a failure of the store.
pub(super) fn store_problem(what: &'static str, error: &StoreError) -> Box<Problem> {
    let full = match error {
        StoreError::Full { .. } => true,
        StoreError::Io { source, .. } => matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
        error => error.is_index_full(),
    };
    if full {
        tracing::error!(%error, "{what} refused");
        return Problem::new(Code::Unavailable, "the disk of the registry is full: its operator must make room")
            .status(StatusCode::INSUFFICIENT_STORAGE);
    }
    Problem::internal(what, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_whatever_noticed_it() {
        let io = |kind: ErrorKind| StoreError::Io { operation: "write", path: "x".into(), source: kind.into() };
        let index = |code| StoreError::Index {
            operation: "add a blob",
            path: "x".into(),
            source: rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None),
        };
        for (error, status) in [
            (StoreError::Full { path: "x".into(), percent: 90, free: 1, limit: 90 }, 507),
            (io(ErrorKind::StorageFull), 507),
            (io(ErrorKind::QuotaExceeded), 507),
            (index(rusqlite::ffi::SQLITE_FULL), 507),
            (io(ErrorKind::PermissionDenied), 500),
            (index(rusqlite::ffi::SQLITE_CORRUPT), 500),
        ] {
            assert_eq!(store_problem("a test", &error).status.as_u16(), status, "{error:?}");
        }
    }
}
