//! Unpacking the layers of an image.

use super::{
    Devices, Limits, OPAQUE_ATTRIBUTE, UnpackError,
    apply::{self, ApplyError},
    meter::{Metered, bomb},
    stream,
};
use crate::{
    media,
    progress::{Event, LayerState, Progress},
    store::{
        Blob, Lease, Store, StoreError, at, digest_in, index, index::Table, layer_name, lock, random_name,
        sync_directory,
    },
    tarball::{self, Reader},
};
use model::image::Digest;
use oci_spec::image::{ImageConfiguration, ImageManifest};
use rustix::io::Errno;
use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

/// How to unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnpackOptions {
    /// Device nodes.
    pub devices: Devices,
    /// What an archive may cost.
    pub limits: Limits,
}

/// One layer of an image.
struct Layer {
    blob: Digest,
    size: u64,
    diff_id: Digest,
}

/// A layer that this call unpacks: its lock is held.
struct Job<'a> {
    layer: &'a Layer,
    lock_path: PathBuf,
    _lock: File,
}

impl Store {
    /// Unpacks the layers of an image that are not unpacked yet, in parallel, each once whoever else wants it at the same
    /// time. Returns their directories, base first, without those that a layer above hides whole; `lease` holds all.
    ///
    /// # Errors
    /// [`UnpackError`]; layers that could be unpacked stay.
    pub fn unpack(
        &self,
        lease: &Lease,
        manifest: &ImageManifest,
        configuration: &ImageConfiguration,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>, UnpackError> {
        self.unpack_with(lease, manifest, configuration, UnpackOptions::default(), progress)
    }

    /// As [`Store::unpack`], with other limits.
    pub fn unpack_with(
        &self,
        lease: &Lease,
        manifest: &ImageManifest,
        configuration: &ImageConfiguration,
        options: UnpackOptions,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>, UnpackError> {
        let layers = layers_of(manifest, configuration)?;
        // A blob may be in an image more than once, and so may its plain form under several blobs.
        let mut unique: HashMap<&Digest, &Layer> = HashMap::new();
        for layer in &layers {
            unique.entry(&layer.diff_id).or_insert(layer);
        }
        let mut unique: Vec<&Layer> = unique.into_values().collect();
        // Everybody takes the locks in the same order, or two images with the same layers would wait for each other.
        unique.sort_by(|a, b| a.diff_id.cmp(&b.diff_id));
        let mut jobs = Vec::new();
        for layer in unique {
            let event = |state| progress.event(Event::Layer { digest: &layer.blob, size: layer.size, state });
            if self.hold_layer(lease, &layer.diff_id)? {
                event(LayerState::Exists);
                continue;
            }
            event(LayerState::Waiting);
            let lock_path = self.part("layers").join(format!(".lock-{}", layer_name(&layer.diff_id)));
            let held = lock::take(&lock_path).map_err(at("lock", &lock_path))?;
            let job = Job { layer, lock_path, _lock: held };
            if self.hold_layer(lease, &layer.diff_id)? {
                event(LayerState::Exists);
                drop(job);
            } else {
                jobs.push(job);
            }
        }
        self.run(lease, &jobs, options, progress)?;
        drop(jobs);
        visible(layers.iter().map(|layer| self.layer_path(&layer.diff_id).join("fs")).collect()).map_err(Into::into)
    }

    /// The directory of an unpacked layer, if it is there; `lease` holds it.
    pub fn layer(&self, lease: &Lease, diff_id: &Digest) -> Result<Option<PathBuf>, StoreError> {
        Ok(self.hold_layer(lease, diff_id)?.then(|| self.layer_path(diff_id).join("fs")))
    }

    fn run(
        &self,
        lease: &Lease,
        jobs: &[Job<'_>],
        options: UnpackOptions,
        progress: &dyn Progress,
    ) -> Result<(), UnpackError> {
        if jobs.is_empty() {
            return Ok(());
        }
        self.check_room()?;
        // Opened before anything is written: whoever syncs learns of errors from then on.
        let layers = self.part("layers");
        let folder = File::open(&layers).map_err(at("open", &layers))?;
        let stop = AtomicBool::new(false);
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<(usize, Result<Partial, UnpackError>)>> = Mutex::default();
        let workers = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
        let work = || {
            while let Some((at, job)) = jobs.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let result = self.unpack_one(job.layer, options, &stop, progress);
                if result.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
            }
        };
        thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (mut done, mut first_error) = (Vec::new(), None);
        for (at, result) in results {
            match result {
                Ok(partial) => done.push((jobs[at].layer, partial)),
                // The one that made the others stop.
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        if !done.is_empty() {
            rustix::fs::syncfs(&folder).map_err(|error| at("sync the disk of", &layers)(error.into()))?;
        }
        self.publish_layers(lease, &layers, &done)?;
        for (layer, _) in done {
            progress.event(Event::Layer { digest: &layer.blob, size: layer.size, state: LayerState::Done });
        }
        first_error.map_or(Ok(()), Err)
    }

    fn unpack_one(
        &self,
        layer: &Layer,
        options: UnpackOptions,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<Partial, UnpackError> {
        let blob = self.need(&layer.blob)?;
        let partial = Partial::make(self, &layer.diff_id)?;
        let compressed = AtomicU64::new(0);
        let result = self.unpack_into(&partial.folder.join("fs"), layer, &blob, options, (&compressed, stop), progress);
        match result {
            Ok(size) => Ok(Partial { size, ..partial }),
            Err(error) => {
                // What can not be removed now is removed by the next collection.
                if let Err(error) = fs::remove_dir_all(&partial.folder) {
                    tracing::warn!(%error, folder = %partial.folder.display(), "unpacked files not removed");
                }
                Err(error)
            }
        }
    }

    fn unpack_into(
        &self,
        root: &Path,
        layer: &Layer,
        blob: &Blob,
        options: UnpackOptions,
        (compressed, stop): (&AtomicU64, &AtomicBool),
        progress: &dyn Progress,
    ) -> Result<u64, UnpackError> {
        let limits = options.limits;
        let event = |state| progress.event(Event::Layer { digest: &layer.blob, size: layer.size, state });
        event(LayerState::Unpack { done: 0 });
        let algorithm = layer.diff_id.algorithm();
        let (result, found) = stream::decode(blob.open()?, algorithm, compressed, stop, |plain| {
            let metered = Metered { plain, taken: 0, reported: 0, limits, compressed, report: &event };
            let mut reader = Reader::new(metered, tarball::Limits { entries: limits.entries });
            let mut check = || self.check_room();
            let applied = apply::apply(&mut reader, root, options.devices, limits, &mut check)?;
            reader.finish()?;
            Ok::<_, ApplyError>(applied)
        });
        let digest = || layer.blob.clone();
        let applied = result.map_err(|error| match error {
            ApplyError::Tar(source) => match bomb(&source) {
                Some((entry, refusal)) => UnpackError::Refused { layer: digest(), entry, source: refusal },
                None => UnpackError::Archive { layer: digest(), source },
            },
            ApplyError::Refused { entry, refusal } => UnpackError::Refused { layer: digest(), entry, source: refusal },
            ApplyError::Write { entry, source } => UnpackError::Write { layer: digest(), entry, source },
            ApplyError::Store(error) => UnpackError::Store(error),
        })?;
        match found {
            Some(found) if found == layer.diff_id => {}
            Some(found) => {
                return Err(UnpackError::DiffId { layer: digest(), expected: layer.diff_id.clone(), found });
            }
            None => {
                return Err(UnpackError::Manifest {
                    problem: format!("the thread that hashes layer {} is gone", layer.blob),
                });
            }
        }
        event(LayerState::Unpack { done: compressed.load(Ordering::Relaxed) });
        tracing::debug!(layer = %layer.diff_id, entries = applied.entries, bytes = applied.size, "layer unpacked");
        Ok(applied.size)
    }

    /// After the sync: markers, then the final names, and one more sync for all of those before anybody sees a row.
    fn publish_layers(&self, lease: &Lease, folder: &Path, done: &[(&Layer, Partial)]) -> Result<(), StoreError> {
        if done.is_empty() {
            return Ok(());
        }
        for (_, partial) in done {
            let marker = partial.folder.join("complete");
            fs::write(&marker, format!("{}\n", partial.size)).map_err(at("write", &marker))?;
        }
        let operation = "add layers";
        self.index().transact(operation, |transaction| {
            for (layer, partial) in done {
                let renamed = fs::rename(&partial.folder, self.layer_path(&layer.diff_id));
                renamed.map_err(at("move into the store", &partial.folder))?;
            }
            sync_directory(folder)?;
            for (layer, partial) in done {
                index::insert(transaction, Table::Layers, &layer.diff_id, partial.size)
                    .and_then(|()| lease.hold_within(transaction, &layer.diff_id))
                    .map_err(self.index().failed(operation))?;
            }
            Ok::<_, StoreError>(())
        })?;
        done.iter().for_each(|(layer, _)| lease.remember(&layer.diff_id));
        Ok(())
    }

    /// Holds a layer, and tells whether it is there.
    fn hold_layer(&self, lease: &Lease, diff_id: &Digest) -> Result<bool, StoreError> {
        lease.hold(diff_id)?;
        let folder = self.layer_path(diff_id);
        let Some(size) = marker(&folder)? else { return Ok(false) };
        // Its process may have been killed between rename and commit.
        let operation = "hold a layer";
        self.index().transact(operation, |transaction| {
            if self.touch_layer(transaction, diff_id)? {
                return Ok(());
            }
            // Perhaps before it was synced, too.
            sync_directory(&self.part("layers"))?;
            index::insert(transaction, Table::Layers, diff_id, size).map_err(self.index().failed(operation))
        })?;
        Ok(true)
    }
}

/// The layers from the topmost one on whose root is opaque: overlayfs does not look for the attribute there.
fn visible(mut layers: Vec<PathBuf>) -> Result<Vec<PathBuf>, StoreError> {
    for at in (1..layers.len()).rev() {
        if is_opaque(&layers[at])? {
            layers.drain(..at);
            break;
        }
    }
    Ok(layers)
}

fn is_opaque(directory: &Path) -> Result<bool, StoreError> {
    let mut value = [0; 2];
    match rustix::fs::lgetxattr(directory, OPAQUE_ATTRIBUTE, &mut value) {
        Ok(length) => Ok(value.get(..length) == Some(b"y")),
        // Longer than any value that means it.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(at("read the attributes of", directory)(error.into())),
    }
}

/// The size in the marker of a complete layer.
pub(crate) fn marker(folder: &Path) -> Result<Option<u64>, StoreError> {
    let path = folder.join("complete");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().parse().unwrap_or(0))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(at("read", &path)(error)),
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        // Still locked: nobody else has this file. Left behind it would be removed by the next collection.
        if let Err(error) = fs::remove_file(&self.lock_path) {
            tracing::debug!(%error, path = %self.lock_path.display(), "lock file not removed");
        }
    }
}

/// A layer in the making.
struct Partial {
    folder: PathBuf,
    size: u64,
}

impl Partial {
    /// Makes the folder; the lock of the layer is held, so one that is there already is of a process that was killed.
    fn make(store: &Store, diff_id: &Digest) -> Result<Self, StoreError> {
        let folder = store.part("layers").join(format!(".partial-{}", layer_name(diff_id)));
        for stale in [&folder, &store.layer_path(diff_id)] {
            if fs::symlink_metadata(stale).is_ok() {
                let trash = store.part("trash").join(random_name()?);
                fs::rename(stale, &trash).map_err(at("move away", stale))?;
            }
        }
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.create(&folder).map_err(at("make folder", &folder))?;
        let root = folder.join("fs");
        builder.create(&root).map_err(at("make folder", &root))?;
        Ok(Self { folder, size: 0 })
    }
}

/// Layers with their diff ids, in order.
fn layers_of(manifest: &ImageManifest, configuration: &ImageConfiguration) -> Result<Vec<Layer>, UnpackError> {
    let fail = |problem: String| UnpackError::Manifest { problem };
    let config_type = manifest.config().media_type().to_string();
    if !media::is_config(&config_type) {
        return Err(fail(format!("its configuration is of type `{config_type}`: this is an artifact, not an image")));
    }
    let diff_ids = configuration.rootfs().diff_ids();
    let (layers, ids) = (manifest.layers().len(), diff_ids.len());
    if layers != ids {
        return Err(fail(format!("its manifest has {layers} layers, its configuration {ids} diff ids")));
    }
    let layer = |(descriptor, diff_id): (&oci_spec::image::Descriptor, &String)| {
        let media_type = descriptor.media_type().to_string();
        if !media::is_layer(&media_type) {
            return Err(fail(format!("a layer is of the unknown type `{media_type}`")));
        }
        let diff_id = diff_id.parse().map_err(|source| StoreError::Digest { source })?;
        Ok(Layer { blob: digest_in(descriptor)?, size: descriptor.size(), diff_id })
    };
    manifest.layers().iter().zip(diff_ids).map(layer).collect()
}
