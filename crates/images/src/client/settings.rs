//! How registries are reached: what a caller decides, and `registries.toml`.

use super::{
    credentials::{Credentials, DockerConfig},
    error::ClientError,
    retry::RetryPolicy,
};
use model::image::{ImageName, Registry};
use reqwest::Url;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Docker's own registry, which has another host than its name says and names images in a way of its own.
const DOCKER: (&str, &str) = ("docker.io", "registry-1.docker.io");
/// Largest `registries.toml`, bytes.
const LARGEST: u64 = 1 << 20;

/// Where credentials come from.
#[derive(Debug, Clone)]
pub enum CredentialSource {
    /// None.
    Anonymous,
    /// These, for every registry.
    Given(Credentials),
    /// From where Docker's tools keep them.
    Docker(DockerConfig),
}

/// All that a [`super::Client`] is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is set for single registries.
    pub registries: Registries,
    /// Speak plain HTTP with every registry that is named.
    pub plain_http: bool,
    /// Files of authorities that are trusted besides the host's, in PEM form.
    pub authorities: Vec<PathBuf>,
    /// Who we are.
    pub credentials: CredentialSource,
    /// How persistent we are.
    pub retry: RetryPolicy,
    /// Time for a connection.
    pub connect: Duration,
    /// Time in which something must move.
    pub stall: Duration,
    /// Layers transferred at the same time; at least 1.
    pub parallel: usize,
}

impl Default for Settings {
    /// Nothing set for registries, no credentials, 10 s for a connection, 60 s without a byte, three layers at a time.
    fn default() -> Self {
        Self {
            registries: Registries::default(),
            plain_http: false,
            authorities: Vec::new(),
            credentials: CredentialSource::Anonymous,
            retry: RetryPolicy::default(),
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(60),
            parallel: 3,
        }
    }
}

/// The contents of `registries.toml`.
///
/// ```toml
/// default = "registry.example:5000"   # where names without registry are pulled from
/// [registry."localhost:5000"]
/// plain_http = true
/// [registry."registry.example:5000"]
/// authority = "/etc/ssl/our-ca.pem"
/// ```
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    default: Option<Registry>,
    #[serde(default)]
    registry: BTreeMap<Registry, One>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    #[serde(default)]
    plain_http: bool,
    authority: Option<PathBuf>,
}

/// An image's place at a registry.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) registry: Registry,
    /// As in the API's paths.
    pub(super) repository: String,
}

impl Registries {
    /// Reads the file; nothing is set when there is none.
    ///
    /// # Errors
    /// [`ClientError::Settings`], with the place in the file.
    pub fn read(path: &Path) -> Result<Self, ClientError> {
        let fail = |why: String| ClientError::Settings { path: path.to_owned(), why };
        let read = || -> io::Result<String> {
            if fs::metadata(path)?.len() > LARGEST {
                return Err(io::Error::other("it has more than 1 MiB"));
            }
            fs::read_to_string(path)
        };
        match read() {
            Ok(text) => toml::from_str(&text).map_err(|error| fail(error.to_string().trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    /// The registry for names without one.
    pub fn default_registry(&self) -> Option<&Registry> {
        self.default.as_ref()
    }
}

impl Settings {
    /// Where an image is.
    ///
    /// # Errors
    /// [`ClientError::NoRegistry`].
    pub(super) fn place(&self, name: &ImageName) -> Result<Place, ClientError> {
        let registry = name.registry.as_ref().or(self.registries.default.as_ref());
        let registry = registry.ok_or_else(|| ClientError::NoRegistry { name: name.to_string() })?;
        let mut repository = name.repository.to_string();
        if registry.as_str() == DOCKER.0 && !repository.contains('/') {
            repository.insert_str(0, "library/");
        }
        Ok(Place { registry: registry.clone(), repository })
    }

    /// The root of a registry's API, and its own authority.
    pub(super) fn base(&self, registry: &Registry) -> Result<(Url, Option<PathBuf>), ClientError> {
        let one = self.registries.registry.get(registry);
        let plain = self.plain_http || one.is_some_and(|one| one.plain_http);
        let host = if registry.as_str() == DOCKER.0 { DOCKER.1 } else { registry.as_str() };
        let scheme = if plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/")).map_err(|error| ClientError::Process {
            doing: "make an address of the registry's name",
            why: format!("`{registry}`: {error}"),
        })?;
        Ok((base, one.and_then(|one| one.authority.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let registries = Registries::read(file.path()).map_err(|error| error.to_string())?;
        Ok(Settings { registries, ..Settings::default() })
    }

    #[test]
    fn places() {
        let text = "default = 'r.example:5000'\n[registry.'localhost:5000']\nplain_http = true\n\
                    [registry.'r.example:5000']\nauthority = '/ca.pem'";
        let settings = settings(text).unwrap();
        for (name, base, repository) in [
            ("debian", "https://r.example:5000/", "debian"),
            ("localhost:5000/a/b:1", "http://localhost:5000/", "a/b"),
            ("docker.io/debian:trixie", "https://registry-1.docker.io/", "library/debian"),
            ("docker.io/me/x", "https://registry-1.docker.io/", "me/x"),
            ("127.0.0.1:5000/x", "https://127.0.0.1:5000/", "x"),
        ] {
            let place = settings.place(&name.parse().unwrap()).unwrap();
            let (found, authority) = settings.base(&place.registry).unwrap();
            assert_eq!(authority.is_some(), place.registry.as_str() == "r.example:5000");
            assert_eq!((found.as_str(), place.repository.as_str()), (base, repository), "{name}");
        }
        let error = Settings::default().place(&"debian".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("`debian`"), "{error}");
    }

    #[test]
    fn a_wrong_file_is_told_with_the_place() {
        for text in ["defualt = 'x'", "[registry.'a b']", "[registry.'r.example']\nplain = 1", "default = 7"] {
            let error = settings(text).unwrap_err();
            assert!(error.contains("line 1") || error.contains("line 2"), "{error}");
        }
        assert!(Registries::read(Path::new("/no/such/file")).unwrap().default.is_none());
    }
}
