//! Users and robots: how they are kept, and what manages them.
//!
//! Passwords of users are kept as Argon2id hashes. Robots are for programs: their tokens are random, so one SHA-256 of
//! them is enough, and nobody knows them after they were shown once.

use super::{access::Grant, codec};
use crate::store::{Store, StoreError};
use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use std::io;
use supervisor::Secret;

/// What every robot's token begins with, so that leaked ones can be found.
pub const ROBOT_PREFIX: &str = "jdr_";

/// Who an account is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A person, with a password.
    User,
    /// A program, with a token.
    Robot,
}

impl Kind {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Robot => "robot",
        }
    }
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Whom it is for.
    pub kind: Kind,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// When it was made.
    pub created: Timestamp,
    /// When it stops to be accepted.
    pub expires: Option<Timestamp>,
    /// Changes with the secret.
    #[serde(skip)]
    pub(super) serial: i64,
    /// The hash of the secret.
    #[serde(skip)]
    pub(super) secret: String,
}

/// An account cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The name has a wrong form.
    #[error(
        "`{0}` is not an account name: expected 1 to 64 lower-case letters, digits, `.`, `_` or `-`, the first a letter or digit"
    )]
    Name(String),
    /// There is one of that name.
    #[error("there is an account `{0}` already")]
    Exists(String),
    /// There is none.
    #[error("there is no account `{0}`")]
    Unknown(String),
    /// The password is too easy to guess, or too long to hash.
    #[error("the password has {0} bytes: expected 8 to 256")]
    Password(usize),
    /// It could not be hashed.
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
    /// No random bytes.
    #[error("cannot make a token")]
    Random(#[source] io::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The accounts of the registry of a store; every call blocks.
#[derive(Debug, Clone)]
pub struct Accounts {
    store: Store,
}

impl Accounts {
    /// Those of this store's registry.
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// Makes a user.
    ///
    /// # Errors
    /// The name or password will not do, or the name is taken.
    pub fn add_user(
        &self,
        name: &str,
        password: &Secret<String>,
        grants: Vec<Grant>,
        expires: Option<Timestamp>,
    ) -> Result<Account, AccountError> {
        let hash = hash_password(password)?;
        self.add(name, Kind::User, hash, grants, expires)
    }

    /// Makes a robot, and gives its token, which is kept nowhere.
    ///
    /// # Errors
    /// The name will not do, or is taken.
    pub fn add_robot(
        &self,
        name: &str,
        grants: Vec<Grant>,
        expires: Option<Timestamp>,
    ) -> Result<(Account, Secret<String>), AccountError> {
        let token = new_token()?;
        let account = self.add(name, Kind::Robot, hash_token(token.expose()), grants, expires)?;
        Ok((account, token))
    }

    fn add(
        &self,
        name: &str,
        kind: Kind,
        secret: String,
        grants: Vec<Grant>,
        expires: Option<Timestamp>,
    ) -> Result<Account, AccountError> {
        if !is_name(name) {
            return Err(AccountError::Name(name.chars().take(80).collect()));
        }
        // Whole seconds, as they are kept.
        let whole = |time: Timestamp| Timestamp::from_second(time.as_second()).unwrap_or(time);
        let (created, expires) = (whole(Timestamp::now()), expires.map(whole));
        let account = Account { name: name.to_owned(), kind, grants, created, expires, serial: serial()?, secret };
        let sql = "INSERT OR IGNORE INTO registry_accounts (name, kind, secret, serial, grants, created, expires)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let added = self.store.index().write_durably("add an account", |transaction| {
            transaction.execute(
                sql,
                params![
                    account.name,
                    kind.as_str(),
                    account.secret,
                    account.serial,
                    written(&account.grants),
                    created.as_second(),
                    expires.map(Timestamp::as_second)
                ],
            )
        })?;
        if added == 0 { Err(AccountError::Exists(name.to_owned())) } else { Ok(account) }
    }

    /// Gives a user another password; what was signed in with the old one is out.
    ///
    /// # Errors
    /// There is no such user, or the password will not do.
    pub fn set_password(&self, name: &str, password: &Secret<String>) -> Result<(), AccountError> {
        self.set_secret(name, Kind::User, hash_password(password)?)
    }

    /// Gives a robot another token; the old one is out.
    ///
    /// # Errors
    /// There is no such robot.
    pub fn rotate(&self, name: &str) -> Result<Secret<String>, AccountError> {
        let token = new_token()?;
        self.set_secret(name, Kind::Robot, hash_token(token.expose()))?;
        Ok(token)
    }

    fn set_secret(&self, name: &str, kind: Kind, secret: String) -> Result<(), AccountError> {
        let sql = "UPDATE registry_accounts SET secret = ?3, serial = ?4 WHERE name = ?1 AND kind = ?2";
        let serial = serial()?;
        let changed = self.store.index().write_durably("change an account", |transaction| {
            transaction.execute(sql, params![name, kind.as_str(), secret, serial])
        })?;
        if changed == 0 { Err(AccountError::Unknown(name.to_owned())) } else { Ok(()) }
    }

    /// Changes what an account may do, from its next request on.
    ///
    /// # Errors
    /// There is no such account.
    pub fn set_grants(&self, name: &str, grants: &[Grant]) -> Result<(), AccountError> {
        let sql = "UPDATE registry_accounts SET grants = ?2 WHERE name = ?1";
        let grants = written(grants);
        let changed = self
            .store
            .index()
            .write_durably("change an account", |transaction| transaction.execute(sql, params![name, grants]))?;
        if changed == 0 { Err(AccountError::Unknown(name.to_owned())) } else { Ok(()) }
    }

    /// Removes an account; it is out at once, with all its tokens.
    ///
    /// # Errors
    /// There is no such account.
    pub fn remove(&self, name: &str) -> Result<(), AccountError> {
        let sql = "DELETE FROM registry_accounts WHERE name = ?1";
        let index = self.store.index();
        let removed = index.write_durably("remove an account", |transaction| transaction.execute(sql, [name]))?;
        if removed == 0 { Err(AccountError::Unknown(name.to_owned())) } else { Ok(()) }
    }

    /// All, by name.
    pub fn list(&self) -> Result<Vec<Account>, AccountError> {
        let sql = format!("{SELECT} ORDER BY name");
        let list = |connection: &Connection| connection.prepare_cached(&sql)?.query_map((), account)?.collect();
        Ok(self.store.index().read("list accounts", list)?)
    }

    /// The one of this name.
    pub fn find(&self, name: &str) -> Result<Option<Account>, AccountError> {
        let sql = format!("{SELECT} WHERE name = ?1");
        let find = |connection: &Connection| connection.prepare_cached(&sql)?.query_row([name], account).optional();
        Ok(self.store.index().read("look up an account", find)?)
    }

    /// The key that signs tokens and addresses of uploads; made by whoever needs it first.
    pub(super) fn key(&self) -> Result<[u8; 32], AccountError> {
        let fresh = codec::random::<32>().map_err(AccountError::Random)?;
        let key = self.store.index().write_durably("read the signing key", |transaction| {
            transaction.execute("INSERT OR IGNORE INTO registry_keys (name, key) VALUES ('token', ?1)", [fresh])?;
            transaction.query_row("SELECT key FROM registry_keys WHERE name = 'token'", (), |row| row.get(0))
        })?;
        Ok(key)
    }
}

/// Whether an account can have this name.
pub(super) fn is_name(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = |(at, b): (usize, u8)| word(b) || (at > 0 && b"._-".contains(&b));
    !text.is_empty() && text.len() <= 64 && text.bytes().enumerate().all(good)
}

const SELECT: &str = "SELECT name, kind, secret, serial, grants, created, expires FROM registry_accounts";

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    let time = |column, seconds| {
        Timestamp::from_second(seconds).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Integer, Box::new(error))
        })
    };
    let grants: String = row.get(4)?;
    let grants = grants.split_whitespace().map(str::parse).collect::<Result<_, super::AccessError>>();
    Ok(Account {
        name: row.get(0)?,
        kind: if row.get_ref(1)?.as_str()? == "robot" { Kind::Robot } else { Kind::User },
        secret: row.get(2)?,
        serial: row.get(3)?,
        grants: grants.map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, Box::new(error))
        })?,
        created: time(5, row.get(5)?)?,
        expires: row.get::<_, Option<i64>>(6)?.map(|seconds| time(6, seconds)).transpose()?,
    })
}

/// Grants as they are kept: none has a space in it.
fn written(grants: &[Grant]) -> String {
    grants.iter().map(Grant::to_string).collect::<Vec<_>>().join(" ")
}

fn serial() -> Result<i64, AccountError> {
    codec::random::<8>().map(i64::from_le_bytes).map_err(AccountError::Random)
}

fn new_token() -> Result<Secret<String>, AccountError> {
    let bytes = codec::random::<32>().map_err(AccountError::Random)?;
    Ok(Secret::new(format!("{ROBOT_PREFIX}{}", codec::base64_url(&bytes))))
}

fn hash_token(token: &str) -> String {
    codec::hex(&codec::hash(token.as_bytes()))
}

fn hash_password(password: &Secret<String>) -> Result<String, AccountError> {
    let bytes = password.expose().as_bytes();
    if !(8..=256).contains(&bytes.len()) {
        return Err(AccountError::Password(bytes.len()));
    }
    let hash = Argon2::default().hash_password(bytes).map_err(|error| AccountError::Hash(error.to_string()))?;
    Ok(hash.to_string())
}

impl Account {
    /// Whether this is its password or token. Takes tens of milliseconds and 19 MiB for a password.
    pub(super) fn accepts(&self, secret: &str) -> bool {
        match self.kind {
            Kind::Robot => codec::same(hash_token(secret).as_bytes(), self.secret.as_bytes()),
            Kind::User => PasswordHash::new(&self.secret)
                .is_ok_and(|hash| Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok()),
        }
    }

    /// Whether it still is in force.
    pub(super) fn is_current(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> (tempfile::TempDir, Accounts) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, Accounts::new(&store))
    }

    fn grants(texts: &[&str]) -> Vec<Grant> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn life_of_accounts() {
        let (_folder, accounts) = accounts();
        let password = Secret::new("correct horse".to_owned());
        accounts.add_user("anna", &password, grants(&["team/**:pull,push", "**:pull"]), None).unwrap();
        let (robot, token) = accounts.add_robot("ci", grants(&["ci/*:*"]), Some(Timestamp::UNIX_EPOCH)).unwrap();
        assert!(token.expose().starts_with(ROBOT_PREFIX));
        assert_eq!(accounts.list().unwrap().iter().map(|a| &*a.name).collect::<Vec<_>>(), ["anna", "ci"]);
        let anna = accounts.find("anna").unwrap().unwrap();
        assert!(anna.accepts("correct horse") && !anna.accepts("correct house") && !anna.accepts(""));
        assert!(anna.secret.starts_with("$argon2id$"), "{}", anna.secret);
        let found = accounts.find("ci").unwrap().unwrap();
        assert_eq!(found, robot);
        assert!(found.accepts(token.expose()) && !found.accepts("jdr_x"));
        assert!(!found.secret.contains(token.expose()));
        assert!(!found.is_current(Timestamp::now()) && anna.is_current(Timestamp::now()));

        assert!(matches!(accounts.add_robot("anna", Vec::new(), None), Err(AccountError::Exists(_))));
        accounts.set_password("anna", &Secret::new("battery staple".to_owned())).unwrap();
        let changed = accounts.find("anna").unwrap().unwrap();
        assert!(changed.accepts("battery staple") && changed.serial != anna.serial);
        let rotated = accounts.rotate("ci").unwrap();
        assert!(!accounts.find("ci").unwrap().unwrap().accepts(token.expose()));
        assert!(accounts.find("ci").unwrap().unwrap().accepts(rotated.expose()));
        accounts.set_grants("ci", &grants(&["x:pull"])).unwrap();
        assert_eq!(accounts.find("ci").unwrap().unwrap().grants, grants(&["x:pull"]));
        accounts.remove("anna").unwrap();
        assert_eq!(accounts.find("anna").unwrap(), None);
        for error in [
            accounts.remove("anna").unwrap_err(),
            accounts.rotate("anna").map(drop).unwrap_err(),
            accounts.set_password("ci", &password).unwrap_err(),
        ] {
            assert!(matches!(error, AccountError::Unknown(_)), "{error}");
        }
    }

    #[test]
    fn what_is_refused() {
        let (_folder, accounts) = accounts();
        let password = |text: &str| Secret::new(text.to_owned());
        for name in ["", "A", "a:b", "-a", "a b", &"a".repeat(65)] {
            let added = accounts.add_user(name, &password("correct horse"), Vec::new(), None);
            assert!(matches!(added, Err(AccountError::Name(_))), "{name}");
        }
        let short = accounts.add_user("anna", &password("short"), Vec::new(), None);
        assert!(matches!(short, Err(AccountError::Password(5))));
    }

    #[test]
    fn the_key_is_made_once() {
        let (_folder, accounts) = accounts();
        assert_eq!(accounts.key().unwrap(), accounts.key().unwrap());
    }
}
