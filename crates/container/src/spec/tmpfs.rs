//! `--tmpfs INSIDE[:OPTIONS]` and `--shm-size`.

use super::{fault::Fault, mounts};
use model::ByteSize;
use std::path::{Path, PathBuf};

/// One tmpfs, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tmpfs {
    /// Absolute and clean.
    pub(crate) inside: PathBuf,
    /// As in a specification, complete.
    pub(crate) options: Vec<String>,
}

/// What holds unless an option says otherwise (as Docker and podman).
const DEFAULTS: [(&str, &str); 3] = [("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev")];
const WORDS: [&str; 17] = [
    "rw",
    "ro",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
    "nosymfollow",
    "inode32",
    "inode64",
];

/// Parses the text of one flag.
pub(crate) fn parse(text: &str) -> Result<Tmpfs, Fault> {
    let fail = |why: String| Fault::new("--tmpfs", why).of(text);
    let (inside, words) = match text.split_once(':') {
        Some((inside, words)) => (inside, words.split(',').collect()),
        None => (text, Vec::new()),
    };
    let Some(inside) = mounts::clean(Path::new(inside)) else {
        return Err(fail("the path inside is not absolute".into())
            .hint("write INSIDE[:OPTIONS] with a path that starts with /"));
    };
    if let Some(why) = mounts::forbidden(&inside, false) {
        return Err(fail(why.to_owned()));
    }
    let mut options: Vec<String> = DEFAULTS
        .iter()
        .filter(|(default, opposite)| !words.contains(opposite) && !words.contains(default))
        .map(|(default, _)| (*default).to_owned())
        .collect();
    for word in words {
        match word.split_once('=') {
            None if WORDS.contains(&word) => options.push(word.to_owned()),
            None if word == "tmpcopyup" => {
                let why = "`tmpcopyup` is not supported: a tmpfs starts empty";
                return Err(
                    fail(why.into()).hint("leave it out, or use a named volume, which is filled from the image")
                );
            }
            None if word == "notmpcopyup" => {}
            Some((name, value)) => options.push(valued(name, value).map_err(fail)?),
            None => {
                return Err(fail(format!("it does not know the option `{word}`"))
                    .hint("the common ones are size, mode, uid, gid, nr_inodes, ro and exec"));
            }
        }
    }
    Ok(Tmpfs { inside, options })
}

/// The size of a tmpfs as the kernel reads it.
pub(crate) fn size(bytes: ByteSize) -> String {
    if bytes.0.is_multiple_of(1024) { format!("size={}k", bytes.0 / 1024) } else { format!("size={}", bytes.0) }
}

/// `name=value` as the kernel reads it (tmpfs(5)).
fn valued(name: &str, value: &str) -> Result<String, String> {
    let number = |value: &str| value.parse::<u32>().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
    match name {
        "size" => {
            let percent =
                value.strip_suffix('%').map(|percent| number(percent).filter(|percent| (1..=100).contains(percent)));
            match (percent, value.parse::<ByteSize>()) {
                (Some(Some(percent)), _) => Ok(format!("size={percent}%")),
                (None, Ok(bytes)) if bytes.0 > 0 => Ok(size(bytes)),
                _ => Err(format!("`{value}` is not a size such as 64m or 10%")),
            }
        }
        "mode" => {
            let octal = !value.is_empty() && value.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
            match u32::from_str_radix(value, 8) {
                Ok(mode) if octal && mode <= 0o7777 => Ok(format!("mode={value}")),
                _ => Err(format!("`{value}` is not an octal mode such as 1777")),
            }
        }
        "uid" | "gid" => match number(value) {
            Some(id) if id != u32::MAX => Ok(format!("{name}={id}")),
            _ => Err(format!("`{value}` is not the number of a user or group")),
        },
        "nr_inodes" | "nr_blocks" => match value.parse::<ByteSize>() {
            Ok(count) => Ok(format!("{name}={}", count.0)),
            Err(_) => Err(format!("`{value}` is not a number such as 4096 or 10k")),
        },
        "huge" if matches!(value, "never" | "always" | "within_size" | "advise") => Ok(format!("huge={value}")),
        "huge" => Err(format!("`{value}` is not one of never, always, within_size and advise")),
        _ => Err(format!("it does not know the option `{name}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        for (text, inside, options) in [
            ("/tmp", "/tmp", "noexec nosuid nodev"),
            ("/run:size=64m,mode=1777", "/run", "noexec nosuid nodev size=65536k mode=1777"),
            ("/run:exec,suid,dev,rw", "/run", "exec suid dev rw"),
            ("/a/../b:uid=1000,gid=5", "/b", "noexec nosuid nodev uid=1000 gid=5"),
            (
                "/b:noexec,size=50%,nr_inodes=10k,huge=never",
                "/b",
                "nosuid nodev noexec size=50% nr_inodes=10240 huge=never",
            ),
            ("/b:size=1000", "/b", "noexec nosuid nodev size=1000"),
            ("/b:notmpcopyup", "/b", "noexec nosuid nodev"),
        ] {
            let tmpfs = parse(text).unwrap();
            assert_eq!(
                (tmpfs.inside.as_path(), tmpfs.options.join(" ").as_str()),
                (Path::new(inside), options),
                "{text}"
            );
        }
    }

    #[test]
    fn the_wrong_part_is_named() {
        for (text, part) in [
            ("", "not absolute"),
            ("tmp", "not absolute"),
            ("/", "root"),
            ("/proc/x", "/proc"),
            ("/a:", "option ``"),
            ("/a:frob", "`frob`"),
            ("/a:frob=1", "`frob`"),
            ("/a:size=0", "`0`"),
            ("/a:size=101%", "`101%`"),
            ("/a:size=%", "`%`"),
            ("/a:mode=999", "`999`"),
            ("/a:mode=+7", "`+7`"),
            ("/a:mode=10000", "`10000`"),
            ("/a:uid=root", "`root`"),
            ("/a:uid=+1", "`+1`"),
            ("/a:gid=4294967295", "4294967295"),
            ("/a:nr_inodes=x", "`x`"),
            ("/a:huge=some", "`some`"),
            ("/a:tmpcopyup", "not supported"),
        ] {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.contains(part) && fault.starts_with("--tmpfs"), "{text}: {fault}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,32}", near in "/[a./]{0,4}:(size|mode|uid|huge)=[0-9a-z%+-]{0,6}(,[a-z]{0,6})?") {
            for text in [text, near] {
                if let Ok(tmpfs) = parse(&text) {
                    prop_assert!(tmpfs.inside.is_absolute() && tmpfs.inside != Path::new("/"));
                }
            }
        }
    }
}
