//! Blobs: read them whole or in part, take them from a repository.

use super::{
    body::{Content, FileContent},
    problem::{Code, Problem, Result},
    range::{self, Span, Wanted},
    rows::{self, BlobRow},
    service::{CONTENT_DIGEST, Call, Service, empty, header, store_problem, with_status},
};
use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH,
        IF_RANGE, RANGE,
    },
};
use model::image::{Digest, Repository};
use serde_json::json;
use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

/// A blob up to this size is read at once and sent with the head of the answer.
const SMALL: u64 = 64 << 10;

enum Opened {
    Small(Bytes),
    File(File),
    /// Nobody wants the content.
    Known,
}

/// `GET` and `HEAD` of a blob.
pub(super) async fn get(call: &Call<'_>, name: &Repository, digest: &Digest) -> Result<Response<Content>> {
    let service = call.service.clone();
    let tag = format!("\"{digest}\"");
    let matches = call.header(&IF_NONE_MATCH).is_some_and(|known| is_match(known, &tag));
    let wants_content = !call.is_head() && !matches;
    let (wanted_name, wanted_digest) = (name.clone(), digest.clone());
    let is_asked = call.is_head();
    let find = move || find(&service, &wanted_name, &wanted_digest, wants_content, is_asked);
    let (row, opened) = call.service.block("registry-blob", find).await?;

    if matches {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        header(&mut response, ETAG, &tag);
        return Ok(response);
    }
    // A part is wanted of the very content that the client has a part of, which under a digest is always so, but of
    // what it names otherwise.
    let same = call.header(&IF_RANGE).is_none_or(|known| known.trim() == tag);
    let wanted = if same { range::wanted(call.header(&RANGE), row.size) } else { Wanted::Whole };
    let (status, span) = match wanted {
        Wanted::Whole => (StatusCode::OK, Span { start: 0, length: row.size }),
        Wanted::Part(span) => (StatusCode::PARTIAL_CONTENT, span),
        Wanted::Nothing => {
            let message = format!("the range is not one of the {} bytes of {digest}", row.size);
            let mut problem = Problem::new(Code::SizeInvalid, message).status(StatusCode::RANGE_NOT_SATISFIABLE);
            if let Ok(value) = HeaderValue::try_from(format!("bytes */{}", row.size)) {
                problem = problem.header(CONTENT_RANGE, value);
            }
            return Err(problem);
        }
    };
    let content = match opened {
        Opened::Known => Content::Empty,
        Opened::Small(bytes) => {
            let start = usize::try_from(span.start).unwrap_or(usize::MAX).min(bytes.len());
            let length = usize::try_from(span.length).unwrap_or(usize::MAX).min(bytes.len() - start);
            Content::Whole(bytes.slice(start..start + length))
        }
        Opened::File(file) => {
            let outbox = call.peer.outbox.clone();
            Content::File(FileContent::new(file, span.start, span.length, outbox, &call.service.pool))
        }
    };
    if wants_content {
        call.service.counters.sent.inc_by(span.length);
    }
    let mut response = with_status(status, content);
    if status == StatusCode::PARTIAL_CONTENT {
        let last = span.start + span.length - 1;
        header(&mut response, CONTENT_RANGE, &format!("bytes {}-{last}/{}", span.start, row.size));
    }
    header(&mut response, ETAG, &tag);
    header(&mut response, CONTENT_DIGEST, digest.as_str());
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(span.length));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Content under a digest never changes; who may have it is asked each time.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    Ok(response)
}

/// Whether a list of entity tags has this one (RFC 9110, 13.1.2).
pub(super) fn is_match(list: &str, tag: &str) -> bool {
    list.split(',').map(|known| known.trim().trim_start_matches("W/")).any(|known| known == "*" || known == tag)
}

fn find(
    service: &Arc<Service>,
    name: &Repository,
    digest: &Digest,
    open: bool,
    is_asked: bool,
) -> Result<(BlobRow, Opened)> {
    const WHAT: &str = "lookup of a blob";
    let index = service.store.index();
    let row = index.read(WHAT, |connection| rows::blob(connection, name, digest));
    let row = row.map_err(|error| store_problem(WHAT, &error))?;
    let row = row.ok_or_else(|| unknown(name, digest))?;
    rely(service, name, digest, row, is_asked)?;
    let Some(blob) = service.store.blob(digest).map_err(|error| store_problem(WHAT, &error))? else {
        return Err(unknown(name, digest));
    };
    if blob.size != row.size {
        return Err(Problem::internal(WHAT, &Damaged { digest: digest.clone(), size: blob.size, expected: row.size }));
    }
    if !open {
        return Ok((row, Opened::Known));
    }
    let file = blob.open().map_err(|error| store_problem(WHAT, &error))?;
    if row.size > SMALL {
        return Ok((row, Opened::File(file)));
    }
    let mut bytes = vec![0; usize::try_from(row.size).unwrap_or(0)];
    let read = file.read_exact_at(&mut bytes, 0);
    read.map_err(|error| Problem::internal("reading of a blob", &error))?;
    Ok((row, Opened::Small(bytes.into())))
}

#[derive(Debug, thiserror::Error)]
#[error("content {digest} has {size} bytes on disk and {expected} in the index: damaged")]
struct Damaged {
    digest: Digest,
    size: u64,
    expected: u64,
}

/// Notes that somebody was told that the blob is there (`is_asked`), and may leave it out of what is pushed next: it must
/// outlast that. Who reads it relies on it only as long as that takes, which a manifest that refers to it sees to as well.
/// Noted again only when half the time has passed, so that reading is not writing. On a full disk nothing can be noted,
/// and what is there can be read all the same.
fn rely(service: &Arc<Service>, name: &Repository, digest: &Digest, row: BlobRow, is_asked: bool) -> Result<()> {
    const WHAT: &str = "note the use of a blob";
    let half = i64::try_from(service.settings.limits.unreferenced.as_secs() / 2).unwrap_or(i64::MAX);
    let now = crate::store::now();
    if now.saturating_sub(row.touched) < half {
        return Ok(());
    }
    let index = service.store.index();
    if !is_asked {
        let is_kept = index.read(WHAT, |connection| rows::is_referred(connection, name, digest));
        if is_kept.map_err(|error| store_problem(WHAT, &error))? {
            return Ok(());
        }
    }
    let relied = index.write(WHAT, |transaction| {
        let Some(repository) = rows::repository(transaction, name)? else { return Ok(false) };
        // It may have been swept since it was looked up.
        if rows::blob(transaction, name, digest)?.is_none() {
            return Ok(false);
        }
        rows::link_blob(transaction, repository, digest, row.size, now)?;
        Ok(true)
    });
    match relied {
        Ok(true) => Ok(()),
        Ok(false) => Err(unknown(name, digest)),
        Err(error) => {
            tracing::warn!(error = super::server::chain(&error), %digest, repository = %name, "use of a blob not noted");
            Ok(())
        }
    }
}

fn unknown(name: &Repository, digest: &Digest) -> Box<Problem> {
    Problem::new(Code::BlobUnknown, format!("there is no blob {digest} in repository {name}"))
        .detail(json!({ "name": name.as_str(), "digest": digest.as_str() }))
}

/// `DELETE` of a blob: the repository has it no more. Manifests of the repository that refer to it stay, and with them
/// its content; nobody can read it here.
pub(super) async fn delete(call: &Call<'_>, name: &Repository, digest: &Digest) -> Result<Response<Content>> {
    let (service, wanted_name, wanted_digest) = (call.service.clone(), name.clone(), digest.clone());
    let remove = move || {
        let index = service.store.index();
        let change = index
            .write_durably("remove a blob", |transaction| rows::unlink_blob(transaction, &wanted_name, &wanted_digest));
        change.map_err(|error| store_problem("removal of a blob", &error))
    };
    if !call.service.block("registry-blob", remove).await? {
        return Err(unknown(name, digest));
    }
    let mut response = empty(StatusCode::ACCEPTED);
    header(&mut response, CONTENT_DIGEST, digest.as_str());
    Ok(response)
}
