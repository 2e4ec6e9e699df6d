//! Writing: the same entries always give the same bytes.

use super::{Entry, Extent, Kind, header::BLOCK};
use std::io::{self, Write};

/// Writes entries one after the other.
pub struct Writer<W> {
    sink: W,
    /// Data of the current entry still to come, and the bytes that fill up its last block.
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// Writes from the beginning of an archive.
    pub fn new(sink: W) -> Self {
        Self { sink, left: 0, padding: 0 }
    }

    /// Begins an entry. A file is followed by its data, given to [`Writer::data`]: `size` bytes, or those of its extents.
    ///
    /// # Errors
    /// The sink's; `InvalidInput` when the entry before lacks data or something can not be said in the format.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.end_entry()?;
        let map = entry.extents.as_deref().map(sparse_map).unwrap_or_default();
        let stored = match (&entry.extents, entry.kind) {
            (Some(extents), Kind::File) => map.len() as u64 + extents.iter().map(|extent| extent.length).sum::<u64>(),
            (None, Kind::File) => entry.size,
            _ => 0,
        };
        let (name, records) = records(entry, stored)?;
        if !records.is_empty() {
            let mut header = [0; BLOCK];
            put(&mut header[..100], &within(b"PaxHeaders/", base(&entry.path), 100));
            fill(&mut header, b'x', 0o644, 0, 0, 0, records.len() as u64);
            self.sink.write_all(&header)?;
            self.sink.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let mut header = [0; BLOCK];
        put(&mut header[..100], &name[..name.len().min(100)]);
        put(&mut header[157..257], &entry.link[..entry.link.len().min(100)]);
        if matches!(entry.kind, Kind::Character | Kind::Block) {
            octal(&mut header[329..337], u64::from(entry.device.0));
            octal(&mut header[337..345], u64::from(entry.device.1));
        }
        let mtime = u64::try_from(entry.mtime).ok().filter(|mtime| *mtime < 1 << 33).unwrap_or(0);
        let id = |id: u32| if id < 1 << 21 { id } else { 0 };
        let size = if stored < 1 << 33 { stored } else { 0 };
        fill(&mut header, flag(entry.kind), entry.mode & 0o7777, id(entry.uid), id(entry.gid), mtime, size);
        self.sink.write_all(&header)?;
        self.sink.write_all(&map)?;
        self.left = stored - map.len() as u64;
        self.padding = padding(stored);
        if self.left == 0 { self.end_entry() } else { Ok(()) }
    }

    /// Adds data of the current entry.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if length > self.left {
            return Err(invalid("more data than the entry's size"));
        }
        self.sink.write_all(bytes)?;
        self.left -= length;
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_entry()?;
        self.sink.write_all(&[0; 2 * BLOCK])?;
        Ok(self.sink)
    }

    fn end_entry(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(invalid("less data than the entry's size"));
        }
        let padding = std::mem::take(&mut self.padding);
        self.sink.write_all(&[0; BLOCK][..padding])
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        self.sink.write_all(&[0; BLOCK][..padding(length)])
    }
}

/// Header's name and PAX records, in a fixed order.
fn records(entry: &Entry, stored: u64) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    let mut name = entry.path.clone();
    if entry.extents.is_some() {
        add(&mut records, b"GNU.sparse.major", b"1");
        add(&mut records, b"GNU.sparse.minor", b"0");
        add(&mut records, b"GNU.sparse.name", &entry.path);
        add(&mut records, b"GNU.sparse.realsize", entry.size.to_string().as_bytes());
        name = within(b"GNUSparseFile.0/", base(&entry.path), 100);
    } else if entry.path.len() > 100 {
        add(&mut records, b"path", &entry.path);
    }
    if entry.link.len() > 100 {
        add(&mut records, b"linkpath", &entry.link);
    }
    if stored >= 1 << 33 {
        add(&mut records, b"size", stored.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if id >= 1 << 21 {
            add(&mut records, key, id.to_string().as_bytes());
        }
    }
    if !(0..1 << 33).contains(&entry.mtime) {
        add(&mut records, b"mtime", entry.mtime.to_string().as_bytes());
    }
    for (key, value) in &entry.xattrs {
        if key.contains(&b'=') || key.contains(&0) || key.is_empty() {
            return Err(invalid("an extended attribute whose name can not be written"));
        }
        add(&mut records, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
    }
    Ok((name, records))
}

/// Adds `<length> <key>=<value>\n`.
fn add(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    // The length counts its own digits: at most one more than the rest alone has.
    let mut length = rest + digits(rest);
    length = rest + digits(length);
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

fn sparse_map(extents: &[Extent]) -> Vec<u8> {
    let mut map = format!("{}\n", extents.len());
    for extent in extents {
        map.push_str(&format!("{}\n{}\n", extent.offset, extent.length));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

fn fill(header: &mut [u8; BLOCK], flag: u8, mode: u32, uid: u32, gid: u32, mtime: u64, size: u64) {
    octal(&mut header[100..108], u64::from(mode));
    octal(&mut header[108..116], u64::from(uid));
    octal(&mut header[116..124], u64::from(gid));
    octal(&mut header[124..136], size);
    octal(&mut header[136..148], mtime);
    header[156] = flag;
    put(&mut header[257..265], b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum = header.iter().map(|b| u64::from(*b)).sum::<u64>();
    octal(&mut header[148..155], sum);
}

/// Zero-filled octal digits and a NUL. The value fits: callers see to it.
fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let text = format!("{value:0width$o}");
    put(&mut field[..width], &text.as_bytes()[..width]);
    field[width] = 0;
}

fn put(field: &mut [u8], text: &[u8]) {
    field[..text.len()].copy_from_slice(text);
}

fn flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Character => b'3',
        Kind::Block => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

fn base(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

fn within(prefix: &[u8], name: &[u8], max: usize) -> Vec<u8> {
    let mut text = [prefix, name].concat();
    text.truncate(max);
    text
}

fn padding(length: u64) -> usize {
    usize::try_from(length.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
