//! A registry in this process, and a client that sends exactly what it is told to.

use images::{
    digest::digest_of,
    registry::{Addresses, Registry, Settings},
    store::{Store, Watermarks},
};
use model::image::{Algorithm, Digest};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};
use supervisor::{Exit, Metrics, Spawner, Supervisor};
use tempfile::TempDir;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A test that waits longer for an answer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry on loopback, until dropped.
pub struct Server {
    pub addresses: Addresses,
    pub store: Store,
    pub reload: images::registry::Reload,
    folder: Option<TempDir>,
    spawner: Spawner,
    thread: Option<JoinHandle<Exit>>,
}

impl Server {
    /// One that anybody may use.
    pub fn open() -> Self {
        Self::with(|settings| settings.open = true)
    }

    /// One with these settings, on an empty store.
    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::on(tempfile::tempdir().unwrap(), change)
    }

    /// One with these settings, on a store that is there.
    pub fn on(folder: TempDir, change: impl FnOnce(&mut Settings)) -> Self {
        let store = Store::open(&folder.path().join("images")).unwrap();
        Self::start(store, Some(folder), change)
    }

    /// Another one, on the folder of this one.
    pub fn beside(&self, watermarks: Watermarks, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start(Store::open_with(self.store.folder(), watermarks).unwrap(), None, change)
    }

    /// One with these settings, on this store.
    pub fn start(store: Store, folder: Option<TempDir>, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap());
        settings.limits.drain = Duration::from_secs(10);
        change(&mut settings);
        let opened = store.clone();
        let (send, receive) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let serve = async move {
                let metrics = Metrics::new();
                let drain = settings.limits.drain;
                let builder = Supervisor::builder().metrics(&metrics).without_signals().drain_within(drain);
                let supervisor = builder.start().unwrap();
                let registry = Registry::bind(&opened, settings, supervisor.spawner(), &metrics).await.unwrap();
                let (addresses, reload) = (registry.addresses(), registry.reload());
                registry.serve(supervisor.spawner());
                send.send((addresses, reload, supervisor.spawner().clone())).unwrap();
                supervisor.run().await
            };
            supervisor::block_on(serve).unwrap()
        });
        let (addresses, reload, spawner) = receive.recv().unwrap();
        Self { addresses, store, reload, folder, spawner, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses.registry
    }

    pub fn path(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().to_owned()
    }

    /// Tells it to end.
    pub fn stop(&self) {
        self.spawner.stop("the test is over");
    }

    /// Ends it; its exit and the folder for another.
    pub fn end(mut self) -> (Exit, TempDir) {
        self.stop();
        let exit = self.thread.take().unwrap().join().unwrap();
        (exit, self.folder.take().unwrap())
    }

    /// Sends a request on a connection of its own.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        Wire::connect(self.address()).send(method, path, headers, body)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[], b"")
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], b"")
    }

    /// Pushes a blob; its digest.
    pub fn blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = sha256(content);
        let answer = self.send("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), &[], content);
        assert_eq!(answer.status, 201, "{answer:?}");
        digest
    }

    /// Pushes an image of this configuration and these layers under a tag; its digest.
    pub fn image(&self, repository: &str, tag: &str, layers: &[&[u8]]) -> Digest {
        let document = self.image_document(repository, layers);
        self.manifest(repository, tag, &document)
    }

    /// Pushes the blobs of an image; its manifest.
    pub fn image_document(&self, repository: &str, layers: &[&[u8]]) -> Value {
        let describe = |content: &[u8], kind: &str| {
            let digest = self.blob(repository, content);
            json!({ "mediaType": kind, "digest": digest.as_str(), "size": content.len() })
        };
        let layers: Vec<_> =
            layers.iter().map(|layer| describe(layer, "application/vnd.oci.image.layer.v1.tar")).collect();
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe(b"{}", "application/vnd.oci.image.config.v1+json"),
            "layers": layers,
        })
    }

    /// Pushes a manifest or an index; its digest.
    pub fn manifest(&self, repository: &str, reference: &str, document: &Value) -> Digest {
        let answer = self.put_manifest(repository, reference, document);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.header("docker-content-digest").unwrap().parse().unwrap()
    }

    pub fn put_manifest(&self, repository: &str, reference: &str, document: &Value) -> Answer {
        let kind = document["mediaType"].as_str().unwrap_or(MANIFEST).to_owned();
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.send("PUT", &path, &[("content-type", &kind)], document.to_string().as_bytes())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop();
            let ended = thread.join();
            // A test that fails already must not fail twice.
            if !std::thread::panicking() {
                assert_eq!(ended.unwrap().code(), 0);
            }
        }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| &*header.1)
    }
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |header| header.0 == name).map(|header| &*header.1)
    }
    pub fn location(&self) -> &str {
        self.header("location").unwrap_or_else(|| panic!("no Location: {self:?}"))
    }
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
    /// The error code of the specification.
    pub fn code(&self) -> String {
        let document = self.json();
        assert!(document["errors"][0]["message"].as_str().is_some_and(|text| !text.is_empty()), "{document}");
        document["errors"][0]["code"].as_str().unwrap().to_owned()
    }
    /// Status and error code.
    pub fn refused(&self) -> (u16, String) {
        (self.status, self.code())
    }
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A connection.
pub struct Wire<S: Read + Write> {
    reader: BufReader<S>,
}

impl Wire<TcpStream> {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}

impl<S: Read + Write> Wire<S> {
    pub fn over(stream: S) -> Self {
        Self { reader: BufReader::with_capacity(64 << 10, stream) }
    }

    /// Sends the head of a request, and what is given of the body.
    pub fn begin(&mut self, method: &str, path: &str, headers: &[(&str, &str)], length: Option<u64>, body: &[u8]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: registry.test\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.reader.get_mut().write_all(&bytes).unwrap();
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.begin(method, path, headers, Some(body.len() as u64), body);
        self.receive(method == "HEAD")
    }

    /// Reads an answer.
    pub fn receive(&mut self, is_head: bool) -> Answer {
        loop {
            let answer = self.receive_one(is_head);
            if answer.status != 100 {
                return answer;
            }
        }
    }

    fn receive_one(&mut self, is_head: bool) -> Answer {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status in `{line}`")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        let length = answer.header("content-length").map_or(0, |text| text.parse().unwrap());
        if !is_head && status != 304 && status != 204 {
            answer.body = vec![0; length];
            self.reader.read_exact(&mut answer.body).unwrap();
        }
        answer
    }

    /// Whether the other end has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.reader.fill_buf(), Ok([]) | Err(_))
    }
}

pub fn sha256(content: &[u8]) -> Digest {
    digest_of(Algorithm::Sha256, content)
}

pub fn sha512(content: &[u8]) -> Digest {
    digest_of(Algorithm::Sha512, content)
}

/// Bytes that do not repeat.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
