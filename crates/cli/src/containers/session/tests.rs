//! The loop on real sockets, pipes, terminals and processes.

use super::*;
use container::{attach::Client, options::WindowSize};
use rustix::{
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
    process::{Pid, PidfdFlags, getpid, kill_process, pidfd_open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// A monitor's end of the socket, and ours.
fn connection() -> (OwnedFd, AttachedPeer) {
    let (monitor, client) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    (monitor, AttachedPeer(Client::from_fd(client)))
}

fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    (read.into(), write.into())
}

/// A terminal: the program's side of it that types and looks, and the side that a process has as its standard streams.
fn terminal() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap();
    let slave = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
    (master.into(), slave)
}

fn packet(monitor: &OwnedFd, kind: u8, payload: &[u8]) {
    send(monitor, &[&[kind], payload].concat(), SendFlags::NOSIGNAL).unwrap();
}

fn next_packet(monitor: &OwnedFd) -> Vec<u8> {
    let mut buffer = vec![0; 32 * 1024];
    let (length, _) = recv(monitor, &mut buffer[..], RecvFlags::empty()).unwrap();
    buffer.truncate(length);
    buffer
}

fn exited(monitor: &OwnedFd, status: i32) {
    packet(monitor, 3, &[&status.to_le_bytes()[..], &[0]].concat());
}

/// Runs a session until its end with signals that mean nothing to it.
fn carry(
    peer: &mut impl Peer,
    stdin: Option<&File>,
    stdout: &File,
    stderr: &File,
    keys: Option<DetachKeys>,
) -> io::Result<End> {
    let mut signals = Signals::catch()?;
    let mut session = Session {
        stdin: stdin.map(AsFd::as_fd),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        keys,
        window: None,
        signals: &mut signals,
        on_signal: &mut |_| Reaction::GoOn,
    };
    session.run(peer)
}

fn read_all(mut file: File) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        all
    })
}

/// Bytes that show when some are lost, doubled or out of order.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from((index / 251 + index) % 256).unwrap()).collect()
}

#[test]
fn streams_stay_apart_and_the_status_comes_through() {
    let (monitor, mut peer) = connection();
    let ((out_read, out), (err_read, err)) = (pipe(), pipe());
    packet(&monitor, 1, b"to out\n");
    packet(&monitor, 2, b"to err\n");
    packet(&monitor, 3, &[0, 3, 0, 0, 1]);
    let end = carry(&mut peer, None, &out, &err, None).unwrap();
    assert_eq!(end, End::Exited { status: Some(768), oom: true });
    drop((out, err));
    assert_eq!(read_all(out_read).join().unwrap(), b"to out\n");
    assert_eq!(read_all(err_read).join().unwrap(), b"to err\n");
}

#[test]
fn a_slow_reader_loses_nothing() {
    let (monitor, mut peer) = connection();
    let ((mut out_read, out), (_err_read, err)) = (pipe(), pipe());
    let sent = pattern(3 << 20);
    let copy = sent.clone();
    let sender = thread::spawn(move || {
        copy.chunks(16 * 1024).for_each(|chunk| packet(&monitor, 1, chunk));
        exited(&monitor, 0);
        monitor // closed only after all was received
    });
    let reader = thread::spawn(move || {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 100_000]);
        loop {
            match out_read.read(&mut buffer).unwrap() {
                0 => return all,
                length => all.extend_from_slice(&buffer[..length]),
            }
            thread::sleep(Duration::from_micros(300));
        }
    });
    let end = carry(&mut peer, None, &out, &err, None).unwrap();
    assert_eq!(end, End::Exited { status: Some(0), oom: false });
    drop(out);
    assert!(reader.join().unwrap() == sent, "output differs");
    sender.join().unwrap();
}

/// `producer | jdos run -i cat | consumer` with a program that reads only as fast as its output is taken.
#[test]
fn input_and_output_do_not_wait_for_each_other() {
    let (monitor, mut peer) = connection();
    let ((in_read, mut in_write), (out_read, out), (_e, err)) = (pipe(), pipe(), pipe());
    let sent = pattern(2 << 20);
    let copy = sent.clone();
    let producer = thread::spawn(move || in_write.write_all(&copy).unwrap());
    let cat = thread::spawn(move || {
        loop {
            let packet_in = next_packet(&monitor);
            match packet_in.split_first() {
                Some((0, bytes)) => packet(&monitor, 1, bytes),
                Some((5, [])) => break,
                other => panic!("{other:?}"),
            }
        }
        exited(&monitor, 0);
        monitor
    });
    let consumer = read_all(out_read);
    let end = carry(&mut peer, Some(&in_read), &out, &err, None).unwrap();
    assert_eq!(end, End::Exited { status: Some(0), oom: false });
    drop(out);
    assert!(consumer.join().unwrap() == sent, "output differs");
    producer.join().unwrap();
    cat.join().unwrap();
}

#[test]
fn a_closed_standard_output_ends_the_session_and_a_closed_standard_error_does_not() {
    let (monitor, mut peer) = connection();
    let ((out_read, out), (err_read, err)) = (pipe(), pipe());
    drop(err_read);
    packet(&monitor, 2, b"nobody reads this");
    packet(&monitor, 2, b"nor this");
    packet(&monitor, 1, b"x");
    exited(&monitor, 0);
    assert_eq!(carry(&mut peer, None, &out, &err, None).unwrap(), End::Exited { status: Some(0), oom: false });
    drop(out);
    assert_eq!(read_all(out_read).join().unwrap(), b"x");

    let (monitor, mut peer) = connection();
    let (out_read, out) = pipe();
    drop(out_read);
    packet(&monitor, 1, b"x");
    assert_eq!(carry(&mut peer, None, &out, &err, None).unwrap(), End::OutputClosed);
}

#[test]
fn a_monitor_that_goes_away_is_noticed() {
    let (monitor, mut peer) = connection();
    let ((_o, out), (_e, err)) = (pipe(), pipe());
    drop(monitor);
    assert_eq!(carry(&mut peer, None, &out, &err, None).unwrap(), End::Lost);
}

#[test]
fn keys_on_a_raw_terminal_go_on_until_the_detach_keys() {
    let (mut keyboard, ours) = terminal();
    let before = tcgetattr(&ours).unwrap();
    let (monitor, mut peer) = connection();
    let ((_o, out), (_e, err)) = (pipe(), pipe());
    let raw = RawTerminal::enter(ours.as_fd()).unwrap();
    assert!(
        !tcgetattr(&ours).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    );
    keyboard.write_all(b"ls\r\x03").unwrap();
    let typist = thread::spawn(move || {
        let first = next_packet(&monitor);
        keyboard.write_all(b"\x10\x11").unwrap();
        (first, monitor, keyboard)
    });
    let keys = DetachKeys::parse(DetachKeys::DEFAULT).unwrap();
    assert_eq!(carry(&mut peer, Some(&ours), &out, &err, keys).unwrap(), End::Detached);
    drop(raw);
    let after = tcgetattr(&ours).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
    let (first, ..) = typist.join().unwrap();
    assert_eq!(first, b"\0ls\r\x03", "an interrupt key is a key like others");
}

#[test]
fn the_terminal_is_restored_when_a_panic_unwinds() {
    let (_keyboard, ours) = terminal();
    let before = tcgetattr(&ours).unwrap();
    let copy = ours.try_clone().unwrap();
    let panicked = thread::spawn(move || {
        let _raw = RawTerminal::enter(copy.as_fd()).unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(tcgetattr(&ours).unwrap().local_modes, before.local_modes);
}

#[test]
fn signals_and_window_sizes_reach_the_peer() {
    let (monitor, mut peer) = connection();
    let ((_o, out), (_e, err)) = (pipe(), pipe());
    let (_screen, ours) = terminal();
    let size = |rows, columns| Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&ours, size(24, 80)).unwrap();
    let mut signals = Signals::catch().unwrap();
    let terminal = ours.try_clone().unwrap();
    let user = thread::spawn(move || {
        let first = next_packet(&monitor);
        tcsetwinsize(&terminal, size(50, 132)).unwrap();
        kill_process(getpid(), rustix::process::Signal::WINCH).unwrap();
        let second = next_packet(&monitor);
        kill_process(getpid(), rustix::process::Signal::USR2).unwrap();
        (first, second, monitor)
    });
    let mut seen = Vec::new();
    let mut on_signal = |number| {
        seen.push(number);
        Reaction::Leave
    };
    let mut session = Session {
        stdin: None,
        stdout: out.as_fd(),
        stderr: err.as_fd(),
        keys: None,
        window: Some(ours.as_fd()),
        signals: &mut signals,
        on_signal: &mut on_signal,
    };
    assert_eq!(session.run(&mut peer).unwrap(), End::Signal(12));
    assert_eq!(seen, [12]);
    let (first, second, _monitor) = user.join().unwrap();
    assert_eq!(first, [4, 24, 0, 80, 0], "the size at the beginning");
    assert_eq!(second, [4, 50, 0, 132, 0]);
}

#[test]
fn a_size_for_which_there_is_no_room_is_sent_later() {
    let (monitor, mut peer) = connection();
    let ((_o, out), (_e, err)) = (pipe(), pipe());
    let (_screen, ours) = terminal();
    tcsetwinsize(&ours, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    while peer.send(b"typed and not read").is_ok() {}
    let reader = thread::spawn(move || {
        loop {
            match &next_packet(&monitor)[..] {
                [0, ..] => {}
                other => {
                    exited(&monitor, 0);
                    return other.to_vec();
                }
            }
        }
    });
    let mut signals = Signals::catch().unwrap();
    let mut session = Session {
        stdin: None,
        stdout: out.as_fd(),
        stderr: err.as_fd(),
        keys: None,
        window: Some(ours.as_fd()),
        signals: &mut signals,
        on_signal: &mut |_| Reaction::GoOn,
    };
    assert_eq!(session.run(&mut peer).unwrap(), End::Exited { status: Some(0), oom: false });
    assert_eq!(reader.join().unwrap(), [4, 24, 0, 80, 0]);
}

/// An additional process with pipes.
fn process(script: &str) -> (std::process::Child, ExecPeer) {
    let mut child = Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    let streams = [
        (Output::Stdout, child.stdout.take().map(OwnedFd::from)),
        (Output::Stderr, child.stderr.take().map(OwnedFd::from)),
    ];
    let stdin = child.stdin.take().map(OwnedFd::from);
    let peer = ExecPeer::from_parts(stdin, streams, None, Some(pidfd), false).unwrap();
    (child, peer)
}

#[test]
fn a_process_gets_its_input_and_gives_all_its_output() {
    let (mut child, mut peer) = process("cat; echo last words >&2; exit 7");
    let ((in_read, mut in_write), (out_read, out), (err_read, err)) = (pipe(), pipe(), pipe());
    let sent = pattern(1 << 20);
    let copy = sent.clone();
    let producer = thread::spawn(move || in_write.write_all(&copy).unwrap());
    let (consumer, errors) = (read_all(out_read), read_all(err_read));
    let end = carry(&mut peer, Some(&in_read), &out, &err, None).unwrap();
    assert_eq!(end, End::Exited { status: None, oom: false });
    drop((out, err));
    assert!(consumer.join().unwrap() == sent, "output differs");
    assert_eq!(errors.join().unwrap(), b"last words\n");
    producer.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn what_a_process_leaves_in_the_background_does_not_keep_the_session() {
    let (mut child, mut peer) = process("sleep 1000 & echo $!");
    let ((out_read, out), (_e, err)) = (pipe(), pipe());
    carry(&mut peer, None, &out, &err, None).unwrap();
    drop(out);
    let printed = String::from_utf8(read_all(out_read).join().unwrap()).unwrap();
    let sleeper = Pid::from_raw(printed.trim().parse().unwrap()).unwrap();
    kill_process(sleeper, rustix::process::Signal::KILL).expect("it sleeps, and was not waited for");
    child.wait().unwrap();
}

#[test]
fn a_process_that_closes_its_input_is_not_an_error() {
    let (mut child, mut peer) = process("exec <&-; echo closed; sleep 0.2");
    let ((in_read, mut in_write), (out_read, out), (_e, err)) = (pipe(), pipe(), pipe());
    let producer = thread::spawn(move || in_write.write_all(&pattern(10_000)));
    let end = carry(&mut peer, Some(&in_read), &out, &err, None).unwrap();
    assert_eq!(end, End::Exited { status: None, oom: false });
    drop((out, in_read));
    assert_eq!(read_all(out_read).join().unwrap(), b"closed\n");
    producer.join().unwrap().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_process_on_a_terminal_sees_sizes_and_the_end_of_input() {
    let (master, slave) = terminal();
    let stdio = || Stdio::from(slave.try_clone().unwrap());
    let mut child = Command::new("cat").stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    let streams = [(Output::Stdout, None), (Output::Stderr, None)];
    let mut peer = ExecPeer::from_parts(None, streams, Some(master.into()), Some(pidfd), false).unwrap();
    peer.resize(WindowSize { rows: 30, columns: 100 }).unwrap();
    let size = rustix::termios::tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (30, 100));
    let ((in_read, mut in_write), (out_read, out), (_e, err)) = (pipe(), pipe(), pipe());
    in_write.write_all(b"hello\n").unwrap();
    drop((in_write, slave));
    let end = carry(&mut peer, Some(&in_read), &out, &err, None).unwrap();
    assert_eq!(end, End::Exited { status: None, oom: false });
    drop(out);
    let text = String::from_utf8(read_all(out_read).join().unwrap()).unwrap();
    assert_eq!(text, "hello\r\nhello\r\n", "the terminal's echo and cat's copy");
    assert!(child.wait().unwrap().success());
}
