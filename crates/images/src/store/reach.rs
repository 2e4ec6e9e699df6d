//! What content refers to.

use super::{Blob, MANIFEST_LIMIT, Store, StoreError, at};
use model::image::Digest;
use rusqlite::Transaction;
use serde::Deserialize;
use std::{collections::HashSet, io::Read};

/// All that an image is made of.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Blobs that must be there.
    pub required: Vec<Digest>,
    /// Blobs that may be: manifests of other platforms.
    pub optional: Vec<Digest>,
    /// Layers that may be unpacked.
    pub diff_ids: Vec<Digest>,
}

/// What a document refers to, read without regard to its media type: a collector that takes too much for a manifest
/// keeps too much, one that takes too little loses content.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// Configuration, layers, blobs of an artifact.
    pub parts: Vec<Digest>,
    /// Manifests of an index.
    pub manifests: Vec<Digest>,
    /// Diff ids of a configuration.
    pub diff_ids: Vec<Digest>,
}

impl Links {
    /// Every one, in no particular order.
    pub fn into_all(self) -> impl Iterator<Item = Digest> {
        self.parts.into_iter().chain(self.manifests).chain(self.diff_ids)
    }

    /// Reads a document; content that is none refers to nothing.
    pub fn parse(bytes: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Reference {
            digest: Digest,
        }
        #[derive(Deserialize, Default)]
        struct RootFs {
            #[serde(default)]
            diff_ids: serde_json::Value,
        }
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            config: serde_json::Value,
            #[serde(default)]
            layers: serde_json::Value,
            #[serde(default)]
            blobs: serde_json::Value,
            #[serde(default)]
            manifests: serde_json::Value,
            #[serde(default)]
            rootfs: Option<RootFs>,
        }
        // Each element by itself: one with a digest that we do not support must not hide the others.
        fn each<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Vec<T> {
            let values = match value {
                serde_json::Value::Array(values) => values,
                serde_json::Value::Null => Vec::new(),
                single => vec![single],
            };
            values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect()
        }
        let digests = |value| each::<Reference>(value).into_iter().map(|reference| reference.digest);
        let Ok(document) = serde_json::from_slice::<Document>(bytes) else { return Self::default() };
        Self {
            parts: digests(document.config).chain(digests(document.layers)).chain(digests(document.blobs)).collect(),
            manifests: digests(document.manifests).collect(),
            diff_ids: document.rootfs.map(|rootfs| each(rootfs.diff_ids)).unwrap_or_default(),
        }
    }
}

impl Store {
    /// What this blob refers to. Content that can not be a document is not read.
    pub(crate) fn links_of(&self, blob: &Blob) -> Result<Links, StoreError> {
        if blob.size > MANIFEST_LIMIT {
            return Ok(Links::default());
        }
        let mut file = blob.open()?;
        let mut head = [0u8; 64];
        let got = file.read(&mut head).map_err(at("read", &blob.path))?;
        if head[..got].iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| *b != b'{') {
            return Ok(Links::default());
        }
        let mut bytes = head[..got].to_vec();
        file.take(MANIFEST_LIMIT).read_to_end(&mut bytes).map_err(at("read", &blob.path))?;
        Ok(Links::parse(&bytes))
    }

    /// All that is reachable from this manifest or index.
    pub(crate) fn reach(&self, digest: &Digest) -> Result<Reach, StoreError> {
        let mut reach = Reach::default();
        let mut seen = HashSet::from([digest.clone()]);
        let mut queue = vec![(digest.clone(), true)];
        while let Some((digest, required)) = queue.pop() {
            let blob = self.blob(&digest)?;
            if required {
                reach.required.push(digest.clone())
            } else {
                reach.optional.push(digest.clone())
            };
            let Some(blob) = blob else {
                if required {
                    return Err(StoreError::Incomplete { subject: "the image".to_owned(), missing: digest });
                }
                continue;
            };
            let links = self.links_of(&blob)?;
            let parts = links.parts.into_iter().map(|part| (part, true));
            for (child, required) in parts.chain(links.manifests.into_iter().map(|manifest| (manifest, false))) {
                if seen.insert(child.clone()) {
                    queue.push((child, required));
                }
            }
            reach.diff_ids.extend(links.diff_ids);
        }
        Ok(reach)
    }

    /// Within a transaction: marks all of it as used just now.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] when a required blob is not there.
    pub(crate) fn touch_reach(
        &self,
        transaction: &Transaction<'_>,
        subject: &str,
        reach: &Reach,
    ) -> Result<(), StoreError> {
        for digest in &reach.required {
            if self.touch(transaction, digest)?.is_none() {
                return Err(StoreError::Incomplete { subject: subject.to_owned(), missing: digest.clone() });
            }
        }
        for digest in &reach.optional {
            self.touch(transaction, digest)?;
        }
        for diff_id in &reach.diff_ids {
            self.touch_layer(transaction, diff_id)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digest_of;
    use model::image::Algorithm;

    #[test]
    fn every_kind_of_document_gives_its_references() {
        let [a, b, c] = ["a", "b", "c"].map(|text| digest_of(Algorithm::Sha256, text.as_bytes()));
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{a}"}},"layers":[{{"digest":"{b}"}},{{"digest":"blake3:00"}},{{"digest":"{c}"}}]}}"#
        );
        assert_eq!(Links::parse(manifest.as_bytes()).parts, [a.clone(), b.clone(), c.clone()]);
        let index = format!(r#"{{"manifests":[{{"digest":"{a}"}}]}}"#);
        assert_eq!(Links::parse(index.as_bytes()).manifests, [a]);
        let config = format!(r#"{{"config":{{"Cmd":["x"]}},"rootfs":{{"type":"layers","diff_ids":["{b}",7]}}}}"#);
        assert_eq!(Links::parse(config.as_bytes()), Links { diff_ids: vec![b], ..Links::default() });
        for text in ["", "{", "[]", "null", r#"{"layers":{"a":[1]},"rootfs":null}"#] {
            assert_eq!(Links::parse(text.as_bytes()), Links::default(), "{text}");
        }
    }
}
