//! `run` and `create` from an image: found or brought, unpacked, and held for the container.

use super::{
    Context,
    create::{CreateArguments, PullWhen},
    translate::image::FromImage,
    translate::image_name,
};
use crate::{
    failure::{Code, Failure, Result},
    images::{find, layers, open_store, transfer},
};
use container::engine::Engine;
use images::{Client, Image, Lease, Owner, Silent, Store, StoreError, client::Platforms, store::show_platform};
use model::{ContainerId, image::Digest};
use oci_spec::image::Platform;

/// The file of a container for whose life its image is held.
const RECORD: &str = "record.json";

/// An image that is ready for a container.
pub struct Prepared {
    /// What goes into the container's options.
    pub from: FromImage,
    image: Image,
    /// Manifest of the platform.
    manifest: Digest,
    store: Store,
    /// Until the container holds it.
    _lease: Lease,
}

/// Brings the image that the arguments name, if they name one; nothing is opened or made when they do not.
///
/// # Errors
/// What keeps it from being used.
pub fn prepare(context: &mut Context<'_, '_, '_>, arguments: &CreateArguments) -> Result<Option<Prepared>> {
    let Some(text) = image_name(arguments) else { return Ok(None) };
    let data = context.engine.layout().data().to_owned();
    let store = open_store(&data)?;
    let platform = find::platform(arguments.image.platform.as_deref())?;
    let lease = store.lease(Owner::Process).map_err(|error| Failure::from_store(&error))?;
    let found = find::find(&store, &data, text)?;
    let usable = match &found {
        Some(image) => hold(&store, &lease, image, &platform)?,
        None => None,
    };
    let (image, digest) = match (arguments.image.pull, found.zip(usable)) {
        (PullWhen::Missing | PullWhen::Never, Some(usable)) => usable,
        (PullWhen::Never, None) => return Err(find::missing(&store, text).why("--pull never")),
        (when, usable) => match pull(context, arguments, &store, &lease, text, &platform) {
            Err(failure) if when == PullWhen::Newer && usable.is_some() && failure.code == Code::NO_SERVER => {
                context.printer.warnings(&[format!("the image here is used: {}", failure.what)]);
                usable.ok_or(failure)?
            }
            pulled => pulled?,
        },
    };
    let (layers, configuration) = layers::unpack(&store, &lease, &image.target, &platform, &Silent)?;
    if (configuration.os(), configuration.architecture()) != (platform.os(), platform.architecture()) {
        let is = format!("{} is for {}/{}", image.name, configuration.os(), configuration.architecture());
        let wanted = show_platform(&platform);
        match arguments.image.platform {
            Some(_) => return Err(Failure::new(Code::NOT_FOUND, format!("{is}, not for {wanted}"))),
            None => context.printer.warnings(&[format!("{is}; this machine is {wanted}")]),
        }
    }
    let config = configuration.config().clone().unwrap_or_default();
    let from = FromImage { name: image.name.to_string(), digest: digest.to_string(), layers, config };
    Ok(Some(Prepared { from, image, manifest: digest, store, _lease: lease }))
}

/// Holds what of the image is for the platform; `None` when it is not here.
fn hold(store: &Store, lease: &Lease, image: &Image, platform: &Platform) -> Result<Option<Digest>> {
    let held = store.resolve(&image.target, platform).and_then(|(digest, ..)| lease.hold_all(&digest).map(|()| digest));
    match held {
        Ok(digest) => Ok(Some(digest)),
        Err(StoreError::Missing { .. } | StoreError::Incomplete { .. } | StoreError::NoPlatform { .. }) => Ok(None),
        Err(error) => Err(Failure::from_store(&error)),
    }
}

fn pull(
    context: &mut Context<'_, '_, '_>,
    arguments: &CreateArguments,
    store: &Store,
    lease: &Lease,
    text: &str,
    platform: &Platform,
) -> Result<(Image, Digest)> {
    let name = find::parse(text)?;
    let settings = arguments.image.registry.settings(context.engine.layout().data())?;
    if name.registry.is_none() && settings.registries.default_registry().is_none() {
        return Err(find::missing(store, text));
    }
    let client = Client::new(store.clone(), settings);
    let platforms = Platforms::One(platform.clone());
    let pulled = transfer::pull_one(context.printer, &client, &name, &platforms, true)?;
    let fail = |error: StoreError| Failure::from_store(&error);
    let (digest, ..) = store.resolve(&pulled.target, platform).map_err(fail)?;
    // Held by us before the pull lets go of it.
    lease.hold_all(&digest).map_err(fail)?;
    let image = store.image(&pulled.name).map_err(fail)?.ok_or_else(|| find::missing(store, text))?;
    Ok((image, digest))
}

/// Makes sure, before it starts, that a container of an image holds it: who created it may have been killed before that.
///
/// # Errors
/// Its image has been collected meanwhile, or the store fails.
pub fn hold_for(engine: &Engine, id: &ContainerId) -> Result<()> {
    let record = engine.record(id).map_err(|error| Failure::from_engine(&error))?;
    let Some(origin) = &record.image else { return Ok(()) };
    let digest: Digest = origin.digest.parse().map_err(|error| {
        Failure::from_error(format!("the record of {} names an image `{}`", record.name, origin.digest), &error)
    })?;
    let fail = |error: StoreError| Failure::from_store(&error);
    let store = open_store(engine.layout().data())?;
    let path = engine.layout().container(id).join(RECORD);
    if store.file_holds(&path, &digest).map_err(fail)? {
        return Ok(());
    }
    let lease = store.lease(Owner::File(path)).map_err(fail)?;
    lease.hold_all(&digest).map_err(|error| match error {
        StoreError::Missing { .. } | StoreError::Incomplete { .. } => {
            let what = format!("the image {} of {} is gone", origin.name, record.name);
            Failure::new(Code::NOT_FOUND, what)
                .why("whoever created the container was killed before it held its image, and `prune` deleted that")
                .next(format!("jdos container rm {}", record.name))
        }
        error => fail(error),
    })
}

impl Prepared {
    /// From now on the container holds it, for as long as it has a record.
    ///
    /// # Errors
    /// Those of the store.
    pub fn keep_for(&self, engine: &Engine, id: &ContainerId) -> Result<()> {
        let record = engine.layout().container(id).join(RECORD);
        let hold = || {
            let lease = self.store.lease(Owner::File(record))?;
            lease.hold_all(&self.manifest)?;
            self.store.mark_used(&self.image.name)
        };
        hold().map_err(|error| Failure::from_store(&error))
    }
}
