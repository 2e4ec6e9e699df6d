//! Unpacking the layers of an image.

use super::{
    Devices, PathError,
    apply::{self, ApplyError},
    stream,
};
use crate::{
    media,
    progress::{Event, LayerState, Progress},
    store::{Blob, Lease, Store, StoreError, at, digest_in, index, index::Table, layer_name, lock, random_name},
    tarball::{self, Reader, TarError},
};
use model::image::Digest;
use oci_spec::image::{ImageConfiguration, ImageManifest};
use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File},
    io::{self, BufRead, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

/// What an archive may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one layer.
    pub entries: u64,
    /// Plain bytes of one layer.
    pub bytes: u64,
    /// How many times larger than its compressed form a layer may be, once it is larger than [`Limits::free`].
    pub ratio: u64,
    /// Bytes below which the ratio does not matter.
    pub free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 5_000_000, bytes: 512 << 30, ratio: 300, free: 4 << 30 }
    }
}

/// How to unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnpackOptions {
    /// Device nodes.
    pub devices: Devices,
    /// What an archive may cost.
    pub limits: Limits,
}

/// Why an entry of an archive is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its name.
    #[error("{0}")]
    Path(PathError),
    /// The target of a hard link.
    #[error("it is a hard link out of the layer: {0}")]
    LinkTarget(PathError),
    /// A hard link to nothing that is in the layer.
    #[error("it is a hard link to something that the layer does not have before it")]
    LinkMissing,
    /// A parent is a symbolic link or a file of this layer.
    #[error("its name leads through a link or a file")]
    ThroughLink,
    /// A directory would have to go.
    #[error("it would replace a directory")]
    ReplacesDirectory,
    /// A file would have to go for a directory.
    #[error("it is a directory, or something in one, where the layer has a file")]
    ReplacedByDirectory,
    /// The root of the layer is not a directory.
    #[error("the root of a layer must be a directory")]
    Root,
    /// A whiteout that is none.
    #[error("it is a malformed whiteout")]
    Whiteout,
    /// A device node.
    #[error("it is the device node {kind} {major}:{minor}, which images may not have here")]
    Device {
        /// `b` or `c`.
        kind: char,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// An attribute that is the kernel's own.
    #[error("it has an attribute trusted.overlay.*")]
    OverlayAttribute,
    /// An attribute that no file system takes.
    #[error("it has an extended attribute larger than 64 KiB")]
    AttributeTooLarge,
    /// A bomb.
    #[error("the layer unpacks to more than {0} bytes")]
    TooLarge(u64),
    /// A bomb.
    #[error("the layer unpacks to more than {0} times its compressed size")]
    TooCompressed(u64),
}

/// Layers could not be unpacked. Nothing of the layer that failed is left.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive has something that is not taken.
    #[error("layer {layer} is refused: entry `{entry}`")]
    Refused {
        /// The layer's blob.
        layer: Digest,
        /// Name of the entry.
        entry: String,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// The archive is malformed, or can not be decompressed.
    #[error("layer {layer} can not be read")]
    Archive {
        /// The layer's blob.
        layer: Digest,
        /// Where and why.
        #[source]
        source: TarError,
    },
    /// A file can not be made.
    #[error("layer {layer}: can not make `{entry}`")]
    Write {
        /// The layer's blob.
        layer: Digest,
        /// Name of the entry.
        entry: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The layer is not the one that the configuration means.
    #[error("layer {layer} has diff id {found}, but the image's configuration says {expected}")]
    DiffId {
        /// The layer's blob.
        layer: Digest,
        /// In the configuration.
        expected: Digest,
        /// In the layer.
        found: Digest,
    },
    /// The manifest can not be unpacked at all.
    #[error("the image can not be unpacked: {problem}")]
    Manifest {
        /// What is wrong with it.
        problem: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// time. Returns their directories, base first; `lease` holds them.
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
        Ok(layers.iter().map(|layer| self.layer_path(&layer.diff_id).join("fs")).collect())
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
            let layers = self.part("layers");
            let folder = File::open(&layers).map_err(at("open", &layers))?;
            rustix::fs::syncfs(&folder).map_err(|error| at("sync the disk of", &layers)(error.into()))?;
        }
        for (layer, partial) in done {
            self.publish_layer(lease, layer, &partial)?;
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
            let applied = apply::apply(&mut reader, root, options.devices, &mut check)?;
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

    /// After the sync: marker, then the final name.
    fn publish_layer(&self, lease: &Lease, layer: &Layer, partial: &Partial) -> Result<(), StoreError> {
        let marker = partial.folder.join("complete");
        fs::write(&marker, format!("{}\n", partial.size)).map_err(at("write", &marker))?;
        let path = self.layer_path(&layer.diff_id);
        let operation = "add a layer";
        self.index().transact(operation, |transaction| {
            let renamed = fs::rename(&partial.folder, &path);
            renamed.map_err(at("move into the store", &partial.folder))?;
            index::insert(transaction, Table::Layers, &layer.diff_id, partial.size)
                .and_then(|()| lease.hold_within(transaction, &layer.diff_id))
                .map_err(self.index().failed(operation))
        })?;
        lease.remember(&layer.diff_id);
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
            index::insert(transaction, Table::Layers, diff_id, size).map_err(self.index().failed(operation))
        })?;
        Ok(true)
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

/// Counts plain bytes against the limits, and reports progress.
struct Metered<'a, 's, F> {
    plain: &'a mut stream::Stream,
    taken: u64,
    reported: u64,
    limits: Limits,
    compressed: &'s AtomicU64,
    report: F,
}

/// Passed through the reader as the cause of an input error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Bomb(Refusal);

fn bomb(error: &TarError) -> Option<(String, Refusal)> {
    let TarError::Io { entry, source, .. } = error else { return None };
    let bomb = source.get_ref()?.downcast_ref::<Bomb>()?;
    Some((entry.clone(), bomb.0))
}

const REPORT_EACH: u64 = 4 << 20;

impl<F: Fn(LayerState<'static>)> BufRead for Metered<'_, '_, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let limits = self.limits;
        if self.taken > limits.bytes {
            return Err(io::Error::other(Bomb(Refusal::TooLarge(limits.bytes))));
        }
        if self.taken > limits.free {
            let compressed = self.compressed.load(Ordering::Relaxed).max(1);
            if self.taken / compressed > limits.ratio {
                return Err(io::Error::other(Bomb(Refusal::TooCompressed(limits.ratio))));
            }
        }
        if self.taken - self.reported >= REPORT_EACH {
            self.reported = self.taken;
            (self.report)(LayerState::Unpack { done: self.compressed.load(Ordering::Relaxed) });
        }
        self.plain.fill_buf()
    }
    fn consume(&mut self, length: usize) {
        self.taken += length as u64;
        self.plain.consume(length);
    }
}

impl<F: Fn(LayerState<'static>)> Read for Metered<'_, '_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = Read::read(&mut self.fill_buf()?, buffer)?;
        self.consume(length);
        Ok(length)
    }
}
