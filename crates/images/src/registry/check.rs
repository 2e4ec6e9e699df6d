//! What a manifest must be to be taken in.

use super::problem::{Code, Problem, Result};
use crate::media;
use model::image::Digest;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

/// A manifest that is well-formed; whether what it refers to is there is another question.
#[derive(Debug)]
pub(super) struct Checked {
    /// What it is served as.
    pub media_type: String,
    /// Blobs and manifests that it is made of.
    pub references: Vec<Reference>,
    /// The manifest that it is about.
    pub subject: Option<Digest>,
    /// What kind of artifact it is, as the list of referrers says it.
    pub artifact_type: Option<String>,
    annotations: Option<serde_json::Value>,
}

/// What a manifest is made of.
#[derive(Debug)]
pub(super) struct Reference {
    pub digest: Digest,
    pub size: u64,
    /// A manifest, not a blob.
    pub is_manifest: bool,
    /// It may be absent: content that may not be distributed.
    pub is_foreign: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<i64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: i64,
}

/// Checks a manifest that was sent with this `Content-Type`.
///
/// # Errors
/// `MANIFEST_INVALID`.
pub(super) fn check(bytes: &[u8], content_type: Option<&str>) -> Result<Checked> {
    let invalid = |problem: String| Problem::new(Code::ManifestInvalid, format!("manifest is refused: {problem}"));
    let document: Document = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if document.schema_version != Some(2) {
        return Err(invalid("schemaVersion must be 2".to_owned()));
    }
    // A document that is both could be one thing to us and another to somebody else (CVE-2021-41190).
    let index = document.manifests.is_some();
    if index && (document.layers.is_some() || document.config.is_some()) {
        return Err(invalid("it has both `manifests` and `config` or `layers`".to_owned()));
    }
    if !index && document.config.is_none() {
        return Err(invalid("it has neither `config` nor `manifests`".to_owned()));
    }
    let sent =
        content_type.map(|text| text.split(';').next().unwrap_or_default().trim()).filter(|text| !text.is_empty());
    let said = document.media_type.as_deref().filter(|text| !text.is_empty());
    if let (Some(sent), Some(said)) = (sent, said)
        && sent != said
    {
        return Err(invalid(format!("it was sent as `{sent}`, but says it is `{said}`")));
    }
    let meant = if index { media::OCI_INDEX } else { media::OCI_MANIFEST };
    let media_type = sent.or(said).unwrap_or(meant);
    if !(if index { media::is_index(media_type) } else { media::is_manifest(media_type) }) {
        let kind = if index { "an index" } else { "a manifest" };
        return Err(invalid(format!(
            "`{media_type}` is not a supported type of {kind}: expected {meant} or Docker's schema 2"
        )));
    }
    let config_type = document.config.as_ref().map(|config| config.media_type.clone());
    let mut references = Vec::new();
    let parts = document.config.into_iter().chain(document.layers.into_iter().flatten());
    let children = document.manifests.into_iter().flatten();
    for (descriptor, is_manifest) in parts.map(|part| (part, false)).chain(children.map(|child| (child, true))) {
        let (digest, size) = descriptor.content()?;
        let is_foreign = !is_manifest && media::is_foreign(&descriptor.media_type);
        references.push(Reference { digest, size, is_manifest, is_foreign });
    }
    let subject = document.subject.map(|subject| subject.content()).transpose()?.map(|(digest, _)| digest);
    // "If the artifactType is empty or missing in the image manifest, the value MUST be that of config.mediaType."
    let artifact_type = document.artifact_type.filter(|text| !text.is_empty());
    let artifact_type = artifact_type.or_else(|| config_type.filter(|text| !text.is_empty()));
    let annotations = document.annotations.filter(|annotations| !annotations.is_empty()).map(|found| json!(found));
    Ok(Checked { media_type: media_type.to_owned(), references, subject, artifact_type, annotations })
}

impl Descriptor {
    fn content(&self) -> Result<(Digest, u64)> {
        let digest = super::route::digest(&self.digest)?;
        let size = u64::try_from(self.size).map_err(|_| {
            let problem = format!("manifest is refused: size of {digest} is {}: expected 0 or more", self.size);
            Problem::new(Code::ManifestInvalid, problem)
        })?;
        Ok((digest, size))
    }
}

impl Checked {
    /// The entry in the list of referrers.
    pub fn descriptor(&self, digest: &Digest, size: u64) -> String {
        let mut entry = json!({ "mediaType": self.media_type, "digest": digest.as_str(), "size": size });
        if let Some(artifact_type) = &self.artifact_type {
            entry["artifactType"] = json!(artifact_type);
        }
        if let Some(annotations) = &self.annotations {
            entry["annotations"] = annotations.clone();
        }
        entry.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn image() -> serde_json::Value {
        json!({
            "schemaVersion": 2,
            "config": { "mediaType": "application/vnd.example", "digest": D, "size": 0 },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "digest": D, "size": 7 }],
        })
    }

    fn checked(document: &serde_json::Value, content_type: Option<&str>) -> Result<Checked> {
        check(document.to_string().as_bytes(), content_type)
    }

    #[test]
    fn images() {
        let good = checked(&image(), Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")).unwrap();
        assert_eq!(good.media_type, media::OCI_MANIFEST);
        assert_eq!(good.artifact_type.as_deref(), Some("application/vnd.example"));
        assert_eq!(good.references.iter().map(|part| part.is_foreign).collect::<Vec<_>>(), [false, true]);
        assert_eq!(checked(&image(), None).unwrap().media_type, media::OCI_MANIFEST);
        assert_eq!(checked(&image(), Some(media::DOCKER_MANIFEST)).unwrap().media_type, media::DOCKER_MANIFEST);
    }

    #[test]
    fn referrers_are_described() {
        let mut document = image();
        document["subject"] = json!({ "mediaType": media::OCI_MANIFEST, "digest": D, "size": 1 });
        document["artifactType"] = json!("application/sbom");
        document["annotations"] = json!({ "a": "b" });
        let good = checked(&document, None).unwrap();
        let digest: Digest = D.parse().unwrap();
        assert_eq!(good.subject.as_ref(), Some(&digest));
        let entry: serde_json::Value = serde_json::from_str(&good.descriptor(&digest, 9)).unwrap();
        let expected = json!({
            "mediaType": media::OCI_MANIFEST, "digest": D, "size": 9, "artifactType": "application/sbom",
            "annotations": { "a": "b" },
        });
        assert_eq!(entry, expected);
    }

    #[test]
    fn what_is_refused() {
        let index = json!({ "schemaVersion": 2, "manifests": [] });
        assert_eq!(checked(&index, None).unwrap().media_type, media::OCI_INDEX);
        let both = json!({ "schemaVersion": 2, "manifests": [], "layers": [] });
        let neither = json!({ "schemaVersion": 2 });
        let old = json!({ "schemaVersion": 1, "fsLayers": [], "history": [] });
        let mut negative = image();
        negative["config"]["size"] = json!(-1);
        for (document, content_type) in [
            (&both, None),
            (&neither, None),
            (&old, Some("application/vnd.docker.distribution.manifest.v1+prettyjws")),
            (&negative, None),
            (&index, Some(media::OCI_MANIFEST)),
            (&image(), Some(media::OCI_INDEX)),
            (&image(), Some("application/json")),
        ] {
            assert_eq!(checked(document, content_type).unwrap_err().code, Code::ManifestInvalid, "{document}");
        }
        let mut says = image();
        says["mediaType"] = json!(media::OCI_MANIFEST);
        assert!(checked(&says, Some(media::DOCKER_MANIFEST)).is_err());
        let mut wrong = image();
        wrong["config"]["digest"] = json!("sha256:12");
        assert_eq!(checked(&wrong, None).unwrap_err().code, Code::DigestInvalid);
        assert_eq!(check(b"", None).unwrap_err().code, Code::ManifestInvalid);
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, text in r#"\{("schemaVersion":2,?)?("(config|manifests|layers|subject)":[\[\]{}0-9a-z":,]{0,20})*\}"#) {
            drop(check(&bytes, None));
            drop(check(text.as_bytes(), Some("x")));
        }
    }
}
