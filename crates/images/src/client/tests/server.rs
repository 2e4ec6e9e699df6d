//! A registry in memory that does what it is told: fails, cuts, stalls, lies, redirects. One thread a connection.

use super::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_rustls::rustls;

/// What goes wrong.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// This status, with these lines of header.
    Status(u16, &'static str),
    /// The connection is cut after so many bytes of the body, read or written.
    Cut(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// The bytes are others.
    Lie,
    /// Elsewhere; the path is added to this.
    Redirect(String),
    /// Ranges are not known.
    Whole,
    /// The connection is cut after all was done, instead of the answer.
    Mute,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: HashMap<String, String>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Who is let in.
#[derive(Debug, Clone, Default)]
pub(super) enum Door {
    /// Everybody.
    #[default]
    Open,
    /// `user:password`.
    Basic(&'static str),
    /// Whoever has a token from `/token`, which wants `user:password` or, when empty, nothing.
    Token(&'static str),
    /// As `Token`, but no token is ever good.
    Never,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    faults: Vec<(String, String, Fault)>,
    log: Vec<Request>,
    door: Door,
    tokens: Vec<String>,
    token_life: u64,
}

/// The server; its thread ends with it.
pub(super) struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Server {
    pub(super) fn new() -> Self {
        Self::with(None)
    }

    pub(super) fn tls(config: rustls::ServerConfig) -> Self {
        Self::with(Some(Arc::new(config)))
    }

    fn with(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (state, over) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (shared, ended) = (state.clone(), over.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), shared, tls) = (stream, shared.clone(), tls.clone()) else { continue };
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    let raw = stream.try_clone().unwrap();
                    let stream: Box<dyn Stream> = match tls {
                        None => Box::new(stream),
                        Some(config) => {
                            let connection = rustls::ServerConnection::new(config).unwrap();
                            Box::new(rustls::StreamOwned::new(connection, stream))
                        }
                    };
                    let mut connection = Connection { stream: BufReader::new(stream), raw, state: shared, address };
                    while connection.serve().is_some() {}
                });
            }
        });
        Self { address, state, over }
    }

    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn blob(&self, bytes: &[u8]) {
        self.state.lock().unwrap().blobs.insert(digest(bytes).to_string(), bytes.to_vec());
    }

    pub(super) fn has(&self, bytes: &[u8]) -> bool {
        self.state.lock().unwrap().blobs.get(digest(bytes).as_str()).is_some_and(|found| found == bytes)
    }

    pub(super) fn manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        for reference in [tag.to_owned(), digest(bytes).to_string()] {
            state.manifests.insert(format!("{repository}/{reference}"), (media_type.to_owned(), bytes.to_vec()));
        }
    }

    pub(super) fn get_manifest(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().manifests.get(&format!("{repository}/{reference}")).map(|found| found.1.clone())
    }

    /// The next request of this method with this in its target fails so.
    pub(super) fn fault(&self, method: &str, part: &str, fault: Fault) {
        self.state.lock().unwrap().faults.push((method.to_owned(), part.to_owned(), fault));
    }

    pub(super) fn door(&self, door: Door) {
        self.state.lock().unwrap().door = door;
    }

    /// As [`Server::fault`], that many times.
    pub(super) fn faults(&self, times: usize, method: &str, part: &str, fault: &Fault) {
        for _ in 0..times {
            self.fault(method, part, fault.clone());
        }
    }

    /// Tokens are good for so many seconds, they say.
    pub(super) fn token_life(&self, seconds: u64) {
        self.state.lock().unwrap().token_life = seconds;
    }

    /// Tokens given so far are good no more.
    pub(super) fn expire(&self) {
        self.state.lock().unwrap().tokens.clear();
    }

    pub(super) fn log(&self) -> Vec<Request> {
        self.state.lock().unwrap().log.clone()
    }

    pub(super) fn count(&self, method: &str, part: &str) -> usize {
        self.log().iter().filter(|request| request.method == method && request.target.contains(part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

struct Connection {
    stream: BufReader<Box<dyn Stream>>,
    raw: TcpStream,
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn answer(status: u16) -> Answer {
    Answer { status, headers: Vec::new(), body: Vec::new() }
}

impl Answer {
    fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
    fn body(mut self, bytes: Vec<u8>) -> Self {
        self.body = bytes;
        self
    }
}

impl Connection {
    /// One request; `None` when the connection is over.
    fn serve(&mut self) -> Option<()> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok().filter(|size| *size > 0)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let request = Request { method, target, headers };
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.log.push(request.clone());
            let fits = |(method, part, _): &(String, String, Fault)| {
                *method == request.method && request.target.contains(part.as_str())
            };
            state.faults.iter().position(fits).map(|position| state.faults.remove(position).2)
        };
        let size = request.header("content-length").parse().unwrap_or(0);
        let take = match fault {
            Some(Fault::Cut(bytes) | Fault::Stall(bytes)) if size > 0 => bytes.min(size),
            _ => size,
        };
        let mut body = vec![0; take];
        self.stream.read_exact(&mut body).ok()?;
        let mut answer = match &fault {
            Some(Fault::Status(status, lines)) => {
                let pairs = lines.split('\n').filter_map(|line| line.split_once(':'));
                pairs.fold(answer(*status), |answer, (name, value)| answer.header(name, value.trim()))
            }
            Some(Fault::Redirect(to)) => answer(307).header("location", format!("{to}{}", request.target)),
            fault => self.answer(&request, body, matches!(fault, Some(Fault::Whole))),
        };
        if matches!(fault, Some(Fault::Lie)) {
            answer.body.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        }
        let limit = match fault {
            Some(Fault::Mute) => return self.cut(),
            Some(Fault::Cut(bytes)) if size == 0 => bytes,
            Some(Fault::Cut(_)) => return self.cut(),
            Some(Fault::Stall(bytes)) if size == 0 => bytes,
            Some(Fault::Stall(_)) => {
                std::thread::sleep(Duration::from_secs(3));
                return self.cut();
            }
            _ => usize::MAX,
        };
        let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !answer.headers.iter().any(|(name, _)| name == "content-length") && answer.status != 204 {
            head.push_str(&format!("content-length: {}\r\n", answer.body.len()));
        }
        head.push_str("\r\n");
        let sent = if request.method == "HEAD" { &[] } else { answer.body.as_slice() };
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(&sent[..sent.len().min(limit)]).ok()?;
        stream.flush().ok()?;
        match fault {
            Some(Fault::Cut(_)) => self.cut(),
            Some(Fault::Stall(_)) => {
                std::thread::sleep(Duration::from_secs(3));
                self.cut()
            }
            _ => Some(()),
        }
    }

    fn cut(&self) -> Option<()> {
        drop(self.raw.shutdown(std::net::Shutdown::Both));
        None
    }

    fn answer(&self, request: &Request, body: Vec<u8>, whole: bool) -> Answer {
        let mut state = self.state.lock().unwrap();
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        if path == "/token" {
            return token(&mut state, request, &body);
        }
        if let Some(refused) = self.refuse(&state, request) {
            return refused;
        }
        let parameter = |name: &str| {
            let pair = query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
            pair.map(|(_, value)| value.replace("%3A", ":").replace("%2F", "/"))
        };
        let rest = path.strip_prefix("/v2/").unwrap_or_default();
        if rest.is_empty() {
            return answer(200);
        }
        if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
            return upload(&mut state, request, body, repository, id, &parameter);
        }
        if let Some((_, wanted)) = rest.split_once("/blobs/") {
            return match state.blobs.get(wanted) {
                None => error(404, "BLOB_UNKNOWN"),
                Some(blob) => blob_answer(blob, request.header("range"), whole).header("etag", format!("\"{wanted}\"")),
            };
        }
        let Some((repository, reference)) = rest.split_once("/manifests/") else { return error(404, "UNSUPPORTED") };
        let key = format!("{repository}/{reference}");
        if request.method == "PUT" {
            let entry = (request.header("content-type").to_owned(), body);
            state.manifests.insert(format!("{repository}/{}", digest(&entry.1)), entry.clone());
            state.manifests.insert(key, entry);
            return answer(201);
        }
        match state.manifests.get(&key) {
            None => error(404, "MANIFEST_UNKNOWN"),
            Some((media_type, bytes)) => answer(200).header("content-type", media_type.as_str()).body(bytes.clone()),
        }
    }

    fn refuse(&self, state: &State, request: &Request) -> Option<Answer> {
        let given = request.header("authorization");
        let (good, challenge) = match &state.door {
            Door::Open => (true, String::new()),
            Door::Basic(pair) => {
                (given == format!("Basic {}", STANDARD.encode(pair)), "Basic realm=\"test\"".to_owned())
            }
            Door::Token(_) | Door::Never => {
                let good =
                    given.strip_prefix("Bearer ").is_some_and(|token| state.tokens.iter().any(|one| one == token));
                let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test\"", self.address);
                (good && !matches!(state.door, Door::Never), challenge)
            }
        };
        (!good).then(|| error(401, "UNAUTHORIZED").header("www-authenticate", challenge))
    }
}

fn error(status: u16, code: &str) -> Answer {
    answer(status).body(format!(r#"{{"errors":[{{"code":"{code}","message":"as told"}}]}}"#).into_bytes())
}

fn token(state: &mut State, request: &Request, body: &[u8]) -> Answer {
    let wanted = match state.door {
        Door::Token(pair) => pair,
        _ => "",
    };
    let identity = String::from_utf8_lossy(body).contains("refresh_token=identity");
    let good = wanted.is_empty()
        || identity
        || request.header("authorization") == format!("Basic {}", STANDARD.encode(wanted));
    if !good {
        return error(401, "UNAUTHORIZED");
    }
    let token = format!("token-{}", state.log.len());
    state.tokens.push(token.clone());
    let life = if state.token_life > 0 { state.token_life } else { 300 };
    answer(200).body(format!(r#"{{"token":"{token}","expires_in":{life}}}"#).into_bytes())
}

fn blob_answer(blob: &[u8], range: &str, whole: bool) -> Answer {
    let from =
        range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).and_then(|from| from.parse().ok());
    match from.filter(|_| !whole) {
        None => answer(200).body(blob.to_vec()),
        Some(from) if from >= blob.len() => answer(416),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
            answer(206).header("content-range", range).body(blob[from..].to_vec())
        }
    }
}

fn upload(
    state: &mut State,
    request: &Request,
    body: Vec<u8>,
    repository: &str,
    id: &str,
    parameter: &dyn Fn(&str) -> Option<String>,
) -> Answer {
    if request.method == "POST" {
        if parameter("mount").is_some_and(|digest| state.blobs.contains_key(&digest)) && parameter("from").is_some() {
            return answer(201);
        }
        let id = format!("up{}", state.log.len());
        state.uploads.insert(id.clone(), Vec::new());
        return answer(202).header("location", format!("/v2/{repository}/blobs/uploads/{id}?_state=x"));
    }
    let location = format!("/v2/{repository}/blobs/uploads/{id}?_state=x");
    let Some(upload) = state.uploads.get_mut(id) else { return error(404, "BLOB_UPLOAD_UNKNOWN") };
    if let Some(from) = request.header("content-range").split_once('-').and_then(|(from, _)| from.parse::<usize>().ok())
        && from != upload.len()
    {
        return error(416, "RANGE_INVALID");
    }
    upload.extend_from_slice(&body);
    let range = format!("0-{}", upload.len().saturating_sub(1));
    match request.method.as_str() {
        "GET" => answer(204).header("location", location).header("range", range),
        "PATCH" => answer(202).header("location", location).header("range", range),
        _ => {
            let bytes = state.uploads.remove(id).unwrap_or_default();
            let found = digest(&bytes).to_string();
            if parameter("digest").as_deref() != Some(found.as_str()) {
                return error(400, "DIGEST_INVALID");
            }
            state.blobs.insert(found, bytes);
            answer(201)
        }
    }
}
