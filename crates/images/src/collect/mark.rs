//! Finding out what is needed.

use crate::store::{
    Store, StoreError,
    index::{MANIFESTS, MODULES},
    links::Problem,
};
use model::image::Digest;
use rusqlite::{Connection, params};
use std::collections::HashSet;

/// Marks everything reachable: blobs by their digests, unpacked layers by their diff ids. With `remember`, what a document
/// refers to is noted in the index, so that the next collection need not read it again.
///
/// # Errors
/// [`StoreError::Document`] for a manifest that somebody relies on, and that is no longer one: what it refers to must not
/// be taken, and nobody knows what that is.
pub(super) fn mark(store: &Store, live: &[i64], remember: bool) -> Result<HashSet<Digest>, StoreError> {
    let (queue, manifests) = roots(store, live)?;
    expand(store, queue, &manifests, remember)
}

/// Everything reachable from these.
pub(super) fn reachable(store: &Store, roots: Vec<Digest>) -> Result<HashSet<Digest>, StoreError> {
    expand(store, roots, &HashSet::new(), false)
}

fn expand(
    store: &Store,
    mut queue: Vec<Digest>,
    manifests: &HashSet<Digest>,
    remember: bool,
) -> Result<HashSet<Digest>, StoreError> {
    let mut marked = HashSet::new();
    let mut learned = Vec::new();
    while let Some(digest) = queue.pop() {
        if marked.contains(&digest) {
            continue;
        }
        match known(store, &digest)? {
            Some(links) => queue.extend(links),
            None => {
                if let Some(blob) = store.blob(&digest)? {
                    let must = manifests.contains(&digest);
                    match store.links_of(&blob, must) {
                        Ok((_, Some(Problem::NotJson(problem)))) if must => {
                            let problem = format!(
                                "{problem}; nothing is collected until it is pulled or pushed again, or its names removed"
                            );
                            return Err(StoreError::Document { kind: "manifest", digest, problem });
                        }
                        Ok((links, problem)) => {
                            let links: Vec<Digest> = links.into_all().collect();
                            queue.extend(links.iter().cloned());
                            if problem.is_none() {
                                learned.push((digest.clone(), links));
                            }
                        }
                        // It went between look-up and reading; a root that is not there keeps nothing.
                        Err(StoreError::Missing { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        marked.insert(digest);
        if learned.len() >= 1000 {
            note(store, &mut learned, remember)?;
        }
    }
    note(store, &mut learned, remember)?;
    Ok(marked)
}

/// All roots, and those of them that are manifests.
fn roots(store: &Store, live: &[i64]) -> Result<(Vec<Digest>, HashSet<Digest>), StoreError> {
    let (texts, manifests) = store.index().read("list what is referred to", |connection| {
        // One snapshot for all of them.
        let transaction = connection.unchecked_transaction()?;
        let (mut texts, mut manifests) = (Vec::new(), Vec::new());
        for sql in MODULES.iter().flat_map(|module| module.roots) {
            collect(&transaction, sql, (), if MANIFESTS.contains(sql) { &mut manifests } else { &mut texts })?;
        }
        for lease in live {
            collect(&transaction, "SELECT digest FROM holds WHERE lease = ?1", [lease], &mut texts)?;
        }
        Ok((texts, manifests))
    })?;
    let parse = |texts: Vec<String>| -> Result<Vec<Digest>, StoreError> {
        texts.into_iter().map(|text| text.parse().map_err(|source| StoreError::Digest { source })).collect()
    };
    let (mut queue, manifests) = (parse(texts)?, parse(manifests)?);
    queue.extend(manifests.iter().cloned());
    Ok((queue, manifests.into_iter().collect()))
}

fn collect(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
    texts: &mut Vec<String>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    while let Some(row) = rows.next()? {
        texts.push(row.get(0)?);
    }
    Ok(())
}

/// What the digest refers to, if that was found out before.
fn known(store: &Store, digest: &Digest) -> Result<Option<Vec<Digest>>, StoreError> {
    let texts = store.index().read("look up references", |connection| {
        let expanded = connection
            .prepare_cached("SELECT expanded FROM blobs WHERE digest = ?1")?
            .query_row([digest.as_str()], |row| row.get::<_, bool>(0));
        if !matches!(expanded, Ok(true)) {
            return match expanded {
                Ok(_) | Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let mut texts = Vec::new();
        collect(connection, "SELECT child FROM links WHERE parent = ?1", [digest.as_str()], &mut texts)?;
        Ok(Some(texts))
    })?;
    let parse = |texts: Vec<String>| texts.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    texts.map(parse).transpose().map_err(|source| StoreError::Digest { source })
}

fn note(store: &Store, learned: &mut Vec<(Digest, Vec<Digest>)>, remember: bool) -> Result<(), StoreError> {
    let learned = std::mem::take(learned);
    if !remember || learned.is_empty() {
        return Ok(());
    }
    store.index().write("note references", |transaction| {
        let mut link = transaction.prepare_cached("INSERT OR IGNORE INTO links VALUES (?1, ?2)")?;
        let mut expanded = transaction.prepare_cached("UPDATE blobs SET expanded = 1 WHERE digest = ?1")?;
        for (parent, children) in &learned {
            // A blob without a row has been removed meanwhile; links without it would be in nobody's way, but for ever.
            if expanded.execute([parent.as_str()])? > 0 {
                children
                    .iter()
                    .try_for_each(|child| link.execute(params![parent.as_str(), child.as_str()]).map(drop))?;
            }
        }
        Ok(())
    })
}
