//! Pushing: blobs first, then the manifests that refer to them, the name last.

use super::{
    Client,
    auth::Scope,
    blocking,
    error::ClientError,
    manifest, parallel,
    send::Target,
    session::{Payload, Session},
};
use crate::{
    media,
    progress::{Event, LayerState, Progress},
    store::{Lease, MANIFEST_LIMIT, Manifest, Owner, Store, StoreError, digest_in},
};
use bytes::Bytes;
use model::image::{Digest, ImageName};
use oci_spec::image::Descriptor;
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderName},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Images of the same registry whose blobs are remembered as ones that it has.
const MOST_RELATIVES: usize = 64;
/// By this header a registry tells that it keeps track of referrers.
const SUBJECT: &str = "oci-subject";

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its name, with the registry that it went to.
    pub name: ImageName,
    /// What the name stands for there.
    pub digest: Digest,
}

/// What a push consists of.
#[derive(Debug, Default)]
struct Plan {
    /// Every blob with its size.
    blobs: Vec<(Digest, u64)>,
    /// Manifests with their media type, those that are referred to first.
    manifests: Vec<(Digest, String, Bytes)>,
    /// Repositories of the registry that have blobs.
    relatives: HashMap<Digest, String>,
}

impl Client {
    /// Brings an image (or an index with all that it lists) to a registry under this name.
    ///
    /// # Errors
    /// [`ClientError`]; the name there then stands for what it stood for before.
    pub async fn push(
        &self,
        target: &Descriptor,
        name: &ImageName,
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed, ClientError> {
        let (session, place) = self.locate(name)?;
        let name = ImageName { registry: Some(place.registry.clone()), ..name.normalised() };
        let digest = digest_in(target).map_err(ClientError::store("read what is to be pushed"))?;
        if let Some(named) = name.digest.as_ref().filter(|named| **named != digest) {
            let asked = session.asked("put", name.to_string());
            let (expected, found) = (named.clone(), digest.to_string());
            return Err(ClientError::Digest { asked, expected, found });
        }
        let (store, wanted, named) = (self.store().clone(), digest.clone(), name.clone());
        let settings = self.settings().clone();
        let planned = blocking(move || -> Result<(Lease, Plan), ClientError> {
            let fail = || ClientError::store(format!("read {named}"));
            let lease = store.lease(Owner::Process).map_err(fail())?;
            lease.hold_all(&wanted).map_err(fail())?;
            let mut plan = Plan::default();
            plan.add(&store, &wanted, &named, 0)?;
            plan.find_relatives(&store, &named, &settings).map_err(fail())?;
            Ok((lease, plan))
        });
        let (_lease, plan) = planned.await??;
        for (digest, size) in &plan.blobs {
            progress.event(Event::Layer { digest, size: *size, state: LayerState::Waiting });
        }
        let to = Target { session: &session, store: self.store(), repository: &place.repository, progress: &progress };
        let one = |(digest, size): &(Digest, u64)| {
            let (digest, size, from) = (digest.clone(), *size, plan.relatives.get(digest).cloned());
            async move { to.blob(&digest, size, from.as_deref()).await }
        };
        parallel::all(session.settings().parallel, plan.blobs.iter().map(one)).await?;
        let scope = Scope::push(&place.repository, None);
        for (position, (digest, media_type, bytes)) in plan.manifests.iter().enumerate() {
            let last = position + 1 == plan.manifests.len();
            let tag = name.tag.as_ref().filter(|_| last).map(ToString::to_string);
            let reference = tag.unwrap_or_else(|| digest.to_string());
            put(&session, &place.repository, &reference, media_type, bytes, &scope).await?;
            progress.event(Event::Manifest { digest });
        }
        Ok(Pushed { name, digest })
    }
}

async fn put(
    session: &Session,
    repository: &str,
    reference: &str,
    media_type: &str,
    bytes: &Bytes,
    scope: &Scope,
) -> Result<(), ClientError> {
    let asked = session.asked("put", manifest::subject(repository, reference));
    let url = session.url(&format!("{repository}/manifests/{reference}"));
    let call = session
        .call(Method::PUT, url, scope, asked, &[200, 201, 202])
        .header(CONTENT_TYPE, media_type)
        .payload(Payload::Bytes(bytes.clone()));
    let response = session.send(&call).await?;
    let tracked = response.headers().contains_key(HeaderName::from_static(SUBJECT));
    tracing::debug!(registry = session.name(), reference, tracked, "manifest put");
    Ok(())
}

impl Plan {
    /// This manifest with all that it refers to.
    fn add(&mut self, store: &Store, digest: &Digest, name: &ImageName, depth: u32) -> Result<(), ClientError> {
        if self.manifests.iter().any(|(known, ..)| known == digest) {
            return Ok(());
        }
        let incomplete = |error: StoreError| match error {
            StoreError::Missing { digest } => {
                ClientError::Incomplete { subject: name.to_string(), missing: digest.to_string() }
            }
            other => ClientError::store(format!("read {name}"))(other),
        };
        let bytes = store.need(digest).and_then(|blob| blob.read(MANIFEST_LIMIT)).map_err(incomplete)?;
        let manifest = Manifest::parse(digest, &bytes).map_err(incomplete)?;
        let media_type = manifest.media_type().to_string();
        let children: Vec<Descriptor> = match manifest {
            Manifest::Index(index) => index.manifests().clone(),
            Manifest::Image(manifest) => {
                let parts = std::iter::once(manifest.config()).chain(manifest.layers());
                for part in parts.filter(|part| !media::is_foreign(part.media_type().as_ref())) {
                    let digest = digest_in(part).map_err(incomplete)?;
                    let size = store.need(&digest).map_err(incomplete)?.size;
                    if !self.blobs.iter().any(|(known, _)| *known == digest) {
                        self.blobs.push((digest, size));
                    }
                }
                Vec::new()
            }
        };
        if depth > 4 {
            let problem = "indexes are nested too deeply".to_owned();
            return Err(incomplete(StoreError::Document { kind: "index", digest: digest.clone(), problem }));
        }
        for child in &children {
            let digest = digest_in(child).map_err(incomplete)?;
            match self.add(store, &digest, name, depth + 1) {
                // The whole index was asked for, but not the whole was pulled: which platform is it?
                Err(ClientError::Incomplete { subject, missing }) if missing == digest.as_str() => {
                    let platform = child.platform().as_ref().map(crate::store::show_platform);
                    let missing = platform.map_or(missing, |platform| format!("its image for {platform}"));
                    return Err(ClientError::Incomplete { subject, missing });
                }
                other => other?,
            }
        }
        self.manifests.push((digest.clone(), media_type, bytes.into()));
        Ok(())
    }

    /// Where at this registry the blobs may be already, from what other images of it are known here.
    fn find_relatives(
        &mut self,
        store: &Store,
        name: &ImageName,
        settings: &super::Settings,
    ) -> Result<(), StoreError> {
        let wanted: HashSet<Digest> = self.blobs.iter().map(|(digest, _)| digest.clone()).collect();
        let same = |image: &crate::store::Image| {
            image.name.registry == name.registry && image.name.repository != name.repository
        };
        for image in store.images()?.into_iter().filter(same).take(MOST_RELATIVES) {
            let Ok(place) = settings.place(&image.name) else { continue };
            let mut plan = Self::default();
            // Of an image that is not complete here, what is complete helps as well.
            drop(plan.add(store, &image.digest()?, &image.name, 0));
            for (digest, _) in plan.blobs.into_iter().filter(|(digest, _)| wanted.contains(digest)) {
                self.relatives.entry(digest).or_insert_with(|| place.repository.clone());
            }
        }
        Ok(())
    }
}
