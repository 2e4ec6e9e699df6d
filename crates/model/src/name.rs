//! Identifiers. Every id is a type of its own, so that one can not be passed where another is meant.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why a name or an id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("{kind} is empty")]
    Empty {
        /// What was being named.
        kind: &'static str,
    },
    /// The text is longer than the kind allows.
    #[error("{kind} `{text}` is longer than {max} characters")]
    TooLong {
        /// What was being named.
        kind: &'static str,
        /// The text as given.
        text: String,
        /// The limit, in characters.
        max: usize,
    },
    /// The text has a character that the kind does not allow.
    #[error("{kind} `{text}` must match {rule}")]
    Malformed {
        /// What was being named.
        kind: &'static str,
        /// The text as given.
        text: String,
        /// The rule as a regular expression.
        rule: &'static str,
    },
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

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
        impl AsRef<std::path::Path> for $name {
            fn as_ref(&self) -> &std::path::Path {
                self.0.as_ref()
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                $check(&text)?;
                Ok(Self(text))
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

text_newtype!(
    /// A container's id: 32 lower-case hexadecimal digits (128 random bits), unique on a machine for ever.
    ContainerId, check_id
);
text_newtype!(
    /// A container's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 63 characters; unique among existing containers.
    ContainerName, check_container_name
);
text_newtype!(
    /// A network's name: `[a-z0-9][a-z0-9-]*`, at most 40 characters.
    NetworkName, check_network_name
);

impl ContainerId {
    /// The id made of these random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }
    /// The first 12 digits, as shown in tables.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

fn check_id(text: &str) -> Result<(), NameError> {
    const KIND: &str = "container id";
    let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if text.is_empty() {
        return Err(NameError::Empty { kind: KIND });
    }
    if text.len() != 32 || !hex {
        return Err(NameError::Malformed { kind: KIND, text: text.to_owned(), rule: "[0-9a-f]{32}" });
    }
    Ok(())
}

fn check_container_name(text: &str) -> Result<(), NameError> {
    let first = |b: u8| b.is_ascii_alphanumeric();
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    check("container name", text, 63, "[a-zA-Z0-9][a-zA-Z0-9_.-]*", first, rest)
}

fn check_network_name(text: &str) -> Result<(), NameError> {
    let first = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    let rest = move |b: u8| first(b) || b == b'-';
    check("network name", text, 40, "[a-z0-9][a-z0-9-]*", first, rest)
}

fn check(
    kind: &'static str,
    text: &str,
    max: usize,
    rule: &'static str,
    first: impl Fn(u8) -> bool,
    rest: impl Fn(u8) -> bool,
) -> Result<(), NameError> {
    let Some((head, tail)) = text.as_bytes().split_first() else {
        return Err(NameError::Empty { kind });
    };
    if !first(*head) || !tail.iter().all(|b| rest(*b)) {
        return Err(NameError::Malformed { kind, text: text.to_owned(), rule });
    }
    if text.len() > max {
        return Err(NameError::TooLong { kind, text: text.to_owned(), max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_32_hex_digits() {
        let id = ContainerId::from_random([0xab; 16]);
        assert_eq!(id.as_str(), "ab".repeat(16));
        assert_eq!(id.short(), "abababababab");
        assert!("AB".repeat(16).parse::<ContainerId>().is_err());
        assert!("../etc".parse::<ContainerId>().is_err());
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for bad in ["", ".", "..", "a/b", "-x", "a b", "a\n", &"a".repeat(64)] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad:?}");
        }
        for good in ["a", "web-1", "A.b_c", &"a".repeat(63)] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_malformed_name_is_refused_when_read_from_a_file() {
        assert!(serde_json::from_str::<NetworkName>("\"../x\"").is_err());
    }
}
