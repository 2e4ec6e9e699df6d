//! Maps of sparse files.

use super::{
    Extent, Problem,
    header::{self, BLOCK, Header},
    pax::decimal,
};

/// Pieces of one file; a megabyte of map describes a file that nobody has.
const MAX_EXTENTS: usize = 1 << 18;

/// Extents of an old GNU header (`S`), and whether more follow in a block of their own.
pub(super) fn in_header(header: &Header) -> Result<(Vec<Extent>, u64, bool), Problem> {
    let mut extents = Vec::new();
    take(&header.0[386..482], &mut extents)?;
    let real = header::number(&header.0[483..495]).and_then(header::unsigned).ok_or(Problem::SparseMap)?;
    Ok((extents, real, header.0[482] != 0))
}

/// Extents of a block that continues an old GNU header, and whether another one follows.
pub(super) fn in_block(block: &[u8; BLOCK], extents: &mut Vec<Extent>) -> Result<bool, Problem> {
    take(&block[..504], extents)?;
    Ok(block[504] != 0)
}

fn take(fields: &[u8], extents: &mut Vec<Extent>) -> Result<(), Problem> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 && pair[12] == 0 {
            break;
        }
        let field = |bytes| header::number(bytes).and_then(header::unsigned).ok_or(Problem::SparseMap);
        extents.push(Extent { offset: field(&pair[..12])?, length: field(&pair[12..])? });
        if extents.len() > MAX_EXTENTS {
            return Err(Problem::SparseMap);
        }
    }
    Ok(())
}

/// Reads the map in front of the data (PAX sparse 1.0): decimal numbers, one a line: how many extents, then offset and
/// length of each; filled up to a block. Fed byte by byte.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    line: Vec<u8>,
    count: Option<usize>,
    offset: Option<u64>,
    extents: Vec<Extent>,
}

impl MapReader {
    /// Returns whether the map is complete.
    pub fn byte(&mut self, byte: u8) -> Result<bool, Problem> {
        if byte != b'\n' {
            if self.line.len() >= 20 {
                return Err(Problem::SparseMap);
            }
            self.line.push(byte);
            return Ok(false);
        }
        let number = decimal(&self.line).ok_or(Problem::SparseMap)?;
        self.line.clear();
        match (self.count, self.offset.take()) {
            (None, _) => {
                let count = usize::try_from(number).ok().filter(|count| *count <= MAX_EXTENTS);
                self.count = Some(count.ok_or(Problem::SparseMap)?);
            }
            (Some(_), None) => self.offset = Some(number),
            (Some(_), Some(offset)) => self.extents.push(Extent { offset, length: number }),
        }
        Ok(self.offset.is_none() && self.count == Some(self.extents.len()))
    }
    pub fn finish(self) -> Vec<Extent> {
        self.extents
    }
}

/// Refuses a map whose extents overlap, are out of order, reach past the file, or do not fit the stored data.
pub(super) fn check(extents: &[Extent], real: u64, stored: u64) -> Result<(), Problem> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for extent in extents {
        if extent.offset < end {
            return Err(Problem::SparseMap);
        }
        end = extent.offset.checked_add(extent.length).filter(|end| *end <= real).ok_or(Problem::SparseMap)?;
        sum += extent.length;
    }
    if extents.len() > MAX_EXTENTS || sum != stored { Err(Problem::SparseMap) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_contradict_themselves() {
        let extent = |offset, length| Extent { offset, length };
        assert_eq!(check(&[extent(0, 1), extent(4, 2), extent(10, 0)], 10, 3), Ok(()));
        assert!(check(&[extent(0, 2), extent(1, 1)], 10, 3).is_err());
        assert!(check(&[extent(8, 3)], 10, 3).is_err());
        assert!(check(&[extent(u64::MAX, 3)], u64::MAX, 3).is_err());
        assert!(check(&[extent(0, 3)], 10, 4).is_err());
    }

    #[test]
    fn a_map_in_front_of_the_data() {
        let mut reader = MapReader::default();
        let done: Vec<bool> = b"2\n0\n5\n10\n7\n".iter().map(|b| reader.byte(*b).unwrap()).collect();
        assert_eq!(done.iter().filter(|done| **done).count(), 1);
        assert_eq!(reader.finish(), [Extent { offset: 0, length: 5 }, Extent { offset: 10, length: 7 }]);
        assert!(MapReader::default().byte(b'0').is_ok_and(|done| !done));
        let mut endless = MapReader::default();
        assert!((0..30).any(|_| endless.byte(b'1').is_err()));
    }
}
