//! Parameters after the question mark, and the pages of a list.

use super::{
    problem::{Code, Problem, Result},
    route::percent_decode,
};
use std::borrow::Cow;

/// Parameters of a request, decoded, in their order.
#[derive(Debug, Default)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// More than any request of the protocol has: what is beyond is not looked at.
const PARAMETERS: usize = 64;

impl<'a> Query<'a> {
    /// Reads what stands after the question mark (or an `application/x-www-form-urlencoded` body).
    ///
    /// # Errors
    /// When a percent sign is not followed by two digits, or the bytes are not UTF-8.
    pub fn parse(text: Option<&'a str>) -> Result<Self> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(Self::default()) };
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()).take(PARAMETERS) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let pair = percent_decode(key, true).zip(percent_decode(value, true));
            pairs.push(pair.ok_or_else(|| {
                let shown: String = part.chars().take(80).collect();
                Problem::new(Code::Unsupported, format!("parameter `{shown}` is not percent-encoded UTF-8"))
                    .status(hyper::StatusCode::BAD_REQUEST)
            })?);
        }
        Ok(Self(pairs))
    }

    /// The first of this name.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|pair| pair.0 == key).map(|pair| &*pair.1)
    }

    /// All of this name.
    pub fn all<'s>(&'s self, key: &'s str) -> impl Iterator<Item = &'s str> {
        self.0.iter().filter(move |pair| pair.0 == key).map(|pair| &*pair.1)
    }
}

/// The part of a list that is asked for: `n` entries after `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// How many; `None` when the client did not say.
    pub asked: Option<usize>,
    /// Those that sort after this one.
    pub last: Option<String>,
}

impl Page {
    /// Entries of a page when the client names no number, and the most it may ask for; a larger number gives this many
    /// and a link to the rest.
    pub const MOST: usize = 1000;

    /// Reads `n` and `last`.
    ///
    /// # Errors
    /// `PAGINATION_NUMBER_INVALID` when `n` is not a number.
    pub fn parse(query: &Query<'_>) -> Result<Self> {
        let asked = query.get("n").map(|text| {
            // A number beyond the machine's is a number all the same.
            let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            number.then(|| text.parse().unwrap_or(usize::MAX)).ok_or_else(|| {
                let shown: String = text.chars().take(80).collect();
                Problem::new(
                    Code::PaginationNumberInvalid,
                    format!("n is `{shown}`: expected a number from 0 to {}", Self::MOST),
                )
            })
        });
        Ok(Self {
            asked: asked.transpose()?,
            last: query.get("last").map(str::to_owned).filter(|last| !last.is_empty()),
        })
    }

    /// How many entries the page has at most.
    pub fn limit(&self) -> usize {
        self.asked.unwrap_or(Self::MOST).min(Self::MOST)
    }
}

/// Encodes a value of a parameter: all but the unreserved characters of RFC 3986.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse(Some("digest=sha256%3Aab&scope=a+b&scope=c%20d&empty&=x")).unwrap();
        assert_eq!(query.get("digest"), Some("sha256:ab"));
        assert_eq!(query.all("scope").collect::<Vec<_>>(), ["a b", "c d"]);
        assert_eq!((query.get("empty"), query.get("none")), (Some(""), None));
        assert!(Query::parse(Some("a=%f")).is_err());
        assert!(Query::parse(Some("a=%ff")).is_err());
    }

    #[test]
    fn pages() {
        let page = |text| Page::parse(&Query::parse(Some(text)).unwrap());
        assert_eq!(page("n=10&last=v1").unwrap(), Page { asked: Some(10), last: Some("v1".into()) });
        assert_eq!(page("").unwrap().limit(), Page::MOST);
        assert_eq!(page("n=0").unwrap().limit(), 0);
        assert_eq!(page("n=99999999999999999999999").unwrap().limit(), Page::MOST);
        for bad in ["n=-1", "n=x", "n="] {
            assert_eq!(page(bad).unwrap_err().code, Code::PaginationNumberInvalid, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in ".{0,40}") {
            let encoded = format!("x={}", encode(&text));
            let query = Query::parse(Some(&encoded)).unwrap();
            prop_assert_eq!(query.get("x"), Some(&*text));
        }
    }
}
