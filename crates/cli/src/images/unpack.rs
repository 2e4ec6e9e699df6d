//! `unpack`: layers become directories before the first container needs them.

use super::{Context, find, layers, progress::watch};
use crate::{
    containers::each::each,
    failure::{Failure, Result},
};
use clap::Args;
use images::Owner;
use serde::Serialize;

/// `unpack`
#[derive(Args, Debug)]
pub struct UnpackArguments {
    /// Names, digests or beginnings of digests
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// For this platform (this machine's)
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<String>,
    /// Do not show how it comes along
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Unpacked {
    digest: model::image::Digest,
    layers: usize,
}

/// Unpacks images.
pub fn unpack(context: &mut Context<'_, '_, '_>, arguments: &UnpackArguments) -> Result<crate::failure::Code> {
    context.printer.quiet = arguments.quiet;
    let store = context.store()?;
    let platform = find::platform(arguments.platform.as_deref())?;
    let one = |context: &mut Context<'_, '_, '_>, text: &str| {
        let fail = |error: &images::StoreError| Failure::from_store(error);
        let lease = store.lease(Owner::Process).map_err(|error| fail(&error))?;
        let image = find::need(&store, context.data, text)?;
        let digest = image.digest().map_err(|error| fail(&error))?;
        lease.hold_all(&digest).map_err(|error| fail(&error))?;
        let work = |progress: std::sync::Arc<dyn images::Progress>| {
            layers::unpack(&store, &lease, &image.target, &platform, &*progress)
        };
        let (layers, _) = watch(context.printer, work)?;
        Ok(Unpacked { digest, layers: layers.len() })
    };
    each("image", context, &arguments.images, false, one, |name, _| name.to_owned())
}
