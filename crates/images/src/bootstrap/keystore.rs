//! Java's store of trusted certificates, which notes when each of them was added: the one file of Debian's packages that
//! is never the same twice.
//!
//! The format is JKS as the JDK's `sun.security.provider.JavaKeyStore` reads it: big-endian magic, version and number of
//! entries; of each entry its tag (2: a certificate), alias, time in milliseconds, type, length and bytes; at the end a
//! SHA-1 of password, `Mighty Aphrodite` and all before it.

/// Where Debian keeps it.
pub(super) const PATH: &[u8] = b"etc/ssl/certs/java/cacerts";
/// The password that everybody knows, as Java's two bytes for each character.
const PASSWORD: &str = "changeit";
const SALT: &[u8] = b"Mighty Aphrodite";
const HASH: usize = 20;

/// Says that everything in the store was added at `epoch`, in seconds since 1970. Anything that is not such a store of
/// certificates stays as it is.
pub(super) fn stamp(store: &mut [u8], epoch: i64) {
    let Some(end) = store.len().checked_sub(HASH) else { return };
    let Some(times) = times(&store[..end]) else { return };
    if signature(&store[..end]) != store[end..] {
        return;
    }
    let time = epoch.saturating_mul(1000).to_be_bytes();
    for at in times {
        store[at..at + time.len()].copy_from_slice(&time);
    }
    let hash = signature(&store[..end]);
    store[end..].copy_from_slice(&hash);
}

/// Where the times are.
fn times(store: &[u8]) -> Option<Vec<usize>> {
    let mut at = 0;
    let mut take = |length: usize| {
        let begin = at;
        at += length;
        store.get(begin..at).map(|bytes| (begin, bytes))
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
    let magic = take(8)?.1;
    if magic != [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2] {
        return None;
    }
    let count = number(take(4)?.1);
    let mut times = Vec::new();
    for _ in 0..count {
        if number(take(4)?.1) != 2 {
            return None;
        }
        let alias = number(take(2)?.1);
        take(alias)?;
        times.push(take(8)?.0);
        let kind = number(take(2)?.1);
        take(kind)?;
        let certificate = number(take(4)?.1);
        take(certificate)?;
    }
    (at == store.len()).then_some(times)
}

fn signature(store: &[u8]) -> [u8; HASH] {
    let mut bytes: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    bytes.extend_from_slice(SALT);
    bytes.extend_from_slice(store);
    sha1(bytes)
}

/// FIPS 180-4. A check sum against accidents here, and not worth a dependency of its own.
fn sha1(mut bytes: Vec<u8>) -> [u8; HASH] {
    let bits = (bytes.len() as u64).wrapping_mul(8);
    bytes.push(0x80);
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    if bytes.len() - 8 < usize::try_from(bits / 8 + 1).unwrap_or(usize::MAX) {
        bytes.resize(bytes.len() + 64, 0);
    }
    let end = bytes.len() - 8;
    bytes[end..].copy_from_slice(&bits.to_be_bytes());
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in bytes.chunks_exact(64) {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        for at in 16..80 {
            words[at] = (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (at, word) in words.into_iter().enumerate() {
            let (function, constant) = match at {
                0..20 => (b & c | !b & d, 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next =
                a.rotate_left(5).wrapping_add(function).wrapping_add(e).wrapping_add(constant).wrapping_add(word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, value) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut hash = [0; HASH];
    for (to, word) in hash.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(time: u64, tag: u32) -> Vec<u8> {
        let mut bytes = vec![0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 2];
        for name in ["debian:one.pem", "debian:two.pem"] {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, u8::try_from(name.len()).unwrap()]);
            bytes.extend(name.as_bytes());
            bytes.extend(time.to_be_bytes());
            bytes.extend([0, 5]);
            bytes.extend(b"X.509");
            bytes.extend([0, 0, 0, 3, 1, 2, 3]);
        }
        let hash = signature(&bytes);
        bytes.extend(hash);
        bytes
    }

    #[test]
    fn known_answers() {
        let hex = |bytes: &[u8]| sha1(bytes.to_vec()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hex(two_blocks), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
        assert_eq!(hex(&[b'a'; 64]), "0098ba824b5c16427bd7a1122a5a442a25ec644d");
    }

    #[test]
    fn only_the_times_change() {
        let (mut one, mut two) = (store(1_700_000_000_123, 2), store(1_800_000_000_456, 2));
        assert_ne!(one, two);
        stamp(&mut one, 7);
        stamp(&mut two, 7);
        assert_eq!(one, two);
        assert_eq!(one, store(7000, 2));
    }

    #[test]
    fn what_is_something_else_stays() {
        let mut damaged = store(5, 2);
        let end = damaged.len() - 1;
        damaged[end] ^= 1;
        let mut short = store(5, 2);
        short.truncate(40);
        for other in [damaged, short, store(5, 1), b"PKCS12".to_vec(), Vec::new()] {
            let mut bytes = other.clone();
            stamp(&mut bytes, 7);
            assert_eq!(bytes, other);
        }
    }
}
