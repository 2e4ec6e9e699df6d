//! Tags, catalogue, referrers.

use crate::harness::{Answer, INDEX, MANIFEST, Server, sha256};
use serde_json::{Value, json};

/// Where the next page is.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let (address, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
    assert_eq!(rest, "; rel=\"next\"");
    Some(address.to_owned())
}

/// All entries of a list, page by page, and the number of pages.
fn all(server: &Server, first: &str, key: &str) -> (Vec<Value>, usize) {
    let (mut entries, mut pages, mut path) = (Vec::new(), 0, Some(first.to_owned()));
    while let Some(address) = path {
        let answer = server.get(&address);
        assert_eq!(answer.status, 200, "{answer:?}");
        entries.extend(answer.json()[key].as_array().unwrap().iter().cloned());
        path = next(&answer);
        pages += 1;
        assert!(pages < 100);
    }
    (entries, pages)
}

#[test]
fn tags_in_order_and_in_pages() {
    let server = Server::open();
    let document = server.image_document("a/b", &[b"layer"]);
    let tags = ["Z", "a", "latest", "v1", "v1.0", "v10", "v2"];
    for tag in tags.iter().rev() {
        server.manifest("a/b", tag, &document);
    }
    let list = |query: &str| server.get(&format!("/v2/a/b/tags/list{query}"));
    let whole = list("");
    assert_eq!(whole.header("content-type"), Some("application/json"));
    assert_eq!(whole.json(), json!({ "name": "a/b", "tags": tags }));
    assert_eq!(next(&whole), None);
    for size in 1..=8 {
        let (found, pages) = all(&server, &format!("/v2/a/b/tags/list?n={size}"), "tags");
        assert_eq!((found, pages), (tags.iter().map(|tag| json!(tag)).collect(), 7usize.div_ceil(size)));
    }
    assert_eq!(list("?last=v1").json()["tags"], json!(["v1.0", "v10", "v2"]));
    assert_eq!(list("?n=1&last=between").json()["tags"], json!(["latest"]));
    let none = list("?n=0");
    assert_eq!((none.json()["tags"].clone(), next(&none)), (json!([]), None));
    assert_eq!(list("?n=x").refused(), (400, "PAGINATION_NUMBER_INVALID".into()));
    assert_eq!(server.get("/v2/none/tags/list").refused(), (404, "NAME_UNKNOWN".into()));
}

#[test]
fn repositories_in_pages() {
    let server = Server::open();
    assert_eq!(server.get("/v2/_catalog").json(), json!({ "repositories": [] }));
    for name in ["b/c", "a", "b"] {
        server.image(name, "v1", &[b"layer"]);
    }
    server.blob("only-a-blob", b"x");
    assert_eq!(server.get("/v2/_catalog").json()["repositories"], json!(["a", "b", "b/c"]));
    let (found, pages) = all(&server, "/v2/_catalog?n=2", "repositories");
    assert_eq!((found, pages), (vec![json!("a"), json!("b"), json!("b/c")], 2));
}

fn refer(server: &Server, subject: &Value, kind: &str, note: &str) -> Value {
    let digest = sha256(subject.to_string().as_bytes());
    let empty = server.blob("a", b"{}");
    let document = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "layers": [],
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.as_str(), "size": 2 },
        "subject": { "mediaType": MANIFEST, "digest": digest.as_str(), "size": subject.to_string().len() },
        "annotations": { "note": note },
    });
    let answer = server.put_manifest("a", sha256(document.to_string().as_bytes()).as_str(), &document);
    assert_eq!((answer.status, answer.header("oci-subject")), (201, Some(digest.as_str())));
    document
}

#[test]
fn referrers_with_filter_and_removal() {
    let server = Server::open();
    let subject = server.image_document("a", &[b"layer"]);
    let digest = server.manifest("a", "v1", &subject);
    let path = format!("/v2/a/referrers/{digest}");
    let empty = server.get(&path);
    assert_eq!((empty.status, empty.header("content-type")), (200, Some(INDEX)));
    assert_eq!(empty.json(), json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }));

    let sbom = refer(&server, &subject, "application/sbom", "1");
    let signature = refer(&server, &subject, "application/signature", "2");
    let entry = |document: &Value| {
        let text = document.to_string();
        json!({
            "mediaType": MANIFEST, "digest": sha256(text.as_bytes()).as_str(), "size": text.len(),
            "artifactType": document["artifactType"], "annotations": document["annotations"],
        })
    };
    let found = server.get(&path);
    assert_eq!(found.header("oci-filters-applied"), None);
    let manifests = found.json()["manifests"].as_array().unwrap().clone();
    assert_eq!(manifests.len(), 2);
    assert!(manifests.contains(&entry(&sbom)) && manifests.contains(&entry(&signature)), "{manifests:?}");
    let filtered = server.get(&format!("{path}?artifactType=application%2Fsbom"));
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.json()["manifests"], json!([entry(&sbom)]));
    assert_eq!(server.get(&format!("{path}?artifactType=x")).json()["manifests"], json!([]));

    let removed = sha256(sbom.to_string().as_bytes());
    assert_eq!(server.delete(&format!("/v2/a/manifests/{removed}")).status, 202);
    assert_eq!(server.get(&path).json()["manifests"], json!([entry(&signature)]));
    assert_eq!(server.delete(&format!("/v2/a/manifests/{digest}")).status, 202);
    assert_eq!(server.get(&path).json()["manifests"], json!([entry(&signature)]), "referrers outlive their subject");
    assert_eq!(server.get("/v2/a/referrers/sha256:1").refused(), (400, "DIGEST_INVALID".into()));
    assert_eq!(server.get(&format!("/v2/none/referrers/{digest}")).json()["manifests"], json!([]));
}

#[test]
fn an_image_without_artifact_type_has_its_configurations() {
    let server = Server::open();
    let subject = server.image_document("a", &[b"layer"]);
    let mut document = server.image_document("a", &[b"more"]);
    let digest = sha256(subject.to_string().as_bytes());
    document["subject"] = json!({ "mediaType": MANIFEST, "digest": digest.as_str(), "size": 1 });
    server.manifest("a", "more", &document);
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [],
        "subject": { "mediaType": MANIFEST, "digest": digest.as_str(), "size": 1 },
    });
    server.manifest("a", "index", &index);
    let list = server.get(&format!("/v2/a/referrers/{digest}")).json();
    let kinds: Vec<_> =
        list["manifests"].as_array().unwrap().iter().map(|entry| entry["artifactType"].clone()).collect();
    assert!(
        kinds.contains(&json!("application/vnd.oci.image.config.v1+json")) && kinds.contains(&Value::Null),
        "{kinds:?}"
    );
}

#[test]
fn many_referrers_come_in_pages() {
    let server = Server::open();
    let subject = server.image_document("a", &[b"layer"]);
    let digest = server.manifest("a", "v1", &subject);
    for number in 0..7 {
        refer(
            &server,
            &subject,
            if number % 2 == 0 { "application/even" } else { "application/odd" },
            &number.to_string(),
        );
    }
    let (found, pages) = all(&server, &format!("/v2/a/referrers/{digest}?n=3"), "manifests");
    assert_eq!((found.len(), pages), (7, 3));
    let (found, pages) =
        all(&server, &format!("/v2/a/referrers/{digest}?n=3&artifactType=application/even"), "manifests");
    assert_eq!((found.len(), pages), (4, 2));
    // Without a number, pages are as large as a manifest may be: rows of 1 MiB make two entries over it.
    let sql = "UPDATE registry_referrers SET descriptor = json_set(descriptor, '$.annotations.note', printf('%.*c', 1200000, 'x'))";
    server.store.index().write("test", |transaction| transaction.execute(sql, ())).unwrap();
    let first = server.get(&format!("/v2/a/referrers/{digest}"));
    assert!(first.body.len() <= 4 << 20 && next(&first).is_some());
    let (found, pages) = all(&server, &format!("/v2/a/referrers/{digest}"), "manifests");
    assert_eq!((found.len(), pages), (7, 3));
}

#[test]
fn the_tag_schema_of_older_clients_is_a_tag_like_others() {
    let server = Server::open();
    let subject = server.image_document("a", &[b"layer"]);
    let digest = server.manifest("a", "v1", &subject);
    let referrer = refer(&server, &subject, "application/sbom", "1").to_string();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": MANIFEST, "digest": sha256(referrer.as_bytes()).as_str(), "size": referrer.len(), "artifactType": "application/sbom" },
    ]});
    let tag = digest.as_str().replace(':', "-");
    server.manifest("a", &tag, &index);
    assert_eq!(server.get(&format!("/v2/a/manifests/{tag}")).json(), index);
    assert_eq!(server.delete(&format!("/v2/a/manifests/{tag}")).status, 202);
}
