//! A client that costs little: one connection, one request at a time, bodies from and to files.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const PATIENCE: Duration = Duration::from_secs(60);
/// Longest header line.
const LINE: u64 = 16 << 10;

/// A connection that is kept.
pub struct Connection {
    address: SocketAddr,
    reader: BufReader<TcpStream>,
}

/// What is sent.
pub enum Body<'b> {
    /// Nothing.
    None,
    /// Bytes.
    Bytes(&'b [u8]),
    /// All of a file.
    File(&'b Path),
}

/// An answer whose body has been read.
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Header fields, names in lower case.
    fields: Vec<(String, String)>,
    /// Body, if it was to be kept.
    pub body: Vec<u8>,
    /// Length of the body.
    pub length: u64,
}

impl Answer {
    /// A header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Itself, if its status is this one.
    ///
    /// # Errors
    /// The status is another one.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "answered {}: {}", self.status, String::from_utf8_lossy(&self.body));
        Ok(self)
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).context("no connection")?;
        stream.set_read_timeout(Some(PATIENCE)).context("cannot set a time-out")?;
        stream.set_write_timeout(Some(PATIENCE)).context("cannot set a time-out")?;
        stream.set_nodelay(true).context("cannot set a socket up")?;
        Ok(Self { address, reader: BufReader::with_capacity(256 << 10, stream) })
    }

    /// One request; `keep` says whether the answer's body is wanted. `target` is a path, or the whole address.
    ///
    /// # Errors
    /// The connection breaks, or the answer is no HTTP.
    pub fn request(&mut self, method: &str, target: &str, kind: &str, body: &Body<'_>, keep: bool) -> Result<Answer> {
        let path = match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => target,
        };
        let (file, length) = match body {
            Body::None => (None, 0),
            Body::Bytes(bytes) => (None, bytes.len() as u64),
            Body::File(path) => {
                let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
                let length = file.metadata()?.len();
                (Some(file), length)
            }
        };
        let field = if matches!(body, Body::None) { "Accept" } else { "Content-Type" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{field}: {kind}\r\nContent-Length: {length}\r\n\r\n",
            self.address
        );
        let stream = self.reader.get_mut();
        // In one piece where it is small, as any client does.
        let mut first = head.into_bytes();
        if let Body::Bytes(bytes) = body {
            first.extend_from_slice(bytes);
        }
        stream.write_all(&first).context("cannot send a request")?;
        if let Some(mut file) = file {
            let sent = std::io::copy(&mut file, stream).context("cannot send a body")?;
            ensure!(sent == length, "the file that is sent has changed");
        }
        self.answer(method, keep).with_context(|| format!("{method} {path}"))
    }

    fn answer(&mut self, method: &str, keep: bool) -> Result<Answer> {
        let (mut status, mut fields);
        loop {
            let line = self.line()?;
            status = line.split(' ').nth(1).and_then(|word| word.parse::<u16>().ok());
            let status = status.with_context(|| format!("not HTTP: {line}"))?;
            fields = Vec::new();
            loop {
                let line = self.line()?;
                match line.split_once(':') {
                    Some((name, value)) => fields.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                    None => break,
                }
            }
            if status != 100 {
                break;
            }
        }
        let status = status.context("no status")?;
        let mut answer = Answer { status, fields, body: Vec::new(), length: 0 };
        if method == "HEAD" || matches!(status, 204 | 304) {
            return Ok(answer);
        }
        if answer.field("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            loop {
                let line = self.line()?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16).with_context(|| format!("not a chunk: {line}"))?;
                self.body(&mut answer, size, keep)?;
                self.line()?;
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        let length = answer.field("content-length").and_then(|length| length.parse().ok());
        self.body(&mut answer, length.context("an answer without length")?, keep)?;
        Ok(answer)
    }

    fn body(&mut self, answer: &mut Answer, length: u64, keep: bool) -> Result<()> {
        // Errors are always worth reading.
        let keep = keep || answer.status >= 400;
        let mut left = length;
        while left > 0 {
            let bytes = self.reader.fill_buf().context("cannot read an answer")?;
            if bytes.is_empty() {
                bail!("the connection ends within an answer");
            }
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            if keep {
                answer.body.extend_from_slice(&bytes[..take]);
            }
            self.reader.consume(take);
            left -= take as u64;
        }
        answer.length += length;
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.reader.by_ref().take(LINE).read_line(&mut line).context("cannot read an answer")?;
        ensure!(line.ends_with('\n'), "the connection ends within an answer");
        Ok(line.trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::{Body, Connection};
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn one_connection_many_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let answers = [
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Kind: a\r\n\r\nyes",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            ];
            for answer in answers {
                let length = stream.read(&mut [0; 1024]).expect("a request");
                assert!(length > 0);
                stream.write_all(answer.as_bytes()).expect("sent");
            }
        });
        let mut connection = Connection::open(address).expect("connected");
        let answer = connection.request("GET", "/a", "x", &Body::None, true).expect("answered");
        assert_eq!((answer.status, answer.body.as_slice(), answer.field("x-kind")), (200, &b"yes"[..], Some("a")));
        let answer = connection.request("PUT", "http://h/a", "x", &Body::Bytes(b"1"), false).expect("answered");
        assert_eq!(answer.status, 202);
        let answer = connection.request("GET", "/a", "x", &Body::None, false).expect("answered");
        assert_eq!((answer.length, answer.body.len()), (5, 0));
        server.join().expect("served all");
    }
}
