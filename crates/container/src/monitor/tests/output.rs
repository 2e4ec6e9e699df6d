//! Output, and what is kept of it.

use super::*;
use std::os::unix::fs::MetadataExt;

#[test]
fn streams_are_kept_apart_with_their_times() {
    let before = jiff::Timestamp::now();
    let mut running = Case::new().start("echo one; echo two >&2; sleep 0.05; printf 'three\n\nfour'; exit 3");
    assert_code(running.wait(), 3);
    let lines = running.lines();
    let shown: Vec<_> =
        lines.iter().map(|line| (line.stream, std::str::from_utf8(&line.text).unwrap(), line.partial)).collect();
    let out: Vec<_> = shown.iter().filter(|line| line.0 == Stream::Stdout).map(|line| (line.1, line.2)).collect();
    assert_eq!(out, [("one", false), ("three", false), ("", false), ("four", true)]);
    assert!(shown.contains(&(Stream::Stderr, "two", false)));
    assert!(lines.iter().all(|line| line.time >= before && line.time <= jiff::Timestamp::now()));
    let time = |text: &[u8]| lines.iter().find(|line| line.text == text).unwrap().time;
    assert!(time(b"three").duration_since(time(b"one")).as_millis() >= 40);
}

fn sizes(log: &Path) -> Vec<u64> {
    fs::read_dir(log).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
}

/// Asserts that the log is the end of a count to `last`; the first line may have lost its beginning with a file.
fn assert_counts_to(running: &Running, last: usize) -> u64 {
    let text = running.text(Stream::Stdout);
    let (_, rest) = text.split_once('\n').unwrap();
    let first: usize = rest.split_once('\n').unwrap().0.parse().unwrap();
    assert_same(rest.as_bytes(), numbers(first, last).as_bytes());
    text.len() as u64
}

#[test]
fn the_cap_holds_and_the_end_is_kept() {
    const MAX: u64 = 65536;
    for files in [1, 2, 4] {
        let mut running = Case::new().log(MAX, files).start("seq 1 200000");
        assert_code(running.wait(), 0);
        let sizes = sizes(&running.path("log"));
        assert!(sizes.len() <= files as usize && sizes.iter().all(|&size| size <= MAX), "{sizes:?}");
        let kept = assert_counts_to(&running, 200_000);
        let least = u64::from(files - 1) * MAX * 9 / 10;
        assert!(kept > least, "{kept} bytes kept of {files} files");
    }
}

#[test]
fn a_flood_is_whole_and_the_disk_bounded() {
    let mut running = Case::new().start("seq 1 8000000");
    assert_code(running.wait(), 0);
    let sizes = sizes(&running.path("log"));
    assert!(sizes.len() == 3 && sizes.iter().all(|&size| size <= 16 << 20), "{sizes:?}");
    assert!(assert_counts_to(&running, 8_000_000) > 32 << 20, "two files are full");
}

#[test]
fn the_cap_holds_at_every_moment() {
    const MAX: u64 = 65536;
    let mut running = Case::new().log(MAX, 3).start("seq 1 2000000; seq 1 2000000 >&2");
    let log = running.path("log");
    let mut looks = 0;
    let status = loop {
        // A file is counted once under two names if it is renamed in between, so each only once.
        let mut sizes = std::collections::HashMap::new();
        for entry in fs::read_dir(&log).unwrap() {
            if let Ok(data) = entry.unwrap().metadata() {
                sizes.insert(data.ino(), data.len());
            }
        }
        assert!(sizes.values().all(|&size| size <= MAX), "{sizes:?}");
        looks += 1;
        if let Some(status) = running.monitor.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success() && looks > 10, "{looks}");
    let sizes = sizes(&log);
    assert!(sizes.len() == 3 && sizes.iter().sum::<u64>() <= 3 * MAX, "{sizes:?}");
}

/// Rotation that is more than a second apart begins a new file instead of writing over the oldest one.
#[test]
fn a_slow_log_is_rotated_and_followed_without_a_false_alarm() {
    let command = "for i in 1 2 3; do printf '%050000d\n' $i; sleep 1.1; done";
    let mut running = Case::new().log(65536, 1).start(command);
    let exit = running.path("exit");
    let query = Query { follow: true, ..Query::default() };
    let mut lines = Vec::new();
    logs::read(
        &running.path("log"),
        &query,
        || !exit.exists(),
        |line| {
            lines.push(line);
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert!(lines.iter().all(|line| line.stream == Stream::Stdout), "{:?}", lines.last());
    let ends: Vec<_> = lines.iter().filter(|line| !line.partial).map(|line| line.text.last().copied()).collect();
    assert_eq!(ends, [Some(b'1'), Some(b'2'), Some(b'3')]);
    assert_eq!(lines.iter().map(|line| line.text.len()).sum::<usize>(), 150_000);
    assert_code(running.wait(), 0);
    assert_eq!(sizes(&running.path("log")).len(), 1);
}

#[test]
fn what_both_pipes_hold_at_the_end_is_kept() {
    let command = "head -c 60000 /dev/zero | tr '\\0' e >&2; head -c 60000 /dev/zero | tr '\\0' o";
    let mut running = Case::new().start(command);
    assert_code(running.wait(), 0);
    assert_same(running.text(Stream::Stdout).as_bytes(), &[b'o'; 60000]);
    assert_same(running.text(Stream::Stderr).as_bytes(), &[b'e'; 60000]);
}

#[test]
fn a_stranger_who_goes_on_writing_does_not_hold_the_end_up() {
    let mut running = Case::new().fifo("go").start("read line <go; exit 3");
    let pipe = File::options().read(true).write(true).open(running.path("out")).unwrap();
    let mut stranger = Command::new("yes").stdout(pipe).spawn().unwrap();
    eventually("the stranger's output is logged", || {
        sizes(&running.path("log")).iter().any(|&size| size > 1 << 20).then_some(())
    });
    running.go();
    assert_code(running.wait(), 3);
    assert!(stranger.try_wait().unwrap().is_none(), "it still writes");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_container_that_reads_its_own_output_stops_nobody() {
    let command = "cat <&1 >/dev/null & seq 1 1000000; seq 1 1000000 >&2; kill $!; exit 3";
    let mut running = Case::new().start(command);
    assert_eq!(running.wait().code, Some(3));
    assert!(running.text(Stream::Stderr).ends_with("\n1000000\n"));
}

/// User and system time so far, ticks of 10 ms.
fn cpu_ticks(running: &Running) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", running.monitor.id())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn closed_output_is_no_end() {
    let mut running = Case::new().fifo("go").start("echo said; exec >&- 2>&-; read line <go; exit 5");
    eventually("the output is logged", || (running.text(Stream::Stdout) == "said\n").then_some(()));
    let before = cpu_ticks(&running);
    thread::sleep(Duration::from_millis(200));
    assert!(cpu_ticks(&running) - before < 5, "it spins on a closed pipe");
    running.go();
    assert_code(running.wait(), 5);
}

#[test]
fn a_full_disk_costs_output_but_neither_time_nor_the_exit_code() {
    let case = Case::new().fifo("go").more(&["log=small/log", "exit=small/exit"]);
    let small = case.path("small");
    let _tmpfs = Tmpfs::mount(&small, MountFlags::empty(), "size=256k");
    let log = small.join("log");
    fs::create_dir(&log).unwrap();
    // Its removal makes room later.
    fs::write(small.join("filler"), vec![0; 64 << 10]).unwrap();
    let mut running = case.start("seq 1 300000; echo >go1; read line <go; echo; echo after; seq 1 300000; exit 9");
    eventually("the command has written all", || running.path("go1").exists().then_some(()));
    assert!(lines_of(&log, &Query::default()).len() > 1000, "what fits is kept");
    fs::remove_file(small.join("filler")).unwrap();
    eventually("the gap is told once there is room", || {
        lines_of(&log, &Query::default()).iter().any(|line| line.stream == Stream::Notice).then_some(())
    });
    running.go();
    let status = eventually("the monitor ends", || running.monitor.try_wait().unwrap());
    assert!(status.success());
    let exit = Exit::read(&small.join("exit")).unwrap().expect("an exit file, in spite of the full disk");
    assert_eq!(exit.code, Some(9));
    let lines = lines_of(&log, &Query::default());
    assert!(lines.iter().any(|line| line.text == b"after"));
    let told: u64 = lines
        .iter()
        .filter(|line| line.stream == Stream::Notice)
        .map(|line| String::from_utf8_lossy(&line.text).split(' ').next().unwrap()[1..].parse::<u64>().unwrap())
        .sum();
    let total = 2 * numbers(1, 300_000).len() as u64 + 7;
    assert_eq!(payload(&log) + exit.dropped, total, "every byte is kept or counted");
    assert!(told > 0 && told <= exit.dropped, "{told} of {} told", exit.dropped);
}

#[test]
fn a_client_misses_nothing_on_a_full_disk() {
    let (case, client) = Case::new().more(&["log=small/log"]).attached();
    let small = case.path("small");
    let _tmpfs = Tmpfs::mount(&small, MountFlags::empty(), "size=64k");
    fs::create_dir(small.join("log")).unwrap();
    let mut running = case.start("seq 1 100000; exit 2");
    let (out, _, exit) = receive_all(&client);
    assert_same(&out, numbers(1, 100_000).as_bytes());
    assert_eq!(exit, Some((2 << 8, false)));
    let exit = running.wait();
    assert_eq!(payload(&small.join("log")) + exit.dropped, out.len() as u64);
}

#[test]
fn an_exit_file_is_worth_more_than_the_oldest_log() {
    let case = Case::new().log(65536, 3).fifo("go").more(&["log=small/log", "exit=small/exit"]);
    let small = case.path("small");
    let _tmpfs = Tmpfs::mount(&small, MountFlags::empty(), "size=256k");
    fs::create_dir(small.join("log")).unwrap();
    let mut running = case.start("seq 1 40000; echo >go1; read line <go; exit 9");
    eventually("the command has written all", || running.path("go1").exists().then_some(()));
    eventually("the pipe is empty", || {
        lines_of(&small.join("log"), &Query::default()).last().is_some_and(|line| line.text == b"40000").then_some(())
    });
    assert_eq!(sizes(&small.join("log")).len(), 3);
    // Someone cleans up, and the disk fills.
    fs::remove_file(small.join("exit.tmp")).unwrap();
    fs::write(small.join("filler"), vec![0; 1 << 20]).unwrap_err();
    running.go();
    let status = eventually("the monitor ends", || running.monitor.try_wait().unwrap());
    assert!(status.success());
    assert_eq!(Exit::read(&small.join("exit")).unwrap().expect("an exit file").code, Some(9));
}

/// Bytes of output in a log, all of whose records are whole.
fn payload(log: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(log).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (header, tail) = rest.split_at(16);
            assert_eq!(header[14..], [0x4c, 0x4a]);
            let length = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
            sum += if header[12] == 0 { 0 } else { length as u64 };
            rest = &tail[length..];
        }
    }
    sum
}

#[test]
fn a_log_folder_that_is_missing_drops_all_and_stops_nothing() {
    let mut running = Case::new().more(&["log=nowhere"]).start("seq 1 1000; exit 4");
    let exit = running.wait();
    assert_eq!((exit.code, exit.dropped), (Some(4), numbers(1, 1000).len() as u64));
}

fn record(stream: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut record = 1_700_000_000_000_000_000u64.to_le_bytes().to_vec();
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&[stream, 0, 0x4c, 0x4a]);
    record.extend_from_slice(payload);
    record
}

#[test]
fn what_a_killed_monitor_left_is_mended() {
    let whole = [record(1, 4, b"one\n"), record(2, 4, b"err\n")].concat();
    let hole = [vec![0; 16], b"bytes without a header".to_vec()].concat();
    for (torn, kept) in [
        (Vec::new(), ""),
        (record(1, 4, b"")[..9].to_vec(), ""),
        (record(1, 400, b""), ""),
        (record(1, 400, b"half"), "half"),
        (record(2, 8, b"x"), "x"),
        (record(0, 8, b"abc"), ""),
        (record(7, 4, b"abcd"), ""),
        (hole, ""),
    ] {
        let case = Case::new();
        fs::write(case.path("log/current"), [&whole[..], &torn].concat()).unwrap();
        let mut running = case.start("echo new");
        assert_code(running.wait(), 0);
        let text: String =
            running.lines().iter().map(|line| String::from_utf8_lossy(&line.text).into_owned() + "|").collect();
        let wanted = match kept {
            "half" => "one|err|halfnew|",
            "x" => "one|err|new|x|",
            _ => "one|err|new|",
        };
        assert_eq!(text, wanted, "after {torn:?}");
        assert_eq!(payload(&running.path("log")), 12 + kept.len() as u64);
    }
}

#[test]
fn a_log_of_many_records_is_continued() {
    let case = Case::new();
    let old: Vec<u8> = (0..20_000).flat_map(|number| record(1, 6, format!("{number:05}\n").as_bytes())).collect();
    fs::write(case.path("log/current"), &old).unwrap();
    let mut running = case.start("echo new");
    assert_code(running.wait(), 0);
    let lines = running.lines();
    assert_eq!((lines.len(), &lines[19_999].text[..], &lines[20_000].text[..]), (20_001, &b"19999"[..], &b"new"[..]));
}

#[test]
fn a_follower_reads_every_line_across_rotations() {
    let mut running = Case::new().log(65536, 1000).start("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo $i; done");
    let query = Query { follow: true, ..Query::default() };
    let exit = running.path("exit");
    let mut text = Vec::new();
    logs::read(
        &running.path("log"),
        &query,
        || !exit.exists(),
        |line| {
            text.extend_from_slice(&line.text);
            text.push(b'\n');
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert_same(&text, numbers(1, 30_000).as_bytes());
    assert_code(running.wait(), 0);
}

#[test]
fn a_follower_of_a_flood_is_told_what_it_misses_and_reads_nothing_wrong() {
    let mut running = Case::new().log(65536, 3).start("seq 1 4000000");
    let exit = running.path("exit");
    let query = Query { follow: true, ..Query::default() };
    let mut lines = Vec::new();
    logs::read(
        &running.path("log"),
        &query,
        || !exit.exists(),
        |line| {
            lines.push(line);
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    let is_notice = |index: usize| lines.get(index).is_none_or(|line: &Line| line.stream == Stream::Notice);
    let mut last = 0;
    for (index, line) in lines.iter().enumerate() {
        // A line is cut where something is missing, as before the first one.
        if index == 0 || is_notice(index) || is_notice(index + 1) && index + 1 < lines.len() {
            continue;
        }
        if index > 0 && is_notice(index - 1) {
            last = 0;
            continue;
        }
        let text = std::str::from_utf8(&line.text).unwrap();
        let number: usize = text.parse().unwrap();
        assert!(last == 0 || number == last + 1, "{number} after {last}");
        last = number;
    }
    assert_eq!(last, 4_000_000);
    assert_code(running.wait(), 0);
}
