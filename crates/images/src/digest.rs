//! Hashing content.

use model::image::{Algorithm, Digest};
use sha2::{Digest as _, Sha256, Sha512};
use std::io::{self, Read};

/// A hash in the making.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// Nothing hashed so far.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }
    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha512(hash) => hash.update(bytes),
        }
    }
    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hash) => Digest::new(Algorithm::Sha256, &hash.finalize()),
            State::Sha512(hash) => Digest::new(Algorithm::Sha512, &hash.finalize()),
        }
        .expect("a hash function gives hashes of its own length")
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
