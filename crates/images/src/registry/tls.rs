//! The certificate of a registry, read again when its files change.

use super::settings::TlsFiles;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
    },
};

/// The certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not PEM.
    #[error("cannot read {} as PEM", path.display())]
    Read {
        /// That file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("{} has no certificate: expected a PEM file with the server's certificate first", path.display())]
    Empty {
        /// That file.
        path: PathBuf,
    },
    /// The key is of a kind that is not supported, or not the certificate's.
    #[error("certificate {} and key {} cannot be used together", files.certificate.display(), files.key.display())]
    Pair {
        /// Those files.
        files: TlsFiles,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// What a file looked like: another time, size or inode is another file.
type Seen = [Option<(SystemTime, u64, u64)>; 2];

/// The certificate in use.
pub(super) struct Certificate {
    files: TlsFiles,
    current: RwLock<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    /// The files that it was read from.
    used: Seen,
    /// Those that were looked at last, and could not be used if they are others.
    tried: Seen,
}

impl Certificate {
    /// Reads it.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let used = seen(&files);
        let acceptor = acceptor(&files)?;
        Ok(Self { files, current: RwLock::new(Current { acceptor, used, tried: used }) })
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// Reads it again if its files have changed, or whatever they look like (`force`); `true` if it was read. On an error
    /// the old one stays; files that cannot be used are tried again each time, but the error comes once for each change.
    pub fn reload(&self, force: bool) -> Result<bool, TlsError> {
        let now = seen(&self.files);
        let (used, tried) = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            (current.used, current.tried)
        };
        if now == used && !force {
            return Ok(false);
        }
        let read = acceptor(&self.files);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.tried = now;
        match read {
            Ok(acceptor) => {
                (current.acceptor, current.used) = (acceptor, now);
                Ok(true)
            }
            Err(_) if now == tried && !force => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn seen(files: &TlsFiles) -> Seen {
    use std::os::unix::fs::MetadataExt;
    let look = |path: &Path| {
        let found = fs::metadata(path)?;
        Ok::<_, io::Error>((found.modified()?, found.len(), found.ino()))
    };
    [look(&files.certificate).ok(), look(&files.key).ok()]
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Read { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(read(&files.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: files.certificate.clone() });
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(read(&files.key))?;
    let pair = |source| TlsError::Pair { files: files.clone(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    // Large transfers run over few connections, where HTTP/1.1 does without the flow control and framing of HTTP/2.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
