//! How full the disk is, and what follows from it.

use super::{Store, StoreError, at};
use rustix::fs::FallocateFlags;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Limits on the disk of a store, in percent as `df` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// From here on a collection is due.
    pub collect: u8,
    /// From here on nothing is taken in.
    pub refuse: u8,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { collect: 80, refuse: 90 }
    }
}

/// Room on a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUse {
    /// In use.
    pub used: u64,
    /// Left for everybody but root's reserve.
    pub free: u64,
}

impl DiskUse {
    /// Of the disk that `path` is on.
    pub fn of(path: &Path) -> Result<Self, StoreError> {
        let found = rustix::fs::statvfs(path).map_err(|source| at("measure the disk of", path)(source.into()))?;
        let unit = if found.f_frsize == 0 { found.f_bsize } else { found.f_frsize };
        let used = found.f_blocks.saturating_sub(found.f_bfree).saturating_mul(unit);
        Ok(Self { used, free: found.f_bavail.saturating_mul(unit) })
    }
    /// Percentage in use, rounded up as `df` does: 100 is really full.
    pub fn percent(self) -> u8 {
        let total = u128::from(self.used) + u128::from(self.free);
        let percent = (u128::from(self.used) * 100).div_ceil(total.max(1));
        u8::try_from(percent).unwrap_or(100).min(100)
    }
}

impl Store {
    /// Room on the store's disk.
    pub fn disk(&self) -> Result<DiskUse, StoreError> {
        DiskUse::of(self.folder())
    }
    /// Whether the disk is so full that a collection is due.
    pub fn wants_collection(&self) -> Result<bool, StoreError> {
        Ok(self.disk()?.percent() >= self.watermarks().collect)
    }
    /// Refuses to go on when the disk is too full to take more in.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub fn check_room(&self) -> Result<(), StoreError> {
        let disk = self.disk()?;
        let (percent, limit) = (disk.percent(), self.watermarks().refuse);
        if percent < limit {
            return Ok(());
        }
        Err(StoreError::Full { path: self.folder().to_owned(), percent, free: disk.free, limit })
    }
}

/// Bytes after which the kernel is told to begin writing.
pub(crate) const WRITE_EARLY: u64 = 4 << 20;

/// Makes the kernel begin to write a piece of a file that was written just now, and does not wait: the sync at the end
/// finds less to do. Linux has no other call for it that is not unsafe to make: `POSIX_FADV_DONTNEED` writes dirty pages
/// out, and drops only clean ones, which a piece that was written just now has none of.
pub(crate) fn write_early(file: &File, offset: u64, length: u64) {
    let Some(length) = std::num::NonZeroU64::new(length) else { return };
    if let Err(error) = rustix::fs::fadvise(file, offset, Some(length), rustix::fs::Advice::DontNeed) {
        tracing::trace!(%error, "no early writing");
    }
}

/// Room that is kept for the index: on a disk that is full to the last byte, nothing could be noted, and so nothing
/// removed.
pub(super) const RESERVE: u64 = 4 << 20;

impl Store {
    /// Makes the reserve, if there is room for it.
    pub(crate) fn keep_reserve(&self) {
        let path = self.part("reserve");
        // One that is too short is of a process that was killed before it had it all.
        if fs::metadata(&path).is_ok_and(|found| found.len() >= RESERVE) {
            return;
        }
        let made = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let Ok(file) = made else { return };
        if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE).is_err() {
            // A part of it would be in the way for nothing.
            drop(fs::remove_file(&path));
        }
    }

    /// Gives the reserve up. Returns whether there was one.
    pub(crate) fn spend_reserve(&self) -> Result<bool, StoreError> {
        spend_reserve(self.folder())
    }
}

/// As [`Store::spend_reserve`], of a store that can not be opened without.
pub(super) fn spend_reserve(folder: &Path) -> Result<bool, StoreError> {
    let path = folder.join("reserve");
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at("remove", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_is_too_short_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reserve");
        let store = Store::open(folder.path()).unwrap();
        let size = || fs::metadata(&path).map(|found| found.len()).ok();
        assert_eq!(size(), Some(RESERVE));
        for short in [0, 1, RESERVE - 1] {
            File::create(&path).unwrap().set_len(short).unwrap();
            store.keep_reserve();
            assert_eq!(size(), Some(RESERVE));
        }
        assert!(store.spend_reserve().unwrap() && !store.spend_reserve().unwrap());
        store.keep_reserve();
        assert_eq!(size(), Some(RESERVE));
    }

    #[test]
    fn percentages_are_those_of_df() {
        for (used, free, percent) in [(0, 0, 0), (0, 10, 0), (1, 999, 1), (9, 1, 90), (10, 0, 100), (u64::MAX, 1, 100)]
        {
            assert_eq!(DiskUse { used, free }.percent(), percent, "{used} {free}");
        }
    }
}
