use super::*;
use std::os::unix::fs::PermissionsExt;

struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new(text: &str) -> (Self, DockerConfig) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/config.json");
        if !text.is_empty() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        let config = DockerConfig::at(path);
        (Self { folder }, config)
    }

    /// A helper program in the folder; its name.
    fn helper(&self, script: &str) -> Helper {
        let path = self.folder.path().join("docker-credential-test");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Helper::for_test(path.to_str().unwrap(), Duration::from_millis(500))
    }
}

fn shown(credentials: Option<Credentials>) -> String {
    match credentials {
        None => "none".to_owned(),
        Some(Credentials::Password { user, password }) => format!("{user}/{}", password.expose()),
        Some(Credentials::Identity(token)) => format!("token {}", token.expose()),
    }
}

#[test]
fn all_forms_of_entries() {
    let (_home, config) = Home::new(
        r#"{"auths": {
            "a.example:5000": {"auth": "bWU6cGFzczp3b3Jk"},
            "https://b.example/v1/": {"username": "me", "password": "b"},
            "c.example": {"auth": "PHRva2VuPjo=", "identitytoken": "secret"},
            "https://index.docker.io/v1/": {"auth": "aHViOmh1Yg=="},
            "d.example": {}, "e.example": {"auth": "!!!"}
        }, "HttpHeaders": {"x": "y"}}"#,
    );
    let get = |registry: &str| config.get(registry).map(shown);
    assert_eq!(get("a.example:5000").unwrap(), "me/pass:word");
    assert_eq!(get("b.example").unwrap(), "me/b");
    assert_eq!(get("c.example").unwrap(), "token secret");
    assert_eq!(get("docker.io").unwrap(), "hub/hub");
    for none in ["a.example", "d.example", "example", "index.docker.io"] {
        assert_eq!(get(none).unwrap_or_default(), if none == "index.docker.io" { "hub/hub" } else { "none" }, "{none}");
    }
    let error = get("e.example").unwrap_err().to_string();
    assert!(error.contains("e.example") && !error.contains("!!!"), "{error}");
}

#[test]
fn no_file_is_no_credentials_and_a_wrong_one_is_an_error() {
    let (_home, config) = Home::new("");
    assert_eq!(config.get("x.example").map(shown).unwrap(), "none");
    for text in ["[]", "{", r#"{"credsStore": "../evil"}"#] {
        let (_home, config) = Home::new(text);
        assert!(config.get("x.example").is_err(), "{text}");
    }
}

#[test]
fn login_and_logout_keep_what_is_not_theirs() {
    let (_home, config) = Home::new(r#"{"psFormat": "x", "auths": {"https://r.example/v2/": {"auth": "YTpi"}}}"#);
    let credentials = password_of("me", "s3cret");
    config.store("r.example", &credentials).unwrap();
    assert_eq!(config.get("r.example").map(shown).unwrap(), "me/s3cret");
    let text = fs::read_to_string(config.path()).unwrap();
    assert!(text.contains("psFormat") && !text.contains("s3cret") && !text.contains("/v2/"), "{text}");
    assert_eq!(fs::metadata(config.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(config.erase("r.example").unwrap());
    assert!(!config.erase("r.example").unwrap());
    assert_eq!(config.get("r.example").map(shown).unwrap(), "none");
    config.store("docker.io", &Credentials::Identity(Secret::new("t".to_owned()))).unwrap();
    assert_eq!(config.get("docker.io").map(shown).unwrap(), "token t");
}

#[test]
fn helpers_answer_for_their_registry() {
    let (home, _config) = Home::new("");
    let get = |script: &str| home.helper(script).get("r.example:5000").map(shown);
    let answer = r#"read url; printf '{"ServerURL":"%s","Username":"%s","Secret":"s"}' "$url" "$url""#;
    assert_eq!(get(answer).unwrap(), "r.example:5000/s");
    assert_eq!(get(r#"echo '{"Username":"<token>","Secret":"t"}'"#).unwrap(), "token t");
    assert_eq!(get("echo 'credentials not found in native keychain'; exit 1").unwrap(), "none");
    let error = get("echo 'the vault is locked'; exit 1").unwrap_err().to_string();
    assert!(error.contains("the vault is locked") && error.contains("r.example:5000"), "{error}");
    let error = get(r#"echo '{"Username":"me","Secret":"s3cret"'"#).unwrap_err().to_string();
    assert!(!error.contains("s3cret"), "{error}");
}

#[test]
fn helpers_keep_and_forget() {
    let (home, _config) = Home::new("");
    let place = home.folder.path().join("kept");
    let helper = home.helper(&format!(r#"echo "$1" >> {0}; cat >> {0}"#, place.display()));
    helper.store("r.example", &password_of("me", "pw")).unwrap();
    assert!(helper.erase("r.example").unwrap());
    let kept = fs::read_to_string(place).unwrap();
    assert_eq!(kept, "store\n{\"ServerURL\":\"r.example\",\"Username\":\"me\",\"Secret\":\"pw\"}erase\nr.example");
}

#[test]
fn a_helper_that_hangs_or_is_missing_is_named() {
    let (home, _config) = Home::new("");
    let began = std::time::Instant::now();
    let error = home.helper("exec sleep 100").get("r.example").unwrap_err().to_string();
    assert!(error.contains("did not answer"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let missing = Helper::new("no-such-helper-anywhere", Duration::from_secs(1)).unwrap();
    let error = missing.get("r.example").unwrap_err().to_string();
    assert!(error.contains("docker-credential-no-such-helper-anywhere") && error.contains("PATH"), "{error}");
}
