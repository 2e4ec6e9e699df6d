//! The files of an archive by name, whatever order they came in.

use super::{ArchiveError, committed, folder::Folder, io_error, write_error};
use crate::{
    digest::digest_of,
    layer::{self, sanitise},
    progress::{Event, LayerState, Progress},
    store::{Blob, Ingest, Lease, MANIFEST_LIMIT, StoreError},
    tarball::{Entry, Kind, Limits, Reader, TarError, shown},
};
use model::image::{Algorithm, Digest};
use serde::de::DeserializeOwned;
use std::{
    collections::HashMap,
    io::{self, BufReader, Read, Write},
    path::Path,
    sync::atomic::AtomicU64,
};

/// Files up to this size stay in memory until somebody asks for them…
const SMALL: u64 = 1 << 20;
/// …as long as all of them together are not more than this.
const MEMORY: u64 = 64 << 20;
/// What all names and targets of links may take: a hundred thousand entries with names of a usual length.
const NAMES: usize = 32 << 20;
/// What one entry takes besides them.
const NAMED: usize = 256;
/// Links that lead to links.
const MAX_LINKS: usize = 8;

/// The files of an archive.
pub(super) struct Bag<'a> {
    lease: &'a Lease,
    progress: &'a dyn Progress,
    files: Files,
}

enum Files {
    Folder(Folder),
    Archive { memory: HashMap<Vec<u8>, Vec<u8>>, blobs: HashMap<Vec<u8>, Blob>, links: HashMap<Vec<u8>, Vec<u8>> },
}

impl<'a> Bag<'a> {
    pub fn folder(lease: &'a Lease, path: &Path, progress: &'a dyn Progress) -> Result<Self, ArchiveError> {
        Ok(Self { lease, progress, files: Files::Folder(Folder::open(path)?) })
    }

    /// Reads an archive once from beginning to end; large files become blobs on the way.
    pub fn archive(
        lease: &'a Lease,
        stream: Box<dyn Read + Send + '_>,
        progress: &'a dyn Progress,
    ) -> Result<Self, ArchiveError> {
        let counter = AtomicU64::new(0);
        let unreadable =
            |source| ArchiveError::Tar { source: TarError::Io { offset: 0, entry: String::new(), source } };
        let plain = layer::decoder(stream, &counter).map_err(unreadable)?;
        let limits = Limits { entries: 100_000 };
        let mut reader = Reader::new(BufReader::with_capacity(256 << 10, plain), limits);
        let (mut memory, mut blobs, mut links) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (mut room, mut names) = (MEMORY, NAMES);
        let tar = |source| ArchiveError::Tar { source };
        while let Some(entry) = reader.entry().map_err(tar)? {
            let path = clean(&entry.path)?;
            names = names.checked_sub(path.len() + entry.link.len() + NAMED).ok_or_else(|| {
                let problem = format!("the names of the archive's files take more than {NAMES} bytes");
                ArchiveError::Document { path: entry.name(), problem }
            })?;
            match entry.kind {
                Kind::File if entry.extents.is_some() => {
                    let problem = "a sparse file; blobs are never sparse".to_owned();
                    return Err(ArchiveError::Document { path: entry.name(), problem });
                }
                Kind::File if entry.size <= SMALL.min(room) => {
                    room -= entry.size;
                    let mut bytes = Vec::new();
                    copy(&mut reader, &mut bytes, &entry)?;
                    memory.insert(path, bytes);
                }
                Kind::File => {
                    let expected = expected(&path);
                    let blob = take(lease, &mut reader, &entry, expected.as_ref(), progress)?;
                    blobs.insert(path, blob);
                }
                Kind::Symlink => drop(links.insert(path.clone(), beside(&path, &entry.link)?)),
                Kind::HardLink => drop(links.insert(path, clean(&entry.link)?)),
                _ => {}
            }
        }
        reader.finish().map_err(tar)?;
        Ok(Self { lease, progress, files: Files::Archive { memory, blobs, links } })
    }

    pub fn has(&self, path: &str) -> bool {
        match &self.files {
            Files::Folder(folder) => folder.has(path),
            Files::Archive { memory, blobs, .. } => {
                let path = self.real(path.as_bytes());
                memory.contains_key(&path) || blobs.contains_key(&path)
            }
        }
    }

    /// The bytes of a small file.
    pub fn bytes(&self, path: &str, referrer: &str) -> Result<Vec<u8>, ArchiveError> {
        let lacks = || ArchiveError::Lacks { path: path.to_owned(), referrer: referrer.to_owned() };
        match &self.files {
            Files::Folder(folder) => {
                let (file, size) = folder.file(path)?.ok_or_else(lacks)?;
                if size > MANIFEST_LIMIT {
                    let problem = format!("it has {size} bytes, more than {MANIFEST_LIMIT}");
                    return Err(ArchiveError::Document { path: path.to_owned(), problem });
                }
                let mut bytes = Vec::new();
                file.take(MANIFEST_LIMIT).read_to_end(&mut bytes).map_err(io_error("read", Path::new(path)))?;
                Ok(bytes)
            }
            Files::Archive { memory, blobs, .. } => {
                let real = self.real(path.as_bytes());
                match (memory.get(&real), blobs.get(&real)) {
                    (Some(bytes), _) => Ok(bytes.clone()),
                    (None, Some(blob)) => Ok(blob.read(MANIFEST_LIMIT)?),
                    (None, None) => Err(lacks()),
                }
            }
        }
    }

    /// A small file as the document that it must be.
    pub fn document<T: DeserializeOwned>(&self, path: &str, referrer: &str) -> Result<T, ArchiveError> {
        let bytes = self.bytes(path, referrer)?;
        let problem =
            |error: serde_json::Error| ArchiveError::Document { path: path.to_owned(), problem: error.to_string() };
        serde_json::from_slice(&bytes).map_err(problem)
    }

    /// A file as a blob of the store, held; its bytes must have the digest `expected`, if that is given.
    pub fn blob(&self, path: &str, referrer: &str, expected: Option<&Digest>) -> Result<Blob, ArchiveError> {
        let blob = match &self.files {
            Files::Folder(folder) => {
                if let Some(known) = expected.map(|digest| self.lease.hold(digest)).transpose()?.flatten() {
                    self.layer(&known, LayerState::Exists);
                    return Ok(known);
                }
                let lacks = || ArchiveError::Lacks { path: path.to_owned(), referrer: referrer.to_owned() };
                let (mut file, _) = folder.file(path)?.ok_or_else(lacks)?;
                let mut ingest = self.lease.store().ingest()?;
                let copied = io::copy(&mut file, &mut ingest);
                return self.commit(ingest, copied.map(drop), path, expected);
            }
            Files::Archive { memory, blobs, .. } => {
                let real = self.real(path.as_bytes());
                match (memory.get(&real), blobs.get(&real)) {
                    (Some(bytes), _) => return self.put(bytes, path, expected),
                    (None, Some(blob)) => blob.clone(),
                    (None, None) => {
                        return Err(ArchiveError::Lacks { path: path.to_owned(), referrer: referrer.to_owned() });
                    }
                }
            }
        };
        match expected {
            Some(expected) if *expected != blob.digest => {
                // It came in under the digest that its name says, or under SHA-256 if the name says none.
                if expected.algorithm() == blob.digest.algorithm() {
                    return Err(ArchiveError::Damaged { path: path.to_owned(), found: blob.digest });
                }
                let mut ingest = self.lease.store().ingest_as(expected.algorithm())?;
                let copied = blob.open().map(|mut file| io::copy(&mut file, &mut ingest))?;
                self.commit(ingest, copied.map(drop), path, Some(expected))
            }
            _ => Ok(blob),
        }
    }

    /// Bytes as a blob of the store.
    pub fn put(&self, bytes: &[u8], path: &str, expected: Option<&Digest>) -> Result<Blob, ArchiveError> {
        let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = digest_of(algorithm, bytes);
        if expected.is_some_and(|expected| *expected != digest) {
            return Err(ArchiveError::Damaged { path: path.to_owned(), found: digest });
        }
        if let Some(known) = self.lease.hold(&digest)? {
            return Ok(known);
        }
        let mut ingest = self.lease.store().ingest_as(algorithm)?;
        let written = ingest.write_all(bytes);
        self.commit(ingest, written, path, Some(&digest))
    }

    fn commit(
        &self,
        ingest: Ingest,
        written: io::Result<()>,
        path: &str,
        expected: Option<&Digest>,
    ) -> Result<Blob, ArchiveError> {
        if let Err(error) = written {
            ingest.abort()?;
            return Err(write_error(Path::new(path), error));
        }
        let blob = match expected {
            Some(expected) => ingest.commit(expected, self.lease).map_err(|error| committed(path, error))?,
            None => ingest.commit_as(Algorithm::Sha256, self.lease)?,
        };
        self.layer(&blob, LayerState::Done);
        Ok(blob)
    }

    fn layer(&self, blob: &Blob, state: LayerState<'_>) {
        if blob.size > SMALL {
            self.progress.event(Event::Layer { digest: &blob.digest, size: blob.size, state });
        }
    }

    /// The name behind links.
    fn real(&self, path: &[u8]) -> Vec<u8> {
        let mut path = clean(path).unwrap_or_default();
        if let Files::Archive { links, .. } = &self.files {
            for _ in 0..MAX_LINKS {
                match links.get(&path) {
                    Some(target) => path.clone_from(target),
                    None => break,
                }
            }
        }
        path
    }
}

/// Takes a large file into the store, under the digest that is expected if there is one.
fn take<R: io::BufRead>(
    lease: &Lease,
    reader: &mut Reader<R>,
    entry: &Entry,
    expected: Option<&Digest>,
    progress: &dyn Progress,
) -> Result<Blob, ArchiveError> {
    if let Some(known) = expected.map(|digest| lease.hold(digest)).transpose()?.flatten() {
        progress.event(Event::Layer { digest: &known.digest, size: known.size, state: LayerState::Exists });
        return Ok(known);
    }
    let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
    let mut ingest = lease.store().ingest_as(algorithm)?;
    if let Err(error) = copy(reader, &mut ingest, entry) {
        ingest.abort()?;
        return Err(error);
    }
    let blob = match expected {
        Some(expected) => ingest.commit(expected, lease).map_err(|error| committed(&entry.name(), error))?,
        None => ingest.commit_as(algorithm, lease)?,
    };
    progress.event(Event::Layer { digest: &blob.digest, size: blob.size, state: LayerState::Done });
    Ok(blob)
}

fn copy<R: io::BufRead>(reader: &mut Reader<R>, sink: &mut impl Write, entry: &Entry) -> Result<(), ArchiveError> {
    loop {
        let piece = reader.data(u64::MAX).map_err(|source| ArchiveError::Tar { source })?;
        if piece.is_empty() {
            return Ok(());
        }
        let length = piece.len();
        let written = sink.write_all(piece);
        written.map_err(|error| write_error(Path::new(&entry.name()), error))?;
        reader.consume(length);
    }
}

/// What `blobs/<algorithm>/<hex>` says.
fn expected(path: &[u8]) -> Option<Digest> {
    let text = std::str::from_utf8(path).ok()?.strip_prefix("blobs/")?;
    text.replacen('/', ":", 1).parse().ok()
}

pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    let refused = |error: layer::PathError| ArchiveError::Document { path: shown(path), problem: error.to_string() };
    Ok(sanitise(path).map_err(refused)?.join(&b'/'))
}

/// The target of a symbolic link, which is relative to the folder of the link.
fn beside(path: &[u8], target: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    let refused = |problem: &str| ArchiveError::Document { path: shown(path), problem: problem.to_owned() };
    let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    parts.pop();
    if target.starts_with(b"/") {
        return Err(refused("a link out of the archive"));
    }
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop().ok_or_else(|| refused("a link out of the archive"))?),
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// Whether content of the store is missing rather than something else being wrong.
pub(super) fn is_missing(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Lacks { .. } | ArchiveError::Store(StoreError::Missing { .. }))
}
