//! Where packages come from: the Debian mirror that this machine's apt uses, in either form of its sources
//! (sources.list(5)), or one that the caller names.

use super::{BootstrapError, Suite};
use std::{fmt::Write, fs, path::PathBuf};

/// The mirrors of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// Of the archive itself.
    main: String,
    /// Of its security updates.
    security: Option<String>,
}

/// One line of sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Address.
    pub uri: String,
    /// Name of the suite below it.
    pub suite: String,
}

impl Source {
    /// As sources.list(5) has it.
    pub fn line(&self) -> String {
        format!("deb {} {} main", self.uri, self.suite)
    }
}

impl Mirrors {
    /// These mirrors.
    ///
    /// # Errors
    /// One is not an address that apt takes.
    pub fn new(main: &str, security: Option<&str>) -> Result<Self, BootstrapError> {
        Ok(Self { main: checked(main)?, security: security.map(checked).transpose()? })
    }

    /// Those of this machine's apt.
    ///
    /// # Errors
    /// Its sources have no archive of Debian's.
    pub fn of_this_host() -> Result<Self, BootstrapError> {
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
        let mut parts: Vec<PathBuf> = parts.filter_map(|entry| Some(entry.ok()?.path())).collect();
        parts.sort();
        files.extend(parts);
        let mut found = Vec::new();
        for path in files {
            let read = |path| fs::read_to_string(path).unwrap_or_default();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("list") => found.extend(read(&path).lines().filter_map(one_line)),
                Some("sources") => found.extend(stanzas(&read(&path)).iter().flat_map(|stanza| of_stanza(stanza))),
                _ => {}
            }
        }
        let main = first(&found, is_main).ok_or(BootstrapError::NoMirror)?;
        Self::new(&main, first(&found, is_security).as_deref())
    }

    /// Whether TLS is spoken to one of them.
    pub(super) fn https(&self) -> bool {
        [Some(&self.main), self.security.as_ref()].into_iter().flatten().any(|uri| uri.starts_with("https:"))
    }

    /// All sources of a suite.
    pub(super) fn sources(&self, suite: &Suite) -> Vec<Source> {
        let source = |uri: &str, suite: String| Source { uri: uri.to_owned(), suite };
        let mut sources = vec![source(&self.main, suite.to_string())];
        if suite.has_updates() {
            sources.push(source(&self.main, format!("{suite}-updates")));
            if let Some(security) = &self.security {
                sources.push(source(security, format!("{suite}-security")));
            }
        }
        sources
    }
}

/// The sources as the image's own apt gets them: without passwords, and none that lead to this machine's files.
pub(super) fn for_image(sources: &[Source]) -> Option<String> {
    let mut text = String::new();
    for source in sources {
        let Some((scheme, rest)) = source.uri.split_once("://").filter(|(scheme, _)| scheme.starts_with("http")) else {
            continue;
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let gap = if text.is_empty() { "" } else { "\n" };
        // Writing to a string can not fail.
        _ = write!(
            text,
            "{gap}Types: deb\nURIs: {scheme}://{host}/{path}\nSuites: {}\nComponents: main\nSigned-By: {KEYRING}\n",
            source.suite
        );
    }
    (!text.is_empty()).then_some(text)
}

/// In the image, by the package debian-archive-keyring that apt depends on.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One that apt takes, and that can not be more than an address in a line of sources.
fn checked(uri: &str) -> Result<String, BootstrapError> {
    let known = ["http://", "https://", "file:/", "copy:/"].iter().any(|scheme| uri.starts_with(scheme));
    let plain = uri.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'[' | b']' | b'#' | b'"' | b'\\'));
    match known && plain {
        true => Ok(uri.trim_end_matches('/').to_owned()),
        false => Err(BootstrapError::Mirror { uri: without_password(uri) }),
    }
}

/// An address as it may be shown.
pub(super) fn without_password(uri: &str) -> String {
    let shown = match uri.split_once("://") {
        Some((scheme, rest)) => match rest.split('/').next().and_then(|host| host.rsplit_once('@')) {
            Some((user, _)) => format!("{scheme}://…{}", &rest[user.len()..]),
            None => uri.to_owned(),
        },
        None => uri.to_owned(),
    };
    crate::tarball::shown(shown.as_bytes())
}

/// A source as it stands in apt's own files.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    uri: String,
    suite: String,
}

fn first(found: &[Found], fits: fn(&Found) -> bool) -> Option<String> {
    found.iter().find(|source| fits(source)).map(|source| source.uri.clone())
}

/// A release as a whole, below the folder of this name that Debian's archive has on every mirror.
fn is_main(source: &Found) -> bool {
    source.uri.trim_end_matches('/').ends_with("/debian") && !source.suite.contains(['-', '/'])
}

fn is_security(source: &Found) -> bool {
    let folder = source.uri.trim_end_matches('/');
    source.suite.ends_with("-security") && (folder.ends_with("/debian-security") || folder.ends_with("/debian"))
}

/// `deb [options] URI suite component…`
fn one_line(line: &str) -> Option<Found> {
    let rest = line.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    words.any(|word| word == "main").then(|| Found { uri: uri.to_owned(), suite: suite.to_owned() })
}

/// Fields of each stanza, with what is on lines that go on.
fn stanzas(text: &str) -> Vec<Vec<(String, String)>> {
    let mut stanzas = vec![Vec::<(String, String)>::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let last = stanzas.last_mut().filter(|stanza| !stanza.is_empty());
        match (line.trim(), line.starts_with([' ', '\t']), last) {
            ("", ..) => stanzas.push(Vec::new()),
            (more, true, Some(stanza)) => {
                if let Some((_, value)) = stanza.last_mut() {
                    value.push(' ');
                    value.push_str(more);
                }
            }
            (field, ..) => {
                if let (Some((key, value)), Some(stanza)) = (field.split_once(':'), stanzas.last_mut()) {
                    stanza.push((key.to_ascii_lowercase(), value.trim().to_owned()));
                }
            }
        }
    }
    stanzas
}

/// `Types:`, `URIs:`, `Suites:`, `Components:`.
fn of_stanza(stanza: &[(String, String)]) -> Vec<Found> {
    let words = |key: &str| {
        let value = stanza.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        value.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let has = |key: &str, word: &str| words(key).iter().any(|found| found == word);
    if has("enabled", "no") || !has("types", "deb") || !has("components", "main") {
        return Vec::new();
    }
    let suites = words("suites");
    let each = |uri: String| suites.iter().map(move |suite| Found { uri: uri.clone(), suite: suite.clone() });
    words("uris").into_iter().flat_map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(uri: &str, suite: &str) -> Found {
        Found { uri: uri.to_owned(), suite: suite.to_owned() }
    }

    #[test]
    fn both_forms() {
        let uri = "http://mirror.test/debian";
        assert_eq!(
            one_line(&format!("deb [arch=amd64 signed-by=/k] {uri} trixie main contrib # x")),
            Some(found(uri, "trixie"))
        );
        assert_eq!(one_line(&format!("# deb {uri} trixie main")), None);
        assert_eq!(one_line(&format!("deb-src {uri} trixie main")), None);
        assert_eq!(one_line("deb http://other.test/tool stable extra"), None);
        let text = format!(
            "# mirror\nTypes: deb\nURIs: {uri}\nSuites: bookworm\n bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://mirror.test/debian-security\nSuites: bookworm-security\nComponents: main\n"
        );
        let all: Vec<_> = stanzas(&text).iter().flat_map(|stanza| of_stanza(stanza)).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(first(&all, is_main).as_deref(), Some(uri));
        assert_eq!(first(&all, is_security).as_deref(), Some("http://mirror.test/debian-security"));
        let off = text.replace("Types", "Enabled: no\nTypes");
        assert!(stanzas(&off).iter().all(|stanza| of_stanza(stanza).is_empty()));
    }

    #[test]
    fn suites_of_a_release() {
        let mirrors = Mirrors::new("http://mirror.test/debian/", Some("http://mirror.test/debian-security")).unwrap();
        let suites = |suite: &str| -> Vec<String> {
            mirrors.sources(&suite.parse().unwrap()).iter().map(Source::line).collect()
        };
        assert_eq!(suites("sid"), ["deb http://mirror.test/debian sid main"]);
        assert_eq!(suites("trixie")[2], "deb http://mirror.test/debian-security trixie-security main");
        assert_eq!(suites("trixie").len(), 3);
    }

    #[test]
    fn an_image_knows_no_password_and_no_file() {
        let mirrors = Mirrors::new("https://me:secret@mirror.test/debian", None).unwrap();
        assert!(mirrors.https());
        let text = for_image(&mirrors.sources(&Suite::default())).unwrap();
        assert!(text.contains("URIs: https://mirror.test/debian\n") && !text.contains("secret"), "{text}");
        assert_eq!(text.matches("Types: deb\n").count(), 2);
        let local = Mirrors::new("file:///srv/debian", None).unwrap();
        assert_eq!(for_image(&local.sources(&Suite::default())), None);
        for bad in ["mirror.test", "http://x/a b", "http://x/[trusted=yes]", "ftp://x/debian", "http://x\ndeb http://y"]
        {
            assert!(Mirrors::new(bad, None).is_err(), "{bad}");
        }
        assert_eq!(without_password("http://me:secret@x/y@z"), "http://…@x/y@z");
    }
}
