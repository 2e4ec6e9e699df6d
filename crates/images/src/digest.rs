//! Hashing content.

use model::image::{Algorithm, Digest};
use ring::digest::{Context, SHA256, SHA512};
use std::io::{self, Read};

/// A hash in the making.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: Context,
}

impl Hasher {
    /// Nothing hashed so far.
    pub fn new(algorithm: Algorithm) -> Self {
        let function = match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        };
        Self { algorithm, context: Context::new(function) }
    }
    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }
    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        let hash = self.context.finish();
        Digest::new(self.algorithm, hash.as_ref()).expect("a hash function gives hashes of its own length")
    }
}

/// The digest of these bytes.
pub fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

/// Adds all that `reader` gives; returns how many bytes that was.
pub fn hash_all(hasher: &mut Hasher, mut reader: impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        let got = match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..got]);
        total += got as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // FIPS 180-4 examples.
        let abc = digest_of(Algorithm::Sha256, b"abc");
        assert_eq!(abc.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(digest_of(Algorithm::Sha512, b"abc").hex().starts_with("ddaf35a193617abacc417349ae204131"));
        let mut hasher = Hasher::new(Algorithm::Sha256);
        assert_eq!(hash_all(&mut hasher, &b"abc"[..]).unwrap(), 3);
        assert_eq!(hasher.finish(), abc);
    }
}
