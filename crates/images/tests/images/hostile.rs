//! Archives that mean harm.

use crate::support::*;
use images::{
    Owner,
    layer::{Devices, Limits, UnpackError, UnpackOptions},
    tarball::{Entry, Kind},
};
use std::{fs, path::Path};

type Entries = Vec<(Entry, Vec<u8>)>;

fn device(path: &str, kind: Kind, device: (u32, u32)) -> (Entry, Vec<u8>) {
    let mut entry = other(path, kind, "");
    entry.0.device = device;
    entry
}

fn with_attribute(path: &str, attribute: &str) -> (Entry, Vec<u8>) {
    let mut entry = other(path, Kind::Directory, "");
    entry.0.xattrs = vec![(attribute.into(), b"y".to_vec())];
    entry
}

/// What is tried, the entry that must be named, and a word of the reason.
fn attempts(outside: &Path) -> Vec<(Entries, &'static str, &'static str)> {
    let out = outside.to_str().unwrap();
    let dir = |path| other(path, Kind::Directory, "");
    let link = |path, target| other(path, Kind::Symlink, target);
    let hard = |path, target| other(path, Kind::HardLink, target);
    vec![
        (vec![file("../victim", b"!")], "../victim", "`..`"),
        (vec![file("a/../../victim", b"!")], "a/../../victim", "`..`"),
        (vec![file("/etc/victim", b"!")], "/etc/victim", "absolute"),
        (vec![dir("..")], "..", "`..`"),
        // Symbolic links, directly, in a chain, by a directory that becomes a link, by a link that becomes a directory.
        (vec![link("x", out), file("x/victim", b"!")], "x/victim", "link"),
        (vec![link("x", "."), link("x/y", ".."), file("x/y/victim", b"!")], "x/y", "link"),
        (vec![link("x", ".."), dir("x/y")], "x/y", "link"),
        (vec![link("x", out), dir("x"), file("x/victim", b"!")], "x", "link"),
        (vec![dir("x"), link("x", out), file("x/victim", b"!")], "x", "replace a directory"),
        (vec![file("x/y", b""), link("x", out)], "x", "replace a directory"),
        (vec![link("x", "/proc/self/root"), file("x/victim", b"!")], "x/victim", "link"),
        (vec![link("x", out), file("x/.wh.victim", b"")], "x/.wh.victim", "link"),
        (vec![link("x", out), file("x/.wh..wh..opq", b"")], "x/.wh..wh..opq", "link"),
        (vec![file("x", b""), file("x/y", b"")], "x/y", "file"),
        // Hard links.
        (vec![hard("x", "../../victim")], "x", "`..`"),
        (vec![hard("x", "/etc/passwd")], "x", "absolute"),
        (vec![link("l", out), hard("x", "l/victim")], "x", "link"),
        (vec![hard("x", "nowhere")], "x", "does not have"),
        (vec![dir("d"), hard("x", "d")], "x", "does not have"),
        (vec![file(".wh.w", b""), hard("x", "w")], "x", "does not have"),
        (vec![hard("x", ".")], "x", "does not have"),
        // Device nodes.
        (vec![device("sda", Kind::Block, (8, 0))], "sda", "b 8:0"),
        (vec![device("mem", Kind::Character, (1, 1))], "mem", "c 1:1"),
        (vec![device("w", Kind::Character, (0, 0))], "w", "c 0:0"),
        // Whiteouts.
        (vec![file(".wh.", b"")], ".wh.", "whiteout"),
        (vec![file(".wh...", b"")], ".wh...", "whiteout"),
        (vec![file("a/.wh..", b"")], "a/.wh..", "whiteout"),
        (vec![link(".wh.x", out)], ".wh.x", "whiteout"),
        (vec![dir(".wh.x")], ".wh.x", "whiteout"),
        (vec![file("a/.wh.x/y", b"")], "a/.wh.x/y", "whiteout"),
        (vec![file(".wh.x", b"content")], ".wh.x", "whiteout"),
        // The kernel's own attributes.
        (vec![with_attribute("d", "trusted.overlay.redirect")], "d", "trusted.overlay"),
        (vec![with_attribute("d", "trusted.overlay.opaque")], "d", "trusted.overlay"),
        // The root.
        (vec![file(".", b"")], ".", "root"),
        (vec![link("./", out)], "./", "root"),
    ]
}

#[test]
fn hostile_entries_are_refused_by_name_and_leave_nothing() {
    let (folder, store) = store();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "unharmed").unwrap();
    for (entries, name, reason) in attempts(&outside) {
        let all = [vec![file("before", b"")], entries].concat();
        let error = unpack(&store, &[Layer::gzip(tar(&all))]).unwrap_err();
        assert!(matches!(&error, UnpackError::Refused { entry, .. } if entry == name), "{name}: {}", chain(&error));
        assert!(chain(&error).contains(reason), "{name}: {}", chain(&error));
        assert!(list(&store.folder().join("layers")).is_empty());
        assert_eq!(
            (list(&outside), fs::read(outside.join("victim")).unwrap()),
            (vec!["victim".to_owned()], b"unharmed".to_vec())
        );
        assert_eq!(list(folder.path()), ["images", "outside"]);
    }
}

#[test]
fn device_nodes_are_made_only_where_allowed() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    for (devices, device, allowed) in [
        (Devices::Refuse, device("null", Kind::Character, (1, 3)), false),
        (Devices::Harmless, device("null", Kind::Character, (1, 3)), true),
        (Devices::Harmless, device("loop", Kind::Block, (7, 0)), false),
        (Devices::Any, device("loop", Kind::Block, (7, 0)), true),
        (Devices::Any, device("white", Kind::Character, (0, 0)), false),
    ] {
        let target = image(&lease, &[Layer::plain(tar(&[device]))]);
        let (manifest, configuration) = documents(&store, &target);
        let options = UnpackOptions { devices, limits: Limits::default() };
        let result = store.unpack_with(&lease, &manifest, &configuration, options, &images::Silent);
        assert_eq!(result.is_ok(), allowed, "{result:?}");
    }
}

#[test]
fn a_tree_that_somebody_changes_meanwhile_is_not_left() {
    // A directory of the layer in the making is exchanged for a link to the outside again and again, as a process that
    // broke into the store's folder might do it.
    let (folder, store) = store();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let entries: Vec<_> = (0..3000).map(|n| file(&format!("d/e/f{n}"), b"x")).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for layer in list(&store.folder().join("layers")) {
                    let d = store.folder().join("layers").join(layer).join("fs/d");
                    let aside = d.with_extension("aside");
                    if fs::rename(&d, &aside).is_ok() {
                        // Failures mean that the unpacking made it again.
                        drop(std::os::unix::fs::symlink(&outside, &d));
                        std::thread::yield_now();
                        drop(fs::remove_file(&d));
                        drop(fs::rename(&aside, &d));
                    }
                }
            }
        });
        for round in 0..20 {
            let more = file("round", format!("{round}").as_bytes());
            // It may fail, or be changed; it may not write elsewhere.
            drop(unpack(&store, &[Layer::plain(tar(&[entries.clone(), vec![more]].concat()))]));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(list(&outside).is_empty());
}

#[test]
fn directories_are_counted_whoever_asks_for_them() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    // One entry, and 511 directories around it.
    let deep = file(&format!("{}f", "d/".repeat(511)), b"");
    // Attributes of directories stay in memory until the end; the archive of this is 20 KiB.
    let attributes: Vec<_> = (0..15).map(|n| (format!("user.{n}").into_bytes(), vec![7; 65_000])).collect();
    let wide = (0..150).map(|n| {
        let mut entry = other(&format!("d{n}"), Kind::Directory, "");
        entry.0.xattrs.clone_from(&attributes);
        entry
    });
    let few = Limits { entries: 500, ..Limits::default() };
    for (entries, limits, problem) in [
        (vec![deep], few, "…`: the layer has more than 500 entries and directories"),
        (wide.collect(), Limits::default(), "attributes of the layer's directories take more than"),
    ] {
        let target = image(&lease, &[Layer::zstd(tar(&entries))]);
        let (manifest, configuration) = documents(&store, &target);
        let options = UnpackOptions { devices: Devices::Harmless, limits };
        let error = store.unpack_with(&lease, &manifest, &configuration, options, &images::Silent).unwrap_err();
        assert!(matches!(&error, UnpackError::Refused { .. }), "{}", chain(&error));
        assert!(chain(&error).contains(problem), "{}", chain(&error));
        assert!(list(&store.folder().join("layers")).is_empty());
    }
}
