//! Networks: addresses, names, ports, separation.

use super::machine::{Machine, until};
use std::{
    io::Read,
    net::{TcpListener, TcpStream},
};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn answer(address: &str, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((address, port)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

fn address(machine: &Machine, name: &str) -> String {
    machine.inspect(name)["addresses"]["ipv4"].as_str().unwrap().to_owned()
}

/// Answers every connection on port 80 with a word.
fn server(word: &str) -> String {
    format!("nc -ll -p 80 -e echo {word}")
}

#[test]
fn without_a_network_there_is_loopback_only() {
    let machine = Machine::new();
    let text = machine.sh(&[], "ls /sys/class/net; ip addr show lo | grep -c 'inet 127.0.0.1/8'; ip route").ok();
    assert_eq!(text, "lo\n1");
}

#[test]
fn a_published_port_is_reached_from_the_host_until_the_end() {
    let machine = Machine::new();
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    machine.start("web", &["--network", "bridge", "-p", &publish], &server("hello"));
    until("it answers", || answer("127.0.0.1", port).as_deref() == Some("hello\n"));
    until("it answers at its own address", || answer(&address(&machine, "web"), 80).as_deref() == Some("hello\n"));
    machine.ok(&["rm", "-f", "web"]);
    assert_eq!(answer("127.0.0.1", port), None);
    // Not at once: a stranger's connection may have been given the same number for its own end.
    until("the port is free again", || TcpListener::bind(("127.0.0.1", port)).is_ok());
}

#[test]
fn a_port_in_use_is_refused_and_nothing_is_left() {
    let machine = Machine::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{port}:80");
    machine.run(&["--network", "bridge", "-p", &publish], &["true"]).code(125).says(&[&port.to_string()]);
    assert!(machine.containers().is_empty());
}

#[test]
fn a_named_container_keeps_its_address() {
    let machine = Machine::new();
    machine.sleeper("one", &["--network", "bridge"]);
    machine.sleeper("two", &["--network", "bridge"]);
    let (one, two) = (address(&machine, "one"), address(&machine, "two"));
    assert_ne!(one, two);
    machine.ok(&["stop", "-t", "0", "one"]);
    machine.ok(&["start", "one"]);
    assert_eq!(address(&machine, "one"), one);
    machine.ok(&["rm", "-f", "one"]);
    machine.sleeper("three", &["--network", "bridge"]);
    machine.sleeper("one", &["--network", "bridge"]);
    assert_eq!(address(&machine, "one"), one);
    assert_ne!(address(&machine, "three"), one);
}

#[test]
fn an_unnamed_container_gives_its_address_back() {
    let machine = Machine::new();
    let leases = || {
        let all: serde_json::Value = serde_json::from_str(&machine.ok(&["network", "ls", "--json"])).unwrap();
        all[0]["leases"].as_u64().unwrap()
    };
    machine.sleeper("named", &["--network", "bridge"]);
    machine.ok(&["rm", "-f", "named"]);
    let root = machine.root.to_str().unwrap();
    let id = machine.ok(&["run", "-d", "--network", "bridge", "--rootfs", root, "sleep", "1000"]);
    assert_eq!(leases(), 2);
    machine.ok(&["rm", "-f", &id]);
    assert_eq!(leases(), 1, "that of the one with a name");
    machine.sh(&["--network", "bridge"], "true").ok();
    until("the one that was removed at its end has given it back as well", || leases() == 1);
}

#[test]
fn neighbours_reach_each_other_and_other_networks_do_not() {
    let machine = Machine::new();
    machine.start("web", &["--network", "front"], &server("hello"));
    let web = address(&machine, "web");
    let ask = format!("nc -w 2 {web} 80 < /dev/null");
    until("it answers a neighbour", || machine.sh(&["--network", "front"], &ask).stdout == "hello\n");
    let outcome = machine.sh(&["--network", "back"], &ask);
    assert!(outcome.code != 0 && outcome.stdout.is_empty(), "{outcome:?}");
    machine.jdos(&["network", "rm", "front"]).says(&["front"]).code(4);
    assert_eq!(machine.ok(&["network", "ls", "-q"]), "front\nback", "oldest first");
}

#[test]
fn a_wished_address_is_given_once() {
    let machine = Machine::new();
    machine.sleeper("one", &["--network", "bridge"]);
    let taken = address(&machine, "one");
    machine.run(&["--network", "bridge", "--ip", &taken], &["true"]).code(125).says(&[&taken]);
    let (prefix, _) = taken.rsplit_once('.').unwrap();
    let wish = format!("{prefix}.77");
    let text = machine.sh(&["--network", "bridge", "--ip", &wish], "ip -4 addr show eth0").ok();
    assert!(text.contains(&wish), "{text}");
}

#[test]
fn the_hosts_network_is_given_when_asked_for() {
    let machine = Machine::new();
    let inside = machine.run(&["--network", "host"], &["readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(inside, std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
}
