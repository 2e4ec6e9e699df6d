//! Manifests and indexes, read strictly.

use super::{Store, StoreError, image::digest_in, links::Links};
use crate::media;
use model::image::Digest;
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os, Platform};
use serde::{Deserialize, de::DeserializeOwned};

/// The largest manifest, index or configuration that is read: 4 MiB, as registries agree on.
pub const MANIFEST_LIMIT: u64 = 4 << 20;

/// A manifest of either kind, OCI or Docker schema 2.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, matched at once")]
pub enum Manifest {
    /// Of one image or artifact.
    Image(ImageManifest),
    /// Of several manifests.
    Index(ImageIndex),
}

impl Manifest {
    /// Parses a document.
    ///
    /// # Errors
    /// [`StoreError::Document`]: it is neither, or contradicts itself.
    pub fn parse(digest: &Digest, bytes: &[u8]) -> Result<Self, StoreError> {
        /// What tells the kinds apart when `mediaType` is absent, as the OCI specification allows.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            schema_version: u32,
            media_type: Option<String>,
            config: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let fail = |problem: String| StoreError::Document { kind: "manifest", digest: digest.clone(), problem };
        let head: Head = document("manifest", digest, bytes)?;
        if head.schema_version != 2 {
            return Err(fail(format!("schemaVersion is {}, only 2 is supported", head.schema_version)));
        }
        // A document that is both could be one thing to us and another to somebody else (CVE-2021-41190).
        let index = head.manifests.is_some();
        if index && (head.config.is_some() || head.layers.is_some()) {
            return Err(fail("it has both `manifests` and `config` or `layers`".to_owned()));
        }
        match head.media_type.as_deref() {
            Some(media_type) if media::is_index(media_type) && index => {}
            Some(media_type) if media::is_manifest(media_type) && !index => {}
            None => {}
            Some(other) => {
                return Err(fail(format!("its media type `{other}` does not fit its content or is not known")));
            }
        }
        Ok(match index {
            true => Self::Index(document("index", digest, bytes)?),
            false => Self::Image(document("manifest", digest, bytes)?),
        })
    }

    /// The media type it has, said or meant.
    pub fn media_type(&self) -> MediaType {
        match self {
            Self::Image(manifest) => manifest.media_type().clone().unwrap_or(MediaType::ImageManifest),
            Self::Index(index) => index.media_type().clone().unwrap_or(MediaType::ImageIndex),
        }
    }
}

impl Store {
    /// The manifest or index of this digest.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::TooLarge`], [`StoreError::Document`].
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, StoreError> {
        Manifest::parse(digest, &self.need(digest)?.read(MANIFEST_LIMIT)?)
    }

    /// The configuration of an image.
    pub fn configuration(&self, manifest: &ImageManifest) -> Result<ImageConfiguration, StoreError> {
        let digest = digest_in(manifest.config())?;
        let bytes = self.need(&digest)?.read(MANIFEST_LIMIT)?;
        document("configuration", &digest, &bytes)
    }

    /// The image that `target` means on `platform`: of an index, the manifest that fits best.
    ///
    /// # Errors
    /// [`StoreError::NoPlatform`] when none fits; [`StoreError::Missing`] when it was not pulled.
    pub fn resolve(
        &self,
        target: &Descriptor,
        platform: &Platform,
    ) -> Result<(Digest, ImageManifest, ImageConfiguration), StoreError> {
        let mut digest = digest_in(target)?;
        // An index may list indexes; nobody nests them deeply.
        for _ in 0..4 {
            let index = match self.manifest(&digest)? {
                Manifest::Image(manifest) => {
                    let configuration = self.configuration(&manifest)?;
                    return Ok((digest, manifest, configuration));
                }
                Manifest::Index(index) => index,
            };
            let Some(chosen) = choose(index.manifests(), platform) else {
                let offered = index.manifests().iter().filter_map(|manifest| manifest.platform().as_ref()).map(show);
                let offered = offered.collect::<Vec<_>>().join(", ");
                let offered = if offered.is_empty() { "none that names a platform".to_owned() } else { offered };
                return Err(StoreError::NoPlatform { digest, wanted: show(platform), offered });
            };
            digest = digest_in(chosen)?;
        }
        Err(StoreError::Document { kind: "index", digest, problem: "indexes are nested too deeply".to_owned() })
    }
}

/// The platform of this machine.
pub fn host_platform() -> Platform {
    let mut platform = Platform::default();
    platform.set_os(Os::default());
    platform.set_architecture(Arch::default());
    platform
}

/// The manifest of an index that fits a platform: same system and architecture; a variant that is asked for must be
/// offered or unsaid. The first in the index wins among equals.
pub fn choose<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Option<&'a Descriptor> {
    let fits = |found: &&Descriptor| {
        let Some(found) = found.platform() else { return false };
        found.os() == wanted.os()
            && found.architecture() == wanted.architecture()
            && (variant(found) == variant(wanted) || wanted.variant().is_none() || found.variant().is_none())
    };
    let exact = |found: &&Descriptor| found.platform().as_ref().is_some_and(|found| variant(found) == variant(wanted));
    let candidates = || manifests.iter().filter(fits);
    candidates().find(exact).or_else(|| candidates().next()).or_else(|| match manifests {
        // An index of one manifest that does not say what it is for.
        [only] if only.platform().is_none() => Some(only),
        _ => None,
    })
}

/// The variant, said or meant: `arm64` is `arm64/v8`.
fn variant(platform: &Platform) -> Option<&str> {
    match platform.variant().as_deref() {
        None if *platform.architecture() == Arch::ARM64 => Some("v8"),
        other => other,
    }
}

/// `os/architecture[/variant]`.
pub fn show(platform: &Platform) -> String {
    let variant = platform.variant().as_deref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", platform.os(), platform.architecture())
}

fn document<T: DeserializeOwned>(kind: &'static str, digest: &Digest, bytes: &[u8]) -> Result<T, StoreError> {
    let problem = |problem: String| StoreError::Document { kind, digest: digest.clone(), problem };
    // The parser would take an array for an object whose fields come in order.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| *b != b'{') {
        return Err(problem("it is not a JSON object".to_owned()));
    }
    let document = serde_json::from_slice(bytes).map_err(|error| problem(error.to_string()))?;
    match Links::read(bytes) {
        (_, None) => Ok(document),
        // The collector could not tell what of it is needed.
        (_, Some(unreadable)) => Err(unreadable.of(kind, digest)),
    }
}
