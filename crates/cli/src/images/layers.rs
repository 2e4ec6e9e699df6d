//! Layers of images as directories.

use crate::failure::{Code, Failure, Result};
use images::{Lease, Manifest, Progress, Store, StoreError, media, store::digest_in};
use oci_spec::image::{Descriptor, ImageConfiguration, Platform};
use std::path::PathBuf;

/// The layers of an image for a platform as directories, bottom first and held by the lease, and the image's
/// configuration.
///
/// # Errors
/// It is not here, not an image, or its layers can not be unpacked.
pub fn unpack(
    store: &Store,
    lease: &Lease,
    target: &Descriptor,
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<(Vec<PathBuf>, ImageConfiguration)> {
    let (digest, manifest, configuration) =
        store.resolve(target, platform).map_err(|error| Failure::from_store(&error))?;
    let kind = manifest.config().media_type().to_string();
    if !media::is_config(&kind) {
        let what =
            format!("{} is not an image of a file system: its configuration is of the kind {kind}", digest.short());
        return Err(Failure::new(Code::USAGE, what));
    }
    let all = store.unpack(lease, &manifest, &configuration, progress).map_err(|error| Failure::from_unpack(&error))?;
    let mut layers: Vec<PathBuf> = Vec::with_capacity(all.len());
    for layer in all {
        // What a layer has hides the same further down: only its last place counts, and a directory can be in an overlay
        // only once.
        layers.retain(|other| *other != layer);
        layers.push(layer);
    }
    if layers.is_empty() {
        return Err(Failure::new(
            Code::USAGE,
            format!("{} has no layers: there is nothing in it to run", digest.short()),
        ));
    }
    Ok((layers, configuration))
}

/// As [`unpack`], where something else than an image of a file system needs no unpacking.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_if_image(
    store: &Store,
    lease: &Lease,
    target: &Descriptor,
    platform: &Platform,
    progress: &dyn Progress,
) -> Result<()> {
    let fail = |error: StoreError| Failure::from_store(&error);
    let digest = digest_in(target).map_err(fail)?;
    if let Manifest::Image(manifest) = store.manifest(&digest).map_err(fail)? {
        let kind = manifest.config().media_type().to_string();
        if !media::is_config(&kind) || !manifest.layers().iter().all(|one| media::is_layer(one.media_type().as_ref())) {
            return Ok(());
        }
    }
    unpack(store, lease, target, platform, progress).map(drop)
}
