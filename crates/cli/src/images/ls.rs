//! `ls`: the images of this machine.

use super::Context;
use crate::{
    failure::{Code, Failure, Result},
    human,
    table::Table,
};
use clap::Args;
use images::{Image, Manifest, Store, StoreError, store::digest_in};
use jiff::Timestamp;
use model::image::Digest;
use serde::Serialize;
use std::collections::HashSet;

/// `ls`
#[derive(Args, Debug)]
pub struct LsArguments {
    /// Only those with this in their name
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// Names only
    #[arg(short, long)]
    quiet: bool,
    /// Whole digests
    #[arg(long)]
    no_trunc: bool,
}

/// One image, as a program reads it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    digest: Digest,
    media_type: String,
    /// Bytes of its content here, compressed as it came.
    size: u64,
    created: Timestamp,
    pulled: Option<Timestamp>,
    last_used: Option<Timestamp>,
}

/// Prints a table.
pub fn ls(context: &mut Context<'_, '_, '_>, arguments: &LsArguments) -> Result<Code> {
    let store = context.store()?;
    let images = store.images().map_err(|error| Failure::from_store(&error))?;
    let wanted = |image: &&Image| arguments.filter.as_ref().is_none_or(|text| image.name.to_string().contains(text));
    let rows: std::result::Result<Vec<Row>, StoreError> =
        images.iter().filter(wanted).map(|image| row(&store, image)).collect();
    let rows = rows.map_err(|error| Failure::from_store(&error))?;
    context.printer.result(&rows, || {
        if arguments.quiet {
            return rows.iter().map(|row| format!("{}\n", row.name)).collect();
        }
        let now = Timestamp::now();
        let mut table = Table::new(&["NAME", "DIGEST", "SIZE", "SINCE", "USED"]);
        for row in &rows {
            let digest = if arguments.no_trunc { row.digest.as_str() } else { row.digest.short() };
            table.row([
                row.name.clone(),
                digest.to_owned(),
                human::size(row.size),
                human::since(row.pulled.unwrap_or(row.created), now),
                row.last_used.map(|used| human::since(used, now)).unwrap_or_default(),
            ]);
        }
        table.render()
    })?;
    Ok(Code::DONE)
}

fn row(store: &Store, image: &Image) -> std::result::Result<Row, StoreError> {
    let digest = image.digest()?;
    let mut seen = HashSet::new();
    Ok(Row {
        name: image.name.to_string(),
        size: size(store, &digest, &mut seen)?,
        digest,
        media_type: image.target.media_type().to_string(),
        created: image.created,
        pulled: image.pulled,
        last_used: image.last_used,
    })
}

/// Bytes of a manifest with what of it is here, each content once.
fn size(store: &Store, digest: &Digest, seen: &mut HashSet<Digest>) -> std::result::Result<u64, StoreError> {
    let Some(blob) = store.blob(digest)?.filter(|_| seen.insert(digest.clone())) else { return Ok(0) };
    let children = match store.manifest(digest) {
        Ok(Manifest::Index(index)) => {
            let mut all = 0;
            for child in index.manifests() {
                all += size(store, &digest_in(child)?, seen)?;
            }
            all
        }
        Ok(Manifest::Image(manifest)) => {
            let mut all = 0;
            for part in std::iter::once(manifest.config()).chain(manifest.layers()) {
                let digest = digest_in(part)?;
                let there = store.blob(&digest)?.filter(|_| seen.insert(digest));
                all += there.map_or(0, |blob| blob.size);
            }
            all
        }
        // Nested too deeply, or not a manifest: its own size is what we know.
        Err(StoreError::Document { .. } | StoreError::TooLarge { .. }) => 0,
        Err(error) => return Err(error),
    };
    Ok(blob.size + children)
}
