//! `/v2/token`: the Distribution token protocol, as GET with Basic authentication and as the POST of OAuth 2.

use super::{
    authority::Identity,
    body::Content,
    problem::{Code, Problem, Result},
    query::Query,
    receive::{Unread, whole},
    service::{Peer, Service, json},
};
use hyper::{
    Method, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, HeaderValue},
    http::request::Parts,
};
use std::sync::Arc;

/// Bytes of a form at most.
const FORM: usize = 16 << 10;

/// Answers a request for a token.
pub(super) async fn answer(
    service: &Arc<Service>,
    parts: &Parts,
    peer: &Peer,
    body: &mut Incoming,
) -> Result<Response<Content>> {
    let document = match parts.method {
        Method::GET => {
            let identity = service.authority.identify(&parts.headers, peer.address).await?;
            let query = Query::parse(parts.uri.query())?;
            service.authority.issue(&identity, &query.all("scope").collect::<Vec<_>>())?
        }
        Method::POST => {
            let bytes = whole(body, FORM, service.settings.limits.stall).await.map_err(unread)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| invalid("the form is not UTF-8"))?;
            let form = Query::parse(Some(text))?;
            match form.get("grant_type") {
                Some("password") => {}
                Some(other) => {
                    return Err(invalid(&format!("grant_type `{other}` is not supported: expected password")));
                }
                None => return Err(invalid("grant_type is missing: expected password")),
            }
            let name = form.get("username").unwrap_or_default();
            let account = service.authority.login(name, form.get("password").unwrap_or_default(), peer.address).await?;
            let account = account.ok_or_else(|| Problem::new(Code::Unauthorized, "wrong name, password or token"))?;
            service.authority.issue(&Identity::Account(account), &form.all("scope").collect::<Vec<_>>())?
        }
        _ => {
            return Err(Problem::new(
                Code::Unsupported,
                format!("{} is not possible here: expected GET or POST", parts.method),
            )
            .header(ALLOW, HeaderValue::from_static("GET, POST")));
        }
    };
    let mut response = json(document.to_string());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn unread(why: Unread) -> Box<Problem> {
    match why {
        Unread::TooLarge => {
            invalid(&format!("the form is larger than {FORM} bytes")).status(StatusCode::PAYLOAD_TOO_LARGE)
        }
        Unread::Broken(error) => invalid(&format!("the form cannot be read: {error}")),
        Unread::Late => invalid("the form took too long to come").status(StatusCode::REQUEST_TIMEOUT).hang_up(),
    }
}

fn invalid(message: &str) -> Box<Problem> {
    Problem::new(Code::Unsupported, message).status(StatusCode::BAD_REQUEST)
}
