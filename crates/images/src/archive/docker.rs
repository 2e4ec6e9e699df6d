//! Docker archives: `manifest.json`, configurations, and layers in archives of their own.

use super::{ArchiveError, Imported, bag::Bag, layer_type};
use crate::{
    layer::Encoding,
    media,
    store::{Blob, at, describe},
};
use model::image::ImageName;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifestBuilder, MediaType};
use serde::{Deserialize, Serialize};
use std::io::Read;

/// One image in `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    pub config: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    pub layers: Vec<String>,
}

pub(super) const MANIFEST: &str = "manifest.json";

/// Takes in all images that `manifest.json` lists. Each gets an OCI manifest; layers are kept as they are in the archive.
pub(super) fn images(bag: &Bag<'_>) -> Result<Vec<Imported>, ArchiveError> {
    let items: Vec<Item> = bag.document(MANIFEST, "the archive")?;
    items.into_iter().map(|item| image(bag, item)).collect()
}

fn image(bag: &Bag<'_>, item: Item) -> Result<Imported, ArchiveError> {
    let configuration: ImageConfiguration = bag.document(&item.config, MANIFEST)?;
    let config = bag.blob(&item.config, MANIFEST, None)?;
    let diff_ids = configuration.rootfs().diff_ids();
    if diff_ids.len() != item.layers.len() {
        let problem = format!("it has {} diff ids, `{MANIFEST}` {} layers", diff_ids.len(), item.layers.len());
        return Err(ArchiveError::Document { path: item.config, problem });
    }
    let mut layers = Vec::new();
    for (path, diff_id) in item.layers.iter().zip(diff_ids) {
        let blob = bag.blob(path, MANIFEST, None)?;
        let encoding = encoding(&blob)?;
        if encoding == Encoding::Plain && blob.digest.as_str() != diff_id {
            return Err(ArchiveError::Damaged { path: path.clone(), found: blob.digest });
        }
        layers.push(describe(layer_type(encoding), &blob)?);
    }
    let names = item.repo_tags.unwrap_or_default();
    let name = |text: &String| text.parse::<ImageName>().map(|name| name.normalised());
    let names = names.iter().map(name).collect::<Result<_, _>>().map_err(|source| ArchiveError::Name { source })?;
    Ok(Imported { names, target: manifest(bag, &config, layers)? })
}

/// How a blob is compressed.
pub(super) fn encoding(blob: &Blob) -> Result<Encoding, ArchiveError> {
    let mut head = Vec::new();
    blob.open()?.take(8).read_to_end(&mut head).map_err(at("read", &blob.path))?;
    Ok(Encoding::of(&head))
}

/// Makes an OCI manifest of parts that are in the store.
pub(super) fn manifest(bag: &Bag<'_>, config: &Blob, layers: Vec<Descriptor>) -> Result<Descriptor, ArchiveError> {
    let made = |error: String| ArchiveError::Document { path: MANIFEST.to_owned(), problem: error };
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(describe(media::OCI_CONFIG, config)?)
        .layers(layers)
        .build()
        .map_err(|error| made(error.to_string()))?;
    let bytes = serde_json::to_vec(&manifest).map_err(|error| made(error.to_string()))?;
    Ok(describe(media::OCI_MANIFEST, &bag.put(&bytes, MANIFEST, None)?)?)
}
