//! Sizes in bytes as people type them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A number of bytes. Parses `1048576`, `512k`, `64m`, `1.5g`, `2GiB`, `10MB`; as in podman and Docker, every unit is a
/// power of 1024, with or without `i` and `b`. Prints the largest binary unit that is exact, or one decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteSize(pub u64);

/// The text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a size: expected a number with an optional unit b, k, m, g or t, such as 64m or 1.5g")]
pub struct SizeError {
    /// The text as given.
    pub text: String,
}

const UNITS: [(&str, u32); 5] = [("t", 40), ("g", 30), ("m", 20), ("k", 10), ("b", 0)];

impl FromStr for ByteSize {
    type Err = SizeError;
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let fail = || SizeError { text: text.to_owned() };
        let digits = text.trim().find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.trim().len());
        let (number, unit) = text.trim().split_at(digits);
        let unit = unit.trim().to_ascii_lowercase();
        let shift = match unit.as_str() {
            "" | "b" => 0,
            other => {
                let stem = other.strip_suffix("ib").or(other.strip_suffix('b')).unwrap_or(other);
                UNITS.iter().find(|(name, shift)| *name == stem && *shift > 0).ok_or_else(fail)?.1
            }
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
            return Err(fail());
        }
        let whole = whole.parse::<u64>().map_err(|_| fail())?;
        let mut bytes = whole.checked_mul(1 << shift).ok_or_else(fail)?;
        if !fraction.is_empty() {
            let digits = u32::try_from(fraction.len()).map_err(|_| fail())?;
            let scale = 10u128.checked_pow(digits).ok_or_else(fail)?;
            let part = u128::from(fraction.parse::<u64>().map_err(|_| fail())?) * (1u128 << shift) / scale;
            bytes = u64::try_from(part).ok().and_then(|part| bytes.checked_add(part)).ok_or_else(fail)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [("TiB", 40u32), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (name, shift) in names {
            let unit = 1u64 << shift;
            if self.0 >= unit {
                let tenths = u128::from(self.0) * 10 / u128::from(unit);
                return match self.0 % unit {
                    0 => f.pad(&format!("{} {name}", self.0 / unit)),
                    _ => f.pad(&format!("{}.{} {name}", tenths / 10, tenths % 10)),
                };
            }
        }
        f.pad(&format!("{} B", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1024),
            ("64m", 64 << 20),
            ("1.5g", 3 << 29),
            ("2GiB", 2 << 30),
            ("10MB", 10 << 20),
            ("7b", 7),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "m", "-1", "1.", ".5", "1..2", "1x", "1 2", "99999999999999999999", "20000000t", "1kk"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,24}") {
            text.parse::<ByteSize>().map_or_else(|error| drop(error.to_string()), |size| drop(size.to_string()));
        }
        #[test]
        fn plain_numbers_are_bytes(n: u64) {
            prop_assert_eq!(n.to_string().parse::<ByteSize>(), Ok(ByteSize(n)));
        }
    }
}
