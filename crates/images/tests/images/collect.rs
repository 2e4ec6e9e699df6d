//! Collection.

use crate::support::*;
use images::{
    Owner, Silent, Store, StoreError,
    collect::{ItemKind, Options, Report, plan, run, try_run, try_run_until},
    store::Watermarks,
};
use model::image::Digest;
use std::{cell::Cell, fs, io::Write, os::unix::ffi::OsStrExt, time::Duration};

const NOW: Options = Options { grace: Duration::ZERO, ingest: Duration::ZERO };

fn kinds(report: &Report) -> Vec<ItemKind> {
    let mut kinds: Vec<_> = report.items.iter().map(|item| item.kind).collect();
    kinds.sort();
    kinds
}

fn blobs(store: &Store) -> usize {
    run_find(store, "blobs", "f")
}

fn run_find(store: &Store, part: &str, kind: &str) -> usize {
    crate::support::run("find", &[store.folder().join(part).to_str().unwrap(), "-type", kind]).lines().count()
}

#[test]
fn what_has_no_name_and_no_lease_goes_and_nothing_else() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let layer = |text: &str| Layer::gzip(tar(&[file(text, b"")]));
    let named = image(&lease, &[layer("shared"), layer("named")]);
    let other = image(&lease, &[layer("shared"), layer("other")]);
    for target in [&named, &other] {
        let (manifest, configuration) = documents(&store, target);
        store.unpack(&lease, &manifest, &configuration, &Silent).unwrap();
    }
    store.tag(&name("named"), &named).unwrap();
    // The lease of this process holds everything.
    assert!(plan(&store, &NOW).unwrap().items.is_empty());
    assert!(run(&store, &NOW).unwrap().items.is_empty());
    drop(lease);
    // Grace does, too.
    assert!(run(&store, &Options::default()).unwrap().items.is_empty());
    let usage = store.usage().unwrap();
    let planned = plan(&store, &NOW).unwrap();
    use ItemKind::{Blob, Layer as Unpacked};
    assert_eq!(kinds(&planned), [Blob, Blob, Blob, Unpacked]);
    assert_eq!((planned.kept, usage.reclaimable), (4 + 2, planned.freed));
    assert_eq!((usage.blobs.count, usage.layers.count, usage.images.len()), (7, 3, 1));
    assert_eq!(blobs(&store), 7, "a plan changes nothing");
    let report = run(&store, &NOW).unwrap();
    let sorted = |report: &Report| {
        let mut items = report.items.clone();
        items.sort();
        items
    };
    assert_eq!(sorted(&report), sorted(&planned));
    assert_eq!((blobs(&store), list(&store.folder().join("layers")).len()), (4, 2));
    assert!(list(&store.folder().join("trash")).is_empty());
    let (manifest, _) = documents(&store, &named);
    assert_eq!(manifest.layers().len(), 2);
    // The name goes, and with it the rest.
    store.untag(&name("named")).unwrap();
    run(&store, &NOW).unwrap();
    assert_eq!((blobs(&store), run_find(&store, "layers", "f")), (0, 0));
    assert!(run(&store, &NOW).unwrap().items.is_empty());
}

#[test]
fn leases_end_with_their_owners() {
    let (folder, store) = store();
    let hold = |owner: Owner, text: &str| {
        let lease = store.lease(Owner::Process).unwrap();
        let blob = put(&lease, text.as_bytes());
        let held = store.lease(owner).unwrap();
        held.hold(&blob.digest).unwrap();
        (blob.digest, held)
    };
    let record = folder.path().join("record.json");
    fs::write(&record, "").unwrap();
    let (by_file, _) = hold(Owner::File(record.clone()), "file");
    let (by_time, _) = hold(Owner::Until(jiff::Timestamp::now() + Duration::from_secs(3600)), "time");
    let (too_late, _) = hold(Owner::Until(jiff::Timestamp::now() - Duration::from_secs(1)), "late");
    let (by_process, lease) = hold(Owner::Process, "process");
    let there = |digest| store.blob(digest).unwrap().is_some();
    run(&store, &NOW).unwrap();
    assert!(there(&by_file) && there(&by_time) && there(&by_process) && !there(&too_late));
    drop(lease);
    run(&store, &NOW).unwrap();
    assert!(there(&by_file) && there(&by_time) && !there(&by_process));
    fs::remove_file(&record).unwrap();
    run(&store, &NOW).unwrap();
    assert!(!there(&by_file) && there(&by_time));
    // Ended by hand.
    fs::write(&record, "").unwrap();
    let (digest, lease) = hold(Owner::File(record.clone()), "again");
    drop(lease);
    store.release_file(&record).unwrap();
    run(&store, &NOW).unwrap();
    assert!(!there(&digest));
}

#[test]
fn an_owner_that_cannot_be_looked_at_is_not_dead() {
    let (folder, store) = store();
    let home = folder.path().join("home");
    let record = home.join("record.json");
    fs::create_dir(&home).unwrap();
    fs::write(&record, "").unwrap();
    let digest = {
        let process = store.lease(Owner::Process).unwrap();
        let blob = put(&process, b"content");
        store.lease(Owner::File(record.clone())).unwrap().hold(&blob.digest).unwrap();
        blob.digest
    };
    // As a disk that fails: ELOOP, which root sees too.
    fs::rename(&home, folder.path().join("aside")).unwrap();
    std::os::unix::fs::symlink("home", &home).unwrap();
    for error in [run(&store, &NOW).unwrap_err(), plan(&store, &NOW).unwrap_err()] {
        assert!(error.to_string().contains(record.to_str().unwrap()), "{error}");
    }
    assert!(store.blob(&digest).unwrap().is_some());
    assert!(store.lease(Owner::File(record.clone())).is_err());
    fs::remove_file(&home).unwrap();
    fs::rename(folder.path().join("aside"), &home).unwrap();
    assert!(run(&store, &NOW).unwrap().items.is_empty());
    // A file where the folder was is another matter.
    fs::remove_dir_all(&home).unwrap();
    fs::write(&home, "").unwrap();
    assert_eq!(run(&store, &NOW).unwrap().items.len(), 1);
    // The index has no words for this one.
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"\xff.json"));
    fs::write(&odd, "").unwrap();
    for error in [
        store.lease(Owner::File(odd.clone())).unwrap_err(),
        store.file_holds(&odd, &digest).unwrap_err(),
        store.release_file(&odd).unwrap_err(),
    ] {
        assert!(chain(&error).contains("not UTF-8"), "{}", chain(&error));
    }
}

#[test]
fn a_lease_on_an_image_keeps_what_it_is_made_of() {
    let (folder, store) = store();
    let record = folder.path().join("record.json");
    fs::write(&record, "").unwrap();
    let process = store.lease(Owner::Process).unwrap();
    let target = image(&process, &[Layer::gzip(tar(&[file("a", b"")]))]);
    let (manifest, configuration) = documents(&store, &target);
    let layers = store.unpack(&process, &manifest, &configuration, &Silent).unwrap();
    let lease = store.lease(Owner::File(record.clone())).unwrap();
    lease.hold_all(&target.digest().as_ref().parse().unwrap()).unwrap();
    drop((lease, process));
    for _ in 0..2 {
        assert!(run(&store, &NOW).unwrap().items.is_empty());
    }
    assert!(layers[0].join("a").exists());
    fs::remove_file(record).unwrap();
    assert_eq!(run(&store, &NOW).unwrap().items.len(), 4);
    // What went comes again, and is known again.
    let process = store.lease(Owner::Process).unwrap();
    let again = image(&process, &[Layer::gzip(tar(&[file("a", b"")]))]);
    assert_eq!(again, target);
    store.tag(&name("again"), &again).unwrap();
    drop(process);
    assert!(run(&store, &NOW).unwrap().items.is_empty());
}

#[test]
fn what_comes_in_is_left_alone_until_it_is_old() {
    let (_folder, store) = store();
    let mut going_on = store.ingest().unwrap();
    going_on.write_all(b"going on").unwrap();
    let mut dropped = store.ingest().unwrap();
    dropped.write_all(b"dropped").unwrap();
    let id = dropped.id().clone();
    drop(dropped);
    assert!(run(&store, &Options { ingest: Duration::from_secs(60), ..NOW }).unwrap().items.is_empty());
    let report = run(&store, &NOW).unwrap();
    assert_eq!((kinds(&report), report.freed), (vec![ItemKind::Ingest], 7));
    assert!(store.resume(&id).unwrap().is_none());
    let lease = store.lease(Owner::Process).unwrap();
    going_on.commit_as(model::image::Algorithm::Sha256, &lease).unwrap();
}

#[test]
fn what_killed_processes_left_goes() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let folder = store.folder().to_owned();
    // Killed between rename and commit: a blob without a row, a layer without one.
    let blob = put(&lease, b"orphan");
    let target = image(&lease, &[Layer::plain(tar(&[file("a", b"")]))]);
    let (manifest, configuration) = documents(&store, &target);
    store.unpack(&lease, &manifest, &configuration, &Silent).unwrap();
    drop(lease);
    store
        .index()
        .write("forget", |transaction| {
            transaction.execute_batch("DELETE FROM blobs; DELETE FROM layers; DELETE FROM links")
        })
        .unwrap();
    // In the middle of a layer, with and without its lock file; in the middle of deleting.
    for name in [".partial-aa", ".partial-bb"] {
        fs::create_dir_all(folder.join("layers").join(name).join("fs/etc")).unwrap();
    }
    fs::write(folder.join("layers/.lock-aa"), "").unwrap();
    fs::write(folder.join("layers/.lock-cc"), "").unwrap();
    fs::create_dir_all(folder.join("layers").join("ab".repeat(32)).join("fs")).unwrap();
    fs::create_dir_all(folder.join("trash/x/y")).unwrap();
    fs::write(folder.join("processes/dead"), "").unwrap();
    fs::create_dir(folder.join("ingest").join("0".repeat(32))).unwrap();
    // Young again at first.
    run(&store, &NOW).unwrap();
    assert!(store.blob(&blob.digest).unwrap().is_some());
    run(&store, &NOW).unwrap();
    for part in ["layers", "trash", "ingest"] {
        assert!(list(&folder.join(part)).is_empty(), "{part}: {:?}", list(&folder.join(part)));
    }
    assert_eq!(blobs(&store), 0);
    assert!(!folder.join("processes/dead").exists());
}

/// An image whose manifest has something besides, with a name and no lease.
fn odd_image(store: &Store, more: &str) -> Digest {
    let lease = store.lease(Owner::Process).unwrap();
    let plain = image(&lease, &[Layer::gzip(tar(&[file("a", b"")]))]);
    let bytes = store.need(&plain.digest().as_ref().parse().unwrap()).unwrap().read(1 << 20).unwrap();
    let text = String::from_utf8(bytes).unwrap().replacen('{', &format!("{{{more}"), 1);
    let blob = put(&lease, text.as_bytes());
    store.tag(&name("odd"), &images::store::describe(images::media::OCI_MANIFEST, &blob).unwrap()).unwrap();
    // A strict reader takes it.
    store.manifest(&blob.digest).unwrap();
    blob.digest
}

#[test]
fn a_manifest_keeps_its_parts_whatever_else_is_in_it() {
    for more in [r#""rootfs":5,"#.to_owned(), format!(r#""annotations2":{}{},"#, "[".repeat(500), "]".repeat(500))] {
        let (_folder, store) = store();
        odd_image(&store, &more);
        run(&store, &NOW).unwrap();
        // What is left: manifest, configuration and layer.
        assert_eq!(blobs(&store), 3, "{more}");
    }
}

#[test]
fn a_damaged_manifest_costs_nothing_else() {
    let (_folder, store) = store();
    let digest = odd_image(&store, r#""annotations":{},"#);
    let blob = store.need(&digest).unwrap();
    let good = fs::read(&blob.path).unwrap();
    run(&store, &Options::default()).unwrap();
    let damage = |bytes: &[u8]| {
        fs::remove_file(&blob.path).unwrap();
        fs::write(&blob.path, bytes).unwrap();
        // Nobody has read it yet.
        store.index().write("forget", |transaction| {
            transaction.execute_batch("UPDATE blobs SET expanded = 0; DELETE FROM links")
        })
    };
    for bytes in [&good[..good.len() / 2], b"\0\0\0", b""] {
        damage(bytes).unwrap();
        let error = run(&store, &NOW).unwrap_err();
        assert!(error.to_string().contains(digest.as_str()), "{error}");
        assert!(plan(&store, &NOW).is_err() && store.usage().is_err());
        assert!(blobs(&store) >= 3);
    }
    // It is mended before the grace of its parts is over; what was read of it does not count any more.
    damage(b"{}").unwrap();
    run(&store, &Options::default()).unwrap();
    let lease = store.lease(Owner::Process).unwrap();
    put(&lease, &good);
    drop(lease);
    run(&store, &NOW).unwrap();
    assert_eq!(blobs(&store), 3);
}

#[test]
fn collections_take_turns() {
    let (_folder, store) = store();
    let lock = fs::File::create(store.folder().join("collect.lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(try_run(&store, &NOW).unwrap(), None);
    drop(lock);
    // A child that another test makes at this moment has the lock too, until it is another program.
    let began = std::time::Instant::now();
    while try_run(&store, &NOW).unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
}

#[test]
fn a_collection_that_is_told_to_stop_leaves_the_rest_to_the_next() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    for number in 0..300u32 {
        put(&lease, &number.to_le_bytes());
    }
    drop(lease);
    let looks = Cell::new(0);
    let stop = || {
        looks.set(looks.get() + 1);
        looks.get() > 3
    };
    let first = try_run_until(&store, &NOW, &stop).unwrap().unwrap();
    assert!((1..300).contains(&first.items.len()), "{}", first.items.len());
    assert_eq!(blobs(&store) + first.items.len(), 300);
    let second = try_run(&store, &NOW).unwrap().unwrap();
    assert_eq!((first.items.len() + second.items.len(), blobs(&store)), (300, 0));
}

#[test]
fn a_full_disk_is_past_its_watermark() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_with(folder.path(), Watermarks { collect: 0, refuse: 0 }).unwrap();
    let error = store.ingest().unwrap_err();
    assert!(matches!(error, StoreError::Full { limit: 0, .. }), "{error}");
    assert!(store.wants_collection().unwrap());
    assert!(images::collect::run_if_due(&store, &NOW).unwrap().is_some());
    let store = Store::open_with(folder.path(), Watermarks { collect: 101, refuse: 101 }).unwrap();
    assert!(images::collect::run_if_due(&store, &NOW).unwrap().is_none());
}
