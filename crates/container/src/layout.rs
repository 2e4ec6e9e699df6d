//! Where everything lies: one data folder and one run folder.
//!
//! The data folder survives a reboot (records, logs, leases); the run folder is meant for a tmpfs (locks, sockets, state
//! of what runs). Two data folders on one machine do not meet: what the kernel names globally carries the folder's tag.

use model::{ContainerId, ContainerName, NetworkName};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The folders of one engine.
#[derive(Debug, Clone)]
pub struct Layout {
    data: PathBuf,
    run: PathBuf,
    tag: String,
}

impl Layout {
    /// Data folder when none is given.
    pub const DATA: &'static str = "/var/lib/jdos";
    /// Run folder that goes with [`Layout::DATA`].
    pub const RUN: &'static str = "/run/jdos";

    /// Makes the folders if they are not there.
    ///
    /// Those with files that containers write are nobody's but root's: what is set-uid in there would be so for every user of
    /// the machine who can reach it. The monitors and what mounts it all are root and have it open, or need not.
    ///
    /// # Errors
    /// That of the file system.
    pub fn open(data: &Path, run: Option<&Path>) -> io::Result<Self> {
        let make = |path: &Path, mode| fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        make(data, 0o711)?;
        let data = data.canonicalize()?;
        let tag = tag(&data);
        let run = match run {
            Some(run) => run.to_owned(),
            None => Path::new("/run").join(&tag),
        };
        make(&run, 0o711)?;
        let run = run.canonicalize()?;
        for folder in ["names", "networks", "users"] {
            make(&data.join(folder), 0o711)?;
        }
        for folder in ["containers", "volumes"] {
            let path = data.join(folder);
            make(&path, 0o700)?;
            // It may have been made by an earlier version, or by hand.
            if fs::metadata(&path)?.permissions().mode() & 0o777 != 0o700 {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
            }
        }
        for folder in ["containers", "bin", "published"] {
            make(&run.join(folder), 0o711)?;
        }
        Ok(Self { data, run, tag })
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }
    /// The run folder.
    pub fn run(&self) -> &Path {
        &self.run
    }
    /// The word that marks what belongs to this data folder in the kernel: `jdos`, or `jdos-` and six hexadecimal digits.
    pub fn tag(&self) -> &str {
        &self.tag
    }
    /// What is kept of one container: record, exit, logs, writable files.
    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.data.join("containers").join(id)
    }
    /// What there is of one container while it runs: lock, state, sockets.
    pub fn running(&self, id: &ContainerId) -> PathBuf {
        self.run.join("containers").join(id)
    }
    /// Symbolic link whose target is the id of the container with this name.
    pub fn name(&self, name: &ContainerName) -> PathBuf {
        self.data.join("names").join(name)
    }
    /// Description and leases of one network.
    pub fn network(&self, name: &NetworkName) -> PathBuf {
        self.data.join("networks").join(format!("{name}.json"))
    }
    /// Folder of all named volumes.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }
    /// Folder of the leases of ranges of user ids, one file per range.
    pub fn users(&self) -> PathBuf {
        self.data.join("users")
    }
    /// Path of a container's control group below the root of each hierarchy, without leading slash.
    pub fn cgroup(&self, id: &ContainerId) -> String {
        format!("{}/{id}", self.tag)
    }
}

/// FNV-1a, 64 bit: the tag must be the same in every version, which the standard library's hasher does not promise.
fn tag(data: &Path) -> String {
    if data == Path::new(Layout::DATA) {
        return "jdos".to_owned();
    }
    let bytes = data.as_os_str().as_encoded_bytes();
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("jdos-{:06x}", hash & 0xff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_stable_and_tells_folders_apart() {
        assert_eq!(tag(Path::new("/var/lib/jdos")), "jdos");
        let (one, two) = (tag(Path::new("/srv/a")), tag(Path::new("/srv/b")));
        assert_ne!(one, two);
        assert_eq!(one, tag(Path::new("/srv/a")));
        assert_eq!(one.len(), "jdos-".len() + 6);
    }
}
