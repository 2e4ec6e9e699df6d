//! Reading and removing blobs.

use crate::harness::{Server, noise, sha256, sha512};

#[test]
fn base_and_unknown_paths() {
    let server = Server::open();
    let base = server.get("/v2/");
    assert_eq!((base.status, base.header("docker-distribution-api-version")), (200, Some("registry/2.0")));
    assert_eq!(server.get("/v2").status, 200);
    assert_eq!(server.head("/v2/").status, 200);
    assert_eq!(server.get("/v1/").status, 404);
    assert_eq!(server.get("/v2/x/y").refused(), (404, "UNSUPPORTED".into()));
    let post = server.send("POST", "/v2/a/tags/list", &[], b"");
    assert_eq!(post.refused(), (405, "UNSUPPORTED".into()));
    assert_eq!(post.header("allow"), Some("GET, HEAD"));
    assert_eq!(server.get("/v2/Upper/tags/list").refused(), (400, "NAME_INVALID".into()));
    assert_eq!(server.get("/v2/a/blobs/sha256:zz").refused(), (400, "DIGEST_INVALID".into()));
    assert_eq!(
        server.get("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e").refused(),
        (400, "DIGEST_INVALID".into())
    );
}

#[test]
fn whole_and_head() {
    let server = Server::open();
    // Small ones are sent at once, large ones by the kernel, more than the stand-in's region among them.
    for length in [0, 1, 64 << 10, (64 << 10) + 1, (5 << 20) + 3] {
        let content = noise(length, length as u64);
        let digest = server.blob("a/b", &content);
        let path = format!("/v2/a/b/blobs/{digest}");
        let answer = server.get(&path);
        assert_eq!(answer.status, 200);
        assert!(answer.body == content, "{length}");
        let head = server.head(&path);
        assert_eq!(head.status, 200);
        for answer in [&answer, &head] {
            assert_eq!(answer.header("content-length"), Some(&*length.to_string()));
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
            assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        }
    }
}

#[test]
fn many_on_one_connection() {
    let server = Server::open();
    let contents: Vec<_> = [10, 3 << 20, 0, 200_000, 2 << 20].into_iter().map(|length| noise(length, 7)).collect();
    let paths: Vec<_> = contents.iter().map(|content| format!("/v2/a/blobs/{}", server.blob("a", content))).collect();
    let mut wire = crate::harness::Wire::connect(server.address());
    for _ in 0..3 {
        for (path, content) in paths.iter().zip(&contents) {
            assert!(wire.send("GET", path, &[], b"").body == *content);
            assert_eq!(wire.send("HEAD", path, &[], b"").status, 200);
        }
    }
    // Requests that come before the answers of those before them.
    for path in &paths {
        wire.begin("GET", path, &[], None, b"");
    }
    for content in &contents {
        assert!(wire.receive(false).body == *content);
    }
}

#[test]
fn parts() {
    let server = Server::open();
    for length in [1000usize, 3 << 20] {
        let content = noise(length, 3);
        let digest = server.blob("a", &content);
        let path = format!("/v2/a/blobs/{digest}");
        let part = |range: &str| server.send("GET", &path, &[("range", range)], b"");
        let last = length - 1;
        for (range, start, end) in [
            ("bytes=0-99", 0, 99),
            ("bytes=500-", 500, last),
            ("bytes=-100", length - 100, last),
            ("bytes=999-99999999", 999, last),
        ] {
            let answer = part(range);
            assert_eq!(answer.status, 206, "{range}");
            assert_eq!(answer.header("content-range"), Some(&*format!("bytes {start}-{end}/{length}")));
            assert!(answer.body == content[start..=end], "{range}");
        }
        let beyond = part(&format!("bytes={length}-"));
        assert_eq!((beyond.status, beyond.header("content-range")), (416, Some(&*format!("bytes */{length}"))));
        assert_eq!(part("bytes=5-4").status, 416);
        assert_eq!(part("bytes=0-1,3-4").status, 200);
        let head = server.send("HEAD", &path, &[("range", "bytes=0-9")], b"");
        assert_eq!((head.status, head.header("content-length")), (206, Some("10")));
        // A part of something else is not wanted.
        let other = server.send("GET", &path, &[("range", "bytes=0-9"), ("if-range", "\"other\"")], b"");
        assert_eq!(other.status, 200);
        let same = [("range", "bytes=0-9"), ("if-range", &*format!("\"{digest}\""))];
        assert_eq!(server.send("GET", &path, &same, b"").status, 206);
    }
}

#[test]
fn conditions() {
    let server = Server::open();
    let digest = server.blob("a", b"content");
    let path = format!("/v2/a/blobs/{digest}");
    let tag = server.get(&path).header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{digest}\""));
    for known in [&*tag, "*", &format!("\"x\", W/{tag}")] {
        let answer = server.send("GET", &path, &[("if-none-match", known)], b"");
        assert_eq!((answer.status, answer.header("etag")), (304, Some(&*tag)), "{known}");
    }
    assert_eq!(server.send("GET", &path, &[("if-none-match", "\"x\"")], b"").status, 200);
}

#[test]
fn unknown_and_removed() {
    let server = Server::open();
    let digest = server.blob("a", b"content");
    assert_eq!(server.get(&format!("/v2/b/blobs/{digest}")).refused(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(server.head(&format!("/v2/a/blobs/{}", sha256(b"other"))).status, 404);
    let path = format!("/v2/a/blobs/{digest}");
    assert_eq!(server.delete(&path).status, 202);
    assert_eq!(server.get(&path).refused(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(server.delete(&path).refused(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(server.blob("a", b"content"), digest, "it can come again");
    assert_eq!(server.get(&path).status, 200);
}

#[test]
fn sha512_is_content_of_its_own() {
    let server = Server::open();
    let content = noise(100_000, 5);
    let digest = sha512(&content);
    let answer = server.send("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], &content);
    assert_eq!((answer.status, answer.header("docker-content-digest")), (201, Some(digest.as_str())));
    assert!(server.get(answer.location()).body == content);
    assert_eq!(server.head(&format!("/v2/a/blobs/{}", sha256(&content))).status, 404);
}

#[test]
fn unreferenced_blobs_are_swept_and_referenced_ones_are_not() {
    let server = Server::open();
    let document = server.image_document("a", &[b"layer"]);
    let loose = server.blob("a", b"loose");
    server.manifest("a", "v1", &document);
    let sweep = || images::registry::sweep(&server.store, std::time::Duration::ZERO).unwrap();
    // Rows count seconds: what was relied on in this one stays.
    crate::harness::eventually("swept", || sweep() == 1);
    assert_eq!(server.head(&format!("/v2/a/blobs/{loose}")).status, 404);
    assert_eq!(server.head(&format!("/v2/a/blobs/{}", sha256(b"layer"))).status, 200);
    assert_eq!(server.delete("/v2/a/manifests/v1").status, 202);
    let manifest = sha256(document.to_string().as_bytes());
    assert_eq!(server.delete(&format!("/v2/a/manifests/{manifest}")).status, 202);
    crate::harness::eventually("swept", || sweep() == 2);
    assert_eq!(server.get("/v2/a/tags/list").refused(), (404, "NAME_UNKNOWN".into()));
}

#[test]
fn reading_needs_no_room_in_the_index() {
    let server = Server::open();
    let content = noise(2000, 20);
    server.image("a", "v1", &[&content]);
    let loose = server.blob("a", b"loose");
    // All were used last in 1970, and nothing can be noted.
    let spoil = "UPDATE registry_blobs SET touched = 0;
        CREATE TRIGGER full BEFORE UPDATE ON registry_blobs BEGIN SELECT RAISE(FAIL, 'no room'); END;";
    server.store.index().write("spoil", |transaction| transaction.execute_batch(spoil)).unwrap();
    for digest in [sha256(&content), loose] {
        let path = format!("/v2/a/blobs/{digest}");
        assert_eq!((server.head(&path).status, server.get(&path).status), (200, 200), "{digest}");
    }
    // Who is told that a blob is there may rely on it; who reads what a manifest keeps has no need to.
    let touched = |digest: &str| -> i64 {
        let sql = "SELECT touched FROM registry_blobs WHERE digest = ?1";
        server.store.index().read("look", |connection| connection.query_row(sql, [digest], |row| row.get(0))).unwrap()
    };
    server.store.index().write("mend", |transaction| transaction.execute_batch("DROP TRIGGER full")).unwrap();
    let kept = sha256(&content);
    let path = format!("/v2/a/blobs/{kept}");
    assert_eq!((server.get(&path).status, touched(kept.as_str())), (200, 0));
    assert_eq!((server.head(&path).status, touched(kept.as_str()) > 0), (200, true));
    let path = format!("/v2/a/blobs/{}", sha256(b"loose"));
    assert_eq!((server.get(&path).status, touched(sha256(b"loose").as_str()) > 0), (200, true));
}
