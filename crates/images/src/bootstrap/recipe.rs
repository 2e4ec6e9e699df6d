//! The images that can be made, and what people write to ask for one.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// What an image stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Debian's smallest system that can install packages; its packages are configured by their own scripts.
    System,
    /// The files of a few packages and nothing that runs by itself: no shell, no package manager.
    Files,
}

/// How an image is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Its name, which is the repository of its image.
    pub name: &'static str,
    /// What it is for, in a few words.
    pub about: &'static str,
    /// What it stands on.
    pub kind: Kind,
    /// Packages besides those of its kind.
    pub packages: &'static [&'static str],
    /// Variables besides `PATH` and `LANG`; `{arch}` becomes Debian's name of the architecture.
    pub environment: &'static [(&'static str, &'static str)],
    /// What runs unless told otherwise.
    pub command: &'static [&'static str],
}

/// Every recipe.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "debian",
        about: "Debian's smallest system with apt",
        kind: Kind::System,
        packages: &[],
        environment: &[],
        command: &["bash"],
    },
    Recipe {
        name: "base",
        about: "what a compiled program needs: C library, certificates, time zones, users",
        kind: Kind::Files,
        packages: &["base-files", "libc6", "tzdata", "ca-certificates", "netbase"],
        environment: &[("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")],
        command: &[],
    },
    Recipe {
        name: "cc",
        about: "tool chain for C and C++",
        kind: Kind::System,
        packages: &["build-essential", "ca-certificates", "cmake", "git", "ninja-build", "pkgconf"],
        environment: &[],
        command: &["bash"],
    },
    Recipe {
        name: "rust",
        about: "tool chain for Rust",
        kind: Kind::System,
        packages: &["ca-certificates", "cargo", "gcc", "git", "libc6-dev", "libssl-dev", "pkgconf", "rustc"],
        environment: &[],
        command: &["bash"],
    },
    Recipe {
        name: "go",
        about: "tool chain for Go, with a C compiler for cgo",
        kind: Kind::System,
        packages: &["ca-certificates", "gcc", "git", "golang-go", "libc6-dev", "pkgconf"],
        environment: &[],
        command: &["bash"],
    },
    Recipe {
        name: "jdk",
        about: "Java 21 development kit with Maven",
        kind: Kind::System,
        packages: &["ca-certificates", "git", "maven", "openjdk-21-jdk-headless"],
        environment: &[("JAVA_HOME", "/usr/lib/jvm/java-21-openjdk-{arch}")],
        command: &["bash"],
    },
    Recipe {
        name: "jre",
        about: "Java 21 run time",
        kind: Kind::System,
        packages: &["ca-certificates", "openjdk-21-jre-headless"],
        environment: &[("JAVA_HOME", "/usr/lib/jvm/java-21-openjdk-{arch}")],
        command: &["java", "-version"],
    },
    Recipe {
        name: "node",
        about: "Node.js with npm",
        kind: Kind::System,
        packages: &["ca-certificates", "git", "nodejs", "npm"],
        environment: &[],
        command: &["node"],
    },
    Recipe {
        name: "python",
        about: "Python with venv and pip",
        kind: Kind::System,
        packages: &["ca-certificates", "python-is-python3", "python3", "python3-pip", "python3-venv"],
        environment: &[],
        command: &["python3"],
    },
];

impl Recipe {
    /// The recipe of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        RECIPES.iter().find(|recipe| recipe.name == name)
    }

    /// What it installs by name, with more packages and with what the way to the mirror needs.
    pub(super) fn wanted(&self, more: &BTreeSet<Package>, https: bool) -> BTreeSet<Package> {
        let own = self.packages.iter().copied();
        // Without it apt in the image does not reach a mirror that speaks TLS.
        let way = (self.kind == Kind::System && https).then_some("ca-certificates");
        own.chain(way).map(|name| Package(name.into())).chain(more.iter().cloned()).collect()
    }
}

/// A word that is none of the kind it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind}: expected {rule}")]
pub struct WordError {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

/// Name of a release of Debian: `trixie`, `stable`, `sid`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Suite(Box<str>);

impl Suite {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether it is a release that is repaired by further suites, `-updates` and `-security`.
    pub(super) fn has_updates(&self) -> bool {
        !matches!(&*self.0, "sid" | "unstable" | "experimental" | "rc-buggy")
    }
}

impl Default for Suite {
    /// Debian 13.
    fn default() -> Self {
        Self("trixie".into())
    }
}

impl FromStr for Suite {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if first && text.len() <= 64 && text.bytes().all(fits) {
            return Ok(Self(text.into()));
        }
        let rule = "lower-case letters, digits, `-` and `.`, beginning with a letter, such as `trixie`";
        Err(WordError { kind: "the name of a suite", text: text.chars().take(80).collect(), rule })
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A package by its name, with `=version` when it must be that one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Package(Box<str>);

impl Package {
    /// As apt wants it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Without version.
    pub fn name(&self) -> &str {
        self.0.split('=').next().unwrap_or(&self.0)
    }
}

impl FromStr for Package {
    type Err = WordError;
    /// Debian policy 5.6.7 and 5.6.12.
    fn from_str(text: &str) -> Result<Self, WordError> {
        let (name, version) = text.split_once('=').map_or((text, None), |(name, version)| (name, Some(version)));
        let in_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
        let in_version = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.' | b'~' | b':');
        let first = |text: &str| text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let version = version.is_none_or(|version| first(version) && version.bytes().all(in_version));
        // A last `-` would tell apt to remove it.
        let last = !name.ends_with('-') && name.len() >= 2;
        if first(name) && last && name.bytes().all(in_name) && version && text.len() <= 255 {
            return Ok(Self(text.into()));
        }
        let rule = "two or more lower-case letters, digits, `+`, `-` and `.`, with `=version` if one version is meant";
        Err(WordError { kind: "the name of a package", text: text.chars().take(80).collect(), rule })
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for good in ["trixie", "sid", "trixie-backports", "buster2.1"] {
            assert!(good.parse::<Suite>().is_ok(), "{good}");
        }
        for bad in ["", "Trixie", "-x", "trixie main", "../x", "1"] {
            assert!(bad.parse::<Suite>().is_err(), "{bad}");
        }
        for good in ["g++", "libc6", "curl=8.14.1-2+deb13u2", "0ad", "xz=1:2~rc1-3"] {
            assert!(good.parse::<Package>().is_ok(), "{good}");
        }
        for bad in ["", "x", "curl-", "--help", "?essential", "a,b", "a b", "curl=", "curl=-1", "libc6:i386", "UPPER"] {
            assert!(bad.parse::<Package>().is_err(), "{bad}");
        }
        let error = "a b".parse::<Package>().unwrap_err().to_string();
        assert!(error.starts_with("`a b` is not the name of a package: expected "), "{error}");
    }

    #[test]
    fn recipes_are_what_they_say() {
        for recipe in RECIPES {
            assert_eq!(Recipe::named(recipe.name), Some(recipe));
            assert!(recipe.packages.is_sorted() || recipe.kind == Kind::Files, "{}", recipe.name);
            assert!(recipe.packages.iter().all(|name| name.parse::<Package>().is_ok()), "{}", recipe.name);
            recipe.name.parse::<model::image::Repository>().unwrap();
        }
        let debian = Recipe::named("debian").unwrap();
        assert!(debian.wanted(&BTreeSet::new(), false).is_empty());
        assert_eq!(debian.wanted(&BTreeSet::new(), true).len(), 1);
        assert!(Recipe::named("windows").is_none());
    }
}
