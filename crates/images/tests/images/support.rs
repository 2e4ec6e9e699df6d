//! Images made up for tests.

use images::{
    Lease, Owner, Store,
    store::{Blob, describe},
    tarball::{Entry, Kind, Writer},
};
use model::image::{Algorithm, ImageName};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use std::{io::Write, path::Path};

pub fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("images")).unwrap();
    (folder, store)
}

pub fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

pub fn file(path: &str, data: &[u8]) -> (Entry, Vec<u8>) {
    let mut entry = Entry::new(path, Kind::File);
    entry.mode = 0o644;
    entry.size = data.len() as u64;
    (entry, data.to_vec())
}

pub fn other(path: &str, kind: Kind, link: &str) -> (Entry, Vec<u8>) {
    let mut entry = Entry::new(path, kind);
    entry.mode = 0o755;
    entry.link = link.into();
    (entry, Vec::new())
}

pub fn tar(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        writer.entry(entry).unwrap();
        writer.data(data).unwrap();
    }
    writer.finish().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn put(lease: &Lease, bytes: &[u8]) -> Blob {
    let mut ingest = lease.store().ingest().unwrap();
    ingest.write_all(bytes).unwrap();
    ingest.commit_as(Algorithm::Sha256, lease).unwrap()
}

/// A layer: its bytes as stored, and the plain ones.
pub struct Layer {
    pub media_type: &'static str,
    pub stored: Vec<u8>,
    pub plain: Vec<u8>,
}

impl Layer {
    pub fn plain(plain: Vec<u8>) -> Self {
        Self { media_type: images::media::OCI_LAYER, stored: plain.clone(), plain }
    }
    pub fn gzip(plain: Vec<u8>) -> Self {
        Self { media_type: images::media::OCI_LAYER_GZIP, stored: gzip(&plain), plain }
    }
    pub fn zstd(plain: Vec<u8>) -> Self {
        let stored = zstd::encode_all(&plain[..], 1).unwrap();
        Self { media_type: images::media::OCI_LAYER_ZSTD, stored, plain }
    }
}

/// Puts an image into the store, without a name.
pub fn image(lease: &Lease, layers: &[Layer]) -> Descriptor {
    let diff_ids: Vec<String> =
        layers.iter().map(|layer| images::digest::digest_of(Algorithm::Sha256, &layer.plain).to_string()).collect();
    let stored: Vec<Descriptor> =
        layers.iter().map(|layer| describe(layer.media_type, &put(lease, &layer.stored)).unwrap()).collect();
    assemble(lease, &stored, &diff_ids)
}

pub fn assemble(lease: &Lease, layers: &[Descriptor], diff_ids: &[String]) -> Descriptor {
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put(lease, config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": images::media::OCI_MANIFEST,
        "config": describe(images::media::OCI_CONFIG, &config).unwrap(), "layers": layers,
    });
    describe(images::media::OCI_MANIFEST, &put(lease, manifest.to_string().as_bytes())).unwrap()
}

pub fn documents(store: &Store, target: &Descriptor) -> (ImageManifest, ImageConfiguration) {
    let (_, manifest, configuration) = store.resolve(target, &images::store::host_platform()).unwrap();
    (manifest, configuration)
}

/// Puts an image into the store and unpacks it.
pub fn unpack(store: &Store, layers: &[Layer]) -> Result<Vec<std::path::PathBuf>, images::layer::UnpackError> {
    let lease = store.lease(Owner::Process).unwrap();
    let target = image(&lease, layers);
    let (manifest, configuration) = documents(store, &target);
    store.unpack(&lease, &manifest, &configuration, &images::Silent)
}

/// Names in a folder, sorted.
pub fn list(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The whole chain of an error's causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
