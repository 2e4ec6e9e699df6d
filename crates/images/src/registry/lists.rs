//! Lists and their pages: tags, repositories, referrers.

use super::{
    body::Content,
    problem::{Code, Problem, Result},
    query::{Page, encode},
    rows,
    service::{Call, header, json, store_problem},
};
use hyper::{
    Response,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, LINK},
};
use model::image::{Digest, Repository};
use serde_json::json as document;

const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Bytes of a page of referrers at most: what clients take for the largest manifest.
const REFERRERS: usize = 4 << 20;
/// Between kind and digest of a place in the list.
const PARTED: char = ' ';
/// What stands around the entries of such a page.
const HEAD: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#;

/// `GET …/tags/list`
pub(super) async fn tags(call: &Call<'_>, name: &Repository) -> Result<Response<Content>> {
    let page = Page::parse(&call.query)?;
    let limit = page.limit();
    let (service, wanted, last) = (call.service.clone(), name.clone(), page.last.clone().unwrap_or_default());
    let list = move || {
        let list = service.store.index().read("list tags", |connection| {
            let Some(repository) = rows::repository(connection, &wanted)? else { return Ok(None) };
            // One more, to know whether there is more.
            rows::tags(connection, repository, &last, limit + 1).map(Some)
        });
        list.map_err(|error| store_problem("list of tags", &error))
    };
    let mut tags = call.service.block("registry-list", list).await?.ok_or_else(|| {
        Problem::new(Code::NameUnknown, format!("there is no repository {name}"))
            .detail(document!({ "name": name.as_str() }))
    })?;
    let more = tags.len() > limit;
    tags.truncate(limit);
    let mut response = json(document!({ "name": name.as_str(), "tags": tags }).to_string());
    if more && let Some(last) = tags.last() {
        link(&mut response, &format!("/v2/{name}/tags/list?n={limit}&last={}", encode(last)));
    }
    Ok(response)
}

/// `GET /v2/_catalog`: the repositories that the sender may read.
pub(super) async fn catalogue(call: &Call<'_>) -> Result<Response<Content>> {
    call.service.authority.require_list(call.identity, &call.parts.headers)?;
    let page = Page::parse(&call.query)?;
    let limit = page.limit();
    let (service, identity, last) = (call.service.clone(), call.identity.clone(), page.last.unwrap_or_default());
    let list = move || {
        let mut names = Vec::new();
        let list = service.store.index().read("list repositories", |connection| {
            rows::repositories(connection, &last, |name| {
                let seen = name.parse().is_ok_and(|name| service.authority.sees(&identity, &name));
                if seen {
                    names.push(name);
                }
                names.len() <= limit
            })
        });
        list.map_err(|error| store_problem("list of repositories", &error))?;
        Ok(names)
    };
    let mut names = call.service.block("registry-list", list).await?;
    let more = names.len() > limit;
    names.truncate(limit);
    let mut response = json(document!({ "repositories": names }).to_string());
    if more && let Some(last) = names.last() {
        link(&mut response, &format!("/v2/_catalog?n={limit}&last={}", encode(last)));
    }
    Ok(response)
}

/// `GET …/referrers/<digest>`: the manifests whose subject this is; none, if there is no such manifest or repository.
pub(super) async fn referrers(call: &Call<'_>, name: &Repository, subject: &Digest) -> Result<Response<Content>> {
    let page = Page::parse(&call.query)?;
    let most = page.asked.unwrap_or(usize::MAX);
    let artifact_type = call.query.get("artifactType").filter(|text| !text.is_empty()).map(str::to_owned);
    let (service, wanted, about) = (call.service.clone(), name.clone(), subject.clone());
    let (last, filter) = (page.last.clone().unwrap_or_default(), artifact_type.clone());
    // A place in the list is a kind and a digest, parted by what is not in a digest.
    let last = last.rsplit_once(PARTED).map(|(kind, digest)| (kind.to_owned(), digest.to_owned())).unwrap_or_default();
    let list = move || {
        let mut body = String::from(HEAD);
        let mut final_entry = String::new();
        let (mut count, mut more) = (0, false);
        let list = service.store.index().read("list referrers", |connection| {
            let last = (&*last.0, &*last.1);
            rows::referrers(connection, &wanted, &about, filter.as_deref(), last, |kind, digest, descriptor| {
                let fits = count < most && (body.len() + descriptor.len() + 3 <= REFERRERS || count == 0);
                if fits {
                    if count > 0 {
                        body.push(',');
                    }
                    body.push_str(descriptor);
                    final_entry.clear();
                    final_entry.push_str(kind);
                    final_entry.push(PARTED);
                    final_entry.push_str(digest);
                    count += 1;
                } else {
                    more = true;
                }
                fits
            })
        });
        list.map_err(|error| store_problem("list of referrers", &error))?;
        body.push_str("]}");
        Ok((body, more.then_some(final_entry)))
    };
    let (body, next) = call.service.block("registry-list", list).await?;
    let mut response = json(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(crate::media::OCI_INDEX));
    if artifact_type.is_some() {
        response.headers_mut().insert(FILTERS, HeaderValue::from_static("artifactType"));
    }
    if let Some(next) = next.filter(|next| !next.is_empty()) {
        let mut address = format!("/v2/{name}/referrers/{subject}?last={}", encode(&next));
        if let Some(asked) = page.asked {
            address.push_str(&format!("&n={asked}"));
        }
        if let Some(artifact_type) = &artifact_type {
            address.push_str(&format!("&artifactType={}", encode(artifact_type)));
        }
        link(&mut response, &address);
    }
    Ok(response)
}

/// Where the next page is (RFC 8288).
fn link(response: &mut Response<Content>, address: &str) {
    header(response, LINK, &format!("<{address}>; rel=\"next\""));
}
