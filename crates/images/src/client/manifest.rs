//! Manifests from a registry: small, verified, of a known kind.

use super::{
    auth::Scope,
    blocking,
    error::{Asked, ClientError},
    retry::Attempts,
    session::{Call, Session},
};
use crate::{
    digest::digest_of,
    media,
    store::{Lease, MANIFEST_LIMIT, Manifest},
};
use bytes::Bytes;
use model::image::{Algorithm, Digest};
use oci_spec::image::{Descriptor, MediaType};
use reqwest::{
    Method,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap},
};
use std::{io::Write, sync::Arc};

/// The kinds that we know, the most wanted first.
const ACCEPTED: [&str; 4] = [media::OCI_INDEX, media::OCI_MANIFEST, media::DOCKER_INDEX, media::DOCKER_MANIFEST];
/// Said of content by registries.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A manifest as it came.
pub(super) struct Fetched {
    pub(super) digest: Digest,
    pub(super) manifest: Manifest,
    pub(super) bytes: Bytes,
}

impl Fetched {
    /// What refers to it.
    pub(super) fn descriptor(&self) -> Result<Descriptor, ClientError> {
        describe(&self.digest, self.bytes.len() as u64, self.manifest.media_type())
    }

    /// Brings it into the store, held.
    pub(super) async fn keep(&self, lease: &Arc<Lease>) -> Result<(), ClientError> {
        let (lease, digest, bytes) = (lease.clone(), self.digest.clone(), self.bytes.clone());
        let subject = format!("keep manifest {}", self.digest.short());
        let kept = blocking(move || {
            if lease.hold(&digest)?.is_some() {
                return Ok(());
            }
            let mut ingest = lease.store().ingest_as(digest.algorithm())?;
            let path = lease.store().folder().to_owned();
            ingest.write_all(&bytes).map_err(|source| crate::StoreError::Io {
                operation: "write content into",
                path,
                source,
            })?;
            // Its digest was verified or computed before.
            ingest.commit_as(digest.algorithm(), &lease).map(drop)
        });
        kept.await?.map_err(ClientError::store(subject))
    }
}

/// What refers to content.
pub(super) fn describe(digest: &Digest, size: u64, media_type: MediaType) -> Result<Descriptor, ClientError> {
    let foreign: Result<oci_spec::image::Digest, _> = digest.as_str().parse();
    let foreign =
        foreign.map_err(|error| ClientError::Process { doing: "describe content", why: error.to_string() })?;
    Ok(Descriptor::new(media_type, size, foreign))
}

/// The manifest of a tag or digest.
pub(super) async fn fetch(
    session: &Session,
    repository: &str,
    reference: &str,
    expected: Option<&Digest>,
    scope: &Scope,
) -> Result<Fetched, ClientError> {
    let asked = session.asked("get", subject(repository, reference));
    let url = session.url(&format!("{repository}/manifests/{reference}"));
    let call = session.call(Method::GET, url, scope, asked.clone(), &[200]).header(ACCEPT, &ACCEPTED.join(", "));
    let mut attempts = Attempts::new(session.settings().retry);
    let (said, bytes) = loop {
        match once(session, &call).await {
            Err(error) if error.is_transient() => session.pause(&mut attempts, error, &asked, None).await?,
            done => break done?,
        }
    };
    let digest = verify(&asked, &bytes, expected, &said)?;
    let kind = said.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let manifest = parse(&asked, &digest, &bytes, kind)?;
    Ok(Fetched { digest, manifest, bytes })
}

/// Head and body: an answer that is cut in its midst is none.
async fn once(session: &Session, call: &Call<'_>) -> Result<(HeaderMap, Bytes), ClientError> {
    let response = session.once(call).await?;
    let said = response.headers().clone();
    let limit = usize::try_from(MANIFEST_LIMIT).unwrap_or(usize::MAX);
    Ok((said, session.body(response, &call.asked, limit).await?))
}

/// A manifest's name in errors.
pub(super) fn subject(repository: &str, reference: &str) -> String {
    match reference.contains(':') {
        true => format!("{repository}@{reference}"),
        false => format!("{repository}:{reference}"),
    }
}

/// The digest under which it is kept: the one it was asked by, else the registry's own, else SHA-256; each verified.
fn verify(asked: &Asked, bytes: &[u8], expected: Option<&Digest>, said: &HeaderMap) -> Result<Digest, ClientError> {
    let header = said.get(CONTENT_DIGEST).and_then(|digest| digest.to_str().ok());
    let said = header.and_then(|digest| digest.trim().parse::<Digest>().ok());
    for promised in [expected, said.as_ref()].into_iter().flatten() {
        let found = digest_of(promised.algorithm(), bytes);
        if found != *promised {
            let (expected, found) = (promised.clone(), found.to_string());
            return Err(ClientError::Digest { asked: asked.clone(), expected, found });
        }
    }
    Ok(expected.cloned().or(said).unwrap_or_else(|| digest_of(Algorithm::Sha256, bytes)))
}

fn parse(asked: &Asked, digest: &Digest, bytes: &[u8], kind: &str) -> Result<Manifest, ClientError> {
    let unknown = |found: &str| {
        let found: String = found.chars().filter(|c| !c.is_control()).take(120).collect();
        ClientError::MediaType { subject: format!("{} at {}", asked.subject, asked.registry), found }
    };
    // Servers of files call everything by one of these; the document then says what it is.
    let general = matches!(kind, "" | "application/json" | "application/octet-stream" | "text/plain");
    if !general && !ACCEPTED.contains(&kind) {
        return Err(unknown(kind));
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        media_type: Option<String>,
    }
    let head: Option<Head> = serde_json::from_slice(bytes).ok();
    if let Some(own) = head.and_then(|head| head.media_type) {
        if !ACCEPTED.contains(&own.as_str()) {
            return Err(unknown(&own));
        }
        if !general && own != kind {
            let why = format!("it is sent as {kind}, but says of itself that it is {own}");
            return Err(ClientError::Malformed { asked: asked.clone(), why });
        }
    }
    let manifest = Manifest::parse(digest, bytes)
        .map_err(|error| ClientError::Malformed { asked: asked.clone(), why: error.to_string() })?;
    // One that does not say of itself what it is must be what it is sent as.
    if !general && media::is_index(kind) != matches!(manifest, Manifest::Index(_)) {
        return Err(ClientError::Malformed {
            asked: asked.clone(),
            why: format!("it is sent as {kind}, which it is not"),
        });
    }
    Ok(manifest)
}
