//! Mounts as the child makes them, in its own namespaces: what the shim prepared is put in place, the kernel's own file
//! systems are made, paths are masked.

use super::{
    message::{During, Failure, FailureKind},
    prepare, tree,
};
use crate::{
    cgroup::ContainerMount,
    plan::Plan,
    spec::MountOptions,
    sys::mount::{Change, set_attributes},
};
use oci_spec::runtime::Mount;
use rustix::{
    fs::{CWD, FileType, OFlags, fstat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
    },
    process::{fchdir, pivot_root},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// File systems of which the kernel keeps one instance for many mounts: being read-only is the mount's matter there.
const SHARED: [&str; 6] = ["proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts"];

/// What later steps need.
pub struct Mounted {
    /// The container's `/dev/pts`, where the terminal comes from.
    pub pts: Option<OwnedFd>,
    /// The container's `/proc`, for kernel parameters.
    pub proc: Option<OwnedFd>,
}

/// Builds the tree on top of the root, which is attached at `stage` and becomes `/`.
pub fn build(
    plan: &Plan,
    stage: BorrowedFd<'_>,
    trees: Vec<OwnedFd>,
    cgroups: &[ContainerMount],
) -> Result<Mounted, Failure> {
    let slave = Change { propagation: Some(MountPropagationFlags::DOWNSTREAM), recursive: true, ..Change::default() };
    let host = tree::open_host(Path::new("/")).during("open", "/")?;
    set_attributes(host.as_fd(), slave).during("separate from the host", "all mounts")?;
    let mut trees = trees.into_iter();
    let missing = || Failure::new(FailureKind::Failed, "mount", "the container's files", "the shim sent too few");
    let root = trees.next().ok_or_else(missing)?;
    attach(root.as_fd(), stage).during("attach", "the root file system")?;
    let mut mounted = Mounted { pts: None, proc: None };
    let mut read_only = Vec::new();
    for (mount, options) in plan.mounts() {
        let path = mount.destination();
        if options.bind.is_some() || prepare::is_dev(mount) {
            let tree = trees.next().ok_or_else(missing)?;
            place(root.as_fd(), tree.as_fd(), path)?;
            if prepare::is_dev(mount) && options.read_only() {
                read_only.push(tree);
            } else if path == Path::new("/proc") {
                let magic = rustix::fs::fstatfs(&tree).during("look at", "/proc")?.f_type;
                mounted.proc = (magic == rustix::fs::PROC_SUPER_MAGIC).then_some(tree);
            }
            continue;
        }
        let kind = mount.typ().as_deref().unwrap_or_default();
        if prepare::is_cgroup(mount) {
            let mut bound = || trees.next().ok_or_else(missing);
            let bound: Option<&mut dyn FnMut() -> Result<OwnedFd, Failure>> =
                if plan.has_cgroup_namespace() { None } else { Some(&mut bound) };
            control_groups(root.as_fd(), path, &options, cgroups, bound)?;
            continue;
        }
        let made = make(kind, mount, &options)?;
        let plain = SHARED.contains(&kind);
        let place =
            tree::mount_point(root.as_fd(), path, true, plain).during("find the place of mount", path.display())?;
        attach(made.as_fd(), place.as_fd()).during("attach", path.display())?;
        match kind {
            "devpts" => mounted.pts = Some(made),
            "proc" if path == Path::new("/proc") => mounted.proc = Some(made),
            _ => {}
        }
    }
    for (_, path) in &plan.files {
        place(root.as_fd(), trees.next().ok_or_else(missing)?.as_fd(), path)?;
    }
    let own_dev = plan.record.spec.mounts().iter().flatten().any(|mount| mount.destination() == Path::new("/dev"));
    if !own_dev {
        for (name, ..) in prepare::DEVICES {
            place(root.as_fd(), prepare::host_device(name)?.as_fd(), &Path::new("/dev").join(name))?;
        }
    }
    for mount in read_only {
        set_read_only(mount.as_fd(), false).during("make read-only", "/dev")?;
    }
    fchdir(&root).during("enter", "the root file system")?;
    pivot_root(c".", c".").during("pivot to", "the root file system")?;
    unmount(c".", UnmountFlags::DETACH).during("leave", "the host's file systems")?;
    rustix::process::chdir(c"/").during("enter", "/")?;
    Ok(mounted)
}

/// Masks, read-only paths and the root's own attributes: the last of the mounts.
pub fn finish(plan: &Plan) -> Result<(), Failure> {
    let root = tree::open_host(Path::new("/")).during("open", "/")?;
    let linux = plan.record.spec.linux().as_ref();
    let read_only = linux.and_then(|linux| linux.readonly_paths().as_ref());
    for path in read_only.into_iter().flatten().map(Path::new) {
        let Some(opened) = existing(root.as_fd(), path)? else { continue };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(&opened, c"", flags).during("clone", path.display())?;
        set_read_only(tree.as_fd(), true).during("make read-only", path.display())?;
        attach(tree.as_fd(), opened.as_fd()).during("make read-only", path.display())?;
    }
    let masked = linux.and_then(|linux| linux.masked_paths().as_ref());
    let mut empty: Option<OwnedFd> = None;
    for path in masked.into_iter().flatten().map(Path::new) {
        let Some(opened) = existing(root.as_fd(), path)? else { continue };
        let directory =
            FileType::from_raw_mode(fstat(&opened).during("look at", path.display())?.st_mode) == FileType::Directory;
        let cover = if directory {
            // One empty file system covers all of them; its first mount is attached, the others are clones of it.
            match &empty {
                Some(first) => {
                    let flags = OpenTreeFlags::OPEN_TREE_CLONE
                        | OpenTreeFlags::OPEN_TREE_CLOEXEC
                        | OpenTreeFlags::AT_EMPTY_PATH;
                    open_tree(first, c"", flags).during("clone", "an empty folder")?
                }
                None => empty_folder()?,
            }
        } else {
            null_device(root.as_fd())?
        };
        attach(cover.as_fd(), opened.as_fd()).during("mask", path.display())?;
        if directory && empty.is_none() {
            empty = Some(cover);
        }
    }
    match linux.and_then(|linux| linux.rootfs_propagation().as_deref()) {
        Some("shared" | "rshared") => propagate(root.as_fd(), MountPropagationFlags::SHARED)?,
        Some("slave" | "rslave") => propagate(root.as_fd(), MountPropagationFlags::DOWNSTREAM)?,
        Some("unbindable" | "runbindable") => propagate(root.as_fd(), MountPropagationFlags::UNBINDABLE)?,
        _ => {}
    }
    if plan.read_only_root() {
        set_read_only(root.as_fd(), false).during("make read-only", "the root file system")?;
    }
    Ok(())
}

fn propagate(root: BorrowedFd<'_>, kind: MountPropagationFlags) -> Result<(), Failure> {
    let change = Change { propagation: Some(kind), ..Change::default() };
    set_attributes(root, change).during("set propagation of", "the root file system")
}

fn existing(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Failure> {
    match tree::open(root, path, OFlags::PATH) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno).during("look for", path.display()),
    }
}

fn empty_folder() -> Result<OwnedFd, Failure> {
    const WHAT: &str = "an empty folder";
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).during("open", "tmpfs")?;
    fsconfig_set_string(&context, c"mode", c"755").during("make", WHAT)?;
    fsconfig_set_string(&context, c"nr_inodes", c"1").during("make", WHAT)?;
    fsconfig_set_flag(&context, c"ro").during("make", WHAT)?;
    fsconfig_create(&context).during("make", WHAT)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY).during("mount", WHAT)
}

/// The null device for masking. It is checked to be the device: a file put in its place would be shown instead
/// (CVE-2025-31133).
fn null_device(root: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let null = tree::open_plain(root, Path::new("/dev/null"), OFlags::PATH).during("open", "/dev/null")?;
    let found = fstat(&null).during("look at", "/dev/null")?;
    let is_null = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
        && found.st_rdev == rustix::fs::makedev(1, 3);
    if !is_null {
        return Err(Failure::new(FailureKind::Invalid, "mask a file with", "/dev/null", "it is not the null device"));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&null, c"", flags).during("clone", "/dev/null")
}

fn set_read_only(mount: BorrowedFd<'_>, recursive: bool) -> rustix::io::Result<()> {
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
    set_attributes(mount, Change { set, recursive, ..Change::default() })
}

/// Attaches a mount at a place, both by descriptor.
pub fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags)
}

/// Attaches a prepared mount at a path of the root, making the place where it is missing.
pub fn place(root: BorrowedFd<'_>, mount: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
    let source = fstat(mount).during("look at", path.display())?;
    let directory = FileType::from_raw_mode(source.st_mode) == FileType::Directory;
    let place = tree::mount_point(root, path, directory, false).during("find the place of mount", path.display())?;
    attach(mount, place.as_fd()).during("attach", path.display())
}

fn make(kind: &str, mount: &Mount, options: &MountOptions) -> Result<OwnedFd, Failure> {
    let path = mount.destination().display();
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).during("open file system", kind)?;
    if let Some(source) = mount.source().as_ref().filter(|source| !source.as_os_str().is_empty()) {
        fsconfig_set_string(&context, c"source", source.as_path()).during("set source of", &path)?;
    }
    for option in &options.data {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, option.as_str()),
        }
        .during(&format!("set option {option} of"), &path)?;
    }
    if !SHARED.contains(&kind) {
        for flag in options.filesystem_flags() {
            fsconfig_set_flag(&context, flag).during(&format!("set option {flag} of"), &path)?;
        }
    }
    fsconfig_create(&context).during(&format!("make a {kind} for"), &path)?;
    let attributes = options.attributes.set | options.recursive.set;
    let made =
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).during(&format!("mount {kind} for"), &path)?;
    for one in &options.propagation {
        let change = Change { propagation: Some(one.kind), recursive: one.recursive, ..Change::default() };
        set_attributes(made.as_fd(), change).during("set propagation of", &path)?;
    }
    Ok(made)
}

/// The container's own control groups, read-only: a process that is root inside could raise its own limits otherwise.
fn control_groups(
    root: BorrowedFd<'_>,
    path: &Path,
    options: &MountOptions,
    steps: &[ContainerMount],
    mut bound: Option<&mut dyn FnMut() -> Result<OwnedFd, Failure>>,
) -> Result<(), Failure> {
    let secure =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let attributes = options.attributes.set | options.recursive.set | secure;
    let mut top: Option<OwnedFd> = None;
    for step in steps {
        match step {
            ContainerMount::Mount { name, fstype, options: data } => {
                let whole = path.join(name);
                let find = "find the place of mount";
                if let Some(next) = bound.as_mut().filter(|_| *fstype != "tmpfs") {
                    let place = tree::mount_point(root, &whole, true, true).during(find, whole.display())?;
                    attach(next()?.as_fd(), place.as_fd()).during("attach", whole.display())?;
                    continue;
                }
                let context = fsopen(*fstype, FsOpenFlags::FSOPEN_CLOEXEC).during("open file system", fstype)?;
                // As runc names it, which programs may look for.
                let source = if *fstype == "cgroup2" { "cgroup" } else { fstype };
                fsconfig_set_string(&context, c"source", source).during("set source of", whole.display())?;
                for option in data.split(',').filter(|option| !option.is_empty()) {
                    match option.split_once('=') {
                        Some((key, value)) => fsconfig_set_string(&context, key, value),
                        None => fsconfig_set_flag(&context, option),
                    }
                    .during(&format!("set option {option} of"), whole.display())?;
                }
                fsconfig_create(&context).during("make", whole.display())?;
                let tmpfs = *fstype == "tmpfs";
                let attributes =
                    if tmpfs { attributes.difference(MountAttrFlags::MOUNT_ATTR_RDONLY) } else { attributes };
                let made =
                    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).during("mount", whole.display())?;
                let place =
                    tree::mount_point(root, &whole, true, true).during("find the place of mount", whole.display())?;
                attach(made.as_fd(), place.as_fd()).during("attach", whole.display())?;
                if tmpfs {
                    top = Some(made);
                }
            }
            ContainerMount::Link { name, target } => {
                let whole = path.join(name);
                let folder = tree::open_plain(root, path, OFlags::PATH).during("open", path.display())?;
                rustix::fs::symlinkat(target.as_str(), &folder, name.as_str()).during("link", whole.display())?;
            }
        }
    }
    match top {
        Some(top) if options.read_only() => set_read_only(top.as_fd(), false).during("make read-only", path.display()),
        _ => Ok(()),
    }
}

/// Writes a kernel parameter through the container's own, freshly made `/proc`.
pub fn parameter(proc: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), Failure> {
    let bad = || Failure::new(FailureKind::Invalid, "set kernel parameter", name, "it is not a parameter's name");
    let below = crate::spec::sysctl::path(name).ok_or_else(bad)?;
    let path = Path::new("sys").join(below.strip_prefix("/proc/sys").unwrap_or(&below));
    let resolve =
        rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS | rustix::fs::ResolveFlags::NO_XDEV;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(proc, path, flags, rustix::fs::Mode::empty(), resolve)
        .during("set kernel parameter", name)?;
    rustix::io::write(&file, value.as_bytes()).map(drop).during("set kernel parameter", format!("{name}={value}"))
}

/// A terminal of the container's own; its slave covers `/dev/console`.
pub fn terminal(pts: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd), Failure> {
    const WHAT: &str = "a terminal";
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(pts, c"ptmx", flags, rustix::fs::Mode::empty()).during("open", WHAT)?;
    rustix::pty::unlockpt(&master).during("unlock", WHAT)?;
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    // By descriptor, not by name: nothing in the container's /dev is trusted (CVE-2025-52565).
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).during("open", WHAT)?;
    Ok((master, slave))
}

/// Binds the terminal over `/dev/console`.
pub fn console(slave: BorrowedFd<'_>) -> Result<(), Failure> {
    let root = tree::open_host(Path::new("/")).during("open", "/")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(slave, c"", flags).during("clone", "the terminal")?;
    let place =
        tree::mount_point(root.as_fd(), Path::new("/dev/console"), false, true).during("make", "/dev/console")?;
    attach(tree.as_fd(), place.as_fd()).during("attach", "/dev/console")
}

/// The current directory of the host's tree, for `stage`.
pub fn stage(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, rustix::fs::Mode::empty()).during("open", path.display())
}
