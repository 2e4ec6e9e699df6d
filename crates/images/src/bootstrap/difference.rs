//! The second layer of an image: what its tree has and its base has not, or has otherwise, and whiteouts for what only
//! the base has. Both trees are reproducible, so their difference is.

use super::tree::{TreeError, Visitor};
use crate::{
    layer::PackError,
    tarball::{Entry, Kind, Writer, shown},
};
use ring::digest::{Context, SHA256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io::Write,
};

/// Everything that tells entries of a tree apart, by name.
#[derive(Default)]
pub(super) struct Index {
    items: BTreeMap<Vec<u8>, Item>,
    /// The entry whose data comes.
    open: Option<(Vec<u8>, Context)>,
}

struct Item {
    fingerprint: [u8; 32],
    directory: bool,
    /// The first name of a file with several.
    target: Option<Vec<u8>>,
}

impl Index {
    fn close(&mut self) {
        if let Some((path, hash)) = self.open.take()
            && let Some(item) = self.items.get_mut(&path)
        {
            item.fingerprint = finished(hash);
        }
    }

    /// The index, once all entries are seen.
    pub fn finish(mut self) -> Self {
        self.close();
        // A link is as its target is.
        let targets: Vec<_> =
            self.items.iter().filter_map(|(path, item)| Some((path.clone(), item.target.clone()?))).collect();
        for (path, target) in targets {
            let of_target = self.items.get(&target).map(|item| item.fingerprint).unwrap_or_default();
            if let Some(item) = self.items.get_mut(&path) {
                let mut hash = Context::new(&SHA256);
                [&b"link"[..], &target, &of_target].into_iter().for_each(|part| hash.update(part));
                item.fingerprint = finished(hash);
            }
        }
        self
    }
}

impl Visitor for Index {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        self.close();
        let (path, directory) = match entry.path.strip_suffix(b"/") {
            Some(path) => (path.to_vec(), true),
            None => (entry.path.clone(), false),
        };
        if path.split(|b| *b == b'/').any(|part| part.starts_with(b".wh.")) {
            let problem = "its name begins with `.wh.`, which means a deleted file in a layer";
            return Err(TreeError::Pack(PackError::Unsupported { entry: entry.name(), problem }));
        }
        let target = (entry.kind == Kind::HardLink).then(|| entry.link.clone());
        self.items.insert(path.clone(), Item { fingerprint: [0; 32], directory, target });
        self.open = Some((path, attributes(entry)));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        if let Some((_, hash)) = &mut self.open {
            hash.update(bytes);
        }
        Ok(())
    }
}

fn finished(hash: Context) -> [u8; 32] {
    hash.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// A hash of all that is said of an entry but its name; its data follows.
fn attributes(entry: &Entry) -> Context {
    let mut hash = Context::new(&SHA256);
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(
        format!("{:?} {:o} {} {} {} {:?}", entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime, entry.device)
            .as_bytes(),
    );
    field(format!("{} {:?}", entry.size, entry.extents).as_bytes());
    field(&entry.link);
    for (name, value) in &entry.xattrs {
        field(name);
        field(value);
    }
    hash
}

/// What a layer over `base` must have to show `full`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    written: HashSet<Vec<u8>>,
    whiteouts: BTreeSet<Vec<u8>>,
}

impl Difference {
    pub fn between(base: &Index, full: &Index) -> Self {
        let mut written: HashSet<Vec<u8>> = HashSet::new();
        let mut groups: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
        for (path, item) in &full.items {
            if let Some(target) = &item.target {
                groups.entry(target).or_default().push(path);
            }
            if base.items.get(path).is_none_or(|before| before.fingerprint != item.fingerprint) {
                written.insert(path.clone());
            }
        }
        // Names of one file are in one layer, or they would be names of several.
        for (target, links) in groups {
            if written.contains(target) || links.iter().any(|link| written.contains(*link)) {
                written.insert(target.to_vec());
                written.extend(links.into_iter().map(<[u8]>::to_vec));
            }
        }
        let is_directory = |path: &[u8]| path.is_empty() || full.items.get(path).is_some_and(|item| item.directory);
        // Below what is gone, or is no directory any more, nothing is left to take away.
        let removed = base.items.keys().filter(|path| !full.items.contains_key(*path) && is_directory(parent(path)));
        let whiteouts: BTreeSet<Vec<u8>> = removed.cloned().collect();
        let above: Vec<Vec<u8>> = written.iter().chain(&whiteouts).flat_map(|path| ancestors(path)).collect();
        written.extend(above);
        Self { written, whiteouts }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.whiteouts.is_empty()
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |at| &path[..at])
}

fn ancestors(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let parents = std::iter::successors(Some(parent(path)), |path| Some(parent(path)));
    parents.take_while(|path| !path.is_empty()).map(<[u8]>::to_vec)
}

/// Writes a layer: all of a tree, or what a difference wants of it.
pub(super) struct Layer<'d, W> {
    writer: Writer<W>,
    difference: Option<&'d Difference>,
    taken: bool,
}

impl<'d, W: Write> Layer<'d, W> {
    pub fn new(sink: W, difference: Option<&'d Difference>) -> Self {
        Self { writer: Writer::new(sink), difference, taken: false }
    }

    /// Adds the whiteouts, from the time `epoch`, and ends the archive.
    pub fn finish(mut self, epoch: i64) -> Result<(), TreeError> {
        for path in self.difference.iter().flat_map(|difference| &difference.whiteouts) {
            let (folder, name) = path.split_at(path.len() - path.rsplit(|b| *b == b'/').next().map_or(0, <[u8]>::len));
            let mut entry = Entry::new([folder, b".wh.", name].concat(), Kind::File);
            entry.mtime = epoch;
            self.writer.entry(&entry).map_err(TreeError::write)?;
        }
        self.writer.finish().map(drop).map_err(TreeError::write)
    }
}

impl<W: Write> Visitor for Layer<'_, W> {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        let path = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
        self.taken = self.difference.is_none_or(|difference| difference.written.contains(path));
        if self.taken { self.writer.entry(entry).map_err(TreeError::write) } else { Ok(()) }
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        if self.taken { self.writer.data(bytes).map_err(TreeError::write) } else { Ok(()) }
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.items.keys().map(|path| shown(path))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tree::{
            Rules,
            tests::{Seen, archive, directory, file},
            visit,
        },
        *,
    };

    fn index(bytes: &[u8]) -> Index {
        let mut index = Index::default();
        visit(bytes, &Rules::none(), &mut index).unwrap();
        index.finish()
    }

    fn link(path: &str, target: &str) -> Entry {
        let mut entry = Entry::new(path, Kind::HardLink);
        entry.link = target.into();
        entry
    }

    /// The names in the layer of `full` over `base`.
    fn layer(base: &[(Entry, &[u8])], full: &[(Entry, &[u8])]) -> Vec<String> {
        let (base, full) = (archive(base), archive(full));
        let difference = Difference::between(&index(&base), &index(&full));
        let mut bytes = Vec::new();
        let mut layer = Layer::new(&mut bytes, Some(&difference));
        visit(&full[..], &Rules::none(), &mut layer).unwrap();
        layer.finish(7).unwrap();
        let mut seen = Seen::default();
        visit(&bytes[..], &Rules::none(), &mut seen).unwrap();
        seen.0.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_same_tree_gives_nothing() {
        let tree = [(directory("etc/"), &b""[..]), (file("etc/a"), b"1")];
        let index = index(&archive(&tree));
        assert!(Difference::between(&index, &index).is_empty());
    }

    #[test]
    fn new_changed_and_removed_with_their_folders() {
        let mut executable = file("usr/bin/x");
        let base = [
            (directory("etc/"), &b""[..]),
            (file("etc/a"), b"1"),
            (file("etc/same"), b"1"),
            (directory("old/"), b""),
            (directory("old/deep/"), b""),
            (file("old/deep/file"), b"1"),
            (directory("usr/"), b""),
            (directory("usr/bin/"), b""),
            (executable.clone(), b"1"),
            (directory("usr/lib/"), b""),
            (file("usr/lib/gone"), b"1"),
        ];
        executable.mode = 0o755;
        let full = [
            (directory("etc/"), &b""[..]),
            (file("etc/a"), b"2"),
            (file("etc/same"), b"1"),
            (directory("new/"), b""),
            (directory("usr/"), b""),
            (directory("usr/bin/"), b""),
            (executable, b"1"),
            (directory("usr/lib/"), b""),
        ];
        let expected =
            ["etc/", "etc/a", "new/", "usr/", "usr/bin/", "usr/bin/x", "usr/lib/", ".wh.old", "usr/lib/.wh.gone"];
        assert_eq!(layer(&base, &full), expected);
    }

    #[test]
    fn a_folder_that_becomes_a_file_needs_no_whiteouts_below() {
        let base = [(directory("a/"), &b""[..]), (file("a/b"), b"1")];
        assert_eq!(layer(&base, &[(file("a"), b"x")]), ["a"]);
        assert_eq!(layer(&[(file("a"), b"x")], &base), ["a/", "a/b"]);
    }

    #[test]
    fn names_of_one_file_stay_together() {
        let base = [(file("a"), &b"1"[..]), (link("b", "a"), b""), (file("z"), b"1")];
        let more = [(file("a"), &b"1"[..]), (link("b", "a"), b""), (link("c", "a"), b""), (file("z"), b"1")];
        assert_eq!(layer(&base, &more), ["a", "b", "c"]);
        let changed = [(file("a"), &b"2"[..]), (link("b", "a"), b""), (file("z"), b"1")];
        assert_eq!(layer(&base, &changed), ["a", "b"]);
    }

    #[test]
    fn a_name_that_would_delete_is_refused() {
        let bytes = archive(&[(file("etc/.wh.passwd"), b"")]);
        assert!(visit(&bytes[..], &Rules::none(), &mut Index::default()).is_err());
    }
}
