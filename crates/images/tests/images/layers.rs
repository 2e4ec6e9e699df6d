//! Unpacking and packing.

use crate::support::*;
use images::{
    Event, LayerState, Owner, Progress,
    layer::{Compression, Devices, PackOptions, UnpackError, UnpackOptions, pack},
    tarball::{Extent, Kind},
};
use proptest::prelude::*;
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Everything that can be said of a tree, as lines of text. `times`: with modification times.
fn describe_tree(root: &Path, times: bool) -> String {
    let time = if times { " %T@" } else { "" };
    let format = format!("%P %y %m %U %G %l{time}\\n");
    let mut lines: Vec<String> = run("find", &[root.to_str().unwrap(), "-mindepth", "1", "-printf", &format])
        .lines()
        .map(|line| line.replace(".0000000000", ""))
        .collect();
    lines.sort();
    let sums = run(
        "sh",
        &["-c", "cd \"$1\" && find . -type f -print0 | sort -z | xargs -0 -r sha256sum", "sh", root.to_str().unwrap()],
    );
    let attributes = "import os, sys\nfor r, d, f in os.walk(sys.argv[1]):\n  for n in sorted(d + f):\n    p = os.path.join(r, n)\n    a = {k: os.getxattr(p, k, follow_symlinks=False) for k in sorted(os.listxattr(p, follow_symlinks=False)) if k.startswith('user.') or k == 'security.capability'}\n    a and print(os.path.relpath(p, sys.argv[1]), a)";
    let mut attributes: Vec<String> =
        run("python3", &["-c", attributes, root.to_str().unwrap()]).lines().map(str::to_owned).collect();
    attributes.sort();
    lines.join("\n") + "\n" + &sums + &attributes.join("\n")
}

fn rich() -> Vec<(images::tarball::Entry, Vec<u8>)> {
    let mut entries = vec![other("./", Kind::Directory, ""), other("etc/", Kind::Directory, "")];
    let mut secret = file("etc/secret", b"s");
    (secret.0.mode, secret.0.uid, secret.0.gid, secret.0.mtime) = (0o4750, 1000, 100_000, 1_000_000_000);
    secret.0.xattrs = vec![
        (b"user.a".to_vec(), b"b\0c".to_vec()),
        // cap_net_raw=ep, VFS_CAP_REVISION_2
        (b"security.capability".to_vec(), [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec()),
        (b"security.selinux".to_vec(), b"x".to_vec()),
        (b"trusted.other".to_vec(), b"x".to_vec()),
    ];
    entries.push(secret);
    entries.push(other("etc/hard", Kind::HardLink, "etc/secret"));
    entries.push(other("bin", Kind::Symlink, "/usr/bin"));
    entries.push(other("pipe", Kind::Fifo, ""));
    let mut null = other("dev/null", Kind::Character, "");
    (null.0.device, null.0.mode) = ((1, 3), 0o666);
    entries.push(null);
    let mut sparse = file("sparse", &[1; 5000]);
    sparse.0.size = 1 << 40;
    sparse.0.extents = Some(vec![Extent { offset: 0, length: 1000 }, Extent { offset: 1 << 39, length: 4000 }]);
    entries.push(sparse);
    // Zeros that the archive spells out.
    let mut zeros = vec![0u8; 4 << 20];
    zeros[3 << 20] = 7;
    entries.push(file("zeros", &zeros));
    let mut sticky = other("tmp/", Kind::Directory, "");
    (sticky.0.mode, sticky.0.mtime, sticky.0.gid) = (0o3777, 5, 7);
    entries.push(sticky);
    entries.push(file("tmp/in", b""));
    entries.push(file("implied/deep/file", b"x"));
    // Again: the last one counts, its other name keeps what it was.
    entries.push(file("twice", b"old"));
    entries.push(other("twice-linked", Kind::HardLink, "twice"));
    entries.push(file("twice", b"new"));
    entries
}

#[test]
fn everything_that_a_layer_can_say() {
    let (_folder, store) = store();
    for layer in [
        Layer::plain(tar(&rich())),
        Layer::gzip(tar(&[rich(), vec![file("gzip", b"")]].concat())),
        Layer::zstd(tar(&[rich(), vec![file("zstd", b"")]].concat())),
    ] {
        let root = unpack(&store, &[layer]).unwrap().remove(0);
        let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
        let secret = stat("etc/secret");
        assert_eq!(
            (secret.mode() & 0o7777, secret.uid(), secret.gid(), secret.mtime(), secret.nlink()),
            (0o4750, 1000, 100_000, 1_000_000_000, 2)
        );
        assert_eq!(secret.ino(), stat("etc/hard").ino());
        let attributes = |name: &str| {
            let mut value = vec![0; 100];
            rustix::fs::lgetxattr(root.join("etc/secret"), name, &mut value).map(|length| value[..length].to_vec())
        };
        assert_eq!(attributes("user.a").unwrap(), b"b\0c");
        assert_eq!(attributes("security.capability").unwrap()[..4], [1, 0, 0, 2]);
        assert!(attributes("trusted.other").is_err() && attributes("security.selinux").is_err());
        assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("/usr/bin"));
        assert!(stat("pipe").file_type().is_fifo());
        assert_eq!((stat("dev/null").rdev(), stat("dev/null").mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o666));
        assert_eq!(stat("sparse").len(), 1 << 40);
        assert!(stat("sparse").blocks() < 100 && stat("zeros").blocks() < 1000, "holes stay holes");
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_at(&fs::File::open(root.join("sparse")).unwrap(), &mut byte, (1 << 39) + 3999)
            .unwrap();
        assert_eq!(byte, [1]);
        assert_eq!(fs::read(root.join("zeros")).unwrap()[3 << 20], 7);
        assert_eq!((stat("tmp").mode() & 0o7777, stat("tmp").mtime(), stat("tmp").gid()), (0o3777, 5, 7));
        assert_eq!(stat("tmp/in").gid(), 0);
        assert_eq!(stat("implied/deep").mode() & 0o7777, 0o755);
        assert_eq!(
            (fs::read(root.join("twice")).unwrap(), fs::read(root.join("twice-linked")).unwrap()),
            (b"new".to_vec(), b"old".to_vec())
        );
    }
}

#[test]
fn whiteouts_hide_what_is_below_in_a_real_overlay() {
    let (folder, store) = store();
    let base = tar(&[
        file("gone", b""),
        file("stays", b"1"),
        file("dir/a", b""),
        file("dir/b", b""),
        file("replaced/old", b""),
        file("later/old", b""),
        file("emptied/x", b""),
    ]);
    let upper = tar(&[
        file(".wh.gone", b""),
        file("dir/.wh.a", b""),
        file(".wh.replaced", b""),
        file("replaced/new", b""),
        file("later/new", b""),
        file(".wh.later", b""),
        other("emptied/", Kind::Directory, ""),
        file("emptied/.wh..wh..opq", b""),
        file("emptied/y", b""),
        file(".wh..wh.plnk/1.2", b""),
        file("dir/.wh..wh.aufs", b""),
        // A whiteout does not hide what its own layer has.
        file("own", b""),
        file(".wh.own", b""),
    ]);
    let layers = unpack(&store, &[Layer::plain(base), Layer::gzip(upper)]).unwrap();
    let merged = folder.path().join("merged");
    let mount = Overlay::mount(&layers, &merged);
    let files = run("find", &[merged.to_str().unwrap(), "-type", "f", "-printf", "%P\n"]);
    let mut files: Vec<&str> = files.lines().collect();
    files.sort_unstable();
    assert_eq!(files, ["dir/b", "emptied/y", "later/new", "own", "replaced/new", "stays"]);
    drop(mount);
}

#[test]
fn an_opaque_root_hides_all_layers_below() {
    let (folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let base = || Layer::plain(tar(&[file("base", b"")]));
    let middle = || Layer::gzip(tar(&[file(".wh..wh..opq", b""), file("middle", b"")]));
    let top = || Layer::gzip(tar(&[file("top", b"")]));
    let seen = |layers: &[PathBuf]| {
        let merged = folder.path().join("merged");
        let mount = Overlay::mount(layers, &merged);
        let names = list(&merged);
        drop(mount);
        names
    };
    assert_eq!(seen(&unpack(&store, &[base(), middle(), top()]).unwrap()), ["middle", "top"]);
    assert_eq!(seen(&unpack(&store, &[middle(), base(), middle()]).unwrap()), ["middle"]);
    assert_eq!(seen(&unpack(&store, &[middle(), base()]).unwrap()), ["base", "middle"]);
    // Packed again it hides the same.
    let unpacked = unpack(&store, &[middle()]).unwrap().remove(0);
    let packed = pack(&store, &lease, &unpacked, PackOptions::default()).unwrap();
    let base_id = diff_id(&unpack(&store, &[base()]).unwrap()[0]);
    let base_blob = store.need(&base_id.parse().unwrap()).unwrap();
    let base_blob = images::store::describe(images::media::OCI_LAYER, &base_blob).unwrap();
    let target = assemble(&lease, &[base_blob, packed.descriptor], &[base_id, packed.diff_id.to_string()]);
    let (manifest, configuration) = documents(&store, &target);
    assert_eq!(seen(&store.unpack(&lease, &manifest, &configuration, &images::Silent).unwrap()), ["middle"]);
}

/// A mounted overlay, read-only over layers (base first), or with an upper directory.
struct Overlay(PathBuf);

impl Overlay {
    fn mount(layers: &[PathBuf], on: &Path) -> Self {
        Self::mount_with(layers, on, "")
    }
    fn mount_with(layers: &[PathBuf], on: &Path, more: &str) -> Self {
        fs::create_dir_all(on).unwrap();
        let lower: Vec<&str> = layers.iter().rev().map(|layer| layer.to_str().unwrap()).collect();
        // Two lower directories at least: an empty one does no harm.
        let empty = on.with_extension("empty");
        fs::create_dir_all(&empty).unwrap();
        let options = format!("lowerdir={}:{}{more}", lower.join(":"), empty.display());
        run("mount", &["-t", "overlay", "overlay", "-o", &options, on.to_str().unwrap()]);
        Self(on.to_owned())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().unwrap()]);
    }
}

#[test]
fn what_a_container_changed_becomes_a_layer_with_the_same_effect() {
    let (folder, store) = store();
    let base = tar(&[
        file("gone", b""),
        file("dir/a", b"1"),
        file("dir/b", b"2"),
        file("made-new/x", b""),
        file("kept", b"k"),
    ]);
    let base = unpack(&store, &[Layer::plain(base)]).unwrap();
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| folder.path().join(name));
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(&work).unwrap();
    let mount =
        Overlay::mount_with(&base, &merged, &format!(",upperdir={},workdir={}", upper.display(), work.display()));
    run(
        "sh",
        &[
            "-ec",
            "cd \"$1\"; rm gone dir/a; rm -r made-new; mkdir made-new; echo y > made-new/y; echo 3 > dir/b; ln dir/b hard; ln -s x link; mkfifo pipe; mknod null c 1 3; mkdir -m 1777 tmp; touch -d @77 tmp/old; chown 5:6 tmp; setfattr -n user.k -v v tmp/old 2>/dev/null || :; truncate -s 300M big; printf end >> big; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")' || :; rm -f socket; find . -depth -exec sh -c 'for f; do touch -h -d @$(stat -c %Y \"$f\") \"$f\"; done' sh {} +",
            "sh",
            merged.to_str().unwrap(),
        ],
    );
    let effect = describe_tree(&merged, true);
    drop(mount);
    let lease = store.lease(Owner::Process).unwrap();
    for compression in [Compression::None, Compression::Gzip(6), Compression::Zstd(3)] {
        let options = PackOptions { compression, latest: None };
        let packed = pack(&store, &lease, &upper, options).unwrap();
        assert_eq!(packed, pack(&store, &lease, &upper, options).unwrap());
        assert!(packed.size < 1 << 20, "the 300 MiB of zeros are not in it: {}", packed.size);
        let diff_ids = [diff_id(&base[0]), packed.diff_id.to_string()];
        let base_blob = store.need(&diff_ids[0].parse().unwrap()).unwrap();
        let base_blob = images::store::describe(images::media::OCI_LAYER, &base_blob).unwrap();
        let target = assemble(&lease, &[base_blob, packed.descriptor], &diff_ids);
        let (manifest, configuration) = documents(&store, &target);
        let layers = store.unpack(&lease, &manifest, &configuration, &images::Silent).unwrap();
        let mount = Overlay::mount(&layers, &merged);
        assert_eq!(describe_tree(&merged, true), effect);
        drop(mount);
        // Without times: nobody sees those of a whiteout.
        assert_eq!(describe_tree(&layers[1], false), describe_tree(&upper, false));
    }
    // A time that nothing is later than.
    let options = PackOptions { compression: Compression::None, latest: Some(50) };
    let packed = pack(&store, &lease, &upper, options).unwrap();
    let bytes = fs::read(store.need(&packed.diff_id).unwrap().path).unwrap();
    let mut reader = images::tarball::Reader::new(&bytes[..], images::tarball::Limits::default());
    while let Some(entry) = reader.entry().unwrap() {
        assert!(entry.mtime <= 50);
    }
}

fn diff_id(layer: &Path) -> String {
    format!("sha256:{}", layer.parent().unwrap().file_name().unwrap().to_str().unwrap())
}

#[test]
fn a_file_that_a_layer_cannot_say_is_named() {
    let (folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let upper = folder.path().join("upper");
    fs::create_dir_all(upper.join("a")).unwrap();
    fs::write(upper.join("a/.wh.x"), "").unwrap();
    let error = pack(&store, &lease, &upper, PackOptions::default()).unwrap_err();
    assert!(error.to_string().contains("`a/.wh.x`"), "{error}");
    assert!(list(&store.folder().join("ingest")).is_empty());
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn event(&self, event: Event<'_>) {
        if let Event::Layer { digest, state, .. } = event {
            let state = match state {
                LayerState::Unpack { .. } => "unpack".to_owned(),
                other => format!("{other:?}"),
            };
            self.0.lock().unwrap().push(format!("{} {state}", digest.short()));
        }
    }
}

#[test]
fn shared_layers_are_unpacked_once_whoever_asks() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let layer = |n: u32| Layer::gzip(tar(&[file(&format!("f{n}"), &vec![u8::try_from(n % 256).unwrap(); 200_000])]));
    let images: Vec<_> = [[1, 2, 3], [3, 2, 4], [4, 1, 1]].iter().map(|ns| image(&lease, &ns.map(layer))).collect();
    let notes = Notes::default();
    std::thread::scope(|scope| {
        for target in images.iter().cycle().take(12) {
            let notes = &notes;
            // A store of its own, as another process has.
            let store = images::Store::open(store.folder()).unwrap();
            scope.spawn(move || {
                let lease = store.lease(Owner::Process).unwrap();
                let (manifest, configuration) = documents(&store, target);
                let layers = store.unpack(&lease, &manifest, &configuration, notes).unwrap();
                assert!(layers.iter().all(|layer| fs::read_dir(layer).unwrap().count() == 1));
            });
        }
    });
    let notes = notes.0.into_inner().unwrap();
    assert_eq!(notes.iter().filter(|note| note.ends_with(" Done")).count(), 4, "{notes:#?}");
    assert_eq!(list(&store.folder().join("layers")).len(), 4);
}

#[test]
fn a_layer_that_is_not_what_its_image_says() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let good = || Layer::gzip(tar(&[file("good", b"1")]));
    let other_layer = |name: &str| Layer::gzip(tar(&[file(name, b"")]));
    let lying = Layer { plain: b"something else".to_vec(), ..Layer::gzip(tar(&[file("bad", b"")])) };
    assert!(matches!(unpack(&store, &[good(), lying]), Err(UnpackError::DiffId { .. })));
    let cut = Layer { stored: gzip(&tar(&[file("f", &[1; 100_000])]))[..200].to_vec(), ..other_layer("cut") };
    assert!(matches!(unpack(&store, &[cut]), Err(UnpackError::Archive { .. })));
    let xz = Layer { stored: b"\xfd7zXZ\0 and so on".to_vec(), ..other_layer("xz") };
    assert!(chain(&unpack(&store, &[xz]).unwrap_err()).contains("xz"));
    let odd = Layer { media_type: "application/vnd.example", ..good() };
    assert!(unpack(&store, &[odd]).unwrap_err().to_string().contains("`application/vnd.example`"));
    // What was good stays, and nothing else.
    let layers = list(&store.folder().join("layers"));
    assert!(layers.len() <= 1 && layers.iter().all(|name| !name.starts_with('.')), "{layers:?}");
    let target = assemble(&lease, &[], &["sha256:".to_owned() + &"00".repeat(32)]);
    let (manifest, configuration) = documents(&store, &target);
    let error = store.unpack(&lease, &manifest, &configuration, &images::Silent).unwrap_err();
    assert!(error.to_string().contains("0 layers, its configuration 1 diff ids"), "{error}");
}

#[test]
fn bombs_end_at_their_limits() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let many: Vec<_> = (0..1000).map(|n| file(&format!("f{n}"), b"")).collect();
    let zeros = vec![file("zeros", &vec![0; 32 << 20])];
    for (entries, limits, problem) in [
        (many, images::layer::Limits { entries: 500, ..Default::default() }, "`f500`: there are more entries"),
        (
            zeros.clone(),
            images::layer::Limits { bytes: 1 << 20, ..Default::default() },
            "`zeros`: the layer unpacks to more than 1048576 bytes",
        ),
        (
            zeros,
            images::layer::Limits { free: 1 << 20, ratio: 100, ..Default::default() },
            "`zeros`: the layer unpacks to more than 100 times",
        ),
    ] {
        let target = image(&lease, &[Layer::gzip(tar(&entries))]);
        let (manifest, configuration) = documents(&store, &target);
        let options = UnpackOptions { limits, devices: Devices::default() };
        let error = store.unpack_with(&lease, &manifest, &configuration, options, &images::Silent).unwrap_err();
        assert!(chain(&error).contains(problem), "{}", chain(&error));
        assert!(list(&store.folder().join("layers")).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Random trees, archived by GNU tar in two formats: our tree is the one that GNU tar makes, and so is what becomes
    /// of it when it is packed and unpacked again.
    #[test]
    fn random_trees_come_out_as_with_gnu_tar(seed: u64, pax: bool) {
        let (folder, store) = store();
        let source = folder.path().join("source");
        grow(&source, seed);
        let archive = folder.path().join("archive.tar");
        let options = if pax { &["--format=pax", "--xattrs"][..] } else { &["--format=gnu"] };
        let ends = ["-S", "-cf", archive.to_str().unwrap(), "-C", source.to_str().unwrap(), "."];
        run("tar", &[options, &ends].concat());
        let theirs = folder.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        run("tar", &["--xattrs", "-xpf", archive.to_str().unwrap(), "--numeric-owner", "-C", theirs.to_str().unwrap()]);
        run("sh", &["-c", "find \"$1\" -depth -exec sh -c 'for f; do touch -h -d @$(stat -c %Y \"$f\") \"$f\"; done' sh {} +", "sh", theirs.to_str().unwrap()]);
        let ours = unpack(&store, &[Layer::plain(fs::read(&archive).unwrap())]).unwrap().remove(0);
        prop_assert_eq!(describe_tree(&ours, true), describe_tree(&theirs, true));
        let lease = store.lease(Owner::Process).unwrap();
        let packed = pack(&store, &lease, &ours, PackOptions::default()).unwrap();
        let target = assemble(&lease, &[packed.descriptor], &[packed.diff_id.to_string()]);
        let (manifest, configuration) = documents(&store, &target);
        let again = store.unpack(&lease, &manifest, &configuration, &images::Silent).unwrap().remove(0);
        prop_assert_eq!(describe_tree(&again, true), describe_tree(&theirs, true));
    }
}

/// A tree that depends on the seed alone.
fn grow(root: &Path, seed: u64) {
    let mut state = seed | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    fs::create_dir(root).unwrap();
    let mut folders = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for n in 0..40 {
        let parent = folders[usize::try_from(random(folders.len() as u64)).unwrap()].clone();
        let name = if random(8) == 0 { format!("{n}{}", "long".repeat(40)) } else { format!("é{n}") };
        let path = parent.join(name);
        match random(8) {
            0 | 1 => {
                fs::create_dir(&path).unwrap();
                folders.push(path.clone());
            }
            2 => std::os::unix::fs::symlink("l".repeat(usize::try_from(random(200)).unwrap() + 1), &path).unwrap(),
            3 if !files.is_empty() => {
                fs::hard_link(&files[usize::try_from(random(files.len() as u64)).unwrap()], &path).unwrap()
            }
            4 => drop(run("mkfifo", &[path.to_str().unwrap()])),
            5 => {
                let file = fs::File::create(&path).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, b"data", random(3 << 20)).unwrap();
                files.push(path.clone());
            }
            _ => {
                fs::write(&path, vec![u8::try_from(n).unwrap(); usize::try_from(random(200_000)).unwrap()]).unwrap();
                files.push(path.clone());
            }
        }
        if !path.is_symlink() {
            std::os::unix::fs::chown(
                &path,
                Some(u32::try_from(random(3_000_000)).unwrap()),
                Some(u32::try_from(random(70_000)).unwrap()),
            )
            .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(u32::try_from(random(0o10000)).unwrap())).unwrap();
            if !path.metadata().unwrap().file_type().is_fifo() && random(2) == 0 {
                let value = vec![7; usize::try_from(random(100)).unwrap()];
                rustix::fs::setxattr(
                    &path,
                    format!("user.{}", "k".repeat(usize::try_from(1 + random(200)).unwrap())),
                    &value,
                    rustix::fs::XattrFlags::empty(),
                )
                .unwrap();
            }
        }
    }
    for folder in folders {
        run("touch", &["-d", &format!("@{}", random(4_000_000_000)), folder.to_str().unwrap()]);
    }
}
