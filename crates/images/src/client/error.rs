//! What can go wrong between us and a registry.
//!
//! Every variant says who, what and on which subject; none shows a token, a password or the query of an address, which
//! may be signed.

use super::credentials::CredentialError;
use crate::store::StoreError;
use model::image::Digest;
use reqwest::StatusCode;
use std::{fmt, path::PathBuf, time::Duration};

/// What was asked of which registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Host and port, as in image names.
    pub registry: Box<str>,
    /// Operation.
    pub doing: &'static str,
    /// What it was done to.
    pub subject: Box<str>,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.doing, self.subject)
    }
}

/// What went wrong, coarsely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientErrorKind {
    /// What was asked for makes no sense.
    Invalid,
    /// The registry does not have it.
    NotFound,
    /// The registry does not let us.
    Denied,
    /// The registry can not be reached, or is not able to answer for the time being.
    Unavailable,
    /// Anything else.
    Failed,
}

/// A transfer failed; what was stored before is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A name without registry, and none is set for such names.
    #[error("`{name}` names no registry")]
    NoRegistry {
        /// The image's name.
        name: String,
    },
    /// A setting.
    #[error("cannot use {}: {why}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Credentials could not be had.
    #[error("cannot tell who we are at {registry}")]
    Credentials {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: CredentialError,
    },
    /// No connection, or it broke.
    #[error("cannot {asked} at {server}: {what}")]
    Connection {
        /// What was asked.
        asked: Asked,
        /// The server that the connection was to, which a redirect may have chosen.
        server: String,
        /// In a few words.
        what: &'static str,
        /// What the system says.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The other side could not prove who it is, or does not speak TLS.
    #[error("cannot {asked} at {server}: no secure connection")]
    Tls {
        /// What was asked.
        asked: Asked,
        /// The server.
        server: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not allowed.
    #[error("{} does not let {who} {asked}{}", asked.registry, said_by(said))]
    Denied {
        /// What was asked.
        asked: Asked,
        /// As whom.
        who: String,
        /// Whether credentials were given.
        known: bool,
        /// What the registry said.
        said: Option<String>,
    },
    /// It is not there.
    #[error("{} has no {}{}", asked.registry, asked.subject, said_by(said))]
    NotFound {
        /// What was asked.
        asked: Asked,
        /// What the registry said.
        said: Option<String>,
    },
    /// Another answer than those expected.
    #[error("{} answered {status} when asked to {asked}{}", asked.registry, said_by(said))]
    Answer {
        /// What was asked.
        asked: Asked,
        /// The status.
        status: StatusCode,
        /// What the registry said.
        said: Option<String>,
        /// How long it asks us to wait.
        wait: Option<Duration>,
    },
    /// It wants us to wait for longer than we do.
    #[error("{} wants us to wait {} s before it lets us {asked}", asked.registry, wait.as_secs())]
    Wait {
        /// What was asked.
        asked: Asked,
        /// How long.
        wait: Duration,
        /// What it answered.
        #[source]
        last: Box<ClientError>,
    },
    /// Tried often enough.
    #[error("could not {asked} at {} in {attempts} attempts", asked.registry)]
    GaveUp {
        /// What was asked.
        asked: Asked,
        /// How often.
        attempts: u32,
        /// The last failure.
        #[source]
        last: Box<ClientError>,
    },
    /// Other content than asked for.
    #[error("{} sent other content as {}: it has {found}", asked.registry, asked.subject)]
    Digest {
        /// What was asked.
        asked: Asked,
        /// What its name says.
        expected: Digest,
        /// What it is.
        found: String,
    },
    /// Not an image, or one of a kind that we do not know.
    #[error("{subject} is of an unknown kind: {found}")]
    MediaType {
        /// The manifest.
        subject: String,
        /// The media type that it has.
        found: String,
    },
    /// It breaks the protocol, or a limit.
    #[error("{} sent what can not be used when asked to {asked}: {why}", asked.registry)]
    Malformed {
        /// What was asked.
        asked: Asked,
        /// What is wrong.
        why: String,
    },
    /// Parts of what is to be pushed are not here.
    #[error("{subject} is not complete here: {missing} is missing")]
    Incomplete {
        /// The image.
        subject: String,
        /// The first part that is missing.
        missing: String,
    },
    /// The store.
    #[error("cannot {doing}")]
    Store {
        /// Operation, with its subject.
        doing: String,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// This process can not do what it should.
    #[error("cannot {doing}: {why}")]
    Process {
        /// Operation.
        doing: &'static str,
        /// Why.
        why: String,
    },
}

impl ClientError {
    /// What kind it is.
    pub fn kind(&self) -> ClientErrorKind {
        match self {
            Self::NoRegistry { .. } | Self::Settings { .. } => ClientErrorKind::Invalid,
            Self::NotFound { .. } | Self::Incomplete { .. } => ClientErrorKind::NotFound,
            Self::Denied { .. } | Self::Credentials { .. } => ClientErrorKind::Denied,
            Self::Connection { .. } | Self::Tls { .. } | Self::Wait { .. } => ClientErrorKind::Unavailable,
            Self::Answer { .. } if self.is_transient() => ClientErrorKind::Unavailable,
            Self::GaveUp { last, .. } => last.kind(),
            _ => ClientErrorKind::Failed,
        }
    }

    /// The registry that it is about.
    pub fn registry(&self) -> Option<&str> {
        match self {
            Self::Credentials { registry, .. } => Some(registry),
            Self::Connection { asked, .. }
            | Self::Tls { asked, .. }
            | Self::Denied { asked, .. }
            | Self::NotFound { asked, .. }
            | Self::Answer { asked, .. }
            | Self::Wait { asked, .. }
            | Self::GaveUp { asked, .. }
            | Self::Digest { asked, .. }
            | Self::Malformed { asked, .. } => Some(&asked.registry),
            _ => None,
        }
    }

    /// Whether the server may answer otherwise later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Connection { .. } => true,
            Self::Answer { status, .. } => super::retry::is_transient(*status),
            _ => false,
        }
    }

    /// A failure of the store.
    pub(super) fn store(doing: impl Into<String>) -> impl FnOnce(StoreError) -> Self {
        let doing = doing.into();
        move |source| Self::Store { doing, source: Box::new(source) }
    }
}

fn said_by(said: &Option<String>) -> String {
    said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default()
}

/// The codes and messages of a registry's error document, made fit for a terminal: `DENIED: no such user`.
pub(super) fn said(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(default)]
        errors: Vec<One>,
        // Token servers.
        #[serde(default)]
        details: String,
        #[serde(default)]
        error_description: String,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let document: Document = serde_json::from_slice(body).ok()?;
    let one = |error: One| match (error.code.is_empty(), error.message.is_empty()) {
        (false, false) => Some(format!("{}: {}", error.code, error.message)),
        (true, true) => None,
        _ => Some(error.code + &error.message),
    };
    let mut all: Vec<String> = document.errors.into_iter().take(4).filter_map(one).collect();
    all.extend([document.details, document.error_description].into_iter().filter(|text| !text.is_empty()));
    let text: String = all.join("; ").chars().filter(|c| !c.is_control()).take(300).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_is_short_and_cannot_move_the_cursor() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[2J"},{"code":"X"},{}]}"#;
        assert_eq!(said(body).as_deref(), Some("DENIED: no[2J; X"));
        assert_eq!(
            said(br#"{"details":"incorrect username or password"}"#).as_deref(),
            Some("incorrect username or password")
        );
        assert_eq!(said(b"<html>"), None);
        assert_eq!(said(b"{}"), None);
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(5000));
        assert_eq!(said(long.as_bytes()).map(|text| text.len()), Some(300));
    }
}
