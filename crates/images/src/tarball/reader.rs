//! Reading.

use super::{
    Entry, Extent, Kind, Problem, TarError,
    header::{self, BLOCK, Header},
    pax::Records,
    shown, sparse,
};
use std::io::{self, BufRead};

/// What an archive may ask of its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000_000 }
    }
}

const MAX_EXTENSION: u64 = 1 << 20;
const MAX_EXTENSIONS: u32 = 16;
/// `PATH_MAX` without its NUL.
const MAX_NAME: usize = 4095;

/// Reads entries one after the other. The data of an entry is read by [`Reader::data`] until it gives an empty slice;
/// what is not read is skipped.
pub struct Reader<R> {
    source: R,
    limits: Limits,
    offset: u64,
    /// Data of the current entry still in the source, and the bytes that fill up its last block.
    left: u64,
    padding: u64,
    entries: u64,
    name: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads from the beginning of an archive.
    pub fn new(source: R, limits: Limits) -> Self {
        Self { source, limits, offset: 0, left: 0, padding: 0, entries: 0, name: Vec::new(), ended: false }
    }

    /// Bytes of the archive so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry; `None` at the end of the archive.
    pub fn entry(&mut self) -> Result<Option<Entry>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_rest()?;
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        for _ in 0..MAX_EXTENSIONS {
            let Some(header) = self.header()? else {
                self.ended = true;
                return Ok(None);
            };
            match header.typeflag() {
                b'x' => {
                    records = Records::parse(&self.extension(&header)?).map_err(|problem| self.malformed(problem))?
                }
                // Global records: git writes them for its commit id, nobody means them for an image.
                b'g' => drop(self.extension(&header)?),
                b'L' => long_name = Some(header::text(&self.extension(&header)?).to_vec()),
                b'K' => long_link = Some(header::text(&self.extension(&header)?).to_vec()),
                b'V' => {}
                _ => return self.member(&header, records, long_name, long_link).map(Some),
            }
        }
        Err(self.malformed(Problem::TooManyExtensions))
    }

    /// More data of the current entry, as much as is at hand; empty at its end. For a sparse entry these are the bytes of
    /// its extents, one after the other.
    pub fn data(&mut self, at_most: u64) -> Result<&[u8], TarError> {
        let wanted = self.left.min(at_most);
        if wanted == 0 {
            return Ok(&[]);
        }
        let at_hand = fill(&mut self.source, self.offset, &self.name)?;
        let length = wanted.min(at_hand as u64);
        if length == 0 {
            return Err(self.malformed(Problem::Truncated));
        }
        let bytes = self.source.fill_buf();
        let (offset, entry) = (self.offset, &self.name);
        let bytes = bytes.map_err(|source| TarError::Io { offset, entry: shown(entry), source })?;
        // Both conversions hold: `length` is at most the length of a slice.
        Ok(&bytes[..usize::try_from(length).unwrap_or(bytes.len())])
    }

    /// Goes on behind bytes that [`Reader::data`] gave.
    pub fn consume(&mut self, length: usize) {
        self.source.consume(length);
        self.offset += length as u64;
        self.left -= length as u64;
    }

    /// Reads what is left of the source behind the end of the archive: writers fill up to a record.
    pub fn finish(mut self) -> Result<R, TarError> {
        loop {
            let at_hand = fill(&mut self.source, self.offset, &self.name)?;
            if at_hand == 0 {
                return Ok(self.source);
            }
            self.source.consume(at_hand);
            self.offset += at_hand as u64;
        }
    }

    fn member(
        &mut self,
        header: &Header,
        records: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let sparse_name = records.sparse_name.clone();
        let path = sparse_name.or_else(|| records.path.clone()).or(long_name).unwrap_or_else(|| header.path());
        self.name.clone_from(&path);
        self.entries += 1;
        let entry = self.read_member(header, records, path, long_link);
        entry.map_err(|error| match error {
            Failure::Problem(problem) => self.malformed(problem),
            Failure::Tar(error) => error,
        })
    }

    fn read_member(
        &mut self,
        header: &Header,
        records: Records,
        path: Vec<u8>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, Failure> {
        if self.entries > self.limits.entries {
            return Err(Problem::TooManyEntries.into());
        }
        let kind = kind(header.typeflag(), &path)?;
        let mut entry = Entry::new(path, kind);
        if matches!(kind, Kind::HardLink | Kind::Symlink) {
            entry.link = records.link.or(long_link).unwrap_or_else(|| header.link().to_vec());
            check_name(&entry.link)?;
        }
        check_name(&entry.path)?;
        let id =
            |value: u64, field| u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or(Problem::Number(field));
        entry.mode = u32::try_from(header.mode()? & 0o7777).unwrap_or_default();
        entry.uid = id(records.uid.map_or_else(|| header.uid(), Ok)?, "uid")?;
        entry.gid = id(records.gid.map_or_else(|| header.gid(), Ok)?, "gid")?;
        entry.mtime = records.mtime.map_or_else(|| header.mtime(), Ok)?;
        entry.xattrs = records.xattrs;
        if matches!(kind, Kind::Character | Kind::Block) {
            let (major, minor) = header.device()?;
            // Linux has 12 bits for the major and 20 for the minor number.
            let fits = major < 1 << 12 && minor < 1 << 20;
            let number = |value| u32::try_from(value).ok().filter(|_| fits).ok_or(Problem::Number("device"));
            entry.device = (number(major)?, number(minor)?);
        }
        let stored = records.size.map_or_else(|| header.size(), Ok)?;
        if kind != Kind::File {
            // Readers disagree on whether a hard link with a size is followed by data: nobody may see another archive
            // than we do. The size of a directory is a hint of old writers on how much room it will need.
            let hint = header.typeflag() == b'5';
            return if stored == 0 || hint { Ok(entry) } else { Err(Problem::Data.into()) };
        }
        self.left = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
        entry.size = stored;
        if header.typeflag() == b'S' {
            let (mut extents, real, mut more) = sparse::in_header(header)?;
            while more {
                let block = self.block()?.ok_or(Problem::Truncated)?;
                more = sparse::in_block(&block, &mut extents)?;
            }
            self.sparse(&mut entry, extents, records.real_size.unwrap_or(real))?;
        } else if records.sparse_in_data {
            let extents = self.map_in_data()?;
            self.sparse(&mut entry, extents, records.real_size.ok_or(Problem::SparseMap)?)?;
        } else if let Some(extents) = records.sparse_map {
            self.sparse(&mut entry, extents, records.real_size.ok_or(Problem::SparseMap)?)?;
        }
        Ok(entry)
    }

    fn sparse(&self, entry: &mut Entry, extents: Vec<Extent>, real: u64) -> Result<(), Problem> {
        sparse::check(&extents, real, self.left)?;
        entry.size = real;
        entry.extents = Some(extents);
        Ok(())
    }

    fn map_in_data(&mut self) -> Result<Vec<Extent>, Failure> {
        let mut map = sparse::MapReader::default();
        loop {
            if self.left < BLOCK as u64 {
                return Err(Problem::SparseMap.into());
            }
            let block = self.block()?.ok_or(Problem::Truncated)?;
            self.left -= BLOCK as u64;
            for byte in block {
                if map.byte(byte)? {
                    return Ok(map.finish());
                }
            }
        }
    }

    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let Some(block) = self.block()? else { return Ok(None) };
        Header::parse(block).map_err(|problem| {
            self.offset -= BLOCK as u64;
            self.malformed(problem)
        })
    }

    /// `None`: the source ends here, which some writers think is enough.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let at_hand = fill(&mut self.source, self.offset, &self.name)?;
            if at_hand == 0 {
                return if filled == 0 { Ok(None) } else { Err(self.malformed(Problem::Truncated)) };
            }
            let (offset, entry) = (self.offset, &self.name);
            let bytes = self.source.fill_buf();
            let bytes = bytes.map_err(|source| TarError::Io { offset, entry: shown(entry), source })?;
            let length = at_hand.min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&bytes[..length]);
            self.source.consume(length);
            self.offset += length as u64;
            filled += length;
        }
        Ok(Some(block))
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = header.size().map_err(|problem| self.malformed(problem))?;
        if size > MAX_EXTENSION {
            return Err(self.malformed(Problem::ExtensionTooLarge));
        }
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        let mut bytes = Vec::new();
        loop {
            let piece = self.data(u64::MAX)?;
            if piece.is_empty() {
                break;
            }
            bytes.extend_from_slice(piece);
            let length = piece.len();
            self.consume(length);
        }
        self.skip_rest()?;
        Ok(bytes)
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        // Data and padding are checked apart: their sum may be more than a u64 holds.
        for what in [self.left, self.padding] {
            let mut what = what;
            while what > 0 {
                let at_hand = fill(&mut self.source, self.offset, &self.name)? as u64;
                if at_hand == 0 {
                    return Err(self.malformed(Problem::Truncated));
                }
                let length = at_hand.min(what);
                self.source.consume(usize::try_from(length).unwrap_or(usize::MAX));
                self.offset += length;
                what -= length;
            }
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn malformed(&self, problem: Problem) -> TarError {
        TarError::Malformed { offset: self.offset, entry: shown(&self.name), problem }
    }
}

/// How many bytes are at hand; 0 at the end of the source.
fn fill<R: BufRead>(source: &mut R, offset: u64, entry: &[u8]) -> Result<usize, TarError> {
    loop {
        match source.fill_buf() {
            Ok(bytes) => return Ok(bytes.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(TarError::Io { offset, entry: shown(entry), source }),
        }
    }
}

enum Failure {
    Problem(Problem),
    Tar(TarError),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<TarError> for Failure {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

fn kind(typeflag: u8, path: &[u8]) -> Result<Kind, Problem> {
    Ok(match typeflag {
        // Before POSIX a directory was a file whose name ends in a slash.
        b'0' | 0 | b'7' | b'S' if path.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(Problem::Type(other)),
    })
}

fn check_name(name: &[u8]) -> Result<(), Problem> {
    match name {
        [] => Err(Problem::Name),
        name if name.contains(&0) => Err(Problem::Name),
        name if name.len() > MAX_NAME => Err(Problem::NameTooLong),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
