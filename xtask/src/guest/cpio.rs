//! The archive format of an initramfs: "newc" of cpio (kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::io::{BufWriter, Write};

use anyhow::{Context, Result};

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTERS: u32 = 0o020_000;

/// Writes an archive whose files belong to root and carry no time, so that equal content gives equal archives.
pub struct Writer<W: Write> {
    to: BufWriter<W>,
    number: u32,
}

impl<W: Write> Writer<W> {
    /// An archive without entries yet.
    pub fn new(to: W) -> Self {
        Self { to: BufWriter::new(to), number: 0 }
    }

    /// A folder; its parent must have been written before.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        self.entry(path, FOLDER | 0o755, (0, 0), &[])
    }

    /// A file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, FILE | mode, (0, 0), content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// A character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(path, CHARACTERS | 0o600, (major, minor), &[])
    }

    /// Ends the archive and hands all of it on.
    pub fn finish(mut self) -> Result<()> {
        self.number = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.to.flush().context("cannot write the archive")
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        let length = u32::try_from(content.len()).with_context(|| format!("{path} is too large for a cpio archive"))?;
        let name = u32::try_from(path.len() + 1).with_context(|| format!("{path} is too long for a cpio archive"))?;
        // magic, inode, mode, uid, gid, links, time, size, device (2), the node's own device (2), name with its zero, checksum
        let fields = [self.number, mode, 0, 0, 1, 0, length, 0, 0, device.0, device.1, name, 0];
        self.number += 1;
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.padded(&[header.as_bytes(), path.as_bytes(), b"\0"].concat())?;
        self.padded(content)
    }

    /// Headers with names, and contents, each end on a multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.to
            .write_all(bytes)
            .and_then(|()| self.to.write_all(&[0; 3][..padding]))
            .context("cannot write the archive")
    }
}

#[cfg(test)]
mod tests {
    use super::Writer;

    #[test]
    fn busybox_and_the_kernel_agree_on_the_layout() {
        let mut bytes = Vec::new();
        let mut archive = Writer::new(&mut bytes);
        archive.folder("bin").expect("memory");
        archive.file("bin/a", 0o755, b"hello").expect("memory");
        archive.link("b", "bin/a").expect("memory");
        archive.finish().expect("memory");
        // Every entry starts on a multiple of four, and its sizes lead to the next.
        let (mut at, mut names) = (0, Vec::new());
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + index * 8..][..8]).expect("digits");
                usize::from_str_radix(text, 16).expect("hexadecimal")
            };
            let (size, name) = (field(6), field(11));
            names.push(String::from_utf8_lossy(&bytes[at + 110..at + 110 + name - 1]).into_owned());
            if names.last().is_some_and(|name| name == "bin/a") {
                let content = (at + 110 + name).next_multiple_of(4);
                assert_eq!(&bytes[content..content + size], b"hello");
                assert_eq!(field(1), 0o100_755);
            }
            at = ((at + 110 + name).next_multiple_of(4) + size).next_multiple_of(4);
        }
        assert_eq!(names, ["bin", "bin/a", "b", "TRAILER!!!"]);
    }
}
