//! The keys that leave a container alone (`--detach-keys`).

/// A sequence of bytes looked for in what is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// The part of `keys` typed so far, which is held back.
    held: usize,
}

impl DetachKeys {
    /// Docker's and podman's.
    pub const DEFAULT: &'static str = "ctrl-p,ctrl-q";

    /// Parses a comma-separated list of `ctrl-X` (X one of `a`–`z`, `@`, `[`, `\`, `]`, `^`, `_`) and plain characters.
    /// The empty text gives `None`: there is no way to detach.
    ///
    /// # Errors
    /// A sentence that says which key is wrong.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let keys = text.split(',').map(|key| {
            let lower = key.to_ascii_lowercase();
            let control = match lower.strip_prefix("ctrl-").map(str::as_bytes) {
                Some(&[letter @ (b'a'..=b'z' | b'@' | b'['..=b'_')]) => Some(letter & 0x1f),
                _ => None,
            };
            match (control, key.as_bytes()) {
                (Some(control), _) => Ok(control),
                (None, &[byte]) if byte.is_ascii_graphic() => Ok(byte),
                _ => {
                    Err(format!("`{key}` is not a key: expected ctrl-a to ctrl-z, ctrl-@ [ \\ ] ^ _, or one character"))
                }
            }
        });
        Ok(Some(Self { keys: keys.collect::<Result<_, _>>()?, held: 0 }))
    }

    /// Takes what was typed; gives what is to be passed on and whether the sequence is complete. What may be the
    /// beginning of the sequence is held back until the next key shows that it is not.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut forward = Vec::with_capacity(typed.len() + self.held);
        for &byte in typed {
            let mut window = self.keys[..self.held].to_vec();
            window.push(byte);
            while !self.keys.starts_with(&window) {
                forward.push(window.remove(0));
            }
            self.held = window.len();
            if self.held == self.keys.len() {
                self.held = 0;
                return (forward, true);
            }
        }
        (forward, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> DetachKeys {
        DetachKeys::parse(text).unwrap().unwrap()
    }

    #[test]
    fn the_sequence_is_found_across_reads_and_not_passed_on() {
        let mut default = keys(DetachKeys::DEFAULT);
        assert_eq!(default.filter(b"ls\r\x10"), (b"ls\r".to_vec(), false));
        assert_eq!(default.filter(b"\x11rest"), (Vec::new(), true));
    }

    #[test]
    fn what_only_began_like_it_is_passed_on_in_order() {
        let mut default = keys(DetachKeys::DEFAULT);
        assert_eq!(default.filter(b"\x10"), (Vec::new(), false));
        assert_eq!(default.filter(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(default.filter(b"\x10\x10\x11"), (b"\x10".to_vec(), true));
        let mut overlapping = keys("a,a,b");
        assert_eq!(overlapping.filter(b"aaab"), (b"a".to_vec(), true));
    }

    #[test]
    fn texts() {
        assert_eq!(keys("ctrl-[,x").keys, [0x1b, b'x']);
        assert_eq!(keys("ctrl-@").keys, [0]);
        assert_eq!(DetachKeys::parse(""), Ok(None));
        for text in ["ctrl-", "ctrl-1", "ab", "a,,b", "ü"] {
            assert!(DetachKeys::parse(text).is_err(), "{text}");
        }
    }
}
