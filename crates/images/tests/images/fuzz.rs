//! Damaged and malicious input by the thousand: archives, documents, names.
//!
//! Inputs are made by changing good ones: bytes, fields of headers (with their checksums mended), order and number of
//! blocks. Each target runs for a second; `IMAGES_FUZZ_SECONDS` makes it longer, `IMAGES_FUZZ_SEED` repeats a run. What
//! fails is written to `IMAGES_FUZZ_KEEP`, if that is set.

use crate::support::*;
use images::{
    Manifest, Silent,
    archive::{Source, import},
    layer::sanitise,
    tarball::{Entry, Extent, Kind, Limits, Reader, Writer},
};
use model::image::{Algorithm, Digest, ImageName};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap() % limit.max(1)
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Calls `attempt` with inputs made of `corpus` until the time is over.
fn fuzz(name: &str, corpus: &[Vec<u8>], mutate: impl Fn(&mut Random, &[Vec<u8>]) -> Vec<u8>, attempt: impl Fn(&[u8])) {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let seed: u64 = number("IMAGES_FUZZ_SEED", u64::from(std::process::id()) * 2 + 1);
    let end = Instant::now() + Duration::from_secs(number("IMAGES_FUZZ_SECONDS", 1));
    let mut random = Random(seed | 1);
    let mut count = 0u64;
    while Instant::now() < end {
        let input = mutate(&mut random, corpus);
        if catch_unwind(AssertUnwindSafe(|| attempt(&input))).is_err() {
            if let Some(folder) = std::env::var_os("IMAGES_FUZZ_KEEP") {
                fs::write(std::path::Path::new(&folder).join(format!("{name}-{seed}-{count}")), &input).unwrap();
            }
            panic!("{name}: seed {seed}, input {count}: {}", input[..input.len().min(4096)].escape_ascii());
        }
        count += 1;
    }
    println!("{name}: {count} inputs, seed {seed}");
}

/// Bytes changed, cut, repeated, taken from another input.
fn bytes(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let at = random.below(corpus.len());
    let mut input = corpus[at].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len());
        match random.below(7) {
            0 if !input.is_empty() => input[at] = random.pick(b"\0\xff/.:@{}[]\"09aAzZ_- ,\n"),
            1 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            2 => input.truncate(at),
            3 => {
                let from = &corpus[random.below(corpus.len())];
                let begin = random.below(from.len());
                let piece = from[begin..(begin + random.below(40)).min(from.len())].to_vec();
                input.splice(at..at, piece);
            }
            4 => drop(input.drain(at..(at + random.below(20)).min(input.len()))),
            5 => {
                let piece = input[at..(at + random.below(30)).min(input.len())].to_vec();
                input.splice(at..at, piece.repeat(random.below(4)));
            }
            _ if !input.is_empty() => input[at] = u8::try_from(random.below(256)).unwrap(),
            _ => {}
        }
    }
    input
}

/// Blocks of an archive exchanged, repeated and left out; fields of headers changed; checksums mended.
fn blocks(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    const FIELDS: [(usize, usize); 12] = [
        (0, 100),
        (100, 8),
        (108, 8),
        (116, 8),
        (124, 12),
        (136, 12),
        (156, 1),
        (157, 100),
        (257, 8),
        (329, 16),
        (345, 155),
        (386, 97),
    ];
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(5) {
        let count = input.len() / 512;
        if count == 0 {
            return input;
        }
        let at = random.below(count) * 512;
        match random.below(8) {
            0 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() / 512) * 512;
                input.splice(at..at, other[from..from + 512].to_vec());
            }
            1 => drop(input.drain(at..at + 512)),
            2 => {
                let length = (1 + random.below(4)) * 512;
                let piece = input[at..(at + length).min(input.len())].to_vec();
                input.splice(at..at, piece);
            }
            3 => input[at + 156] = random.pick(b"\x000123456789xgLKSVXZ"),
            4 => {
                const NAMES: [&[u8]; 14] = [
                    b"..",
                    b"../x",
                    b"/x",
                    b"a/../../x",
                    b".",
                    b"./",
                    b"",
                    b".wh.",
                    b".wh.x",
                    b".wh..wh..opq",
                    b"l/x",
                    b"d",
                    b"l",
                    b"d/.wh..wh..opq",
                ];
                let (field, name) = (random.pick(&[0, 157]), random.pick(&NAMES));
                input[at + field..at + field + 100].fill(0);
                input[at + field..at + field + name.len()].copy_from_slice(name);
            }
            5 => {
                let value: &[u8] = random.pick(&[
                    &b"77777777777\0"[..],
                    b"00000000000\0",
                    b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
                    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    b"           1",
                ]);
                input[at + 124..at + 136].copy_from_slice(value);
            }
            _ => {
                let (field, length) = random.pick(&FIELDS);
                input[at + field + random.below(length)] = u8::try_from(random.below(256)).unwrap();
            }
        }
    }
    for block in input.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum = block.iter().map(|b| u64::from(*b)).sum::<u64>();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    if random.below(3) == 0 { bytes(random, &[input]) } else { input }
}

fn archives() -> Vec<Vec<u8>> {
    let mut sparse = file("s", &[1; 300]);
    sparse.0.size = 1 << 20;
    sparse.0.extents = Some(vec![Extent { offset: 5, length: 100 }, Extent { offset: 70_000, length: 200 }]);
    let mut rich = file(&"n/".repeat(60), b"");
    rich.0.path.push(b'x');
    rich.0.xattrs = vec![(b"user.a".to_vec(), b"b".to_vec()), (b"security.capability".to_vec(), vec![1, 0, 0, 2])];
    (rich.0.uid, rich.0.mtime) = (3_000_000, -5);
    let mut null = other("null", Kind::Character, "");
    null.0.device = (1, 3);
    let mut gnu = tar(&[file("long", b"name"), other("l", Kind::Symlink, "x")]);
    for block in gnu.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[257..265].copy_from_slice(b"ustar  \0");
    }
    vec![
        tar(&[
            other("d/", Kind::Directory, ""),
            file("d/f", b"data"),
            other("d/h", Kind::HardLink, "d/f"),
            other("l", Kind::Symlink, ".."),
        ]),
        tar(&[sparse, rich, null, other("p", Kind::Fifo, "")]),
        tar(&[file(".wh.x", b""), file("d/.wh..wh..opq", b""), file("x/y", b"1"), file("a", &[0; 2000])]),
        gnu,
    ]
}

/// Reads it all; what the reader takes is written and read again.
fn read(input: &[u8]) {
    let mut reader = Reader::new(input, Limits { entries: 1000 });
    let mut taken: Vec<(Entry, Vec<u8>)> = Vec::new();
    while let Ok(Some(entry)) = reader.entry() {
        let mut data = Vec::new();
        while let Ok(piece) = reader.data(u64::MAX) {
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
            let length = piece.len();
            reader.consume(length);
        }
        let stored =
            entry.extents.as_ref().map_or(entry.size, |extents| extents.iter().map(|extent| extent.length).sum());
        if stored != data.len() as u64 {
            break;
        }
        // A directory's name need not end in a slash, but one that does is one.
        taken.push((entry, data));
    }
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in &taken {
        if writer.entry(entry).is_err() {
            return;
        }
        writer.data(data).unwrap();
    }
    let written = writer.finish().unwrap();
    let mut reader = Reader::new(&written[..], Limits::default());
    for (entry, _) in &taken {
        assert_eq!(reader.entry().unwrap().as_ref(), Some(entry));
    }
    assert_eq!(reader.entry().unwrap(), None);
}

#[test]
fn archives_are_read_or_refused() {
    fuzz("reader", &archives(), blocks, read);
}

#[test]
fn layers_are_unpacked_or_refused_and_stay_in_their_folder() {
    let (folder, store) = store();
    let outside = folder.path().join("x");
    fs::write(&outside, "unharmed").unwrap();
    fuzz("unpack", &archives(), blocks, |input| {
        let result = unpack(&store, &[Layer::plain(input.to_vec())]);
        assert_eq!(fs::read(&outside).unwrap(), b"unharmed");
        assert_eq!(list(folder.path()), ["images", "x"]);
        let layers = store.folder().join("layers");
        match result {
            Ok(unpacked) => {
                assert_eq!(list(&layers).len(), 1);
                let layer = unpacked[0].parent().unwrap();
                fs::remove_dir_all(layer).unwrap();
            }
            Err(error) => {
                assert!(list(&layers).is_empty(), "{error}: {:?}", list(&layers));
                assert!(!chain(&error).is_empty());
            }
        }
        fs::remove_dir_all(store.folder().join("blobs")).unwrap();
        fs::create_dir(store.folder().join("blobs")).unwrap();
    });
}

#[test]
fn archives_of_images_are_imported_or_refused() {
    let (_folder, store) = store();
    let layer = tar(&[file("f", b"1")]);
    let id = images::digest::digest_of(Algorithm::Sha256, &layer);
    let config = format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{id}"]}}}}"#);
    let docker = tar(&[
        file("c.json", config.as_bytes()),
        file("manifest.json", br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]"#),
        file("l.tar", &layer),
    ]);
    let lease = store.lease(images::Owner::Process).unwrap();
    let target = image(&lease, &[Layer::plain(layer)]);
    let mut oci = Vec::new();
    images::archive::export(&store, &[(name("a:1"), target)], images::archive::Format::Oci, None, &mut oci).unwrap();
    fuzz("import", &[docker, oci], blocks, |input| {
        let source = Source::Stream(Box::new(std::io::Cursor::new(input.to_vec())));
        if let Ok(imported) = import(&store, source, Some(&name("given")), &Silent) {
            assert_eq!(imported.len(), 1);
            store.image(&imported[0].names[0]).unwrap().unwrap();
        }
        assert!(list(&store.folder().join("ingest")).is_empty());
    });
}

#[test]
fn documents_are_read_or_refused() {
    let digest = images::digest::digest_of(Algorithm::Sha256, b"");
    let part = |kind: &str| {
        format!(
            r#"{{"mediaType":"{kind}","digest":"{digest}","size":7,"annotations":{{"a":"b"}},"platform":{{"architecture":"arm64","os":"linux","variant":"v8"}}}}"#
        )
    };
    let corpus = [
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}],"subject":{}}}"#, images::media::OCI_MANIFEST, part(images::media::OCI_CONFIG), part(images::media::OCI_LAYER_GZIP), part(images::media::OCI_MANIFEST)),
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#, images::media::DOCKER_INDEX, part(images::media::DOCKER_MANIFEST)),
        format!(r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"],"Cmd":null,"ExposedPorts":{{"80/tcp":{{}}}},"Volumes":{{"/v":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"history":[{{"created":"2020-01-01T00:00:00Z"}}]}}"#),
    ]
    .map(String::into_bytes);
    fuzz("document", &corpus, bytes, |input| {
        if let Ok(manifest) = Manifest::parse(&digest, input) {
            let again = match &manifest {
                Manifest::Image(manifest) => serde_json::to_vec(manifest).unwrap(),
                Manifest::Index(index) => serde_json::to_vec(index).unwrap(),
            };
            assert_eq!(Manifest::parse(&digest, &again).unwrap().media_type(), manifest.media_type());
        }
        drop(serde_json::from_slice::<oci_spec::image::ImageConfiguration>(input));
    });
}

#[test]
fn names_are_taken_or_refused() {
    let hex = "0a".repeat(32);
    let corpus = [
        "debian:trixie".to_owned(),
        format!("example.org:5000/a/b-c__d.e:V1_.-2@sha256:{hex}"),
        format!("[2001:db8::1]:443/a@sha512:{hex}{hex}"),
        "localhost/x".to_owned(),
    ]
    .map(String::into_bytes);
    fuzz("name", &corpus, bytes, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(name) = text.parse::<ImageName>() {
            assert_eq!(name.to_string(), text);
            assert_eq!(name.normalised().to_string().parse::<ImageName>().unwrap(), name.normalised());
            // It can be a path, a URL and a header as it is.
            let repository = name.repository.as_str();
            assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
            assert!(!repository.contains("..") && !repository.contains("//"), "{text}");
        }
        if let Ok(digest) = text.parse::<Digest>() {
            assert_eq!(digest.as_str(), text);
        }
        if let Ok(components) = sanitise(input) {
            assert!(
                components
                    .iter()
                    .all(|part| !part.is_empty() && *part != b".." && !part.contains(&b'/') && !part.contains(&0))
            );
        }
    });
}
