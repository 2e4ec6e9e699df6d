//! Mounts made by the shim with the host's privileges, as descriptors: the root, everything bound from the host, `/dev`.
//!
//! The child only puts them in place. Attributes and id mappings are set before anything is attached, so there is no
//! moment at which a mount is there without its restrictions.

use super::{
    message::{During, Failure, FailureKind},
    shim::OwnMounts,
    tree,
};
use crate::{
    cgroup::ContainerMount,
    plan::Plan,
    record::Root,
    spec::{MountOptions, mounts::Attributes},
    sys::{
        mount::{Change, set_attributes},
        process::with_file_ids,
    },
};
use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, makedev, mkdirat, mknodat, symlinkat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, open_tree, unmount,
    },
};
use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Devices that every container has (OCI runtime specification, default devices).
pub const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Who the container's root is on the host, and how its mounts are mapped.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// Host's number of user 0 inside.
    pub uid: u32,
    /// Host's number of group 0 inside.
    pub gid: u32,
    /// The user namespace to map mounts by.
    pub idmap: Option<BorrowedFd<'a>>,
}

/// Mounts that are attached nowhere yet.
pub struct Made {
    /// In the order in which the child takes them: the root first.
    pub trees: Vec<OwnedFd>,
    /// The mount namespace in which the root was made, to be let go when there is time.
    pub rest: Option<OwnedFd>,
}

/// All mounts of a container.
pub fn all(plan: &Plan, owner: Owner<'_>, cgroups: &Groups<'_>, warnings: &mut Vec<String>) -> Result<Made, Failure> {
    let (root, rest) = root(plan, owner)?;
    let mut trees = vec![root];
    for (mount, options) in plan.mounts() {
        if let Some(recursive) = options.bind {
            let source = mount.source().as_deref().unwrap_or(Path::new(""));
            trees.push(bind(source, recursive, &options, owner, warnings)?);
        } else if is_dev(mount) {
            trees.push(dev(plan, &options, owner)?);
        } else if is_cgroup(mount) && !plan.has_cgroup_namespace() {
            trees.append(&mut groups(cgroups, &options)?);
        }
    }
    for (source, _) in &plan.files {
        trees.push(bind(source, false, &MountOptions::default(), owner, warnings)?);
    }
    Ok(Made { trees, rest })
}

/// Whether this mount is the container's `/dev`, filled by us.
pub fn is_dev(mount: &oci_spec::runtime::Mount) -> bool {
    mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("tmpfs")
}

/// Whether this mount shows control groups.
pub fn is_cgroup(mount: &oci_spec::runtime::Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
}

/// A container's groups, and how they are shown inside.
pub struct Groups<'a> {
    /// Its directory in each hierarchy.
    pub directories: &'a [std::path::PathBuf],
    /// Its path below the root of each.
    pub path: &'a str,
    /// The steps to a `/sys/fs/cgroup`.
    pub mounts: &'a [ContainerMount],
}

/// The container's own groups, one for each hierarchy in the order of the steps. A mount without a cgroup namespace would
/// show the host's whole hierarchy (and take the kernel 10 ms for the unified one).
fn groups(groups: &Groups<'_>, options: &MountOptions) -> Result<Vec<OwnedFd>, Failure> {
    let mut trees = Vec::new();
    for step in groups.mounts {
        let ContainerMount::Mount { name, fstype, .. } = step else { continue };
        if *fstype == "tmpfs" {
            continue;
        }
        let is_it = |directory: &&std::path::PathBuf| {
            let depth = Path::new(groups.path).components().count();
            let top = directory.ancestors().nth(depth);
            name.is_empty() || top.and_then(Path::file_name).is_some_and(|last| *last == **name)
        };
        let missing =
            || Failure::new(FailureKind::Failed, "find the control group in", name, "it has no such hierarchy");
        let directory = groups.directories.iter().find(is_it).ok_or_else(missing)?;
        let tree = clone(directory, false)?;
        let set = options.attributes.set
            | options.recursive.set
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let propagation = Some(MountPropagationFlags::PRIVATE);
        let change = Change { set, propagation, ..Change::default() };
        set_attributes(tree.as_fd(), change).during("set attributes of", directory.display())?;
        trees.push(tree);
    }
    Ok(trees)
}

/// A copy of the mount of a path of the host.
pub fn clone(source: &Path, recursive: bool) -> Result<OwnedFd, Failure> {
    let opened = tree::open_host(source).during("open", source.display())?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(&opened, c"", flags).during("clone the mount of", source.display())
}

fn map(mount: BorrowedFd<'_>, owner: Owner<'_>, recursive: bool) -> rustix::io::Result<()> {
    match owner.idmap {
        Some(_) => set_attributes(mount, Change { idmap: owner.idmap, recursive, ..Change::default() }),
        None => Ok(()),
    }
}

/// The root file system, and the mount namespace in which it was made, if any, to be let go when there is time.
pub fn root(plan: &Plan, owner: Owner<'_>) -> Result<(OwnedFd, Option<OwnedFd>), Failure> {
    let no_idmap = |errno: Errno, path: &Path| {
        let why = format!("its file system can not be id-mapped here ({})", std::io::Error::from(errno));
        Failure::new(FailureKind::NoIdmap, "map the owners of", path.display(), why)
    };
    let directory = match &plan.record.root {
        Root::Directory(path) => path.clone(),
        Root::Owned => plan.container.join("rootfs"),
        Root::Layers(layers) => {
            // Layers are attached, and the overlay is mounted, where only this process sees them. Nothing else happens there:
            // what is bound from it would be cut off from the host.
            let own = OwnMounts::enter()?;
            let made = overlay(plan, layers, owner, no_idmap);
            let rest = own.leave()?;
            return made.map(|tree| (tree, Some(rest)));
        }
    };
    let tree = clone(&directory, true)?;
    let private = Change { propagation: Some(MountPropagationFlags::PRIVATE), recursive: true, ..Change::default() };
    set_attributes(tree.as_fd(), private).during("make private", directory.display())?;
    map(tree.as_fd(), owner, true).map_err(|errno| no_idmap(errno, &directory))?;
    Ok((tree, None))
}

/// An overlay over id-mapped layers. The kernel wants layers that are attached somewhere (before 6.15), so each one's
/// clone covers its own path in the shim's private mount namespace, where nobody else sees it.
fn overlay(
    plan: &Plan,
    layers: &[std::path::PathBuf],
    owner: Owner<'_>,
    no_idmap: impl Fn(Errno, &Path) -> Failure,
) -> Result<OwnedFd, Failure> {
    let cover = |path: &Path| -> Result<OwnedFd, Failure> {
        if owner.idmap.is_some() {
            let tree = clone(path, false)?;
            map(tree.as_fd(), owner, false).map_err(|errno| no_idmap(errno, path))?;
            let target = tree::open_host(path).during("open", path.display())?;
            attach(&tree, target.as_fd()).during("cover", path.display())?;
        }
        tree::open_host(path).during("open", path.display())
    };
    let own = cover(&plan.container)?;
    // The first in the string is the top one. Short names, so that many layers fit into the kernel's one page.
    let opened = layers.iter().rev().map(|layer| cover(layer)).collect::<Result<Vec<_>, _>>()?;
    let lower: Vec<_> = opened.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect();
    let own = own.as_raw_fd();
    let data =
        format!("lowerdir={},upperdir=/proc/self/fd/{own}/upper,workdir=/proc/self/fd/{own}/work", lower.join(":"));
    if data.len() >= 4096 {
        let why = format!("{} layers are more than the kernel takes in one mount", layers.len());
        return Err(Failure::new(FailureKind::Invalid, "mount", "the root file system", why));
    }
    let target = plan.running.join("root");
    std::fs::create_dir_all(&target).during("make", target.display())?;
    let text = CString::new(data).map_err(|error| Failure::new(FailureKind::Invalid, "mount", "the layers", error))?;
    let make = || mount(c"overlay", &target, c"overlay", MountFlags::empty(), Some(text.as_c_str()));
    // The kernel makes its work folder as whoever mounts, who must have an owner on an id-mapped layer.
    let made = match owner.idmap {
        Some(_) => with_file_ids(owner.uid, owner.gid, make).and_then(|made| made),
        None => make(),
    };
    made.map_err(|errno| match (errno, owner.idmap) {
        // An overlay over id-mapped layers is possible from Linux 5.19.
        (Errno::INVAL, Some(_)) => no_idmap(errno, &plan.container),
        _ => Failure::new(FailureKind::Failed, "mount overlay at", target.display(), std::io::Error::from(errno)),
    })?;
    let tree = clone(&target, false)?;
    // The clone lives on without the place that it was made at.
    unmount(&target, UnmountFlags::DETACH).during("leave", target.display())?;
    std::fs::remove_dir(&target).during("remove", target.display())?;
    Ok(tree)
}

fn attach(tree: &OwnedFd, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    use rustix::mount::{MoveMountFlags, move_mount};
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

/// Something of the host to be bound, with its attributes.
pub fn bind(
    source: &Path,
    recursive: bool,
    options: &MountOptions,
    owner: Owner<'_>,
    warnings: &mut Vec<String>,
) -> Result<OwnedFd, Failure> {
    let tree = clone(source, recursive)?;
    let fd = tree.as_fd();
    let shared = options.propagation.iter().any(|one| one.kind == MountPropagationFlags::SHARED);
    if !shared {
        let kind = options.propagation.last().map_or(MountPropagationFlags::PRIVATE, |one| one.kind);
        let change = Change { propagation: Some(kind), recursive: true, ..Change::default() };
        set_attributes(fd, change).during("set propagation of", source.display())?;
    }
    let magic = rustix::fs::fstatfs(fd).during("look at", source.display())?.f_type;
    let kernels_own = magic == rustix::fs::PROC_SUPER_MAGIC || magic == SYSFS_MAGIC;
    if !kernels_own && let Err(errno) = map(fd, owner, recursive) {
        warnings.push(format!(
            "{} can not be id-mapped ({}): its owners appear as nobody inside",
            source.display(),
            std::io::Error::from(errno)
        ));
    }
    change(fd, options.attributes, false).during("set attributes of", source.display())?;
    change(fd, options.recursive, true).during("set attributes of", source.display())?;
    Ok(tree)
}

/// `SYSFS_MAGIC` of statfs(2).
const SYSFS_MAGIC: rustix::fs::FsWord = 0x6265_6572;

/// Turns attributes off, then on.
pub fn change(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> rustix::io::Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    let Attributes { set, clear } = attributes;
    set_attributes(mount, Change { set, clear, recursive, ..Change::default() })
}

/// A tmpfs with the device nodes in it: nodes made here work although the container could not make them itself.
fn dev(plan: &Plan, options: &MountOptions, owner: Owner<'_>) -> Result<OwnedFd, Failure> {
    const WHAT: &str = "the container's /dev";
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).during("open", "tmpfs")?;
    for option in &options.data {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, option.as_str()),
        }
        .during("set on /dev", option)?;
    }
    fsconfig_set_string(&context, c"source", c"tmpfs").during("name", WHAT)?;
    fsconfig_set_string(&context, c"uid", owner.uid.to_string()).during("own", WHAT)?;
    fsconfig_set_string(&context, c"gid", owner.gid.to_string()).during("own", WHAT)?;
    fsconfig_create(&context).during("make", WHAT)?;
    let attributes = options.attributes.set.difference(MountAttrFlags::MOUNT_ATTR_RDONLY);
    let dev = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).during("mount", WHAT)?;
    for (name, major, minor) in DEVICES {
        node(&dev, Path::new(name), FileType::CharacterDevice, 0o666, makedev(major, minor), (owner.uid, owner.gid))?;
    }
    for device in plan.record.spec.linux().iter().flat_map(|linux| linux.devices().iter().flatten()) {
        device_node(&dev, device, owner)?;
    }
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ];
    for (target, name) in links {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).during("link /dev/", name),
        }
    }
    Ok(dev)
}

fn device_node(dev: &OwnedFd, device: &oci_spec::runtime::LinuxDevice, owner: Owner<'_>) -> Result<(), Failure> {
    let path = device.path();
    let Ok(below) = path.strip_prefix("/dev") else {
        let why = "devices can only be made below /dev";
        return Err(Failure::new(FailureKind::Invalid, "make device", path.display(), why));
    };
    let mut made = std::path::PathBuf::new();
    for part in below.parent().into_iter().flat_map(Path::components) {
        made.push(part);
        match mkdirat(dev, &made, Mode::from_raw_mode(0o755)) {
            Ok(()) => chownat(
                dev,
                &made,
                Some(Uid::from_raw(owner.uid)),
                Some(Gid::from_raw(owner.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .during("own", path.display())?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).during("make folder of", path.display()),
        }
    }
    device_at(dev, below, device, owner)
}

/// A device at this name.
pub fn device_at(
    folder: &OwnedFd,
    name: &Path,
    device: &oci_spec::runtime::LinuxDevice,
    owner: Owner<'_>,
) -> Result<(), Failure> {
    use oci_spec::runtime::LinuxDeviceType as Type;
    let kind = match device.typ() {
        Type::B => FileType::BlockDevice,
        Type::P => FileType::Fifo,
        Type::C | Type::U | Type::A => FileType::CharacterDevice,
    };
    let number = |value: i64| u32::try_from(value).unwrap_or(0); // checked with the specification; a FIFO has none
    let mode = device.file_mode().unwrap_or(0o666);
    let ids = (owner.uid + device.uid().unwrap_or(0), owner.gid + device.gid().unwrap_or(0));
    node(folder, name, kind, mode, makedev(number(device.major()), number(device.minor())), ids)
}

fn node(
    dev: &OwnedFd,
    name: &Path,
    kind: FileType,
    mode: u32,
    number: u64,
    (uid, gid): (u32, u32),
) -> Result<(), Failure> {
    match mknodat(dev, name, kind, Mode::from_raw_mode(mode & 0o7777), number) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(errno).during("make /dev/", name.display()),
    }
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    chownat(dev, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).during("own /dev/", name.display())
}

/// The host's node of a default device, for containers that bring a `/dev` of their own.
pub fn host_device(name: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/dev/{name}");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path.as_str(), flags).during("clone", path)
}
