//! Records of a PAX extended header: `<length> <key>=<value>\n`, the length counting itself.

use super::{Extent, Problem};

/// What the records of one entry say. A record with an empty value takes the header's value back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<i64>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// GNU sparse version 1.0: the map stands in front of the data.
    pub sparse_in_data: bool,
    /// GNU sparse versions 0.0 and 0.1.
    pub sparse_map: Option<Vec<Extent>>,
    pub sparse_name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
}

const MAX_XATTRS: usize = 1024;

impl Records {
    pub fn parse(mut bytes: &[u8]) -> Result<Self, Problem> {
        let mut records = Self::default();
        let mut offset = None;
        // Some writers pad the data with NULs inside the size.
        while !bytes.iter().all(|b| *b == 0) {
            let (key, value, rest) = record(bytes).ok_or(Problem::PaxRecord)?;
            bytes = rest;
            records.take(key, value, &mut offset)?;
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8], offset: &mut Option<u64>) -> Result<(), Problem> {
        let filled = (!value.is_empty()).then_some(value);
        let count = |field| filled.map(|value| decimal(value).ok_or(Problem::Number(field))).transpose();
        match key {
            b"path" => self.path = filled.map(<[u8]>::to_vec),
            b"linkpath" => self.link = filled.map(<[u8]>::to_vec),
            b"size" => self.size = count("size")?,
            b"uid" => self.uid = count("uid")?,
            b"gid" => self.gid = count("gid")?,
            b"mtime" => self.mtime = filled.map(|value| seconds(value).ok_or(Problem::Number("mtime"))).transpose()?,
            b"GNU.sparse.major" => self.sparse_in_data = count("GNU.sparse.major")? == Some(1),
            b"GNU.sparse.minor" | b"GNU.sparse.numblocks" => {}
            b"GNU.sparse.name" => self.sparse_name = filled.map(<[u8]>::to_vec),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.real_size = count("GNU.sparse.size")?,
            b"GNU.sparse.offset" => *offset = count("GNU.sparse.offset")?,
            b"GNU.sparse.numbytes" => {
                let length = count("GNU.sparse.numbytes")?.ok_or(Problem::SparseMap)?;
                let offset = offset.take().ok_or(Problem::SparseMap)?;
                self.sparse_map.get_or_insert_default().push(Extent { offset, length });
            }
            b"GNU.sparse.map" => self.sparse_map = filled.map(map).transpose()?,
            _ => {
                let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else { return Ok(()) };
                if name.is_empty() || name.contains(&0) || self.xattrs.len() >= MAX_XATTRS {
                    return Err(Problem::PaxRecord);
                }
                self.xattrs.retain(|(known, _)| known != name);
                self.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
        Ok(())
    }
}

/// Key, value and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(..length)?.strip_suffix(b"\n")?.get(space + 1..)?;
    let equals = record.iter().position(|b| *b == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    (!key.is_empty()).then_some((key, value, &bytes[length..]))
}

fn map(text: &[u8]) -> Result<Vec<Extent>, Problem> {
    let mut numbers = text.split(|b| *b == b',').map(|number| decimal(number).ok_or(Problem::SparseMap));
    let mut extents = Vec::new();
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or(Problem::SparseMap)??;
        extents.push(Extent { offset: offset?, length });
    }
    Ok(extents)
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, b| {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 { None } else { value.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// Whole seconds of a time with an optional fraction; towards the past, as file systems round.
fn seconds(text: &[u8]) -> Option<i64> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let whole = i64::try_from(decimal(whole)?).ok()?;
    let part = fraction.iter().any(|b| *b != b'0');
    Some(if negative { -whole - i64::from(part) } else { whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_malformed_ones_refused() {
        let records =
            Records::parse(b"11 path=ab\n12 mtime=-1.5\n28 SCHILY.xattr.user.a=b\0=\nc\n11 path=cd\n").unwrap_err();
        assert_eq!(records, Problem::PaxRecord);
        let records =
            Records::parse(b"11 path=ab\n14 mtime=-1.5\n29 SCHILY.xattr.user.a=b\0=\nc\n11 path=cd\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"cd"[..]));
        assert_eq!(records.mtime, Some(-2));
        assert_eq!(records.xattrs, [(b"user.a".to_vec(), b"b\0=\nc".to_vec())]);
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"0 a=b\n",
            b"99 a=b\n",
            b"6 a=bc",
            b"5 =b\n",
            b"99999999999999999999999 a=b\n",
            b"6  a=\n\n",
            b"10 uid=x1\n",
            b"9 uid=-1\n",
        ] {
            assert!(Records::parse(bad).is_err(), "{:?}", bad.escape_ascii().to_string());
        }
    }

    #[test]
    fn sparse_maps_of_both_old_versions() {
        let extents = Some(vec![Extent { offset: 1, length: 2 }, Extent { offset: 3, length: 4 }]);
        let lines =
            b"23 GNU.sparse.offset=1\n25 GNU.sparse.numbytes=2\n23 GNU.sparse.offset=3\n25 GNU.sparse.numbytes=4\n";
        assert_eq!(Records::parse(lines).unwrap().sparse_map, extents);
        assert_eq!(Records::parse(b"26 GNU.sparse.map=1,2,3,4\n").unwrap().sparse_map, extents);
        assert!(Records::parse(b"24 GNU.sparse.map=1,2,3\n").is_err());
    }
}
