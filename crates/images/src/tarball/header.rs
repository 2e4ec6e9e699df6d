//! The 512 bytes in front of every entry.

use super::Problem;

/// Unit of archives, in bytes.
pub(super) const BLOCK: usize = 512;

/// A header with a good checksum. Its layout: POSIX.1-1988 ustar, and GNU tar manual, "Basic Tar Format".
pub(super) struct Header(pub [u8; BLOCK]);

impl Header {
    /// `None`: a block of zeros, which ends an archive.
    pub fn parse(block: [u8; BLOCK]) -> Result<Option<Self>, Problem> {
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let said = octal(&block[148..156]).ok_or(Problem::Checksum)?;
        let outside = || block[..148].iter().chain(&block[156..]);
        let unsigned = outside().map(|b| u64::from(*b)).sum::<u64>() + 8 * 32;
        // Some old writers add the bytes as signed ones.
        let signed = outside().map(|b| i64::from(b.cast_signed())).sum::<i64>() + 8 * 32;
        if said != unsigned && i64::try_from(said) != Ok(signed) {
            return Err(Problem::Checksum);
        }
        Ok(Some(Self(block)))
    }

    pub fn typeflag(&self) -> u8 {
        self.0[156]
    }
    pub fn mode(&self) -> Result<u64, Problem> {
        number(&self.0[100..108]).and_then(unsigned).ok_or(Problem::Number("mode"))
    }
    pub fn uid(&self) -> Result<u64, Problem> {
        number(&self.0[108..116]).and_then(unsigned).ok_or(Problem::Number("uid"))
    }
    pub fn gid(&self) -> Result<u64, Problem> {
        number(&self.0[116..124]).and_then(unsigned).ok_or(Problem::Number("gid"))
    }
    pub fn size(&self) -> Result<u64, Problem> {
        number(&self.0[124..136]).and_then(unsigned).ok_or(Problem::Number("size"))
    }
    pub fn mtime(&self) -> Result<i64, Problem> {
        number(&self.0[136..148]).and_then(|n| i64::try_from(n).ok()).ok_or(Problem::Number("mtime"))
    }
    pub fn device(&self) -> Result<(u64, u64), Problem> {
        if !self.is_ustar() && !self.is_gnu() {
            return Ok((0, 0));
        }
        let field = |range| number(&self.0[range]).and_then(unsigned).ok_or(Problem::Number("device"));
        Ok((field(329..337)?, field(337..345)?))
    }
    pub fn link(&self) -> &[u8] {
        text(&self.0[157..257])
    }
    /// Name, with the prefix that only POSIX headers have: GNU keeps other things there.
    pub fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = if self.is_ustar() { text(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }
    pub fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }
    fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }
}

/// Up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// An octal number with leading spaces, ended by a space, a NUL or the field; or, with the top bit set, two's complement
/// in base 256. An empty field is 0, as old writers leave it.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field).map(i128::from);
    }
    let negative = first & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = match (at, negative) {
            (0, false) => byte & 0x3f,
            (0, true) => byte | 0x80,
            _ => *byte,
        };
        value = (value << 8) | i128::from(byte);
    }
    Some(value)
}

pub(super) fn unsigned(value: i128) -> Option<u64> {
    u64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<u64> {
    let field = text(field).trim_ascii();
    field.iter().try_fold(0u64, |value, b| {
        let digit = b.wrapping_sub(b'0');
        if digit > 7 { None } else { value.checked_mul(8)?.checked_add(u64::from(digit)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_forms() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0\0"), Some(0o644));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(b"77777777"), Some(0o77_777_777));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]), Some(-256));
        assert_eq!(number(b"12x\0"), None);
        assert_eq!(number(b"-1\0\0"), None);
        assert_eq!(number(&[0xbf; 12]).and_then(unsigned), None);
    }
}
