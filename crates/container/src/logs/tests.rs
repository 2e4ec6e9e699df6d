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

mod damage;

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
fn a_tail_is_whole_though_its_beginning_is_files_away() {
    let folder = log(&[
        ("4", vec![record(1, OUT, "old\nbegin ")]),
        ("3", vec![record(3, ERR, "one\n")]),
        ("2", vec![record(3, OUT, "middle ")]),
        ("1", vec![record(4, ERR, "two\n")]),
        ("current", vec![record(5, OUT, "end\n"), record(6, ERR, "3\n4\n5\n6\n7\n")]),
    ]);
    let ask = |query: Query| show(&all(folder.path(), &query));
    assert_eq!(ask(Query { tail: Some(6), ..Query::default() })[0], "o:begin middle end");
    assert_eq!(ask(Query { tail: Some(1), stderr: false, ..Query::default() }), ["o:begin middle end"]);
    let since = Some(at(2));
    assert_eq!(ask(Query { tail: Some(7), since, ..Query::default() })[..2], ["e:one", "e:two"]);
    assert_eq!(ask(Query { tail: Some(1), since, stderr: false, ..Query::default() }), [""; 0]);
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
fn a_follower_wants_what_it_was_asked_for() {
    let records = vec![record(1, ERR, "e1\n"), record(2, ERR, "e2\n"), record(3, OUT, "o3\n"), record(4, ERR, "e4\ne")];
    let folder = log(&[("current", records)]);
    let path = folder.path().join("current");
    let step = Cell::new(0);
    let running = || {
        step.set(step.get() + 1);
        if step.get() == 2 {
            let more = [record(5, OUT, "o5\n"), record(6, ERR, "6\ne7\n")].concat();
            File::options().append(true).open(&path).unwrap().write_all(&more).unwrap();
        }
        step.get() < 3
    };
    let (since, until) = (Some(at(2)), Some(Timestamp::now() + Duration::from_secs(3600)));
    let query = Query { since, until, tail: Some(2), stdout: false, stderr: true, follow: true };
    let mut lines = Vec::new();
    read(folder.path(), &query, running, |line| {
        lines.push(line);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(show(&lines), ["e:e2", "e:e4", "e:e6", "e:e7"]);
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
