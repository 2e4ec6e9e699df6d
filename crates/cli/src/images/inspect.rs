//! `inspect`: all that is known of images.

use super::{Context, find};
use crate::failure::{Code, Failure, Result};
use clap::Args;
use images::{Image, Manifest, Store, StoreError, store::show_platform};
use serde_json::{Value, json};

/// `inspect`
#[derive(Args, Debug)]
pub struct InspectArguments {
    /// Names, digests or beginnings of digests
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// For this platform
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<String>,
}

/// Prints an array with one object per image; one that failed is an object with `error`.
pub fn inspect(context: &mut Context<'_, '_, '_>, arguments: &InspectArguments) -> Result<Code> {
    let store = context.store()?;
    let mut worst = Code::DONE;
    let mut all = Vec::with_capacity(arguments.images.len());
    for text in &arguments.images {
        let image = find::need(&store, context.data, text);
        match image.and_then(|image| one(&store, &image, arguments.platform.as_deref())) {
            Ok(value) => all.push(value),
            Err(failure) if arguments.images.len() == 1 => return Err(failure),
            Err(failure) => {
                worst = worst.max(failure.code);
                context.printer.failure_text(&failure);
                all.push(json!({ "image": text, "error": failure }));
            }
        }
    }
    context.printer.document(&all)?;
    Ok(worst)
}

fn one(store: &Store, image: &Image, platform: Option<&str>) -> Result<Value> {
    let fail = |error: StoreError| Failure::from_store(&error);
    let digest = image.digest().map_err(fail)?;
    let names: Vec<String> = store
        .images()
        .map_err(fail)?
        .into_iter()
        .filter(|other| other.target.digest() == image.target.digest())
        .map(|other| other.name.to_string())
        .collect();
    let manifest = store.manifest(&digest).map_err(fail)?;
    let mut value = json!({
        "name": image.name,
        "names": names,
        "digest": digest,
        "created": image.created,
        "pulled": image.pulled,
        "last_used": image.last_used,
        "descriptor": image.target,
    });
    if let Manifest::Index(index) = &manifest {
        let here =
            |digest: &str| digest.parse().is_ok_and(|digest| store.blob(&digest).is_ok_and(|blob| blob.is_some()));
        let platforms: Vec<Value> = index
            .manifests()
            .iter()
            .map(|one| {
                let digest: &str = one.digest().as_ref();
                json!({ "platform": one.platform().as_ref().map(show_platform), "digest": digest, "here": here(digest) })
            })
            .collect();
        value["index"] = json!({ "manifests": platforms, "annotations": index.annotations() });
    }
    let wanted = find::platform(platform)?;
    match store.resolve(&image.target, &wanted) {
        Ok((digest, manifest, configuration)) => {
            let config = configuration.config();
            value["platform"] = json!(format!("{}/{}", configuration.os(), configuration.architecture()));
            value["manifest"] = json!({ "digest": digest, "document": manifest });
            value["config"] = json!(config);
            value["history"] = json!(configuration.history());
            value["diff_ids"] = json!(configuration.rootfs().diff_ids());
        }
        // An artifact, or an image of other platforms: the manifest says what there is.
        Err(StoreError::Document { .. } | StoreError::NoPlatform { .. } | StoreError::Missing { .. })
            if platform.is_none() =>
        {
            if let Manifest::Image(manifest) = &manifest {
                value["manifest"] = json!({ "digest": digest, "document": manifest });
            }
        }
        Err(error) => return Err(fail(error)),
    }
    Ok(value)
}
