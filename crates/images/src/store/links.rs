//! What a document refers to, read without regard to its media type: a collector that takes too much for a manifest keeps
//! too much, one that takes too little loses content.
//!
//! So nothing hides anything else: each field is read by itself, each element of it too, what is of no interest is passed
//! over whatever it is, and a field that comes twice counts twice. What a strict reader takes has all its references
//! read here.

use super::StoreError;
use model::image::Digest;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor},
};
use std::fmt;

/// References of a document, in no particular order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Links {
    /// Configuration, layers, blobs of an artifact.
    pub parts: Vec<Digest>,
    /// Manifests of an index.
    pub manifests: Vec<Digest>,
    /// Diff ids of a configuration.
    pub diff_ids: Vec<Digest>,
}

/// Why not all references of a document were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// It is not JSON: nothing was read.
    NotJson(String),
    /// It is JSON, and no strict reader takes it either.
    Field(String),
}

impl Problem {
    /// As the error of a document.
    pub fn of(self, kind: &'static str, digest: &Digest) -> StoreError {
        let (Self::NotJson(problem) | Self::Field(problem)) = self;
        StoreError::Document { kind, digest: digest.clone(), problem }
    }
}

impl Links {
    /// Every one.
    pub fn into_all(self) -> impl Iterator<Item = Digest> {
        self.parts.into_iter().chain(self.manifests).chain(self.diff_ids)
    }

    /// Reads a document; what of it can not be read refers to nothing.
    pub fn read(bytes: &[u8]) -> (Self, Option<Problem>) {
        let mut links = Self::default();
        let problem = match links.take(bytes, None) {
            Ok(()) => return (links, None),
            Err(error) => error.to_string(),
        };
        if let Err(error) = serde_json::from_slice::<IgnoredAny>(bytes) {
            return (Self::default(), Some(Problem::NotJson(error.to_string())));
        }
        for field in FIELDS {
            // What fails now is what the problem is, or another such.
            drop(links.take(bytes, Some(field)));
        }
        (links, Some(Problem::Field(problem)))
    }

    /// Takes over what the fields refer to, all of them or only one.
    fn take(&mut self, bytes: &[u8], only: Option<&'static str>) -> serde_json::Result<()> {
        let mut parser = serde_json::Deserializer::from_slice(bytes);
        let document = Seed { depth: DEPTH, only }.deserialize(&mut parser)?;
        parser.end()?;
        let Node::Map(fields) = document else {
            return Err(serde_json::Error::invalid_type(Unexpected::Other("something else"), &"a JSON object"));
        };
        for (name, value) in fields {
            match name {
                "config" | "layers" | "blobs" => self.parts.extend(value.each().filter_map(Node::digest)),
                "manifests" => self.manifests.extend(value.each().filter_map(Node::digest)),
                "rootfs" => {
                    let lists = value.named("diff_ids").flat_map(Node::each);
                    self.diff_ids.extend(lists.filter_map(Node::into_digest));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Fields of a document that refer to something.
const FIELDS: [&str; 5] = ["config", "layers", "blobs", "manifests", "rootfs"];
/// Names that are kept further in.
const INNER: [&str; 2] = ["digest", "diff_ids"];
/// A document, its field, an element of that, its digest.
const DEPTH: u8 = 4;

/// As much of a value as can refer to something.
enum Node {
    Text(String),
    List(Vec<Node>),
    Map(Vec<(&'static str, Node)>),
    /// Of no interest.
    Other,
}

impl Node {
    /// The elements of a list; anything else is one.
    fn each(self) -> impl Iterator<Item = Node> {
        let (list, single) = match self {
            Self::List(list) => (list, None),
            single => (Vec::new(), Some(single)),
        };
        list.into_iter().chain(single)
    }
    /// The values of this name.
    fn named(self, wanted: &'static str) -> impl Iterator<Item = Node> {
        let fields = if let Self::Map(fields) = self { fields } else { Vec::new() };
        fields.into_iter().filter_map(move |(name, value)| (name == wanted).then_some(value))
    }
    /// The digest of a descriptor; one that we do not support is none.
    fn digest(self) -> Option<Digest> {
        // Of several the last, as readers that take them at all do.
        self.named("digest").last()?.into_digest()
    }
    fn into_digest(self) -> Option<Digest> {
        if let Self::Text(text) = self { text.parse().ok() } else { None }
    }
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(_) => false,
            Self::List(list) => list.is_empty(),
            Self::Map(fields) => fields.is_empty(),
            Self::Other => true,
        }
    }
}

#[derive(Clone, Copy)]
struct Seed {
    depth: u8,
    only: Option<&'static str>,
}

impl Seed {
    fn below(self) -> Self {
        Self { depth: self.depth.saturating_sub(1), only: None }
    }
    fn keeps(self, name: &[u8]) -> Option<&'static str> {
        let names = if self.depth == DEPTH { &FIELDS[..] } else { &INNER };
        let known = names.iter().copied().find(|known| known.as_bytes() == name)?;
        (self.only.is_none_or(|only| only == known)).then_some(known)
    }
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Node;
    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Node, D::Error> {
        if self.depth == 0 {
            return IgnoredAny::deserialize(parser).map(|_| Node::Other);
        }
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }
    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = elements.next_element_seed(self.below())? {
            if !node.is_empty() {
                list.push(node);
            }
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(Name(name)) = entries.next_key()? {
            match self.keeps(&name) {
                Some(known) => fields.push((known, entries.next_value_seed(self.below())?)),
                None => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Node::Map(fields))
    }
}

/// The name of a field, of whatever bytes.
struct Name(Vec<u8>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(parser: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Name, E> {
                Ok(Name(bytes.to_owned()))
            }
        }
        parser.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digest_of;
    use model::image::Algorithm;

    fn digests() -> [Digest; 4] {
        ["a", "b", "c", "d"].map(|text| digest_of(Algorithm::Sha256, text.as_bytes()))
    }

    #[test]
    fn every_kind_of_document_gives_its_references() {
        let [a, b, c, _] = digests();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{a}"}},"layers":[{{"digest":"{b}"}},{{"digest":"blake3:00"}},{{"digest":"{c}"}}]}}"#
        );
        let parts = vec![a.clone(), b.clone(), c];
        assert_eq!(Links::read(manifest.as_bytes()), (Links { parts, ..Links::default() }, None));
        let index = format!(r#"{{"manifests":[{{"digest":"{a}"}}]}}"#);
        assert_eq!(Links::read(index.as_bytes()), (Links { manifests: vec![a], ..Links::default() }, None));
        let config = format!(r#"{{"config":{{"Cmd":["x"]}},"rootfs":{{"type":"layers","diff_ids":["{b}",7]}}}}"#);
        assert_eq!(Links::read(config.as_bytes()), (Links { diff_ids: vec![b], ..Links::default() }, None));
        assert_eq!(Links::read(br#"{"layers":{"a":[1]},"rootfs":null}"#), (Links::default(), None));
        for text in ["", "{", "{\"a\"}", "{}x", "{\"layers\":[}"] {
            let (links, problem) = Links::read(text.as_bytes());
            assert!(links == Links::default() && matches!(problem, Some(Problem::NotJson(_))), "{text}: {problem:?}");
        }
        for text in ["[]", "null", "7"] {
            let (links, problem) = Links::read(text.as_bytes());
            assert!(links == Links::default() && matches!(problem, Some(Problem::Field(_))), "{text}: {problem:?}");
        }
    }

    #[test]
    fn nothing_in_a_document_hides_what_it_refers_to() {
        let [a, b, c, d] = digests();
        let deep = "[".repeat(5000) + &"]".repeat(5000);
        let parts = format!(r#""config":{{"digest":"{a}"}},"layers":[{{"digest":"{b}"}}]"#);
        // What strict readers pass over.
        for odd in [
            r#""rootfs":5"#.to_owned(),
            r#""rootfs":null,"rootfs":[]"#.to_owned(),
            format!(r#""rootfs":{deep}"#),
            format!(r#""annotations":{deep}"#),
            format!(r#""layers":[{{"x":{deep},"size":1e999}}]"#),
            r#""x":1e999,"y":"\ud800","\ud800":1"#.to_owned(),
        ] {
            for document in [format!("{{{odd},{parts}}}"), format!("{{{parts},{odd}}}")] {
                let (links, problem) = Links::read(document.as_bytes());
                assert_eq!((links.parts, problem), (vec![a.clone(), b.clone()], None), "{odd:.40}");
            }
        }
        let bytes = [b"{\"\xff\":\"\xff\",", parts.as_bytes(), b"}"].concat();
        assert_eq!(Links::read(&bytes).0.parts, [a.clone(), b.clone()]);
        // What they do not.
        let odd = format!(
            r#"{{"rootfs":1e999,"blobs":[1e999,{{"digest":"{d}"}}],{parts},"manifests":[{{"digest":"{c}"}}]}}"#
        );
        let (links, problem) = Links::read(odd.as_bytes());
        assert_eq!((links.parts, links.manifests), (vec![a.clone(), b.clone()], vec![c.clone()]));
        assert!(matches!(problem, Some(Problem::Field(_))), "{problem:?}");
        // A field that comes twice.
        let twice = format!(r#"{{{parts},"layers":[{{"digest":"{c}"}}]}}"#);
        assert_eq!(Links::read(twice.as_bytes()).0.parts, [a, b, c]);
    }
}
