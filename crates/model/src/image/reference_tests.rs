//! Names as people write them, and as they should not.

use super::*;
use proptest::prelude::*;

fn name(text: &str) -> ImageName {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn parts_are_told_apart() {
    let hex = "0a".repeat(32);
    let digest = format!("sha256:{hex}");
    for (text, registry, repository, tag, with_digest) in [
        ("debian", None, "debian", None, false),
        ("debian:trixie", None, "debian", Some("trixie"), false),
        ("a/b/c:1", None, "a/b/c", Some("1"), false),
        ("localhost/a", Some("localhost"), "a", None, false),
        ("localhost:5000/a:b", Some("localhost:5000"), "a", Some("b"), false),
        ("example.org/a/b:V1.2_x-y", Some("example.org"), "a/b", Some("V1.2_x-y"), false),
        ("[2001:db8::1]:5000/a", Some("[2001:db8::1]:5000"), "a", None, false),
        ("example.org/a@", Some("example.org"), "a", None, true),
        ("example.org/a:b@", Some("example.org"), "a", Some("b"), true),
    ] {
        let text = if with_digest { format!("{text}{digest}") } else { text.to_owned() };
        let got = name(&text);
        assert_eq!(got.registry.as_ref().map(Registry::as_str), registry, "{text}");
        assert_eq!(got.repository.as_str(), repository, "{text}");
        assert_eq!(got.tag.as_ref().map(Tag::as_str), tag, "{text}");
        assert_eq!(got.digest.is_some(), with_digest, "{text}");
        assert_eq!(got.to_string(), text);
    }
}

#[test]
fn latest_is_meant_only_when_nothing_is_said() {
    assert_eq!(name("a").normalised().to_string(), "a:latest");
    assert_eq!(name("a:b").normalised().to_string(), "a:b");
    let by_digest = format!("a@sha256:{}", "00".repeat(32));
    assert_eq!(name(&by_digest).normalised().to_string(), by_digest);
}

#[test]
fn host_and_port_are_parted() {
    for (text, host, port) in
        [("h", "h", None), ("h:5", "h", Some(5)), ("[::1]", "[::1]", None), ("[::1]:9", "[::1]", Some(9))]
    {
        let registry: Registry = text.parse().unwrap();
        assert_eq!((registry.host(), registry.port()), (host, port));
    }
}

#[test]
fn malformed_names_are_refused() {
    let long = "a".repeat(256);
    for bad in [
        "",
        "A",
        "a//b",
        "/a",
        "a/",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "a._b",
        ".a",
        "a:",
        ":a",
        "a:-b",
        "a:b c",
        "a@",
        "a@b",
        "a@sha256:00",
        "../a",
        "a/../b",
        "http://a/b",
        "a b",
        "ä",
        "x.y",
        "host:99999/a",
        "host:0/a",
        "host:/a",
        "[::1/a",
        "[x]:1/a",
        "-h.org/a",
        "h..org/a",
        "a:b:c",
        &long,
        &format!("a:{}", "t".repeat(129)),
        "a\n",
        "a/b.c/",
        "x.y:5000",
    ] {
        assert!(bad.parse::<ImageName>().is_err(), "{bad}");
    }
    let error = "Debian:trixie".parse::<ImageName>().unwrap_err().to_string();
    assert!(error.contains("`Debian`") && error.contains("lower-case"), "{error}");
}

/// The grammar as a recogniser that is written another way: character by character.
fn reference_component(text: &str) -> bool {
    let mut state = 0; // 0 begin of a word, 1 in a word, 2 one '.', 3 one '_', 4 two '_', 5 dashes
    for c in text.chars() {
        state = match (state, c) {
            (_, 'a'..='z' | '0'..='9') => 1,
            (1, '.') => 2,
            (1, '_') => 3,
            (3, '_') => 4,
            (1 | 5, '-') => 5,
            _ => return false,
        };
    }
    state == 1
}

proptest! {
    #[test]
    fn components_follow_the_grammar(text in "[a-c0._-]{0,12}") {
        prop_assert_eq!(is_component(&text), reference_component(&text));
    }
    #[test]
    fn any_text_is_refused_or_comes_back(text in "[a-zA-Z0-9.:/@_\\[\\]-]{0,40}|.{0,40}") {
        if let Ok(name) = text.parse::<ImageName>() {
            prop_assert_eq!(name.to_string(), text);
        }
    }
    #[test]
    fn good_names_are_taken(repository in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}([._-][a-z0-9]{1,4}){0,2}){0,3}", tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", host in proptest::option::of("[a-z]{1,5}\\.[a-z]{2,4}(:[1-9][0-9]{0,3})?")) {
        let text = match &host { Some(host) => format!("{host}/{repository}:{tag}"), None => format!("{repository}:{tag}") };
        let name = text.parse::<ImageName>().unwrap();
        prop_assert_eq!(name.registry.map(String::from), host);
        prop_assert_eq!(name.repository.as_str(), repository);
    }
}
