//! Tokens from the server that a registry names (Distribution's token specification, and its OAuth 2 form).

use super::{
    auth::{Proof, Scope, basic, sensitive},
    challenge::Bearer,
    credentials::Credentials,
    error::{Asked, ClientError, said},
    retry,
    session::Session,
    transport::is_loopback,
};
use reqwest::{
    Method, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use std::time::Duration;

/// Largest answer of a token server, bytes.
const LARGEST: usize = 1 << 20;
/// How long a token lasts when its server does not say (Distribution's token specification).
const LIFETIME: Duration = Duration::from_secs(60);
/// The longest that a token is kept.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Our name at token servers.
const CLIENT: &str = "jdos";

#[derive(serde::Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

/// A token for this scope as a header, and how long it lasts.
pub(super) async fn fetch(
    session: &Session,
    asked: &Asked,
    bearer: &Bearer,
    scope: &Scope,
    credentials: Option<&Credentials>,
) -> Result<(Proof, Duration), ClientError> {
    let malformed = |why: &str| ClientError::Malformed { asked: asked.clone(), why: why.to_owned() };
    let mut url = realm(session, bearer).ok_or_else(|| {
        malformed("the address of its token server is none, or would have credentials travel unprotected")
    })?;
    let service = bearer.service.as_deref();
    let request = match credentials {
        Some(Credentials::Identity(token)) => {
            // A query and a form are written alike.
            let mut form = url.clone();
            form.query_pairs_mut()
                .clear()
                .extend_pairs([("grant_type", "refresh_token"), ("client_id", CLIENT)])
                .extend_pairs(service.map(|service| ("service", service)))
                .append_pair("scope", &scope.0.join(" "))
                .append_pair("refresh_token", token.expose());
            let body = form.query().unwrap_or_default().to_owned();
            let request = session.transport().to(&url)?.request(Method::POST, url.clone());
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
        }
        other => {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(service.map(|service| ("service", service)));
            query.extend_pairs(scope.0.iter().map(|scope| ("scope", scope)));
            query.append_pair("client_id", CLIENT);
            if let Some(Credentials::Password { user, .. }) = other {
                query.append_pair("account", user);
            }
            drop(query);
            let request = session.transport().to(&url)?.request(Method::GET, url.clone());
            match other {
                Some(Credentials::Password { user, password }) => {
                    let proof = basic(user, password.expose())
                        .ok_or_else(|| malformed("the user or password has characters that can not be sent"))?;
                    request.header(AUTHORIZATION, proof)
                }
                _ => request,
            }
        }
    };
    let response = session.respond(request.header(ACCEPT, "application/json"), asked, &url, None).await?;
    let status = response.status();
    let wait = retry::retry_after(response.headers(), jiff::Timestamp::now());
    let body = session.body(response, asked, LARGEST).await?;
    match status {
        StatusCode::OK => {}
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(session.denied(asked, credentials, said(&body)));
        }
        status => return Err(ClientError::Answer { asked: asked.clone(), status, said: said(&body), wait }),
    }
    // The text may hold the token, so that only its being wrong is told.
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| malformed("the answer of its token server is not the JSON that was expected"))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    let proof = sensitive(&format!("Bearer {token}")).filter(|_| !token.is_empty());
    let proof = proof.ok_or_else(|| malformed("its token server gave no token"))?;
    let lifetime = answer.expires_in.map_or(LIFETIME, Duration::from_secs).clamp(Duration::from_secs(1), LONGEST);
    Ok((proof, lifetime))
}

/// The token server's address, if a password may travel there: by TLS, unless the registry itself is spoken to without.
fn realm(session: &Session, bearer: &Bearer) -> Option<Url> {
    let mut url = session.base().join(&bearer.realm).ok()?;
    let safe = match url.scheme() {
        "https" => true,
        "http" => session.base().scheme() == "http" || is_loopback(&url),
        _ => false,
    };
    // What is before an `@` would be sent as a password.
    url.set_username("").and_then(|()| url.set_password(None)).ok()?;
    safe.then_some(url)
}
