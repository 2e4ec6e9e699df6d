//! Requests to one registry: proof of identity, redirects, time-outs, retries.
//!
//! A request is sent with what the registry asked for before; a challenge is answered once. Redirects of reads are
//! followed here, and credentials go to the registry's own origin only. What may be otherwise a moment later is tried
//! again; what a registry says is kept for the error.

use super::{
    auth::{Auth, Proof, Scope},
    challenge,
    credentials::Credentials,
    error::{Asked, ClientError, said},
    retry::{self, Attempts, Next},
    settings::{CredentialSource, Settings},
    transport::{self, Transport},
    upload::{self, Pulse},
};
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Redirects followed for one request.
const MOST_REDIRECTS: u32 = 5;
/// Read of the body of an answer that says why not, bytes.
const LARGEST_REFUSAL: usize = 64 << 10;
/// Attempts at a registry that was never reached: it is more likely down or misspelt than busy.
const FIRST_CONTACT: u32 = 2;

/// One registry.
pub(super) struct Session {
    name: String,
    base: Url,
    transport: Arc<Transport>,
    settings: Arc<Settings>,
    auth: Auth,
    reached: AtomicBool,
}

/// What is sent along.
pub(super) enum Payload<'p> {
    /// Nothing.
    Empty,
    /// This, a piece at a time, so that a slow connection is told from one that stands still.
    Bytes(Bytes),
    /// What this makes, for each attempt anew; the pulse beats while it is taken.
    Stream(&'p (dyn Fn(&Arc<Pulse>) -> reqwest::Body + Send + Sync)),
}

/// Who is told of retries: how long until then, and why.
pub(super) type Notice<'n> = &'n (dyn Fn(Duration, &ClientError) + Send + Sync);

/// One request.
pub(super) struct Call<'c> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload<'c>,
    pub(super) scope: &'c Scope,
    /// For errors.
    pub(super) asked: Asked,
    /// The statuses that are an answer; others are errors.
    pub(super) expected: &'c [u16],
    /// Told of retries.
    pub(super) notice: Option<Notice<'c>>,
}

impl<'c> Call<'c> {
    /// With this header.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        // What is not a header value comes from outside and is left out: the registry then answers as without it.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }
    /// With this body.
    pub(super) fn payload(self, payload: Payload<'c>) -> Self {
        Self { payload, ..self }
    }
    /// With somebody who is told of retries.
    pub(super) fn notice(self, notice: Notice<'c>) -> Self {
        Self { notice: Some(notice), ..self }
    }
}

impl Session {
    /// `name` as in image names, `base` the root of its API.
    pub(super) fn new(name: String, base: Url, transport: Arc<Transport>, settings: Arc<Settings>) -> Self {
        Self { name, base, transport, settings, auth: Auth::default(), reached: AtomicBool::new(false) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
    pub(super) fn base(&self) -> &Url {
        &self.base
    }
    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What an error says was asked.
    pub(super) fn asked(&self, doing: &'static str, subject: impl Into<String>) -> Asked {
        Asked { registry: self.name.as_str().into(), doing, subject: subject.into().into() }
    }

    /// The address of a path of the API. The parts of `path` come from checked names.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{path}"));
        url
    }

    /// A request to be completed.
    pub(super) fn call<'c>(
        &self,
        method: Method,
        url: Url,
        scope: &'c Scope,
        asked: Asked,
        expected: &'c [u16],
    ) -> Call<'c> {
        let headers = HeaderMap::new();
        Call { method, url, headers, payload: Payload::Empty, scope, asked, expected, notice: None }
    }

    /// Sends it until there is an answer or no hope.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Response, ClientError> {
        let mut attempts = Attempts::new(self.settings.retry);
        loop {
            match self.once(call).await {
                Err(error) if error.is_transient() => {
                    self.pause(&mut attempts, error, &call.asked, call.notice).await?
                }
                done => return done,
            }
        }
    }

    /// Waits for the next attempt after this failure, or fails with it.
    ///
    /// # Errors
    /// When there was a last attempt.
    pub(super) async fn pause(
        &self,
        attempts: &mut Attempts,
        error: ClientError,
        asked: &Asked,
        notice: Option<Notice<'_>>,
    ) -> Result<(), ClientError> {
        let wait = match &error {
            ClientError::Answer { wait, .. } => *wait,
            _ => None,
        };
        let next = attempts.failed(wait);
        let unknown = !self.reached.load(Ordering::Relaxed) && attempts.count() >= FIRST_CONTACT;
        match next {
            Next::After(delay) if !unknown => {
                tracing::debug!(registry = self.name, %error, ?delay, "tried again");
                if let Some(notice) = notice {
                    notice(delay, &error);
                }
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Next::TooLong(wait) => Err(ClientError::Wait { asked: asked.clone(), wait, last: Box::new(error) }),
            _ if attempts.count() < 2 || unknown => Err(error),
            _ => Err(ClientError::GaveUp { asked: asked.clone(), attempts: attempts.count(), last: Box::new(error) }),
        }
    }

    /// Sends it once, but for a challenge, which is answered.
    ///
    /// # Errors
    /// [`ClientError`]; a status that is not expected is one.
    pub(super) async fn once(&self, call: &Call<'_>) -> Result<Response, ClientError> {
        let mut proof = self.auth.proof(self, &call.asked, call.scope).await?;
        let mut response = self.dispatch(call, proof.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && self.is_own(response.url())
            && let Some(challenge) = challenge::best(response.headers())
            && let Some(fresh) = self.auth.answer(self, &call.asked, &challenge, call.scope, proof.as_ref()).await?
        {
            response = self.dispatch(call, Some(&fresh)).await?;
            proof = Some(fresh);
        }
        drop(proof);
        match call.expected.contains(&response.status().as_u16()) {
            true => Ok(response),
            false => Err(self.refusal(&call.asked, response).await),
        }
    }

    async fn dispatch(&self, call: &Call<'_>, proof: Option<&Proof>) -> Result<Response, ClientError> {
        let mut url = call.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = self.transport.to(&url)?.request(call.method.clone(), url.clone());
            request = request.headers(call.headers.clone());
            if let Some(proof) = proof.filter(|_| self.is_own(&url)) {
                request = request.header(AUTHORIZATION, proof);
            }
            let pulse = Arc::new(Pulse::new());
            let body = match &call.payload {
                Payload::Empty => None,
                Payload::Bytes(bytes) => Some(upload::pieces(bytes.clone(), &pulse)),
                Payload::Stream(make) => Some(make(&pulse)),
            };
            let beats = body.as_ref().map(|_| &*pulse);
            let request = match body {
                Some(body) => request.body(body),
                None => request,
            };
            let response = self.respond(request, &call.asked, &url, beats).await?;
            let reads = matches!(call.method, Method::GET | Method::HEAD);
            if !reads || !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            url = self.target(&url, response.headers(), &call.asked)?;
        }
        let why = format!("it redirects more than {MOST_REDIRECTS} times");
        Err(ClientError::Malformed { asked: call.asked.clone(), why })
    }

    /// Sends one request and waits for the head of its answer, for as long as something moves.
    pub(super) async fn respond(
        &self,
        request: RequestBuilder,
        asked: &Asked,
        url: &Url,
        pulse: Option<&Pulse>,
    ) -> Result<Response, ClientError> {
        let stall = self.settings.stall;
        let silence = async {
            match pulse {
                Some(pulse) => pulse.stopped(stall).await,
                // The connection has a limit of its own.
                None => tokio::time::sleep(stall.saturating_add(self.settings.connect)).await,
            }
        };
        tokio::select! {
            response = request.send() => match response {
                Ok(response) => {
                    self.reached.store(true, Ordering::Relaxed);
                    Ok(response)
                }
                Err(error) => Err(self.broken(asked, url, error)),
            },
            () = silence => Err(self.stalled(asked, url)),
        }
    }

    /// The next part of a body; `None` at its end.
    pub(super) async fn chunk(&self, response: &mut Response, asked: &Asked) -> Result<Option<Bytes>, ClientError> {
        match tokio::time::timeout(self.settings.stall, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(self.broken(asked, &response.url().clone(), error)),
            Err(_) => Err(self.stalled(asked, &response.url().clone())),
        }
    }

    /// A whole body of at most `limit` bytes.
    pub(super) async fn body(&self, mut response: Response, asked: &Asked, limit: usize) -> Result<Bytes, ClientError> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.chunk(&mut response, asked).await? {
            if all.len() + chunk.len() > limit {
                let why = format!("it has more than {} KiB", limit >> 10);
                return Err(ClientError::Malformed { asked: asked.clone(), why });
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    /// Why this answer is none.
    pub(super) async fn refusal(&self, asked: &Asked, response: Response) -> ClientError {
        let status = response.status();
        let wait = retry::retry_after(response.headers(), Timestamp::now());
        let own = self.is_own(response.url());
        let server = server(response.url());
        // What it says besides is worth having, but the status is what counts.
        let said = self.body(response, asked, LARGEST_REFUSAL).await.ok().and_then(|body| said(&body));
        let asked = asked.clone();
        match status {
            // A signed address may have run out: from the start again.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND if !own => {
                let what = "the server that the registry sends us to does not give it";
                ClientError::Connection { asked, server, what, source: None }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => match self.auth.credentials(self).await {
                Ok(credentials) => self.denied(&asked, credentials.as_deref(), said),
                Err(error) => error,
            },
            StatusCode::NOT_FOUND => ClientError::NotFound { asked, said },
            status => ClientError::Answer { asked, status, said, wait },
        }
    }

    /// Not allowed.
    pub(super) fn denied(&self, asked: &Asked, as_whom: Option<&Credentials>, said: Option<String>) -> ClientError {
        let who = as_whom.map_or("us without credentials", Credentials::user).to_owned();
        ClientError::Denied { asked: asked.clone(), who, known: as_whom.is_some(), said }
    }

    /// The credentials for this registry, from where they are kept.
    pub(super) async fn look_up(&self) -> Result<Option<Credentials>, ClientError> {
        match &self.settings.credentials {
            CredentialSource::Anonymous => Ok(None),
            CredentialSource::Given(credentials) => Ok(Some(credentials.clone())),
            CredentialSource::Docker(config) => {
                let (config, registry) = (config.clone(), self.name.clone());
                let found = super::blocking(move || config.get(&registry)).await?;
                found.map_err(|source| ClientError::Credentials { registry: self.name.clone(), source })
            }
        }
    }

    /// Where a redirect leads. TLS is not left, and a password in an address is not used.
    fn target(&self, from: &Url, headers: &HeaderMap, asked: &Asked) -> Result<Url, ClientError> {
        let fail = |why: &str| ClientError::Malformed { asked: asked.clone(), why: why.to_owned() };
        let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
        let mut url =
            location.and_then(|location| from.join(location).ok()).ok_or_else(|| fail("it redirects to nowhere"))?;
        let safe = url.scheme() == "https" || (url.scheme() == "http" && from.scheme() == "http");
        if !safe {
            return Err(fail("it redirects from a protected connection to an unprotected one"));
        }
        let clean = url.set_username("").and_then(|()| url.set_password(None));
        clean.map_err(|()| fail("it redirects to nowhere"))?;
        Ok(url)
    }

    /// An address that the registry gave for our next request. One behind a proxy may think that it is spoken to in
    /// plain HTTP.
    pub(super) fn location(&self, response: &Response, asked: &Asked) -> Result<Url, ClientError> {
        let fail = |why: &str| ClientError::Malformed { asked: asked.clone(), why: why.to_owned() };
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let mut url = location
            .and_then(|location| response.url().join(location).ok())
            .ok_or_else(|| fail("it does not say where to send it"))?;
        if url.scheme() != self.base.scheme() && url.host() == self.base.host() {
            let moved = url.set_scheme(self.base.scheme()).and_then(|()| url.set_port(self.base.port()));
            moved.map_err(|()| fail("it does not say where to send it"))?;
        }
        match url.scheme() == "https" || self.base.scheme() == "http" {
            true => Ok(url),
            false => Err(fail("it wants the content on an unprotected connection")),
        }
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    fn broken(&self, asked: &Asked, url: &Url, error: reqwest::Error) -> ClientError {
        let (asked, server) = (asked.clone(), server(url));
        // An address may be signed; the server is named already.
        let (what, tls, source) = (transport::describe(&error), transport::is_tls(&error), error.without_url());
        match tls {
            true => ClientError::Tls { asked, server, source: source.into() },
            false => ClientError::Connection { asked, server, what, source: Some(source.into()) },
        }
    }

    fn stalled(&self, asked: &Asked, url: &Url) -> ClientError {
        ClientError::Connection {
            asked: asked.clone(),
            server: server(url),
            what: "nothing came for too long",
            source: None,
        }
    }
}

/// Host and port of an address.
fn server(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => "an address without host".to_owned(),
    }
}
