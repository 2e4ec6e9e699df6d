//! Blobs, ingests, names.

use crate::support::*;
use images::{CommitError, Manifest, Owner, Store, StoreError, digest::digest_of, media, store::describe};
use model::image::{Algorithm, Digest};
use std::{fs, io::Write, os::unix::fs::PermissionsExt};

#[test]
fn content_comes_in_and_is_found_by_its_digest() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let digest = digest_of(Algorithm::Sha256, b"hello");
    assert_eq!(store.blob(&digest).unwrap(), None);
    assert_eq!(lease.hold(&digest).unwrap(), None);
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"hel").unwrap();
    ingest.write_all(b"lo").unwrap();
    let blob = ingest.commit(&digest, &lease).unwrap();
    assert_eq!((blob.size, blob.read(10).unwrap()), (5, b"hello".to_vec()));
    assert!(blob.path.ends_with(format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex())));
    assert!(matches!(blob.read(4), Err(StoreError::TooLarge { size: 5, limit: 4, .. })));
    assert_eq!(lease.hold(&digest).unwrap().as_ref(), Some(&blob));
    assert!(list(&store.folder().join("ingest")).is_empty());
    assert_eq!(fs::metadata(store.folder()).unwrap().permissions().mode() & 0o777, 0o700);
    // Another process sees the same.
    assert_eq!(Store::open(store.folder()).unwrap().blob(&digest).unwrap(), Some(blob));
}

#[test]
fn sha512_and_a_digest_of_another_algorithm_than_was_hashed() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    for first in Algorithm::ALL {
        let digest = digest_of(Algorithm::Sha512, format!("{first}").as_bytes());
        let mut ingest = store.ingest_as(first).unwrap();
        write!(ingest, "{first}").unwrap();
        assert_eq!(ingest.commit(&digest, &lease).unwrap().digest, digest);
    }
}

#[test]
fn wrong_bytes_are_never_a_blob() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let expected = digest_of(Algorithm::Sha256, b"right");
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"wrong").unwrap();
    let error = ingest.commit(&expected, &lease).unwrap_err();
    assert!(matches!(&error, CommitError::Mismatch { found, .. } if *found == digest_of(Algorithm::Sha256, b"wrong")));
    assert_eq!(store.blob(&expected).unwrap(), None);
    assert!(list(&store.folder().join("ingest")).is_empty());
}

#[test]
fn an_ingest_goes_on_after_its_process() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"first ").unwrap();
    let id = ingest.id().clone();
    assert!(matches!(store.resume(&id), Err(StoreError::Busy { .. })));
    drop(ingest);
    let again = Store::open(store.folder()).unwrap();
    let mut ingest = again.resume(&id.to_string().parse().unwrap()).unwrap().unwrap();
    assert_eq!((ingest.written(), ingest.digest_so_far()), (6, digest_of(Algorithm::Sha256, b"first ")));
    ingest.write_all(b"second").unwrap();
    let blob = ingest.commit(&digest_of(Algorithm::Sha256, b"first second"), &lease).unwrap();
    assert_eq!(blob.read(100).unwrap(), b"first second");
    assert!(store.resume(&id).unwrap().is_none());
    assert!("../../etc".parse::<images::IngestId>().is_err());
    // Begun anew, and given up.
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"bad").unwrap();
    ingest.restart().unwrap();
    ingest.write_all(b"good").unwrap();
    assert_eq!((ingest.written(), ingest.digest_so_far()), (4, digest_of(Algorithm::Sha256, b"good")));
    ingest.abort().unwrap();
    assert!(list(&store.folder().join("ingest")).is_empty());
}

#[test]
fn a_damaged_blob_is_found_out_and_mended_by_a_new_commit() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let blob = put(&lease, b"content");
    fs::set_permissions(&blob.path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&blob.path, b"CONTENT").unwrap();
    assert!(matches!(blob.verify(), Err(StoreError::Corrupt { .. })));
    put(&lease, b"content").verify().unwrap();
}

#[test]
fn names_stand_for_complete_images_only() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let target = image(&lease, &[Layer::plain(tar(&[file("a", b"1")]))]);
    store.tag(&name("example.org/a/b"), &target).unwrap();
    let found = store.image(&name("example.org/a/b:latest")).unwrap().unwrap();
    assert_eq!(
        (found.name.to_string().as_str(), &found.target, found.pulled),
        ("example.org/a/b:latest", &target, None)
    );
    let digest = found.digest().unwrap();
    // By digest, and by the beginning of it.
    assert!(store.image(&name(&format!("example.org/a/b@{digest}"))).unwrap().is_some());
    assert!(store.image(&name(&format!("example.org/other@{digest}"))).unwrap().is_none());
    assert!(store.image(&name(&digest.hex()[..12])).unwrap().is_some());
    assert!(store.image(&name("ffff0000")).unwrap().is_none());
    store.tag_pulled(&name("b"), &target).unwrap();
    assert!(store.image(&name(digest.short())).unwrap().is_some());
    assert!(store.image(&name("b")).unwrap().unwrap().pulled.is_some());
    store.mark_used(&name("b")).unwrap();
    assert!(store.image(&name("b")).unwrap().unwrap().last_used.is_some());
    assert_eq!(store.images().unwrap().len(), 2);
    assert!(store.untag(&name("b")).unwrap() && !store.untag(&name("b")).unwrap());
    // An image whose layer is not there can not be named.
    let missing: Digest = digest_of(Algorithm::Sha256, b"nowhere");
    let layer = images::Blob { digest: missing.clone(), size: 7, path: "/".into() };
    let broken = assemble(&lease, &[describe(media::OCI_LAYER, &layer).unwrap()], &[missing.to_string()]);
    let error = store.tag(&name("c"), &broken).unwrap_err();
    assert!(matches!(&error, StoreError::Incomplete { missing: found, .. } if *found == missing), "{error}");
    assert!(store.image(&name("c")).unwrap().is_none());
    assert!(matches!(lease.hold_all(&broken.digest().as_ref().parse().unwrap()), Err(StoreError::Incomplete { .. })));
    // Nor can something that is no manifest.
    for none in ["", "no JSON", "[]", r#"{"layers":["#] {
        let blob = put(&lease, none.as_bytes());
        let error = store.tag(&name("c"), &describe(media::OCI_MANIFEST, &blob).unwrap()).unwrap_err();
        assert!(matches!(&error, StoreError::Document { digest, .. } if *digest == blob.digest), "{none}: {error}");
        assert!(lease.hold_all(&blob.digest).is_err());
    }
}

#[test]
fn manifests_are_read_strictly() {
    let digest = digest_of(Algorithm::Sha256, b"");
    let part = format!(r#"{{"mediaType":"{}","digest":"{digest}","size":0}}"#, media::OCI_CONFIG);
    let good = format!(r#"{{"schemaVersion":2,"config":{part},"layers":[]}}"#);
    assert!(matches!(Manifest::parse(&digest, good.as_bytes()), Ok(Manifest::Image(_))));
    let docker =
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{part},"layers":[]}}"#, media::DOCKER_MANIFEST);
    assert_eq!(Manifest::parse(&digest, docker.as_bytes()).unwrap().media_type().to_string(), media::DOCKER_MANIFEST);
    assert!(matches!(Manifest::parse(&digest, br#"{"schemaVersion":2,"manifests":[]}"#), Ok(Manifest::Index(_))));
    for (bad, problem) in [
        ("", "EOF"),
        ("[]", "not a JSON object"),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, "schemaVersion is 1"),
        (r#"{"schemaVersion":2}"#, "config"),
        (r#"{"schemaVersion":2,"mediaType":"application/x","manifests":[]}"#, "`application/x`"),
        (&format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media::OCI_MANIFEST), "does not fit"),
        (&good.replace("\"layers\"", "\"manifests\":[],\"layers\""), "both"),
        // Nobody else reads it; but what can not be read can not be kept.
        (&good.replace("\"layers\"", "\"rootfs\":1e999,\"layers\""), "number out of range"),
    ] {
        let error = Manifest::parse(&digest, bad.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(problem), "{bad}: {error}");
    }
}

#[test]
fn an_index_gives_the_image_of_the_platform() {
    let (_folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let mut wanted = image(&lease, &[Layer::plain(tar(&[file("amd64", b"1")]))]);
    wanted.set_platform(Some(images::store::host_platform()));
    let absent = images::Blob { digest: digest_of(Algorithm::Sha256, b"arm"), size: 3, path: "/".into() };
    let mut foreign = describe(media::OCI_MANIFEST, &absent).unwrap();
    let mut arm = images::store::host_platform();
    arm.set_architecture("arm64".into());
    arm.set_variant(Some("v8".to_owned()));
    foreign.set_platform(Some(arm.clone()));
    let index =
        serde_json::json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [&foreign, &wanted] });
    let index = describe(media::OCI_INDEX, &put(&lease, index.to_string().as_bytes())).unwrap();
    let (digest, _, _) = store.resolve(&index, &images::store::host_platform()).unwrap();
    assert_eq!(digest.as_str(), wanted.digest().as_ref());
    // Named although the other platform was not pulled.
    store.tag(&name("multi"), &index).unwrap();
    arm.set_variant(None);
    assert!(matches!(store.resolve(&index, &arm), Err(StoreError::Missing { digest }) if digest == absent.digest));
    arm.set_architecture("riscv64".into());
    let error = store.resolve(&index, &arm).unwrap_err().to_string();
    assert!(error.contains("linux/riscv64") && error.contains("linux/arm64/v8, linux/amd64"), "{error}");
}

#[test]
fn an_ingest_at_rest_is_anybodys() {
    let (_folder, store) = store();
    let other = Store::open(store.folder()).unwrap();
    let mut ingest = store.ingest().unwrap();
    let id = ingest.id().clone();
    ingest.write_all(b"one").unwrap();
    assert!(matches!(other.resume(&id), Err(StoreError::Busy { .. })));
    let resting = ingest.rest();
    // Nobody has been there.
    let mut ingest = store.wake(resting).unwrap().unwrap();
    ingest.write_all(b"two").unwrap();
    assert_eq!((ingest.written(), ingest.digest_so_far()), (6, digest_of(Algorithm::Sha256, b"onetwo")));
    assert_eq!(other.ingested(&id).unwrap(), Some(6));
    // Somebody goes on.
    let resting = ingest.rest();
    let mut theirs = other.resume(&id).unwrap().unwrap();
    assert!(matches!(store.wake(resting), Err(StoreError::Busy { .. })));
    theirs.write_all(b"three").unwrap();
    let resting = theirs.rest();
    // Somebody makes something else of it that is as long.
    let mut mine = store.resume(&id).unwrap().unwrap();
    assert_eq!(mine.digest_so_far(), digest_of(Algorithm::Sha256, b"onetwothree"));
    mine.restart().unwrap();
    mine.write_all(b"twoonethree").unwrap();
    drop(mine);
    let ingest = other.wake(resting).unwrap().unwrap();
    assert_eq!(ingest.digest_so_far(), digest_of(Algorithm::Sha256, b"twoonethree"));
    let resting = {
        let ingest = other.wake(ingest.rest()).unwrap().unwrap();
        ingest.rest()
    };
    store.resume(&id).unwrap().unwrap().abort().unwrap();
    assert!(other.wake(resting).unwrap().is_none());
    assert_eq!(other.ingested(&id).unwrap(), None);
}
