//! Media types of manifests, configurations and layers, OCI and Docker schema 2.

use oci_spec::image::MediaType;

/// An image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer, gzip in spite of its name's silence about zstd.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Whether content of this type is an image manifest.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Whether content of this type is an index of manifests.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// Whether content of this type is an image configuration (as opposed to an artifact's).
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Whether content of this type is a layer of a file system.
pub fn is_layer(media_type: &str) -> bool {
    const KNOWN: [&str; 4] = [
        "application/vnd.oci.image.layer.",
        "application/vnd.docker.image.rootfs.diff.",
        "application/vnd.docker.image.rootfs.foreign.diff.",
        "application/vnd.docker.container.image.rootfs.diff",
    ];
    KNOWN.iter().any(|known| media_type.starts_with(known))
}

/// Whether content of this type may not be uploaded to a registry.
pub fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".rootfs.foreign.")
}

/// The type as the library names it.
pub fn named(media_type: &str) -> MediaType {
    MediaType::from(media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families() {
        assert!(is_manifest(OCI_MANIFEST) && is_manifest(DOCKER_MANIFEST) && !is_manifest(OCI_INDEX));
        assert!(is_index(OCI_INDEX) && is_index(DOCKER_INDEX) && !is_index(OCI_CONFIG));
        assert!([OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER].into_iter().all(is_layer));
        assert!(is_foreign("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip") && !is_foreign(DOCKER_LAYER));
        assert!(!is_layer("application/vnd.oci.empty.v1+json"));
    }
}
