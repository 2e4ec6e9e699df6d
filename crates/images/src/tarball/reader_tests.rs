//! Archives of others, of ours, and of nobody.

use super::super::{Extent, Writer};
use super::*;
use proptest::prelude::*;
use std::{io::BufReader, process::Command};

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    // A small buffer, so that headers and data come in pieces.
    let mut reader = Reader::new(BufReader::with_capacity(97, bytes), Limits::default());
    let mut entries = Vec::new();
    while let Some(entry) = reader.entry()? {
        let mut data = Vec::new();
        loop {
            let piece = reader.data(u64::MAX)?;
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
            let length = piece.len();
            reader.consume(length);
        }
        entries.push((entry, data));
    }
    reader.finish()?;
    Ok(entries)
}

fn write_all(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        writer.entry(entry).unwrap();
        writer.data(data).unwrap();
    }
    writer.finish().unwrap()
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof!["[a-z/.ä]{1,20}", "[a-z]{90,110}", "[a-z/]{200,400}"]
        .prop_filter("no directory", |name| !name.ends_with('/'))
        .prop_map(String::into_bytes)
}

prop_compose! {
    fn file()(path in name(), mode in 0u32..0o10000, uid in 0..u32::MAX, gid in 0..u32::MAX, mtime: i32, big: bool, data in prop::collection::vec(any::<u8>(), 0..2000), xattrs in prop::collection::btree_map("user\\.[a-z]{1,8}", prop::collection::vec(any::<u8>(), 0..50), 0..3)) -> (Entry, Vec<u8>) {
        let mut entry = Entry::new(path, Kind::File);
        entry.mode = mode;
        (entry.uid, entry.gid) = (uid, gid);
        entry.mtime = i64::from(mtime) * if big { 100_000 } else { 1 };
        entry.size = data.len() as u64;
        entry.xattrs = xattrs.into_iter().map(|(key, value)| (key.into_bytes(), value)).collect();
        (entry, data)
    }
}

prop_compose! {
    fn sparse_file()(path in name(), pieces in prop::collection::vec((0u64..100_000, prop::collection::vec(any::<u8>(), 1..600)), 0..40), tail in 0u64..1000) -> (Entry, Vec<u8>) {
        let mut entry = Entry::new(path, Kind::File);
        let (mut at, mut data, mut extents) = (0, Vec::new(), Vec::new());
        for (gap, piece) in pieces {
            extents.push(Extent { offset: at + gap, length: piece.len() as u64 });
            at += gap + piece.len() as u64;
            data.extend(piece);
        }
        entry.size = at + tail;
        entry.extents = Some(extents);
        (entry, data)
    }
}

prop_compose! {
    fn link()(path in name(), link in name(), kind in prop_oneof![Just(Kind::HardLink), Just(Kind::Symlink)]) -> (Entry, Vec<u8>) {
        let mut entry = Entry::new(path, kind);
        entry.link = link;
        (entry, Vec::new())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_written_reads_back(entries in prop::collection::vec(prop_oneof![file(), sparse_file(), link()], 0..6)) {
        prop_assert_eq!(read_all(&write_all(&entries)).unwrap(), entries);
    }

    #[test]
    fn the_tar_crate_reads_the_same(entries in prop::collection::vec(prop_oneof![file(), link()], 0..6)) {
        let bytes = write_all(&entries);
        let mut archive = ::tar::Archive::new(&bytes[..]);
        let theirs = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut data = Vec::new();
            io::Read::read_to_end(&mut entry, &mut data).unwrap();
            (entry.path_bytes().into_owned(), entry.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default(), data)
        });
        let ours = entries.into_iter().map(|(entry, data)| (entry.path, entry.link, data));
        prop_assert_eq!(theirs.collect::<Vec<_>>(), ours.collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_archive_never_panics(entries in prop::collection::vec(prop_oneof![file(), sparse_file(), link()], 1..4), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), fix: bool, cut in any::<prop::sample::Index>()) {
        let mut bytes = write_all(&entries);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if fix {
            mend_checksums(&mut bytes);
        }
        if let Err(error) = read_all(&bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
        bytes.truncate(cut.index(bytes.len()));
        drop(read_all(&bytes));
    }
}

/// Makes every block that looks like a header have a good checksum, so that damage reaches what lies behind it.
pub(crate) fn mend_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum = block.iter().map(|b| u64::from(*b)).sum::<u64>();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

#[test]
fn archives_of_gnu_tar_in_all_its_formats() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let long = "n".repeat(180);
    std::fs::write(root.join(&long), "long").unwrap();
    std::fs::write(root.join("a"), vec![7; 1500]).unwrap();
    std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
    std::os::unix::fs::symlink(&long, root.join("c")).unwrap();
    let mut holes = std::fs::File::create(root.join("d")).unwrap();
    for at in 0..40u64 {
        io::Seek::seek(&mut holes, io::SeekFrom::Start(at << 20)).unwrap();
        io::Write::write_all(&mut holes, &[1; 4096]).unwrap();
    }
    holes.set_len(50 << 20).unwrap();
    holes.sync_all().unwrap();
    for options in [
        &["--format=v7"][..],
        &["--format=ustar"],
        &["--format=gnu", "-S"],
        &["--format=oldgnu", "-S"],
        &["--format=pax", "-S", "--sparse-version=0.0"],
        &["--format=pax", "-S", "--sparse-version=0.1"],
        &["--format=pax", "-S", "--sparse-version=1.0"],
    ] {
        let mut command = Command::new("tar");
        command.args(options).args(["-cf", "-", "-C"]).arg(root).args(["a", "b", "d"]);
        let ustar = options[0] == "--format=ustar" || options[0] == "--format=v7";
        if !ustar {
            command.args(["c", &long]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
        let entries = read_all(&output.stdout).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        assert_eq!(entries.len(), if ustar { 3 } else { 5 });
        assert_eq!((entries[0].0.kind, &entries[0].1), (Kind::File, &vec![7; 1500]));
        assert_eq!((entries[1].0.kind, &*entries[1].0.link), (Kind::HardLink, &b"a"[..]));
        let (sparse, data) = &entries[2];
        assert_eq!((sparse.path.as_slice(), sparse.size), (&b"d"[..], 50 << 20), "{options:?}");
        if !ustar {
            let extents = sparse.extents.as_ref().unwrap();
            assert_eq!(data.len(), 40 * 4096, "{options:?}");
            assert!(
                extents
                    .iter()
                    .filter(|extent| extent.length > 0)
                    .enumerate()
                    .all(|(at, extent)| extent.offset == (at as u64) << 20)
            );
            assert_eq!(entries[3].0.link, long.as_bytes());
            assert_eq!((&*entries[4].0.path, &*entries[4].1), (long.as_bytes(), &b"long"[..]));
        }
    }
}

#[test]
fn malformed_archives_name_the_entry() {
    let mut entry = Entry::new("etc/passwd", Kind::File);
    entry.size = 3;
    let good = write_all(&[(entry, b"abc".to_vec()), (Entry::new("x\u{1b}[2J", Kind::Fifo), Vec::new())]);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        mend_checksums(&mut bytes);
        read_all(&bytes).unwrap_err().to_string()
    };
    assert!(with(1024 + 156, b'Z').contains(r"`x\u{1b}[2J`: its type `Z`"), "{}", with(1024 + 156, b'Z'));
    assert!(with(124, b'9').contains("`etc/passwd`: its field size"));
    assert!(with(130, b'7').contains("ends in the middle"));
    let mut bytes = good.clone();
    bytes[0] = b'f';
    assert!(read_all(&bytes).unwrap_err().to_string().contains("wrong checksum"));
    assert!(read_all(&good[..700]).unwrap_err().to_string().contains("`etc/passwd`: the archive ends"));
    // The end may be missing altogether.
    assert_eq!(read_all(&good[..1536]).unwrap().len(), 2);
}

#[test]
fn bombs_of_headers_are_refused() {
    let mut long = Entry::new("a", Kind::File);
    long.xattrs = vec![(b"user.a".to_vec(), vec![0; 2 << 20])];
    assert!(read_all(&write_all(&[(long, Vec::new())])).unwrap_err().to_string().contains("larger than 1 MiB"));
    let mut reader = Reader::new(
        io::Cursor::new(write_all(&vec![(Entry::new("a", Kind::Fifo), Vec::new()); 3])),
        Limits { entries: 2 },
    );
    assert!(reader.entry().unwrap().is_some() && reader.entry().unwrap().is_some());
    assert!(matches!(reader.entry(), Err(TarError::Malformed { problem: Problem::TooManyEntries, .. })));
    let mut one = Entry::new("a", Kind::Fifo);
    one.mtime = -1;
    let extension = write_all(&[(one, Vec::new())])[..1024].repeat(40);
    assert!(read_all(&extension).unwrap_err().to_string().contains("too many extension"));
}
