//! The server as it is run: a process, a port, a signal.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// A running server and its port.
fn start(variables: &[(&str, &str)]) -> (Child, u16) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_web"));
    let mut child = command
        .env("PORT", "0")
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it says where it listens");
    let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
    (child, port.unwrap_or_else(|| panic!("no port in {line:?}")))
}

fn ask(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn answers_with_version_and_instance() {
    let (mut child, port) = start(&[("NAME", "web-7"), ("VERSION", "42")]);
    let answer = ask(port, "GET / HTTP/1.1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("web 42 on web-7, request 1\n"), "{answer}");
    assert!(ask(port, "GET /healthz HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nok\n"));
    assert!(ask(port, "GET /no HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(ask(port, "POST / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn a_signal_ends_it_after_the_open_request() {
    let (mut child, port) = start(&[]);
    let mut slow = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    slow.write_all(b"GET / HTTP/1.1\r\n").expect("it reads");
    // Another answer proves that the first connection has been taken: they are taken in order.
    ask(port, "GET /healthz HTTP/1.1\r\n\r\n");
    let killed = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
    assert!(killed.success());
    let mut text = String::new();
    let mut output = BufReader::new(child.stdout.as_mut().expect("piped"));
    while !text.contains("ends on signal 15") {
        assert!(output.read_line(&mut text).expect("it says that it ends") > 0, "ended without a word: {text}");
    }
    slow.write_all(b"\r\n").expect("still open");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_wrong_port_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_web")).env("PORT", "many").output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("PORT is \"many\""));
}
