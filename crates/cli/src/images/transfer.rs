//! `pull` and `push`.

use super::{Context, find, keep, progress::watch};
use crate::failure::{Code, Failure, Result};
use clap::Args;
use images::{
    Client, ClientError, Progress, Store,
    client::{CredentialSource, DockerConfig, Platforms, Pulled, Settings},
    store::digest_in,
};
use model::image::{Digest, ImageName};
use oci_spec::image::{Descriptor, Platform};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// How a registry is reached.
#[derive(Args, Debug, Clone, Default, PartialEq, Eq)]
#[command(next_help_heading = "Registry")]
pub struct RegistryArguments {
    /// Speak plain HTTP with it
    #[arg(long)]
    pub plain_http: bool,
    /// Trust the authorities in this file as well
    #[arg(long, value_name = "FILE.pem")]
    pub ca: Vec<PathBuf>,
}

/// `pull`
#[derive(Args, Debug)]
pub struct PullArguments {
    /// Names with their registry
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// For this platform (this machine's)
    #[arg(long, value_name = "OS/ARCHITECTURE", conflicts_with = "all_platforms")]
    platform: Option<String>,
    /// For all platforms that there are
    #[arg(short, long)]
    all_platforms: bool,
    /// Do not unpack the layers yet
    #[arg(long)]
    no_unpack: bool,
    /// Do not show how it comes along
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    connection: RegistryArguments,
}

/// `push`
#[derive(Args, Debug)]
pub struct PushArguments {
    /// Name, digest or beginning of a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Name at the registry [default: the image's own]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only the image for this platform
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<String>,
    /// Do not show how it comes along
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    connection: RegistryArguments,
}

impl RegistryArguments {
    /// What a client is told.
    ///
    /// # Errors
    /// `registries.toml` is not as it should be.
    pub fn settings(&self, data: &Path) -> Result<Settings> {
        let credentials = DockerConfig::of_caller().map_or(CredentialSource::Anonymous, CredentialSource::Docker);
        Ok(Settings {
            registries: find::registries(data)?,
            plain_http: self.plain_http,
            authorities: self.ca.clone(),
            credentials,
            ..Settings::default()
        })
    }
}

/// Runs what talks to registries: on this thread, with others only for what blocks.
///
/// # Errors
/// A runtime can not be made.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::from_error("cannot make a runtime for the network", &error))?;
    Ok(runtime.block_on(work))
}

/// A pulled image, as a program reads it.
#[derive(Serialize)]
struct Arrived {
    name: ImageName,
    digest: Digest,
    /// Whether the name stood for other content before, or for none.
    changed: bool,
}

/// Brings images.
pub fn pull(context: &mut Context<'_, '_, '_>, arguments: &PullArguments) -> Result<Code> {
    context.printer.quiet = arguments.quiet;
    let platforms = match arguments.all_platforms {
        true => Platforms::All,
        false => Platforms::One(find::platform(arguments.platform.as_deref())?),
    };
    let client = Client::new(context.store()?, arguments.connection.settings(context.data)?);
    let one = |context: &mut Context<'_, '_, '_>, text: &str| {
        let name = find::parse(text)?;
        let pulled = pull_one(context.printer, &client, &name, &platforms, !arguments.no_unpack)?;
        let digest = digest_in(&pulled.target).map_err(|error| Failure::from_store(&error))?;
        Ok(Arrived { name: pulled.name, changed: pulled.before.as_ref() != Some(&digest), digest })
    };
    let text = |_: &str, arrived: &Arrived| match arguments.quiet {
        true => arrived.digest.to_string(),
        false => format!("{}  {}{}", arrived.name, arrived.digest, if arrived.changed { "" } else { "  (as before)" }),
    };
    crate::containers::each::each("image", context, &arguments.images, false, one, text)
}

/// Brings one image, and unpacks its layers where they are for one platform.
///
/// # Errors
/// What the user is to be told.
pub fn pull_one(
    printer: &mut crate::print::Printer<'_, '_>,
    client: &Client,
    name: &ImageName,
    platforms: &Platforms,
    unpack: bool,
) -> Result<Pulled> {
    keep::make_room(printer, client.store());
    let pulled = watch(printer, |progress| {
        let pulled = block_on(client.pull(name, platforms, &*progress))?;
        let pulled = pulled.map_err(|error| Failure::from_client(&error))?;
        if let Platforms::One(platform) = platforms
            && unpack
        {
            super::layers::unpack_if_image(client.store(), &pulled.lease, &pulled.target, platform, &*progress)?;
        }
        Ok(pulled)
    })?;
    keep::make_room(printer, client.store());
    Ok(pulled)
}

/// Brings an image away.
pub fn push(context: &mut Context<'_, '_, '_>, arguments: &PushArguments) -> Result<Code> {
    context.printer.quiet = arguments.quiet;
    let store = context.store()?;
    let image = find::need(&store, context.data, &arguments.image)?;
    let target = match &arguments.platform {
        Some(text) => single(&store, &image.target, &find::platform(Some(text))?)?,
        None => image.target.clone(),
    };
    let name = match &arguments.name {
        Some(text) => find::parse(text)?,
        None => image.name.clone(),
    };
    let client = Client::new(store, arguments.connection.settings(context.data)?);
    let pushed = watch(context.printer, |progress: Arc<dyn Progress>| block_on(client.push(&target, &name, progress)))?;
    let pushed = pushed.map_err(|error: ClientError| Failure::from_client(&error))?;
    let document = serde_json::json!({ "name": pushed.name, "digest": pushed.digest });
    context.printer.result(&document, || match arguments.quiet {
        true => format!("{}\n", pushed.digest),
        false => format!("{}  {}\n", pushed.name, pushed.digest),
    })?;
    Ok(Code::DONE)
}

/// The manifest for one platform of an index.
fn single(store: &Store, target: &Descriptor, platform: &Platform) -> Result<Descriptor> {
    let fail = |error: images::StoreError| Failure::from_store(&error);
    let (digest, manifest, _) = store.resolve(target, platform).map_err(fail)?;
    let size = store.need(&digest).map_err(fail)?.size;
    let media_type = images::Manifest::Image(manifest).media_type();
    let foreign: std::result::Result<oci_spec::image::Digest, _> = digest.as_str().parse();
    let foreign = foreign.map_err(|error| Failure::from_error("cannot describe the image", &error))?;
    Ok(Descriptor::new(media_type, size, foreign))
}
