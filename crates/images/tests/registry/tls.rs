//! TLS, and a certificate that changes while the registry serves. Needs `openssl`.

use crate::harness::{Server, Wire, eventually, noise, sha256};
use images::registry::TlsFiles;
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

/// A certificate that stands for itself, and its key, PEM.
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        const SETTINGS: &str = "[req]\ndistinguished_name = name\nx509_extensions = extensions\nprompt = no\n\
            [name]\nCN = registry.test\n\
            [extensions]\nsubjectAltName = DNS:registry.test\nbasicConstraints = critical,CA:FALSE\n";
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("settings"), SETTINGS).unwrap();
        let line = "req -x509 -days 2 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -config settings -keyout key -out certificate";
        let output = Command::new("openssl").args(line.split(' ')).current_dir(folder.path()).output();
        let output = output.expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read = |name| fs::read(folder.path().join(name)).unwrap();
        Self { certificate: read("certificate"), key: read("key") }
    }

    fn install(&self, files: &TlsFiles) {
        fs::write(&files.certificate, &self.certificate).unwrap();
        fs::write(&files.key, &self.key).unwrap();
    }
}

fn files(folder: &Path) -> TlsFiles {
    TlsFiles { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") }
}

/// A connection that trusts this certificate and no other.
fn connect(address: SocketAddr, certificate: &[u8]) -> Option<Wire<StreamOwned<ClientConnection, TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("registry.test").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).ok()?;
    }
    Some(Wire::over(StreamOwned::new(connection, socket)))
}

#[test]
fn serves_and_takes_another_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let (one, two) = (Pair::new(), Pair::new());
    one.install(&files);
    let given = files.clone();
    let server = Server::with(|settings| {
        settings.open = true;
        settings.tls = Some(given);
    });
    let mut wire = connect(server.address(), &one.certificate).unwrap();
    let content = noise(3 << 20, 1);
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&content));
    let pushed = wire.send("POST", &path, &[], &content);
    assert_eq!(pushed.status, 201);
    let blob = pushed.location().to_owned();
    assert!(wire.send("GET", &blob, &[], b"").body == content);
    let part = wire.send("GET", &blob, &[("range", "bytes=1000000-2999999")], b"");
    assert!(part.body == content[1_000_000..3_000_000]);
    assert!(connect(server.address(), &two.certificate).is_none());

    // A key that is not the certificate's: the old pair stays.
    fs::write(&files.key, &two.key).unwrap();
    server.reload.now();
    assert!(connect(server.address(), &one.certificate).is_some());
    two.install(&files);
    server.reload.now();
    eventually("the other certificate is in use", || connect(server.address(), &two.certificate).is_some());
    assert_eq!(wire.send("GET", "/v2/", &[], b"").status, 200, "connections go on");
    // Without being told it looks by itself.
    one.install(&files);
    eventually("the first certificate is in use again", || connect(server.address(), &one.certificate).is_some());
}

#[test]
fn does_not_start_without_a_usable_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let (one, two) = (Pair::new(), Pair::new());
    let start = || {
        let store = images::store::Store::open(&folder.path().join("images")).unwrap();
        let mut settings = images::registry::Settings::new("127.0.0.1:0".parse().unwrap());
        settings.tls = Some(files.clone());
        let bind = async {
            let metrics = supervisor::Metrics::new();
            let supervisor = supervisor::Supervisor::builder().metrics(&metrics).without_signals().start().unwrap();
            let bound = images::registry::Registry::bind(&store, settings, supervisor.spawner(), &metrics).await;
            bound.map(drop).unwrap_err()
        };
        let error = supervisor::block_on(bind).unwrap();
        let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |&error| error.source());
        chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    };
    assert!(start().contains("certificate.pem as PEM"));
    fs::write(&files.certificate, "nothing").unwrap();
    assert!(start().contains("has no certificate"), "{}", start());
    fs::write(&files.certificate, &one.certificate).unwrap();
    assert!(start().contains("key.pem as PEM"));
    fs::write(&files.key, &two.key).unwrap();
    assert!(start().contains("cannot be used together"), "{}", start());
}

/// Waits until this certificate is in use.
fn is_used(server: &Server, pair: &Pair, what: &str) {
    eventually(what, || connect(server.address(), &pair.certificate).is_some());
}

#[test]
fn a_signal_reads_files_that_look_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let (mut one, mut two) = (Pair::new(), Pair::new());
    // Lines after the end are nothing to a reader of PEM.
    for pair in [&mut one, &mut two] {
        pair.certificate.resize(2000, b'\n');
        pair.key.resize(1000, b'\n');
    }
    let place = |pair: &Pair| {
        pair.install(&files);
        for path in [&files.certificate, &files.key] {
            let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
    };
    place(&one);
    let given = files.clone();
    let server = Server::with(|settings| settings.tls = Some(given));
    is_used(&server, &one, "the first certificate is in use");
    place(&two);
    server.reload.now();
    is_used(&server, &two, "the second certificate is in use");
}

#[test]
fn a_collection_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let (one, two) = (Pair::new(), Pair::new());
    one.install(&files);
    let given = files.clone();
    let server = Server::with(|settings| {
        settings.tls = Some(given);
        settings.collect_every = Duration::from_millis(50);
    });
    is_used(&server, &one, "the first certificate is in use");
    server
        .store
        .index()
        .write("hold collections up", |_| {
            // One waits for its turn by now.
            for _ in 0..10 {
                std::thread::sleep(Duration::from_millis(20));
                server.reload.now();
            }
            two.install(&files);
            server.reload.now();
            is_used(&server, &two, "the second certificate is in use");
            Ok(())
        })
        .unwrap();
}
