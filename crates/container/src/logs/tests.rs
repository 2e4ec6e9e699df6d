//! Logs written here as a monitor writes them; the tests of the monitor read its own with the same functions.

use super::{
    records::{HEADER, MAGIC},
    *,
};
use proptest::prelude::*;
use std::{
    cell::Cell,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use tempfile::TempDir;

const OUT: u8 = 1;
const ERR: u8 = 2;
const SECOND: u64 = 1_000_000_000;

fn header(seconds: u64, stream: u8, length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&(seconds * SECOND).to_le_bytes());
    header[8..12].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
    header[12] = stream;
    header[14..].copy_from_slice(&MAGIC.to_le_bytes());
    header
}

fn record(seconds: u64, stream: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&header(seconds, stream, bytes.len())[..], bytes].concat()
}

fn log(files: &[(&str, Vec<Vec<u8>>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, records) in files {
        fs::write(folder.path().join(name), records.concat()).unwrap();
    }
    folder
}

fn all(folder: &Path, query: &Query) -> Vec<Line> {
    let mut lines = Vec::new();
    read(
        folder,
        query,
        || false,
        |line| {
            lines.push(line);
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    lines
}

/// `o:text`, with `…` for what has no newline.
fn show(lines: &[Line]) -> Vec<String> {
    let show = |line: &Line| {
        let stream = match line.stream {
            Stream::Stdout => "o",
            Stream::Stderr => "e",
            Stream::Notice => "n",
        };
        let end = if line.partial { "…" } else { "" };
        format!("{stream}:{}{end}", String::from_utf8_lossy(&line.text))
    };
    lines.iter().map(show).collect()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap()
}

#[test]
fn lines_are_put_together_by_stream_across_chunks_and_files() {
    let folder = log(&[
        ("2", vec![record(1, OUT, "one\ntw"), record(2, ERR, "wr")]),
        ("1", vec![record(3, OUT, "o\n\nthr"), record(4, ERR, "ong\n")]),
        ("current", vec![record(5, OUT, "ee\nrest"), record(6, ERR, "e\n")]),
    ]);
    let lines = all(folder.path(), &Query::default());
    assert_eq!(show(&lines), ["o:one", "o:two", "o:", "e:wrong", "o:three", "e:e", "o:rest…"]);
    let times: Vec<_> = lines.iter().map(|line| line.time.as_second()).collect();
    assert_eq!(times, [1, 1, 3, 2, 3, 6, 5], "that of the first byte");
}

#[test]
fn a_long_line_comes_in_parts() {
    let long = |length| "x".repeat(length);
    for length in [LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1, 3 * LONGEST_LINE, 200_000] {
        let text = long(length) + "\nnext\n";
        let records = text.as_bytes().chunks(70_001).map(|chunk| record(1, OUT, chunk)).collect();
        let lines = all(log(&[("current", records)]).path(), &Query::default());
        let (last, parts) = lines.split_last().unwrap();
        assert_eq!(show(std::slice::from_ref(last)), ["o:next"]);
        assert_eq!(parts.len(), length.div_ceil(LONGEST_LINE));
        assert_eq!(parts.iter().map(|part| part.text.len()).sum::<usize>(), length);
        let (end, before) = parts.split_last().unwrap();
        assert!(!end.partial && before.iter().all(|part| part.partial && part.text.len() == LONGEST_LINE));
    }
}

#[test]
fn what_was_dropped_is_told_where_it_is_missing() {
    let dropped = record(2, 0, 1234u64.to_le_bytes());
    let folder =
        log(&[("current", vec![record(1, OUT, "cut o"), record(1, ERR, "err"), dropped, record(3, OUT, "n\n")])]);
    let lines = all(folder.path(), &Query::default());
    let notice = "n:[1234 bytes of output are missing here: they could not be written]";
    assert_eq!(show(&lines), ["o:cut o", "e:err", notice, "o:n"]);
    let lines = all(folder.path(), &Query { stderr: false, ..Query::default() });
    assert_eq!(show(&lines), ["o:cut o", "o:n"]);
}

#[test]
fn streams_and_times_are_chosen() {
    let records = (1..=9).map(|time| record(time, if time % 2 == 0 { ERR } else { OUT }, format!("{time}\n")));
    let folder = log(&[("current", records.collect())]);
    let ask = |query: Query| show(&all(folder.path(), &query)).concat();
    assert_eq!(ask(Query { stdout: false, ..Query::default() }), "e:2e:4e:6e:8");
    assert_eq!(ask(Query { stderr: false, ..Query::default() }), "o:1o:3o:5o:7o:9");
    assert_eq!(ask(Query { since: Some(at(7)), ..Query::default() }), "o:7e:8o:9");
    assert_eq!(ask(Query { until: Some(at(3)), ..Query::default() }), "o:1e:2o:3");
    assert_eq!(ask(Query { since: Some(at(4)), until: Some(at(6)), ..Query::default() }), "e:4o:5e:6");
    assert_eq!(ask(Query { since: Some(at(4)), tail: Some(1), until: Some(at(6)), ..Query::default() }), "e:6");
    assert_eq!(ask(Query { tail: Some(2), stdout: false, ..Query::default() }), "e:6e:8");
    assert_eq!(ask(Query { since: Some(at(99)), ..Query::default() }), "");
}

#[test]
fn a_tail_reaches_over_files_and_counts_whole_lines() {
    let folder = log(&[
        ("3", vec![record(1, OUT, "1\n2\n3 be")]),
        ("2", vec![record(2, OUT, "gins\n4\n")]),
        ("1", vec![record(3, OUT, "5\n"), record(3, ERR, "6\n")]),
        ("current", vec![record(4, OUT, "7\n"), record(5, OUT, [b'x'; 40_000]), record(6, OUT, "\n8")]),
    ]);
    let tail = |count| {
        let lines = all(folder.path(), &Query { tail: Some(count), ..Query::default() });
        lines.into_iter().filter(|line| line.text.len() < 100).collect::<Vec<_>>()
    };
    assert_eq!(show(&tail(0)), [""; 0]);
    assert_eq!(show(&tail(1)), ["o:8…"]);
    assert_eq!(
        all(folder.path(), &Query { tail: Some(2), ..Query::default() }).len(),
        4,
        "the long line has three parts"
    );
    assert_eq!(show(&tail(3)), ["o:7", "o:8…"]);
    assert_eq!(show(&tail(5)), ["o:5", "e:6", "o:7", "o:8…"]);
    assert_eq!(show(&tail(7)), ["o:3 begins", "o:4", "o:5", "e:6", "o:7", "o:8…"]);
    assert_eq!(show(&tail(100)), ["o:1", "o:2", "o:3 begins", "o:4", "o:5", "e:6", "o:7", "o:8…"]);
}

#[test]
fn nothing_is_no_error_and_a_gap_neither() {
    let folder = log(&[]);
    assert_eq!(all(folder.path(), &Query::default()), []);
    assert_eq!(all(&folder.path().join("missing"), &Query::default()), []);
    assert_eq!(all(&folder.path().join("missing"), &Query { tail: Some(3), ..Query::default() }), []);
    let folder = log(&[("4", vec![record(1, OUT, "a\n")]), ("1", vec![record(2, OUT, "b\n")])]);
    assert_eq!(show(&all(folder.path(), &Query::default())), ["o:a", "o:b"]);
    fs::create_dir(folder.path().join("2")).unwrap();
    let error = read(folder.path(), &Query::default(), || false, |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains(folder.path().join("2").to_str().unwrap()), "{error}");
}

fn damaged(bytes: usize) -> String {
    format!("n:[{bytes} bytes of the log are damaged and left out]")
}

/// Records that are none, and what is read in their place when they are the last of a file.
fn torn() -> Vec<(Vec<u8>, Vec<String>)> {
    let mut wrong_magic = record(1, OUT, "bad\n");
    wrong_magic[15] = 0;
    let mut flags = record(1, OUT, "bad\n");
    flags[13] = 1;
    vec![
        (Vec::new(), vec![]),
        (header(1, OUT, 5)[..7].to_vec(), vec![]),
        (header(1, OUT, 5).to_vec(), vec![]),
        (vec![0; 5000], vec![]),
        ([&[0; HEADER], &record(1, OUT, "old\n")[..]].concat(), vec![]),
        ([&header(1, 0, 8)[..], b"1234"].concat(), vec![]),
        ([&header(1, OUT, 6)[..], b"1234\n"].concat(), vec!["o:1234".into()]),
        (record(1, 3, "bad\n"), vec![damaged(20)]),
        (record(0, OUT, "bad\n"), vec![damaged(20)]),
        (record(1, 0, "bad\n"), vec![damaged(20)]),
        (wrong_magic, vec![damaged(20)]),
        (flags, vec![damaged(20)]),
        (b"no log at all".repeat(20_000), vec![damaged(260_000)]),
    ]
}

#[test]
fn what_is_not_whole_is_read_as_far_as_it_goes() {
    let whole = record(1, OUT, "whole\n");
    let next = record(2, OUT, "next\n");
    for (torn, wanted) in torn() {
        let all_of = |files: &[(&str, Vec<Vec<u8>>)]| show(&all(log(files).path(), &Query::default()));
        let wanted = |before: &[&str], after: &[&str]| -> Vec<String> {
            let own = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
            [own(before), wanted.clone(), own(after)].concat()
        };
        let files = [("1", vec![whole.clone(), torn.clone()]), ("current", vec![next.clone()])];
        assert_eq!(all_of(&files), wanted(&["o:whole"], &["o:next"]), "rotated, after {torn:?}");
        let files = [("current", vec![whole.clone(), torn.clone()])];
        assert_eq!(all_of(&files), wanted(&["o:whole"], &[]), "ended, after {torn:?}");
    }
}

#[test]
fn what_is_not_whole_is_left_alone_while_it_may_still_be_written() {
    for (torn, _) in torn() {
        let folder = log(&[("current", vec![record(1, OUT, "whole\n"), torn])]);
        let mut lines = Vec::new();
        read(
            folder.path(),
            &Query::default(),
            || true,
            |line| {
                lines.push(line);
                ControlFlow::Continue(())
            },
        )
        .unwrap();
        assert_eq!(show(&lines), ["o:whole"]);
    }
}

#[test]
fn reading_goes_on_after_damage() {
    let records = |range: std::ops::Range<u64>| range.map(|time| record(time, OUT, format!("{time}\n"))).collect();
    let middle = |bytes: &[u8]| -> Vec<u8> {
        let (before, after): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (records(10..13), records(15..17));
        [&before.concat(), bytes, &after.concat()].concat()
    };
    let zeros = vec![0; 3000];
    let too_long = [&header(13, OUT, 1 << 30)[..], b"cut"].concat();
    let in_the_past = [vec![1], record(3, OUT, "older than what was read\n"), vec![1]].concat();
    let not_followed = [&b"x"[..], &record(13, OUT, "record in a record\n"), b"y"].concat();
    let far = vec![b'x'; 300_000];
    for bytes in [zeros, too_long, in_the_past, not_followed, far] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("1"), middle(&bytes)).unwrap();
        fs::write(folder.path().join("current"), record(20, ERR, "20\n")).unwrap();
        let notice = damaged(bytes.len());
        let wanted = ["o:10", "o:11", "o:12", &notice, "o:15", "o:16", "e:20"];
        assert_eq!(show(&all(folder.path(), &Query::default())), wanted);
        let tail = Query { tail: Some(3), ..Query::default() };
        assert_eq!(show(&all(folder.path(), &tail)), wanted[4..]);
    }
    // The very first header.
    let mut first: Vec<Vec<u8>> = records(1..4);
    first[0][15] ^= 1;
    let folder = log(&[("1", first.clone()), ("current", vec![record(5, OUT, "5\n")])]);
    assert_eq!(show(&all(folder.path(), &Query::default())), [&damaged(18), "o:2", "o:3", "o:5"]);
    let folder = log(&[("current", first)]);
    assert_eq!(show(&all(folder.path(), &Query::default())), [&damaged(18), "o:2", "o:3"]);
}

/// Random numbers, the same in each run (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((number ^ number >> 31) % bound as u64).unwrap()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}

/// What a log's file may have become: the bytes from `from` to `to` are not what they were.
fn damage(file: &mut Vec<u8>, random: &mut Random) -> (usize, usize) {
    let from = random.below(file.len());
    let length = 1 + random.below(200.min(file.len() - from));
    match random.below(5) {
        0 => {
            let end = file.len();
            file.truncate(from);
            (from, end)
        }
        1 => {
            let noise = random.bytes(length);
            file[from..from + length].copy_from_slice(&noise);
            (from, from + length)
        }
        2 => {
            file[from..from + length].fill(0);
            // Zeros may be the end.
            (from, file.len())
        }
        3 => {
            file.drain(from..from + length);
            (from, from + length)
        }
        _ => {
            file[from] ^= 1 << random.below(8);
            (from, from + 1)
        }
    }
}

/// Whatever happens to a file, reading ends, and everything comes that is whole: before the damage in any case, and
/// after it from the second record on, unless a length was hit that leads somewhere else.
#[test]
fn no_damage_makes_reading_fail() {
    let mut random = Random(20_260_101);
    let (mut lost, mut whole) = (0, 0);
    for _ in 0..400 {
        let folder = tempfile::tempdir().unwrap();
        let (mut number, mut safe, mut likely) = (0, Vec::new(), Vec::new());
        let hit = random.below(3);
        for (place, name) in ["2", "1", "current"].iter().enumerate() {
            let (mut file, mut spans) = (Vec::new(), Vec::new());
            for _ in 0..1 + random.below(60) {
                number += 1;
                let text = format!("#{number}{}\n", "x".repeat(random.below(120)));
                let start = file.len();
                file.extend(record(number, if random.below(2) == 0 { OUT } else { ERR }, &text));
                spans.push((start, file.len(), text.trim_end().to_owned()));
            }
            let (from, to) = if place == hit { damage(&mut file, &mut random) } else { (file.len(), file.len()) };
            let after = spans.iter().position(|(start, ..)| *start >= to).unwrap_or(spans.len());
            for (index, (_, end, text)) in spans.into_iter().enumerate() {
                if end <= from {
                    safe.push(text);
                } else if index > after {
                    likely.push(text);
                }
            }
            fs::write(folder.path().join(name), file).unwrap();
        }
        let lines = all(folder.path(), &Query::default());
        let texts: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect();
        let mut rest = texts.iter();
        for text in &safe {
            // Where a newline is gone, it is the end of a longer line.
            assert!(rest.any(|line| line.ends_with(text)), "{text} is missing, or not in its place");
        }
        let is_there = likely.iter().all(|text| texts.iter().any(|line| line.ends_with(text)));
        if is_there {
            whole += 1
        } else {
            lost += 1
        }
        for tail in [0, 1, 7, 1000] {
            let query = Query { tail: Some(tail), stderr: false, ..Query::default() };
            assert!(all(folder.path(), &query).len() <= tail);
        }
    }
    assert!(whole > 20 * lost, "{lost} of {} lost more than they had to", whole + lost);
}

/// Nothing but noise, with and without headers in it.
#[test]
fn noise_makes_reading_neither_fail_nor_go_on_for_ever() {
    let mut random = Random(7);
    for round in 0..300 {
        let folder = tempfile::tempdir().unwrap();
        let mut size = 0;
        for name in ["3", "1", "current", "x", "next"] {
            let length = random.below(3000);
            let mut file = random.bytes(length);
            for _ in 0..random.below(8) {
                let length = random.below(2 * file.len() + 10);
                let stream = u8::try_from(random.below(4)).unwrap();
                let at = random.below(file.len() + 1);
                file.splice(at..at, header(random.below(20) as u64, stream, length));
            }
            size += file.len();
            fs::write(folder.path().join(name), file).unwrap();
        }
        let left = Cell::new(2);
        let running = || left.replace(left.get() - 1) > 0;
        let query = Query { follow: round % 25 == 0, ..Query::default() };
        let mut read_bytes = 0;
        read(folder.path(), &query, running, |line| {
            read_bytes += if line.stream == Stream::Notice { 0 } else { line.text.len() };
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(read_bytes <= size, "{read_bytes} of {size} bytes");
    }
}

#[test]
fn the_sink_can_stop() {
    let folder = log(&[("current", vec![record(1, OUT, "1\n2\n3\n4\n")])]);
    for query in
        [Query::default(), Query { tail: Some(3), ..Query::default() }, Query { follow: true, ..Query::default() }]
    {
        let mut count = 0;
        read(
            folder.path(),
            &query,
            || true,
            |_| {
                count += 1;
                if count == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        )
        .unwrap();
        assert_eq!(count, 2);
    }
}

/// Writes and rotates as a monitor does.
struct Writer {
    folder: PathBuf,
    file: Option<File>,
    written: usize,
}

impl Writer {
    fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), file: None, written: 0 }
    }

    fn write(&mut self, bytes: &[u8]) {
        let path = |number: u32| self.folder.join(if number == 0 { "current".to_owned() } else { number.to_string() });
        if self.written > 2000 {
            self.file = None;
            self.written = 0;
            for number in (0..200).rev() {
                fs::rename(path(number), path(number + 1)).ok();
            }
        }
        let file = self.file.get_or_insert_with(|| File::create(path(0)).unwrap());
        file.write_all(bytes).unwrap();
        self.written += bytes.len();
    }
}

#[test]
fn a_follower_misses_nothing_while_files_rotate() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let running = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            // The folder comes late.
            thread::sleep(Duration::from_millis(20));
            fs::create_dir(&log).unwrap();
            let mut writer = Writer::new(&log);
            for number in 0..5000 {
                writer.write(&record(1, OUT, format!("{number}\n")));
                if number % 500 == 0 {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            running.store(false, Ordering::Release);
        });
        let query = Query { follow: true, ..Query::default() };
        let mut next = 0;
        read(
            &log,
            &query,
            || running.load(Ordering::Acquire),
            |line| {
                assert_eq!(line.text, next.to_string().as_bytes());
                next += 1;
                ControlFlow::Continue(())
            },
        )
        .unwrap();
        assert_eq!(next, 5000);
    });
}

/// Rotates as a monitor does in a flood, with two files.
fn recycle(folder: &Path, record: &[u8]) {
    let [one, next, current] = ["1", "next", "current"].map(|name| folder.join(name));
    fs::rename(&one, &next).unwrap();
    let file = File::options().write(true).open(&next).unwrap();
    file.write_all_at(&[0; HEADER], 0).unwrap();
    fs::rename(&current, &one).unwrap();
    fs::rename(&next, &current).unwrap();
    let (header, bytes) = record.split_at(HEADER);
    file.write_all_at(&[bytes, &[0; HEADER]].concat(), HEADER as u64).unwrap();
    file.write_all_at(header, 0).unwrap();
}

#[test]
fn a_file_that_is_recycled_under_the_reader_is_not_mixed_up() {
    let old: Vec<_> = (0..30_000).map(|number| record(1, OUT, format!("old {number:06}\n"))).collect();
    for follow in [false, true] {
        let folder = log(&[("1", old.clone()), ("current", vec![record(2, OUT, "middle\nof")])]);
        let mut lines = Vec::new();
        let runs = Cell::new(2);
        let running = || {
            runs.set(runs.get() - 1);
            runs.get() > 0
        };
        read(folder.path(), &Query { follow, ..Query::default() }, running, |line| {
            if lines.is_empty() {
                recycle(folder.path(), &record(3, OUT, " this\nnew\n"));
            }
            lines.push(line);
            ControlFlow::Continue(())
        })
        .unwrap();
        let lines = show(&lines);
        let end = lines.iter().position(|line| !line.starts_with("o:old")).unwrap();
        assert!(end > 100 && end < 10_000, "{end}: what had been read by then");
        let notice = "n:[output may be missing here: the log was rotated faster than it was read]";
        // The last line of the old content may have been cut in the middle of its record.
        let cut = usize::from(lines[end] != notice);
        let wanted: &[&str] = if follow { &["o:middle", "o:of this", "o:new"] } else { &["o:middle", "o:of…"] };
        assert_eq!(lines[end + cut], notice);
        assert_eq!(lines[end + cut + 1..], *wanted);
    }
}

#[test]
fn a_follower_goes_on_with_a_file_that_it_knew_by_another_content() {
    let folder = log(&[("1", vec![record(1, OUT, "one\n")]), ("current", vec![record(2, OUT, "two\n")])]);
    let step = Cell::new(0);
    let running = || {
        step.set(step.get() + 1);
        match step.get() {
            2 => recycle(folder.path(), &record(3, OUT, "three\n")),
            3 => recycle(folder.path(), &record(4, OUT, "four\n")),
            // Twice at once: three and four are both gone when it looks.
            4 => {
                recycle(folder.path(), &record(5, OUT, "five\n"));
                recycle(folder.path(), &record(6, OUT, "six\n"));
            }
            _ => {}
        }
        step.get() < 6
    };
    let mut lines = Vec::new();
    read(folder.path(), &Query { follow: true, ..Query::default() }, running, |line| {
        lines.push(line);
        ControlFlow::Continue(())
    })
    .unwrap();
    let notice = "n:[output may be missing here: the log was rotated faster than it was read]";
    assert_eq!(show(&lines), ["o:one", "o:two", "o:three", "o:four", notice, "o:five", "o:six"]);
}

#[test]
fn a_follower_waits_for_records_to_be_whole_and_begins_with_the_tail() {
    let folder = log(&[("current", vec![record(1, OUT, "old 1\nold 2\nunfin")])]);
    let path = folder.path().join("current");
    let append = |bytes: &[u8]| File::options().append(true).open(&path).unwrap().write_all(bytes).unwrap();
    let step = Cell::new(0);
    // Each question whether it runs comes before another look.
    let running = || {
        step.set(step.get() + 1);
        match step.get() {
            1 => {}
            2 => append(&record(2, OUT, "ished\n")),
            3 => append(&header(3, ERR, 4)),
            4 => append(b"er"),
            5 => append(b"r\n"),
            6 => append(&header(4, OUT, 100)[..10]),
            7 => {
                // A monitor that took over cuts the rest off, and goes on.
                let whole = fs::metadata(&path).unwrap().len() - 10;
                File::options().write(true).open(&path).unwrap().set_len(whole).unwrap();
                append(&record(5, OUT, "new\nend"));
            }
            _ => return false,
        }
        true
    };
    let mut lines = Vec::new();
    read(folder.path(), &Query { follow: true, tail: Some(1), ..Query::default() }, running, |line| {
        lines.push((step.get(), line));
        ControlFlow::Continue(())
    })
    .unwrap();
    let (steps, lines): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
    assert_eq!(show(&lines), ["o:old 2", "o:unfinished", "e:err", "o:new", "o:end…"]);
    assert_eq!(steps, [1, 2, 5, 7, 8]);
}

#[test]
fn a_follower_stops_at_the_time_it_was_given() {
    let folder = log(&[("current", vec![record(1, OUT, "old\n")])]);
    let until = Timestamp::now() + Duration::from_millis(50);
    let query = Query { follow: true, until: Some(until), ..Query::default() };
    let mut lines = Vec::new();
    read(
        folder.path(),
        &query,
        || true,
        |line| {
            lines.push(line);
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert_eq!(show(&lines), ["o:old"]);
    assert!(Timestamp::now() >= until);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However output is cut into chunks and files, its lines are the same.
    #[test]
    fn cuts_do_not_matter(
        text in proptest::collection::vec(prop_oneof![8 => 97u8..100, 2 => Just(b'\n')], 0..400),
        repeat in 1usize..400,
        cuts in proptest::collection::vec((1usize..70_000, any::<bool>(), any::<bool>()), 1..40),
        tail in proptest::option::of(0usize..500),
    ) {
        let text = text.repeat(repeat);
        let mut files = vec![Vec::new()];
        let mut rest = &text[..];
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let &(length, rotate, noise) = cuts.next().unwrap();
            let (chunk, after) = rest.split_at(length.min(rest.len()));
            rest = after;
            files.last_mut().unwrap().push(record(1, OUT, chunk));
            if noise {
                files.last_mut().unwrap().push(record(1, ERR, "noise"));
            }
            if rotate && files.len() < 6 {
                files.push(Vec::new());
            }
        }
        let folder = tempfile::tempdir().unwrap();
        for (number, records) in files.iter().rev().enumerate() {
            let name = if number == 0 { "current".to_owned() } else { number.to_string() };
            fs::write(folder.path().join(name), records.concat()).unwrap();
        }
        let mut wanted: Vec<Vec<&[u8]>> = Vec::new();
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            // Parts, and the newline in none of them.
            let bare = line.strip_suffix(b"\n").unwrap_or(line);
            wanted.push(if bare.is_empty() { vec![bare] } else { bare.chunks(LONGEST_LINE).collect() });
        }
        let skip = tail.map_or(0, |tail| wanted.len().saturating_sub(tail));
        let wanted: Vec<&[u8]> = wanted.into_iter().skip(skip).flatten().collect();
        let query = Query { stderr: false, tail, ..Query::default() };
        let lines = all(folder.path(), &query);
        let got: Vec<&[u8]> = lines.iter().map(|line| &line.text[..]).collect();
        prop_assert_eq!(got, wanted);
    }
}
