//! A disk that is really full.

use crate::support::*;
use images::{
    Owner, Silent, Store, StoreError,
    archive::{ArchiveError, Source, import},
    collect::{Options, run},
    layer::UnpackError,
    store::Watermarks,
};
use std::{fs, io::Write, path::PathBuf, time::Duration};

/// A file system of a few megabytes in memory.
struct Small(PathBuf);

impl Small {
    fn mount(on: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&on).unwrap();
        crate::support::run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "small", on.to_str().unwrap()]);
        Self(on)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        crate::support::run("umount", &[self.0.to_str().unwrap()]);
    }
}

const NEVER: Watermarks = Watermarks { collect: 101, refuse: 101 };
const NOW: Options = Options { grace: Duration::ZERO, ingest: Duration::ZERO };

#[test]
fn every_operation_fails_clean_on_a_full_disk_and_goes_on_after_a_collection() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Small::mount(folder.path().join("disk"), "24m");
    let store = Store::open_with(&disk.0.join("images"), NEVER).unwrap();
    let kept = {
        let lease = store.lease(Owner::Process).unwrap();
        let target = image(&lease, &[Layer::gzip(tar(&[file("small", &[1; 1000])]))]);
        store.tag(&name("kept"), &target).unwrap();
        // Unpacks to more than there is room for.
        let noise: Vec<u8> = (0..8u64 << 20).map(|n| u8::try_from((n * n) >> 7 & 0xff).unwrap() | 1).collect();
        let entries: Vec<_> = (0..4).map(|n| file(&format!("f{n}"), &noise)).collect();
        let large = image(&lease, &[Layer::zstd(tar(&entries))]);
        let (manifest, configuration) = documents(&store, &large);
        let error = store.unpack(&lease, &manifest, &configuration, &Silent).unwrap_err();
        assert!(matches!(&error, UnpackError::Write { entry, .. } if entry.starts_with('f')), "{}", chain(&error));
        assert!(chain(&error).contains("No space left"), "{}", chain(&error));
        assert!(list(&store.folder().join("layers")).is_empty());
        // Fill what is left to the last byte.
        let mut ingest = store.ingest().unwrap();
        let error = loop {
            if let Err(error) = ingest.write_all(&noise[..4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        target
    };
    // Whatever is tried now fails or works, but the image stays as it is.
    let tried = store.lease(Owner::Process).and_then(|lease| {
        let mut ingest = store.ingest()?;
        drop(ingest.write_all(&[7; 100_000]));
        ingest.commit_as(model::image::Algorithm::Sha256, &lease).map(drop)
    });
    if let Err(error) = tried {
        assert!(matches!(error, StoreError::Io { .. } | StoreError::Index { .. }), "{error}");
    }
    let report = run(&store, &NOW).unwrap_or_else(|error| panic!("a full disk can be collected: {}", chain(&error)));
    assert!(report.freed > 10 << 20, "{report:?}");
    let lease = store.lease(Owner::Process).unwrap();
    let (manifest, configuration) = documents(&store, &kept);
    let layers = store.unpack(&lease, &manifest, &configuration, &Silent).unwrap();
    assert_eq!(list(&layers[0]), ["small"]);
    put(&lease, &[1; 1 << 20]);
}

#[test]
fn nothing_is_taken_in_past_the_watermark() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Small::mount(folder.path().join("disk"), "80m");
    let store = Store::open(&disk.0.join("images")).unwrap();
    assert!(!store.wants_collection().unwrap());
    fs::write(disk.0.join("other"), vec![1; 70 << 20]).unwrap();
    assert!(store.wants_collection().unwrap());
    let error = store.ingest().unwrap_err();
    assert!(error.to_string().contains("no content is taken in at 90 %"), "{error}");
    fs::remove_file(disk.0.join("other")).unwrap();
    store.ingest().unwrap();
}

#[test]
fn whoever_goes_on_is_asked_for_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Small::mount(folder.path().join("disk"), "140m");
    let store = Store::open(&disk.0.join("images")).unwrap();
    let full = |error: &std::io::Error| {
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert!(chain(error).contains("no content is taken in at 90 %"), "{}", chain(error));
    };
    // An archive that would take the last byte, and one that is packed.
    let bomb = zstd::encode_all(&tar(&[file("blob", &vec![0; 150 << 20])])[..], 1).unwrap();
    let source = Source::Stream(Box::new(std::io::Cursor::new(bomb)));
    let error = import(&store, source, None, &Silent).unwrap_err();
    assert!(matches!(&error, ArchiveError::Store(StoreError::Full { .. })), "{}", chain(&error));
    assert!(list(&store.folder().join("ingest")).is_empty());
    // One that began when there was room.
    let mut dropped = store.ingest().unwrap();
    dropped.write_all(b"beginning").unwrap();
    let id = dropped.id().clone();
    drop(dropped);
    let mut going_on = store.ingest().unwrap();
    going_on.write_all(&[1; 1 << 20]).unwrap();
    fs::write(disk.0.join("other"), vec![1; 125 << 20]).unwrap();
    let error = loop {
        match going_on.write_all(&[2; 1 << 20]) {
            Ok(()) => assert!(going_on.written() <= 64 << 20),
            Err(error) => break error,
        }
    };
    // The rest of the disk is less than what it may write unasked.
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    going_on.restart().unwrap();
    full(&going_on.write_all(b"again").unwrap_err());
    going_on.abort().unwrap();
    // And one that comes back: it may be given up, or be complete, but takes no more in.
    let mut resumed = store.resume(&id).unwrap().unwrap();
    full(&resumed.write_all(b" and end").unwrap_err());
    let lease = store.lease(Owner::Process).unwrap();
    assert_eq!(resumed.commit_as(model::image::Algorithm::Sha256, &lease).unwrap().size, 9);
}

#[test]
fn a_store_is_opened_and_collected_on_a_disk_without_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Small::mount(folder.path().join("disk"), "24m");
    let path = disk.0.join("images");
    {
        let store = Store::open_with(&path, NEVER).unwrap();
        let lease = store.lease(Owner::Process).unwrap();
        put(&lease, &[1; 8 << 20]);
    }
    // The last one who closes an index takes what is beside it away.
    assert!(!path.join("index.db-shm").exists());
    let fill = || {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(disk.0.join("other")).unwrap();
        while file.write(&[1; 4096]).is_ok() {}
    };
    fill();
    let store = Store::open_with(&path, NEVER).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(!path.join("reserve").exists());
    assert_eq!(run(&store, &NOW).unwrap().freed, 8 << 20);
    assert!(path.join("reserve").exists());
    // Somebody else takes what was spent before it is used.
    drop(store);
    fill();
    let store = Store::open_with(&path, NEVER).unwrap();
    fill();
    drop(store);
    fill();
    assert!(Store::open_with(&path, NEVER).is_err(), "there is nothing left to spend");
}
