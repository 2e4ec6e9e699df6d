//! Packing what a container or a build step changed: an overlay upper directory becomes a layer.
//!
//! The same files give the same bytes: names sorted, numeric owners, whole seconds not later than a given time, no
//! access times, attributes sorted, sparse files by their content, one way to compress.

mod walk;

use crate::{
    digest::Hasher,
    media,
    store::{Blob, Ingest, Lease, Store, StoreError},
    tarball::Writer,
};
use model::image::{Algorithm, Digest};
use oci_spec::image::{Descriptor, MediaType};
use std::{
    io::{self, Write},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Gzip, which every client takes; level 1–9.
    Gzip(u32),
    /// Zstandard, several times faster both ways; level 1–19.
    Zstd(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(3)
    }
}

impl Compression {
    /// The media type of a layer that is compressed this way.
    pub fn media_type(self) -> MediaType {
        media::named(match self {
            Self::None => media::OCI_LAYER,
            Self::Gzip(_) => media::OCI_LAYER_GZIP,
            Self::Zstd(_) => media::OCI_LAYER_ZSTD,
        })
    }

    pub(crate) fn encoder<'a, W: Write + Send + 'a>(self, sink: W) -> io::Result<Encoder<'a, W>> {
        Ok(match self {
            Self::None => Encoder::None(sink),
            Self::Gzip(level) => {
                // No name and no time in the header, "unknown" as the system.
                let header = flate2::GzBuilder::new().mtime(0).operating_system(255);
                Encoder::Gzip(header.write(sink, flate2::Compression::new(level.clamp(1, 9))))
            }
            Self::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(sink, level.clamp(1, 19))?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
        })
    }
}

/// Compresses what is written to it.
pub(crate) enum Encoder<'a, W: Write + 'a> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'a, W>),
}

impl<W: Write> Encoder<'_, W> {
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::None(sink) => Ok(sink),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(sink) => sink.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How to pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PackOptions {
    /// Compression.
    pub compression: Compression,
    /// No entry is later than this, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub latest: Option<i64>,
}

/// A layer that is in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// Its blob.
    pub descriptor: Descriptor,
    /// Digest of its plain form.
    pub diff_id: Digest,
    /// Size of its plain form, in bytes.
    pub size: u64,
}

/// A directory could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file can not be read.
    #[error("can not pack `{entry}`")]
    Read {
        /// Its name in the layer.
        entry: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that a layer can not say.
    #[error("can not pack `{entry}`: {problem}")]
    Unsupported {
        /// Its name in the layer.
        entry: String,
        /// What it is.
        problem: &'static str,
    },
    /// The layer can not be compressed or written.
    #[error("can not write the layer")]
    Write {
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Packs an overlay upper directory. Whiteouts and opaque directories become those of OCI layers; sockets are left out;
/// owners are those on disk. `lease` holds the layer.
///
/// # Errors
/// [`PackError`]: a file that changes meanwhile among them.
pub fn pack(store: &Store, lease: &Lease, upper: &Path, options: PackOptions) -> Result<Packed, PackError> {
    pack_stream(store, lease, options.compression, |sink| {
        let mut writer = Writer::new(sink);
        walk::walk(upper, options.latest, &mut writer)?;
        writer.finish().map_err(|source| PackError::Write { source })?;
        Ok(())
    })
}

/// Packs an archive that `write` writes; `lease` holds the layer.
pub(crate) fn pack_stream(
    store: &Store,
    lease: &Lease,
    compression: Compression,
    write: impl FnOnce(&mut Sink) -> Result<(), PackError>,
) -> Result<Packed, PackError> {
    let (blob, diff_id, size) = packed(store, lease, compression, write)?;
    let digest = crate::store::descriptor_digest(&blob.digest)?;
    let descriptor = Descriptor::new(compression.media_type(), blob.size, digest);
    Ok(Packed { descriptor, diff_id, size })
}

/// Runs `write` with a sink for plain bytes, which are hashed, compressed and taken into the store; compression has a
/// thread of its own.
fn packed(
    store: &Store,
    lease: &Lease,
    compression: Compression,
    write: impl FnOnce(&mut Sink) -> Result<(), PackError>,
) -> Result<(Blob, Digest, u64), PackError> {
    let mut ingest = store.ingest()?;
    let (send, receive) = sync_channel(4);
    let (result, compressed) = thread::scope(|scope| {
        let compressor = scope.spawn(|| compress(&mut ingest, compression, receive));
        let mut sink =
            Sink { hasher: Hasher::new(Algorithm::Sha256), buffer: Vec::with_capacity(PIECE), size: 0, send };
        let result = write(&mut sink).and_then(|()| sink.end().map_err(|source| PackError::Write { source }));
        let gone = |_| Err(io::Error::other("the thread that compresses is gone"));
        (result, compressor.join().unwrap_or_else(gone))
    });
    // When the compressor failed, the sink failed because of it.
    let (diff_id, size) = match (compressed, result) {
        (Err(error), _) => {
            ingest.abort()?;
            // The store's own error is inside.
            return Err(match error.downcast::<StoreError>() {
                Ok(error) => PackError::Store(error),
                Err(source) => PackError::Write { source },
            });
        }
        (Ok(()), Err(error)) => {
            ingest.abort()?;
            return Err(error);
        }
        (Ok(()), Ok(done)) => done,
    };
    let blob = ingest.commit_as(Algorithm::Sha256, lease)?;
    Ok((blob, diff_id, size))
}

const PIECE: usize = 256 << 10;

/// Ends without an error also when the sender gives up: then nobody uses the result.
fn compress(ingest: &mut Ingest, compression: Compression, pieces: Receiver<Vec<u8>>) -> io::Result<()> {
    let mut encoder = compression.encoder(ingest)?;
    for piece in pieces {
        encoder.write_all(&piece)?;
    }
    encoder.finish().map(drop)
}

/// Takes plain bytes.
pub(crate) struct Sink {
    hasher: Hasher,
    buffer: Vec<u8>,
    size: u64,
    send: SyncSender<Vec<u8>>,
}

impl Sink {
    fn pass(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.hasher.update(&piece);
        self.size += piece.len() as u64;
        self.send.send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn end(mut self) -> io::Result<(Digest, u64)> {
        self.pass()?;
        Ok((self.hasher.finish(), self.size))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        if self.buffer.len() == PIECE {
            self.pass()?;
        }
        Ok(length)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
