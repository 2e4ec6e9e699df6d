//! Tokens of the Distribution token protocol: who somebody is, and what they asked to be allowed.
//!
//! A token is a JWT signed with HMAC-SHA-256 (RFC 7519, `HS256`), opaque to clients. It only ever narrows what the
//! account may do: the account's grants are looked at on each request, so that a removed account is out at once.

use super::{
    access::{Scope, Verbs},
    codec,
};
use model::image::Repository;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How long a token is good for, in seconds. (The protocol's least is 60.)
pub(super) const LIFETIME: i64 = 300;
/// Scopes that one token carries at most.
pub(super) const SCOPES: usize = 32;

/// `{"alg":"HS256","typ":"JWT"}`
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// The account; empty for nobody in particular.
    #[serde(rename = "sub")]
    pub account: String,
    /// Of the account's secret: another secret, another serial.
    pub serial: i64,
    /// Seconds since 1970.
    #[serde(rename = "iat")]
    pub issued: i64,
    /// Seconds since 1970.
    #[serde(rename = "exp")]
    pub expires: i64,
    /// What was granted of what was asked for.
    pub access: Vec<Access>,
    /// Whether it is for the list of repositories.
    #[serde(rename = "catalog", default, skip_serializing_if = "std::ops::Not::not")]
    pub catalogue: bool,
}

/// What a token allows in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Access {
    name: Repository,
    actions: Vec<String>,
}

impl Claims {
    /// Everything that it allows there.
    pub fn allow(&self, repository: &Repository) -> Verbs {
        let here = self.access.iter().filter(|access| access.name == *repository);
        let verbs = here.flat_map(|access| access.actions.iter().filter_map(|word| Verbs::word(word)));
        verbs.fold(Verbs::NONE, std::ops::BitOr::bitor)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repository:{}:{}", self.name, self.actions.join(","))
    }
}

impl From<Scope> for Access {
    fn from(scope: Scope) -> Self {
        Self { actions: scope.verbs.words().map(str::to_owned).collect(), name: scope.repository }
    }
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// We never made it.
    Forged,
    /// Its time is over.
    Expired,
}

/// The key that signs tokens and addresses of uploads.
#[derive(Clone)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The token that says this.
    pub fn sign(&self, claims: &Claims) -> Result<String, serde_json::Error> {
        let mut token = format!("{HEADER}.{}", codec::base64_url(&serde_json::to_vec(claims)?));
        let signature = codec::hmac(&self.0, &[b"token\0", token.as_bytes()]);
        token.push('.');
        token.push_str(&codec::base64_url(&signature));
        Ok(token)
    }

    /// What a token says, if we said it and it still holds at `now` (seconds since 1970).
    pub fn verify(&self, token: &str, now: i64) -> Result<Claims, Refused> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Forged)?;
        let claims = signed.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('.')).ok_or(Refused::Forged)?;
        let given = codec::base64_url_decode(signature).ok_or(Refused::Forged)?;
        if !codec::same(&codec::hmac(&self.0, &[b"token\0", signed.as_bytes()]), &given) {
            return Err(Refused::Forged);
        }
        let claims = codec::base64_url_decode(claims).ok_or(Refused::Forged)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Refused::Forged)?;
        if claims.expires <= now { Err(Refused::Expired) } else { Ok(claims) }
    }

    /// What is remembered of a secret that was right: it tells nothing to whoever reads it.
    pub fn proof(&self, name: &str, secret: &str) -> [u8; 32] {
        codec::hmac(&self.0, &[b"proof\0", name.as_bytes(), b"\0", secret.as_bytes()])
    }

    /// A short code that binds `parts` together: addresses that clients bring back cannot be made up.
    pub fn seal(&self, parts: &[&str]) -> String {
        let mut bytes: Vec<&[u8]> = vec![b"seal\0"];
        for part in parts {
            bytes.push(part.as_bytes());
            bytes.push(b"\0");
        }
        codec::base64_url(&codec::hmac(&self.0, &bytes)[..15])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let access = vec![Scope::parse("repository:a/b:pull,push").unwrap().into()];
        Claims { account: "ci".into(), serial: 7, issued: 1000, expires: 1300, access, catalogue: false }
    }

    #[test]
    fn header_is_what_it_says() {
        assert_eq!(codec::base64_url(br#"{"alg":"HS256","typ":"JWT"}"#), HEADER);
    }

    #[test]
    fn only_our_own_are_believed_and_not_for_ever() {
        let key = Key::new([1; 32]);
        let token = key.sign(&claims()).unwrap();
        assert_eq!(key.verify(&token, 1299).unwrap(), claims());
        assert_eq!(key.verify(&token, 1300), Err(Refused::Expired));
        assert_eq!(Key::new([2; 32]).verify(&token, 1000), Err(Refused::Forged));
        let forged = token.replacen("HS256", "none", 1);
        let (signed, _) = forged.rsplit_once('.').unwrap();
        for bad in [signed, &format!("{signed}."), "", "..", "a.b.c", &format!("{token}x"), &token[1..]] {
            assert_eq!(key.verify(bad, 1000), Err(Refused::Forged), "{bad}");
        }
        let mut other = claims();
        other.account = "admin".into();
        let body = codec::base64_url(&serde_json::to_vec(&other).unwrap());
        let signature = token.rsplit_once('.').unwrap().1;
        assert_eq!(key.verify(&format!("{HEADER}.{body}.{signature}"), 1000), Err(Refused::Forged));
    }

    #[test]
    fn allows_what_was_granted_there() {
        let claims = claims();
        assert_eq!(claims.allow(&"a/b".parse().unwrap()), Verbs::PULL | Verbs::PUSH);
        assert_eq!(claims.allow(&"a".parse().unwrap()), Verbs::NONE);
    }

    #[test]
    fn seals_tell_parts_apart() {
        let key = Key::new([1; 32]);
        assert_ne!(key.seal(&["ab", "c"]), key.seal(&["a", "bc"]));
        assert_eq!(key.seal(&["ab", "c"]), key.seal(&["ab", "c"]));
    }
}
