//! The client against servers on the loopback address: one of ours that fails as it is told to, and Debian's.

mod auth;
mod faults;
mod peers;
mod server;
mod tls;

use super::*;
use crate::{
    digest::digest_of,
    progress::{Event, LayerState, Progress},
    store::{Manifest, Store},
};
use model::image::{Algorithm, Digest, ImageName};
use server::Server;
use std::{sync::Mutex as StdMutex, time::Duration};
use supervisor::Backoff;

/// A store of its own and a client that does not wait for long.
struct Machine {
    _folder: tempfile::TempDir,
    store: Store,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("images")).unwrap();
        Self { store, _folder: folder }
    }

    fn client(&self, change: impl FnOnce(&mut Settings)) -> Client {
        let backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(20));
        let retry = RetryPolicy { attempts: 4, backoff, longest: Duration::from_secs(2) };
        let mut settings =
            Settings { plain_http: true, retry, stall: Duration::from_millis(400), ..Settings::default() };
        change(&mut settings);
        Client::new(self.store.clone(), settings)
    }

    async fn pull(&self, name: &str, watched: &Watched) -> Result<Pulled, ClientError> {
        self.client(|_| ()).pull(&name.parse().unwrap(), &here(), watched).await
    }

    /// Whether an image is here, with all its content sound.
    fn has(&self, name: &str) -> bool {
        let name: ImageName = name.parse().unwrap();
        let Some(image) = self.store.image(&name).unwrap().filter(|image| image.name == name) else { return false };
        let digest = image.digest().unwrap();
        let Manifest::Image(manifest) = self.store.manifest(&digest).unwrap() else { panic!("an index") };
        for part in std::iter::once(manifest.config()).chain(manifest.layers()) {
            self.store.need(&crate::store::digest_in(part).unwrap()).unwrap().verify().unwrap();
        }
        true
    }

    /// Folders of content that is coming in.
    fn unfinished(&self) -> usize {
        std::fs::read_dir(self.store.folder().join("ingest")).unwrap().count()
    }
}

fn here() -> Platforms {
    Platforms::One(crate::store::host_platform())
}

/// Remembers what it was told.
#[derive(Default)]
struct Watched(StdMutex<Vec<String>>);

impl Watched {
    fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }
}

impl Progress for Watched {
    fn event(&self, event: Event<'_>) {
        let line = match event {
            Event::Layer { digest, state: LayerState::Retry { after, why }, .. } => {
                format!("{} retry after {after:?}: {why}", digest.short())
            }
            Event::Layer { digest, state, .. } => format!("{} {state:?}", digest.short()),
            Event::Manifest { digest } => format!("manifest {}", digest.short()),
            Event::Step { what, .. } => what.to_owned(),
            Event::Message(text) => text.to_owned(),
        };
        self.0.lock().unwrap().push(line);
    }
}

/// An image of one layer with bytes that nothing compresses.
struct Sample {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Sample {
    fn new(size: usize) -> Self {
        let layer: Vec<u8> = (0..size as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        let platform = crate::store::host_platform();
        let config = format!(
            r#"{{"os":"{}","architecture":"{}","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            platform.os(),
            platform.architecture(),
            digest(&layer)
        );
        let config = config.into_bytes();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
            crate::media::OCI_MANIFEST,
            crate::media::OCI_CONFIG,
            digest(&config),
            config.len(),
            crate::media::OCI_LAYER,
            digest(&layer),
            layer.len()
        );
        Self { layer, config, manifest: manifest.into_bytes() }
    }

    /// Served under a tag.
    fn publish(&self, server: &Server, repository: &str, tag: &str) -> String {
        server.blob(&self.layer);
        server.blob(&self.config);
        server.manifest(repository, tag, crate::media::OCI_MANIFEST, &self.manifest);
        format!("{}/{repository}:{tag}", server.host())
    }

    /// Put into a store, under a name; its descriptor.
    fn keep(&self, machine: &Machine, name: &str) -> oci_spec::image::Descriptor {
        use std::io::Write as _;
        let lease = machine.store.lease(crate::store::Owner::Process).unwrap();
        for bytes in [&self.layer, &self.config, &self.manifest] {
            let mut ingest = machine.store.ingest().unwrap();
            ingest.write_all(bytes).unwrap();
            ingest.commit_as(Algorithm::Sha256, &lease).unwrap();
        }
        let media_type = crate::media::named(crate::media::OCI_MANIFEST);
        let target = manifest::describe(&digest(&self.manifest), self.manifest.len() as u64, media_type).unwrap();
        machine.store.tag(&name.parse().unwrap(), &target).unwrap();
        target
    }
}

fn digest(bytes: &[u8]) -> Digest {
    digest_of(Algorithm::Sha256, bytes)
}
