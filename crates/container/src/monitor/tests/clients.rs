//! Attached clients: output without loss, input, terminals.

use super::*;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

#[test]
fn a_slow_client_gets_every_byte_and_holds_the_container_up() {
    let (case, client) = Case::new().attached();
    let mut running = case.start("seq 1 1000000; touch written; echo end >&2; exit 6");
    thread::sleep(Duration::from_millis(300));
    assert!(!running.path("written").exists(), "the container waits for the client");
    let mut got = Vec::new();
    for number in 0.. {
        match client.receive().unwrap() {
            Event::Stdout(bytes) => got.extend(bytes),
            Event::Stderr(bytes) => assert_eq!(bytes, b"end\n"),
            Event::Exited { status, oom } => {
                assert_eq!((status, oom), (6 << 8, false));
                break;
            }
            Event::Closed => panic!("closed without an end"),
        }
        if number % 50 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert_same(&got, numbers(1, 1_000_000).as_bytes());
    assert_eq!(client.receive().unwrap(), Event::Closed);
    assert_code(running.wait(), 6);
    assert_same(running.text(Stream::Stdout).as_bytes(), &got);
}

#[test]
fn the_fastest_and_the_slowest_client_get_the_same() {
    let (case, first) = Case::new().stdin().attached();
    let mut running = case.start("while read line; do echo $line; [ $line = go ] && break; done; seq 1 200000");
    let others: Vec<_> = (0..7).map(|_| running.attach()).collect();
    // Each says a word of its own and hears it, so that all are served when it begins.
    for (index, client) in others.iter().enumerate() {
        client.send_stdin(format!("word{index}\n").as_bytes()).unwrap();
        receive_until(client, &format!("word{index}\n"));
    }
    thread::scope(|scope| {
        let readers: Vec<_> = others
            .iter()
            .enumerate()
            .map(|(index, client)| {
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(20 * index as u64));
                    receive_all(client)
                })
            })
            .collect();
        first.send_stdin(b"go\n").unwrap();
        let wanted = format!("go\n{}", numbers(1, 200_000));
        for (out, err, exit) in readers.into_iter().map(|reader| reader.join().unwrap()).chain([receive_all(&first)]) {
            let start = out.windows(4).position(|bytes| bytes == b"go\n1").unwrap();
            assert_same(&out[start..], wanted.as_bytes());
            assert_eq!((err.len(), exit), (0, Some((0, false))));
        }
    });
    assert_code(running.wait(), 0);
}

#[test]
fn clients_come_and_go_and_a_ninth_is_turned_away() {
    let case = Case::new().stdin().more(&["interactive=1"]);
    let mut running = case.start("while read line; do echo \"got $line\"; done");
    let mut clients: Vec<_> = (0..8).map(|_| running.attach()).collect();
    clients[0].send_stdin(b"hello\n").unwrap();
    // Those that were accepted after that have nothing to hear yet.
    assert_eq!(receive_until(&clients[0], "\n"), "got hello\n");
    clients[7].send_stdin(b"all\n").unwrap();
    for client in &clients {
        receive_until(client, "got all\n");
    }
    let ninth = running.attach();
    assert_eq!(ninth.receive().unwrap(), Event::Closed);
    clients[2].send_stdin(b"unread\n").unwrap();
    receive_until(&clients[0], "got unread\n");
    // Some hang up without having read that.
    clients.truncate(2);
    clients[1].send_stdin(b"again\n").unwrap();
    assert_eq!(receive_until(&clients[0], "\n"), "got again\n");
    drop(clients);
    let late = running.attach();
    late.send_stdin(b"late\n").unwrap();
    assert_eq!(receive_until(&late, "\n"), "got late\n");
    late.send_eof().unwrap();
    assert_eq!(receive_all(&late).2, Some((0, false)));
    assert_code(running.wait(), 0);
    assert_eq!(running.text(Stream::Stdout), "got hello\ngot all\ngot unread\ngot again\ngot late\n");
}

#[test]
fn a_client_that_does_not_read_delays_no_end_and_still_gets_all() {
    let (case, client) = Case::new().fifo("go").attached();
    let mut running = case.start("seq 1 1000000 & read line <go; kill $!; exit 2");
    // Socket and pipe are full by then.
    thread::sleep(Duration::from_millis(200));
    running.go();
    let started = Instant::now();
    assert_code(running.wait(), 2);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let (out, _, exit) = receive_all(&client);
    assert_eq!(exit, Some((2 << 8, false)));
    assert!(out.len() > 100 << 10, "{}", out.len());
    assert_same(&out, &numbers(1, 1_000_000).as_bytes()[..out.len()]);
    assert_same(running.text(Stream::Stdout).trim_end().as_bytes(), out.trim_ascii_end());
}

#[test]
fn a_client_that_comes_at_the_end_hears_of_it() {
    // A slow one keeps the monitor from looking at newcomers: it is stopped.
    let mut running = Case::new().fifo("go").start("read line <go; exit 4");
    kill_process(running.pid(), Signal::STOP).unwrap();
    let late: Vec<_> = (0..3).map(|_| running.attach()).collect();
    running.go();
    let init = running.init().unwrap();
    eventually("the command has ended", || {
        fs::read_to_string(format!("/proc/{}/stat", init.as_raw_nonzero())).unwrap().contains(") Z ").then_some(())
    });
    kill_process(running.pid(), Signal::CONT).unwrap();
    for client in &late {
        assert_eq!(receive_all(client).2, Some((4 << 8, false)));
    }
    assert_code(running.wait(), 4);
}

#[test]
fn a_dead_client_leaves_the_container_running() {
    let (case, client) = Case::new().attached();
    let mut running = case.start("seq 1 300000; exit 1");
    // Its socket is full by then.
    thread::sleep(Duration::from_millis(100));
    drop(client);
    assert_code(running.wait(), 1);
    assert_same(running.text(Stream::Stdout).as_bytes(), numbers(1, 300_000).as_bytes());
}

#[test]
fn a_killed_monitor_hangs_up_and_its_successor_serves() {
    let (case, first) = Case::new().fifo("go").fifo("on").attached();
    let mut running = case.start("echo one; read line <go; echo two; read line <on; echo three; exit 4");
    receive_until(&first, "one\n");
    let init = running.init().unwrap();
    kill_process(running.pid(), Signal::KILL).unwrap();
    running.monitor.wait().unwrap();
    assert_eq!(first.receive().unwrap(), Event::Closed);
    // Nobody is there to read it.
    running.go();
    let mut running = running.replace(init);
    eventually("what was written meanwhile is logged", || (running.text(Stream::Stdout) == "one\ntwo\n").then_some(()));
    let second = running.attach();
    fs::write(running.path("on"), "go\n").unwrap();
    let (out, _, exit) = receive_all(&second);
    assert_eq!(out, b"three\n");
    assert!(matches!(exit, Some((status, false)) if status == 4 << 8 || status == -1), "{exit:?}");
    running.wait();
    assert_eq!(running.text(Stream::Stdout), "one\ntwo\nthree\n");
}

/// Sends all, and receives meanwhile.
fn exchange(client: &Client, mut input: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    let mut ended = false;
    loop {
        let wanted = if ended { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        poll(&mut [PollFd::new(client, wanted)], None).unwrap();
        while !input.is_empty() {
            match client.send_stdin(input) {
                Ok(count) => input = &input[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        if input.is_empty() && !ended {
            ended = client.send_eof().is_ok();
        }
        while let Some(event) = try_receive(client) {
            match event {
                Event::Stdout(bytes) => output.extend(bytes),
                Event::Exited { status: 0, .. } => return output,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn input_of_any_size_arrives_and_ends() {
    for size in [0, 1, 16 << 10, 5_000_000] {
        let (case, client) = Case::new().stdin().attached();
        let mut running = case.start("cat");
        let input: Vec<u8> = (0..=250).cycle().take(size).collect();
        assert_same(&exchange(&client, &input), &input);
        assert_code(running.wait(), 0);
    }
}

#[test]
fn input_that_nobody_reads_holds_nothing_up() {
    for command in ["exec <&-; echo ready; read line <go; exit 3", "echo ready; read line <go; exit 3"] {
        let (case, client) = Case::new().stdin().fifo("go").attached();
        let mut running = case.start(command);
        receive_until(&client, "ready\n");
        for _ in 0..100 {
            client.send_stdin(&[b'x'; 16 << 10]).ok();
        }
        drop(client);
        let before = fs::read_to_string(format!("/proc/{}/schedstat", running.monitor.id())).unwrap();
        let before: u64 = before.split(' ').next().unwrap().parse().unwrap();
        thread::sleep(Duration::from_millis(100));
        let after = fs::read_to_string(format!("/proc/{}/schedstat", running.monitor.id())).unwrap();
        let after: u64 = after.split(' ').next().unwrap().parse().unwrap();
        assert!(after - before < 20_000_000, "spins: {command}");
        let other = running.attach();
        running.go();
        assert_eq!(receive_all(&other).2, Some((3 << 8, false)));
        assert_code(running.wait(), 3);
    }
}

#[test]
fn clients_that_are_gone_hold_no_place_while_input_is_stuck() {
    let (case, first) = Case::new().stdin().more(&["interactive=1"]).fifo("go").attached();
    let mut running = case.start("echo ready; read line <go; echo on; exit 3");
    receive_until(&first, "ready\n");
    for _ in 0..100 {
        first.send_stdin(&[b'x'; 16 << 10]).ok();
    }
    let mut clients: Vec<_> = (0..7).map(|_| running.attach()).collect();
    clients.push(first);
    for _ in 0..3 {
        drop(clients);
        clients = (0..8).map(|_| running.attach()).collect();
    }
    // Those that are alive keep theirs.
    assert_eq!(running.attach().receive().unwrap(), Event::Closed);
    running.go();
    for client in &clients {
        let (out, _, exit) = receive_all(client);
        assert_eq!((String::from_utf8(out).unwrap().as_str(), exit), ("on\n", Some((3 << 8, false))));
    }
    assert_code(running.wait(), 3);
}

#[test]
fn what_a_client_sent_before_it_left_is_not_lost_to_the_next() {
    let case = Case::new().stdin().more(&["interactive=1"]);
    let mut running = case.start("cat");
    // Nobody looks at them until all have come and gone, and a ninth has come.
    kill_process(running.pid(), Signal::STOP).unwrap();
    for number in 0..8 {
        running.attach().send_stdin(format!("{number}\n").as_bytes()).unwrap();
    }
    let ninth = running.attach();
    kill_process(running.pid(), Signal::CONT).unwrap();
    let mut seen: Vec<_> = Vec::new();
    eventually("all is there", || {
        seen = running.text(Stream::Stdout).lines().map(str::to_owned).collect();
        (seen.len() == 8).then_some(())
    });
    seen.sort();
    assert_eq!(seen, (0..8).map(|number| number.to_string()).collect::<Vec<_>>());
    ninth.send_eof().unwrap();
    assert_eq!(receive_all(&ninth).2, Some((0, false)));
    assert_code(running.wait(), 0);
}

#[test]
fn input_ends_with_the_last_client_unless_it_is_to_stay() {
    let (case, client) = Case::new().stdin().attached();
    let mut running = case.start("cat; exit 8");
    client.send_stdin(b"from one who left\n").unwrap();
    drop(client);
    assert_code(running.wait(), 8);
    assert_eq!(running.text(Stream::Stdout), "from one who left\n");

    let (case, client) = Case::new().stdin().more(&["interactive=1"]).attached();
    let mut running = case.start("cat; exit 8");
    client.send_stdin(b"one\n").unwrap();
    drop(client);
    eventually("the first line", || (running.text(Stream::Stdout) == "one\n").then_some(()));
    thread::sleep(Duration::from_millis(50));
    assert!(running.monitor.try_wait().unwrap().is_none(), "still open");
    let client = running.attach();
    client.send_stdin(b"two\n").unwrap();
    client.send_eof().unwrap();
    assert_code(running.wait(), 8);
    assert_eq!(running.text(Stream::Stdout), "one\ntwo\n");
}

fn terminal() -> (OwnedFd, String) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    (master, name)
}

#[test]
fn a_terminal_outlives_its_clients() {
    let (mut case, client) = Case::new().attached();
    case.terminal = Some(terminal());
    let mut running = case.start("stty -echo; echo ready; while read line; do echo \"got $line\"; done; exit 9");
    receive_until(&client, "ready\r\n");
    drop(client);
    // What the terminal's reader is to see of that stands before what the next client types.
    eventually("the last client is seen to be gone", || {
        let sockets = fs::read_dir(format!("/proc/{}/fd", running.monitor.id())).unwrap();
        let names = sockets.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        (names.filter(|name| name.to_string_lossy().starts_with("socket:")).count() <= 1).then_some(())
    });
    let next = running.attach();
    next.send_stdin(b"hello\n").unwrap();
    receive_until(&next, "got hello\r\n");
    // One who says so ends it.
    next.send_eof().unwrap();
    assert_eq!(receive_all(&next).2, Some((9 << 8, false)));
    assert_code(running.wait(), 9);
}

#[test]
fn a_terminal_has_a_size_input_and_an_end() {
    let (mut case, client) = Case::new().attached();
    case.terminal = Some(terminal());
    client.resize(33, 132).unwrap();
    let command = "stty -echo; echo ready; read line; stty size; echo \"got $line\" >&2; \
                   while read line; do :; done; echo bye; exit 7";
    let mut running = case.start(command);
    receive_until(&client, "ready\r\n");
    client.resize(44, 99).unwrap();
    client.send_stdin(b"hello\n").unwrap();
    assert!(receive_until(&client, "got hello\r\n").contains("44 99\r\n"));
    client.send_eof().unwrap();
    let (out, err, exit) = receive_all(&client);
    assert!(String::from_utf8(out).unwrap().ends_with("bye\r\n"));
    assert_eq!((err.len(), exit), (0, Some((7 << 8, false))));
    assert_code(running.wait(), 7);
    let text = running.text(Stream::Stdout);
    assert!(text.contains("got hello\r\n") && text.ends_with("bye\r\n"), "{text:?}");
}

#[test]
fn it_is_small_has_one_thread_and_rests() {
    let (case, client) = Case::new().stdin().fifo("go").attached();
    let mut running = case.start("cat >&2; read line <go");
    let input = vec![b'x'; 1 << 20];
    let (mut sent, mut got) = (0, 0);
    while got < input.len() {
        if let Ok(count) = client.send_stdin(&input[sent..]) {
            sent += count;
        }
        while let Some(Event::Stderr(bytes)) = try_receive(&client) {
            got += bytes.len();
        }
        thread::yield_now();
    }
    let pid = running.monitor.id();
    let pss = || -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    };
    let attached = pss();
    // Its program counts less the more monitors run on the machine: this is the sum when it is alone.
    assert!(attached <= 96, "{attached} kB with a client");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("\nThreads:\t1\n"), "{status}");
    let switches = || -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse().unwrap()
    };
    thread::sleep(Duration::from_millis(50));
    let before = switches();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(switches(), before, "it wakes for nothing");
    drop(client);
    eventually("memory is given back when the last client has left", || {
        (pss() <= (attached - 24).min(64)).then_some(())
    });
    running.go();
    running.wait();
}
