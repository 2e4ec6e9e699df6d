//! Names of images.

use super::{Store, StoreError};
use jiff::Timestamp;
use model::image::{Digest, ImageName};
use oci_spec::image::Descriptor;
use rusqlite::{Connection, Row, params};

/// A name, and what it stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The name, with its tag.
    pub name: ImageName,
    /// The manifest or index.
    pub target: Descriptor,
    /// When the name was first given.
    pub created: Timestamp,
    /// When it was last taken from a registry.
    pub pulled: Option<Timestamp>,
    /// When a container or a build was last made from it.
    pub last_used: Option<Timestamp>,
}

const COLUMNS: &str = "name, descriptor, created, pulled, used";

impl Image {
    /// The digest of the manifest or index.
    pub fn digest(&self) -> Result<Digest, StoreError> {
        digest_in(&self.target)
    }
}

/// The digest of a descriptor, checked as ours are.
pub fn digest_in(descriptor: &Descriptor) -> Result<Digest, StoreError> {
    let text: &str = descriptor.digest().as_ref();
    text.parse().map_err(|source| StoreError::Digest { source })
}

/// A digest as the library's descriptors want it.
pub(crate) fn descriptor_digest(digest: &Digest) -> Result<oci_spec::image::Digest, StoreError> {
    digest.as_str().parse().map_err(|error: oci_spec::OciSpecError| StoreError::Document {
        kind: "digest",
        digest: digest.clone(),
        problem: error.to_string(),
    })
}

/// A descriptor of a blob.
pub fn describe(media_type: &str, blob: &super::Blob) -> Result<Descriptor, StoreError> {
    Ok(Descriptor::new(crate::media::named(media_type), blob.size, descriptor_digest(&blob.digest)?))
}

impl Store {
    /// Every name, in order.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        self.select(&format!("SELECT {COLUMNS} FROM images ORDER BY name"), &[])
    }

    /// The image of this name. A name without tag means `latest`; one with a digest must stand for that content; a name
    /// that is none in the store but the beginning (at least 4 digits) of one image's digest means that image.
    ///
    /// # Errors
    /// [`StoreError::Ambiguous`] when such digits are the beginning of several.
    pub fn image(&self, name: &ImageName) -> Result<Option<Image>, StoreError> {
        if let Some(digest) = &name.digest {
            let sql = format!("SELECT {COLUMNS} FROM images WHERE digest = ?1 ORDER BY name");
            let found = self.select(&sql, &[digest.as_str()])?;
            let named = found.iter().find(|image| image.name.tag == name.tag && image.name.family() == name.family());
            let same_family = || found.iter().find(|image| image.name.family() == name.family());
            return Ok(named.or_else(same_family).cloned());
        }
        let sql = format!("SELECT {COLUMNS} FROM images WHERE name = ?1");
        if let Some(image) = self.select(&sql, &[&name.normalised().to_string()])?.pop() {
            return Ok(Some(image));
        }
        let prefix = name.to_string();
        let prefix = prefix.strip_prefix("sha256:").or(prefix.strip_prefix("sha512:")).unwrap_or(&prefix);
        if prefix.len() < 4 || !prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(None);
        }
        let sql = format!("SELECT {COLUMNS} FROM images WHERE substr(digest, 8, ?2) = ?1 ORDER BY name");
        let length = prefix.len().to_string();
        let mut found = self.select(&sql, &[prefix, &length])?;
        if found.windows(2).any(|pair| pair[0].target.digest() != pair[1].target.digest()) {
            let candidates = found.iter().map(|image| image.name.to_string()).collect::<Vec<_>>().join(", ");
            return Err(StoreError::Ambiguous { prefix: prefix.to_owned(), candidates });
        }
        Ok(if found.is_empty() { None } else { Some(found.swap_remove(0)) })
    }

    /// Gives a name to content that is all there, for good once this returns. The name may have stood for other content.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] when the manifest, or something it needs, is not in the store.
    pub fn tag(&self, name: &ImageName, target: &Descriptor) -> Result<(), StoreError> {
        self.name_image(name, target, false)
    }

    /// As [`Store::tag`], and notes that it was taken from a registry just now.
    pub fn tag_pulled(&self, name: &ImageName, target: &Descriptor) -> Result<(), StoreError> {
        self.name_image(name, target, true)
    }

    fn name_image(&self, name: &ImageName, target: &Descriptor, pulled: bool) -> Result<(), StoreError> {
        let name = name.normalised();
        let digest = digest_in(target)?;
        let reach = self.reach(&digest)?;
        let descriptor = serde_json::to_string(target).map_err(|error| StoreError::Document {
            kind: "descriptor",
            digest: digest.clone(),
            problem: error.to_string(),
        })?;
        let operation = "name an image";
        let sql = "INSERT INTO images (name, digest, descriptor, created, pulled) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (name) DO UPDATE SET digest = ?2, descriptor = ?3, pulled = coalesce(?5, pulled)";
        self.index().transact_durably(operation, |transaction| {
            self.touch_reach(transaction, &format!("image {name}"), &reach)?;
            let now = super::now();
            let values = params![name.to_string(), digest.as_str(), descriptor, now, pulled.then_some(now)];
            let inserted = transaction.prepare_cached(sql).and_then(|mut statement| statement.execute(values));
            inserted.map(drop).map_err(self.index().failed(operation))
        })
    }

    /// Takes a name away; its content stays until it is collected. Returns whether there was such a name.
    pub fn untag(&self, name: &ImageName) -> Result<bool, StoreError> {
        let sql = "DELETE FROM images WHERE name = ?1";
        let name = name.normalised().to_string();
        self.index().write_durably("take away an image's name", |transaction| Ok(transaction.execute(sql, [name])? > 0))
    }

    /// Notes that something was made from the image just now.
    pub fn mark_used(&self, name: &ImageName) -> Result<(), StoreError> {
        let sql = "UPDATE images SET used = ?2 WHERE name = ?1";
        let name = name.normalised().to_string();
        self.index()
            .write("note an image's use", |transaction| transaction.execute(sql, params![name, super::now()]))
            .map(drop)
    }

    fn select(&self, sql: &str, values: &[&str]) -> Result<Vec<Image>, StoreError> {
        let query = |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(rusqlite::params_from_iter(values), Raw::read)?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        self.index().read("look up images", query)?.into_iter().map(Raw::parse).collect()
    }
}

/// A row as it is in the database.
struct Raw {
    name: String,
    descriptor: String,
    created: i64,
    pulled: Option<i64>,
    used: Option<i64>,
}

impl Raw {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: row.get(0)?,
            descriptor: row.get(1)?,
            created: row.get(2)?,
            pulled: row.get(3)?,
            used: row.get(4)?,
        })
    }

    fn parse(self) -> Result<Image, StoreError> {
        let time = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
        let target: Descriptor = serde_json::from_str(&self.descriptor)
            .map_err(|source| StoreError::Row { name: self.name.clone(), source })?;
        Ok(Image {
            name: self.name.parse().map_err(|source| StoreError::Name { source })?,
            target,
            created: time(self.created),
            pulled: self.pulled.map(time),
            last_used: self.used.map(time),
        })
    }
}
