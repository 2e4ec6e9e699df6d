//! Who may do what where: verbs, patterns of repositories, grants, and the scopes of the token protocol.
//!
//! A grant is written `PATTERN:VERB[,VERB…]`: `team/**:pull,push`, `library/*:pull`, `**:*`. In a pattern `*` stands for
//! any characters but `/`, and `**` for any characters.

use model::image::Repository;
use serde::{Deserialize, Serialize};
use std::{fmt, ops::BitOr, str::FromStr};

/// A set of what can be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verbs(u8);

impl Verbs {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Read.
    pub const PULL: Self = Self(1);
    /// Write: uploads, manifests, tags.
    pub const PUSH: Self = Self(2);
    /// Remove manifests, tags and blobs.
    pub const DELETE: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    const NAMES: [(Self, &'static str); 3] = [(Self::PULL, "pull"), (Self::PUSH, "push"), (Self::DELETE, "delete")];

    /// Whether all of `other` are among these.
    pub fn contain(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Those that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Their words.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(verb, _)| self.contain(*verb)).map(|(_, name)| name)
    }
    /// The verb that a word names; `*` is all of them.
    pub fn word(text: &str) -> Option<Self> {
        let named = Self::NAMES.into_iter().find(|(_, name)| *name == text).map(|(verb, _)| verb);
        named.or_else(|| (text == "*").then_some(Self::ALL))
    }
}

impl BitOr for Verbs {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.words().collect::<Vec<_>>().join(","))
    }
}

/// A pattern of names: `*` stands for any characters but `/`, `**` for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// Why a grant or a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Not a pattern.
    #[error("pattern `{0}` is malformed: expected letters, digits, `.`, `_`, `-`, `/`, `*` and `**`, at most 255")]
    Pattern(String),
    /// Not a grant.
    #[error("grant `{0}` is malformed: expected PATTERN:VERB[,VERB…], such as `team/**:pull,push`")]
    Grant(String),
    /// Not a verb.
    #[error("verb `{verb}` of grant `{grant}` is unknown: expected pull, push, delete or *")]
    Verb {
        /// That word.
        verb: String,
        /// Where it stands.
        grant: String,
    },
    /// Not a rule for tags.
    #[error("rule `{0}` is malformed: expected REPOSITORIES:TAGS, such as `**:v*`")]
    Rule(String),
}

impl Pattern {
    /// Whether it stands for `text`.
    pub fn matches(&self, text: &str) -> bool {
        // after[i]: whether the pattern read so far stands for the first i characters of the text.
        let text = text.as_bytes();
        let mut after = vec![false; text.len() + 1];
        after[0] = true;
        let mut pattern = self.0.as_bytes();
        while let [first, rest @ ..] = pattern {
            pattern = rest;
            if *first != b'*' {
                for at in (0..text.len()).rev() {
                    after[at + 1] = after[at] && text[at] == *first;
                }
                after[0] = false;
                continue;
            }
            let across = rest.first() == Some(&b'*');
            if across {
                pattern = &rest[1..];
            }
            for at in 0..text.len() {
                after[at + 1] |= after[at] && (across || text[at] != b'/');
            }
        }
        after[text.len()]
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = AccessError;
    fn from_str(text: &str) -> Result<Self, AccessError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-/*".contains(&b);
        if text.is_empty() || text.len() > 255 || !text.bytes().all(good) {
            return Err(AccessError::Pattern(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}
impl TryFrom<String> for Pattern {
    type Error = AccessError;
    fn try_from(text: String) -> Result<Self, AccessError> {
        text.parse()
    }
}
impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

/// What may be done with the repositories of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Grant {
    /// Where.
    pub pattern: Pattern,
    /// What.
    pub verbs: Verbs,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pattern.0, self.verbs)
    }
}
impl FromStr for Grant {
    type Err = AccessError;
    fn from_str(text: &str) -> Result<Self, AccessError> {
        let shown = || text.chars().take(80).collect::<String>();
        let (pattern, words) = text.rsplit_once(':').ok_or_else(|| AccessError::Grant(shown()))?;
        let mut verbs = Verbs::NONE;
        for word in words.split(',') {
            let unknown = || AccessError::Verb { verb: word.chars().take(80).collect(), grant: shown() };
            verbs = verbs | Verbs::word(word).ok_or_else(unknown)?;
        }
        Ok(Self { pattern: pattern.parse()?, verbs })
    }
}
impl TryFrom<String> for Grant {
    type Error = AccessError;
    fn try_from(text: String) -> Result<Self, AccessError> {
        text.parse()
    }
}
impl From<Grant> for String {
    fn from(grant: Grant) -> Self {
        grant.to_string()
    }
}

/// All that these grants allow in a repository.
pub fn allowed(grants: &[Grant], repository: &Repository) -> Verbs {
    let matching = grants.iter().filter(|grant| grant.pattern.matches(repository.as_str()));
    matching.fold(Verbs::NONE, |verbs, grant| verbs | grant.verbs)
}

/// Tags that are set once and then stay: `REPOSITORIES:TAGS`, both patterns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImmutableTags {
    repositories: Pattern,
    tags: Pattern,
}

impl ImmutableTags {
    /// Whether the rule is about this tag.
    pub fn covers(&self, repository: &str, tag: &str) -> bool {
        self.repositories.matches(repository) && self.tags.matches(tag)
    }
}

impl FromStr for ImmutableTags {
    type Err = AccessError;
    fn from_str(text: &str) -> Result<Self, AccessError> {
        let rule = || AccessError::Rule(text.chars().take(80).collect());
        let (repositories, tags) = text.split_once(':').ok_or_else(rule)?;
        Ok(Self { repositories: repositories.parse()?, tags: tags.parse()? })
    }
}

impl fmt::Display for ImmutableTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repositories.0, self.tags.0)
    }
}

/// A scope of the token protocol that is about a repository: `repository:<name>:<verb>[,<verb>…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Where.
    pub repository: Repository,
    /// What. Verbs that we do not know are left out: nobody can grant them.
    pub verbs: Verbs,
}

impl Scope {
    /// Reads one; `None` when it is about something else, or malformed: a token then just does not grant it.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("repository:").or_else(|| {
            // A class in brackets is allowed by the grammar and means nothing to us.
            text.strip_prefix("repository(").and_then(|rest| rest.split_once("):")).map(|(_, rest)| rest)
        })?;
        let (name, words) = rest.rsplit_once(':')?;
        let verbs = words.split(',').filter_map(Verbs::word).fold(Verbs::NONE, BitOr::bitor);
        Some(Self { repository: name.parse().ok()?, verbs })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repository:{}:{}", self.repository, self.verbs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn patterns() {
        for (text, yes, no) in [
            ("team/*", &["team/a", "team/a-b"][..], &["team/a/b", "team", "tea/a", "xteam/a"][..]),
            ("team/**", &["team/a", "team/a/b"], &["team", "other/team/a"]),
            ("**", &["a", "a/b/c"], &[]),
            ("*", &["a"], &["a/b"]),
            ("**/app", &["a/app", "a/b/app"], &["app", "a/apps"]),
            ("v*.*", &["v1.2", "v1.2.3"], &["v1", "1.2"]),
            ("exact", &["exact"], &["exac", "exactly"]),
        ] {
            yes.iter().for_each(|name| assert!(pattern(text).matches(name), "{text} {name}"));
            no.iter().for_each(|name| assert!(!pattern(text).matches(name), "{text} {name}"));
        }
        assert!("a b".parse::<Pattern>().is_err() && "".parse::<Pattern>().is_err());
    }

    #[test]
    fn grants_add_up() {
        let grants: Vec<Grant> = ["**:pull", "team/*:push"].iter().map(|text| text.parse().unwrap()).collect();
        let of = |name: &str| allowed(&grants, &name.parse().unwrap());
        assert_eq!(of("team/a"), Verbs::PULL | Verbs::PUSH);
        assert_eq!(of("other"), Verbs::PULL);
        assert!(!of("team/a").contain(Verbs::DELETE));
        assert_eq!("a:*".parse::<Grant>().unwrap().to_string(), "a:pull,push,delete");
        for bad in ["team", "team:", "team:fly", ":pull", "a b:pull"] {
            assert!(bad.parse::<Grant>().is_err(), "{bad}");
        }
    }

    #[test]
    fn scopes() {
        let scope = Scope::parse("repository:a/b:pull,push,fly").unwrap();
        assert_eq!(scope.to_string(), "repository:a/b:pull,push");
        assert_eq!(Scope::parse("repository(plugin):a:pull").unwrap().repository.as_str(), "a");
        assert_eq!(Scope::parse("repository:a:*").unwrap().verbs, Verbs::ALL);
        for other in ["registry:catalog:*", "repository:a", "repository:A:pull", ""] {
            assert_eq!(Scope::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn two_stars_are_any_text(name in "[a-z/]{0,20}", end in "[a-z/]{0,5}") {
            let whole = format!("{}{}", name, end);
            let pattern = format!("**{}", end);
            prop_assert!(pattern.parse::<Pattern>().unwrap().matches(&whole));
        }
    }
}
