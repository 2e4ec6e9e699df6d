//! Manifests, indexes and tags.

use crate::harness::{INDEX, MANIFEST, Server, noise, sha256, sha512};
use serde_json::json;

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

#[test]
fn pushed_and_read_by_tag_and_digest() {
    let server = Server::open();
    let document = server.image_document("a/b", &[b"layer", b"other"]);
    let bytes = document.to_string();
    let digest = sha256(bytes.as_bytes());
    let pushed = server.put_manifest("a/b", "v1", &document);
    assert_eq!(pushed.status, 201);
    assert_eq!(pushed.location(), format!("/v2/a/b/manifests/{digest}"));
    assert_eq!(pushed.header("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(pushed.header("oci-subject"), None);
    for reference in ["v1", digest.as_str()] {
        let path = format!("/v2/a/b/manifests/{reference}");
        let (answer, head) = (server.get(&path), server.head(&path));
        assert_eq!(answer.text(), bytes);
        for answer in [&answer, &head] {
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("content-type"), Some(MANIFEST));
            assert_eq!(answer.header("content-length"), Some(&*bytes.len().to_string()));
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
        }
        let tag = answer.header("etag").unwrap().to_owned();
        assert_eq!(server.send("GET", &path, &[("if-none-match", &tag)], b"").status, 304);
        assert_eq!(server.send("HEAD", &path, &[("if-none-match", &tag)], b"").status, 304);
    }
    assert_eq!(server.put_manifest("a/b", digest.as_str(), &document).status, 201, "again, by digest");
}

#[test]
fn a_tag_moves_and_is_seen_to_have_moved() {
    let server = Server::open();
    let first = server.image("a", "latest", &[b"1"]);
    for _ in 0..3 {
        assert_eq!(server.get("/v2/a/manifests/latest").header("docker-content-digest"), Some(first.as_str()));
    }
    let second = server.image("a", "latest", &[b"2"]);
    assert_ne!(first, second);
    assert_eq!(server.get("/v2/a/manifests/latest").header("docker-content-digest"), Some(second.as_str()));
    assert_eq!(server.get(&format!("/v2/a/manifests/{first}")).status, 200, "the old one stays");
}

#[test]
fn indexes_docker_types_and_sha512() {
    let server = Server::open();
    let image = server.image("a", "amd64", &[b"1"]);
    let size = server.get(&format!("/v2/a/manifests/{image}")).body.len();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": MANIFEST, "digest": image.as_str(), "size": size, "platform": { "os": "linux", "architecture": "amd64" } },
    ]});
    let inner = server.manifest("a", "multi", &index);
    assert_eq!(server.get("/v2/a/manifests/multi").header("content-type"), Some(INDEX));
    let nested = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": INDEX, "digest": inner.as_str(), "size": index.to_string().len() },
    ]});
    server.manifest("a", "nested", &nested);

    let mut docker = server.image_document("a", &[b"docker"]);
    docker["mediaType"] = json!(DOCKER);
    let digest = server.manifest("a", "docker", &docker);
    assert_eq!(server.get("/v2/a/manifests/docker").header("content-type"), Some(DOCKER));
    let list = json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [
        { "mediaType": DOCKER, "digest": digest.as_str(), "size": docker.to_string().len() },
    ]});
    server.manifest("a", "docker-list", &list);
    assert_eq!(server.get("/v2/a/manifests/docker-list").header("content-type"), Some(DOCKER_LIST));

    let document = server.image_document("a", &[b"long"]);
    let long = sha512(document.to_string().as_bytes());
    assert_eq!(server.manifest("a", long.as_str(), &document), long);
    assert_eq!(server.get(&format!("/v2/a/manifests/{long}")).text(), document.to_string());
}

#[test]
fn what_is_refused() {
    let server = Server::open();
    let document = server.image_document("a", &[b"layer"]);
    let absent = sha256(b"absent");
    let mut missing = document.clone();
    missing["layers"][0]["digest"] = json!(absent.as_str());
    let refused = server.put_manifest("a", "v1", &missing);
    assert_eq!(refused.refused(), (404, "MANIFEST_BLOB_UNKNOWN".into()));
    assert_eq!(refused.json()["errors"][0]["detail"]["digest"], absent.as_str());
    let elsewhere = server.put_manifest("b", "v1", &document);
    assert_eq!(elsewhere.refused(), (404, "MANIFEST_BLOB_UNKNOWN".into()), "blobs of another repository");
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{ "mediaType": MANIFEST, "digest": absent.as_str(), "size": 1 }] });
    assert_eq!(server.put_manifest("a", "v1", &index).refused(), (404, "MANIFEST_BLOB_UNKNOWN".into()));

    let mut wrong_size = document.clone();
    wrong_size["layers"][0]["size"] = json!(6);
    assert_eq!(server.put_manifest("a", "v1", &wrong_size).refused(), (400, "MANIFEST_INVALID".into()));
    let put = |reference: &str, kind: &str, body: &[u8]| {
        server.send("PUT", &format!("/v2/a/manifests/{reference}"), &[("content-type", kind)], body).refused()
    };
    let text = document.to_string();
    assert_eq!(put("v1", MANIFEST, b"{"), (400, "MANIFEST_INVALID".into()));
    assert_eq!(put("v1", MANIFEST, b""), (400, "MANIFEST_INVALID".into()));
    assert_eq!(put("v1", INDEX, text.as_bytes()), (400, "MANIFEST_INVALID".into()));
    assert_eq!(put("v1", "text/plain", text.as_bytes()), (400, "MANIFEST_INVALID".into()));
    assert_eq!(put(absent.as_str(), MANIFEST, text.as_bytes()), (400, "DIGEST_INVALID".into()));
    assert_eq!(put("sha256:12", MANIFEST, text.as_bytes()), (400, "DIGEST_INVALID".into()));
    assert_eq!(put("-tag", MANIFEST, text.as_bytes()), (400, "TAG_INVALID".into()));
    let large = format!("{text}{}", " ".repeat(4 << 20));
    assert_eq!(put("v1", MANIFEST, large.as_bytes()), (413, "SIZE_INVALID".into()));
    assert_eq!(server.get("/v2/a/manifests/v1").refused(), (404, "MANIFEST_UNKNOWN".into()));
    assert_eq!(server.get("/v2/none/manifests/v1").refused(), (404, "MANIFEST_UNKNOWN".into()));
    assert_eq!(server.get("/v2/a/tags/list").json()["tags"], json!([]), "nothing was taken in");
}

#[test]
fn the_largest_manifest() {
    let server = Server::open();
    let text = server.image_document("a", &[b"layer"]).to_string();
    let padded = format!("{text}{}", " ".repeat((4 << 20) - text.len()));
    let answer = server.send("PUT", "/v2/a/manifests/v1", &[("content-type", MANIFEST)], padded.as_bytes());
    assert_eq!(answer.status, 201);
    assert_eq!(server.get("/v2/a/manifests/v1").text(), padded);
}

#[test]
fn foreign_layers_and_missing_subjects_may_be_absent() {
    let server = Server::open();
    let mut document = server.image_document("a", &[b"layer"]);
    let absent = sha256(b"absent");
    document["layers"][0] = json!({
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "digest": absent.as_str(), "size": 9,
        "urls": ["https://example.com/layer"],
    });
    document["subject"] = json!({ "mediaType": MANIFEST, "digest": absent.as_str(), "size": 9 });
    let answer = server.put_manifest("a", "v1", &document);
    assert_eq!((answer.status, answer.header("oci-subject")), (201, Some(absent.as_str())));
}

#[test]
fn sparse_manifests_where_they_are_wanted() {
    let server = Server::with(|settings| {
        settings.open = true;
        settings.sparse = true;
    });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": MANIFEST, "digest": sha256(b"absent").as_str(), "size": 1 },
    ]});
    assert_eq!(server.put_manifest("a", "v1", &index).status, 201);
}

#[test]
fn tags_as_parameters() {
    let server = Server::open();
    let document = server.image_document("a", &[b"layer"]);
    let digest = sha256(document.to_string().as_bytes());
    let path = format!("/v2/a/manifests/{digest}?tag=v1&tag=v1.0");
    let answer = server.send("PUT", &path, &[("content-type", MANIFEST)], document.to_string().as_bytes());
    assert_eq!((answer.status, answer.all("oci-tag").collect::<Vec<_>>()), (201, vec!["v1", "v1.0"]));
    assert_eq!(server.get("/v2/a/tags/list").json()["tags"], json!(["v1", "v1.0"]));
    let bad = server.send("PUT", &format!("/v2/a/manifests/{digest}?tag=-"), &[], document.to_string().as_bytes());
    assert_eq!(bad.refused(), (400, "TAG_INVALID".into()));
}

#[test]
fn removed_by_tag_and_by_digest() {
    let server = Server::open();
    let document = server.image_document("a", &[b"layer"]);
    let digest = server.manifest("a", "v1", &document);
    server.manifest("a", "v2", &document);
    server.manifest("a", "v3", &document);
    assert_eq!(server.delete("/v2/a/manifests/v1").status, 202);
    assert_eq!(server.get("/v2/a/manifests/v1").refused(), (404, "MANIFEST_UNKNOWN".into()));
    assert_eq!(server.delete("/v2/a/manifests/v1").refused(), (404, "MANIFEST_UNKNOWN".into()));
    assert_eq!(server.get("/v2/a/manifests/v2").status, 200);
    let path = format!("/v2/a/manifests/{digest}");
    assert_eq!(server.delete(&path).status, 202);
    for gone in [&*path, "/v2/a/manifests/v2", "/v2/a/manifests/v3"] {
        assert_eq!(server.get(gone).refused(), (404, "MANIFEST_UNKNOWN".into()), "{gone}");
    }
    assert_eq!(server.get("/v2/a/tags/list").json()["tags"], json!([]));
    assert_eq!(server.delete(&path).refused(), (404, "MANIFEST_UNKNOWN".into()));
    assert_eq!(server.delete("/v2/none/manifests/v1").refused(), (404, "MANIFEST_UNKNOWN".into()));
    server.manifest("a", "v1", &document);
}

#[test]
fn immutable_tags() {
    let server = Server::with(|settings| {
        settings.open = true;
        settings.immutable = vec!["a/**:v*".parse().unwrap()];
    });
    let first = server.image("a/b", "v1", &[b"1"]);
    let again = server.image_document("a/b", &[b"1"]);
    assert_eq!(server.put_manifest("a/b", "v1", &again).status, 201, "the same is no change");
    let other = server.image_document("a/b", &[b"2"]);
    assert_eq!(server.put_manifest("a/b", "v1", &other).refused(), (403, "DENIED".into()));
    assert_eq!(server.delete("/v2/a/b/manifests/v1").refused(), (403, "DENIED".into()));
    assert_eq!(server.delete(&format!("/v2/a/b/manifests/{first}")).refused(), (403, "DENIED".into()));
    assert_eq!(server.get("/v2/a/b/manifests/v1").header("docker-content-digest"), Some(first.as_str()));
    server.manifest("a/b", "latest", &other);
    server.image("a/b", "latest", &[b"3"]);
    server.image("c", "v1", &[b"1"]);
    server.image("c", "v1", &[b"2"]);
}

#[test]
fn another_process_is_seen_at_once() {
    let server = Server::open();
    let first = server.image("a", "v1", &[b"1"]);
    let other = images::store::Store::open(&server.path().join("images")).unwrap();
    let read = || server.get("/v2/a/manifests/v1").status;
    assert_eq!((read(), read()), (200, 200));
    let sql = "DELETE FROM registry_manifests WHERE digest = ?1";
    other.index().write("test", |transaction| transaction.execute(sql, [first.as_str()])).unwrap();
    assert_eq!(read(), 404);
}

#[test]
fn pushes_of_one_tag_at_once_leave_one_of_them() {
    let server = Server::open();
    let documents: Vec<_> = (0..8).map(|number| server.image_document("a", &[&noise(1000, number)])).collect();
    std::thread::scope(|scope| {
        for document in &documents {
            let server = &server;
            scope.spawn(move || (0..4).for_each(|_| drop(server.manifest("a", "latest", document))));
        }
    });
    let last = server.get("/v2/a/manifests/latest");
    assert!(documents.contains(&last.json()));
}
