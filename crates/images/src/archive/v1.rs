//! Archives from before Docker 1.10: `repositories`, and for every layer a folder with `json` and `layer.tar`. The
//! configuration that later formats keep is made of the `json` of the topmost layer.

use super::{ArchiveError, Imported, bag::Bag, docker, layer_type};
use crate::store::{Blob, describe};
use crate::{digest::Hasher, layer};
use model::image::{Algorithm, Digest, ImageName};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, io, sync::atomic::AtomicU64};

const REPOSITORIES: &str = "repositories";
const MAX_LAYERS: usize = 1024;

/// Takes in all images that `repositories` names.
pub(super) fn images(bag: &Bag<'_>) -> Result<Vec<Imported>, ArchiveError> {
    let repositories: BTreeMap<String, BTreeMap<String, String>> = bag.document(REPOSITORIES, "the archive")?;
    let mut images = Vec::new();
    for (repository, tags) in repositories {
        for (tag, id) in tags {
            let name: ImageName =
                format!("{repository}:{tag}").parse().map_err(|source| ArchiveError::Name { source })?;
            images.push(Imported { names: vec![name], target: image(bag, &id)? });
        }
    }
    Ok(images)
}

#[derive(Deserialize)]
struct Image {
    parent: Option<String>,
    created: Option<Value>,
    author: Option<Value>,
    architecture: Option<String>,
    os: Option<String>,
    config: Option<Value>,
}

fn image(bag: &Bag<'_>, top: &str) -> Result<oci_spec::image::Descriptor, ArchiveError> {
    let mut chain: Vec<(String, Image)> = Vec::new();
    let mut next = Some(top.to_owned());
    while let Some(id) = next {
        let path = format!("{id}/json");
        let referrer = chain.last().map_or(REPOSITORIES.to_owned(), |(id, _)| format!("{id}/json"));
        if chain.len() >= MAX_LAYERS || chain.iter().any(|(known, _)| *known == id) {
            return Err(ArchiveError::Document {
                path,
                problem: "its parents go round in a circle or are too many".to_owned(),
            });
        }
        let image: Image = bag.document(&path, &referrer)?;
        next = image.parent.clone().filter(|parent| !parent.is_empty());
        chain.push((id, image));
    }
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for (id, _) in chain.iter().rev() {
        let blob = bag.blob(&format!("{id}/layer.tar"), &format!("{id}/json"), None)?;
        diff_ids.push(diff_id(&blob)?.to_string());
        layers.push(describe(layer_type(docker::encoding(&blob)?), &blob)?);
    }
    let image = &chain[0].1;
    let configuration = json!({
        "created": image.created, "author": image.author,
        "architecture": image.architecture.as_deref().unwrap_or("amd64"), "os": image.os.as_deref().unwrap_or("linux"),
        "config": image.config, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let path = format!("{top}/json");
    let problem = |error: serde_json::Error| ArchiveError::Document { path: path.clone(), problem: error.to_string() };
    // Whoever uses the image reads it as a configuration: better refused here.
    serde_json::from_value::<oci_spec::image::ImageConfiguration>(configuration.clone()).map_err(problem)?;
    let config = bag.put(configuration.to_string().as_bytes(), &path, None)?;
    docker::manifest(bag, &config, layers)
}

fn diff_id(blob: &Blob) -> Result<Digest, ArchiveError> {
    let counter = AtomicU64::new(0);
    let unreadable = |error: io::Error| super::io_error("decompress", &blob.path)(error);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let plain = layer::decoder(blob.open()?, &counter).map_err(unreadable)?;
    crate::digest::hash_all(&mut hasher, plain).map_err(unreadable)?;
    Ok(hasher.finish())
}
