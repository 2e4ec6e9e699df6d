//! Uploads: every way in, and every way that goes wrong.

use crate::harness::{Server, Wire, noise, sha256, sha512};
use images::store::{Store, Watermarks};
use std::{net::Shutdown, process::Command};

const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

fn begin(server: &Server, repository: &str) -> String {
    let answer = server.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
    assert_eq!((answer.status, answer.header("range")), (202, Some("0-0")), "{answer:?}");
    assert!(answer.header("docker-upload-uuid").is_some());
    answer.location().to_owned()
}

fn chunk(server: &Server, location: &str, start: usize, bytes: &[u8]) -> crate::harness::Answer {
    let range = format!("{start}-{}", start + bytes.len() - 1);
    server.send("PATCH", location, &[OCTETS, ("content-range", &range)], bytes)
}

fn finish(server: &Server, location: &str, digest: impl std::fmt::Display, bytes: &[u8]) -> crate::harness::Answer {
    server.send("PUT", &format!("{location}?digest={digest}"), &[OCTETS], bytes)
}

#[test]
fn at_once_and_in_two_steps() {
    let server = Server::open();
    let content = noise(1 << 20, 1);
    let digest = sha256(&content);
    for answer in [
        server.send("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[OCTETS], &content),
        finish(&server, &begin(&server, "b"), &digest, &content),
    ] {
        assert_eq!((answer.status, answer.header("docker-content-digest")), (201, Some(digest.as_str())));
        assert!(server.get(answer.location()).body == content);
    }
}

#[test]
fn in_chunks_with_status() {
    let server = Server::open();
    let content = noise(2_500_000, 2);
    let mut location = begin(&server, "a");
    let mut sent = 0;
    for part in content.chunks(1_000_000) {
        let answer = chunk(&server, &location, sent, part);
        sent += part.len();
        let range = format!("0-{}", sent - 1);
        assert_eq!((answer.status, answer.header("range")), (202, Some(&*range)));
        location = answer.location().to_owned();
        let status = server.get(&location);
        assert_eq!((status.status, status.header("range")), (204, Some(&*range)));
        assert!(status.header("location").is_some());
    }
    let done = finish(&server, &location, sha256(&content), b"");
    assert_eq!(done.status, 201);
    assert!(server.get(done.location()).body == content);
    assert_eq!(server.get(&location).refused(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
}

#[test]
fn the_last_chunk_may_come_with_the_end() {
    let server = Server::open();
    let content = noise(300_000, 3);
    let location = begin(&server, "a");
    assert_eq!(chunk(&server, &location, 0, &content[..200_000]).status, 202);
    let path = format!("{location}?digest={}", sha256(&content));
    let range = [OCTETS, ("content-range", "200000-299999")];
    assert_eq!(server.send("PUT", &path, &range, &content[200_000..]).status, 201);
}

#[test]
fn a_stream_has_no_length() {
    let server = Server::open();
    let content = noise(700_000, 4);
    let location = begin(&server, "a");
    let mut wire = Wire::connect(server.address());
    wire.begin("PATCH", &location, &[OCTETS, ("transfer-encoding", "chunked")], None, b"");
    for part in content.chunks(100_001) {
        wire.write(format!("{:x}\r\n", part.len()).as_bytes()).unwrap();
        wire.write(part).unwrap();
        wire.write(b"\r\n").unwrap();
    }
    wire.write(b"0\r\n\r\n").unwrap();
    let answer = wire.receive(false);
    assert_eq!((answer.status, answer.header("range")), (202, Some("0-699999")));
    assert_eq!(finish(&server, answer.location(), sha256(&content), b"").status, 201);
}

#[test]
fn chunks_out_of_order_are_refused_and_the_upload_stays() {
    let server = Server::open();
    let content = noise(3000, 5);
    let location = begin(&server, "a");
    let ahead = chunk(&server, &location, 1000, &content[1000..2000]);
    assert_eq!(ahead.refused(), (416, "BLOB_UPLOAD_INVALID".into()));
    assert_eq!(chunk(&server, &location, 0, &content[..1000]).status, 202);
    for start in [0, 999, 2000] {
        let answer = chunk(&server, &location, start, &content[start..start + 1000]);
        assert_eq!((answer.status, answer.header("range")), (416, Some("0-999")), "{start}");
        assert!(answer.header("location").is_some());
    }
    let malformed = server.send("PATCH", &location, &[OCTETS, ("content-range", "x-y")], b"abc");
    assert_eq!(malformed.status, 416);
    let lies = server.send("PATCH", &location, &[OCTETS, ("content-range", "1000-1999")], b"abc");
    assert_eq!(lies.refused(), (400, "SIZE_INVALID".into()));
    let path = format!("{location}?digest={}", sha256(&content));
    let wrong = server.send("PUT", &path, &[OCTETS, ("content-range", "0-1999")], &content[1000..]);
    assert_eq!(wrong.status, 416, "also with the end");
    assert_eq!(chunk(&server, &location, 1000, &content[1000..]).status, 202);
    assert_eq!(finish(&server, &location, sha256(&content), b"").status, 201);
}

#[test]
fn a_wrong_digest_is_refused_and_nothing_is_left() {
    let server = Server::open();
    let digest = sha256(b"promised");
    let at_once = server.send("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[OCTETS], b"other");
    assert_eq!(at_once.refused(), (400, "DIGEST_INVALID".into()));
    let location = begin(&server, "a");
    assert_eq!(finish(&server, &location, &digest, b"other").refused(), (400, "DIGEST_INVALID".into()));
    let location = begin(&server, "a");
    assert_eq!(finish(&server, &location, "sha256:12", b"other").refused(), (400, "DIGEST_INVALID".into()));
    assert_eq!(server.send("PUT", &location, &[OCTETS], b"").refused(), (400, "DIGEST_INVALID".into()));
    assert_eq!(
        server.send("POST", "/v2/a/blobs/uploads/?digest=x", &[], b"").refused(),
        (400, "DIGEST_INVALID".into())
    );
    assert_eq!(server.head(&format!("/v2/a/blobs/{digest}")).status, 404);
    assert_eq!(server.delete(&location).status, 204);
    let left = std::fs::read_dir(server.path().join("images/ingest")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn sha512_at_the_end_and_announced() {
    let server = Server::open();
    let content = noise(100_000, 6);
    let digest = sha512(&content);
    assert_eq!(finish(&server, &begin(&server, "a"), &digest, &content).status, 201, "no byte before");
    let location = begin(&server, "b");
    assert_eq!(chunk(&server, &location, 0, &content).status, 202);
    assert_eq!(finish(&server, &location, &digest, b"").status, 201, "all bytes before");
    let announced = server.send("POST", "/v2/c/blobs/uploads/?digest-algorithm=sha512", &[], b"");
    assert_eq!(finish(&server, announced.location(), &digest, &content).status, 201);
    let unknown = server.send("POST", "/v2/c/blobs/uploads/?digest-algorithm=md5", &[], b"");
    assert_eq!(unknown.refused(), (400, "DIGEST_INVALID".into()));
}

#[test]
fn addresses_are_bound_to_their_repository() {
    let server = Server::open();
    let location = begin(&server, "a");
    let elsewhere = location.replace("/v2/a/", "/v2/b/");
    assert_eq!(server.get(&elsewhere).refused(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
    let made_up = format!("{}{}", &location[..location.len() - 1], if location.ends_with('x') { 'y' } else { 'x' });
    assert_eq!(server.get(&made_up).status, 404);
    assert_eq!(server.get("/v2/a/blobs/uploads/nothing").refused(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
    assert_eq!(server.delete(&location).status, 204);
    for answer in
        [server.delete(&location), chunk(&server, &location, 0, b"x"), finish(&server, &location, sha256(b""), b"")]
    {
        assert_eq!(answer.refused(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
    }
}

#[test]
fn goes_on_after_a_cut_connection_and_another_process() {
    let server = Server::open();
    let content = noise(3 << 20, 7);
    let location = begin(&server, "a");
    let mut wire = Wire::connect(server.address());
    wire.begin("PATCH", &location, &[OCTETS], Some(content.len() as u64), &content[..1 << 20]);
    wire.stream().shutdown(Shutdown::Both).unwrap();
    let mut at = 0;
    crate::harness::eventually("the bytes before the cut are kept", || {
        let range = server.get(&location).header("range").unwrap().to_owned();
        at = range.trim_start_matches("0-").parse::<usize>().unwrap() + 1;
        at == 1 << 20
    });
    assert_eq!(chunk(&server, &location, at, &content[at..2 << 20]).status, 202);
    let (exit, folder) = server.end();
    assert_eq!(exit.code(), 0, "{exit}");

    let server = Server::on(folder, |settings| settings.open = true);
    assert_eq!(server.get(&location).header("range"), Some("0-2097151"));
    assert_eq!(chunk(&server, &location, 2 << 20, &content[2 << 20..]).status, 202);
    assert_eq!(finish(&server, &location, sha256(&content), b"").status, 201);
}

#[test]
fn processes_of_one_folder_go_on_with_each_others_uploads() {
    let one = Server::open();
    let two = one.beside(Watermarks::default(), |settings| settings.open = true);
    let content = noise(300_000, 10);
    // Whoever had it last, and whether or not it was had here before.
    let location = begin(&one, "a");
    assert_eq!(two.get(&location).header("range"), Some("0-0"));
    assert_eq!(chunk(&two, &location, 0, &content[..100_000]).status, 202);
    assert_eq!(one.get(&location).header("range"), Some("0-99999"));
    assert_eq!(chunk(&one, &location, 100_000, &content[100_000..200_000]).status, 202);
    assert_eq!(chunk(&one, &location, 200_000, &content[200_000..250_000]).status, 202);
    let path = format!("{location}?digest={}", sha256(&content));
    assert_eq!(two.send("PUT", &path, &[OCTETS], &content[250_000..]).status, 201);
    assert!(one.get(&format!("/v2/a/blobs/{}", sha256(&content))).body == content);
    assert_eq!(one.get(&location).refused(), (404, "BLOB_UPLOAD_UNKNOWN".into()));

    let location = begin(&one, "a");
    assert_eq!(chunk(&two, &location, 0, &content).status, 202);
    assert_eq!(finish(&one, &location, sha256(&content), b"").status, 201);
    let location = begin(&one, "a");
    assert_eq!(two.delete(&location).status, 204);
    assert_eq!(chunk(&one, &location, 0, &content).status, 404);
}

#[test]
fn an_upload_stops_where_the_disk_is_full_and_can_be_finished() {
    let server = Server::open();
    let full = server.beside(Watermarks { collect: 101, refuse: 0 }, |settings| settings.open = true);
    let location = begin(&server, "a");
    assert_eq!(chunk(&server, &location, 0, b"some").status, 202);
    let refused = chunk(&full, &location, 4, b"more");
    assert_eq!((refused.status, refused.header("range")), (507, Some("0-3")), "{refused:?}");
    assert_eq!(finish(&full, &location, sha256(b"somemore"), b"more").status, 507);
    assert_eq!(finish(&full, &location, sha256(b"some"), b"").status, 201, "it takes no more room");
}

#[test]
fn uploads_leave_the_room_above_the_watermark() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Small::mount(folder.path());
    let store = Store::open_with(&disk.0.join("images"), Watermarks { collect: 101, refuse: 50 }).unwrap();
    let server = Server::start(store, None, |settings| settings.open = true);
    let location = begin(&server, "a");
    let content = noise(48 << 20, 11);
    let refused = server.send("PATCH", &location, &[OCTETS], &content);
    assert_eq!(refused.status, 507, "{refused:?}");
    let there = server.get(&location).header("range").unwrap().trim_start_matches("0-").parse::<usize>().unwrap() + 1;
    assert!(there > 16 << 20 && there < 40 << 20, "{there}");
    assert_eq!(finish(&server, &location, sha256(&content[..there]), b"").status, 201);
}

/// A file system of 64 MiB in memory.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(folder: &std::path::Path) -> Self {
        let on = folder.join("disk");
        std::fs::create_dir(&on).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "small"]).arg(&on).status();
        assert!(mounted.unwrap().success());
        Self(on)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // The store of the server that has ended has files open for a moment.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(std::thread::panicking() || unmounted.unwrap().success());
    }
}

#[test]
fn a_newer_request_takes_an_upload_over() {
    let server = Server::open();
    let content = noise(1 << 20, 8);
    let location = begin(&server, "a");
    let mut stuck = Wire::connect(server.address());
    stuck.begin("PATCH", &location, &[OCTETS], Some(content.len() as u64), &content[..600_000]);
    let mut at = 0;
    crate::harness::eventually("some bytes are there", || {
        let range = server.get(&location).header("range").unwrap().to_owned();
        at = range.trim_start_matches("0-").parse::<usize>().unwrap() + 1;
        at > 1
    });
    // What the stuck request has sent meanwhile counts too; the client asks where it is, as after a refusal.
    let answer = chunk(&server, &location, at, &content[at..]);
    let done = match answer.status {
        202 => answer,
        416 => {
            let at = answer.header("range").unwrap().trim_start_matches("0-").parse::<usize>().unwrap() + 1;
            chunk(&server, &location, at, &content[at..])
        }
        _ => panic!("{answer:?}"),
    };
    assert_eq!(done.status, 202);
    assert_eq!(stuck.receive(false).status, 409);
    assert_eq!(finish(&server, &location, sha256(&content), b"").status, 201);
}

#[test]
fn mounts() {
    let server = Server::open();
    let digest = server.blob("a/source", b"content");
    let mount = |target: &str, rest: &str| {
        server.send("POST", &format!("/v2/{target}/blobs/uploads/?mount={digest}{rest}"), &[], b"")
    };
    let named = mount("b", "&from=a/source");
    assert_eq!((named.status, named.header("docker-content-digest")), (201, Some(digest.as_str())));
    assert_eq!(server.get(named.location()).body, b"content");
    assert_eq!(mount("c", "").status, 201, "from wherever it is");
    for (target, rest) in [("d", "&from=nowhere"), ("e", "&from=a")] {
        let begun = mount(target, rest);
        assert_eq!(begun.status, 202);
        assert_eq!(finish(&server, begun.location(), &digest, b"content").status, 201);
    }
    let malformed = server.send("POST", "/v2/b/blobs/uploads/?mount=sha256:1&from=a/source", &[], b"");
    assert_eq!(malformed.refused(), (400, "DIGEST_INVALID".into()));
    assert_eq!(mount("b", "&from=A").refused(), (400, "NAME_INVALID".into()));
}

#[test]
fn the_same_blob_from_many_at_once() {
    let server = Server::open();
    let content = noise(400_000, 9);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (server, content) = (&server, &content);
            scope.spawn(move || {
                for _ in 0..4 {
                    server.blob(&format!("r{}", number % 2), content);
                }
            });
        }
    });
    assert!(server.get(&format!("/v2/r1/blobs/{}", sha256(&content))).body == content);
}
