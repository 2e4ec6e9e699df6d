//! Logs that a crash, a disk or somebody has damaged.

use super::*;

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
    for tail in [None, Some(9)] {
        let query = Query { tail, ..Query::default() };
        assert_eq!(show(&all(folder.path(), &query)), [&damaged(18), "o:2", "o:3"]);
    }
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
