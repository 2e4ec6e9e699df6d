//! What an image has besides the files of its packages.

use super::{
    lists::Listed,
    sources::{Source, for_image},
    tree::{Addition, TreeError, Visitor},
};
use crate::tarball::{Entry, Kind as EntryKind};
use std::collections::BTreeMap;

/// A system's: where its apt gets packages, and that none of them starts a service when it is installed: there is no
/// init in a container (policy-rc.d is Debian's own way to say so).
pub(super) fn of_system(sources: &[Source]) -> Vec<Addition> {
    let mut additions = vec![Addition::file("usr/sbin/policy-rc.d", 0o755, "#!/bin/sh\nexit 101\n")];
    if let Some(text) = for_image(sources) {
        additions.push(Addition::file("etc/apt/sources.list.d/debian.sources", 0o644, text));
    }
    additions
}

const PASSWD: &str = "root:x:0:0:root:/root:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/usr/sbin/nologin
";
const GROUP: &str = "root:x:0:
tty:x:5:
nogroup:x:65534:
nonroot:x:65532:
";
const NSSWITCH: &str = "passwd: files
group: files
hosts: files dns
networks: files
protocols: files
services: files
";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// Of a few files that no script ever configures: users, name lookup, the bundle of certificates, and a word on each
/// package in the place where scanners look for it.
pub(super) fn of_files(certificates: Certificates, packages: &BTreeMap<String, Listed>) -> Vec<Addition> {
    let mut additions = vec![
        Addition::file("etc/passwd", 0o644, PASSWD),
        Addition::file("etc/group", 0o644, GROUP),
        Addition::file("etc/nsswitch.conf", 0o644, NSSWITCH),
        Addition::directory("home/nonroot", 0o700, 65532),
        Addition::directory("var/lib/dpkg", 0o755, 0),
        Addition::directory("var/lib/dpkg/status.d", 0o755, 0),
    ];
    let bundle = certificates.bundle();
    if !bundle.is_empty() {
        additions.push(Addition::file(BUNDLE, 0o644, bundle));
        // Where OpenSSL looks first.
        additions.push(Addition::link("usr/lib/ssl/cert.pem", &format!("/{BUNDLE}")));
    }
    for (name, listed) in packages {
        additions.push(Addition::file(&format!("var/lib/dpkg/status.d/{name}"), 0o644, listed.stanza.as_bytes()));
    }
    additions
}

/// The certificates of a tree, as `update-ca-certificates` would put them together.
#[derive(Default)]
pub(super) struct Certificates {
    found: BTreeMap<Vec<u8>, Vec<u8>>,
    open: Option<Vec<u8>>,
}

impl Certificates {
    fn bundle(self) -> Vec<u8> {
        let mut bundle = Vec::new();
        for certificate in self.found.into_values() {
            bundle.extend_from_slice(&certificate);
            if !certificate.ends_with(b"\n") {
                bundle.push(b'\n');
            }
        }
        bundle
    }
}

impl Visitor for Certificates {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        const FOLDER: &[u8] = b"usr/share/ca-certificates/";
        let wanted = entry.kind == EntryKind::File && entry.path.starts_with(FOLDER) && entry.path.ends_with(b".crt");
        self.open = wanted.then(|| entry.path.clone());
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        if let Some(path) = &self.open {
            self.found.entry(path.clone()).or_default().extend_from_slice(bytes);
        }
        Ok(())
    }
}

/// What dpkg says is installed: name and version, of packages that are configured.
#[derive(Default)]
pub(super) struct Status {
    text: Vec<u8>,
    open: bool,
}

/// The status of ten thousand packages is smaller.
const MAX_STATUS: usize = 64 << 20;

impl Status {
    pub fn packages(&self) -> BTreeMap<String, String> {
        let text = String::from_utf8_lossy(&self.text);
        let one = |stanza: &str| {
            let field = |key: &str| stanza.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            let installed = field("Status")? == "install ok installed";
            installed.then_some((field("Package")?.to_owned(), field("Version")?.to_owned()))
        };
        text.split("\n\n").filter_map(one).collect()
    }
}

impl Visitor for Status {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        self.open = entry.path == b"var/lib/dpkg/status";
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        if self.open && self.text.len() + bytes.len() <= MAX_STATUS {
            self.text.extend_from_slice(bytes);
        }
        Ok(())
    }
}

/// Two visitors on one way.
pub(super) struct Both<'a, A, B>(pub &'a mut A, pub &'a mut B);

impl<A: Visitor, B: Visitor> Visitor for Both<'_, A, B> {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        self.0.entry(entry)?;
        self.1.entry(entry)
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        self.0.data(bytes)?;
        self.1.data(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Kind,
            tree::{
                Rules,
                tests::{Seen, archive, file},
                visit,
            },
        },
        *,
    };

    #[test]
    fn certificates_become_one_bundle_in_order() {
        let bytes = archive(&[
            (file("./usr/share/ca-certificates/mozilla/B.crt"), b"two"),
            (file("./usr/share/ca-certificates/mozilla/A.crt"), b"one\n"),
            (file("./usr/share/ca-certificates/README"), b"x"),
        ]);
        let rules = Rules::new(Kind::Files, 1, Vec::new());
        let mut certificates = Certificates::default();
        visit(&bytes[..], &rules, &mut certificates).unwrap();
        let listed = Listed { stanza: "Package: a\n".to_owned(), ..Listed::default() };
        let additions = of_files(certificates, &[("a".to_owned(), listed)].into());
        let mut seen = Seen::default();
        visit(&bytes[..], &Rules::new(Kind::Files, 1, additions), &mut seen).unwrap();
        let data = |name: &str| seen.0.iter().find(|(found, _)| found == name).map(|(_, data)| data.as_slice());
        assert_eq!(data(BUNDLE), Some(&b"one\ntwo\n"[..]));
        assert_eq!(data("var/lib/dpkg/status.d/a"), Some(&b"Package: a\n"[..]));
        assert!(data("etc/passwd").is_some_and(|text| text.starts_with(b"root:x:0:0:")));
    }

    #[test]
    fn only_what_is_configured_is_installed() {
        let text = b"Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: install ok unpacked\nVersion: 1\n";
        let bytes = archive(&[(file("var/lib/dpkg/status"), text), (file("var/lib/dpkg/other"), b"Package: c")]);
        let mut status = Status::default();
        visit(&bytes[..], &Rules::none(), &mut status).unwrap();
        assert_eq!(status.packages(), [("a".to_owned(), "1".to_owned())].into());
    }
}
