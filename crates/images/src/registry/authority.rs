//! Who a request comes from, and whether that one may do what it asks for.

use super::{
    access::{Grant, Scope, Verbs, allowed},
    accounts::{Account, Accounts, is_name},
    audit::Audit,
    blocking::Pool,
    cache::Cache,
    codec,
    logins::Logins,
    metrics::Counters,
    problem::{Code, Problem, Result},
    settings::{Challenge, Settings},
    token::{self, Claims, Key, Refused},
};
use hyper::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, HOST, HeaderValue, WWW_AUTHENTICATE},
};
use jiff::Timestamp;
use model::image::Repository;
use std::{net::SocketAddr, sync::Arc};

/// Who somebody is.
#[derive(Debug, Clone)]
pub(super) enum Identity {
    /// Nobody in particular.
    Anonymous,
    /// This account, by its password or token.
    Account(Arc<Account>),
    /// Whoever a token of ours names, within what it says. (`None`: nobody in particular.)
    Token(Option<Arc<Account>>, Box<Claims>),
}

impl Identity {
    /// The account's name; empty without one.
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous | Self::Token(None, _) => "",
            Self::Account(account) | Self::Token(Some(account), _) => &account.name,
        }
    }
}

/// Decides.
pub(super) struct Authority {
    open: bool,
    anonymous: Vec<Grant>,
    challenge: Challenge,
    /// What clients reach us by, if it is fixed.
    url: Option<String>,
    scheme: &'static str,
    key: Key,
    accounts: Accounts,
    cache: Arc<Cache>,
    pool: Pool,
    counters: Counters,
    logins: Logins,
}

/// The scope of the list of repositories.
const CATALOGUE: &str = "registry:catalog:*";

impl Authority {
    pub fn new(
        settings: &Settings,
        accounts: Accounts,
        key: Key,
        cache: Arc<Cache>,
        pool: Pool,
        counters: Counters,
        audit: Option<Arc<Audit>>,
    ) -> Self {
        let logins = Logins::new(key.clone(), pool.clone(), counters.clone(), audit);
        Self {
            open: settings.open,
            anonymous: settings.anonymous.clone(),
            challenge: settings.challenge,
            url: settings.url.clone(),
            scheme: if settings.tls.is_some() { "https" } else { "http" },
            key,
            accounts,
            cache,
            pool,
            counters,
            logins,
        }
    }

    /// Who sent these headers.
    ///
    /// # Errors
    /// `UNAUTHORIZED` when they name somebody and it is not proven.
    pub async fn identify(&self, headers: &HeaderMap, client: SocketAddr) -> Result<Identity> {
        let Some(header) = headers.get(AUTHORIZATION) else { return Ok(Identity::Anonymous) };
        if self.open {
            // Whoever it is may do everything.
            return Ok(Identity::Anonymous);
        }
        let refused = |why: &str| self.refuse(headers, "", why, "invalid_request");
        let (scheme, value) = header
            .to_str()
            .ok()
            .and_then(|text| text.trim().split_once(' '))
            .ok_or_else(|| refused("the header Authorization is malformed"))?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.bearer(value.trim(), headers).await;
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(refused("the header Authorization has a scheme that is not supported"));
        }
        let decoded = codec::base64_decode(value.trim()).and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or_else(|| refused("the header Authorization is malformed"))?;
        let (name, secret) = decoded.split_once(':').unwrap_or((&decoded, ""));
        if name.is_empty() && secret.is_empty() {
            return Ok(Identity::Anonymous);
        }
        match self.login(name, secret, client).await? {
            Some(account) => Ok(Identity::Account(account)),
            None => Err(self.refuse(headers, "", "wrong name, password or token", "invalid_token")),
        }
    }

    /// The account, if this is its password or token.
    ///
    /// # Errors
    /// `TOOMANYREQUESTS` when others wait, or this client was wrong too often.
    pub async fn login(&self, name: &str, secret: &str, client: SocketAddr) -> Result<Option<Arc<Account>>> {
        if !is_name(name) {
            // Nobody has it: it need not be looked up, nor remembered, nor take as long as if somebody had.
            return self.logins.misnamed(client).await.map(|()| None);
        }
        let account = self.account(name).await?.filter(|account| account.is_current(Timestamp::now()));
        self.logins.check(name, secret, account, client).await
    }

    async fn account(&self, name: &str) -> Result<Option<Arc<Account>>> {
        let failed = |error: &dyn std::error::Error| Problem::internal("lookup of an account", error);
        let generation = self.cache.generation().map_err(|error| failed(&error))?;
        if let Some(known) = self.cache.account(generation, name) {
            return Ok(known);
        }
        let (accounts, wanted) = (self.accounts.clone(), name.to_owned());
        let found = self.pool.run("registry-login", move || accounts.find(&wanted)).await;
        let found = found.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?.map(Arc::new);
        self.cache.put_account(generation, name.to_owned(), found.clone());
        Ok(found)
    }

    async fn bearer(&self, token: &str, headers: &HeaderMap) -> Result<Identity> {
        let now = Timestamp::now();
        let refused = |why: &str| self.refuse(headers, "", why, "invalid_token");
        let claims = self.key.verify(token, now.as_second()).map_err(|why| {
            if why == Refused::Forged {
                self.counters.logins_failed.inc();
            }
            refused(if why == Refused::Expired { "the token has expired" } else { "the token is not one of ours" })
        })?;
        if claims.account.is_empty() {
            return Ok(Identity::Token(None, Box::new(claims)));
        }
        let account = self.account(&claims.account).await?;
        match account.filter(|account| account.serial == claims.serial && account.is_current(now)) {
            Some(account) => Ok(Identity::Token(Some(account), Box::new(claims))),
            None => Err(refused("the account of the token is gone or has another secret")),
        }
    }

    /// What somebody may do in a repository, whatever a token narrows it to.
    fn rights(&self, account: Option<&Account>, repository: &Repository) -> Verbs {
        if self.open {
            return Verbs::ALL;
        }
        let own = account.map_or(Verbs::NONE, |account| allowed(&account.grants, repository));
        own | allowed(&self.anonymous, repository)
    }

    /// What somebody may do in a repository.
    pub fn verbs(&self, identity: &Identity, repository: &Repository) -> Verbs {
        match identity {
            Identity::Anonymous => self.rights(None, repository),
            Identity::Account(account) => self.rights(Some(account), repository),
            Identity::Token(account, claims) => {
                self.rights(account.as_deref(), repository).and(claims.allow(repository))
            }
        }
    }

    /// Whether somebody may read there, with what a token leaves of it; what everybody may read needs none.
    pub fn reads(&self, identity: &Identity, repository: &Repository) -> bool {
        (self.verbs(identity, repository) | self.rights(None, repository)).contain(Verbs::PULL)
    }

    /// Whether somebody sees a repository in a list: where it may read, or with a token for lists where its account may,
    /// since what is in a list cannot be asked for by name.
    pub fn sees(&self, identity: &Identity, repository: &Repository) -> bool {
        match identity {
            Identity::Token(account, claims) if claims.catalogue => {
                self.rights(account.as_deref(), repository).contain(Verbs::PULL)
            }
            identity => self.reads(identity, repository),
        }
    }

    /// Lets somebody do this, or says why not.
    ///
    /// # Errors
    /// `UNAUTHORIZED` when somebody else, or the same with another token, may; `DENIED` when this one may not.
    pub fn require(
        &self,
        identity: &Identity,
        repository: &Repository,
        verbs: Verbs,
        headers: &HeaderMap,
    ) -> Result<()> {
        if self.verbs(identity, repository).contain(verbs) {
            return Ok(());
        }
        // Who writes reads too, and asks for it only once this way.
        let reads = if verbs == Verbs::PUSH { Verbs::PULL } else { Verbs::NONE };
        let scope = Scope { repository: repository.clone(), verbs: verbs | reads }.to_string();
        let account = match identity {
            Identity::Anonymous | Identity::Token(None, _) => {
                return Err(self.refuse(headers, &scope, &format!("{verbs} of {repository} needs an account"), ""));
            }
            Identity::Account(account) | Identity::Token(Some(account), _) => account,
        };
        if self.rights(Some(account), repository).contain(verbs) {
            let why = format!("the token does not allow {verbs} of {repository}");
            return Err(self.refuse(headers, &scope, &why, "insufficient_scope"));
        }
        let name = &account.name;
        Err(Problem::new(Code::Denied, format!("account `{name}` has no grant for {verbs} of {repository}")))
    }

    /// Lets somebody see a list, which has what that one may read ([`Authority::sees`]).
    ///
    /// # Errors
    /// `UNAUTHORIZED` when nobody may read anything without an account, or the token is for nothing at all.
    pub fn require_list(&self, identity: &Identity, headers: &HeaderMap) -> Result<()> {
        match identity {
            Identity::Token(Some(_), claims) if !claims.catalogue && claims.access.is_empty() => {
                Err(self.refuse(headers, CATALOGUE, "the token does not allow lists", "insufficient_scope"))
            }
            identity => self.require_anybody(identity, headers, CATALOGUE),
        }
    }

    fn require_anybody(&self, identity: &Identity, headers: &HeaderMap, scope: &str) -> Result<()> {
        match identity {
            Identity::Anonymous | Identity::Token(None, _) if !self.open && self.anonymous.is_empty() => {
                Err(self.refuse(headers, scope, "this registry needs an account", ""))
            }
            _ => Ok(()),
        }
    }

    /// Answers whether somebody is known here: clients ask once, and learn from a refusal how to say who they are. Where
    /// reading needs no account, a token for nobody in particular will do, so that clients with an account bring it.
    ///
    /// # Errors
    /// `UNAUTHORIZED` with the challenge.
    pub fn require_introduction(&self, identity: &Identity, headers: &HeaderMap) -> Result<()> {
        match identity {
            Identity::Anonymous if !self.open => Err(self.refuse(headers, "", "who are you?", "")),
            identity => self.require_anybody(identity, headers, ""),
        }
    }

    /// The answer 401 with its challenge; `scope` is what would do, or empty, `error` is a word of RFC 6750, or empty.
    fn refuse(&self, headers: &HeaderMap, scope: &str, why: &str, error: &str) -> Box<Problem> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).filter(|host| is_host(host));
        let own = host.map(|host| format!("{}://{host}", self.scheme));
        let base = self.url.clone().or(own).unwrap_or_default();
        let base = base.trim_end_matches('/');
        let service = base.split_once("://").map_or(base, |(_, rest)| rest);
        let challenge = match self.challenge {
            Challenge::Basic => format!("Basic realm=\"{service}\", charset=\"UTF-8\""),
            Challenge::Bearer => {
                let mut text = format!("Bearer realm=\"{base}/v2/token\",service=\"{service}\"");
                if !scope.is_empty() {
                    text.push_str(&format!(",scope=\"{scope}\""));
                }
                if !error.is_empty() {
                    text.push_str(&format!(",error=\"{error}\""));
                }
                text
            }
        };
        let problem = Problem::new(Code::Unauthorized, why);
        // It is made of the host, which was checked, and of our own words.
        match HeaderValue::try_from(challenge) {
            Ok(challenge) => problem.header(WWW_AUTHENTICATE, challenge),
            Err(_) => problem.status(StatusCode::BAD_REQUEST),
        }
    }

    /// A token for what was asked for, as far as it is granted; the document of the token protocol.
    pub fn issue(&self, identity: &Identity, scopes: &[&str]) -> Result<serde_json::Value> {
        let account = match identity {
            Identity::Anonymous | Identity::Token(None, _) => None,
            Identity::Account(account) | Identity::Token(Some(account), _) => Some(account.as_ref()),
        };
        let words = || scopes.iter().flat_map(|scopes| scopes.split(' '));
        let asked = words().filter_map(Scope::parse).take(token::SCOPES);
        let granted = asked.filter_map(|scope| {
            let verbs = match identity {
                // A token for a token cannot grant more than the first.
                Identity::Token(..) => self.verbs(identity, &scope.repository),
                _ => self.rights(account, &scope.repository),
            };
            let verbs = verbs.and(scope.verbs);
            (!verbs.is_empty()).then(|| Scope { verbs, ..scope }.into())
        });
        // A token for a token cannot last longer than the first either, or whoever has one had it for ever.
        let (lists, last) = match identity {
            Identity::Token(_, claims) => (claims.catalogue, claims.expires),
            _ => (true, i64::MAX),
        };
        let now = Timestamp::now();
        let claims = Claims {
            account: account.map(|account| account.name.clone()).unwrap_or_default(),
            serial: account.map_or(0, |account| account.serial),
            issued: now.as_second(),
            expires: last.min(now.as_second() + token::LIFETIME),
            access: granted.collect(),
            catalogue: lists && words().any(|scope| scope == CATALOGUE),
        };
        let token = self.key.sign(&claims).map_err(|error| Problem::internal("signing of a token", &error))?;
        Ok(serde_json::json!({
            "token": token,
            "access_token": token,
            "expires_in": claims.expires - claims.issued,
            "issued_at": Timestamp::from_second(claims.issued).unwrap_or(now).to_string(),
            "scope": claims_scope(&claims),
        }))
    }

    /// The key of addresses of uploads.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

/// What was granted, as RFC 6749 writes it.
fn claims_scope(claims: &Claims) -> String {
    let lists = claims.catalogue.then(|| CATALOGUE.to_owned());
    claims.access.iter().map(ToString::to_string).chain(lists).collect::<Vec<_>>().join(" ")
}

/// Whether a text may stand in a challenge as host and port.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b))
}
