//! Who may do what: Basic, Bearer, robots, anonymous reading; and the record of it.

use crate::harness::{Answer, MANIFEST, Server, sha256};
use images::registry::{Accounts, Challenge, Grant};
use serde_json::Value;
use supervisor::Secret;

const PASSWORD: &str = "correct horse";

/// Base64 with padding, as clients send it.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let shown = digit <= chunk.len();
            out.push(if shown { char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]) } else { '=' });
        }
    }
    out
}

fn basic(name: &str, secret: &str) -> String {
    format!("Basic {}", base64(&format!("{name}:{secret}")))
}

fn grants(texts: &[&str]) -> Vec<Grant> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A registry with the user `anna`, who may pull and push below `team/`.
fn guarded(challenge: Challenge) -> (Server, Accounts) {
    let server = Server::with(|settings| settings.challenge = challenge);
    let accounts = Accounts::new(&server.store);
    let password = Secret::new(PASSWORD.to_owned());
    accounts.add_user("anna", &password, grants(&["team/**:pull,push"]), None).unwrap();
    (server, accounts)
}

fn with(server: &Server, method: &str, path: &str, authorization: &str, body: &[u8]) -> Answer {
    server.send(method, path, &[("authorization", authorization)], body)
}

fn push(server: &Server, repository: &str, authorization: &str) -> Answer {
    let path = format!("/v2/{repository}/blobs/uploads/?digest={}", sha256(b"x"));
    with(server, "POST", &path, authorization, b"x")
}

/// A token for these scopes.
fn token(server: &Server, authorization: Option<&str>, scopes: &[&str]) -> String {
    let scopes: String = scopes.iter().map(|scope| format!("&scope={scope}")).collect();
    let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
    let answer = server.send("GET", &format!("/v2/token?service=registry.test{scopes}"), &headers, b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    let document = answer.json();
    assert_eq!(document["token"], document["access_token"]);
    assert!(document["expires_in"].as_u64().unwrap() >= 60 && document["issued_at"].is_string());
    format!("Bearer {}", document["token"].as_str().unwrap())
}

#[test]
fn basic_authentication() {
    let (server, accounts) = guarded(Challenge::Basic);
    let anonymous = server.get("/v2/");
    assert_eq!(anonymous.refused(), (401, "UNAUTHORIZED".into()));
    assert_eq!(anonymous.header("www-authenticate"), Some("Basic realm=\"registry.test\", charset=\"UTF-8\""));
    let anna = basic("anna", PASSWORD);
    for _ in 0..3 {
        assert_eq!(with(&server, "GET", "/v2/", &anna, b"").status, 200);
    }
    for wrong in
        [basic("anna", "wrong horse"), basic("bert", PASSWORD), "Basic ???".into(), "Digest x".into(), "x".into()]
    {
        assert_eq!(with(&server, "GET", "/v2/", &wrong, b"").refused(), (401, "UNAUTHORIZED".into()), "{wrong}");
    }
    assert_eq!(push(&server, "team/app", &anna).status, 201);
    assert_eq!(push(&server, "other", &anna).refused(), (403, "DENIED".into()));
    let blob = format!("/v2/team/app/blobs/{}", sha256(b"x"));
    assert_eq!(with(&server, "GET", &blob, &anna, b"").body, b"x");
    assert_eq!(with(&server, "DELETE", &blob, &anna, b"").refused(), (403, "DENIED".into()), "a verb of its own");
    assert_eq!(server.get(&blob).status, 401);
    // Another password, and the old one is out; and so is who is removed.
    accounts.set_password("anna", &Secret::new("battery staple".into())).unwrap();
    assert_eq!(with(&server, "GET", &blob, &anna, b"").status, 401);
    let anna = basic("anna", "battery staple");
    assert_eq!(with(&server, "GET", &blob, &anna, b"").status, 200);
    accounts.set_grants("anna", &grants(&["else:pull"])).unwrap();
    assert_eq!(with(&server, "GET", &blob, &anna, b"").status, 403);
    accounts.remove("anna").unwrap();
    assert_eq!(with(&server, "GET", &blob, &anna, b"").status, 401);
}

#[test]
fn bearer_tokens() {
    let (server, accounts) = guarded(Challenge::Bearer);
    let path = format!("/v2/team/app/blobs/uploads/?digest={}", sha256(b"x"));
    let refused = server.send("POST", &path, &[], b"x");
    let challenge = "Bearer realm=\"http://registry.test/v2/token\",service=\"registry.test\",scope=\"repository:team/app:pull,push\"";
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some(challenge)));

    let anna = basic("anna", PASSWORD);
    let pull = token(&server, Some(&anna), &["repository:team/app:pull"]);
    let both = token(&server, Some(&anna), &["repository:team/app:pull,push", "repository:other:push"]);
    assert_eq!(push(&server, "team/app", &both).status, 201);
    let narrow = push(&server, "team/app", &pull);
    assert_eq!(narrow.status, 401, "another token would do");
    assert!(narrow.header("www-authenticate").unwrap().ends_with("error=\"insufficient_scope\""), "{narrow:?}");
    assert_eq!(push(&server, "other", &both).refused(), (403, "DENIED".into()), "no token would do");
    let blob = format!("/v2/team/app/blobs/{}", sha256(b"x"));
    assert_eq!(with(&server, "GET", &blob, &pull, b"").body, b"x");
    assert_eq!(with(&server, "GET", &blob, "Bearer made.up.token", b"").status, 401);
    assert_eq!(with(&server, "GET", "/v2/", &pull, b"").status, 200);
    let anonymous = token(&server, None, &["repository:team/app:pull"]);
    assert_eq!(with(&server, "GET", &blob, &anonymous, b"").status, 401);
    let wrong = server.send("GET", "/v2/token", &[("authorization", &basic("anna", "x"))], b"");
    assert_eq!(wrong.refused(), (401, "UNAUTHORIZED".into()));

    let form = |body: &str| {
        server.send("POST", "/v2/token", &[("content-type", "application/x-www-form-urlencoded")], body.as_bytes())
    };
    let granted =
        form("grant_type=password&username=anna&password=correct+horse&service=x&scope=repository%3Ateam%2Fapp%3Apull");
    let granted: Value = granted.json();
    assert_eq!(granted["scope"], "repository:team/app:pull");
    let by_form = format!("Bearer {}", granted["access_token"].as_str().unwrap());
    assert_eq!(with(&server, "GET", &blob, &by_form, b"").status, 200);
    assert_eq!(form("grant_type=password&username=anna&password=x").status, 401);
    assert_eq!(form("grant_type=refresh_token").status, 400);
    assert_eq!(server.send("PUT", "/v2/token", &[], b"").status, 405);

    accounts.set_password("anna", &Secret::new("battery staple".into())).unwrap();
    assert_eq!(with(&server, "GET", &blob, &pull, b"").status, 401, "tokens of the old password are out");
    accounts.remove("anna").unwrap();
    assert_eq!(with(&server, "GET", &blob, &both, b"").status, 401);
}

#[test]
fn robots_and_expiry() {
    let (server, accounts) = guarded(Challenge::Bearer);
    let (_, secret) = accounts.add_robot("ci", grants(&["team/app:push,pull,delete"]), None).unwrap();
    let robot = basic("ci", secret.expose());
    assert_eq!(push(&server, "team/app", &robot).status, 201);
    assert_eq!(push(&server, "team/other", &robot).status, 403);
    let blob = format!("/v2/team/app/blobs/{}", sha256(b"x"));
    assert_eq!(
        with(&server, "DELETE", &blob, &token(&server, Some(&robot), &["repository:team/app:*"]), b"").status,
        202
    );
    let rotated = accounts.rotate("ci").unwrap();
    assert_eq!(with(&server, "GET", "/v2/", &robot, b"").status, 401);
    assert_eq!(with(&server, "GET", "/v2/", &basic("ci", rotated.expose()), b"").status, 200);
    let past = Some(jiff::Timestamp::now() - jiff::SignedDuration::from_secs(1));
    let (_, secret) = accounts.add_robot("old", grants(&["**:*"]), past).unwrap();
    assert_eq!(with(&server, "GET", "/v2/", &basic("old", secret.expose()), b"").status, 401);
}

#[test]
fn anonymous_reading_by_choice() {
    let server = Server::with(|settings| settings.anonymous = grants(&["public/**:pull"]));
    let accounts = Accounts::new(&server.store);
    let (_, secret) = accounts.add_robot("ci", grants(&["**:*"]), None).unwrap();
    let robot = basic("ci", secret.expose());
    for repository in ["public/a", "private/a"] {
        assert_eq!(push(&server, repository, &robot).status, 201);
        let config =
            with(&server, "POST", &format!("/v2/{repository}/blobs/uploads/?digest={}", sha256(b"{}")), &robot, b"{}");
        assert_eq!(config.status, 201);
        let document = serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": { "mediaType": "application/x", "digest": sha256(b"{}").as_str(), "size": 2 } });
        let headers = [("authorization", &*robot), ("content-type", MANIFEST)];
        let path = format!("/v2/{repository}/manifests/v1");
        assert_eq!(server.send("PUT", &path, &headers, document.to_string().as_bytes()).status, 201);
    }
    assert!(server.get("/v2/").header("www-authenticate").is_some(), "clients with an account learn how to use it");
    assert_eq!(with(&server, "GET", "/v2/", &token(&server, None, &[]), b"").status, 200);
    assert_eq!(server.get("/v2/public/a/manifests/v1").status, 200);
    assert_eq!(server.get("/v2/private/a/manifests/v1").status, 401);
    assert_eq!(server.send("POST", "/v2/public/a/blobs/uploads/", &[], b"").status, 401);
    assert_eq!(server.get("/v2/_catalog").json()["repositories"], serde_json::json!(["public/a"]));
    assert_eq!(with(&server, "GET", "/v2/_catalog", &robot, b"").json()["repositories"].as_array().unwrap().len(), 2);
    let anonymous = token(&server, None, &["repository:public/a:pull,push"]);
    assert_eq!(with(&server, "GET", "/v2/public/a/manifests/v1", &anonymous, b"").status, 200);
    assert_eq!(push(&server, "public/a", &anonymous).status, 401);
}

#[test]
fn a_mount_needs_the_right_to_read_the_source() {
    let (server, accounts) = guarded(Challenge::Basic);
    let (_, secret) = accounts.add_robot("ci", grants(&["secret:*", "team/x:pull"]), None).unwrap();
    assert_eq!(push(&server, "secret", &basic("ci", secret.expose())).status, 201);
    let anna = basic("anna", PASSWORD);
    for rest in ["&from=secret", ""] {
        let path = format!("/v2/team/app/blobs/uploads/?mount={}{rest}", sha256(b"x"));
        assert_eq!(with(&server, "POST", &path, &anna, b"").status, 202, "{rest}");
    }
    accounts.set_grants("anna", &grants(&["team/**:pull,push", "secret:pull"])).unwrap();
    let path = format!("/v2/team/app/blobs/uploads/?mount={}", sha256(b"x"));
    assert_eq!(with(&server, "POST", &path, &anna, b"").status, 201);
}

#[test]
fn writes_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().to_owned();
    let server = Server::with(|settings| {
        settings.audit = Some(log.clone());
        settings.anonymous = grants(&["**:pull"]);
    });
    let accounts = Accounts::new(&server.store);
    let (_, secret) = accounts.add_robot("ci", grants(&["app:*"]), None).unwrap();
    let robot = basic("ci", secret.expose());
    push(&server, "app", &robot);
    push(&server, "other", &robot);
    server.get(&format!("/v2/app/blobs/{}", sha256(b"x")));
    with(&server, "DELETE", "/v2/app/manifests/v1", &robot, b"");
    server.send("PUT", "/v2/app/manifests/v1", &[], b"{}");
    let text = std::fs::read_to_string(log.join("audit.log")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap_or_default();
            (text("account"), text("action"), text("repository"), line["status"].as_u64().unwrap(), text("error"))
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("ci", "begin-upload", "app", 201, ""),
            ("ci", "begin-upload", "other", 403, "DENIED"),
            ("ci", "delete-tag", "app", 404, "MANIFEST_UNKNOWN"),
        ]
    );
    assert_eq!(lines[0]["digest"], sha256(b"x").as_str());
    assert!(lines[0]["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(!text.contains(secret.expose()));
}
