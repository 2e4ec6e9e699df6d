//! Docker's `config.json`: credentials of registries and the helpers that keep them.

use super::{CredentialError, Credentials, HELPER_DEADLINE, helper::Helper};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use supervisor::Secret;

/// Under which name Docker's tools keep the credentials of its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// Largest file that is read, bytes.
const LARGEST: u64 = 4 << 20;

/// The file, of which only the parts about credentials are understood; the others are kept as they are.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    path: PathBuf,
    deadline: Duration,
}

impl DockerConfig {
    /// The caller's: in `$DOCKER_CONFIG`, else in `~/.docker`; `None` without a home.
    pub fn of_caller() -> Option<Self> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))?;
        Some(Self::at(folder.join("config.json")))
    }

    /// This file, which need not be there.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), deadline: HELPER_DEADLINE }
    }

    /// With this much time for a helper.
    #[must_use]
    pub fn helper_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is kept for a registry (host and port as in image names). Blocks: it may execute a helper.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn get(&self, registry: &str) -> Result<Option<Credentials>, CredentialError> {
        let config = self.read()?;
        if let Some(helper) = self.helper(&config, registry)? {
            let found = helper.get(&server(registry))?;
            // Docker looks into the file as well: a login may be older than the helper.
            if found.is_some() {
                return Ok(found);
            }
        }
        let Some(entry) = entry(&config, registry) else { return Ok(None) };
        self.decode(entry, registry)
    }

    /// Keeps credentials: with the helper that is set for the registry, else in the file, which then is its owner's alone.
    /// Says where.
    ///
    /// # Errors
    /// [`CredentialError`]; what was kept before is then as it was.
    pub fn store(&self, registry: &str, credentials: &Credentials) -> Result<String, CredentialError> {
        let mut config = self.read()?;
        if let Some(helper) = self.helper(&config, registry)? {
            helper.store(&server(registry), credentials)?;
            return Ok("a credential helper".to_owned());
        }
        let mut entry = Map::new();
        match credentials {
            Credentials::Password { user, password } => {
                let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
                entry.insert("auth".to_owned(), Value::String(pair));
            }
            Credentials::Identity(token) => {
                entry.insert("auth".to_owned(), Value::String(STANDARD.encode(format!("{TOKEN}:"))));
                entry.insert("identitytoken".to_owned(), Value::String(token.expose().clone()));
            }
        }
        forget(&mut config, registry);
        let auths = config.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(auths) = auths else { return Err(self.malformed("`auths` is not an object")) };
        auths.insert(server(registry), Value::Object(entry));
        self.write(&config)?;
        Ok(self.path.display().to_string())
    }

    /// Forgets the credentials of a registry; whether there were any.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn erase(&self, registry: &str) -> Result<bool, CredentialError> {
        let mut config = self.read()?;
        let mut had = match self.helper(&config, registry)? {
            Some(helper) => helper.erase(&server(registry))?,
            None => false,
        };
        if forget(&mut config, registry) {
            self.write(&config)?;
            had = true;
        }
        Ok(had)
    }

    fn helper(&self, config: &Map<String, Value>, registry: &str) -> Result<Option<Helper>, CredentialError> {
        let of_registry = config
            .get("credHelpers")
            .and_then(|helpers| names(registry).iter().find_map(|name| helpers.get(name)).and_then(Value::as_str));
        let name = of_registry.or_else(|| config.get("credsStore").and_then(Value::as_str));
        match name.filter(|name| !name.is_empty()) {
            None => Ok(None),
            Some(name) => match Helper::new(name, self.deadline) {
                Some(helper) => Ok(Some(helper)),
                None => {
                    Err(self.malformed("the name of a credential helper has characters that no program's name has"))
                }
            },
        }
    }

    fn decode(&self, entry: &Value, registry: &str) -> Result<Option<Credentials>, CredentialError> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credentials::Identity(Secret::new(token.to_owned()))));
        }
        if let (Some(user), Some(password)) = (text("username"), text("password")) {
            return Ok(Some(password_of(user, password)));
        }
        let Some(pair) = text("auth") else { return Ok(None) };
        // Docker itself tolerates NUL bytes at the end, which old versions wrote.
        let decoded = STANDARD.decode(pair.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().map(|pair| pair.trim_matches('\0')).and_then(|pair| pair.split_once(':')) {
            Some((user, password)) if !user.is_empty() => Ok(Some(password_of(user, password))),
            _ => Err(self.malformed(&format!("`auth` of {registry} is not `USER:PASSWORD` in base 64"))),
        }
    }

    fn read(&self) -> Result<Map<String, Value>, CredentialError> {
        let read = || -> io::Result<Vec<u8>> {
            if fs::metadata(&self.path)?.len() > LARGEST {
                return Err(io::Error::other("it has more than 4 MiB"));
            }
            fs::read(&self.path)
        };
        let text = match read() {
            Ok(text) if text.trim_ascii().is_empty() => return Ok(Map::new()),
            Ok(text) => text,
            // No home, or none that can be entered: then there is nothing for us.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Map::new());
            }
            Err(source) => return Err(CredentialError::File { doing: "read", path: self.path.clone(), source }),
        };
        match serde_json::from_slice(&text) {
            Ok(Value::Object(config)) => Ok(config),
            Ok(_) => Err(self.malformed("it is not an object")),
            // The parser's message has the place, not the text.
            Err(error) => Err(self.malformed(&error.to_string())),
        }
    }

    fn write(&self, config: &Map<String, Value>) -> Result<(), CredentialError> {
        // A link is followed, so that a file that is kept elsewhere stays there.
        let target = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let temporary = target.with_extension(format!("json.{}.tmp", std::process::id()));
        let write = || -> io::Result<()> {
            if let Some(folder) = target.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(config)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &target)
        };
        write().map_err(|source| {
            // What is left of it is worth less than the failure.
            let _left = fs::remove_file(&temporary).is_err();
            CredentialError::File { doing: "write", path: target.clone(), source }
        })
    }

    fn malformed(&self, why: &str) -> CredentialError {
        CredentialError::Malformed { path: self.path.clone(), why: why.to_owned() }
    }
}

const TOKEN: &str = "<token>";

fn password_of(user: &str, password: &str) -> Credentials {
    Credentials::Password { user: user.to_owned(), password: Secret::new(password.to_owned()) }
}

/// The name under which a registry is written.
fn server(registry: &str) -> String {
    match registry {
        "docker.io" => DOCKER_HUB.to_owned(),
        other => other.to_owned(),
    }
}

/// The names under which a registry may stand, the most exact first.
fn names(registry: &str) -> Vec<String> {
    match registry {
        "docker.io" => [DOCKER_HUB, "index.docker.io", "docker.io", "registry-1.docker.io"].map(str::to_owned).to_vec(),
        other => vec![other.to_owned()],
    }
}

fn entry<'c>(config: &'c Map<String, Value>, registry: &str) -> Option<&'c Value> {
    let auths = config.get("auths")?.as_object()?;
    let names = names(registry);
    names.iter().find_map(|name| auths.get(name)).or_else(|| {
        // Old tools wrote addresses: `https://host/v1/`.
        auths.iter().find(|(key, _)| names.iter().any(|name| name == host(key))).map(|(_, entry)| entry)
    })
}

fn forget(config: &mut Map<String, Value>, registry: &str) -> bool {
    let Some(Value::Object(auths)) = config.get_mut("auths") else { return false };
    let names = names(registry);
    let before = auths.len();
    auths.retain(|key, _| !names.iter().any(|name| name == key || name == host(key)));
    auths.len() != before
}

fn host(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests;
