//! What takes the room.

use super::{Options, mark, plan};
use crate::store::{DiskUse, Store, StoreError};
use model::image::{Digest, ImageName};
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    fs,
    time::Duration,
};

/// A number of things and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// How many.
    pub count: u64,
    /// Bytes in all.
    pub bytes: u64,
}

impl Figure {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// Room of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageUsage {
    /// Its name.
    pub name: ImageName,
    /// All its blobs.
    pub blobs: u64,
    /// All its unpacked layers.
    pub layers: u64,
    /// Blobs and layers that no image of other content has.
    pub unique: u64,
}

/// What takes the room of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Blobs.
    pub blobs: Figure,
    /// Unpacked layers.
    pub layers: Figure,
    /// Content coming in.
    pub ingests: Figure,
    /// Bytes of blobs and layers that more than one image has.
    pub shared: u64,
    /// Bytes that a collection without grace would free.
    pub reclaimable: u64,
    /// Each name, in order.
    pub images: Vec<ImageUsage>,
    /// How full the disk is, in percent.
    pub disk_percent: u8,
    /// Bytes left on it.
    pub disk_free: u64,
}

impl Store {
    /// What takes the room.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let blobs = self.sizes("SELECT digest, size FROM blobs")?;
        let layers = self.sizes("SELECT digest, size FROM layers")?;
        let mut users: HashMap<Digest, u32> = HashMap::new();
        let mut reach: HashMap<Digest, HashSet<Digest>> = HashMap::new();
        let images = self.images()?;
        for image in &images {
            let target = image.digest()?;
            if reach.contains_key(&target) {
                continue;
            }
            let marks = mark::reachable(self, vec![target.clone()])?;
            for digest in &marks {
                *users.entry(digest.clone()).or_default() += 1;
            }
            reach.insert(target, marks);
        }
        let both = |digest: &Digest| blobs.get(digest).unwrap_or(&0) + layers.get(digest).unwrap_or(&0);
        let mut usages = Vec::new();
        for image in images {
            let marks = &reach[&image.digest()?];
            let sum = |sizes: &HashMap<Digest, u64>| marks.iter().filter_map(|digest| sizes.get(digest)).sum();
            let unique = marks.iter().filter(|digest| users.get(*digest) == Some(&1)).map(both).sum();
            usages.push(ImageUsage { name: image.name, blobs: sum(&blobs), layers: sum(&layers), unique });
        }
        let figure = |sizes: &HashMap<Digest, u64>| Figure { count: sizes.len() as u64, bytes: sizes.values().sum() };
        let reclaimable = plan(self, &Options { grace: Duration::ZERO, ..Options::default() })?.freed;
        let disk: DiskUse = self.disk()?;
        Ok(Usage {
            blobs: figure(&blobs),
            layers: figure(&layers),
            ingests: self.ingests(),
            shared: users.iter().filter(|(_, count)| **count > 1).map(|(digest, _)| both(digest)).sum(),
            reclaimable,
            images: usages,
            disk_percent: disk.percent(),
            disk_free: disk.free,
        })
    }

    fn sizes(&self, sql: &'static str) -> Result<HashMap<Digest, u64>, StoreError> {
        let rows = self.index().read("list content", |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            statement
                .query_map((), |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let parse =
            |(digest, size): (String, u64)| Ok((digest.parse().map_err(|source| StoreError::Digest { source })?, size));
        rows.into_iter().map(parse).collect()
    }

    fn ingests(&self) -> Figure {
        let mut figure = Figure::default();
        for entry in fs::read_dir(self.part("ingest")).into_iter().flatten().flatten() {
            // One that ends meanwhile takes no room any more.
            if let Ok(found) = fs::metadata(entry.path().join("data")) {
                figure.add(found.len());
            }
        }
        figure
    }
}
