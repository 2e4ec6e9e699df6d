//! Collection with no pause: what was pushed stays, whatever is collected meanwhile, and what was deleted goes.

use crate::harness::{Server, noise, sha256};
use images::{
    collect::{self, Options},
    store::{Owner, Store},
};
use model::image::Algorithm;
use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Nothing is left alone for having been touched lately.
const AT_ONCE: Options = Options { grace: Duration::ZERO, ingest: Duration::from_secs(3600) };

#[test]
fn what_is_pushed_while_a_collection_runs_stays() {
    let server = Server::open();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut runs = 0;
            while !done.load(Ordering::Relaxed) {
                collect::run(&server.store, &AT_ONCE).unwrap();
                runs += 1;
            }
            runs
        });
        let clients: Vec<_> = (0..4u64)
            .map(|client| {
                let server = &server;
                scope.spawn(move || {
                    for round in 0..8u64 {
                        // Half of it is shared by all, half is new.
                        let (shared, own) = (noise(30_000, round), noise(20_000, 1000 + client * 100 + round));
                        let repository = format!("team/{}", client % 2);
                        let tag = format!("v{client}-{round}");
                        server.image(&repository, &tag, &[&shared, &own]);
                        let manifest = server.get(&format!("/v2/{repository}/manifests/{tag}"));
                        assert_eq!(manifest.status, 200);
                        for layer in [shared, own] {
                            let blob = server.get(&format!("/v2/{repository}/blobs/{}", sha256(&layer)));
                            assert!(blob.status == 200 && blob.body == layer, "{repository}:{tag}");
                        }
                        if round % 3 == 0 {
                            assert_eq!(server.delete(&format!("/v2/{repository}/manifests/{tag}")).status, 202);
                        }
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        done.store(true, Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0);
    });
    for client in 0..4u64 {
        for round in (0..8u64).filter(|round| round % 3 != 0) {
            let own = noise(20_000, 1000 + client * 100 + round);
            let path = format!("/v2/team/{}/blobs/{}", client % 2, sha256(&own));
            assert!(server.get(&path).body == own, "{client} {round}");
        }
    }
}

#[test]
fn what_is_deleted_becomes_room() {
    let server = Server::open();
    let (kept, gone) = (noise(50_000, 1), noise(70_000, 2));
    server.image("a", "kept", &[&kept]);
    let deleted = server.image("a", "gone", &[&kept, &gone]);
    collect::run(&server.store, &AT_ONCE).unwrap();
    assert_eq!(server.get("/v2/a/manifests/gone").status, 200, "nothing is taken that is needed");
    assert_eq!(server.delete(&format!("/v2/a/manifests/{deleted}")).status, 202);
    let there = |content: &[u8]| server.store.blob(&sha256(content)).unwrap().is_some();
    crate::harness::eventually("the layer of the deleted manifest is collected", || {
        images::registry::sweep(&server.store, Duration::ZERO).unwrap();
        collect::run(&server.store, &AT_ONCE).unwrap();
        !there(&gone)
    });
    assert!(there(&kept) && server.store.blob(&deleted).unwrap().is_none());
    assert_eq!(server.get("/v2/a/manifests/kept").status, 200);
    assert!(server.get(&format!("/v2/a/blobs/{}", sha256(&kept))).body == kept);
}

#[test]
fn a_disk_too_full_to_sweep_is_collected_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("images")).unwrap();
    let lease = store.lease(Owner::Process).unwrap();
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"nobody's").unwrap();
    let blob = ingest.commit_as(Algorithm::Sha256, &lease).unwrap();
    drop(lease);
    let spoil = "UPDATE blobs SET touched = 0;
        CREATE TRIGGER full BEFORE DELETE ON registry_repositories BEGIN SELECT RAISE(FAIL, 'no room'); END;
        INSERT INTO registry_repositories (name) VALUES ('empty');";
    store.index().write("spoil", |transaction| transaction.execute_batch(spoil)).unwrap();
    let server = Server::on(folder, |settings| settings.collect_every = Duration::from_millis(50));
    crate::harness::eventually("what nobody needs is gone", || {
        server.reload.now();
        store.blob(&blob.digest).unwrap().is_none()
    });
}
