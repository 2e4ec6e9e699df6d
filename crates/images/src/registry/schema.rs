//! The tables of the registry in the store's index.
//!
//! A manifest's row keeps its content and, by what the collector follows from there, all that it refers to; a blob's row
//! keeps its content. Rows of blobs that no manifest of their repository refers to are removed by [`super::sweep`] after
//! a time.

use crate::store::index::Module;

/// For the list of the index.
pub const MODULE: Module = Module {
    name: "registry",
    steps: STEPS,
    roots: &["SELECT digest FROM registry_manifests", "SELECT digest FROM registry_blobs"],
};

const STEPS: &[&str] = &["
    CREATE TABLE registry_repositories (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    -- Which blobs a repository has; `touched` (seconds since 1970) is when somebody last relied on it.
    CREATE TABLE registry_blobs (
        repository INTEGER NOT NULL REFERENCES registry_repositories (id),
        digest TEXT NOT NULL, size INTEGER NOT NULL, touched INTEGER NOT NULL,
        PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID;
    CREATE INDEX registry_blobs_by_digest ON registry_blobs (digest);
    CREATE TABLE registry_manifests (
        repository INTEGER NOT NULL REFERENCES registry_repositories (id),
        digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL, pushed INTEGER NOT NULL,
        PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID;
    CREATE INDEX registry_manifests_by_digest ON registry_manifests (digest);
    -- What the manifests of a repository refer to: blobs and manifests.
    CREATE TABLE registry_references (
        repository INTEGER NOT NULL, target TEXT NOT NULL, manifest TEXT NOT NULL,
        PRIMARY KEY (repository, target, manifest),
        FOREIGN KEY (repository, manifest) REFERENCES registry_manifests (repository, digest) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE INDEX registry_references_by_manifest ON registry_references (repository, manifest);
    CREATE TABLE registry_tags (
        repository INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, updated INTEGER NOT NULL,
        PRIMARY KEY (repository, name),
        FOREIGN KEY (repository, digest) REFERENCES registry_manifests (repository, digest) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE INDEX registry_tags_by_digest ON registry_tags (repository, digest);
    -- Manifests by their subject, as the list of referrers shows them, in its order: a page of it is one scan, with a
    -- filter or without. `kind` is the type of artifact, or empty.
    CREATE TABLE registry_referrers (
        repository INTEGER NOT NULL, subject TEXT NOT NULL, kind TEXT NOT NULL, digest TEXT NOT NULL,
        descriptor TEXT NOT NULL,
        PRIMARY KEY (repository, subject, kind, digest),
        FOREIGN KEY (repository, digest) REFERENCES registry_manifests (repository, digest) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE INDEX registry_referrers_by_digest ON registry_referrers (repository, digest);
    -- Users (`secret`: Argon2 in PHC form) and robots (`secret`: SHA-256 of a random token, hexadecimal); `serial` changes
    -- with the secret.
    CREATE TABLE registry_accounts (
        name TEXT PRIMARY KEY, kind TEXT NOT NULL, secret TEXT NOT NULL, serial INTEGER NOT NULL, grants TEXT NOT NULL,
        created INTEGER NOT NULL, expires INTEGER
    ) WITHOUT ROWID;
    CREATE TABLE registry_keys (name TEXT PRIMARY KEY, key BLOB NOT NULL) WITHOUT ROWID;
"];
