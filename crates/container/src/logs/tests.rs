use super::*;
use std::{cell::Cell, fs, io::Write};

fn record(time: u64, stream: u8, text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    let mut all = Vec::new();
    all.extend_from_slice(&(time * 1_000_000_000).to_le_bytes());
    all.extend_from_slice(&length.to_le_bytes());
    all.extend_from_slice(&[stream, 0]);
    all.extend_from_slice(&0x4a4c_u16.to_le_bytes());
    all.extend_from_slice(text);
    all
}

fn everything() -> Query {
    Query { stdout: true, stderr: true, ..Query::default() }
}

fn lines(folder: &Path, query: &Query) -> Vec<String> {
    let mut all = Vec::new();
    read(folder, query, || false, &mut |line| {
        all.push(String::from_utf8(line.text).unwrap());
        ControlFlow::Continue(())
    })
    .unwrap();
    all
}

fn sample() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, records: &[Vec<u8>]| fs::write(folder.path().join(name), records.concat()).unwrap();
    at("2", &[record(1, 1, b"one\ntw")]);
    at("1", &[record(2, 2, b"bad\n"), record(3, 1, b"o\nthree\n")]);
    at("current", &[record(4, 0, &7_u64.to_le_bytes()), record(5, 1, b"four\nfive")]);
    fs::write(folder.path().join("1.tmp"), "not a log").unwrap();
    folder
}

#[test]
fn lines_are_put_together_across_records_and_files() {
    let folder = sample();
    let dropped = "[7 bytes of output could not be written here and were dropped]";
    assert_eq!(lines(folder.path(), &everything()), ["one", "bad", "two", "three", dropped, "four", "five"]);
    assert_eq!(lines(folder.path(), &Query { stderr: false, ..everything() }), ["one", "two", "three", "four", "five"]);
    assert_eq!(lines(folder.path(), &Query { tail: Some(2), ..everything() }), ["four", "five"]);
    assert_eq!(lines(folder.path(), &Query { tail: Some(0), ..everything() }), Vec::<String>::new());
    let since = Timestamp::from_second(5).unwrap();
    assert_eq!(lines(folder.path(), &Query { since: Some(since), ..everything() }), ["four", "five"]);
    assert_eq!(lines(Path::new("/nonexistent"), &everything()), Vec::<String>::new());
}

#[test]
fn a_line_without_end_comes_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let long = vec![b'x'; 40 << 10];
    fs::write(folder.path().join("current"), [record(1, 1, &long), record(1, 1, b"y\n")].concat()).unwrap();
    let mut parts = Vec::new();
    read(folder.path(), &everything(), || false, &mut |line| {
        parts.push((line.text.len(), line.partial));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(parts, [(16 << 10, true), (16 << 10, true), ((8 << 10) + 1, false)]);
}

#[test]
fn what_is_no_log_is_named_and_a_torn_end_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let current = folder.path().join("current");
    let mut torn = [record(1, 1, b"whole\n"), record(2, 1, b"torn\n")].concat();
    torn.truncate(torn.len() - 2);
    fs::write(&current, torn).unwrap();
    assert_eq!(lines(folder.path(), &everything()), ["whole"]);
    fs::write(&current, [record(1, 1, b"whole\n"), vec![0xff; 16]].concat()).unwrap();
    let error = read(folder.path(), &everything(), || false, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains("offset 22"), "{error}");
}

#[test]
fn following_goes_on_through_rotation_until_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let current = folder.path().join("current");
    fs::write(&current, record(1, 1, b"a\n")).unwrap();
    let step = Cell::new(0);
    let running = || {
        let append = |bytes: Vec<u8>| {
            fs::OpenOptions::new().append(true).create(true).open(&current).unwrap().write_all(&bytes).unwrap();
        };
        match step.replace(step.get() + 1) {
            0 => append(record(2, 1, b"b\n")),
            1 => {
                append(record(3, 1, b"c\n"));
                fs::rename(&current, folder.path().join("1")).unwrap();
                append(record(4, 1, b"d\n"));
            }
            2 => append(record(5, 1, b"e\n")[..10].to_vec()),
            3 => append(record(5, 1, b"e\n")[10..].to_vec()),
            _ => return false,
        }
        true
    };
    let mut all = Vec::new();
    read(folder.path(), &Query { follow: true, ..everything() }, running, &mut |line| {
        all.push(String::from_utf8(line.text).unwrap());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(all, ["a", "b", "c", "d", "e"]);
}
