//! Ranges of the host's user ids, one for each running container with users of its own.
//!
//! Every mount is id-mapped, so nothing on disk depends on which range it was; it is taken at the start and given back
//! at the end. The ranges lie in 524288 to 1879048191, which systemd sets aside for containers (systemd.io, UIDS-GIDS).

use super::{
    Engine,
    error::{At, EngineError},
};
use model::ContainerId;
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// Ids in one range.
pub(super) const SIZE: u32 = 1 << 16;
const FIRST: u32 = 8;
const LAST: u32 = 28_671;

impl Engine {
    /// Takes a range for this container; gives its first id and the file that says so.
    pub(super) fn lease_users(&self, id: &ContainerId) -> Result<(u32, PathBuf), EngineError> {
        let start = u32::from_str_radix(&id.as_str()[..7], 16).unwrap_or(0);
        for step in 0..=LAST - FIRST {
            let slot = FIRST + (start + step) % (LAST - FIRST + 1);
            let path = self.layout.users().join(slot.to_string());
            loop {
                // A link, like a name: it is there with its holder or not at all, whenever this process is killed.
                match symlink(id.as_str(), &path) {
                    Ok(()) => return Ok((slot * SIZE, path)),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        if !self.forget_users(&path, Some(id))? {
                            break;
                        }
                    }
                    Err(error) => return Err(error).at("make", &path),
                }
            }
        }
        let full = io::Error::other("every range of user ids is in use");
        Err(full).at("lease user ids in", &self.layout.users())
    }

    /// Removes a lease whose container does not run, or is `own`; false when it is in use.
    pub(super) fn forget_users(&self, path: &Path, own: Option<&ContainerId>) -> Result<bool, EngineError> {
        let Some(holder) = self.users_holder(path)? else { return Ok(true) };
        if own != Some(&holder) && self.layout.running(&holder).exists() {
            return Ok(false);
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
            _ => Ok(true),
        }
    }

    /// Whose a range is; `None` when it is nobody's.
    pub(super) fn users_holder(&self, path: &Path) -> Result<Option<ContainerId>, EngineError> {
        let target = match fs::read_link(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("read", path),
        };
        let id = target.to_str().and_then(|text| text.parse().ok());
        let strange = || io::Error::new(io::ErrorKind::InvalidData, "is not the link of a lease; remove it");
        id.map(Some).ok_or_else(strange).at("read", path)
    }
}
