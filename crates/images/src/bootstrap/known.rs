//! What was made here, by key: a note of whoever made it. What an image says of itself proves nothing, as anybody may
//! have written it.

use super::plan::Key;
use crate::{
    layer::{Compression, Packed},
    store::{Image, Lease, Store, StoreError, descriptor_digest, digest_in, index::Module},
};
use model::image::Digest;
use oci_spec::image::Descriptor;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

/// The tables in the store's index. Rows keep nothing: one whose content was collected says nothing any more, and goes
/// when the next is written, so there are no more rows than manifests and layers.
pub(crate) const MODULE: Module = Module {
    name: "bootstrap",
    steps: &["
        CREATE TABLE bootstrap_images (key TEXT PRIMARY KEY, manifest TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE bootstrap_bases (key TEXT PRIMARY KEY, layer TEXT NOT NULL, diff_id TEXT NOT NULL) WITHOUT ROWID;
    "],
    roots: &[],
};

/// The image that was made by this key, if it has a name still.
pub(super) fn image(store: &Store, key: &Key) -> Result<Option<Image>, StoreError> {
    let known = store.index().read("look up an image that was made", |connection| {
        let sql = "SELECT manifest FROM bootstrap_images WHERE key = ?1";
        one(connection, sql, key, |row| row.get::<_, String>(0))
    })?;
    let Some(known) = known else { return Ok(None) };
    // A name keeps all of it.
    Ok(store.images()?.into_iter().find(|image| image.target.digest().as_ref() == known))
}

/// The first layer that was made by this key, held, if it is there still.
pub(super) fn base(
    store: &Store,
    lease: &Lease,
    key: &Key,
    compression: Compression,
) -> Result<Option<Packed>, StoreError> {
    let known = store.index().read("look up a layer that was made", |connection| {
        let sql = "SELECT layer, diff_id FROM bootstrap_bases WHERE key = ?1";
        one(connection, sql, key, |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
    })?;
    let Some((layer, diff_id)) = known else { return Ok(None) };
    let parse = |text: &str| text.parse::<Digest>().map_err(|source| StoreError::Digest { source });
    let (layer, diff_id) = (parse(&layer)?, parse(&diff_id)?);
    // Held before anything is built on it.
    let Some(blob) = lease.hold(&layer)? else { return Ok(None) };
    // The same that it was described by when it was made: how layers are packed is part of the key.
    let descriptor = Descriptor::new(compression.media_type(), blob.size, descriptor_digest(&layer)?);
    Ok(Some(Packed { descriptor, diff_id, size: 0 }))
}

/// Notes an image that was made; `lease` of the caller's holds it.
pub(super) fn made(store: &Store, key: &Key, target: &Descriptor) -> Result<(), StoreError> {
    let digest = digest_in(target)?;
    store.index().write("note an image that was made", |transaction| {
        forget(transaction)?;
        let sql = "INSERT INTO bootstrap_images VALUES (?1, ?2)
            ON CONFLICT (key) DO UPDATE SET manifest = excluded.manifest";
        transaction.prepare_cached(sql)?.execute(params![key.as_str(), digest.as_str()]).map(drop)
    })
}

/// Notes a first layer that was made; `lease` of the caller's holds it.
pub(super) fn made_base(store: &Store, key: &Key, layer: &Packed) -> Result<(), StoreError> {
    let digest = digest_in(&layer.descriptor)?;
    store.index().write("note a layer that was made", |transaction| {
        forget(transaction)?;
        let sql = "INSERT INTO bootstrap_bases VALUES (?1, ?2, ?3)
            ON CONFLICT (key) DO UPDATE SET layer = excluded.layer, diff_id = excluded.diff_id";
        let values = params![key.as_str(), digest.as_str(), layer.diff_id.as_str()];
        transaction.prepare_cached(sql)?.execute(values).map(drop)
    })
}

fn one<T>(
    connection: &Connection,
    sql: &str,
    key: &Key,
    row: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    connection.prepare_cached(sql)?.query_row([key.as_str()], row).optional()
}

/// Forgets what is not there any more.
fn forget(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM bootstrap_images WHERE manifest NOT IN (SELECT digest FROM blobs)", ())?;
    transaction.execute("DELETE FROM bootstrap_bases WHERE layer NOT IN (SELECT digest FROM blobs)", ()).map(drop)
}
