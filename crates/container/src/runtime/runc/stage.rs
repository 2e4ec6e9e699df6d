//! Where runc finds the root and everything bound: folders with a mount for each, which only the shim and runc see.
//!
//! The mounts have their attributes and id mappings already. What a container with users of its own inherits of them is
//! locked in its mount namespace, so nothing is left to runc but to bind them where they belong.

use crate::{
    plan::Plan,
    runtime::{
        message::{During, Failure},
        mounts,
        prepare::{self, Owner},
        program, tree,
    },
    spec::MountOptions,
    sys::mount::{Change, set_attributes},
};
use oci_spec::runtime::{LinuxDevice, Mount, MountBuilder};
use rustix::{
    fs::{FileType, Mode, OFlags, fstat, mkdirat, open, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, fsconfig_create, fsconfig_set_string,
        fsmount, fsopen,
    },
};
use std::{
    fs,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// Where the root is, in the run folder of the container; the same folder in which our own runtime mounts layers. It has to
/// be there, empty, as long as the container runs: runc enters it before it does anything for the container.
pub const ROOT: &str = "root";
/// Where all else is.
pub const FOLDER: &str = "mounts";

/// Everything bound into a container, attached nowhere yet.
pub struct Trees {
    root: OwnedFd,
    owner: (u32, u32),
    mounts: Vec<Staged>,
    devices: Vec<LinuxDevice>,
}

/// A mount of the container; those that are not bound are runc's to make.
struct Staged {
    mount: Mount,
    tree: Option<OwnedFd>,
}

impl Trees {
    /// Makes them.
    pub fn make(plan: &Plan, owner: Owner<'_>, warnings: &mut Vec<String>) -> Result<Self, Failure> {
        let mut all = Vec::new();
        for (mount, options) in plan.mounts() {
            let tree = match options.bind {
                Some(recursive) => {
                    let source = mount.source().as_deref().unwrap_or(Path::new(""));
                    Some(prepare::bind(source, recursive, &options, owner, warnings)?)
                }
                None => None,
            };
            all.push(Staged { mount: mount.clone(), tree });
        }
        for (source, destination) in &plan.files {
            let tree = prepare::bind(source, false, &MountOptions::default(), owner, warnings)?;
            let mut mount = Mount::default();
            mount.set_destination(destination.clone()).set_options(None);
            all.push(Staged { mount, tree: Some(tree) });
        }
        // In a user namespace runc can make no nodes: it binds those of the host, under the same name only.
        let devices = plan.record.spec.linux().as_ref().and_then(|linux| linux.devices().clone());
        let devices = if owner.uid == 0 { Vec::new() } else { devices.unwrap_or_default() };
        let (root, _) = prepare::root(plan, owner)?;
        Ok(Self { root, owner: (owner.uid, owner.gid), mounts: all, devices })
    }

    /// A file of the container, such as `/etc/passwd`, as it will see it; empty when there is none.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let path = Path::new(path);
        let covers = self.mounts.iter().filter(|one| path.starts_with(one.mount.destination()));
        let deepest = covers.max_by_key(|one| one.mount.destination().components().count());
        match deepest {
            None => program::read_bounded(self.root.as_fd(), path),
            Some(Staged { tree: None, .. }) => Ok(Vec::new()),
            Some(Staged { mount, tree: Some(tree) }) => {
                let below = path.strip_prefix(mount.destination()).unwrap_or(path);
                if !below.as_os_str().is_empty() {
                    return program::read_bounded(tree.as_fd(), below);
                }
                let own = format!("/proc/self/fd/{}", tree.as_raw_fd());
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = open(own.as_str(), flags, Mode::empty()).during("open", path.display())?;
                program::read_file(file, path)
            }
        }
    }

    /// The mounts of the bundle, once all is attached at `stage`.
    pub fn mounts(&self, stage: &Path) -> Vec<Mount> {
        let numbered = (0..).zip(&self.mounts);
        let mounts = numbered.map(|(number, one): (usize, _)| match &one.tree {
            Some(_) => bound(&one.mount, stage.join(number.to_string())),
            None => one.mount.clone(),
        });
        let devices = (0..).zip(&self.devices).map(|(number, device): (usize, _)| {
            let mut mount = Mount::default();
            mount.set_destination(device.path().clone()).set_options(None);
            bound(&mount, stage.join(format!("device-{number}")))
        });
        mounts.chain(devices).collect()
    }

    /// Whether its devices are among the mounts, and not runc's to make.
    pub fn has_devices(&self) -> bool {
        !self.devices.is_empty()
    }

    /// Attaches everything in the container's run folder. With `runc`, the program, the way there is opened to users who
    /// are not the host's.
    pub fn attach(self, running: &Path, runc: Option<&Path>) -> Result<(), Failure> {
        if let Some(runc) = runc {
            open_way(running, runc)?;
        }
        let [root, folder] = [ROOT, FOLDER].map(|name| running.join(name));
        for folder in [&root, &folder] {
            match fs::DirBuilder::new().mode(0o711).create(folder) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).during("make", folder.display());
                }
                _ => {}
            }
        }
        let target = tree::open_host(&root).during("open", root.display())?;
        mounts::attach(self.root.as_fd(), target.as_fd()).during("attach", root.display())?;
        let stage = cover(&folder)?;
        for (number, one) in self.mounts.iter().enumerate() {
            if let Some(tree) = &one.tree {
                place(&stage, &number.to_string(), tree)?;
            }
        }
        let owner = Owner { uid: self.owner.0, gid: self.owner.1, idmap: None };
        for (number, device) in self.devices.iter().enumerate() {
            prepare::device_at(&stage, Path::new(&format!("device-{number}")), device, owner)?;
        }
        Ok(())
    }
}

/// A bind mount of a staged tree: its attributes are there, its propagation is the container's to have.
fn bound(mount: &Mount, source: PathBuf) -> Mount {
    let spreads = |word: &&String| {
        let kind = word.strip_prefix('r').unwrap_or(word);
        matches!(kind, "shared" | "slave" | "private" | "unbindable")
    };
    let propagation = mount.options().iter().flatten().filter(spreads).cloned();
    let options = std::iter::once("rbind".to_owned()).chain(propagation).collect::<Vec<_>>();
    let mut bound = MountBuilder::default().destination(mount.destination().clone()).build().unwrap_or_default();
    bound.set_typ(Some("bind".to_owned())).set_source(Some(source)).set_options(Some(options));
    bound
}

/// Attaches a tree at a new name of the stage.
fn place(stage: &OwnedFd, name: &str, tree: &OwnedFd) -> Result<(), Failure> {
    let found = fstat(tree).during("look at", name)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        mkdirat(stage, name, Mode::from_raw_mode(0o755)).during("make", name)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(stage, name, flags, Mode::from_raw_mode(0o644)).during("make", name)?;
    }
    let target = openat(stage, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("open", name)?;
    mounts::attach(tree.as_fd(), target.as_fd()).during("attach", name)
}

/// Covers a folder with an empty file system through which everybody may pass.
fn cover(folder: &Path) -> Result<OwnedFd, Failure> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).during("open", "tmpfs")?;
    fsconfig_set_string(&context, c"mode", c"711").during("make", folder.display())?;
    fsconfig_create(&context).during("make", folder.display())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
    let made = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).during("mount", folder.display())?;
    let target = tree::open_host(folder).during("open", folder.display())?;
    mounts::attach(made.as_fd(), target.as_fd()).during("cover", folder.display())?;
    Ok(made)
}

/// runc looks up the root and its own files by path, as the container's root: a folder above the run folder that is closed to
/// others is covered, here where nobody else sees it, by one that leads to nothing else.
fn open_way(running: &Path, runc: &Path) -> Result<(), Failure> {
    let mut closed = None;
    for folder in running.ancestors() {
        let mode = fs::metadata(folder).during("look at", folder.display())?.permissions().mode();
        if mode & 0o001 == 0 {
            closed = Some(folder); // the last one found is the uppermost
        }
    }
    let Some(closed) = closed else { return Ok(()) };
    let mut kept = vec![(running, private(running)?)];
    if runc.starts_with(closed) {
        kept.push((runc, private(runc)?));
    }
    let top = cover(closed)?;
    for (path, tree) in kept {
        let below = path.strip_prefix(closed).unwrap_or(path);
        let directory = path == running;
        let target = if below.as_os_str().is_empty() {
            rustix::io::fcntl_dupfd_cloexec(&top, 0)
        } else {
            way(top.as_fd(), below, directory)
        };
        let target = target.during("open the way to", path.display())?;
        mounts::attach(tree.as_fd(), target.as_fd()).during("attach", path.display())?;
    }
    Ok(())
}

fn private(path: &Path) -> Result<OwnedFd, Failure> {
    let tree = prepare::clone(path, true)?;
    let propagation = Some(MountPropagationFlags::PRIVATE);
    let change = Change { propagation, recursive: true, ..Change::default() };
    set_attributes(tree.as_fd(), change).during("make private", path.display())?;
    Ok(tree)
}

/// Folders on the way to a path below, and a place to mount at its end.
fn way(top: BorrowedFd<'_>, below: &Path, directory: bool) -> rustix::io::Result<OwnedFd> {
    let open_at = |folder: BorrowedFd<'_>, name: &Path| {
        openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    let mut current = rustix::io::fcntl_dupfd_cloexec(top, 0)?;
    let mut parts = below.iter().map(Path::new).peekable();
    while let Some(part) = parts.next() {
        let made = if directory || parts.peek().is_some() {
            mkdirat(&current, part, Mode::from_raw_mode(0o711))
        } else {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&current, part, flags, Mode::from_raw_mode(0o600)).map(drop)
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        current = open_at(current.as_fd(), part)?;
    }
    Ok(current)
}
