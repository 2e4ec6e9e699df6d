//! What content refers to.

use super::{
    Blob, MANIFEST_LIMIT, Store, StoreError, at,
    links::{Links, Problem},
};
use model::image::Digest;
use rusqlite::Transaction;
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

impl Store {
    /// What this blob refers to, and what of it could not be read. Content that can not be a document is not read, unless
    /// it must be one.
    pub(crate) fn links_of(&self, blob: &Blob, must: bool) -> Result<(Links, Option<Problem>), StoreError> {
        if blob.size > MANIFEST_LIMIT {
            let problem = format!("it has {} bytes, more than {MANIFEST_LIMIT}", blob.size);
            return Ok((Links::default(), must.then_some(Problem::NotJson(problem))));
        }
        let mut file = blob.open()?;
        let mut head = [0u8; 64];
        let got = file.read(&mut head).map_err(at("read", &blob.path))?;
        let first = head[..got].iter().find(|b| !b.is_ascii_whitespace());
        if !must && first.is_some_and(|b| *b != b'{') {
            return Ok((Links::default(), None));
        }
        let mut bytes = head[..got].to_vec();
        file.take(MANIFEST_LIMIT).read_to_end(&mut bytes).map_err(at("read", &blob.path))?;
        Ok(Links::read(&bytes))
    }

    /// All that is reachable from this manifest or index.
    ///
    /// # Errors
    /// [`StoreError::Document`] when it, or a manifest in an index, can not be read in full: what it refers to could not be
    /// kept.
    pub(crate) fn reach(&self, digest: &Digest) -> Result<Reach, StoreError> {
        let mut reach = Reach::default();
        let mut seen = HashSet::from([digest.clone()]);
        // With: whether it must be there, and whether it must be a manifest.
        let mut queue = vec![(digest.clone(), true, true)];
        while let Some((digest, required, manifest)) = queue.pop() {
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
            let (links, problem) = self.links_of(&blob, manifest)?;
            if let (true, Some(problem)) = (manifest, problem) {
                return Err(problem.of("manifest", &digest));
            }
            let parts = links.parts.into_iter().map(|part| (part, true, false));
            let manifests = links.manifests.into_iter().map(|manifest| (manifest, false, true));
            for (child, required, manifest) in parts.chain(manifests) {
                if seen.insert(child.clone()) {
                    queue.push((child, required, manifest));
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
