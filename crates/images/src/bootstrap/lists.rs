//! What a mirror offers: the files that `apt-get update` leaves in `var/lib/apt/lists`.

use super::{BootstrapError, Suite, error::io};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

/// A release of a suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    /// Its code name, whatever name it was asked for by.
    pub codename: String,
    /// `13.2`; absent in suites that are never released.
    pub version: Option<String>,
    /// When it was made, in seconds since 1970.
    pub date: i64,
}

/// One package of the lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// Size of its file, in bytes.
    pub size: u64,
    /// Size of what is in it, in bytes.
    pub installed: u64,
    /// What the package says of itself.
    pub stanza: String,
}

/// The release of the suite itself, not of its updates.
pub(super) fn release(lists: &Path, suite: &Suite) -> Result<Release, BootstrapError> {
    for path in files(lists, &["_InRelease", "_Release"])? {
        let text = fs::read_to_string(&path).map_err(io("read", &path))?;
        let fields = fields(&text);
        let names = [fields.get("Codename"), fields.get("Suite")];
        if !names.into_iter().flatten().any(|name| name == suite.as_str()) {
            continue;
        }
        let date = fields.get("Date").and_then(|date| parse_date(date));
        let codename = fields.get("Codename").or(fields.get("Suite")).cloned();
        if let (Some(date), Some(codename)) = (date, codename) {
            return Ok(Release { codename, version: fields.get("Version").cloned(), date });
        }
    }
    Err(BootstrapError::Unclear { program: "apt", what: "which release of the suite the mirror has" })
}

fn fields(text: &str) -> BTreeMap<String, String> {
    let lines =
        text.lines().skip_while(|line| line.starts_with("-----") || line.starts_with("Hash:") || line.is_empty());
    let lines = lines.take_while(|line| !line.starts_with("-----") && !line.is_empty());
    let field = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (!key.starts_with(' ')).then(|| (key.to_owned(), value.trim().to_owned()))
    };
    lines.filter_map(field).collect()
}

/// `Sat, 21 Nov 2026 09:15:44 UTC`
fn parse_date(text: &str) -> Option<i64> {
    let text = text.trim().trim_end_matches("UTC").trim_end_matches("GMT").trim();
    let time = jiff::fmt::rfc2822::parse(&format!("{text} +0000")).ok()?;
    Some(time.timestamp().as_second())
}

/// What the lists say of these packages and versions.
pub(super) fn describe(
    lists: &Path,
    packages: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Listed>, BootstrapError> {
    let mut found = BTreeMap::new();
    for path in files(lists, &["_Packages"])? {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&path).map_err(io("open", &path))?);
        let (mut line, mut stanza) = (String::new(), String::new());
        loop {
            line.clear();
            let got = reader.read_line(&mut line).map_err(io("read", &path))?;
            if got == 0 || line == "\n" {
                if let Some((name, listed)) = one(&stanza, packages) {
                    found.entry(name).or_insert(listed);
                }
                stanza.clear();
            } else {
                stanza.push_str(&line);
            }
            if got == 0 {
                break;
            }
        }
    }
    Ok(found)
}

fn one(stanza: &str, packages: &BTreeMap<String, String>) -> Option<(String, Listed)> {
    // Looked at for every package of Debian: the name is the first field, and nearly always not ours.
    let name = stanza.strip_prefix("Package: ")?.lines().next()?;
    let version = packages.get(name)?;
    let field = |key: &str| {
        let line = stanza.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        line.unwrap_or_default()
    };
    if field("Version") != version {
        return None;
    }
    let size = field("Size").parse().unwrap_or(0);
    let installed = field("Installed-Size").parse::<u64>().unwrap_or(0).saturating_mul(1024);
    Some((name.to_owned(), Listed { size, installed, stanza: own_words(stanza) }))
}

/// A stanza without what depends on the list that it is from: an archive adds where the file is and what it thinks of the
/// package, has its own order, and may or may not keep the long description apart.
fn own_words(stanza: &str) -> String {
    const OF_THE_ARCHIVE: [&str; 7] = ["Description-md5", "Filename", "MD5sum", "Priority", "Section", "Size", "Tag"];
    let mut fields: Vec<(&str, String)> = Vec::new();
    for line in stanza.lines() {
        match (line.starts_with([' ', '\t']), fields.last_mut()) {
            (true, Some(("Description", _))) => {}
            (true, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            _ => fields.push((line.split(':').next().unwrap_or(line), format!("{line}\n"))),
        }
    }
    fields.retain(|(name, _)| !OF_THE_ARCHIVE.contains(name) && !name.starts_with("SHA"));
    fields.sort_by_key(|(name, _)| (*name != "Package", *name));
    fields.into_iter().map(|(_, text)| text).collect()
}

fn files(lists: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, BootstrapError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(lists).map_err(io("list", lists))? {
        let path = entry.map_err(io("list", lists))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if endings.iter().any(|ending| name.ends_with(ending)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_by_both_names() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "m_dists_trixie-security_InRelease",
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nSuite: stable-security\nCodename: trixie-security\nDate: Tue, 24 Nov 2026 00:34:34 UTC\n",
        );
        write(
            "m_dists_trixie_InRelease",
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nSuite: stable\nVersion: 13.8\nCodename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\nMD5Sum:\n 0 1 main\n-----BEGIN PGP SIGNATURE-----\n",
        );
        let expected = Release { codename: "trixie".to_owned(), version: Some("13.8".to_owned()), date: 1_795_252_544 };
        for name in ["trixie", "stable"] {
            assert_eq!(release(folder.path(), &name.parse().unwrap()).unwrap(), expected);
        }
        assert!(release(folder.path(), &"bookworm".parse().unwrap()).is_err());
    }

    #[test]
    fn whichever_list_a_package_is_found_in_it_says_the_same() {
        let release = "Package: a\nSource: s\nVersion: 1\nInstalled-Size: 2\nDepends: c,\n d\nDescription: it\nMulti-Arch: same\nHomepage: h\nDescription-md5: 0\nTag: role::x,\n use::y\nSection: utils\nPriority: optional\nFilename: pool/main/a.deb\nSize: 7\nMD5sum: 1\nSHA256: 2\n";
        let security = "Package: a\nSource: s\nVersion: 1\nInstalled-Size: 2\nDepends: c,\n d\nDescription: it\n in many words\nHomepage: h\nMulti-Arch: same\nSection: net\nPriority: extra\nFilename: pool/updates/a.deb\nSize: 7\nSHA256: 2\n";
        let stanza = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("m_Packages"), text).unwrap();
            describe(folder.path(), &[("a".to_owned(), "1".to_owned())].into()).unwrap()["a"].clone()
        };
        let expected = "Package: a\nDepends: c,\n d\nDescription: it\nHomepage: h\nInstalled-Size: 2\nMulti-Arch: same\nSource: s\nVersion: 1\n";
        assert_eq!(stanza(release).stanza, expected);
        assert_eq!(stanza(release), stanza(security));
    }

    #[test]
    fn only_the_version_that_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        let text = "Package: a\nVersion: 1\nInstalled-Size: 2\nSize: 100\n\nPackage: b\nVersion: 1\n\nPackage: a\nVersion: 2\nInstalled-Size: 3\nSize: 7\n";
        fs::write(folder.path().join("m_main_Packages"), text).unwrap();
        let wanted = [("a".to_owned(), "2".to_owned()), ("c".to_owned(), "1".to_owned())].into();
        let found = describe(folder.path(), &wanted).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found["a"].size, found["a"].installed), (7, 3072));
        assert_eq!(found["a"].stanza, "Package: a\nInstalled-Size: 3\nVersion: 2\n");
    }
}
