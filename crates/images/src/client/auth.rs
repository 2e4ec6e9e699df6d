//! Who we are at one registry: what its challenges ask for, and the tokens that answer them.

use super::{
    challenge::{Bearer, Challenge},
    credentials::Credentials,
    error::{Asked, ClientError},
    session::Session,
    token,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::header::HeaderValue;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::sync::OnceCell;

/// Tokens kept for one registry; a client that needs more begins anew.
const MOST_TOKENS: usize = 64;

/// What must be allowed, as Distribution's token specification writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope(pub(super) Vec<String>);

impl Scope {
    /// To read a repository.
    pub(super) fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }
    /// To write one, and to take blobs from another.
    pub(super) fn push(repository: &str, from: Option<&str>) -> Self {
        let mut all = vec![format!("repository:{repository}:pull,push")];
        all.extend(from.map(|from| format!("repository:{from}:pull")));
        Self(all)
    }
}

/// A header that proves who we are.
pub(super) type Proof = HeaderValue;

#[derive(Clone)]
struct Token {
    proof: Proof,
    until: Instant,
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    tokens: HashMap<(Bearer, Scope), Token>,
}

/// Answers the challenges of one registry.
#[derive(Default)]
pub(super) struct Auth {
    credentials: OnceCell<Option<Arc<Credentials>>>,
    state: Mutex<State>,
    /// Transfers that begin together ask for a token once.
    asking: tokio::sync::Mutex<()>,
}

impl Auth {
    /// What goes with the first try of a request: what the registry asked for before, if anything.
    pub(super) async fn proof(
        &self,
        session: &Session,
        asked: &Asked,
        scope: &Scope,
    ) -> Result<Option<Proof>, ClientError> {
        let challenge = self.state().challenge.clone();
        match challenge {
            None => Ok(None),
            Some(challenge) => self.answer(session, asked, &challenge, scope, None).await,
        }
    }

    /// The answer to a challenge; `rejected` is what was sent before. `None` when there is no other answer.
    pub(super) async fn answer(
        &self,
        session: &Session,
        asked: &Asked,
        challenge: &Challenge,
        scope: &Scope,
        rejected: Option<&Proof>,
    ) -> Result<Option<Proof>, ClientError> {
        let found = match challenge {
            Challenge::Basic => self.basic(session).await?,
            Challenge::Bearer(bearer) => Some(self.bearer(session, asked, bearer, scope, rejected).await?),
        };
        // What a challenge wants is for the request that it answers; the next may be for another repository.
        self.state().challenge = Some(match challenge {
            Challenge::Basic => Challenge::Basic,
            Challenge::Bearer(bearer) => Challenge::Bearer(Bearer { scope: None, ..bearer.clone() }),
        });
        Ok(found.filter(|found| Some(found) != rejected))
    }

    async fn basic(&self, session: &Session) -> Result<Option<Proof>, ClientError> {
        match self.credentials(session).await?.as_deref() {
            Some(Credentials::Password { user, password }) => Ok(basic(user, password.expose())),
            // An identity token is for token servers only.
            Some(Credentials::Identity(_)) | None => Ok(None),
        }
    }

    async fn bearer(
        &self,
        session: &Session,
        asked: &Asked,
        bearer: &Bearer,
        scope: &Scope,
        rejected: Option<&Proof>,
    ) -> Result<Proof, ClientError> {
        let scope = wider(scope, bearer.scope.as_deref());
        // The scope of a challenge is in `scope` now; without it the key is the same for the whole registry.
        let key = (Bearer { scope: None, ..bearer.clone() }, scope);
        if let Some(proof) = self.cached(&key, rejected) {
            return Ok(proof);
        }
        let _asking = self.asking.lock().await;
        if let Some(proof) = self.cached(&key, rejected) {
            return Ok(proof);
        }
        let credentials = self.credentials(session).await?;
        let (proof, lifetime) = token::fetch(session, asked, &key.0, &key.1, credentials.as_deref()).await?;
        let mut state = self.state();
        if state.tokens.len() >= MOST_TOKENS {
            state.tokens.clear();
        }
        // A tenth early: what is sent with it takes its time.
        state.tokens.insert(key, Token { proof: proof.clone(), until: Instant::now() + lifetime.mul_f64(0.9) });
        Ok(proof)
    }

    fn cached(&self, key: &(Bearer, Scope), rejected: Option<&Proof>) -> Option<Proof> {
        let state = self.state();
        let token = state.tokens.get(key)?;
        (token.until > Instant::now() && Some(&token.proof) != rejected).then(|| token.proof.clone())
    }

    /// The credentials for this registry, looked up once.
    pub(super) async fn credentials(&self, session: &Session) -> Result<Option<Arc<Credentials>>, ClientError> {
        let found =
            self.credentials.get_or_try_init(|| async { session.look_up().await.map(|found| found.map(Arc::new)) });
        found.await.cloned()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The header of a user and a password.
pub(super) fn basic(user: &str, password: &str) -> Option<Proof> {
    sensitive(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

/// A header value that is not shown; `None` when it can not be one.
pub(super) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What we need, and what the registry says is needed besides.
fn wider(scope: &Scope, challenge: Option<&str>) -> Scope {
    let mut all = scope.0.clone();
    for one in challenge.unwrap_or_default().split_ascii_whitespace().take(8) {
        let covered = all.iter().any(|have| covers(have, one));
        if !covered && one.len() <= 1024 {
            all.push(one.to_owned());
        }
    }
    Scope(all)
}

/// Whether `have` (`repository:a:pull,push`) allows all of `wanted` (`repository:a:pull`).
fn covers(have: &str, wanted: &str) -> bool {
    match (have.rsplit_once(':'), wanted.rsplit_once(':')) {
        (Some((one, have)), Some((other, wanted))) => {
            one == other && wanted.split(',').all(|action| have.split(',').any(|has| has == action))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_of_a_challenge_is_added_where_it_is_more() {
        let push = Scope::push("a/b", Some("c"));
        assert_eq!(wider(&push, Some("repository:a/b:pull")), push);
        assert_eq!(wider(&push, Some("repository:a/b:push,pull")), push);
        assert_eq!(wider(&push, None), push);
        let wide = wider(&Scope::pull("a/b"), Some("repository:a/b:pull,push registry:catalog:*"));
        assert_eq!(wide.0, ["repository:a/b:pull", "repository:a/b:pull,push", "registry:catalog:*"]);
    }

    #[test]
    fn proofs_are_not_shown() {
        let proof = basic("Aladdin", "open sesame").unwrap();
        assert_eq!(proof.to_str().unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(format!("{proof:?}"), "Sensitive");
        assert!(sensitive("a\nb").is_none());
    }
}
