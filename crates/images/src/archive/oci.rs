//! OCI image layouts.

use super::{
    ArchiveError, Imported,
    bag::{Bag, is_missing},
};
use crate::{
    media,
    store::{Manifest, digest_in},
};
use model::image::{Digest, ImageName};
use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// The name of an image in the annotations of `index.json`: full, or a tag alone.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name, as containerd and Docker write it beside the tag.
pub(super) const FULL_NAME: &str = "io.containerd.image.name";

/// Takes in all images that `index.json` lists.
pub(super) fn images(bag: &Bag<'_>, given: Option<&ImageName>) -> Result<Vec<Imported>, ArchiveError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let layout: Layout = bag.document("oci-layout", "index.json")?;
    if layout.image_layout_version.split('.').next() != Some("1") {
        let problem = format!("layout version {} is not supported, only 1 is", layout.image_layout_version);
        return Err(ArchiveError::Document { path: "oci-layout".to_owned(), problem });
    }
    let index: ImageIndex = bag.document("index.json", "oci-layout")?;
    let mut images: Vec<Imported> = Vec::new();
    let mut known = Known::default();
    for target in index.manifests() {
        known.left = MOST_MANIFESTS;
        take_in(bag, target, "index.json", 0, &mut known)?;
        let name = name_of(target, given)?;
        match images.iter_mut().find(|image| image.target.digest() == target.digest()) {
            Some(known) => known.names.extend(name),
            None => images.push(Imported { names: name.into_iter().collect(), target: bare(target) }),
        }
    }
    Ok(images)
}

/// Without what `index.json` adds for itself.
fn bare(target: &Descriptor) -> Descriptor {
    let mut target = target.clone();
    target.set_annotations(None);
    target
}

fn name_of(target: &Descriptor, given: Option<&ImageName>) -> Result<Option<ImageName>, ArchiveError> {
    let annotation = |key| target.annotations().as_ref().and_then(|annotations| annotations.get(key));
    let wrong = |source| ArchiveError::Name { source };
    if let Some(full) = annotation(FULL_NAME) {
        return Ok(Some(full.parse::<ImageName>().map_err(wrong)?.normalised()));
    }
    let Some(name) = annotation(REF_NAME) else { return Ok(None) };
    if name.contains(['/', ':', '@']) {
        return Ok(Some(name.parse::<ImageName>().map_err(wrong)?.normalised()));
    }
    // A tag alone: of the name that was given, if one was.
    let Some(given) = given else { return Ok(None) };
    Ok(Some(ImageName { tag: Some(name.parse().map_err(wrong)?), digest: None, ..given.clone() }))
}

/// Manifests that one entry of `index.json` may lead to; images have a dozen or two.
const MOST_MANIFESTS: usize = 256;

/// What has been taken in: each once, however often it is listed.
#[derive(Default)]
struct Known {
    manifests: HashSet<Digest>,
    /// With their sizes, which each descriptor must say.
    blobs: HashMap<Digest, u64>,
    left: usize,
}

fn take_in(
    bag: &Bag<'_>,
    descriptor: &Descriptor,
    referrer: &str,
    depth: usize,
    known: &mut Known,
) -> Result<(), ArchiveError> {
    let digest = digest_in(descriptor)?;
    let path = path_of(&digest);
    let problem = |problem: String| ArchiveError::Document { path: path.clone(), problem };
    let media_type = descriptor.media_type().to_string();
    if !media::is_manifest(&media_type) && !media::is_index(&media_type) {
        return Err(problem(format!(
            "`{referrer}` says that it is of type `{media_type}`, which is neither manifest nor index"
        )));
    }
    if depth > 4 {
        return Err(problem("indexes are nested too deeply".to_owned()));
    }
    let size = size_of(bag, &digest, referrer, known)?;
    check_size(descriptor, size, &path)?;
    if known.manifests.contains(&digest) {
        return Ok(());
    }
    known.left =
        known.left.checked_sub(1).ok_or_else(|| problem("its index leads to too many manifests".to_owned()))?;
    let blob = bag.blob(&path, referrer, Some(&digest))?;
    match Manifest::parse(&digest, &blob.read(crate::store::MANIFEST_LIMIT)?)? {
        Manifest::Index(index) => {
            for below in index.manifests() {
                match take_in(bag, below, &path, depth + 1, known) {
                    // An index may list platforms that the archive was made without.
                    Err(error) if is_missing(&error) && !bag.has(&path_of(&digest_in(below)?)) => {}
                    other => other?,
                }
            }
        }
        Manifest::Image(manifest) => {
            for part in std::iter::once(manifest.config()).chain(manifest.layers()) {
                let part_digest = digest_in(part)?;
                let size = size_of(bag, &part_digest, &path, known)?;
                check_size(part, size, &path_of(&part_digest))?;
            }
        }
    }
    // Not before all below is there: a manifest that may be absent here may be needed elsewhere.
    known.manifests.insert(digest);
    Ok(())
}

/// Takes a blob in, once, and gives its size.
fn size_of(bag: &Bag<'_>, digest: &Digest, referrer: &str, known: &mut Known) -> Result<u64, ArchiveError> {
    if let Some(size) = known.blobs.get(digest) {
        return Ok(*size);
    }
    let size = bag.blob(&path_of(digest), referrer, Some(digest))?.size;
    known.blobs.insert(digest.clone(), size);
    Ok(size)
}

fn check_size(descriptor: &Descriptor, found: u64, path: &str) -> Result<(), ArchiveError> {
    if descriptor.size() == found {
        return Ok(());
    }
    let problem = format!("it has {found} bytes, its descriptor says {}", descriptor.size());
    Err(ArchiveError::Document { path: path.to_owned(), problem })
}

pub(super) fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}
