//! Volumes on the real file system, as root.

use super::*;
use crate::record::Root;
use rustix::fs::{AtFlags, FileType, Timespec, Timestamps, XattrFlags, makedev, mknodat, utimensat};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

struct Place {
    folder: tempfile::TempDir,
    layout: Layout,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(&folder.path().join("data"), Some(&folder.path().join("run"))).unwrap();
        Self { folder, layout }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn volume(&self, inside: &str) -> NewVolume {
        let path = self.layout.volumes().join("store");
        NewVolume { name: "store".to_owned(), path, inside: inside.into(), copy: true }
    }
    /// Fills the volume `store` from this root; gives where it is.
    fn fill(&self, root: &Root, inside: &str) -> Result<PathBuf, VolumeError> {
        let (volume, volumes) = (self.volume(inside), Volumes::new(&self.layout));
        let id = ContainerId::from_random([7; 16]);
        with_root(root, &self.path("container"), |root| volumes.make(&volume, &id, Some(root)))?;
        Ok(volume.path)
    }
}

fn chown(path: &Path, uid: u32, gid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
}
fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(1024);
    rustix::fs::getxattr(path, name, rustix::buffer::spare_capacity(&mut value)).ok()?;
    Some(value)
}

#[test]
fn a_copy_has_all_that_the_original_has() {
    let place = Place::new();
    let data = place.path("root/data");
    fs::create_dir_all(data.join("folder/deep")).unwrap();
    fs::write(data.join("file"), "text").unwrap();
    fs::hard_link(data.join("file"), data.join("folder/deep/again")).unwrap();
    fs::write(data.join("run"), "program").unwrap();
    symlink("/etc/passwd", data.join("link")).unwrap();
    rustix::fs::mknodat(CWD, data.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
    mknodat(CWD, data.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
    let sparse = fs::File::create(data.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"here", 1 << 39).unwrap();
    for (name, uid) in [("", 1), ("file", 2), ("run", 3), ("link", 4), ("fifo", 5), ("folder", 6)] {
        chown(&data.join(name), uid, uid + 100);
    }
    mode(&data, 0o2751);
    mode(&data.join("run"), 0o6755);
    mode(&data.join("folder"), 0o1777);
    // cap_net_raw, for the root of whoever has the file.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(data.join("file"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&data, "user.note", b"kept", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(data.join("run"), "trusted.overlay.origin", b"left", XattrFlags::empty()).unwrap();
    let time = Timespec { tv_sec: 1_000_000, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    for name in ["", "file", "link", "folder", "fifo"] {
        utimensat(CWD, data.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    let copy = place.fill(&Root::Directory(place.path("root")), "/data").unwrap();
    let names = ["", "file", "run", "link", "fifo", "null", "sparse", "folder", "folder/deep", "folder/deep/again"];
    for name in names {
        let (one, two) = (data.join(name).symlink_metadata().unwrap(), copy.join(name).symlink_metadata().unwrap());
        let facts = |of: &fs::Metadata| {
            let size = if of.is_dir() { 0 } else { of.len() };
            (of.mode(), of.uid(), of.gid(), of.rdev(), size, of.mtime(), of.mtime_nsec())
        };
        assert_eq!(facts(&two), facts(&one), "{name}");
    }
    assert_eq!(fs::read_to_string(copy.join("folder/deep/again")).unwrap(), "text");
    assert_eq!(copy.join("file").metadata().unwrap().ino(), copy.join("folder/deep/again").metadata().unwrap().ino());
    assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(attribute(&copy.join("file"), "security.capability").unwrap(), capability);
    assert_eq!(attribute(&copy, "user.note").unwrap(), b"kept");
    assert_eq!(attribute(&copy.join("run"), "trusted.overlay.origin"), None);
    assert!(copy.join("fifo").symlink_metadata().unwrap().file_type().is_fifo());
    let sparse = fs::File::open(copy.join("sparse")).unwrap();
    let mut here = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&sparse, &mut here, 1 << 39).unwrap();
    assert_eq!(&here, b"here");
    assert!(sparse.metadata().unwrap().blocks() < 1000, "holes stay holes");
    assert_eq!(copy.join("folder").read_dir().unwrap().count(), 1);
}

#[test]
fn nothing_is_reached_through_links() {
    let place = Place::new();
    fs::create_dir_all(place.path("root/real")).unwrap();
    fs::create_dir_all(place.path("victim")).unwrap();
    fs::write(place.path("victim/secret"), "host").unwrap();
    fs::write(place.path("root/real/fact"), "inside").unwrap();
    symlink(place.path("victim"), place.path("root/out")).unwrap();
    symlink(place.path("victim"), place.path("root/real/out")).unwrap();
    symlink("/real", place.path("root/in")).unwrap();
    symlink("../../../../../real", place.path("root/up")).unwrap();
    let root = Root::Directory(place.path("root"));
    for (inside, wanted) in [("/out", vec![]), ("/in", vec!["fact", "out"]), ("/up", vec!["fact", "out"])] {
        let copy = place.fill(&root, inside).unwrap();
        let mut names: Vec<_> = copy.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, wanted, "{inside}");
        if !wanted.is_empty() {
            assert!(copy.join("out").symlink_metadata().unwrap().is_symlink());
        }
        fs::remove_dir_all(copy).unwrap();
    }
}

#[test]
fn layers_are_seen_as_one() {
    let place = Place::new();
    for (path, text) in [("low/data/both", "low"), ("low/data/below", "low"), ("low/data/gone", "low")] {
        fs::create_dir_all(place.path(path).parent().unwrap()).unwrap();
        fs::write(place.path(path), text).unwrap();
    }
    fs::hard_link(place.path("low/data/below"), place.path("low/data/twin")).unwrap();
    fs::create_dir_all(place.path("high/data")).unwrap();
    fs::write(place.path("high/data/both"), "high").unwrap();
    mknodat(CWD, place.path("high/data/gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    for folder in ["container/upper", "container/work"] {
        fs::create_dir_all(place.path(folder)).unwrap();
    }
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    for layers in [vec![place.path("low"), place.path("high")], vec![place.path("low")]] {
        let copy = place.fill(&Root::Layers(layers.clone()), "/data").unwrap();
        let mut names: Vec<_> =
            copy.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let (all, both) = match layers.len() {
            1 => (vec!["below", "both", "gone", "twin"], "low"),
            _ => (vec!["below", "both", "twin"], "high"),
        };
        assert_eq!(names, all);
        assert_eq!(fs::read_to_string(copy.join("both")).unwrap(), both);
        assert_eq!(copy.join("below").metadata().unwrap().ino(), copy.join("twin").metadata().unwrap().ino());
        fs::remove_dir_all(copy).unwrap();
    }
    assert_eq!(mounts(), before, "nobody else sees how they are put together");
}

#[test]
fn a_volume_is_there_as_a_whole_or_not_at_all() {
    let place = Place::new();
    let mut deep = place.path("root/data");
    for _ in 0..DEEPEST + 2 {
        deep.push("x");
    }
    fs::create_dir_all(&deep).unwrap();
    let root = Root::Directory(place.path("root"));
    let error = place.fill(&root, "/data").unwrap_err();
    assert!(matches!(error, VolumeError::TooDeep { .. }), "{error}");
    let volumes = place.layout.volumes();
    assert_eq!(volumes.read_dir().unwrap().count(), 0);

    // As a killed process leaves it.
    fs::create_dir_all(volumes.join(".store.0123/half")).unwrap();
    assert_eq!(Volumes::new(&place.layout).sweep().unwrap(), ["half a volume .store.0123"]);
    assert_eq!(volumes.read_dir().unwrap().count(), 0);

    // Whoever is quicker has it.
    fs::create_dir_all(place.path("root/etc")).unwrap();
    fs::write(place.path("root/etc/fact"), "").unwrap();
    fs::create_dir(volumes.join("store")).unwrap();
    let store = place.fill(&root, "/etc").unwrap();
    assert_eq!((store.read_dir().unwrap().count(), volumes.read_dir().unwrap().count()), (0, 1));
}

#[test]
fn what_is_not_in_the_image_makes_an_empty_volume() {
    let place = Place::new();
    fs::create_dir_all(place.path("root")).unwrap();
    fs::write(place.path("root/file"), "").unwrap();
    for inside in ["/nowhere", "/file", "/file/below"] {
        let store = place.fill(&Root::Directory(place.path("root")), inside).unwrap();
        assert_eq!((store.read_dir().unwrap().count(), store.metadata().unwrap().mode() & 0o7777), (0, 0o755));
        fs::remove_dir(store).unwrap();
    }
}
