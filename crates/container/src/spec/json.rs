//! Where in a JSON text something is: serde_json tells line and column, people look for the field.

use oci_spec::runtime::Capability;
use std::{fmt::Write, ops::Range};

/// One step from the root of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Key,
    String,
    /// Number, literal, or (in a broken text) anything else.
    Other,
    /// Between two items of an array.
    Comma,
}

/// The field at a position as serde_json reports it: line from 1, column in bytes consumed of that line. Empty for the
/// document as a whole.
pub(crate) fn field_at(text: &str, line: usize, column: usize) -> String {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let offset = before.saturating_add(column).max(1);
    let mut field = String::new();
    walk(text, |_, range, path| {
        if range.start < offset {
            field = show(path);
        }
    });
    field
}

/// The text with capabilities that nobody knows blanked out of `process.capabilities` (line and column of the rest stay),
/// and the fields that had them. As runc: a newer tool may list what this version does not know.
pub(crate) fn without_unknown_capabilities(text: &str) -> (String, Vec<(String, String)>) {
    let mut bytes = text.as_bytes().to_vec();
    let mut unknown = Vec::new();
    let mut items: Vec<(Range<usize>, bool)> = Vec::new();
    let mut commas: Vec<usize> = Vec::new();
    walk(text, |token, range, path| {
        let [Step::Field(process), Step::Field(capabilities), Step::Field(_), rest @ ..] = path else { return };
        if process != "process" || capabilities != "capabilities" {
            return;
        }
        match (token, rest) {
            (Token::Open, []) => {
                items.clear();
                commas.clear();
            }
            (Token::String, [Step::Item(_)]) => {
                let name = &text[range.clone()];
                let known = serde_json::from_str::<Capability>(name).is_ok();
                if !known {
                    unknown.push((show(path), name.trim_matches('"').to_owned()));
                }
                items.push((range, known));
            }
            (Token::Comma, [Step::Item(_)]) => commas.push(range.start),
            // An array of strings only, else the parser shall complain about what is really there.
            (Token::Close, []) if items.len() == commas.len() + 1 => {
                let last = items.iter().rposition(|(_, known)| *known).unwrap_or(0);
                for (position, (range, known)) in items.iter().enumerate() {
                    if !known {
                        bytes[range.clone()].fill(b' ');
                    }
                    if let Some(comma) = commas.get(position).filter(|_| !known || position >= last) {
                        bytes[*comma] = b' ';
                    }
                }
            }
            _ => {}
        }
    });
    match String::from_utf8(bytes) {
        Ok(blanked) => (blanked, unknown),
        Err(_) => (text.to_owned(), Vec::new()), // whole strings were blanked, so it is UTF-8 still
    }
}

fn show(path: &[Step]) -> String {
    path.iter().fold(String::new(), |mut text, step| {
        // Writing to a String can not fail.
        let _infallible = match step {
            Step::Field(name) if text.is_empty() => write!(text, "{name}"),
            Step::Field(name) => write!(text, ".{name}"),
            Step::Item(index) => write!(text, "[{index}]"),
        };
        text
    })
}

/// Calls `visit` with every token, its bytes and the field it belongs to. Makes sense of valid JSON only, but takes any text.
fn walk(text: &str, mut visit: impl FnMut(Token, Range<usize>, &[Step])) {
    let bytes = text.as_bytes();
    let mut path: Vec<Step> = Vec::new();
    let mut key_next = false;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'{' | b'[' => {
                visit(Token::Open, start..at, &path);
                key_next = *byte == b'{';
                path.push(if key_next { Step::Field(String::new()) } else { Step::Item(0) });
            }
            b'}' | b']' => {
                path.pop();
                key_next = false;
                visit(Token::Close, start..at, &path);
            }
            b',' => match path.last_mut() {
                Some(Step::Item(_)) => {
                    visit(Token::Comma, start..at, &path);
                    if let Some(Step::Item(index)) = path.last_mut() {
                        *index += 1;
                    }
                }
                _ => key_next = true,
            },
            b'"' => {
                while let Some(byte) = bytes.get(at) {
                    at += if *byte == b'\\' { 2 } else { 1 };
                    if *byte == b'"' {
                        break;
                    }
                }
                at = at.min(bytes.len());
                if let (true, Some(Step::Field(name))) = (key_next, path.last_mut()) {
                    let raw = text.get(start..at).unwrap_or_default();
                    *name = serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned());
                    key_next = false;
                    visit(Token::Key, start..at, &path);
                } else {
                    visit(Token::String, start..at, &path);
                }
            }
            b':' | b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => {
                let more = bytes[at..].iter().take_while(|byte| !b"{}[],:\" \t\r\n".contains(byte)).count();
                at += more;
                visit(Token::Other, start..at, &path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(text: &str) -> String {
        let error = serde_json::from_str::<oci_spec::runtime::Spec>(text).unwrap_err();
        field_at(text, error.line(), error.column())
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(field("{\"ociVersion\": 1}"), "ociVersion");
        let namespaces =
            "{\n \"linux\": {\n  \"namespaces\": [\n   {\"type\": \"pid\"},\n   {\"type\": \"frob\"}\n  ]\n }\n}";
        assert_eq!(field(namespaces), "linux.namespaces[1].type");
        assert_eq!(field("{\"process\": {\"user\": {\"uid\": -1}, \"cwd\": \"/\"}}"), "process.user.uid");
        assert_eq!(field("{\"root\": [\n1,\n{}]}"), "root[0]");
        assert_eq!(
            field("{\"mounts\": [{\"destination\": \"/é\"}, {\"options\": []}]}"),
            "mounts[1]",
            "a field is missing"
        );
        assert_eq!(field("7"), "");
    }

    #[test]
    fn unknown_capabilities_are_blanked_out() {
        for (list, rest) in [
            (r#"["CAP_KILL", "CAP_NEW", "CAP_CHOWN"]"#, 2),
            (r#"["CAP_NEW", "CAP_KILL"]"#, 1),
            (r#"["CAP_KILL", "CAP_NEW","CAP_NEWER"]"#, 1),
            ("[\"CAP_NEW\" ,\n\"CAP_é\"]", 0),
            (r#"["CAP_NEW", "CAP_KILL", "CAP_NEWER", "CAP_CHOWN", "CAP_N"]"#, 2),
            ("[]", 0),
        ] {
            let text = format!(
                r#"{{"process": {{"cwd": "/", "user": {{}}, "capabilities": {{"bounding": {list}, "effective": ["CAP_KILL"]}}}}}}"#
            );
            let (blanked, unknown) = without_unknown_capabilities(&text);
            assert_eq!(blanked.len(), text.len());
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&blanked).expect(&blanked);
            let capabilities = spec.process().clone().unwrap().capabilities().clone().unwrap();
            assert_eq!(capabilities.bounding().clone().unwrap().len(), rest, "{blanked}");
            assert_eq!(capabilities.effective().clone().unwrap().len(), 1);
            assert_eq!(unknown.len(), list.matches("CAP_N").count() + list.matches("CAP_é").count());
            assert!(unknown.iter().all(|(field, _)| field.starts_with("process.capabilities.bounding[")));
        }
        let (text, unknown) =
            without_unknown_capabilities(r#"{"process": {"capabilities": {"bounding": ["CAP_NEW", 7]}}}"#);
        assert!(text.contains("CAP_NEW") && unknown.len() == 1, "the parser is to see what is there");
    }

    proptest! {
        #[test]
        fn never_panics(text in r#"[{}\[\]",:\\a é7]{0,40}"#, line in 0usize..4, column in 0usize..40) {
            prop_assert!(field_at(&text, line, column).len() <= 4 * text.len() + 64);
            prop_assert_eq!(without_unknown_capabilities(&text).0.len(), text.len());
        }
    }
}
