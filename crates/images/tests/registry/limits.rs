//! Bounds: sizes, slow clients, too many of them, and the end.

use crate::harness::{Server, Wire, eventually, noise, sha256};
use std::{io::Read, net::TcpStream, time::Duration};

fn has_metric(server: &Server, wanted: &str) -> bool {
    let metrics = Wire::connect(server.addresses.metrics.unwrap()).send("GET", "/metrics", &[], b"");
    metrics.text().lines().any(|line| line == wanted)
}

#[test]
fn blobs_have_a_largest_size() {
    let server = Server::with(|settings| {
        settings.open = true;
        settings.limits.blob = 1000;
    });
    let content = noise(1001, 1);
    let too_large = (413, "SIZE_INVALID".to_owned());
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&content));
    assert_eq!(server.send("POST", &path, &[], &content).refused(), too_large);
    server.blob("a", &content[..1000]);
    let begun = server.send("POST", "/v2/a/blobs/uploads/", &[], b"");
    assert_eq!(server.send("PATCH", begun.location(), &[], &content[..600]).status, 202);
    assert_eq!(server.send("PATCH", begun.location(), &[], &content[600..]).refused(), too_large);
    // Without a length it is noticed when it comes.
    let mut wire = Wire::connect(server.address());
    wire.begin("PATCH", begun.location(), &[("transfer-encoding", "chunked")], None, b"");
    wire.write(b"191\r\n").unwrap();
    wire.write(&content[600..]).unwrap();
    wire.write(b"\r\n0\r\n\r\n").unwrap();
    assert_eq!(wire.receive(false).refused(), too_large);
    assert_eq!(server.get(begun.location()).header("range"), Some("0-599"), "the upload stays");
    let rest = format!("{}?digest={}", begun.location(), sha256(&content[..1000]));
    assert_eq!(server.send("PUT", &rest, &[], &content[600..1000]).status, 201);
}

#[test]
fn slow_clients_are_given_up() {
    // Pushed to one that is patient: on a busy machine this client is slow too.
    let patient = Server::open();
    let digest = patient.blob("a", &noise(64 << 20, 2));
    let (_, folder) = patient.end();
    let server = Server::on(folder, |settings| {
        settings.open = true;
        settings.limits.stall = Duration::from_secs(1);
        settings.limits.head = Duration::from_secs(1);
        settings.metrics = Some("127.0.0.1:0".parse().unwrap());
    });
    let mut idle = Wire::connect(server.address());
    assert!(idle.is_closed(), "no head");
    let mut half = Wire::connect(server.address());
    half.write(b"GET /v2/ HTTP/1.1\r\nhost:").unwrap();
    let mut answer = String::new();
    half.stream().read_to_string(&mut answer).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");

    let upload = server.send("POST", "/v2/a/blobs/uploads/", &[], b"");
    let mut slow = Wire::connect(server.address());
    slow.begin("PATCH", upload.location(), &[], Some(1 << 20), &noise(1000, 1));
    assert_eq!(slow.receive(false).refused(), (408, "BLOB_UPLOAD_INVALID".into()));
    assert!(slow.is_closed());
    assert_eq!(server.get(upload.location()).header("range"), Some("0-999"), "what has come stays");

    let mut reader = Wire::connect(server.address());
    reader.begin("GET", &format!("/v2/a/blobs/{digest}"), &[], None, b"");
    assert_eq!(reader.stream().peek(&mut [0]).unwrap(), 1, "the answer has begun");
    eventually("a reader that takes nothing is given up", || has_metric(&server, "registry_connections 0"));
    let mut taken = Vec::new();
    let end = reader.stream().read_to_end(&mut taken);
    assert!(end.is_err() || taken.len() < 64 << 20, "the connection was cut, not served to its end");
}

#[test]
fn a_form_that_does_not_come_is_given_up() {
    let server = Server::with(|settings| settings.limits.stall = Duration::from_millis(300));
    let mut silent = Wire::connect(server.address());
    silent.begin("POST", "/v2/token", &[], Some(100), b"grant_type=");
    assert_eq!(silent.receive(false).status, 408);
    assert!(silent.is_closed());
}

#[test]
fn heads_are_bounded() {
    let server = Server::open();
    let (large, fitting) = ("x".repeat(40 << 10), "x".repeat(16 << 10));
    assert_eq!(server.send("GET", "/v2/", &[("x", &fitting)], b"").status, 200);
    assert_eq!(server.send("GET", "/v2/", &[("x", &large)], b"").status, 431);
}

#[test]
fn uploads_at_a_time_are_bounded() {
    let server = Server::with(|settings| {
        settings.open = true;
        settings.limits.uploads = 2;
        settings.metrics = Some("127.0.0.1:0".parse().unwrap());
    });
    let begin = || server.send("POST", "/v2/a/blobs/uploads/", &[], b"").location().to_owned();
    let mut sending: Vec<_> = (0..2)
        .map(|_| {
            let mut wire = Wire::connect(server.address());
            wire.begin("PATCH", &begin(), &[], Some(100_000), &[0; 1000]);
            wire
        })
        .collect();
    let content = b"one more";
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(content));
    eventually("both send", || has_metric(&server, "registry_uploads 2"));
    let refused = server.send("POST", &path, &[], content);
    assert_eq!(refused.refused(), (429, "TOOMANYREQUESTS".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    for wire in &mut sending {
        wire.write(&[0; 99_000]).unwrap();
        assert_eq!(wire.receive(false).status, 202);
    }
    assert_eq!(server.send("POST", &path, &[], content).status, 201);
}

#[test]
fn manifests_at_a_time_are_bounded() {
    let server = Server::with(|settings| {
        settings.open = true;
        settings.limits.manifests = 1;
        settings.limits.queue = Duration::from_millis(50);
    });
    let document = server.image_document("a", &[b"layer"]);
    let text = document.to_string();
    let mut first = Wire::connect(server.address());
    let headers = [("content-type", crate::harness::MANIFEST)];
    first.begin("PUT", "/v2/a/manifests/v1", &headers, Some(text.len() as u64), &text.as_bytes()[..10]);
    eventually("the first has its place", || server.put_manifest("a", "v2", &document).status == 429);
    let refused = server.put_manifest("a", "v2", &document);
    assert_eq!(refused.refused(), (429, "TOOMANYREQUESTS".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    first.write(&text.as_bytes()[10..]).unwrap();
    assert_eq!(first.receive(false).status, 201);
    server.manifest("a", "v2", &document);
}

#[test]
fn connections_at_a_time_are_bounded() {
    let server = Server::with(|settings| {
        settings.open = true;
        settings.limits.connections = 2;
    });
    let mut kept: Vec<_> = (0..2).map(|_| Wire::connect(server.address())).collect();
    for wire in &mut kept {
        assert_eq!(wire.send("GET", "/v2/", &[], b"").status, 200);
    }
    let mut waiting = Wire::connect(server.address());
    waiting.begin("GET", "/v2/", &[], None, b"");
    waiting.stream().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut byte = [0];
    assert!(waiting.stream().peek(&mut byte).is_err(), "it waits");
    kept.pop();
    waiting.stream().set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(waiting.receive(false).status, 200);
}

#[test]
fn sessions_that_do_not_fit_are_closed_and_go_on() {
    let server = Server::with(|settings| {
        settings.open = true;
        settings.limits.sessions = 2;
    });
    let content = noise(2000, 3);
    let begin = || server.send("POST", "/v2/a/blobs/uploads/", &[], b"").location().to_owned();
    let uploads: Vec<_> = (0..6).map(|_| begin()).collect();
    for upload in &uploads {
        assert_eq!(server.send("PATCH", upload, &[], &content[..1000]).status, 202);
    }
    for upload in &uploads {
        let path = format!("{upload}?digest={}", sha256(&content));
        assert_eq!(server.send("PUT", &path, &[], &content[1000..]).status, 201);
    }
}

#[test]
fn requests_under_way_end_in_order() {
    let server = Server::open();
    let digest = server.blob("a", &noise(32 << 20, 4));
    let mut reading = Wire::connect(server.address());
    reading.begin("GET", &format!("/v2/a/blobs/{digest}"), &[], None, b"");
    let upload = server.send("POST", "/v2/a/blobs/uploads/", &[], b"");
    let content = noise(200_000, 5);
    let mut writing = Wire::connect(server.address());
    let path = format!("{}?digest={}", upload.location(), sha256(&content));
    writing.begin("PUT", &path, &[], Some(200_000), &content[..100_000]);
    let mut idle = Wire::connect(server.address());
    assert_eq!(idle.send("GET", "/v2/", &[], b"").status, 200);
    eventually("the upload has begun", || server.get(upload.location()).status == 204);
    server.stop();
    eventually("no connection is taken any more", || TcpStream::connect(server.address()).is_err());
    assert!(idle.is_closed());
    writing.write(&content[100_000..]).unwrap();
    assert_eq!(writing.receive(false).status, 201);
    assert_eq!(reading.receive(false).body.len(), 32 << 20);
    let (exit, _) = server.end();
    assert_eq!((exit.code(), exit.interruption), (0, None), "{exit}");
}

#[test]
fn metrics_on_a_listener_of_their_own() {
    let server = Server::with(|settings| {
        settings.open = true;
        settings.metrics = Some("127.0.0.1:0".parse().unwrap());
    });
    server.image("a", "v1", &[b"layer"]);
    server.get("/v2/a/manifests/v1");
    server.get("/v2/a/manifests/v1");
    server.get("/nothing");
    let mut wire = Wire::connect(server.addresses.metrics.unwrap());
    let answer = wire.send("GET", "/metrics", &[], b"");
    for line in [
        "registry_requests_total{route=\"manifest\",method=\"GET\",status=\"200\"} 2",
        "registry_requests_total{route=\"other\",method=\"GET\",status=\"404\"} 1",
        "registry_cache_hits_total 1",
        "registry_blob_bytes_received_total 7",
    ] {
        assert!(answer.text().lines().any(|there| there == line), "{line} is not in\n{}", answer.text());
    }
    assert_eq!(wire.send("GET", "/health", &[], b"").status, 200);
    assert_eq!(wire.send("GET", "/v2/", &[], b"").status, 404);
    assert_eq!(server.get("/metrics").status, 404);
}

#[test]
fn a_large_body_that_is_refused_is_still_answered() {
    let server = Server::with(|_| {});
    let content = vec![0; 8 << 20];
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&content));
    assert_eq!(server.send("POST", &path, &[], &content).status, 401);
    let mut careful = Wire::connect(server.address());
    careful.begin("POST", &path, &[("expect", "100-continue")], Some(content.len() as u64), b"");
    assert_eq!(careful.receive(false).status, 401, "without having sent it");
}
