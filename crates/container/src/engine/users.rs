//! Ranges of the host's user ids, one for each running container with users of its own.
//!
//! Every mount is id-mapped, so nothing on disk depends on which range it was; it is taken at the start and given back
//! at the end. The ranges lie in 524288 to 1879048191, which systemd sets aside for containers (systemd.io, UIDS-GIDS).

use super::{
    Engine,
    error::{At, EngineError},
};
use model::ContainerId;
use std::{fs, io, io::Write, path::PathBuf};

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
                match fs::File::create_new(&path) {
                    Ok(mut file) => {
                        file.write_all(id.as_str().as_bytes()).at("write", &path)?;
                        return Ok((slot * SIZE, path));
                    }
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
    pub(super) fn forget_users(&self, path: &std::path::Path, own: Option<&ContainerId>) -> Result<bool, EngineError> {
        let holder = match fs::read_to_string(path) {
            Ok(text) => text.parse::<ContainerId>().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error).at("read", path),
        };
        // An empty file is one that is being written; the holder of that start will be known in a moment.
        let Some(holder) = holder else { return Ok(false) };
        if own != Some(&holder) && self.layout.running(&holder).exists() {
            return Ok(false);
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
            _ => Ok(true),
        }
    }
}
