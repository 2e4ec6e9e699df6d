//! `--volume SOURCE:INSIDE[:OPTIONS]`, and `--volume INSIDE` for a volume of the container's own.

use super::{fault::Fault, mounts};
use std::path::{Path, PathBuf};

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file or directory of the host.
    Path(PathBuf),
    /// A volume of this name, kept in the data folder.
    Named(String),
    /// A volume that belongs to the container.
    Own,
}

/// One volume, checked as far as its text tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) source: Source,
    /// Absolute and clean.
    pub(crate) inside: PathBuf,
    /// As in a specification, complete.
    pub(crate) options: Vec<String>,
    /// Fill a new named volume with what the image has there.
    pub(crate) copy: bool,
    /// Give the source to the container's user.
    pub(crate) chown: bool,
    /// Relabel for SELinux.
    pub(crate) relabel: bool,
}

/// Sets of which at most one word may be given.
const EXCLUSIVE: [&[&str]; 8] = [
    &["ro", "rw"],
    &["suid", "nosuid"],
    &["dev", "nodev"],
    &["exec", "noexec"],
    &["bind", "rbind"],
    &["copy", "nocopy"],
    &["z", "Z"],
    &["shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"],
];
/// Words that need no other word.
const SINGLE: [&str; 10] = [
    "U",
    "idmap",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
    "nosymfollow",
    "cached",
    "delegated",
    "consistent",
];

impl Volume {
    /// Parses the text of one flag. A relative source is refused with the path that `directory` makes of it.
    pub(crate) fn parse(text: &str, directory: Option<&Path>) -> Result<Self, Fault> {
        let fail = |why: String| Fault::new("--volume", why).of(text);
        let mut parts = text.splitn(3, ':');
        let source = parts.next().unwrap_or_default();
        if text.starts_with('/') && !text.contains(':') {
            return Self::own(text);
        }
        let Some(inside) = parts.next() else {
            return Err(fail("there is no path inside the container".into()).hint("write SOURCE:INSIDE[:OPTIONS]"));
        };
        let source =
            Self::source(source, directory).map_err(|fault| Fault { value: Some(text.to_owned()), ..fault })?;
        let Some(inside) = mounts::clean(Path::new(inside)) else {
            return Err(fail(format!("the path inside, `{inside}`, is not absolute")).hint("start it with /"));
        };
        let stands_for_proc = source == Source::Path("/proc".into());
        if let Some(why) = mounts::forbidden(&inside, stands_for_proc) {
            return Err(fail(why.to_owned()));
        }
        let words: Vec<&str> = parts.next().map_or_else(Vec::new, |options| options.split(',').collect());
        let known = |word: &&str| EXCLUSIVE.iter().any(|set| set.contains(word)) || SINGLE.contains(word);
        let unknown: Vec<_> = words.iter().filter(|word| !known(word)).map(|word| format!("`{word}`")).collect();
        if !unknown.is_empty() {
            let why = format!(
                "it does not know the option{} {}",
                if unknown.len() > 1 { "s" } else { "" },
                unknown.join(", ")
            );
            return Err(fail(why).hint("the common ones are ro, rw, noexec, nosuid, nodev, rslave, rshared and nocopy"));
        }
        for set in EXCLUSIVE {
            let given: Vec<_> = words.iter().filter(|word| set.contains(word)).collect();
            if let [first, .., last] = given.as_slice() {
                return Err(fail(format!("`{first}` and `{last}` contradict each other")).hint("give one of them"));
            }
        }
        let has = |word: &str| words.contains(&word);
        if let (Source::Path(_), Some(word)) = (&source, words.iter().find(|word| matches!(**word, "copy" | "nocopy")))
        {
            return Err(fail(format!("`{word}` is for named volumes; a path of the host is never filled")));
        }
        let propagation = words.iter().find(|word| EXCLUSIVE[7].contains(word));
        if let (Source::Named(_), Some(word)) = (&source, propagation) {
            return Err(fail(format!("`{word}` is for paths of the host; nothing is mounted below a named volume")));
        }
        Ok(Self {
            options: options(&words, propagation.copied()),
            copy: matches!(source, Source::Named(_)) && !has("nocopy"),
            chown: has("U"),
            relabel: has("z") || has("Z"),
            source,
            inside,
        })
    }

    /// A volume of the container's own at this path.
    pub(crate) fn own(inside: &str) -> Result<Self, Fault> {
        let fail = |why: &str| Fault::new("--volume", why).of(inside);
        let inside = mounts::clean(Path::new(inside)).ok_or_else(|| fail("the path inside is not absolute"))?;
        if let Some(why) = mounts::forbidden(&inside, false) {
            return Err(fail(why));
        }
        let (copy, chown, relabel) = (true, false, false);
        Ok(Self { source: Source::Own, options: options(&[], None), inside, copy, chown, relabel })
    }

    fn source(source: &str, directory: Option<&Path>) -> Result<Source, Fault> {
        let fail = |why: &str| Fault::new("--volume", why);
        if source.is_empty() {
            return Err(fail("there is no source").hint("give a path of the host or a name for a volume"));
        }
        if let Some(path) = mounts::clean(Path::new(source)) {
            return Ok(Source::Path(path));
        }
        if source.contains('/') || matches!(source, "." | "..") {
            let absolute = directory.and_then(|directory| mounts::clean(&directory.join(source)));
            let hint = match absolute {
                Some(absolute) => format!("write {}", absolute.display()),
                None => "write the absolute path".to_owned(),
            };
            return Err(fail("the source is a relative path").hint(hint));
        }
        // The rule for container names is Docker's for volumes as well.
        match source.parse::<model::ContainerName>() {
            Ok(name) => Ok(Source::Named(name.into())),
            Err(_) => Err(fail("the source is neither an absolute path nor a name")
                .hint("a name matches [a-zA-Z0-9][a-zA-Z0-9_.-]* and has at most 63 characters")),
        }
    }
}

/// The words for the specification. As podman, without devices and set-uid programs unless asked for. What is bound with all
/// that is mounted below it is so all the way down.
fn options(words: &[&str], propagation: Option<&str>) -> Vec<String> {
    let has = |word: &str| words.contains(&word);
    let mut options = vec![propagation.unwrap_or("rprivate")];
    let attributes = match has("bind") {
        true => ["bind", "ro", "nosuid", "nodev", "noexec"],
        false => ["rbind", "rro", "rnosuid", "rnodev", "rnoexec"],
    };
    let [bind, ro, nosuid, nodev, noexec] = attributes;
    options.insert(0, bind);
    options.extend(has("ro").then_some(ro));
    options.extend((!has("suid")).then_some(nosuid));
    options.extend((!has("dev")).then_some(nodev));
    options.extend(has("noexec").then_some(noexec));
    let rest = ["idmap", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow"];
    options.extend(rest.into_iter().filter(|word| has(word)));
    options.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Volume, Fault> {
        Volume::parse(text, Some(Path::new("/home/me")))
    }

    #[test]
    fn forms() {
        for (text, source, inside, options) in [
            ("/a:/b", Source::Path("/a".into()), "/b", "rbind rprivate rnosuid rnodev"),
            ("/a/../c/:/b/./d//", Source::Path("/c".into()), "/b/d", "rbind rprivate rnosuid rnodev"),
            ("data:/b:ro", Source::Named("data".into()), "/b", "rbind rprivate rro rnosuid rnodev"),
            ("/a:/b:rw,suid,dev,exec", Source::Path("/a".into()), "/b", "rbind rprivate"),
            (
                "/a:/b:bind,rslave,noexec,noatime",
                Source::Path("/a".into()),
                "/b",
                "bind rslave nosuid nodev noexec noatime",
            ),
            ("/a:/b:z,U,cached", Source::Path("/a".into()), "/b", "rbind rprivate rnosuid rnodev"),
            ("/proc:/proc", Source::Path("/proc".into()), "/proc", "rbind rprivate rnosuid rnodev"),
        ] {
            let volume = parse(text).unwrap();
            assert_eq!((volume.source, volume.inside.as_path()), (source, Path::new(inside)), "{text}");
            assert_eq!(volume.options.join(" "), options, "{text}");
        }
        let own = parse("/data/./x").unwrap();
        assert_eq!((own.source, own.inside.as_path(), own.copy), (Source::Own, Path::new("/data/x"), true));
        assert!(parse("/").is_err() && parse("/proc").is_err());
        assert!(parse("data:/b").unwrap().copy && !parse("data:/b:nocopy").unwrap().copy);
        assert!(parse("/a:/b:U").unwrap().chown && parse("/a:/b:Z").unwrap().relabel);
    }

    #[test]
    fn the_wrong_part_is_named() {
        for (text, part) in [
            ("", "no path inside"),
            (":/b", "no source"),
            ("/a:", "not absolute"),
            ("/a:b", "`b`"),
            ("/a:/", "root of the container"),
            ("/a:/b/..", "root of the container"),
            ("/a:/proc", "/proc"),
            ("/a:/proc/self/exe", "/proc"),
            ("./a:/b", "write /home/me/a"),
            ("a/../../b:/b", "write /home/b"),
            (".:/b", "write /home/me"),
            ("-x:/b", "neither"),
            ("a b:/b", "neither"),
            ("/a:/b:frob", "`frob`"),
            ("/a:/b:frob,ro,nix", "options `frob`, `nix`"),
            ("/a:/b:ro:rw", "`ro:rw`"),
            ("/a:/b:", "``"),
            ("/a:/b:ro,rw", "contradict"),
            ("/a:/b:shared,rslave", "contradict"),
            ("/a:/b:nocopy", "named volumes"),
            ("data:/b:rshared", "paths of the host"),
        ] {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.contains(part) && fault.starts_with("--volume"), "{text}: {fault}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,32}", near in "/?[.a/]{0,6}:/?[.a/proc]{0,6}(:[a-zUZ,:]{0,12})?") {
            for text in [text, near] {
                if let Ok(volume) = parse(&text) {
                    prop_assert!(volume.inside.is_absolute() && volume.inside != Path::new("/"));
                }
            }
        }
    }
}
