//! What a path means. Names of repositories have slashes in them, so a path is read from its end.

use super::problem::{Code, Problem, Result};
use model::image::{Digest, DigestError, Repository, Tag};
use std::borrow::Cow;

/// The resource that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: is this a registry, and am I somebody here?
    Base,
    /// `/v2/token`: the token service.
    Token,
    /// `/v2/_catalog`
    Catalogue,
    /// `/v2/<name>/tags/list`
    Tags(Repository),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(Repository, Reference),
    /// `/v2/<name>/blobs/<digest>`
    Blob(Repository, Digest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(Repository),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(Repository, String),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(Repository, Digest),
}

/// How a manifest is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// By what a repository calls it.
    Tag(Tag),
    /// By its content.
    Digest(Digest),
}

impl Reference {
    /// The text of it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag.as_str(),
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

impl Route {
    /// Reads the path of a request; `None` when it is none of this protocol's.
    ///
    /// # Errors
    /// `NAME_INVALID`, `DIGEST_INVALID` or `TAG_INVALID` for a path of this protocol with a malformed part.
    pub fn parse(path: &str) -> Result<Option<Self>> {
        let Some(rest) = path.strip_prefix("/v2") else { return Ok(None) };
        if rest.is_empty() || rest == "/" {
            return Ok(Some(Self::Base));
        }
        let Some(rest) = rest.strip_prefix('/') else { return Ok(None) };
        let rest = decode(rest)?;
        match &*rest {
            "token" => return Ok(Some(Self::Token)),
            "_catalog" => return Ok(Some(Self::Catalogue)),
            _ => {}
        }
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            return Ok(Some(Self::Uploads(repository(name)?)));
        }
        let Some((head, last)) = rest.rsplit_once('/') else { return Ok(None) };
        let Some((name, kind)) = head.rsplit_once('/') else { return Ok(None) };
        if let ("uploads", Some((name, "blobs"))) = (kind, name.rsplit_once('/')) {
            let name = repository(name)?;
            return Ok(Some(match last {
                "" => Self::Uploads(name),
                id => Self::Upload(name, id.to_owned()),
            }));
        }
        Ok(match (kind, last) {
            ("tags", "list") => Some(Self::Tags(repository(name)?)),
            ("manifests", reference) => Some(Self::Manifest(repository(name)?, self::reference(reference)?)),
            ("blobs", digest) => Some(Self::Blob(repository(name)?, self::digest(digest)?)),
            ("referrers", digest) => Some(Self::Referrers(repository(name)?, self::digest(digest)?)),
            _ => None,
        })
    }

    /// The repository that it is in.
    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Base | Self::Token | Self::Catalogue => None,
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Referrers(name, _) => Some(name),
        }
    }

    /// A word for it, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Token => "token",
            Self::Catalogue => "catalogue",
            Self::Tags(_) => "tags",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Uploads(_) | Self::Upload(..) => "upload",
            Self::Referrers(..) => "referrers",
        }
    }

    /// The methods that it knows, as the header `Allow` lists them.
    pub fn methods(&self) -> &'static str {
        match self {
            Self::Base | Self::Catalogue | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Token => "GET, POST",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }
}

/// A repository's name, from a path or a parameter.
///
/// # Errors
/// `NAME_INVALID`.
pub fn repository(text: &str) -> Result<Repository> {
    text.parse().map_err(|error: model::image::ReferenceError| Problem::new(Code::NameInvalid, error.to_string()))
}

/// A digest, from a path or a parameter.
///
/// # Errors
/// `DIGEST_INVALID`.
pub fn digest(text: &str) -> Result<Digest> {
    text.parse().map_err(|error: DigestError| Problem::new(Code::DigestInvalid, error.to_string()))
}

/// A tag, from a parameter.
///
/// # Errors
/// `TAG_INVALID`.
pub fn tag(text: &str) -> Result<Tag> {
    text.parse().map_err(|error: model::image::ReferenceError| Problem::new(Code::TagInvalid, error.to_string()))
}

fn reference(text: &str) -> Result<Reference> {
    // A tag has no colon in it, and a digest has one.
    if text.contains(':') { Ok(Reference::Digest(digest(text)?)) } else { Ok(Reference::Tag(tag(text)?)) }
}

/// Resolves `%41` and the like (RFC 3986); plus signs are themselves.
fn decode(text: &str) -> Result<Cow<'_, str>> {
    percent_decode(text, false).ok_or_else(|| {
        Problem::new(Code::NameInvalid, format!("path `/v2/{text}` has a `%` that no two hexadecimal digits follow"))
    })
}

/// Resolves the percent signs of a path, or of a parameter, where `+` is a space too. `None` if it is malformed or
/// not UTF-8.
pub(super) fn percent_decode(text: &str, plus: bool) -> Option<Cow<'_, str>> {
    let is_plain = !text.contains('%') && (!plus || !text.contains('+'));
    if is_plain {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            b'+' if plus => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn route(path: &str) -> Option<Route> {
        Route::parse(path).unwrap()
    }

    #[test]
    fn every_end_point() {
        let name = |text: &str| text.parse::<Repository>().unwrap();
        let digest: Digest = DIGEST.parse().unwrap();
        assert_eq!(route("/v2"), Some(Route::Base));
        assert_eq!(route("/v2/"), Some(Route::Base));
        assert_eq!(route("/v2/token"), Some(Route::Token));
        assert_eq!(route("/v2/_catalog"), Some(Route::Catalogue));
        assert_eq!(route("/v2/a/b/c/tags/list"), Some(Route::Tags(name("a/b/c"))));
        let tag = Reference::Tag("v1".parse().unwrap());
        assert_eq!(route("/v2/a/manifests/v1"), Some(Route::Manifest(name("a"), tag)));
        let by_digest = Some(Route::Manifest(name("a/b"), Reference::Digest(digest.clone())));
        assert_eq!(route(&format!("/v2/a/b/manifests/{DIGEST}")), by_digest);
        assert_eq!(route(&format!("/v2/a/b/manifests/{}", DIGEST.replace(':', "%3A"))), by_digest);
        assert_eq!(route(&format!("/v2/a/blobs/{DIGEST}")), Some(Route::Blob(name("a"), digest.clone())));
        assert_eq!(route("/v2/a/blobs/uploads"), Some(Route::Uploads(name("a"))));
        assert_eq!(route("/v2/a/b/blobs/uploads/"), Some(Route::Uploads(name("a/b"))));
        assert_eq!(route("/v2/a/blobs/uploads/x.y-z"), Some(Route::Upload(name("a"), "x.y-z".into())));
        assert_eq!(route(&format!("/v2/a/referrers/{DIGEST}")), Some(Route::Referrers(name("a"), digest)));
    }

    #[test]
    fn names_may_look_like_end_points() {
        let name = |text: &str| text.parse::<Repository>().unwrap();
        assert_eq!(route("/v2/blobs/uploads/tags/list"), Some(Route::Tags(name("blobs/uploads"))));
        assert_eq!(route("/v2/tags/list/tags/list"), Some(Route::Tags(name("tags/list"))));
        assert_eq!(route("/v2/token/tags/list"), Some(Route::Tags(name("token"))));
        assert_eq!(route("/v2/a/manifests/blobs/uploads/"), Some(Route::Uploads(name("a/manifests"))));
    }

    #[test]
    fn malformed_parts_have_their_codes() {
        let code = |path: &str| Route::parse(path).unwrap_err().code;
        assert_eq!(code("/v2/UPPER/tags/list"), Code::NameInvalid);
        assert_eq!(code("/v2//tags/list"), Code::NameInvalid);
        assert_eq!(code("/v2/a/../b/manifests/x"), Code::NameInvalid);
        assert_eq!(code(&format!("/v2/{}/tags/list", "a".repeat(256))), Code::NameInvalid);
        assert_eq!(code("/v2/a/blobs/sha256:12"), Code::DigestInvalid);
        assert_eq!(code("/v2/a/blobs/nothing"), Code::DigestInvalid);
        assert_eq!(code("/v2/a/manifests/sha256:zz"), Code::DigestInvalid);
        assert_eq!(code("/v2/a/manifests/.tag"), Code::TagInvalid);
        assert_eq!(code(&format!("/v2/a/manifests/{}", "t".repeat(129))), Code::TagInvalid);
        assert_eq!(code("/v2/a%zz/tags/list"), Code::NameInvalid);
    }

    #[test]
    fn other_paths_are_none_of_ours() {
        for path in ["/", "/v1/", "/v2x", "/v2/a", "/v2/a/b", "/v2/a/tags/other", "/metrics"] {
            assert_eq!(route(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(path in "(/v2/)?[a-z%/:._A-Z0-9-]{0,60}") {
            drop(Route::parse(&path));
        }
    }
}
