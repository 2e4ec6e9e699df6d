//! What a volume is made of: a new named one begins with what the image has where it is mounted; `U` gives files to the
//! container's user.
//!
//! Both work on files that are not trusted, from outside of the container: everything is reached by descriptors, beneath the
//! root or the volume, and no symbolic link is followed out of it. Owners are those on disk, as nobody's id mapping shows
//! them: every container sees the same ones, whatever range of the host's ids it has. [`Volumes`] fills, [`own()`] gives.
//!
//! A volume that is being filled has another name until it is whole, so that it is there as a whole or not at all; what a
//! killed process leaves of it has no user and is removed by [`Volumes::sweep`].

mod copy;
mod own;
mod root;

pub use own::own;
pub use root::with_root;

use crate::{layout::Layout, spec::NewVolume};
use model::ContainerId;
use rustix::{
    fs::{CWD, Mode, OFlags, RenameFlags, fchmod, fsync, open, renameat_with, syncfs},
    io::Errno,
};
use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

/// Why a volume could not be filled or given away.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A file or a system call.
    #[error("can not {operation} {}", .path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// To what: on the host, or inside the container.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It would take too many descriptors to go there and back.
    #[error("{} lies more than {most} folders deep, which is too deep to be copied or given away", .path.display())]
    TooDeep {
        /// What.
        path: PathBuf,
        /// How deep it may lie.
        most: usize,
    },
    /// Giving it away would break the host.
    #[error("{} is the host's own: `U` gives nothing of it away; mount a folder below it", .path.display())]
    Hosts {
        /// The folder.
        path: PathBuf,
    },
    /// The user is not known inside.
    #[error("there is nobody to give it to")]
    User {
        /// Why.
        source: crate::user::UserError,
    },
}

/// Says what was done to which file.
trait At<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, VolumeError>;
}
impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, VolumeError> {
        self.map_err(|source| VolumeError::File { operation, path: path.to_owned(), source })
    }
}
impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, VolumeError> {
        self.map_err(io::Error::from).at(operation, path)
    }
}

/// How deep a tree may be: each level holds descriptors open, of which a process has 1024 as a rule.
const DEEPEST: usize = 128;

/// The named volumes of one data folder.
pub struct Volumes {
    folder: PathBuf,
}

impl Volumes {
    /// Reads and changes nothing.
    pub fn new(layout: &Layout) -> Self {
        Self { folder: layout.volumes() }
    }

    /// Whether it is there; then it is whole, and nothing is to be done for it.
    pub fn exists(&self, volume: &NewVolume) -> bool {
        volume.path.exists()
    }

    /// Makes a volume that is not there yet, with what `root` has at its place if it is to be copied. When another process
    /// is quicker, its volume stays.
    ///
    /// # Errors
    /// [`VolumeError`]; there is no volume then.
    pub fn make(
        &self,
        volume: &NewVolume,
        user: &ContainerId,
        root: Option<BorrowedFd<'_>>,
    ) -> Result<(), VolumeError> {
        // No volume's name begins with a dot, and no two containers have the same id.
        let unfinished = self.folder.join(format!(".{}.{user}", volume.name));
        let made = self.fill(volume, &unfinished, root).and_then(|()| {
            match renameat_with(CWD, &unfinished, CWD, &volume.path, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => discard(&unfinished),
                renamed => renamed.at("make volume", &volume.path),
            }
        });
        match made {
            Ok(()) => {
                let folder = open(&self.folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
                folder.and_then(fsync).at("keep", &self.folder)
            }
            Err(error) => {
                // The first error counts; what is left has no user and is swept later.
                if let Err(rest) = discard(&unfinished) {
                    tracing::warn!(error = %rest, "the rest of a volume is left to the next sweep");
                }
                Err(error)
            }
        }
    }

    fn fill(&self, volume: &NewVolume, unfinished: &Path, root: Option<BorrowedFd<'_>>) -> Result<(), VolumeError> {
        fs::DirBuilder::new().mode(0o700).create(unfinished).at("make", unfinished)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = open(unfinished, flags, Mode::empty()).at("open", unfinished)?;
        let source = match root.filter(|_| volume.copy) {
            Some(root) => copy::folder(root, &volume.inside)?,
            None => None,
        };
        let Some(source) = source else {
            return fchmod(&target, Mode::from_raw_mode(0o755)).at("make", unfinished);
        };
        match copy::all(&source, target.as_fd(), &volume.inside)? {
            // On the disk before it has its name: a power cut must not leave a volume of empty files.
            true => syncfs(&target).at("keep", unfinished),
            false => Ok(()),
        }
    }

    /// Removes what killed processes have left of volumes; nothing may be being created at this time. Says what was removed.
    ///
    /// # Errors
    /// The first.
    pub fn sweep(&self) -> Result<Vec<String>, VolumeError> {
        let mut swept = Vec::new();
        for entry in fs::read_dir(&self.folder).at("list", &self.folder)? {
            let name = entry.at("list", &self.folder)?.file_name();
            if name.as_encoded_bytes().first() == Some(&b'.') {
                discard(&self.folder.join(&name))?;
                swept.push(format!("half a volume {}", name.to_string_lossy()));
            }
        }
        Ok(swept)
    }

    /// Removes all volumes with what is in them; gives their names.
    ///
    /// # Errors
    /// The first.
    pub fn remove_all(&self) -> Result<Vec<String>, VolumeError> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.folder).at("list", &self.folder)? {
            let name = entry.at("list", &self.folder)?.file_name();
            discard(&self.folder.join(&name))?;
            removed.push(name.to_string_lossy().into_owned());
        }
        Ok(removed)
    }
}

fn discard(path: &Path) -> Result<(), VolumeError> {
    match crate::removal::remove_tree(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.at("remove", path),
    }
}

#[cfg(test)]
mod tests;
