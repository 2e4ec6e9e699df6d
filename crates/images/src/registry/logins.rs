//! Whether a name and a secret belong together.
//!
//! A password takes a processor for tens of milliseconds, and who asks is not known yet: one is checked at a time, few
//! wait, and who guesses has to wait longer ([`Throttle`]). What was right lately is remembered and costs nothing.

use super::{
    accounts::{Account, Kind},
    audit::{Audit, Record},
    blocking::Pool,
    codec,
    metrics::Counters,
    problem::{Code, Problem, Result},
    throttle::Throttle,
    token::Key,
};
use hyper::{
    StatusCode,
    header::{HeaderValue, RETRY_AFTER},
};
use jiff::Timestamp;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Passwords that were right lately are remembered for so many accounts.
const REMEMBERED: usize = 1024;
/// Passwords that are checked at a time: Argon2 takes 19 MiB.
const HASHING: usize = 1;
/// Passwords that wait for that.
const WAITING: usize = 16;
/// When to come back to a queue that was full.
const SOON: Duration = Duration::from_secs(1);

/// The subject that an unknown name is checked against, so that it takes as long as a known one.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$MYhVTsvUTvKVPWmxl3zg2pyXDTg8WFwYQ5A4SMkOJ9I";

/// Checks them.
pub(super) struct Logins {
    pool: Pool,
    hashing: Arc<Semaphore>,
    places: Arc<Semaphore>,
    known: Arc<Known>,
}

/// What is known of logins before.
struct Known {
    key: Key,
    counters: Counters,
    audit: Option<Arc<Audit>>,
    throttle: Throttle,
    /// By name: the secret that was right, hashed with the key, and the serial of the account then.
    proven: Mutex<HashMap<String, ([u8; 32], i64)>>,
}

/// Somebody says that it is an account.
struct Attempt {
    known: Arc<Known>,
    /// As it was sent; the name of an account, if it can be one.
    name: String,
    secret: String,
    account: Option<Arc<Account>>,
    client: SocketAddr,
}

impl Logins {
    pub fn new(key: Key, pool: Pool, counters: Counters, audit: Option<Arc<Audit>>) -> Self {
        let known = Known { key, counters, audit, throttle: Throttle::default(), proven: Mutex::default() };
        Self {
            pool,
            hashing: Arc::new(Semaphore::new(HASHING)),
            places: Arc::new(Semaphore::new(HASHING + WAITING)),
            known: Arc::new(known),
        }
    }

    /// The account, if this is its password or token. `account` is the one of that name, if there is one and it is in
    /// force.
    ///
    /// # Errors
    /// `TOOMANYREQUESTS`, with the time to come back.
    pub async fn check(
        &self,
        name: &str,
        secret: &str,
        account: Option<Arc<Account>>,
        client: SocketAddr,
    ) -> Result<Option<Arc<Account>>> {
        let (known, name, secret) = (self.known.clone(), name.to_owned(), secret.to_owned());
        let attempt = Attempt { known, name, secret, account, client };
        if attempt.is_proven() {
            return Ok(attempt.account);
        }
        let is_robot = attempt.account.as_ref().is_some_and(|account| account.kind == Kind::Robot);
        let turn = if is_robot { None } else { Some(self.turn(&attempt).await?) };
        // The one before may have been the same.
        if turn.is_some() && attempt.is_proven() {
            return Ok(attempt.account);
        }
        // Who goes away does not end what was begun: its turn is over when the work is, and what comes out is noted.
        let work = move || {
            let right = attempt.run();
            drop(turn);
            right.then_some(attempt.account).flatten()
        };
        self.pool.run("registry-login", work).await.map_err(|error| Problem::internal("login", &error))
    }

    /// Notes an attempt with what is not the name of an account.
    ///
    /// # Errors
    /// It could not be noted.
    pub async fn misnamed(&self, client: SocketAddr) -> Result<()> {
        let (known, name, secret) = (self.known.clone(), String::new(), String::new());
        let attempt = Attempt { known, name, secret, account: None, client };
        let note = move || attempt.note();
        self.pool.run("registry-audit", note).await.map_err(|error| Problem::internal("login", &error))
    }

    /// Waits for the turn to check a password.
    async fn turn(&self, attempt: &Attempt) -> Result<[OwnedSemaphorePermit; 2]> {
        attempt.may_try()?;
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| attempt.put_off("too many log in at the same time", SOON))?;
        let turn = self.hashing.clone().acquire_owned().await;
        // It is never closed.
        let turn = turn.map_err(|_| Problem::new(Code::Unavailable, "the registry is ending"))?;
        // Those before may have been wrong.
        attempt.may_try()?;
        Ok([turn, place])
    }
}

impl Known {
    fn proven(&self) -> MutexGuard<'_, HashMap<String, ([u8; 32], i64)>> {
        // The map is whole between any two statements.
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    /// Whether this secret was right before.
    fn is_proven(&self) -> bool {
        let Some(account) = &self.account else { return false };
        let proof = self.known.key.proof(&self.name, &self.secret);
        let proven = self.known.proven().get(&self.name).copied();
        let is_proven = proven.is_some_and(|(was, serial)| serial == account.serial && codec::same(&was, &proof));
        if is_proven {
            self.known.throttle.worked(self.client.ip(), &self.name);
        }
        is_proven
    }

    /// Whether it must not wait.
    fn may_try(&self) -> Result<()> {
        let wait = self.known.throttle.wait(self.client.ip(), &self.name, Instant::now());
        if wait.is_zero() { Ok(()) } else { Err(self.put_off("too many logins with a wrong password", wait)) }
    }

    fn put_off(&self, why: &str, wait: Duration) -> Box<Problem> {
        self.known.counters.logins_put_off.inc();
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Problem::new(Code::TooManyRequests, format!("{why}: come back in {seconds} s"))
            .header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Looks whether the secret is right, and notes it.
    fn run(&self) -> bool {
        let right = match &self.account {
            Some(account) => account.accepts(&self.secret),
            None => {
                let nobody = Account {
                    name: String::new(),
                    kind: Kind::User,
                    grants: Vec::new(),
                    created: Timestamp::UNIX_EPOCH,
                    expires: None,
                    serial: 0,
                    secret: NOBODY.to_owned(),
                };
                // Time is all that is wanted of it.
                let _same_time_as_a_known_name = nobody.accepts(&self.secret);
                false
            }
        };
        match &self.account {
            Some(account) if right => {
                self.known.throttle.worked(self.client.ip(), &self.name);
                let mut proven = self.known.proven();
                if proven.len() >= REMEMBERED {
                    proven.clear();
                }
                proven.insert(self.name.clone(), (self.known.key.proof(&self.name, &self.secret), account.serial));
            }
            account => {
                // Nobody guesses what is random.
                if account.as_ref().is_none_or(|account| account.kind == Kind::User) {
                    self.known.throttle.failed(self.client.ip(), &self.name, Instant::now());
                }
                self.note();
            }
        }
        right
    }

    /// Counts and records a failure. The secret is nowhere.
    fn note(&self) {
        self.known.counters.logins_failed.inc();
        tracing::warn!(account = self.name, client = %self.client, "login refused");
        let Some(audit) = &self.known.audit else { return };
        let (account, subject) = if self.account.is_some() { (&*self.name, "") } else { ("", &*self.name) };
        let record = Record {
            time: Timestamp::now(),
            account,
            client: self.client,
            action: "login",
            repository: "",
            subject,
            tags: &[],
            digest: None,
            status: StatusCode::UNAUTHORIZED.as_u16(),
            error: Some(Code::Unauthorized.as_str()),
        };
        if let Err(error) = audit.write(&record) {
            tracing::error!(%error, "audit log not written");
        }
    }
}
