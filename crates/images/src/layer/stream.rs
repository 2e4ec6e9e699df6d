//! A compressed layer as a stream of plain bytes, each stage in a thread of its own: read and inflate, hash, and the
//! reader of the stream. Buffers go round in a circle, so memory is bounded and stays warm.

use crate::digest::Hasher;
use model::image::{Algorithm, Digest};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

const BUFFER: usize = 256 << 10;
/// Buffers of one stream: one in each of the three stages, and one between two.
const BUFFERS: usize = 5;
/// The largest window of zstd, as a power of two: 128 MiB, its own default for decoders.
const MAX_WINDOW: u32 = 27;

/// How content is compressed, by its first bytes: what media types say is often wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Gzip,
    Zstd,
    /// One that OCI does not know.
    Foreign(&'static str),
}

impl Encoding {
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, which pzstd and zstd:chunked begin with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Foreign("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Foreign("xz"),
            _ => Self::Plain,
        }
    }
}

/// Opens a decoder; `compressed` counts the bytes taken from the file.
pub(crate) fn decoder<'a>(
    file: impl Read + Send + 'a,
    compressed: &'a AtomicU64,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut reader = BufReader::with_capacity(BUFFER, Counting { file, compressed });
    let head = reader.fill_buf()?;
    Ok(match Encoding::of(head) {
        Encoding::Plain => Box::new(reader),
        Encoding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
            decoder.window_log_max(MAX_WINDOW)?;
            Box::new(decoder)
        }
        Encoding::Foreign(name) => {
            let message = format!("it is compressed with {name}; expected gzip, zstd or no compression");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
    })
}

struct Counting<'a, R> {
    file: R,
    compressed: &'a AtomicU64,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read(buffer)?;
        self.compressed.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// Runs `consume` on the plain bytes of `file`. Returns what it returned, and the digest of all plain bytes; the digest
/// is absent when `consume` did not read to the end.
pub(crate) fn decode<T>(
    file: File,
    algorithm: Algorithm,
    compressed: &AtomicU64,
    stop: &AtomicBool,
    consume: impl FnOnce(&mut Stream) -> T,
) -> (T, Option<Digest>) {
    thread::scope(|scope| {
        let (fill, filled) = sync_channel::<Piece>(BUFFERS);
        let (pass, hashed) = sync_channel::<Piece>(BUFFERS);
        let (give_back, empty) = sync_channel::<Vec<u8>>(BUFFERS);
        for _ in 0..BUFFERS {
            // The channel has room for all buffers there are.
            drop(give_back.try_send(Vec::new()));
        }
        scope.spawn(move || inflate(file, compressed, stop, &empty, &fill));
        let hash = scope.spawn(move || hash(algorithm, &filled, &pass));
        let mut stream = Stream { pieces: hashed, give_back, buffer: Vec::new(), at: 0, ended: false };
        let result = consume(&mut stream);
        drop(stream);
        (result, hash.join().unwrap_or(None))
    })
}

enum Piece {
    Bytes(Vec<u8>),
    Failed(io::Error),
    End,
}

fn inflate(file: File, compressed: &AtomicU64, stop: &AtomicBool, empty: &Receiver<Vec<u8>>, fill: &SyncSender<Piece>) {
    let mut decoder = match decoder(file, compressed) {
        Ok(decoder) => decoder,
        Err(error) => return drop(fill.send(Piece::Failed(error))),
    };
    // A closed channel means that the reader has had enough.
    while let Ok(mut buffer) = empty.recv() {
        buffer.resize(BUFFER, 0);
        let mut length = 0;
        while length < BUFFER {
            match decoder.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(got) => length += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return drop(fill.send(Piece::Failed(error))),
            }
        }
        if stop.load(Ordering::Relaxed) {
            return drop(fill.send(Piece::Failed(io::Error::other("another layer of the image failed"))));
        }
        if length == 0 {
            return drop(fill.send(Piece::End));
        }
        buffer.truncate(length);
        if fill.send(Piece::Bytes(buffer)).is_err() {
            return;
        }
    }
}

fn hash(algorithm: Algorithm, filled: &Receiver<Piece>, pass: &SyncSender<Piece>) -> Option<Digest> {
    let mut hasher = Hasher::new(algorithm);
    while let Ok(piece) = filled.recv() {
        if let Piece::Bytes(bytes) = &piece {
            hasher.update(bytes);
        }
        let end = matches!(piece, Piece::End);
        if pass.send(piece).is_err() {
            return None;
        }
        if end {
            return Some(hasher.finish());
        }
    }
    None
}

/// The plain bytes.
pub(crate) struct Stream {
    pieces: Receiver<Piece>,
    give_back: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.buffer.len() && !self.ended {
            let used = std::mem::take(&mut self.buffer);
            if used.capacity() > 0 {
                // Only when the other end is gone: then nobody needs it.
                drop(self.give_back.try_send(used));
            }
            self.at = 0;
            match self.pieces.recv() {
                Ok(Piece::Bytes(bytes)) => self.buffer = bytes,
                Ok(Piece::End) => self.ended = true,
                Ok(Piece::Failed(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                Err(_) => {
                    self.ended = true;
                    return Err(io::Error::other("the thread that decompresses is gone"));
                }
            }
        }
        Ok(&self.buffer[self.at..])
    }
    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = Read::read(&mut self.fill_buf()?, buffer)?;
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digest_of;
    use std::io::{Seek, Write};

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn run(
        bytes: &[u8],
        consume: impl FnOnce(&mut Stream) -> io::Result<Vec<u8>>,
    ) -> (io::Result<Vec<u8>>, Option<Digest>) {
        decode(file(bytes), Algorithm::Sha256, &AtomicU64::new(0), &AtomicBool::new(false), consume)
    }

    fn all(stream: &mut Stream) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    }

    #[test]
    fn every_encoding_gives_the_same_bytes() {
        let plain: Vec<u8> = (0..3_000_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        // Several members, and several frames, one after the other.
        let zstd =
            [zstd::encode_all(&plain[..1000], 1).unwrap(), zstd::encode_all(&plain[1000..], 1).unwrap()].concat();
        for bytes in [&plain, &gzip, &zstd] {
            let (got, digest) = run(bytes, all);
            assert!(got.unwrap() == plain);
            assert_eq!(digest, Some(digest_of(Algorithm::Sha256, &plain)));
        }
        // Cut off, damaged, and foreign.
        assert!(run(&gzip[..gzip.len() / 2], all).0.is_err());
        assert!(run(&zstd[..zstd.len() / 2], all).0.is_err());
        let (error, digest) = run(b"\xfd7zXZ\0", all);
        assert!(error.unwrap_err().to_string().contains("xz") && digest.is_none());
        // A reader that stops early does not hang the others.
        assert_eq!(
            run(&plain, |stream| {
                let mut bytes = vec![0; 10];
                stream.read_exact(&mut bytes).map(|()| bytes)
            })
            .1,
            None
        );
    }
}
