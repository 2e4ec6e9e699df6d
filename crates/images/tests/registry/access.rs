//! Who may do what: Basic, Bearer, robots, anonymous reading; and the record of it.

use crate::harness::{Answer, MANIFEST, Server, Wire, eventually, sha256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use images::registry::{Accounts, Challenge, Grant};
use ring::hmac;
use serde_json::Value;
use std::{path::Path, time::Duration};
use supervisor::Secret;
use tempfile::TempDir;

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

/// The lines of an audit log.
fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log.join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A registry with an audit log, and the robot `ci` that may do everything below `team/`.
fn audited() -> (Server, TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().to_owned();
    let server = Server::with(|settings| {
        settings.audit = Some(log);
        settings.metrics = Some("127.0.0.1:0".parse().unwrap());
    });
    let (_, secret) = Accounts::new(&server.store).add_robot("ci", grants(&["team/**:*"]), None).unwrap();
    let robot = basic("ci", secret.expose());
    (server, folder, robot)
}

fn metric(server: &Server, name: &str) -> u64 {
    let metrics = Wire::connect(server.addresses.metrics.unwrap()).send("GET", "/metrics", &[], b"");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(name)).unwrap_or(" 0").trim().to_owned();
    line.parse().unwrap()
}

#[test]
fn who_closes_after_a_write_is_recorded_all_the_same() {
    let (server, log, robot) = audited();
    let contents: Vec<String> = (0..30).map(|round| format!("content {round}")).collect();
    for content in &contents {
        let mut wire = Wire::connect(server.address());
        let path = format!("/v2/team/app/blobs/uploads/?digest={}", sha256(content.as_bytes()));
        let headers = [("authorization", &*robot), ("content-type", "application/octet-stream")];
        wire.begin("POST", &path, &headers, Some(content.len() as u64), content.as_bytes());
        wire.stream().shutdown(std::net::Shutdown::Write).unwrap();
    }
    // Who closes before anything was done has done nothing; what was done has its line.
    eventually("what came in has its lines", || {
        let came = contents.iter().map(|content| sha256(content.as_bytes()));
        let came: Vec<_> = came.filter(|digest| server.store.blob(digest).unwrap().is_some()).collect();
        let lines = lines(log.path());
        let told = |digest: &model::image::Digest| {
            lines.iter().any(|line| line["digest"] == digest.as_str() && line["status"] == 201)
        };
        came.len() >= 10 && came.iter().all(told)
    });
}

#[test]
fn tags_set_by_the_way_are_recorded() {
    let (server, log, robot) = audited();
    let headers = [("authorization", &*robot), ("content-type", MANIFEST)];
    push(&server, "team/app", &robot);
    let document = serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": { "mediaType": "application/x", "digest": sha256(b"x").as_str(), "size": 1 } });
    let document = document.to_string();
    let path = format!("/v2/team/app/manifests/{}?tag=v1&tag=v1.2", sha256(document.as_bytes()));
    assert_eq!(server.send("PUT", &path, &headers, document.as_bytes()).status, 201);
    let lines = lines(log.path());
    assert_eq!(lines[1]["tags"], serde_json::json!(["v1", "v1.2"]), "{lines:?}");
    assert!(lines[0].get("tags").is_none());
}

#[test]
fn a_token_that_does_not_reach_is_recorded() {
    let (server, log, robot) = audited();
    let pull = token(&server, Some(&robot), &["repository:team/app:pull"]);
    assert_eq!(push(&server, "team/app", &pull).status, 401);
    assert_eq!(server.send("POST", "/v2/team/app/blobs/uploads/", &[], b"").status, 401);
    let lines = lines(log.path());
    assert_eq!(lines.len(), 1, "who has not said its name has no line: {lines:?}");
    assert_eq!((&lines[0]["account"], &lines[0]["status"]), (&"ci".into(), &401.into()));
}

#[test]
fn refusals_do_not_fill_the_log() {
    let (server, log, robot) = audited();
    let mut wire = Wire::connect(server.address());
    for _ in 0..100 {
        assert_eq!(wire.send("DELETE", "/v2/other/manifests/v1", &[("authorization", &robot)], b"").status, 403);
    }
    push(&server, "team/app", &robot);
    let lines = lines(log.path());
    assert!((1..=21).contains(&lines.len()), "{}", lines.len());
    assert_eq!(lines.last().unwrap()["status"], 201, "what is done is recorded always");
}

#[test]
fn failed_logins_are_counted_recorded_and_slowed_down() {
    let (server, log, _) = audited();
    let accounts = Accounts::new(&server.store);
    accounts.add_user("anna", &Secret::new(PASSWORD.to_owned()), grants(&["**:pull"]), None).unwrap();
    let anna = |secret: &str| with(&server, "GET", "/v2/", &basic("anna", secret), b"");
    for _ in 0..10 {
        assert_eq!(anna("a wrong horse").status, 401);
    }
    let slowed = anna("a wrong horse");
    assert_eq!(slowed.refused(), (429, "TOOMANYREQUESTS".into()));
    assert!((1..=60).contains(&slowed.header("retry-after").unwrap().parse::<u64>().unwrap()));
    assert_eq!(anna(PASSWORD).status, 429, "the right one is not told from the wrong ones meanwhile");
    let form = format!("grant_type=password&username=anna&password={}", PASSWORD.replace(' ', "+"));
    assert_eq!(server.send("POST", "/v2/token", &[], form.as_bytes()).status, 429);
    for (name, secret) in [("bert", "some horse"), ("ci", "some horse"), (&*"x".repeat(65), "some horse")] {
        assert_eq!(with(&server, "GET", "/v2/", &basic(name, secret), b"").status, 401, "others are not held up");
    }
    assert_eq!(metric(&server, "registry_logins_failed_total"), 13);
    let text = std::fs::read_to_string(log.path().join("audit.log")).unwrap();
    assert!(!text.contains("horse"), "{text}");
    let lines = lines(log.path());
    let of = |name: &str| lines.iter().filter(|line| line["action"] == "login" && line["account"] == name).count();
    assert_eq!((of("anna"), of("ci")), (10, 1), "{text}");
    let unknown: Vec<_> = lines.iter().filter(|line| line["account"] == "").collect();
    assert_eq!(unknown.len(), 2, "{text}");
    assert!(unknown.iter().any(|line| line["subject"] == "bert" && line["status"] == 401));
}

#[test]
fn a_login_that_works_forgives_those_that_did_not() {
    let (server, _) = guarded(Challenge::Basic);
    let anna = |secret: &str| with(&server, "GET", "/v2/", &basic("anna", secret), b"").status;
    for round in 0..3 {
        for _ in 0..6 {
            assert_eq!(anna("wrong"), 401, "{round}");
        }
        assert_eq!(anna(PASSWORD), 200, "{round}");
    }
    for _ in 0..10 {
        assert_eq!(anna("wrong"), 401);
    }
    assert_eq!(anna("wrong"), 429);
    assert_eq!(anna(PASSWORD), 200, "who was known to have it is not held up by others");
}

#[test]
fn passwords_are_hashed_one_at_a_time_whoever_goes_away() {
    let (server, _log, _) = audited();
    // Looked up once; from now on only the hashes are work of this name.
    assert_eq!(with(&server, "GET", "/v2/", &basic("bert", "wrong"), b"").status, 401);
    let body = b"grant_type=password&username=bert&password=wrong";
    for _ in 0..8 {
        let mut wire = Wire::connect(server.address());
        wire.begin("POST", "/v2/token", &[], Some(body.len() as u64), body);
        // Time to begin, and not to end.
        std::thread::sleep(Duration::from_millis(10));
        wire.stream().shutdown(std::net::Shutdown::Write).unwrap();
        let hashing = metric(&server, "tasks_running{task=\"registry-login\"}");
        // One that has ended may be counted for a moment longer.
        assert!(hashing <= 2, "{hashing} at a time");
    }
}

#[test]
fn too_many_logins_at_once_are_told_to_come_back() {
    let (server, _) = guarded(Challenge::Bearer);
    let body = b"grant_type=password&username=bert&password=wrong";
    let mut wires: Vec<_> = (0..60).map(|_| Wire::connect(server.address())).collect();
    for wire in &mut wires {
        wire.begin("POST", "/v2/token", &[], Some(body.len() as u64), body);
    }
    let answers: Vec<_> = wires.iter_mut().map(|wire| wire.receive(false)).collect();
    let told = answers.iter().filter(|answer| answer.status == 429 && answer.header("retry-after").is_some()).count();
    assert!(told >= 20, "{told}");
    assert!(answers.iter().any(|answer| answer.status == 401));
}

#[test]
fn a_token_does_not_renew_itself() {
    let (server, _) = guarded(Challenge::Bearer);
    // One that was issued four minutes ago.
    let sql = "SELECT key FROM registry_keys WHERE name = 'token'";
    let key: [u8; 32] =
        server.store.index().read("look", |connection| connection.query_row(sql, (), |row| row.get(0))).unwrap();
    let sql = "SELECT serial FROM registry_accounts WHERE name = 'anna'";
    let serial: i64 =
        server.store.index().read("look", |connection| connection.query_row(sql, (), |row| row.get(0))).unwrap();
    let now = jiff::Timestamp::now().as_second();
    let claims = serde_json::json!({ "sub": "anna", "serial": serial, "iat": now - 240, "exp": now + 60,
        "access": [{ "name": "team/app", "actions": ["pull"] }] });
    let parts =
        [r#"{"alg":"HS256","typ":"JWT"}"#.to_owned(), claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
    let signed = parts.join(".");
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    context.update(b"token\0");
    context.update(signed.as_bytes());
    let old = format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(context.sign()));
    assert_eq!(with(&server, "GET", "/v2/", &old, b"").status, 200, "it is taken for one of ours");
    let issued = with(&server, "GET", "/v2/token?scope=repository:team/app:pull", &old, b"").json();
    assert!(issued["expires_in"].as_i64().unwrap() <= 60, "{issued}");
    let claims = issued["token"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(claims["exp"], now + 60);
}

#[test]
fn a_token_shows_no_more_than_it_names() {
    let (server, _log, robot) = audited();
    let hidden = sha256(b"x");
    for repository in ["team/a", "team/b"] {
        push(&server, repository, &robot);
        let document = serde_json::json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": { "mediaType": "application/x", "digest": hidden.as_str(), "size": 1 } });
        let headers = [("authorization", &*robot), ("content-type", MANIFEST)];
        let path = format!("/v2/{repository}/manifests/v1");
        assert_eq!(server.send("PUT", &path, &headers, document.to_string().as_bytes()).status, 201);
    }
    let narrow = token(&server, Some(&robot), &["repository:team/c:pull,push"]);
    for rest in ["&from=team/a", ""] {
        let path = format!("/v2/team/c/blobs/uploads/?mount={hidden}{rest}");
        assert_eq!(with(&server, "POST", &path, &narrow, b"").status, 202, "{rest}: an upload instead");
    }
    let both = token(&server, Some(&robot), &["repository:team/c:pull,push", "repository:team/a:pull"]);
    let path = format!("/v2/team/c/blobs/uploads/?mount={hidden}&from=team/a");
    assert_eq!(with(&server, "POST", &path, &both, b"").status, 201);

    let seen = |token: &str| with(&server, "GET", "/v2/_catalog", token, b"").json()["repositories"].clone();
    assert_eq!(seen(&both), serde_json::json!(["team/a"]));
    let none = with(&server, "GET", "/v2/_catalog", &token(&server, Some(&robot), &[]), b"");
    assert_eq!(none.status, 401);
    assert!(none.header("www-authenticate").unwrap().contains("scope=\"registry:catalog:*\""), "{none:?}");
    let anonymous = server.get("/v2/_catalog");
    assert!(anonymous.header("www-authenticate").unwrap().contains("scope=\"registry:catalog:*\""), "{anonymous:?}");
    let catalogue = token(&server, Some(&robot), &["registry:catalog:*"]);
    assert_eq!(seen(&catalogue), serde_json::json!(["team/a", "team/b"]));
    assert_eq!(with(&server, "GET", "/v2/team/a/manifests/v1", &catalogue, b"").status, 401, "and nothing else");
    let again = token(&server, Some(&narrow), &["registry:catalog:*"]);
    let again = with(&server, "GET", "/v2/_catalog", &again, b"");
    assert_eq!(again.status, 401, "a token for a token is no wider");
}
