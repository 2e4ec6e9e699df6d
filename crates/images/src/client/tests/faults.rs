//! What can go wrong on the way, and what comes of it.

use super::{
    server::{Fault, Server},
    *,
};
use crate::media;

#[tokio::test]
async fn an_image_comes_once() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let name = Sample::new(100_000).publish(&server, "a/b", "1");
    let pulled = machine.pull(&name, &watched).await.unwrap();
    assert!(machine.has(&name) && pulled.before.is_none());
    let again = machine.pull(&name, &watched).await.unwrap();
    assert_eq!(again.before.unwrap(), again.name.digest.unwrap_or(crate::store::digest_in(&pulled.target).unwrap()));
    assert_eq!((server.count("GET", "/blobs/"), watched.count("Exists")), (2, 2));
    assert_eq!(machine.unfinished(), 0);
}

#[tokio::test]
async fn busy_servers_are_given_time() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let name = Sample::new(10_000).publish(&server, "a", "1");
    server.fault("GET", "/manifests/", Fault::Status(503, ""));
    server.fault("GET", "/manifests/", Fault::Status(429, "Retry-After: 1"));
    server.fault("GET", "/blobs/", Fault::Status(502, ""));
    server.fault("GET", "/blobs/", Fault::Status(500, ""));
    let began = std::time::Instant::now();
    machine.pull(&name, &watched).await.unwrap();
    assert!(machine.has(&name) && began.elapsed() >= Duration::from_secs(1));
    assert_eq!(watched.count("retry"), 2);
}

#[tokio::test]
async fn patience_has_an_end() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let name = Sample::new(10).publish(&server, "a", "1");
    for _ in 0..9 {
        server.fault("GET", "/manifests/", Fault::Status(503, ""));
    }
    let error = machine.pull(&name, &watched).await.unwrap_err();
    assert!(matches!(error, ClientError::GaveUp { attempts: 4, .. }), "{error:?}");
    assert_eq!(error.kind(), ClientErrorKind::Unavailable, "what may pass is not what is wrong");
    assert_eq!(server.count("GET", "/manifests/"), 4);
    let server = Server::new();
    Sample::new(10).publish(&server, "a", "1");
    server.fault("GET", "/manifests/", Fault::Status(429, "Retry-After: 3600"));
    let error = machine.pull(&format!("{}/a:1", server.host()), &watched).await.unwrap_err();
    assert!(matches!(error, ClientError::Wait { .. }) && error.to_string().contains("3600 s"), "{error}");
    assert!(!machine.has(&name));
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let sample = Sample::new(3_000_000);
    let name = sample.publish(&server, "a", "1");
    let layer = digest(&sample.layer).to_string();
    for bytes in [1_000_000, 700_000, 10, 500_000, 0, 1, 1, 1] {
        server.fault("GET", &layer, Fault::Cut(bytes));
    }
    machine.pull(&name, &watched).await.unwrap();
    assert!(machine.has(&name));
    let ranges: Vec<_> = server
        .log()
        .iter()
        .filter(|one| one.target.contains(&layer))
        .map(|one| one.header("range").to_owned())
        .collect();
    assert_eq!(ranges[0], "");
    assert_eq!(
        ranges[1..4],
        ["bytes=1000000-", "bytes=1700000-", "bytes=1700010-"],
        "more cuts than attempts, as something came each time"
    );
    let tag =
        server.log().iter().filter(|one| one.target.contains(&layer)).nth(1).unwrap().header("if-range").to_owned();
    assert_eq!(tag, format!("\"{layer}\""));
}

#[tokio::test]
async fn the_next_pull_goes_on_where_the_last_was_cut() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let sample = Sample::new(2_000_000);
    let name = sample.publish(&server, "a", "1");
    let layer = digest(&sample.layer).to_string();
    server.fault("GET", &layer, Fault::Cut(1_200_000));
    for _ in 0..4 {
        server.fault("GET", &layer, Fault::Status(500, ""));
    }
    let one = machine.client(|settings| settings.parallel = 1);
    let error = one.pull(&name.parse().unwrap(), &here(), &watched).await.unwrap_err();
    assert!(matches!(error, ClientError::GaveUp { .. }), "{error:?}");
    assert_eq!((machine.unfinished(), machine.has(&name)), (1, false));
    machine.pull(&name, &watched).await.unwrap();
    let last = server.log().into_iter().rfind(|one| one.target.contains(&layer)).unwrap();
    assert_eq!((last.header("range"), machine.has(&name), machine.unfinished()), ("bytes=1200000-", true, 0));
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again_from_the_start() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let sample = Sample::new(2_000_000);
    let name = sample.publish(&server, "a", "1");
    let layer = digest(&sample.layer).to_string();
    server.fault("GET", &layer, Fault::Cut(1_500_000));
    server.fault("GET", &layer, Fault::Whole);
    machine.pull(&name, &watched).await.unwrap();
    assert!(machine.has(&name));
}

#[tokio::test]
async fn a_stall_is_noticed() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let sample = Sample::new(1_000_000);
    let name = sample.publish(&server, "a", "1");
    server.fault("GET", digest(&sample.layer).as_str(), Fault::Stall(300_000));
    machine.pull(&name, &watched).await.unwrap();
    assert!(machine.has(&name) && watched.count("nothing came for too long") == 1, "{watched:?}", watched = watched.0);
}

#[tokio::test]
async fn other_content_is_never_believed() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let sample = Sample::new(50_000);
    let name = sample.publish(&server, "a", "1");
    server.fault("GET", digest(&sample.layer).as_str(), Fault::Lie);
    let error = machine.pull(&name, &watched).await.unwrap_err();
    assert!(matches!(error, ClientError::Digest { .. }), "{error:?}");
    assert!(!machine.has(&name));
    let by_digest = format!("{}/a@{}", server.host(), digest(&sample.manifest));
    server.fault("GET", "/manifests/", Fault::Lie);
    let error = machine.pull(&by_digest, &watched).await.unwrap_err();
    assert!(matches!(error, ClientError::Digest { .. }), "{error:?}");
    machine.pull(&name, &watched).await.unwrap();
    assert!(machine.has(&name));
}

#[tokio::test]
async fn what_a_former_pull_left_damaged_is_replaced() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let sample = Sample::new(500_000);
    let name = sample.publish(&server, "a", "1");
    let layer = digest(&sample.layer);
    {
        use std::io::Write as _;
        let mut ingest = downloads::fresh(&machine.store, &layer).unwrap();
        ingest.write_all(&[7; 1000]).unwrap();
    }
    machine.pull(&name, &watched).await.unwrap();
    assert!(machine.has(&name));
    assert_eq!((server.count("GET", layer.as_str()), machine.unfinished()), (2, 0));
}

#[tokio::test]
async fn unknown_kinds_are_named() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    server.manifest("a", "old", old, br#"{"schemaVersion":1}"#);
    server.manifest("a", "html", "text/html; charset=utf-8", b"<html>hello</html>");
    server.manifest("a", "two", media::OCI_MANIFEST, br#"{"schemaVersion":2,"mediaType":"application/x-other"}"#);
    server.manifest("a", "index", media::OCI_MANIFEST, br#"{"schemaVersion":2,"manifests":[]}"#);
    server.manifest("a", "big", media::OCI_MANIFEST, &vec![b' '; 5 << 20]);
    for (tag, part) in
        [("old", old), ("html", "text/html"), ("two", "x-other"), ("index", "is not"), ("big", "4096 KiB")]
    {
        let error = machine.pull(&format!("{}/a:{tag}", server.host()), &watched).await.unwrap_err();
        assert!(error.to_string().contains(part), "{tag}: {error}");
    }
    let error = machine.pull(&format!("{}/a:none", server.host()), &watched).await.unwrap_err();
    assert!(matches!(error, ClientError::NotFound { .. }) && error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_told_soon() {
    let machine = Machine::new();
    let began = std::time::Instant::now();
    let error = machine.pull("127.0.0.1:1/a:1", &Watched::default()).await.unwrap_err();
    assert!(error.to_string().contains("nothing listens there"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(error.kind(), ClientErrorKind::Unavailable);
}

#[tokio::test]
async fn a_push_that_is_cut_goes_on_where_it_was() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Arc::new(Watched::default()));
    let sample = Sample::new(5_000_000);
    let target = sample.keep(&machine, "local:1");
    server.fault("PATCH", "/uploads/", Fault::Cut(2_000_000));
    server.fault("PUT", "/uploads/", Fault::Status(503, ""));
    let name = format!("{}/a/b:2", server.host());
    let progress: Arc<dyn Progress> = watched.clone();
    let pushed = machine.client(|_| ()).push(&target, &name.parse().unwrap(), progress.clone()).await.unwrap();
    assert!(server.has(&sample.layer) && server.has(&sample.config));
    assert_eq!(server.get_manifest("a/b", "2"), Some(sample.manifest.clone()));
    assert_eq!(pushed.digest, digest(&sample.manifest));
    assert!(watched.count("retry") >= 1);
    let before = server.count("POST", "/uploads/");
    machine.client(|_| ()).push(&target, &name.parse().unwrap(), progress).await.unwrap();
    assert_eq!(server.count("POST", "/uploads/"), before, "what is there is not sent again");
}

#[tokio::test]
async fn a_lost_answer_to_the_last_request_is_no_failure() {
    let (server, machine) = (Server::new(), Machine::new());
    let sample = Sample::new(2_000_000);
    let target = sample.keep(&machine, "local:1");
    server.fault("PUT", "/uploads/", Fault::Mute);
    server.fault("PUT", "/uploads/", Fault::Mute);
    let name = format!("{}/a:1", server.host()).parse().unwrap();
    machine.client(|_| ()).push(&target, &name, Arc::new(crate::Silent)).await.unwrap();
    assert!(server.has(&sample.layer) && server.has(&sample.config));
}

#[tokio::test]
async fn blobs_are_taken_from_a_related_repository() {
    let (server, machine) = (Server::new(), Machine::new());
    let sample = Sample::new(2_000_000);
    let name = sample.publish(&server, "base", "1");
    let pulled = machine.pull(&name, &Watched::default()).await.unwrap();
    // This server knows blobs of all repositories by HEAD; one that does not is what mounting is for.
    server.fault("HEAD", "/blobs/", Fault::Status(404, ""));
    server.fault("HEAD", "/blobs/", Fault::Status(404, ""));
    let other = format!("{}/other:1", server.host()).parse().unwrap();
    machine.client(|_| ()).push(&pulled.target, &other, Arc::new(crate::Silent)).await.unwrap();
    assert_eq!(
        (server.count("POST", "from=base"), server.count("PATCH", ""), server.count("PUT", "/uploads/")),
        (2, 0, 0)
    );
}

/// A size that is not the layer's, in a manifest that is otherwise right.
fn missized(server: &Server, sample: &Sample, size: usize) -> String {
    sample.publish(server, "a", "1");
    let text = String::from_utf8(sample.manifest.clone()).unwrap();
    let text = text.replace(&format!("\"size\":{}}}]", sample.layer.len()), &format!("\"size\":{size}}}]"));
    server.manifest("a", "missized", media::OCI_MANIFEST, text.as_bytes());
    format!("{}/a:missized", server.host())
}

#[tokio::test]
async fn a_blob_smaller_than_it_should_be_is_no_endless_download() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let sample = Sample::new(300_000);
    let name = missized(&server, &sample, 400_000);
    let pull = tokio::time::timeout(Duration::from_secs(5), machine.pull(&name, &watched));
    let error = pull.await.expect("it ends").unwrap_err();
    assert!(matches!(&error, ClientError::Malformed { why, .. } if why.contains("300000")), "{error}");
    assert!(server.count("GET", digest(&sample.layer).as_str()) <= 4, "once from the start again, no more");
}

#[tokio::test]
async fn a_server_that_has_no_range_ever_is_told_so() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let sample = Sample::new(300_000);
    let name = sample.publish(&server, "a", "1");
    let layer = digest(&sample.layer).to_string();
    server.faults(100, "GET", &layer, &Fault::Status(416, ""));
    let error = machine.pull(&name, &watched).await.unwrap_err();
    assert!(error.to_string().contains("416"), "{error}");
    assert_eq!(server.count("GET", &layer), 1, "there was nothing to begin anew");
}

#[tokio::test]
async fn what_comes_again_after_a_new_beginning_is_no_progress() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let sample = Sample::new(1_000_000);
    let name = sample.publish(&server, "a", "1");
    let layer = digest(&sample.layer).to_string();
    server.fault("GET", &layer, Fault::Cut(600_000));
    server.fault("GET", &layer, Fault::Status(416, ""));
    for _ in 0..8 {
        server.fault("GET", &layer, Fault::Cut(10_000));
    }
    let error = machine.pull(&name, &watched).await.unwrap_err();
    assert!(matches!(error, ClientError::GaveUp { attempts: 4, .. }), "{error:?}");
    // And one new beginning is enough, when it goes well.
    let error = machine.pull(&name, &watched).await;
    assert!(error.is_ok() && machine.has(&name), "{error:?}");
}

#[tokio::test]
async fn a_registry_that_claims_more_than_there_is_makes_no_progress() {
    let (server, machine) = (Server::new(), Machine::new());
    let sample = Sample::new(2_000_000);
    let target = sample.keep(&machine, "local:1");
    server.faults(40, "PUT", "/uploads/", &Fault::Status(503, ""));
    server.faults(40, "GET", "/uploads/", &Fault::Status(204, "Range: 0-99999999"));
    let name: ImageName = format!("{}/a:1", server.host()).parse().unwrap();
    let one = machine.client(|settings| settings.parallel = 1);
    let error = one.push(&target, &name, Arc::new(crate::Silent)).await.unwrap_err();
    assert!(matches!(error, ClientError::GaveUp { attempts: 4, .. }), "{error:?}");
}

#[tokio::test]
async fn a_registry_that_takes_back_what_it_had_makes_no_progress() {
    let (server, machine) = (Server::new(), Machine::new());
    let sample = Sample::new(2_000_000);
    let target = sample.keep(&machine, "local:1");
    server.faults(40, "PATCH", "/uploads/", &Fault::Status(503, ""));
    for _ in 0..20 {
        server.fault("GET", "/uploads/", Fault::Status(204, "Range: 0-999999"));
        server.fault("GET", "/uploads/", Fault::Status(204, "Range: 0-99999"));
    }
    let name: ImageName = format!("{}/a:1", server.host()).parse().unwrap();
    let one = machine.client(|settings| settings.parallel = 1);
    let error = one.push(&target, &name, Arc::new(crate::Silent)).await.unwrap_err();
    // The first word of it is the only progress there was.
    assert!(matches!(error, ClientError::GaveUp { attempts: 4, .. }), "{error:?}");
    assert_eq!(server.count("PATCH", "/uploads/"), 5);
}

#[tokio::test]
async fn a_manifest_that_is_cut_is_asked_for_again() {
    let (server, machine, watched) = (Server::new(), Machine::new(), Watched::default());
    let name = Sample::new(1000).publish(&server, "a", "1");
    server.fault("GET", "/manifests/", Fault::Cut(20));
    server.fault("GET", "/manifests/", Fault::Stall(100));
    server.fault("GET", "/manifests/", Fault::Status(502, ""));
    machine.pull(&name, &watched).await.unwrap();
    assert_eq!((machine.has(&name), server.count("GET", "/manifests/")), (true, 4));
    let error = {
        server.faults(9, "GET", "/manifests/", &Fault::Cut(20));
        machine.pull(&name, &watched).await.unwrap_err()
    };
    assert!(matches!(error, ClientError::GaveUp { attempts: 4, .. }), "{error:?}");
}
