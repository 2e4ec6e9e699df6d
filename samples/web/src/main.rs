//! A small web server to run in containers: says which version and instance answers, and ends well when asked to.
//!
//! `PORT` (default 8080; 0 picks one), `NAME` or `HOSTNAME` (the instance), `VERSION` (default: the crate's).
//! `/` answers with version, instance and the number of the request, `/healthz` with `ok`.
//!
//! One thread a connection, at most [`CONNECTIONS`] at once; a request is read within [`PATIENCE`] and one is answered per
//! connection. On SIGTERM or SIGINT no connection is taken any more, open ones are answered, and the exit code is 0.

mod http;

use std::env;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// How long a client may take to send its request, or to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long open connections may take after a signal.
const GRACE: Duration = Duration::from_secs(5);

/// Who answers.
struct Server {
    version: String,
    instance: String,
    requests: AtomicU64,
    stopping: AtomicBool,
    open: Mutex<usize>,
    closed: Condvar,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("web: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let port = env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let port = port.parse().map_err(|_| io::Error::other(format!("PORT is {port:?}, which is no port number")))?;
    // Taken before the first connection: as process 1 of a container, a signal without a handler would be ignored.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .map_err(|error| io::Error::other(format!("cannot listen on port {port}: {error}")))?;
    let server = Arc::new(Server::from_environment());
    say(&format!("web {} {} listens on {}", server.version, server.instance, listener.local_addr()?));

    let acceptor = Arc::clone(&server);
    std::thread::spawn(move || acceptor.accept(&listener));
    let signal = signals.forever().next();
    say(&format!("ends on signal {}", signal.unwrap_or_default()));
    server.drain();
    Ok(())
}

impl Server {
    fn from_environment() -> Self {
        let instance = env::var("NAME").or_else(|_| env::var("HOSTNAME"));
        Self {
            version: env::var("VERSION").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned()),
            instance: instance.unwrap_or_else(|_| "unnamed".to_owned()),
            requests: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            open: Mutex::new(0),
            closed: Condvar::new(),
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            self.enter();
            let stream = match listener.accept() {
                Ok((stream, _)) if !self.stopping.load(Ordering::Acquire) => stream,
                Ok(_) => return,
                Err(error) => {
                    // Out of descriptors, or a client that left early: the next one may do better.
                    eprintln!("web: cannot take a connection: {error}");
                    self.leave();
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
            };
            let server = Arc::clone(self);
            std::thread::spawn(move || {
                if let Err(error) = server.serve(&stream) {
                    eprintln!("web: a connection failed: {error}");
                }
                server.leave();
            });
        }
    }

    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let answer = match http::read(&mut stream)? {
            Ok(request) => self.answer(&request),
            Err(status) => http::Answer { status, body: format!("{status}\n") },
        };
        stream.write_all(answer.to_string().as_bytes())
    }

    fn answer(&self, request: &http::Request) -> http::Answer {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        say(&format!("{} {}", request.method, request.path));
        let (status, body) = match (request.method.as_str(), request.path.as_str()) {
            ("GET" | "HEAD", "/") => {
                ("200 OK", format!("web {} on {}, request {number}\n", self.version, self.instance))
            }
            ("GET" | "HEAD", "/healthz") => ("200 OK", "ok\n".to_owned()),
            ("GET" | "HEAD", _) => ("404 Not Found", "nothing here; try / or /healthz\n".to_owned()),
            _ => ("405 Method Not Allowed", "only GET and HEAD\n".to_owned()),
        };
        http::Answer { status, body: if request.method == "HEAD" { String::new() } else { body } }
    }

    /// Waits for room, and takes it.
    fn enter(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = self.closed.wait_while(open, |open| *open >= CONNECTIONS);
        *open.unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn leave(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.closed.notify_all();
    }

    /// Waits until nothing is open but the acceptor's own place.
    fn drain(&self) {
        self.stopping.store(true, Ordering::Release);
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (_open, _) =
            self.closed.wait_timeout_while(open, GRACE, |open| *open > 1).unwrap_or_else(PoisonError::into_inner);
    }
}

/// One line of log. A reader that has gone must not end the server, as `println!` would.
fn say(line: &str) {
    _ = writeln!(io::stdout().lock(), "{line}");
}
