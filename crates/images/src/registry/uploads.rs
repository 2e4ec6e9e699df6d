//! Uploads of blobs: at once, in two steps, in chunks; and blobs that another repository has already.

use super::{
    access::Verbs,
    body::Content,
    metrics::Present,
    problem::{Code, Problem, Result},
    range,
    receive::{receive, too_large},
    route, rows,
    service::{CONTENT_DIGEST, Call, Service, content_length, empty, header, store_problem},
    sessions::{Turn, unknown},
};
use crate::store::{CommitError, Ingest, IngestId, Owner, StoreError};
use hyper::{
    Response, StatusCode,
    body::Incoming,
    header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName, HeaderValue, LOCATION, RANGE, RETRY_AFTER},
};
use model::image::{Algorithm, Digest, Repository};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// Repositories that are looked at for a blob that may be mounted from anywhere.
const HOLDERS: usize = 100;

/// `POST …/blobs/uploads/`: mounts a blob, takes one in at once, or begins an upload.
pub(super) async fn begin(call: &Call<'_>, name: &Repository, body: &mut Incoming) -> Result<Response<Content>> {
    let service = call.service;
    if let Some(text) = call.query.get("mount") {
        let digest = route::digest(text)?;
        let from = call.query.get("from").map(route::repository).transpose()?;
        if let Some(size) = mount(call, name, &digest, from).await? {
            tracing::debug!(%digest, size, repository = %name, "blob mounted");
            return Ok(created(name, &digest));
        }
    }
    let digest = call.query.get("digest").map(route::digest).transpose()?;
    let algorithm = match (&digest, call.query.get("digest-algorithm")) {
        (Some(digest), _) => digest.algorithm(),
        (None, None) => Algorithm::Sha256,
        (None, Some(text)) => Algorithm::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Problem::new(Code::DigestInvalid, format!("digest-algorithm is `{shown}`: expected sha256 or sha512"))
        })?,
    };
    let Some(digest) = digest else {
        let ingest = new_ingest(service, algorithm).await?;
        let (id, written) = (ingest.id().clone(), ingest.written());
        service.sessions.put(ingest);
        return Ok(progress(call, name, &id, written, StatusCode::ACCEPTED));
    };
    let room = service.settings.limits.blob;
    check_length(call, room)?;
    let _sending = send(service)?;
    let ingest = new_ingest(service, algorithm).await?;
    let (ingest, received) = receive(service, ingest, body, room, None).await;
    if let Err(problem) = received {
        abort(service, ingest).await?;
        return Err(problem);
    }
    commit(service, name, &digest, ingest).await
}

/// `PATCH`: a chunk.
pub(super) async fn patch(
    call: &Call<'_>,
    name: &Repository,
    id: &str,
    body: &mut Incoming,
) -> Result<Response<Content>> {
    let id = open(call, name, id)?;
    let _sending = send(call.service)?;
    let (turn, ingest) = call.service.sessions.take(&id).await?;
    let (turn, ingest) = take_chunk(call, name, turn, ingest, body).await?;
    let written = ingest.written();
    turn.keep(ingest);
    Ok(progress(call, name, &id, written, StatusCode::ACCEPTED))
}

/// `PUT …?digest=`: the last chunk, if there is one, and the end.
pub(super) async fn finish(
    call: &Call<'_>,
    name: &Repository,
    id: &str,
    body: &mut Incoming,
) -> Result<Response<Content>> {
    let id = open(call, name, id)?;
    let digest = call.query.get("digest").ok_or_else(|| {
        Problem::new(Code::DigestInvalid, "the parameter `digest` is missing: expected the digest of the whole blob")
    })?;
    let digest = route::digest(digest)?;
    let _sending = send(call.service)?;
    let (turn, ingest) = call.service.sessions.take(&id).await?;
    let ingest = rehash(call.service, ingest, digest.algorithm()).await?;
    let (turn, ingest) = take_chunk(call, name, turn, ingest, body).await?;
    let done = commit(call.service, name, &digest, Some(ingest)).await;
    drop(turn);
    done
}

/// `GET`: how far it is.
pub(super) async fn status(call: &Call<'_>, name: &Repository, id: &str) -> Result<Response<Content>> {
    let id = open(call, name, id)?;
    let written = call.service.sessions.written(&id).await?;
    Ok(progress(call, name, &id, written, StatusCode::NO_CONTENT))
}

/// `DELETE`: forget it.
pub(super) async fn cancel(call: &Call<'_>, name: &Repository, id: &str) -> Result<Response<Content>> {
    let id = open(call, name, id)?;
    let (turn, ingest) = call.service.sessions.take(&id).await?;
    abort(call.service, Some(ingest)).await?;
    drop(turn);
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Takes the chunk of a request in. When it does not belong here, or does not come to its end, the upload stays, with
/// what has arrived.
async fn take_chunk(
    call: &Call<'_>,
    name: &Repository,
    turn: Turn,
    ingest: Ingest,
    body: &mut Incoming,
) -> Result<(Turn, Ingest)> {
    let (service, written, id) = (call.service, ingest.written(), ingest.id().clone());
    let room = service.settings.limits.blob.saturating_sub(written);
    let length = match place(call, written).and_then(|length| check_length(call, room).map(|()| length)) {
        Ok(length) => length,
        Err(problem) => {
            turn.keep(ingest);
            return Err(located(call, name, &id, written, problem));
        }
    };
    // What brings nothing takes no room, such as the end of an upload that is there whole.
    if !hyper::body::Body::is_end_stream(body)
        && let Err(error) = service.store.check_room()
    {
        turn.keep(ingest);
        return Err(located(call, name, &id, written, store_problem("receiving of a blob", &error)));
    }
    let most = length.map_or(room, |length| length.min(room));
    let (ingest, received) = receive(service, ingest, body, most, Some(turn.running())).await;
    let Some(ingest) = ingest else {
        return Err(received.err().unwrap_or_else(|| unknown(id.to_string())));
    };
    let received = received.and_then(|()| match length {
        Some(length) if ingest.written() - written != length => {
            let message = format!("Content-Range has {length} bytes, the body {}", ingest.written() - written);
            Err(Problem::new(Code::SizeInvalid, message))
        }
        _ => Ok(()),
    });
    match received {
        Ok(()) => Ok((turn, ingest)),
        Err(problem) => {
            let written = ingest.written();
            turn.keep(ingest);
            Err(located(call, name, &id, written, problem))
        }
    }
}

/// How many bytes the chunk must have, if it says where it belongs, and that it belongs here.
fn place(call: &Call<'_>, written: u64) -> Result<Option<u64>> {
    let Some(text) = call.header(&CONTENT_RANGE) else { return Ok(None) };
    let length = content_length(&call.parts.headers)?;
    let Some(span) = range::chunk(text) else {
        let shown: String = text.chars().take(60).collect();
        let message = format!("Content-Range is `{shown}`: expected <start>-<end>, both inclusive");
        return Err(Problem::new(Code::BlobUploadInvalid, message).status(StatusCode::RANGE_NOT_SATISFIABLE));
    };
    if span.start != written {
        let message = format!("the chunk begins at {}, the upload is at {written}", span.start);
        return Err(Problem::new(Code::BlobUploadInvalid, message).status(StatusCode::RANGE_NOT_SATISFIABLE));
    }
    if length.is_some_and(|length| length != span.length) {
        return Err(Problem::new(Code::SizeInvalid, "Content-Range and Content-Length are of different lengths"));
    }
    Ok(Some(span.length))
}

fn check_length(call: &Call<'_>, room: u64) -> Result<()> {
    match content_length(&call.parts.headers)? {
        Some(length) if length > room => Err(too_large()),
        _ => Ok(()),
    }
}

/// With the place where to go on, for a client that lost it.
fn located(call: &Call<'_>, name: &Repository, id: &IngestId, written: u64, mut problem: Box<Problem>) -> Box<Problem> {
    let where_to = progress(call, name, id, written, StatusCode::OK);
    for key in [LOCATION, RANGE] {
        if let Some(value) = where_to.headers().get(&key) {
            problem.headers.insert(key, value.clone());
        }
    }
    problem
}

/// Where an upload is and how far.
fn progress(call: &Call<'_>, name: &Repository, id: &IngestId, written: u64, status: StatusCode) -> Response<Content> {
    let mut response = empty(status);
    let id = id.to_string();
    let seal = seal(call.service, name, &id);
    header(&mut response, LOCATION, &format!("/v2/{name}/blobs/uploads/{id}.{seal}"));
    // The protocol has no way to say "nothing": clients take `0-0` for it before the first byte.
    header(&mut response, RANGE, &format!("0-{}", written.saturating_sub(1)));
    header(&mut response, UPLOAD_ID, &id);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    response
}

/// Binds an upload to its repository: its address cannot be made up, nor be used in another one.
fn seal(service: &Service, name: &Repository, id: &str) -> String {
    service.authority.key().seal(&["upload", name.as_str(), id])
}

/// The ingest that an address of this repository means.
fn open(call: &Call<'_>, name: &Repository, text: &str) -> Result<IngestId> {
    let shown = || text.chars().take(80).collect();
    let (id, given) = text.split_once('.').ok_or_else(|| unknown(shown()))?;
    let ours = super::codec::same(seal(call.service, name, id).as_bytes(), given.as_bytes());
    if ours { id.parse().map_err(|_| unknown(shown())) } else { Err(unknown(shown())) }
}

/// The right to send.
fn send(service: &Service) -> Result<(OwnedSemaphorePermit, Present)> {
    let permit = service.sending.clone().try_acquire_owned().map_err(|_| {
        service.counters.refused.inc();
        Problem::new(Code::TooManyRequests, "too many uploads at a time: come back in a moment")
            .header(RETRY_AFTER, HeaderValue::from_static("1"))
    })?;
    Ok((permit, Present::new(&service.counters.uploads)))
}

async fn new_ingest(service: &Arc<Service>, algorithm: Algorithm) -> Result<Ingest> {
    let store = service.store.clone();
    let begin = move || store.ingest_as(algorithm).map_err(|error| store_problem("beginning of an upload", &error));
    service.block("registry-upload", begin).await
}

/// Lets an upload that has no bytes yet be hashed with another algorithm.
async fn rehash(service: &Arc<Service>, ingest: Ingest, algorithm: Algorithm) -> Result<Ingest> {
    if ingest.written() > 0 || ingest.digest_so_far().algorithm() == algorithm {
        return Ok(ingest);
    }
    let store = service.store.clone();
    let change = move || {
        let id = ingest.id().clone();
        drop(ingest);
        let resumed = store.resume_as(&id, algorithm);
        resumed.map_err(|error| store_problem("resuming an upload", &error))?.ok_or_else(|| unknown(id.to_string()))
    };
    service.block("registry-upload", change).await
}

async fn abort(service: &Arc<Service>, ingest: Option<Ingest>) -> Result<()> {
    let Some(ingest) = ingest else { return Ok(()) };
    let forget = move || ingest.abort().map_err(|error| store_problem("cancelling of an upload", &error));
    service.block("registry-upload", forget).await
}

/// Makes the ingest a blob of the repository.
async fn commit(
    service: &Arc<Service>,
    name: &Repository,
    digest: &Digest,
    ingest: Option<Ingest>,
) -> Result<Response<Content>> {
    let ingest = ingest.ok_or_else(|| Problem::new(Code::BlobUploadUnknown, "the upload is gone"))?;
    let (shared, wanted_name, expected) = (service.clone(), name.clone(), digest.clone());
    let work = move || {
        const WHAT: &str = "commit of a blob";
        let failed = |error: StoreError| store_problem(WHAT, &error);
        let store = &shared.store;
        // Held until the repository's row keeps it.
        let lease = store.lease(Owner::Process).map_err(failed)?;
        let blob = ingest.commit(&expected, &lease).map_err(|error| match error {
            CommitError::Mismatch { expected, found } => {
                Problem::new(Code::DigestInvalid, format!("the content has digest {found}, not {expected}"))
                    .detail(serde_json::json!({ "expected": expected.as_str(), "found": found.as_str() }))
            }
            CommitError::Store(error) => failed(error),
        })?;
        let linked = store.index().write(WHAT, |transaction| {
            let repository = rows::make_repository(transaction, &wanted_name)?;
            rows::link_blob(transaction, repository, &blob.digest, blob.size, crate::store::now())
        });
        linked.map_err(failed)
    };
    service.block("registry-commit", work).await?;
    Ok(created(name, digest))
}

fn created(name: &Repository, digest: &Digest) -> Response<Content> {
    let mut response = empty(StatusCode::CREATED);
    header(&mut response, LOCATION, &format!("/v2/{name}/blobs/{digest}"));
    header(&mut response, CONTENT_DIGEST, digest.as_str());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    response
}

/// Gives the repository a blob that another one has, if the sender may read it there; its size.
async fn mount(call: &Call<'_>, name: &Repository, digest: &Digest, from: Option<Repository>) -> Result<Option<u64>> {
    const WHAT: &str = "mount of a blob";
    let (service, name, digest) = (call.service.clone(), name.clone(), digest.clone());
    let identity = call.identity.clone();
    let work = move || {
        let failed = |error: StoreError| store_problem(WHAT, &error);
        let (store, index) = (&service.store, service.store.index());
        let sources = match from {
            Some(from) => vec![from],
            None => {
                let holders = index.read(WHAT, |connection| rows::holders(connection, &digest, HOLDERS));
                holders.map_err(failed)?.iter().filter_map(|name| name.parse().ok()).collect()
            }
        };
        // What is here already needs no right to read; what is elsewhere needs that of the token, not only its account's:
        // a token that leaked would learn what it was not made for.
        let readable = |source: &Repository| {
            let authority = &service.authority;
            if *source == name {
                authority.verbs(&identity, source).contain(Verbs::PUSH)
            } else {
                authority.reads(&identity, source)
            }
        };
        for source in sources.iter().filter(|source| readable(source)) {
            let mounted = index.transact(WHAT, |transaction| {
                let named = index.failed(WHAT);
                let rows = || {
                    let Some(row) = rows::blob(transaction, source, &digest)? else { return Ok(None) };
                    let repository = rows::make_repository(transaction, &name)?;
                    rows::link_blob(transaction, repository, &digest, row.size, crate::store::now())?;
                    Ok(Some(row.size))
                };
                let Some(size) = rows().map_err(named)? else { return Ok(None) };
                // Without its content it is not worth mounting: the client sends it then.
                Ok(store.touch(transaction, &digest)?.map(|_| size))
            });
            if let Some(size) = mounted.map_err(failed)? {
                return Ok(Some(size));
            }
        }
        Ok(None)
    };
    call.service.block("registry-blob", work).await
}
