//! The Debian mirror that this host uses: from apt's sources, in either of their forms (sources.list(5)).

use std::fs;
use std::path::PathBuf;

/// The first mirror of the main archive.
pub fn of_this_host() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    let mut parts: Vec<PathBuf> = parts.filter_map(|entry| Some(entry.ok()?.path())).collect();
    parts.sort();
    files.extend(parts);
    files.into_iter().find_map(|path| {
        let text = fs::read_to_string(&path).ok()?;
        match path.extension()?.to_str()? {
            "list" => text.lines().find_map(one_line),
            "sources" => text.split("\n\n").find_map(stanza),
            _ => None,
        }
    })
}

/// `deb [options] URI suite component…`
fn one_line(line: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("deb ")?.trim();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    (is_main(suite) && words.any(|word| word == "main") && is_debian(uri)).then(|| uri.to_owned())
}

/// `Types:`, `URIs:`, `Suites:`, `Components:`, one a line.
fn stanza(text: &str) -> Option<String> {
    let value = |key: &str| {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim))
    };
    let has =
        |key: &str, wanted: &dyn Fn(&str) -> bool| value(key).is_some_and(|words| words.split_whitespace().any(wanted));
    let enabled = value("Enabled").is_none_or(|word| word != "no");
    let fits = enabled
        && has("Types", &|word| word == "deb")
        && has("Suites", &is_main)
        && has("Components", &|word| word == "main");
    value("URIs")?.split_whitespace().find(|uri| fits && is_debian(uri)).map(str::to_owned)
}

/// A release as a whole, not its updates.
fn is_main(suite: &str) -> bool {
    !suite.contains(['-', '/'])
}

/// Debian's own archive lies in a folder of that name on every mirror.
fn is_debian(uri: &str) -> bool {
    uri.trim_end_matches('/').ends_with("/debian")
}

#[cfg(test)]
mod tests {
    use super::{one_line, stanza};

    #[test]
    fn both_forms() {
        let expected = Some("http://mirror.test/debian".to_owned());
        assert_eq!(one_line("deb [arch=amd64 signed-by=/k] http://mirror.test/debian trixie main contrib"), expected);
        assert_eq!(one_line("# deb http://mirror.test/debian trixie main"), None);
        assert_eq!(one_line("deb http://mirror.test/debian-security trixie-security main"), None);
        assert_eq!(one_line("deb http://other.test/tool stable main"), None);
        let text = "# mirror\nTypes: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main";
        assert_eq!(stanza(text), expected);
        assert_eq!(stanza(&format!("{text}\nEnabled: no")), None);
        assert_eq!(stanza(&text.replace("deb\n", "deb-src\n")), None);
    }
}
