//! Tape archives: a strict reader for archives of strangers, and a writer that always writes the same.
//!
//! Why not the `tar` crate: it takes extension headers of any size into memory, does not read PAX sparse files, and its
//! errors do not say which entry they are about. Formats read: v7, ustar, GNU (long names, sparse, base-256 numbers),
//! PAX (POSIX.1-2001, GNU sparse 0.0, 0.1 and 1.0, SCHILY.xattr). Written: ustar with PAX records where needed.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::{Limits, Reader};
pub use writer::Writer;

use std::{fmt, io};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with its data.
    File,
    /// Another name of an entry before it.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name as it stands in the archive: nothing is known of it but that it has no NUL.
    pub path: Vec<u8>,
    /// Kind.
    pub kind: Kind,
    /// Target of a link; without NUL.
    pub link: Vec<u8>,
    /// Permissions with setuid, setgid and sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Size in bytes as a reader of the file sees it.
    pub size: u64,
    /// Extended attributes in the order of the archive.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data that follows belongs; `None`: all of it in one piece from the beginning.
    pub extents: Option<Vec<Extent>>,
}

impl Entry {
    /// An entry with nothing but a name and a kind: owned by root, mode 0, from 1970.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        Self {
            path: path.into(),
            kind,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            device: (0, 0),
            size: 0,
            xattrs: Vec::new(),
            extents: None,
        }
    }
    /// Its name for messages.
    pub fn name(&self) -> String {
        shown(&self.path)
    }
}

/// A piece of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// An archive that can not be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It is malformed.
    #[error("malformed archive at byte {offset}, {}: {problem}", near(entry))]
    Malformed {
        /// Offset of the header or data in the archive.
        offset: u64,
        /// Name of the entry, as far as known; else of the entry before it.
        entry: String,
        /// What is wrong.
        problem: Problem,
    },
    /// Its bytes can not be read.
    #[error("can not read the archive at byte {offset}, {}", near(entry))]
    Io {
        /// How far it was read.
        offset: u64,
        /// Name of the entry.
        entry: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The header's checksum does not fit.
    Checksum,
    /// A number field is not a number, or out of range.
    Number(&'static str),
    /// It ends in the middle of something.
    Truncated,
    /// An extension header is larger than any sensible one.
    ExtensionTooLarge,
    /// Too many extension headers in a row.
    TooManyExtensions,
    /// A PAX record is malformed.
    PaxRecord,
    /// The type of an entry is not supported.
    Type(u8),
    /// A name or a link target is longer than the kernel allows.
    NameTooLong,
    /// A name has a NUL, or is empty.
    Name,
    /// The map of a sparse file contradicts itself or the file's size.
    SparseMap,
    /// An entry that can have no data has some.
    Data,
    /// More entries than allowed.
    TooManyEntries,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum => f.write_str("its header has a wrong checksum"),
            Self::Number(field) => write!(f, "its field {field} is not a number in range"),
            Self::Truncated => f.write_str("the archive ends in the middle of it"),
            Self::ExtensionTooLarge => f.write_str("its extension header is larger than 1 MiB"),
            Self::TooManyExtensions => f.write_str("it has too many extension headers"),
            Self::PaxRecord => f.write_str("it has a malformed PAX record"),
            Self::Type(byte) => write!(f, "its type `{}` is not supported", byte.escape_ascii()),
            Self::NameTooLong => f.write_str("its name or link target is longer than 4095 bytes"),
            Self::Name => f.write_str("its name or link target is empty or has a NUL byte"),
            Self::SparseMap => f.write_str("its map of a sparse file is wrong"),
            Self::Data => f.write_str("it has data, which its type can not have"),
            Self::TooManyEntries => f.write_str("there are more entries than allowed"),
        }
    }
}

/// Bytes of a name for people: control characters can not play tricks with a terminal.
pub fn shown(name: &[u8]) -> String {
    const MAX: usize = 512;
    let text = String::from_utf8_lossy(name.get(..MAX).unwrap_or(name));
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if name.len() > MAX {
        shown.push('…');
    }
    shown
}

fn near(entry: &str) -> String {
    if entry.is_empty() { "before its first entry".to_owned() } else { format!("entry `{entry}`") }
}
