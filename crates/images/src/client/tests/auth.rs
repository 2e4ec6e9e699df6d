//! Who we are, and to whom we say it.

use super::{
    server::{Door, Fault, Server},
    *,
};
use supervisor::Secret;

fn given(user: &str, password: &str) -> CredentialSource {
    CredentialSource::Given(Credentials::Password { user: user.to_owned(), password: Secret::new(password.to_owned()) })
}

async fn pull(machine: &Machine, name: &str, credentials: CredentialSource) -> Result<Pulled, ClientError> {
    machine
        .client(|settings| settings.credentials = credentials)
        .pull(&name.parse().unwrap(), &here(), &crate::Silent)
        .await
}

#[tokio::test]
async fn passwords_where_they_are_asked_for() {
    let (server, machine) = (Server::new(), Machine::new());
    let name = Sample::new(1000).publish(&server, "a", "1");
    server.door(Door::Basic("me:s3cret"));
    let error = pull(&machine, &name, CredentialSource::Anonymous).await.unwrap_err();
    assert!(matches!(error, ClientError::Denied { known: false, .. }), "{error:?}");
    assert_eq!(server.log().len(), 1, "no credentials, no second try");
    let error = pull(&machine, &name, given("me", "wrong-one")).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Denied { known: true, .. }) && !format!("{error:?}{error}").contains("wrong-one")
    );
    assert_eq!(server.log().len(), 3, "tried once, with and without");
    pull(&machine, &name, given("me", "s3cret")).await.unwrap();
    assert!(machine.has(&name));
}

#[tokio::test]
async fn tokens_are_asked_for_once_and_renewed() {
    let (server, machine) = (Server::new(), Machine::new());
    let sample = Sample::new(1000);
    let name = sample.publish(&server, "a", "1");
    server.door(Door::Token("me:s3cret"));
    let client = machine.client(|settings| settings.credentials = given("me", "s3cret"));
    client.pull(&name.parse().unwrap(), &here(), &crate::Silent).await.unwrap();
    assert_eq!(server.count("GET", "/token"), 1, "manifest, configuration and layer with one token");
    let asked = server.log().into_iter().find(|one| one.target.starts_with("/token")).unwrap();
    assert!(
        asked.target.contains("service=test") && asked.target.contains("scope=repository%3Aa%3Apull&"),
        "{asked:?}"
    );
    server.expire();
    client.pull(&name.parse().unwrap(), &here(), &crate::Silent).await.unwrap();
    assert_eq!(server.count("GET", "/token"), 2);
    // Pushing needs more than the token for pulling allows.
    let target = sample.keep(&machine, "x:1");
    client.push(&target, &format!("{}/b:1", server.host()).parse().unwrap(), Arc::new(crate::Silent)).await.unwrap();
    assert_eq!(server.count("GET", "pull%2Cpush"), 1);
}

#[tokio::test]
async fn a_token_that_runs_out_by_its_own_word_is_renewed_before() {
    let (server, machine) = (Server::new(), Machine::new());
    let name = Sample::new(1000).publish(&server, "a", "1");
    server.door(Door::Token(""));
    server.token_life(1);
    let client = machine.client(|_| ());
    client.pull(&name.parse().unwrap(), &here(), &crate::Silent).await.unwrap();
    let before = server.count("GET", "/manifests/");
    tokio::time::sleep(Duration::from_millis(1000)).await;
    client.pull(&name.parse().unwrap(), &here(), &crate::Silent).await.unwrap();
    assert_eq!(server.count("GET", "/manifests/") - before, 1, "no request was refused for it");
}

#[tokio::test]
async fn no_loops() {
    let (server, machine) = (Server::new(), Machine::new());
    let name = Sample::new(1000).publish(&server, "a", "1");
    server.door(Door::Never);
    let error = pull(&machine, &name, given("me", "s3cret")).await.unwrap_err();
    assert!(matches!(error, ClientError::Denied { .. }), "{error:?}");
    assert!(server.log().len() <= 3, "{:?}", server.log());
    server.door(Door::Token("me:s3cret"));
    let error = pull(&machine, &name, given("me", "other")).await.unwrap_err();
    assert!(matches!(error, ClientError::Denied { known: true, .. }), "{error:?}");
}

#[tokio::test]
async fn an_identity_token_goes_to_the_token_server_only() {
    let (server, machine) = (Server::new(), Machine::new());
    let name = Sample::new(1000).publish(&server, "a", "1");
    server.door(Door::Token("me:s3cret"));
    let identity = CredentialSource::Given(Credentials::Identity(Secret::new("identity".to_owned())));
    pull(&machine, &name, identity).await.unwrap();
    assert_eq!(server.count("POST", "/token"), 1);
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let (server, storage, machine) = (Server::new(), Server::new(), Machine::new());
    let sample = Sample::new(300_000);
    let name = sample.publish(&server, "a", "1");
    storage.blob(&sample.layer);
    server.door(Door::Basic("me:s3cret"));
    let layer = digest(&sample.layer).to_string();
    // Both requests of the layer: as told, a redirect needs no permission.
    server.fault("GET", &layer, Fault::Redirect(format!("http://other:pw@{}", storage.host())));
    storage.fault("GET", &layer, Fault::Cut(100_000));
    server.fault("GET", &layer, Fault::Redirect(format!("http://{}", storage.host())));
    pull(&machine, &name, given("me", "s3cret")).await.unwrap();
    assert!(machine.has(&name));
    let seen = storage.log();
    assert!(seen.len() == 2 && seen.iter().all(|one| one.header("authorization").is_empty()), "{seen:?}");
    assert_eq!(seen[1].header("range"), "bytes=100000-");
}

#[tokio::test]
async fn redirects_end() {
    let (server, machine) = (Server::new(), Machine::new());
    let name = Sample::new(1000).publish(&server, "a", "1");
    for _ in 0..10 {
        server.fault("GET", "/manifests/", Fault::Redirect(format!("http://{}", server.host())));
    }
    let error = pull(&machine, &name, CredentialSource::Anonymous).await.unwrap_err();
    assert!(error.to_string().contains("redirects more than"), "{error}");
}

#[tokio::test]
async fn a_login_is_tried() {
    let (server, machine) = (Server::new(), Machine::new());
    server.door(Door::Token("me:s3cret"));
    let registry = server.host().parse().unwrap();
    let check = |credentials| machine.client(|settings| settings.credentials = credentials);
    check(given("me", "s3cret")).check(&registry).await.unwrap();
    let error = check(given("me", "no")).check(&registry).await.unwrap_err();
    assert!(matches!(error, ClientError::Denied { .. }), "{error:?}");
}
