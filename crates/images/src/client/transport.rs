//! Connections: TLS with the host's authorities, proxies, time-outs.
//!
//! TLS is set up when the first server is spoken to by it: reading all authorities of a host takes longer than a plain
//! request. A loopback address is never reached through a proxy.

use super::error::ClientError;
use reqwest::{Client, Url, redirect::Policy};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Where distributions keep the authorities that their users trust: Debian and Arch, Fedora, SUSE.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// How the client is named to servers.
const USER_AGENT: &str = concat!("jdos/", env!("CARGO_PKG_VERSION"));

/// Connections to any server.
#[derive(Debug)]
pub(super) struct Transport {
    authorities: Vec<PathBuf>,
    connect: Duration,
    /// By whether TLS is spoken and whether the server is this machine.
    clients: [[OnceLock<Client>; 2]; 2],
}

impl Transport {
    /// With these files of authorities besides the host's, and this much time for a connection.
    pub(super) fn new(authorities: Vec<PathBuf>, connect: Duration) -> Self {
        Self { authorities, connect, clients: Default::default() }
    }

    /// The connections that lead to this address.
    pub(super) fn to(&self, url: &Url) -> Result<&Client, ClientError> {
        let (tls, near) = (url.scheme() == "https", is_loopback(url));
        let place = &self.clients[usize::from(tls)][usize::from(near)];
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let client = self.client(tls, near)?;
        Ok(place.get_or_init(|| client))
    }

    fn client(&self, tls: bool, near: bool) -> Result<Client, ClientError> {
        let fail = |why: String| ClientError::Process { doing: "set up connections", why };
        let roots = if tls { self.roots()? } else { RootCertStore::empty() };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| fail(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Redirects are followed by us, who know where credentials may go.
        let mut builder = Client::builder()
            .tls_backend_preconfigured(config)
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .connect_timeout(self.connect)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true);
        if near {
            builder = builder.no_proxy();
        }
        builder.build().map_err(|error| fail(error.to_string()))
    }

    fn roots(&self) -> Result<RootCertStore, ClientError> {
        let mut roots = RootCertStore::empty();
        let host = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let bundle = host.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()));
        for path in bundle.iter() {
            // A bundle has old certificates among its many; one that is not understood is only not trusted.
            roots.add_parsable_certificates(read(path)?);
        }
        for path in &self.authorities {
            for certificate in read(path)? {
                let fail = |error: &dyn std::fmt::Display| ClientError::Settings {
                    path: path.clone(),
                    why: format!("one of its certificates can not be an authority: {error}"),
                };
                roots.add(certificate).map_err(|error| fail(&error))?;
            }
        }
        Ok(roots)
    }
}

/// The certificates of a PEM file, of which there must be at least one.
fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let fail = |why: String| ClientError::Settings { path: path.to_owned(), why };
    let text = fs::read(path).map_err(|error| fail(error.to_string()))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if all.is_empty() => Err(fail("it has no certificate in PEM form".to_owned())),
        Ok(all) => Ok(all),
        Err(error) => Err(fail(format!("it is not a file of certificates: {error}"))),
    }
}

/// Whether an address is this machine's own.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host_str().map(|host| host.trim_matches(['[', ']'])) {
        Some("localhost") => true,
        Some(host) => host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// In a few words why there was no answer.
pub(super) fn describe(error: &reqwest::Error) -> &'static str {
    // The innermost tells most: others wrap it.
    let io = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).last();
    match io.map(io::Error::kind) {
        _ if error.is_timeout() => "no connection in time",
        Some(io::ErrorKind::UnexpectedEof) if error.is_connect() => "the connection was cut before it was secure",
        Some(io::ErrorKind::ConnectionRefused) => "nothing listens there",
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {
            "the connection was cut"
        }
        _ if error.is_connect() => "no connection",
        _ => "the connection broke",
    }
}

/// Whether trying again is of no use: the other side can not prove who it is, or speaks no TLS.
pub(super) fn is_tls(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.is::<tokio_rustls::rustls::Error>())
}

/// All causes, outermost first. (An error of the system's hides what it is made of from `source`.)
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |&cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match inner {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => cause.source(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_names_that_look_like_it() {
        for (text, expected) in [
            ("http://localhost:5000/v2/", true),
            ("https://127.0.0.7/", true),
            ("http://[::1]:5000/", true),
            ("https://127.0.0.1.example/", false),
            ("https://localhost.example/", false),
            ("https://10.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(&text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let transport = Transport::new(vec![file.path().to_owned()], Duration::from_secs(1));
        let error = transport.to(&"https://x.example".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("no certificate") && error.contains(file.path().to_str().unwrap()), "{error}");
        assert!(transport.to(&"http://x.example".parse().unwrap()).is_ok(), "plain connections need none");
    }
}
