//! What people write to name an image.

use super::{Digest, DigestError};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("{kind} is empty")]
    Empty {
        /// Which part.
        kind: &'static str,
    },
    /// A part is longer than registries allow.
    #[error("{kind} `{text}…` is longer than {max} characters")]
    TooLong {
        /// Which part.
        kind: &'static str,
        /// The beginning of the text.
        text: String,
        /// The limit.
        max: usize,
    },
    /// A part has a form that registries do not allow.
    #[error("{kind} `{text}` is malformed: {rule}")]
    Malformed {
        /// Which part.
        kind: &'static str,
        /// The text as given, shortened.
        text: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// The digest after `@`.
    #[error("image name `{text}` has a wrong digest")]
    Digest {
        /// The text as given, shortened.
        text: String,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
}

const SHOWN: usize = 80;

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

macro_rules! part {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = ReferenceError;
            fn from_str(text: &str) -> Result<Self, ReferenceError> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = ReferenceError;
            fn try_from(text: String) -> Result<Self, ReferenceError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(part: $name) -> String {
                part.0.into()
            }
        }
    };
}

part!(
    /// Where a registry listens: `host`, `host:port`, `192.0.2.1:5000` or `[2001:db8::1]:5000`; at most 255 characters.
    Registry, check_registry
);
part!(
    /// A repository of a registry: components of `[a-z0-9]+` parted by `.`, `_`, `__` or dashes, joined by `/`; at most
    /// 255 characters (OCI distribution specification, "Pulling manifests").
    Repository, check_repository
);
part!(
    /// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
    Tag, check_tag
);

impl Registry {
    /// The host without its port; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        match self.0.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.0,
        }
    }
    /// The port, if one was named.
    pub fn port(&self) -> Option<u16> {
        self.0.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).and_then(|(_, port)| port.parse().ok())
    }
}

/// `[registry/]repository[:tag][@digest]`. The first component is a registry if it has a `.` or a `:`, or is
/// `localhost`; a name without one is local to this machine's store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    /// The registry; absent for a local name.
    pub registry: Option<Registry>,
    /// The repository in it.
    pub repository: Repository,
    /// The tag; [`ImageName::tag_or_latest`] when something must be looked up.
    pub tag: Option<Tag>,
    /// The content, whatever the tag says by now.
    pub digest: Option<Digest>,
}

impl ImageName {
    /// The tag, `latest` when neither tag nor digest was given; `None` when the digest alone names the image.
    pub fn tag_or_latest(&self) -> Option<Tag> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag.clone()),
            (None, Some(_)) => None,
            (None, None) => Some(Tag("latest".into())),
        }
    }
    /// This name with the tag that is meant when none is said, as images are kept and listed.
    pub fn normalised(&self) -> Self {
        Self { tag: self.tag_or_latest(), ..self.clone() }
    }
    /// `[registry/]repository`, without tag and digest.
    pub fn family(&self) -> String {
        match &self.registry {
            Some(registry) => format!("{registry}/{}", self.repository),
            None => self.repository.to_string(),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.family();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag.as_str());
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        f.pad(&text)
    }
}

impl FromStr for ImageName {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty { kind: "image name" });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let source = |source| ReferenceError::Digest { text: shown(text), source };
                (rest, Some(digest.parse().map_err(source)?))
            }
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first.parse()?), rest),
            _ => (None, rest),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.parse()?)),
            None => (rest, None),
        };
        let repository: Repository = repository.parse()?;
        // "docker.io" alone, or "host:5000": the tag rule would take a port for a tag, and the image could never be
        // told from a registry; a local repository therefore has no dot in its only or first component.
        let first = repository.as_str().split('/').next().unwrap_or_default();
        if registry.is_none() && first.contains('.') {
            return Err(ReferenceError::Malformed {
                kind: "image name",
                text: shown(text),
                rule: "its first component has a dot and would be a registry: expected [registry/]repository[:tag][@digest]",
            });
        }
        Ok(Self { registry, repository, tag, digest })
    }
}

impl TryFrom<String> for ImageName {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> String {
        name.to_string()
    }
}

fn check_length(kind: &'static str, text: &str, max: usize) -> Result<(), ReferenceError> {
    match text.len() {
        0 => Err(ReferenceError::Empty { kind }),
        length if length > max => Err(ReferenceError::TooLong { kind, text: shown(text), max }),
        _ => Ok(()),
    }
}

fn check_tag(text: &str) -> Result<(), ReferenceError> {
    const KIND: &str = "tag";
    check_length(KIND, text, 128)?;
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = text.bytes().enumerate().all(|(at, b)| word(b) || (at > 0 && b".-".contains(&b)));
    let rule = "expected [a-zA-Z0-9_][a-zA-Z0-9._-]*";
    if good { Ok(()) } else { Err(ReferenceError::Malformed { kind: KIND, text: shown(text), rule }) }
}

fn check_repository(text: &str) -> Result<(), ReferenceError> {
    const KIND: &str = "repository";
    check_length(KIND, text, 255)?;
    if text.split('/').all(is_component) {
        return Ok(());
    }
    let rule = "expected components of lower-case letters and digits, parted by one '.', one or two '_' or dashes, joined by '/'";
    Err(ReferenceError::Malformed { kind: KIND, text: shown(text), rule })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let separators = bytes.split(|b| word(*b)).filter(|separator| !separator.is_empty());
    let allowed = |separator: &[u8]| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-');
    word(*first) && word(*last) && { separators }.all(allowed)
}

fn check_registry(text: &str) -> Result<(), ReferenceError> {
    const KIND: &str = "registry";
    check_length(KIND, text, 255)?;
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let address = address.parse::<std::net::Ipv6Addr>().is_ok();
            (address, if rest.is_empty() { Some("") } else { rest.strip_prefix(':').filter(|port| !port.is_empty()) })
        }
        None => {
            let (host, port) = text
                .split_once(':')
                .map_or((text, Some("")), |(host, port)| (host, Some(port).filter(|p| !p.is_empty())));
            (host.split('.').all(is_label), port)
        }
    };
    let port = port.is_some_and(|port| {
        port.is_empty() || (port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0))
    });
    let rule = "expected host[:port], with [ ] around an IPv6 address";
    if host && port { Ok(()) } else { Err(ReferenceError::Malformed { kind: KIND, text: shown(text), rule }) }
}

/// A label of a host name (RFC 1123), upper case allowed as some clients write it.
fn is_label(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric();
    text.len() <= 63
        && text.bytes().next().is_some_and(word)
        && text.bytes().next_back().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'-')
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
