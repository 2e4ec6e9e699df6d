//! TLS with an authority made for the test. Needs `openssl`.

use super::{server::Server, *};
use std::{path::Path, process::Command};
use tokio_rustls::rustls::{
    self,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

fn openssl(folder: &Path, line: &str) {
    let output = Command::new("openssl").args(line.split(' ')).current_dir(folder).output().expect("openssl runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority `ca.pem` in the folder, and a server with a certificate by it for 127.0.0.1.
fn server(folder: &Path) -> Server {
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(folder, &format!("{new} -x509 -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem"));
    openssl(folder, &format!("{new} -subj /CN=server -keyout server.key -out server.csr"));
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        folder,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    );
    let chain =
        CertificateDer::pem_file_iter(folder.join("server.pem")).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Server::tls(config)
}

#[tokio::test]
async fn only_a_trusted_authority_is_trusted() {
    let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::new());
    let server = server(folder.path());
    let name = Sample::new(300_000).publish(&server, "a", "1");
    let pull = async |change: &dyn Fn(&mut Settings)| {
        let client = machine.client(|settings| {
            settings.plain_http = false;
            change(settings);
        });
        client.pull(&name.parse().unwrap(), &here(), &crate::Silent).await
    };
    let error = pull(&|_| ()).await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
    let causes = format!("{:?}", std::error::Error::source(&error));
    assert!(causes.contains("UnknownIssuer"), "{causes}");
    let error = pull(&|settings| settings.plain_http = true).await.unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::Unavailable, "plain HTTP is not TLS: {error:?}");
    assert!(!machine.has(&name));
    pull(&|settings| settings.authorities = vec![folder.path().join("ca.pem")]).await.unwrap();
    assert!(machine.has(&name));
}

#[tokio::test]
async fn plain_http_is_never_tried_unasked() {
    let (server, machine) = (Server::new(), Machine::new());
    let name = Sample::new(10).publish(&server, "a", "1");
    let client = machine.client(|settings| settings.plain_http = false);
    let error = client.pull(&name.parse().unwrap(), &here(), &crate::Silent).await.unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::Unavailable, "{error:?}");
    assert!(server.log().is_empty() && !machine.has(&name));
}
