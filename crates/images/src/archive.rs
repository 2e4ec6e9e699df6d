//! Images in files: OCI image layouts (a folder or an archive of one) and Docker archives (`docker save`, `podman save`).
//!
//! What comes in is verified against its digests, and named only when all of it is there. What goes out is the same bytes
//! for the same images.

mod bag;
mod docker;
mod export;
mod folder;
mod oci;
mod v1;

pub use export::{Format, export, export_folder};

use crate::{
    media,
    progress::Progress,
    store::{CommitError, Owner, Store, StoreError},
    tarball::TarError,
};
use bag::Bag;
use model::image::{Digest, ImageName, ReferenceError};
use oci_spec::image::Descriptor;
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// An image that came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The names it has now.
    pub names: Vec<ImageName>,
    /// Its manifest or index.
    pub target: Descriptor,
}

/// An archive could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file of this machine.
    #[error("can not {operation} {}", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The archive as such.
    #[error("can not read the archive")]
    Tar {
        /// Where and why.
        #[source]
        source: TarError,
    },
    /// It is a tar archive or a folder, but not of images.
    #[error(
        "{0} holds neither an OCI image layout (`oci-layout`, `index.json`) nor a Docker archive (`manifest.json`)"
    )]
    NoImages(String),
    /// A file that another one refers to is not there.
    #[error("the archive lacks `{path}`, which `{referrer}` refers to")]
    Lacks {
        /// The file.
        path: String,
        /// Who refers to it.
        referrer: String,
    },
    /// A document is malformed or contradicts another one.
    #[error("`{path}` in the archive can not be used: {problem}")]
    Document {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A blob is not the one that its name says.
    #[error("`{path}` in the archive is damaged: its bytes hash to {found}")]
    Damaged {
        /// The file.
        path: String,
        /// What the bytes say.
        found: Digest,
    },
    /// An image without a name, and none was given.
    #[error("the archive does not name its image {digest}: give a name")]
    Unnamed {
        /// Digest of its manifest.
        digest: Digest,
    },
    /// A name was given, but there are several images.
    #[error("the archive has {0} images, so one name can not be given to them")]
    Several(usize),
    /// An image's name in the archive.
    #[error("the archive has a malformed image name")]
    Name {
        /// What is wrong with it.
        #[source]
        source: ReferenceError,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where images come from.
pub enum Source<'a> {
    /// A folder with an OCI image layout, or an archive.
    Path(&'a Path),
    /// An archive, compressed or not, such as standard input.
    Stream(Box<dyn Read + Send + 'a>),
}

/// Takes in all images of an archive. `name`, if given, is the name of its only image, in place of what the archive says.
///
/// # Errors
/// [`ArchiveError`]; nothing is named then, and what came in is collected later.
pub fn import(
    store: &Store,
    source: Source<'_>,
    name: Option<&ImageName>,
    progress: &dyn Progress,
) -> Result<Vec<Imported>, ArchiveError> {
    let lease = store.lease(Owner::Process)?;
    let (bag, shown) = match source {
        Source::Path(path) if path.is_dir() => (Bag::folder(&lease, path, progress)?, path.display().to_string()),
        Source::Path(path) => {
            let file = File::open(path).map_err(io_error("open", path))?;
            (Bag::archive(&lease, Box::new(file), progress)?, path.display().to_string())
        }
        Source::Stream(stream) => (Bag::archive(&lease, stream, progress)?, "the archive".to_owned()),
    };
    let found = if bag.has("index.json") {
        oci::images(&bag, name)?
    } else if bag.has("manifest.json") {
        docker::images(&bag)?
    } else if bag.has("repositories") {
        v1::images(&bag)?
    } else {
        return Err(ArchiveError::NoImages(shown));
    };
    give_names(store, found, name)
}

fn give_names(
    store: &Store,
    mut found: Vec<Imported>,
    name: Option<&ImageName>,
) -> Result<Vec<Imported>, ArchiveError> {
    if let Some(name) = name {
        match found.as_mut_slice() {
            [one] if one.names.is_empty() || name.tag.is_some() => one.names = vec![name.normalised()],
            [one] => one.names = vec![named_by(name, one)],
            several => return Err(ArchiveError::Several(several.len())),
        }
    }
    for image in &found {
        if image.names.is_empty() {
            return Err(ArchiveError::Unnamed { digest: crate::store::digest_in(&image.target)? });
        }
    }
    for image in &found {
        for name in &image.names {
            store.tag(name, &image.target)?;
        }
    }
    Ok(found)
}

/// The given name with the tag that the archive says.
fn named_by(name: &ImageName, image: &Imported) -> ImageName {
    let tag = image.names.first().and_then(|known| known.tag.clone());
    ImageName { tag: tag.or(name.tag.clone()), ..name.clone() }.normalised()
}

/// What writing to an ingest failed with: the store's own error is inside.
fn write_error(path: &Path, error: io::Error) -> ArchiveError {
    match error.downcast::<StoreError>() {
        Ok(error) => ArchiveError::Store(error),
        Err(error) => io_error("take in", path)(error),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |source| ArchiveError::Io { operation, path, source }
}

/// A descriptor for a layer of an archive that does not say how its layers are compressed.
fn layer_type(encoding: crate::layer::Encoding) -> &'static str {
    match encoding {
        crate::layer::Encoding::Gzip => media::OCI_LAYER_GZIP,
        crate::layer::Encoding::Zstd => media::OCI_LAYER_ZSTD,
        _ => media::OCI_LAYER,
    }
}

fn committed(path: &str, error: CommitError) -> ArchiveError {
    match error {
        CommitError::Mismatch { found, .. } => ArchiveError::Damaged { path: path.to_owned(), found },
        CommitError::Store(error) => ArchiveError::Store(error),
    }
}
