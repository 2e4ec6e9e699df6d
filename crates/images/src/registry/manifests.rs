//! Manifests and indexes: read, push, remove; and the tags that name them.

use super::{
    blobs::is_match,
    body::Content,
    cache::Manifest,
    check::{Checked, check},
    problem::{Code, Problem, Result},
    receive::{Unread, whole},
    route::{self, Reference},
    rows,
    service::{CONTENT_DIGEST, Call, Service, content_length, empty, header, store_problem, with_status},
};
use crate::{
    digest::digest_of,
    store::{CommitError, MANIFEST_LIMIT, Owner, StoreError},
};
use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::Incoming,
    header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION, RETRY_AFTER},
};
use model::image::{Algorithm, Digest, Repository, Tag};
use rusqlite::Transaction;
use serde_json::json;
use std::{io::Write, sync::Arc};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one push may set.
pub(super) const TAGS: usize = 32;

/// `GET` and `HEAD` of a manifest.
pub(super) async fn get(call: &Call<'_>, name: &Repository, reference: &Reference) -> Result<Response<Content>> {
    let service = call.service;
    let generation = service.cache.generation().map_err(|error| store_problem("lookup of a manifest", &error))?;
    let key = (name.clone(), reference.clone());
    let manifest = match service.cache.manifest(generation, &key) {
        Some(manifest) => {
            service.counters.cache_hits.inc();
            manifest
        }
        None => {
            service.counters.cache_misses.inc();
            let shared = service.clone();
            let read = move || {
                let manifest = read(&shared, &key.0, &key.1)?;
                shared.cache.put_manifest(generation, key, manifest.clone());
                Ok(manifest)
            };
            service.block("registry-manifest", read).await?
        }
    };
    let matches = call
        .header(&IF_NONE_MATCH)
        .is_some_and(|known| manifest.tag_header.to_str().is_ok_and(|tag| is_match(known, tag)));
    let status = if matches { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let content = if matches { Content::Empty } else { Content::Whole(manifest.bytes.clone()) };
    let mut response = with_status(status, content);
    let headers = response.headers_mut();
    headers.insert(ETAG, manifest.tag_header.clone());
    headers.insert(CONTENT_DIGEST, manifest.digest_header.clone());
    if !matches {
        headers.insert(CONTENT_TYPE, manifest.media_type.clone());
        headers.insert(CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len()));
    }
    Ok(response)
}

fn read(service: &Service, name: &Repository, reference: &Reference) -> Result<Arc<Manifest>> {
    const WHAT: &str = "lookup of a manifest";
    let failed = |error: StoreError| store_problem(WHAT, &error);
    let row = service.store.index().read(WHAT, |connection| match reference {
        Reference::Digest(digest) => rows::manifest(connection, name, digest),
        Reference::Tag(tag) => rows::tagged(connection, name, tag),
    });
    let row = row.map_err(failed)?.ok_or_else(|| unknown(name, reference))?;
    if let Some(manifest) = service.cache.content(&row) {
        return Ok(manifest);
    }
    let bytes = service.store.need(&row.digest).and_then(|blob| blob.read(MANIFEST_LIMIT)).map_err(failed)?;
    let manifest = Manifest::new(&row, bytes.into()).ok_or_else(|| {
        let problem = format!("media type of {} in the index: `{}`", row.digest, row.media_type);
        Problem::internal(WHAT, &std::io::Error::other(problem))
    })?;
    Ok(Arc::new(manifest))
}

fn unknown(name: &Repository, reference: &Reference) -> Box<Problem> {
    let message = format!("there is no manifest `{}` in repository {name}", reference.as_str());
    Problem::new(Code::ManifestUnknown, message)
        .detail(json!({ "name": name.as_str(), "reference": reference.as_str() }))
}

/// `PUT` of a manifest, under a tag or its digest. With its digest, parameters `tag` name tags besides.
pub(super) async fn put(
    call: &Call<'_>,
    name: &Repository,
    reference: &Reference,
    body: &mut Incoming,
) -> Result<Response<Content>> {
    let service = call.service;
    let named = match reference {
        Reference::Tag(tag) => vec![tag.clone()],
        Reference::Digest(_) => call.query.all("tag").map(route::tag).collect::<Result<Vec<_>>>()?,
    };
    if named.len() > TAGS {
        let message = format!("{} tags are named: expected {TAGS} at most", named.len());
        return Err(Problem::new(Code::TagInvalid, message).status(StatusCode::URI_TOO_LONG));
    }
    // Held until the manifest is in, so that only so many are in memory.
    let place = place(service).await?;
    let bytes = collect(call, body).await?;
    let content_type = call.header(&CONTENT_TYPE).map(str::to_owned);
    let (shared, name_of, wanted, tags) = (service.clone(), name.clone(), reference.clone(), named.clone());
    let work = move || {
        let push = Push::read(name_of, &wanted, content_type.as_deref(), tags, &bytes)?;
        push.run(&shared, &bytes)?;
        drop(place);
        Ok((push.digest, push.checked.subject))
    };
    let (digest, subject) = service.block("registry-manifest", work).await?;

    let mut response = empty(StatusCode::CREATED);
    header(&mut response, LOCATION, &format!("/v2/{name}/manifests/{digest}"));
    header(&mut response, CONTENT_DIGEST, digest.as_str());
    if let Some(subject) = subject {
        header(&mut response, SUBJECT, subject.as_str());
    }
    if let Reference::Digest(_) = reference {
        for tag in &named {
            if let Ok(value) = HeaderValue::from_str(tag.as_str()) {
                response.headers_mut().append(TAG, value);
            }
        }
    }
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    Ok(response)
}

async fn collect(call: &Call<'_>, body: &mut Incoming) -> Result<Bytes> {
    let too_large = || {
        Problem::new(Code::SizeInvalid, format!("the manifest is larger than {MANIFEST_LIMIT} bytes"))
            .status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    if content_length(&call.parts.headers)?.is_some_and(|length| length > MANIFEST_LIMIT) {
        return Err(too_large());
    }
    let most = usize::try_from(MANIFEST_LIMIT).unwrap_or(usize::MAX);
    let read = whole(body, most, call.service.settings.limits.stall).await;
    read.map_err(|why| match why {
        Unread::TooLarge => too_large(),
        Unread::Broken(error) => Problem::new(Code::ManifestInvalid, format!("the manifest cannot be read: {error}")),
        Unread::Late => Problem::new(Code::ManifestInvalid, "the manifest took too long to come")
            .status(StatusCode::REQUEST_TIMEOUT)
            .hang_up(),
    })
}

/// The right to bring a manifest; it is waited for, but not long.
async fn place(service: &Service) -> Result<OwnedSemaphorePermit> {
    let limits = &service.settings.limits;
    match timeout(limits.queue, service.manifests.clone().acquire_owned()).await {
        Ok(Ok(place)) => Ok(place),
        // It is never closed.
        Ok(Err(_)) => Err(Problem::new(Code::Unavailable, "the registry is ending")),
        Err(_) => {
            service.counters.refused.inc();
            Err(Problem::new(Code::TooManyRequests, "too many manifests at a time: come back in a moment")
                .header(RETRY_AFTER, HeaderValue::from_static("1")))
        }
    }
}

/// A manifest that was checked, and its place.
struct Push {
    name: Repository,
    digest: Digest,
    checked: Checked,
    tags: Vec<Tag>,
}

/// What a transaction of ours can fail with: the store's errors, or what the client is told.
enum Failure {
    Store(StoreError),
    Problem(Box<Problem>),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Push {
    fn read(
        name: Repository,
        reference: &Reference,
        content_type: Option<&str>,
        tags: Vec<Tag>,
        bytes: &[u8],
    ) -> Result<Self> {
        let digest = match reference {
            Reference::Tag(_) => digest_of(Algorithm::Sha256, bytes),
            Reference::Digest(expected) => digest_of(expected.algorithm(), bytes),
        };
        if let Reference::Digest(expected) = reference
            && digest != *expected
        {
            let message = format!("the manifest has digest {digest}, not {expected}");
            return Err(Problem::new(Code::DigestInvalid, message)
                .detail(json!({ "expected": expected.as_str(), "found": digest.as_str() })));
        }
        Ok(Self { name, digest, checked: check(bytes, content_type)?, tags })
    }

    fn run(&self, service: &Service, bytes: &[u8]) -> Result<()> {
        const WHAT: &str = "push of a manifest";
        let failed = |error: StoreError| store_problem(WHAT, &error);
        let (store, index) = (&service.store, service.store.index());
        // What is refused anyway must not become content first.
        let checked = index.read(WHAT, |connection| {
            let repository = rows::repository(connection, &self.name)?;
            repository.map_or(Ok(None), |id| self.verify(service, connection, id).map(Some))
        });
        match checked.map_err(failed)? {
            Some(verified) => verified?,
            None if service.settings.sparse => {}
            None => self
                .checked
                .references
                .iter()
                .find(|part| !part.is_foreign)
                .map_or(Ok(()), |part| Err(missing(&self.name, &part.digest)))?,
        }
        let lease = store.lease(Owner::Process).map_err(failed)?;
        let mut ingest = store.ingest_as(self.digest.algorithm()).map_err(failed)?;
        let written = ingest.write_all(bytes);
        written.map_err(|source| failed(StoreError::Io { operation: "write", path: "a manifest".into(), source }))?;
        ingest.commit(&self.digest, &lease).map_err(|error| match error {
            CommitError::Store(error) => failed(error),
            mismatch => Problem::internal(WHAT, &mismatch),
        })?;
        let done = index.transact_durably(WHAT, |transaction| {
            let database = |error| Failure::Store(index.failed(WHAT)(error));
            self.enter(service, transaction, bytes.len() as u64).map_err(database)?.map_err(Failure::Problem)
        });
        done.map_err(|failure| match failure {
            Failure::Store(error) => failed(error),
            Failure::Problem(problem) => problem,
        })
    }

    /// Whether all that the manifest refers to is there, and its tags may be set.
    fn verify(
        &self,
        service: &Service,
        connection: &rusqlite::Connection,
        repository: i64,
    ) -> rusqlite::Result<Result<()>> {
        for tag in &self.tags {
            if !service.settings.immutable.iter().any(|rule| rule.covers(self.name.as_str(), tag.as_str())) {
                continue;
            }
            let now = rows::tag_target(connection, repository, tag.as_str())?;
            if now.is_some_and(|now| now != self.digest.as_str()) {
                return Ok(Err(immutable(&self.name, tag.as_str())));
            }
        }
        for part in &self.checked.references {
            let size = rows::referred(connection, repository, &part.digest, part.is_manifest)?;
            match size {
                None if part.is_foreign || service.settings.sparse => {}
                None => return Ok(Err(missing(&self.name, &part.digest))),
                Some(size) if size != part.size => {
                    let message =
                        format!("the manifest says that {} has {} bytes: it has {size}", part.digest, part.size);
                    return Ok(Err(Problem::new(Code::ManifestInvalid, message)));
                }
                Some(_) => {}
            }
        }
        Ok(Ok(()))
    }

    fn enter(&self, service: &Service, transaction: &Transaction<'_>, size: u64) -> rusqlite::Result<Result<()>> {
        let now = crate::store::now();
        let repository = rows::make_repository(transaction, &self.name)?;
        // Since it was looked at, something may have been removed.
        if let Err(problem) = self.verify(service, transaction, repository)? {
            return Ok(Err(problem));
        }
        rows::add_manifest(transaction, repository, &self.digest, size, &self.checked, now)?;
        for tag in &self.tags {
            rows::set_tag(transaction, repository, tag, &self.digest, now)?;
        }
        Ok(Ok(()))
    }
}

fn missing(name: &Repository, digest: &Digest) -> Box<Problem> {
    let message = format!("the manifest refers to {digest}, which is not in repository {name}: push that first");
    Problem::new(Code::ManifestBlobUnknown, message).detail(json!({ "name": name.as_str(), "digest": digest.as_str() }))
}

fn immutable(name: &Repository, tag: &str) -> Box<Problem> {
    let message = format!("tag {name}:{tag} is immutable: it stays what it is; use another tag");
    Problem::new(Code::Denied, message).detail(json!({ "name": name.as_str(), "tag": tag }))
}

/// `DELETE`: of a tag, only that name; of a digest, the manifest and all its tags.
pub(super) async fn delete(call: &Call<'_>, name: &Repository, reference: &Reference) -> Result<Response<Content>> {
    let (service, wanted_name, wanted) = (call.service.clone(), name.clone(), reference.clone());
    let work = move || {
        const WHAT: &str = "removal of a manifest";
        let index = service.store.index();
        let done = index.transact_durably(WHAT, |transaction| {
            let database = |error| Failure::Store(index.failed(WHAT)(error));
            remove(&service, transaction, &wanted_name, &wanted).map_err(database)?.map_err(Failure::Problem)
        });
        done.map_err(|failure| match failure {
            Failure::Store(error) => store_problem(WHAT, &error),
            Failure::Problem(problem) => problem,
        })
    };
    call.service.block("registry-manifest", work).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

fn remove(
    service: &Service,
    transaction: &Transaction<'_>,
    name: &Repository,
    reference: &Reference,
) -> rusqlite::Result<Result<()>> {
    let Some(repository) = rows::repository(transaction, name)? else { return Ok(Err(unknown(name, reference))) };
    let named = match reference {
        Reference::Tag(tag) => vec![tag.to_string()],
        Reference::Digest(digest) => rows::tags_of(transaction, repository, digest)?,
    };
    let is_fixed = |tag: &&String| service.settings.immutable.iter().any(|rule| rule.covers(name.as_str(), tag));
    let fixed = named.iter().find(is_fixed);
    if let Some(tag) = fixed
        && rows::tag_target(transaction, repository, tag)?.is_some()
    {
        return Ok(Err(immutable(name, tag)));
    }
    let removed = match reference {
        Reference::Tag(tag) => rows::remove_tag(transaction, repository, tag)?,
        Reference::Digest(digest) => rows::remove_manifest(transaction, repository, digest)?,
    };
    Ok(if removed { Ok(()) } else { Err(unknown(name, reference)) })
}
