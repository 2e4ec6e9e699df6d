//! A host to play with, the world outside of it, and containers without anything but a network namespace.

use crate::{
    layout::Layout,
    network::{Lease, Networks},
    runtime::identity,
    state::{State, Users},
};
use model::{ContainerId, NetworkName, PortMapping};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Says to a test that it is on its host already.
const INSIDE: &str = "JDOS_TEST_HOST";
/// Long enough for a loaded machine; only what is expected to fail waits for it.
const PATIENCE: Duration = Duration::from_millis(800);

/// The host's address to the outside, and the outside's.
pub const HOST4: &str = "203.0.113.1";
pub const HOST6: &str = "2001:db8:1::1";
pub const OUTSIDE4: &str = "203.0.113.2";
pub const OUTSIDE6: &str = "2001:db8:1::2";

/// How often to do what is done again and again: less where time is dear.
pub fn rounds(many: usize, few: usize) -> usize {
    if std::env::var_os("JDOS_TEST_EMULATED").is_some() { few } else { many }
}

/// Runs a test's body on a host of its own.
pub fn run(path: &str, body: impl FnOnce(&Host)) {
    let name = path.split_once("::").unwrap().1;
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == name) {
        return body(&Host::new());
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(program)
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(INSIDE, name)
        .output()
        .expect("unshare runs; these tests need root");
    let text = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "on its own host:\n{text}");
    assert!(text.contains("1 passed"), "no such test: {name}\n{text}");
    for line in text.lines().filter(|line| line.starts_with("figure: ")) {
        println!("{line}");
    }
}

/// Runs a program that must succeed; its output.
pub fn command(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The host of one test.
pub struct Host {
    folder: tempfile::TempDir,
    pub layout: Layout,
    pub networks: Networks,
    pub outside: Namespace,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let outside = Namespace::new();
        command("ip link set lo up");
        // A new namespace has these from the machine's.
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "0").unwrap();
        command(&format!("ip link add wan type veth peer name wan netns {}", outside.child.id()));
        // A real host has been up for longer than duplicate address detection takes.
        let no_detection = || fs::write("/proc/sys/net/ipv6/conf/wan/accept_dad", "0").unwrap();
        no_detection();
        outside.run(no_detection);
        for (address, prefix) in [(HOST4, 24), (HOST6, 64)] {
            command(&format!("ip address add {address}/{prefix} dev wan nodad"));
        }
        command("ip link set wan mtu 1400 up");
        outside.command("ip link set lo up");
        for (address, prefix) in [(OUTSIDE4, 24), (OUTSIDE6, 64)] {
            outside.command(&format!("ip address add {address}/{prefix} dev wan nodad"));
        }
        outside.command("ip link set wan mtu 1400 up");
        command(&format!("ip route add default via {OUTSIDE4}"));
        command(&format!("ip route add default via {OUTSIDE6}"));
        // Nor does it lose packets because its interface came up a moment ago.
        Place::In(&outside).serve(9, "outside");
        for address in [OUTSIDE4, OUTSIDE6] {
            eventually(|| Place::Host.call(at(address, 9)).map_err(|error| error.to_string()), Result::is_ok).unwrap();
        }
        let layout = Layout::open(&folder.path().join("data"), Some(&folder.path().join("run"))).unwrap();
        let networks = Networks::new(&layout);
        Self { folder, layout, networks, outside }
    }
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
    /// A container on this network.
    pub fn container(&self, network: &str, name: &str) -> Container<'_> {
        let network: NetworkName = network.parse().unwrap();
        let lease = self.networks.lease(&network, name, None).unwrap();
        let container = Container { host: self, id: new_id(), lease, namespace: Namespace::new() };
        self.networks.attach(&container.lease, &container.id, container.namespace.fd.as_fd()).unwrap();
        container
    }
    /// What a test must not change, and what it must leave as it was.
    pub fn kernel(&self) -> String {
        let parameters = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/wan/accept_ra"];
        let values = parameters.map(|name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap());
        let links = command("ip -br link");
        let links: Vec<_> = links.lines().filter_map(|line| line.split_whitespace().next()).collect();
        format!("{}{values:?}{links:?}", command("nft list ruleset"))
    }
}

pub fn new_id() -> ContainerId {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    ContainerId::from_random(bytes)
}

/// A container as far as networks care.
pub struct Container<'a> {
    host: &'a Host,
    pub id: ContainerId,
    pub lease: Lease,
    pub namespace: Namespace,
}

impl Container<'_> {
    /// Both addresses with this port.
    pub fn at(&self, port: u16) -> [SocketAddr; 2] {
        [SocketAddr::new(self.lease.ipv4.into(), port), SocketAddr::new(self.lease.ipv6.into(), port)]
    }
    /// As its shim does when it has started.
    pub fn write_state(&self) {
        let pid = i32::try_from(self.namespace.child.id()).unwrap();
        let state = State {
            pid,
            start_time: identity::start_time(pid).unwrap(),
            cgroup: self.host.layout.cgroup(&self.id),
            started_at: jiff::Timestamp::now(),
            users: Users::Host { reason: "a test".to_owned() },
            address: None,
            unstarted: None,
            warnings: Vec::new(),
        };
        let folder = self.host.layout.running(&self.id);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("state.json"), serde_json::to_vec(&state).unwrap()).unwrap();
    }
    /// Publishes ports; they stay reserved while the result lives.
    pub fn publish(&self, ports: &[&str]) -> Vec<OwnedFd> {
        let ports: Vec<_> = ports.iter().flat_map(|text| PortMapping::parse_all(text).unwrap()).collect();
        let held = self.host.networks.reserve(&ports).unwrap();
        self.host.networks.publish(&self.id, &self.lease, &ports).unwrap();
        held
    }
}

/// A network namespace that lives as long as this value.
pub struct Namespace {
    child: Child,
    pub fd: File,
}

impl Namespace {
    pub fn new() -> Self {
        // It ends by itself when this process does, whatever becomes of it: its standard input ends.
        let mut child = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // What comes back comes from `cat`, which runs after the namespace has been made.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let fd = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
        Self { child, fd }
    }
    /// Runs a closure on a thread in the namespace.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let fd = self.fd.as_fd();
        std::thread::scope(|scope| {
            let inside = move || {
                move_into_link_name_space(fd, Some(LinkNameSpaceType::Network)).unwrap();
                body()
            };
            scope.spawn(inside).join().unwrap()
        })
    }
    pub fn command(&self, line: &str) -> String {
        command(&format!("nsenter --net=/proc/{}/ns/net {line}", self.child.id()))
    }
}
impl Drop for Namespace {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Somewhere to listen and to call from: the host itself, or a namespace.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    Host,
    In(&'a Namespace),
}

impl Place<'_> {
    fn run<T: Send>(self, body: impl FnOnce() -> T + Send) -> T {
        match self {
            Place::Host => body(),
            Place::In(namespace) => namespace.run(body),
        }
    }

    /// Serves TCP and UDP on a port, of both families: answers each caller with `name` and the caller's address.
    pub fn serve(self, port: u16, name: &str) {
        self.serve_at(&format!("[::]:{port}"), name);
    }
    pub fn serve_at(self, address: &str, name: &str) {
        let (tcp, udp) = self.run(|| (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap()));
        let answer = |name: &str, peer: SocketAddr| format!("{name} {}", peer.ip().to_canonical());
        let named = name.to_owned();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                // A caller that hangs up early has what it wanted.
                stream.peer_addr().and_then(|peer| stream.write_all(answer(&named, peer).as_bytes())).ok();
            }
        });
        let named = name.to_owned();
        std::thread::spawn(move || {
            while let Ok((_, peer)) = udp.recv_from(&mut [0; 16]) {
                udp.send_to(answer(&named, peer).as_bytes(), peer).ok();
            }
        });
    }

    /// What the server at this address answers over TCP.
    pub fn call(self, to: SocketAddr) -> io::Result<String> {
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }
    /// What the server at this address answers over UDP.
    pub fn call_udp(self, to: SocketAddr) -> io::Result<String> {
        self.run(|| {
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send(b"?")?;
            let mut answer = [0; 128];
            let length = socket.recv(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        })
    }
    /// Both of them, which must agree.
    pub fn call_both(self, to: SocketAddr) -> String {
        let tcp = self.call(to).unwrap_or_else(|error| panic!("TCP {to}: {error}"));
        let udp = self.call_udp(to).unwrap_or_else(|error| panic!("UDP {to}: {error}"));
        assert_eq!(tcp, udp, "{to}");
        tcp
    }
    /// Neither of them.
    pub fn cannot_call(self, to: SocketAddr) {
        if let Ok(answer) = self.call(to) {
            panic!("TCP {to} answered {answer}");
        }
        if let Ok(answer) = self.call_udp(to) {
            panic!("UDP {to} answered {answer}");
        }
    }
}

pub fn at(address: impl ToString, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_string().parse::<IpAddr>().unwrap(), port)
}

/// Waits until it is so, and says what it saw last when it never is.
pub fn eventually<T: std::fmt::Debug>(mut look: impl FnMut() -> T, is_so: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let seen = look();
        if is_so(&seen) {
            return seen;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "still {seen:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process of its own that works on a host's networks, and says what it has done.
pub struct Worker {
    child: Child,
    said: BufReader<ChildStdout>,
}

/// Tells a worker its folders, its work, the start of its names, and how often to do it.
const WORK: &str = "JDOS_TEST_WORK";
/// What a worker says first.
const BEGUN: &str = "begun";

impl Worker {
    /// Starts one: `lease` leases addresses, `attach` joins containers as well.
    pub fn start(host: &Host, work: &str, prefix: &str, count: u32) -> Self {
        let (data, run) = (host.layout.data().display(), host.layout.run().display());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "network::tests::host::worker", "--nocapture", "--ignored"])
            .env(WORK, format!("{data}|{run}|{work}|{prefix}|{count}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }
    /// Waits until it begins to work.
    pub fn begun(mut self) -> Self {
        let begun = self.said.by_ref().lines().any(|line| line.unwrap() == BEGUN);
        assert!(begun, "it ended before");
        self
    }
    /// What it has done when it is finished.
    pub fn finish(mut self) -> Vec<(String, Ipv4Addr)> {
        let done = self.said();
        assert!(self.child.wait().unwrap().success());
        done
    }
    /// Kills it; what it had said to be done.
    pub fn kill(mut self) -> Vec<(String, Ipv4Addr)> {
        self.child.kill().unwrap();
        let done = self.said();
        self.child.wait().unwrap();
        done
    }
    fn said(&mut self) -> Vec<(String, Ipv4Addr)> {
        let mut text = String::new();
        self.said.read_to_string(&mut text).unwrap();
        // The last line may be cut short.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let said = whole.lines().filter_map(|line| line.strip_prefix("done ")?.split_once(' '));
        said.map(|(identity, address)| (identity.to_owned(), address.parse().unwrap())).collect()
    }
}

#[test]
#[ignore = "other tests run it, as a process of its own"]
fn worker() {
    let work = std::env::var(WORK).unwrap();
    let [data, run, work, prefix, count] = work.split('|').collect::<Vec<_>>().try_into().unwrap();
    let networks = Networks::new(&Layout::open(data.as_ref(), Some(run.as_ref())).unwrap());
    let network = "bridge".parse().unwrap();
    println!("\n{BEGUN}");
    for number in 0..count.parse().unwrap() {
        let identity = format!("{prefix}{number}");
        let lease = networks.lease(&network, &identity, None).unwrap();
        if work == "attach" {
            let (id, namespace) = (new_id(), Namespace::new());
            networks.attach(&lease, &id, namespace.fd.as_fd()).unwrap();
            let port = 1024 + u32::from(lease.ipv4) % 50_000;
            networks.publish(&id, &lease, &PortMapping::parse_all(&format!("{port}:80")).unwrap()).unwrap();
        }
        println!("done {identity} {}", lease.ipv4);
    }
}

/// The results of many threads that begin at the same moment.
pub fn at_once<T: Send + 'static>(count: usize, body: impl Fn(usize) -> T + Send + Sync + 'static) -> Vec<T> {
    let (body, barrier) = (std::sync::Arc::new(body), std::sync::Arc::new(std::sync::Barrier::new(count)));
    let (send, receive) = mpsc::channel();
    for number in 0..count {
        let (body, barrier, send) = (body.clone(), barrier.clone(), send.clone());
        std::thread::spawn(move || {
            barrier.wait();
            send.send(body(number)).unwrap();
        });
    }
    drop(send);
    receive.iter().collect()
}
