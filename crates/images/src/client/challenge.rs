//! `WWW-Authenticate`: which proofs of identity a server takes (RFC 9110, section 11.6.1).

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Parameters looked at in one challenge; more than this no server needs.
const MOST_PARAMETERS: usize = 32;

/// One way in that a server offers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Challenge {
    /// User and password with every request (RFC 7617).
    Basic,
    /// A token from another server (RFC 6750, and Distribution's token specification).
    Bearer(Bearer),
}

/// Where a token is to be had.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Bearer {
    /// Address of the token server.
    pub(super) realm: String,
    /// Who the token is for.
    pub(super) service: Option<String>,
    /// What it must allow.
    pub(super) scope: Option<String>,
}

/// The strongest challenge of a response that we can answer: a token rather than the password each time.
pub(super) fn best(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        // Parameters may be in UTF-8 by now; what is not, no server of ours sends.
        for challenge in std::str::from_utf8(value.as_bytes()).map(parse).unwrap_or_default() {
            match (&found, &challenge) {
                (Some(Challenge::Bearer(_)), _) | (Some(Challenge::Basic), Challenge::Basic) => {}
                _ => found = Some(challenge),
            }
        }
    }
    found
}

/// The challenges in one header line that we know; what can not be read ends the line.
fn parse(line: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = Cursor(line);
    rest.skip(|c| c == ',' || c.is_ascii_whitespace());
    while let Some(scheme) = rest.token() {
        let mut parameters: Vec<(String, String)> = Vec::new();
        rest.skip(|c| c.is_ascii_whitespace());
        // A parameter is a token and `=`; a token without it is the next scheme.
        while let Some((name, value)) = rest.parameter() {
            if parameters.len() < MOST_PARAMETERS {
                parameters.push((name.to_ascii_lowercase(), value));
            }
            rest.skip(|c| c == ',' || c.is_ascii_whitespace());
        }
        rest.skip(|c| c == ',' || c.is_ascii_whitespace());
        let mut take = |name: &str| {
            let position = parameters.iter().position(|(found, _)| found == name)?;
            Some(parameters.swap_remove(position).1)
        };
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = take("realm")
        {
            found.push(Challenge::Bearer(Bearer { realm, service: take("service"), scope: take("scope") }));
        }
    }
    found
}

/// What of a line is not read yet.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn skip(&mut self, which: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(which);
    }

    /// A token of RFC 9110, and the characters of a token68, which ends the same way.
    fn token(&mut self) -> Option<&'a str> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
        let end = self.0.find(|c| !is_token(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at_checked(end).filter(|(token, _)| !token.is_empty())?;
        self.0 = rest;
        Some(token)
    }

    fn word(&mut self) -> &'a str {
        let end = self.0.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at_checked(end).unwrap_or((self.0, ""));
        self.0 = rest;
        word
    }

    fn parameter(&mut self) -> Option<(&'a str, String)> {
        let mut ahead = Cursor(self.0);
        let name = ahead.token()?;
        ahead.skip(|c| c.is_ascii_whitespace());
        ahead.0 = ahead.0.strip_prefix('=')?;
        ahead.skip(|c| c.is_ascii_whitespace());
        let value = match ahead.0.strip_prefix('"') {
            Some(rest) => {
                ahead.0 = rest;
                ahead.quoted()?
            }
            // An address without quotes is no token, but servers send it.
            None => ahead.word().to_owned(),
        };
        self.0 = ahead.0;
        Some((name, value))
    }

    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.0.char_indices();
        while let Some((position, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &self.0[position + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                other => value.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer(Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn forms() {
        for (line, expected) in [
            (r#"Basic realm="Registry""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#,
                vec![bearer("https://auth.example/token", Some("registry"), Some("repository:a/b:pull,push"))],
            ),
            (r#"BEARER  scope = "a b" , Realm=https://x/t"#, vec![bearer("https://x/t", None, Some("a b"))]),
            (r#"Bearer realm="a\"b\\c", error="invalid_token""#, vec![bearer("a\"b\\c", None, None)]),
            (
                r#"Negotiate YII=, Basic realm="x", Bearer realm="https://t""#,
                vec![Challenge::Basic, bearer("https://t", None, None)],
            ),
            (r#"Bearer service="x""#, vec![]),
            (r#"Bearer realm="unclosed"#, vec![]),
            ("", vec![]),
            (",,, ", vec![]),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
    }

    #[test]
    fn a_token_is_preferred_in_any_order() {
        for lines in [["Basic", r#"Bearer realm="https://t""#], [r#"Bearer realm="https://t""#, "Basic"]] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(WWW_AUTHENTICATE, line.parse().unwrap());
            }
            assert_eq!(best(&headers), Some(bearer("https://t", None, None)));
        }
        assert_eq!(best(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn never_panics_and_always_ends(line in ".{0,80}", near in "[Bb]earer( |,|=|\"|\\\\|realm|[a-zä]{1,3}){0,20}") {
            for line in [line, near] {
                prop_assert!(parse(&line).len() <= line.len());
            }
        }
    }
}
