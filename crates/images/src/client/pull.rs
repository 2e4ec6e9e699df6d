//! Pulling: manifest, configuration and layers into the store, and then the name.

use super::{
    Client,
    auth::Scope,
    blocking,
    download::Source,
    error::ClientError,
    manifest::{self, Fetched},
    parallel,
};
use crate::{
    media,
    progress::{Event, LayerState, Progress},
    store::{Lease, Manifest, Owner, StoreError, choose, digest_in, show_platform},
};
use model::image::{Digest, ImageName};
use oci_spec::image::{Descriptor, ImageManifest, Platform};
use std::{collections::HashSet, sync::Arc};

/// Manifests that one index may lead to; images have a dozen or two.
const MOST_MANIFESTS: usize = 256;
/// Blobs of one manifest.
const MOST_BLOBS: usize = 1024;

/// Which images of an index.
#[derive(Debug, Clone)]
pub enum Platforms {
    /// The one that fits this platform.
    One(Platform),
    /// Every one.
    All,
}

/// What was pulled.
#[derive(Debug)]
pub struct Pulled {
    /// Its name, with the registry it came from.
    pub name: ImageName,
    /// What the name stands for.
    pub target: Descriptor,
    /// What it stood for before.
    pub before: Option<Digest>,
    /// Holds all of it until dropped.
    pub lease: Arc<Lease>,
}

impl Client {
    /// Brings an image into the store and gives it its name there. What is there already is not transferred again.
    ///
    /// # Errors
    /// [`ClientError`]; the name then stands for what it stood for before, and what was transferred is used by the next
    /// pull within a day.
    pub async fn pull(
        &self,
        name: &ImageName,
        platforms: &Platforms,
        progress: &dyn Progress,
    ) -> Result<Pulled, ClientError> {
        let (session, place) = self.locate(name)?;
        let name = ImageName { registry: Some(place.registry.clone()), ..name.normalised() };
        let (store, known) = (self.store().clone(), name.clone());
        let began = blocking(move || {
            let before = store.image(&known)?.filter(|image| image.name == known);
            let before = before.map(|image| image.digest()).transpose()?;
            Ok::<_, StoreError>((store.lease(Owner::Process)?, before))
        });
        let (lease, before) = began.await?.map_err(ClientError::store(format!("prepare the pull of {name}")))?;
        let lease = Arc::new(lease);
        let scope = Scope::pull(&place.repository);
        let source = Source {
            session: &session,
            store: self.store(),
            lease: &lease,
            repository: &place.repository,
            scope: &scope,
            progress,
        };
        let reference = match (&name.digest, &name.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_string(),
            // A name without digest has a tag by now.
            (None, None) => "latest".to_owned(),
        };
        let top = manifest::fetch(&session, &place.repository, &reference, name.digest.as_ref(), &scope).await?;
        let target = top.descriptor()?;
        source.image(top, platforms, session.settings().parallel).await?;
        let (store, tagged, stands_for) = (self.store().clone(), name.clone(), target.clone());
        let tagging = blocking(move || store.tag_pulled(&tagged, &stands_for));
        tagging.await?.map_err(ClientError::store(format!("give the image its name {name}")))?;
        Ok(Pulled { name, target, before, lease })
    }
}

impl Source<'_> {
    /// All that is wanted of an image or index, the manifests after what they refer to.
    async fn image(&self, top: Fetched, platforms: &Platforms, parallel: usize) -> Result<(), ClientError> {
        let mut images: Vec<(Digest, ImageManifest)> = Vec::new();
        let mut queue = vec![(top, 0)];
        let mut seen = HashSet::new();
        while let Some((fetched, depth)) = queue.pop() {
            fetched.keep(self.lease).await?;
            self.progress.event(Event::Manifest { digest: &fetched.digest });
            let index = match fetched.manifest {
                Manifest::Image(manifest) => {
                    images.push((fetched.digest, manifest));
                    continue;
                }
                Manifest::Index(index) => index,
            };
            for child in wanted(&fetched.digest, index.manifests(), platforms)? {
                let digest = digest_in(child).map_err(ClientError::store("read an index"))?;
                if !seen.insert(digest.clone()) {
                    continue;
                }
                if seen.len() > MOST_MANIFESTS || depth > 3 {
                    let asked = self.session.asked("get", format!("index {}", fetched.digest.short()));
                    let why = "it lists too many manifests, or nests them too deeply".to_owned();
                    return Err(ClientError::Malformed { asked, why });
                }
                let reference = digest.to_string();
                let child =
                    manifest::fetch(self.session, self.repository, &reference, Some(&digest), self.scope).await?;
                queue.push((child, depth + 1));
            }
        }
        self.blobs(&images, parallel).await
    }

    async fn blobs(&self, images: &[(Digest, ImageManifest)], parallel: usize) -> Result<(), ClientError> {
        let mut all: Vec<(Digest, u64)> = Vec::new();
        let mut seen = HashSet::new();
        for (digest, manifest) in images {
            if manifest.layers().len() > MOST_BLOBS {
                let asked = self.session.asked("get", format!("manifest {}", digest.short()));
                return Err(ClientError::Malformed { asked, why: format!("it has more than {MOST_BLOBS} layers") });
            }
            for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
                let digest = digest_in(blob).map_err(ClientError::store("read a manifest"))?;
                if seen.insert(digest.clone()) {
                    all.push((digest, blob.size()));
                }
            }
        }
        for (digest, size) in &all {
            self.progress.event(Event::Layer { digest, size: *size, state: LayerState::Waiting });
        }
        parallel::all(parallel, all.iter().map(|(digest, size)| self.blob(digest, *size))).await.map(drop)
    }
}

/// What of an index is wanted.
fn wanted<'i>(
    index: &Digest,
    manifests: &'i [Descriptor],
    platforms: &Platforms,
) -> Result<Vec<&'i Descriptor>, ClientError> {
    let known = |one: &&Descriptor| {
        let media_type = one.media_type().to_string();
        media::is_manifest(&media_type) || media::is_index(&media_type)
    };
    match platforms {
        Platforms::All => Ok(manifests.iter().filter(known).collect()),
        Platforms::One(platform) => choose(manifests, platform).map(|one| vec![one]).ok_or_else(|| {
            let offered: Vec<_> =
                manifests.iter().filter_map(|one| one.platform().as_ref()).map(show_platform).collect();
            let offered = if offered.is_empty() { "none that names a platform".to_owned() } else { offered.join(", ") };
            let source = StoreError::NoPlatform { digest: index.clone(), wanted: show_platform(platform), offered };
            ClientError::store("choose an image of the index")(source)
        }),
    }
}
