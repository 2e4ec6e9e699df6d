//! The configuration and the manifest of an image that was made here.

use super::{BootstrapError, plan::Plan};
use crate::{
    layer::Packed,
    media,
    store::{Blob, Lease, Store, describe},
};
use model::image::Algorithm;
use oci_spec::image::Descriptor;
use serde_json::{Map, Value, json};
use std::io::Write;

/// Names the key of an image, in its annotations and its labels: for people, as anybody may have written it there.
const KEY: &str = "jdos.bootstrap.key";
/// Names the key of the image that the first layer is all of.
const BASE: &str = "jdos.bootstrap.base";
/// Every package with its version.
const PACKAGES: &str = "jdos.bootstrap.packages";

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Writes configuration and manifest.
pub(super) fn write(
    store: &Store,
    lease: &Lease,
    plan: &Plan,
    layers: &[Packed],
) -> Result<Descriptor, BootstrapError> {
    let configuration = put(store, lease, "configuration", &configuration(plan, layers))?;
    let descriptors: Vec<&Descriptor> = layers.iter().map(|layer| &layer.descriptor).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": describe(media::OCI_CONFIG, &configuration)?,
        "layers": descriptors,
        "annotations": annotations(plan),
    });
    let manifest = put(store, lease, "manifest", &manifest)?;
    Ok(describe(media::OCI_MANIFEST, &manifest)?)
}

fn configuration(plan: &Plan, layers: &[Packed]) -> Value {
    let recipe = plan.request.recipe;
    let created = created(plan);
    let mut environment = vec![PATH.to_owned(), "LANG=C.UTF-8".to_owned()];
    let architecture = &plan.context.architecture;
    environment.extend(
        recipe.environment.iter().map(|(name, value)| format!("{name}={}", value.replace("{arch}", architecture))),
    );
    let mut config = Map::new();
    config.insert("Env".to_owned(), environment.into());
    if !recipe.command.is_empty() {
        config.insert("Cmd".to_owned(), recipe.command.into());
    }
    config.insert("WorkingDir".to_owned(), "/".into());
    config.insert("Labels".to_owned(), labels(plan).into());
    let (system, variant) = platform(architecture);
    let history: Vec<Value> = layers
        .iter()
        .enumerate()
        .map(|(index, _)| {
            let what = if index == 0 && layers.len() > 1 { "debian" } else { recipe.name };
            json!({"created": created, "created_by": format!("jdos image bootstrap {what}:{}", plan.release.codename)})
        })
        .collect();
    let mut document = json!({
        "created": created,
        "architecture": system,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| layer.diff_id.as_str()).collect::<Vec<_>>()},
        "history": history,
    });
    if let Some(variant) = variant {
        document["variant"] = variant.into();
    }
    document
}

fn labels(plan: &Plan) -> Map<String, Value> {
    let recipe = plan.request.recipe;
    let version = plan.release.version.as_deref().unwrap_or(&plan.release.codename);
    let labels = [
        ("org.opencontainers.image.title", recipe.name.to_owned()),
        ("org.opencontainers.image.description", recipe.about.to_owned()),
        ("org.opencontainers.image.version", version.to_owned()),
        ("org.opencontainers.image.created", created(plan)),
        (KEY, plan.whole.key.to_string()),
    ];
    labels.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn annotations(plan: &Plan) -> Map<String, Value> {
    let mut annotations = labels(plan);
    if plan.request.recipe.kind == super::Kind::System {
        let base = plan.base.as_ref().unwrap_or(&plan.whole);
        annotations.insert(BASE.to_owned(), base.key.as_str().into());
    }
    let packages: Vec<String> = plan.whole.packages.iter().map(|(name, version)| format!("{name}={version}")).collect();
    annotations.insert(PACKAGES.to_owned(), packages.join(" ").into());
    annotations
}

/// The moment of the release, which is the moment of everything in the image.
fn created(plan: &Plan) -> String {
    jiff::Timestamp::from_second(plan.release.date).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// Debian's name of an architecture as OCI's, with its variant.
fn platform(debian: &str) -> (&str, Option<&'static str>) {
    match debian {
        "i386" => ("386", None),
        "arm64" => ("arm64", Some("v8")),
        "armhf" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v5")),
        "ppc64el" => ("ppc64le", None),
        "mips64el" => ("mips64le", None),
        "loong64" => ("loong64", None),
        other => (other, None),
    }
}

fn put(store: &Store, lease: &Lease, document: &'static str, value: &Value) -> Result<Blob, BootstrapError> {
    let bytes = serde_json::to_vec(value).map_err(|source| BootstrapError::Document { document, source })?;
    let mut ingest = store.ingest()?;
    if let Err(source) = ingest.write_all(&bytes) {
        ingest.abort()?;
        return Err(super::error::io("write into", store.folder())(source));
    }
    Ok(ingest.commit_as(Algorithm::Sha256, lease)?)
}
