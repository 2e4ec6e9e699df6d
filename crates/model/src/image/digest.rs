//! The name of a piece of content: the hash of its bytes.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A hash function that a registry must know (OCI image specification, "Registered algorithms").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// SHA-256: 32 bytes.
    Sha256,
    /// SHA-512: 64 bytes.
    Sha512,
}

impl Algorithm {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// Its name in a digest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
    /// Length of a hash, in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// `sha256:` and 64, or `sha512:` and 128 lower-case hexadecimal digits. Nothing else, so it is safe in a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Box<str>);

/// The text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The algorithm is not one of ours; the text may be a valid digest.
    #[error("digest `{text}` is of an algorithm that is not supported: expected sha256 or sha512")]
    Algorithm {
        /// The text as given, shortened.
        text: String,
    },
    /// The text does not have the form of a digest.
    #[error("`{text}` is not a digest: expected sha256: and 64, or sha512: and 128 lower-case hexadecimal digits")]
    Malformed {
        /// The text as given, shortened.
        text: String,
    },
}

impl Digest {
    /// The digest that says `hash`; `None` if its length is not the algorithm's.
    pub fn new(algorithm: Algorithm, hash: &[u8]) -> Option<Self> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        if hash.len() != algorithm.size() {
            return None;
        }
        let mut text = String::with_capacity(algorithm.as_str().len() + 1 + hash.len() * 2);
        text.push_str(algorithm.as_str());
        text.push(':');
        for byte in hash {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        Some(Self(text.into()))
    }
    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        if self.0.starts_with("sha512:") { Algorithm::Sha512 } else { Algorithm::Sha256 }
    }
    /// The hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0[7..]
    }
    /// The first 12 digits, as shown in tables.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let shown = || text.chars().take(160).collect::<String>();
        let (name, hex) = text.split_once(':').ok_or_else(|| DigestError::Malformed { text: shown() })?;
        let Some(algorithm) = Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name) else {
            let well_formed = !name.is_empty()
                && name
                    .split(['+', '.', '_', '-'])
                    .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
                && !hex.is_empty()
                && hex.bytes().all(|b| b.is_ascii_alphanumeric() || b"=_-".contains(&b));
            return Err(match well_formed {
                true => DigestError::Algorithm { text: shown() },
                false => DigestError::Malformed { text: shown() },
            });
        };
        let lower_hex = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex.len() != algorithm.size() * 2 || !lower_hex {
            return Err(DigestError::Malformed { text: shown() });
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn form_is_strict() {
        let good = format!("sha256:{}", "0a".repeat(32));
        let digest: Digest = good.parse().unwrap();
        assert_eq!((digest.algorithm(), digest.short(), digest.as_str()), (Algorithm::Sha256, "0a0a0a0a0a0a", &*good));
        assert_eq!(format!("sha512:{}", "0a".repeat(64)).parse::<Digest>().unwrap().hex().len(), 128);
        for bad in ["", "sha256", "sha256:", "sha256:0a", &good.to_uppercase(), &format!("{good} "), "../x:0a", "a/b:c"]
        {
            assert!(matches!(bad.parse::<Digest>(), Err(DigestError::Malformed { .. })), "{bad}");
        }
        assert!(matches!("blake3:AbC".parse::<Digest>(), Err(DigestError::Algorithm { .. })));
        assert!(format!("sha512:{}", "0a".repeat(32)).parse::<Digest>().is_err());
        assert!(serde_json::from_str::<Digest>("\"sha256:..\"").is_err());
    }

    proptest! {
        #[test]
        fn bytes_come_back(hash: [u8; 32]) {
            let digest = Digest::new(Algorithm::Sha256, &hash).unwrap();
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
        #[test]
        fn never_panics(text in ".{0,80}") {
            drop(text.parse::<Digest>());
        }
    }
}
