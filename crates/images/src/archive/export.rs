//! Writing archives.

use super::{ArchiveError, docker, io_error, oci};
use crate::{
    digest::Hasher,
    layer,
    store::{Blob, Lease, Owner, Store, digest_in, host_platform},
    tarball::{Entry, Kind, Writer},
};
use model::image::{Digest, ImageName};
use oci_spec::image::{Descriptor, ImageIndexBuilder, MediaType, Platform};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    sync::atomic::AtomicU64,
};

/// Format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// An OCI image layout: digests stay as they are.
    #[default]
    Oci,
    /// What `docker load` of any version reads: layers are decompressed, and of an index only one platform is written.
    Docker,
}

/// Writes images into an archive.
///
/// # Errors
/// [`ArchiveError`]; what was written by then is not an archive.
pub fn export(
    store: &Store,
    images: &[(ImageName, Descriptor)],
    format: Format,
    platform: Option<&Platform>,
    sink: &mut dyn Write,
) -> Result<(), ArchiveError> {
    let lease = hold(store, images)?;
    let mut tar = Tar { writer: Writer::new(sink) };
    match format {
        Format::Oci => layout(&lease, images, &mut tar)?,
        Format::Docker => docker_archive(&lease, images, platform.unwrap_or(&host_platform()), &mut tar)?,
    }
    tar.writer.finish().map(drop).map_err(io_error("write", Path::new("the archive")))
}

/// Writes images as an OCI image layout into a folder that is made, or is empty.
pub fn export_folder(store: &Store, images: &[(ImageName, Descriptor)], folder: &Path) -> Result<(), ArchiveError> {
    let lease = hold(store, images)?;
    fs::create_dir_all(folder).map_err(io_error("make folder", folder))?;
    if fs::read_dir(folder).map_err(io_error("list", folder))?.next().is_some() {
        return Err(io_error("export into", folder)(io::ErrorKind::DirectoryNotEmpty.into()));
    }
    layout(&lease, images, &mut Folder(folder))
}

fn hold(store: &Store, images: &[(ImageName, Descriptor)]) -> Result<Lease, ArchiveError> {
    let lease = store.lease(Owner::Process)?;
    for (_, target) in images {
        lease.hold_all(&digest_in(target)?)?;
    }
    Ok(lease)
}

/// Where files go.
trait Target {
    fn file(&mut self, path: &str, size: u64, content: &mut dyn Read) -> Result<(), ArchiveError>;
}

struct Folder<'a>(&'a Path);

impl Target for Folder<'_> {
    fn file(&mut self, path: &str, _: u64, content: &mut dyn Read) -> Result<(), ArchiveError> {
        let path = self.0.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io_error("make folder", parent))?;
        }
        let mut file = File::create_new(&path).map_err(io_error("make", &path))?;
        io::copy(content, &mut file).and_then(|_| file.sync_all()).map_err(io_error("write", &path))
    }
}

struct Tar<'a> {
    writer: Writer<&'a mut dyn Write>,
}

impl Target for Tar<'_> {
    fn file(&mut self, path: &str, size: u64, content: &mut dyn Read) -> Result<(), ArchiveError> {
        let mut entry = Entry::new(path, Kind::File);
        entry.mode = 0o444;
        entry.size = size;
        let fail = || io_error("write into the archive", Path::new(path));
        self.writer.entry(&entry).map_err(fail())?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let got = match content.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fail()(error)),
            };
            self.writer.data(&buffer[..got]).map_err(fail())?;
        }
    }
}

fn layout(lease: &Lease, images: &[(ImageName, Descriptor)], target: &mut dyn Target) -> Result<(), ArchiveError> {
    let store = lease.store();
    let mut digests = BTreeSet::new();
    let mut manifests = Vec::new();
    for (name, descriptor) in images {
        let reach = store.reach(&digest_in(descriptor)?)?;
        digests.extend(reach.required.into_iter().chain(reach.optional));
        let mut named = descriptor.clone();
        let name = name.to_string();
        named.set_annotations(Some(HashMap::from([
            (oci::REF_NAME.to_owned(), name.clone()),
            (oci::FULL_NAME.to_owned(), name),
        ])));
        manifests.push(named);
    }
    let built = |error: String| ArchiveError::Document { path: "index.json".to_owned(), problem: error };
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()
        .map_err(|error| built(error.to_string()))?;
    // By way of a value, whose maps are sorted: annotations are a hash map.
    let index = serde_json::to_value(&index).map_err(|error| built(error.to_string()))?.to_string();
    small(target, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    for digest in digests {
        if let Some(blob) = store.blob(&digest)? {
            target.file(&oci::path_of(&digest), blob.size, &mut blob.open()?.take(blob.size))?;
        }
    }
    small(target, "index.json", index.as_bytes())
}

fn docker_archive(
    lease: &Lease,
    images: &[(ImageName, Descriptor)],
    platform: &Platform,
    target: &mut dyn Target,
) -> Result<(), ArchiveError> {
    let store = lease.store();
    let mut written = BTreeSet::new();
    let mut items: BTreeMap<Digest, docker::Item> = BTreeMap::new();
    for (name, descriptor) in images {
        let (_, manifest, configuration) = store.resolve(descriptor, platform)?;
        let config_digest = digest_in(manifest.config())?;
        if let Some(item) = items.get_mut(&config_digest) {
            item.repo_tags.get_or_insert_default().push(name.normalised().to_string());
            continue;
        }
        let config = store.need(&config_digest)?;
        let config_path = format!("{}.json", config_digest.hex());
        target.file(&config_path, config.size, &mut config.open()?.take(config.size))?;
        let diff_ids = configuration.rootfs().diff_ids();
        if manifest.layers().len() != diff_ids.len() {
            let problem = "it has another number of layers than its configuration of diff ids".to_owned();
            return Err(ArchiveError::Document { path: name.to_string(), problem });
        }
        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
            let diff_id: Digest = diff_id.parse().map_err(|source| crate::StoreError::Digest { source })?;
            let path = format!("{}.tar", diff_id.hex());
            if written.insert(diff_id.clone()) {
                plain(&store.need(&digest_in(layer)?)?, &diff_id, &path, target)?;
            }
            layers.push(path);
        }
        let repo_tags = Some(vec![name.normalised().to_string()]);
        items.insert(config_digest, docker::Item { config: config_path, repo_tags, layers });
    }
    let items: Vec<docker::Item> = items.into_values().collect();
    let problem = |error: serde_json::Error| ArchiveError::Document {
        path: docker::MANIFEST.to_owned(),
        problem: error.to_string(),
    };
    small(target, docker::MANIFEST, &serde_json::to_vec(&items).map_err(problem)?)
}

/// Writes the plain form of a layer. It is decompressed twice: its size stands in front of it.
fn plain(blob: &Blob, diff_id: &Digest, path: &str, target: &mut dyn Target) -> Result<(), ArchiveError> {
    let fail = |error: io::Error| io_error("decompress", &blob.path)(error);
    let counter = AtomicU64::new(0);
    let mut hasher = Hasher::new(diff_id.algorithm());
    let size =
        crate::digest::hash_all(&mut hasher, layer::decoder(blob.open()?, &counter).map_err(fail)?).map_err(fail)?;
    let found = hasher.finish();
    if found != *diff_id {
        return Err(ArchiveError::Damaged { path: path.to_owned(), found });
    }
    target.file(path, size, &mut layer::decoder(blob.open()?, &counter).map_err(fail)?)
}

fn small(target: &mut dyn Target, path: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
    target.file(path, bytes.len() as u64, &mut &*bytes)
}
