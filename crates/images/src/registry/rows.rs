//! What is known of repositories: queries on the registry's tables, within a connection or a transaction of the caller.

use super::check::Checked;
use model::image::{Digest, Repository, Tag};
use rusqlite::{Connection, OptionalExtension, Result, Transaction, params};

/// A manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManifestRow {
    pub digest: Digest,
    pub media_type: String,
    pub size: u64,
}

/// A blob of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobRow {
    pub size: u64,
    /// Seconds since 1970.
    pub touched: i64,
}

/// One column that is a digest; the database holds none that is malformed.
fn digest(text: String) -> Result<Digest> {
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            0,
            rusqlite::types::Type::Text,
            Box::<model::image::DigestError>::new(error),
        )
    })
}

/// The number of a repository, if there is one of that name.
pub(super) fn repository(connection: &Connection, name: &Repository) -> Result<Option<i64>> {
    let sql = "SELECT id FROM registry_repositories WHERE name = ?1";
    connection.prepare_cached(sql)?.query_row([name.as_str()], |row| row.get(0)).optional()
}

/// The number of a repository, which is made if there is none.
pub(super) fn make_repository(transaction: &Transaction<'_>, name: &Repository) -> Result<i64> {
    if let Some(id) = repository(transaction, name)? {
        return Ok(id);
    }
    transaction.prepare_cached("INSERT INTO registry_repositories (name) VALUES (?1)")?.insert([name.as_str()])
}

/// The blob of a repository.
pub(super) fn blob(connection: &Connection, name: &Repository, digest: &Digest) -> Result<Option<BlobRow>> {
    let sql = "SELECT size, touched FROM registry_blobs JOIN registry_repositories ON id = repository
        WHERE name = ?1 AND digest = ?2";
    let row = |row: &rusqlite::Row<'_>| Ok(BlobRow { size: row.get(0)?, touched: row.get(1)? });
    connection.prepare_cached(sql)?.query_row([name.as_str(), digest.as_str()], row).optional()
}

/// Whether a manifest of the repository refers to it.
pub(super) fn is_referred(connection: &Connection, name: &Repository, digest: &Digest) -> Result<bool> {
    let sql = "SELECT 1 FROM registry_references JOIN registry_repositories ON id = repository
        WHERE name = ?1 AND target = ?2";
    connection.prepare_cached(sql)?.exists([name.as_str(), digest.as_str()])
}

/// Gives a repository a blob, or notes that somebody relies on it now.
pub(super) fn link_blob(
    transaction: &Transaction<'_>,
    repository: i64,
    digest: &Digest,
    size: u64,
    now: i64,
) -> Result<()> {
    let sql = "INSERT INTO registry_blobs (repository, digest, size, touched) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (repository, digest) DO UPDATE SET touched = max(touched, ?4)";
    transaction.prepare_cached(sql)?.execute(params![repository, digest.as_str(), size, now]).map(drop)
}

/// Takes a blob from a repository; whether it had it.
pub(super) fn unlink_blob(transaction: &Transaction<'_>, name: &Repository, digest: &Digest) -> Result<bool> {
    let sql = "DELETE FROM registry_blobs WHERE digest = ?2
        AND repository = (SELECT id FROM registry_repositories WHERE name = ?1)";
    Ok(transaction.prepare_cached(sql)?.execute([name.as_str(), digest.as_str()])? > 0)
}

/// Some repositories that have a blob, at most `limit`.
pub(super) fn holders(connection: &Connection, digest: &Digest, limit: usize) -> Result<Vec<String>> {
    let sql = "SELECT name FROM registry_blobs JOIN registry_repositories ON id = repository
        WHERE digest = ?1 LIMIT ?2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection.prepare_cached(sql)?.query_map(params![digest.as_str(), limit], |row| row.get(0))?.collect()
}

/// The manifest that a digest names.
pub(super) fn manifest(connection: &Connection, name: &Repository, digest: &Digest) -> Result<Option<ManifestRow>> {
    let sql = "SELECT media_type, size FROM registry_manifests JOIN registry_repositories ON id = repository
        WHERE name = ?1 AND digest = ?2";
    let row = |row: &rusqlite::Row<'_>| {
        Ok(ManifestRow { digest: digest.clone(), media_type: row.get(0)?, size: row.get(1)? })
    };
    connection.prepare_cached(sql)?.query_row([name.as_str(), digest.as_str()], row).optional()
}

/// The manifest that a tag names.
pub(super) fn tagged(connection: &Connection, name: &Repository, tag: &Tag) -> Result<Option<ManifestRow>> {
    let sql = "SELECT m.digest, m.media_type, m.size FROM registry_tags t
        JOIN registry_repositories r ON r.id = t.repository
        JOIN registry_manifests m ON m.repository = t.repository AND m.digest = t.digest
        WHERE r.name = ?1 AND t.name = ?2";
    let row = |row: &rusqlite::Row<'_>| {
        Ok(ManifestRow { digest: digest(row.get(0)?)?, media_type: row.get(1)?, size: row.get(2)? })
    };
    connection.prepare_cached(sql)?.query_row([name.as_str(), tag.as_str()], row).optional()
}

/// Whether a repository has what a manifest refers to; its size.
pub(super) fn referred(
    connection: &Connection,
    repository: i64,
    digest: &Digest,
    is_manifest: bool,
) -> Result<Option<u64>> {
    let sql = match is_manifest {
        true => "SELECT size FROM registry_manifests WHERE repository = ?1 AND digest = ?2",
        false => "SELECT size FROM registry_blobs WHERE repository = ?1 AND digest = ?2",
    };
    connection.prepare_cached(sql)?.query_row(params![repository, digest.as_str()], |row| row.get(0)).optional()
}

/// Adds a manifest with all that it refers to; one that is there already stays as it is.
pub(super) fn add_manifest(
    transaction: &Transaction<'_>,
    repository: i64,
    digest: &Digest,
    size: u64,
    checked: &Checked,
    now: i64,
) -> Result<()> {
    let sql =
        "INSERT INTO registry_manifests (repository, digest, media_type, size, pushed) VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT (repository, digest) DO UPDATE SET media_type = ?3";
    let values = params![repository, digest.as_str(), checked.media_type, size, now];
    transaction.prepare_cached(sql)?.execute(values)?;
    let sql = "INSERT OR IGNORE INTO registry_references (repository, target, manifest) VALUES (?1, ?2, ?3)";
    let mut statement = transaction.prepare_cached(sql)?;
    for reference in &checked.references {
        statement.execute(params![repository, reference.digest.as_str(), digest.as_str()])?;
    }
    if let Some(subject) = &checked.subject {
        let sql = "INSERT INTO registry_referrers (repository, subject, kind, digest, descriptor)
            VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (repository, subject, kind, digest) DO UPDATE SET descriptor = ?5";
        let kind = checked.artifact_type.as_deref().unwrap_or_default();
        let descriptor = checked.descriptor(digest, size);
        let values = params![repository, subject.as_str(), kind, digest.as_str(), descriptor];
        transaction.prepare_cached(sql)?.execute(values)?;
    }
    Ok(())
}

/// What a tag names now.
pub(super) fn tag_target(connection: &Connection, repository: i64, tag: &str) -> Result<Option<String>> {
    let sql = "SELECT digest FROM registry_tags WHERE repository = ?1 AND name = ?2";
    connection.prepare_cached(sql)?.query_row(params![repository, tag], |row| row.get(0)).optional()
}

/// Lets a tag name a manifest of the repository.
pub(super) fn set_tag(
    transaction: &Transaction<'_>,
    repository: i64,
    tag: &Tag,
    digest: &Digest,
    now: i64,
) -> Result<()> {
    let sql = "INSERT INTO registry_tags (repository, name, digest, updated) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (repository, name) DO UPDATE SET digest = ?3, updated = ?4";
    transaction.prepare_cached(sql)?.execute(params![repository, tag.as_str(), digest.as_str(), now]).map(drop)
}

/// Removes a tag; whether there was one.
pub(super) fn remove_tag(transaction: &Transaction<'_>, repository: i64, tag: &Tag) -> Result<bool> {
    let sql = "DELETE FROM registry_tags WHERE repository = ?1 AND name = ?2";
    Ok(transaction.prepare_cached(sql)?.execute(params![repository, tag.as_str()])? > 0)
}

/// Tags that name a manifest.
pub(super) fn tags_of(connection: &Connection, repository: i64, digest: &Digest) -> Result<Vec<String>> {
    let sql = "SELECT name FROM registry_tags WHERE repository = ?1 AND digest = ?2";
    connection.prepare_cached(sql)?.query_map(params![repository, digest.as_str()], |row| row.get(0))?.collect()
}

/// Removes a manifest with its tags and its place among referrers; whether there was one.
pub(super) fn remove_manifest(transaction: &Transaction<'_>, repository: i64, digest: &Digest) -> Result<bool> {
    let sql = "DELETE FROM registry_manifests WHERE repository = ?1 AND digest = ?2";
    Ok(transaction.prepare_cached(sql)?.execute(params![repository, digest.as_str()])? > 0)
}

/// Tags of a repository in byte order, after `last`.
pub(super) fn tags(connection: &Connection, repository: i64, last: &str, limit: usize) -> Result<Vec<String>> {
    let sql = "SELECT name FROM registry_tags WHERE repository = ?1 AND name > ?2 ORDER BY name LIMIT ?3";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection.prepare_cached(sql)?.query_map(params![repository, last, limit], |row| row.get(0))?.collect()
}

/// Repositories that have a manifest, in byte order, after `last`, until `take` has had enough.
pub(super) fn repositories(connection: &Connection, last: &str, mut take: impl FnMut(String) -> bool) -> Result<()> {
    let sql = "SELECT name FROM registry_repositories WHERE name > ?1
        AND EXISTS (SELECT 1 FROM registry_manifests WHERE repository = id) ORDER BY name";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([last])?;
    while let Some(row) = rows.next()? {
        if !take(row.get(0)?) {
            break;
        }
    }
    Ok(())
}

/// Referrers of a subject in order of their kinds and digests, after `last` (a kind and a digest), until `take` has had
/// enough; it gets kind, digest and descriptor. `kind` leaves only those of that kind.
pub(super) fn referrers(
    connection: &Connection,
    name: &Repository,
    subject: &Digest,
    kind: Option<&str>,
    last: (&str, &str),
    mut take: impl FnMut(&str, &str, &str) -> bool,
) -> Result<()> {
    let Some(repository) = repository(connection, name)? else { return Ok(()) };
    let sql = match kind {
        Some(_) => {
            "SELECT kind, digest, descriptor FROM registry_referrers
            WHERE repository = ?1 AND subject = ?2 AND kind = ?3 AND digest > ?4 ORDER BY digest"
        }
        None => {
            "SELECT kind, digest, descriptor FROM registry_referrers
            WHERE repository = ?1 AND subject = ?2 AND (kind, digest) > (?3, ?4) ORDER BY kind, digest"
        }
    };
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![repository, subject.as_str(), kind.unwrap_or(last.0), last.1])?;
    while let Some(row) = rows.next()? {
        if !take(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?) {
            break;
        }
    }
    Ok(())
}

/// Removes blobs that were last relied on before `before` (seconds since 1970) and that no manifest of their repository
/// refers to, and repositories without content. Gives the number of blobs.
pub(super) fn sweep(transaction: &Transaction<'_>, before: i64) -> Result<usize> {
    let sql = "DELETE FROM registry_blobs WHERE touched < ?1 AND NOT EXISTS (
        SELECT 1 FROM registry_references r WHERE r.repository = registry_blobs.repository AND r.target = registry_blobs.digest)";
    let swept = transaction.prepare_cached(sql)?.execute([before])?;
    let sql = "DELETE FROM registry_repositories
        WHERE NOT EXISTS (SELECT 1 FROM registry_manifests WHERE repository = id)
        AND NOT EXISTS (SELECT 1 FROM registry_blobs WHERE repository = id)";
    transaction.prepare_cached(sql)?.execute(())?;
    Ok(swept)
}
