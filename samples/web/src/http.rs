//! As much of HTTP/1.1 (RFC 9112) as the server needs: one request head in, one answer out.

use std::fmt;
use std::io::{self, Read};

/// Largest request head.
const HEAD: usize = 8 << 10;

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// As sent, upper case by convention.
    pub method: String,
    /// Without the query.
    pub path: String,
}

/// What it gets.
pub struct Answer {
    /// Code and reason.
    pub status: &'static str,
    /// Plain text.
    pub body: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            self.status,
            self.body.len(),
            self.body
        )
    }
}

/// Reads a request's head; the inner error is the status to answer with.
///
/// # Errors
/// The connection fails, or ends before the head does.
pub fn read(from: &mut impl Read) -> io::Result<Result<Request, &'static str>> {
    let (mut head, mut chunk) = (Vec::new(), [0; 1024]);
    loop {
        let length = from.read(&mut chunk)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&chunk[..length]);
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(parse(&head).ok_or("400 Bad Request"));
        }
        if head.len() > HEAD {
            return Ok(Err("431 Request Header Fields Too Large"));
        }
    }
}

fn parse(head: &[u8]) -> Option<Request> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let valid =
        words.next().is_none() && version.starts_with("HTTP/1.") && target.starts_with('/') && !method.is_empty();
    let path = target.split('?').next()?;
    valid.then(|| Request { method: method.to_owned(), path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::{Answer, Request, read};

    #[test]
    fn reads_requests() {
        let request = |text: &str| read(&mut text.as_bytes());
        let expected = Request { method: "GET".to_owned(), path: "/a".to_owned() };
        assert_eq!(request("GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n").expect("whole"), Ok(expected));
        assert_eq!(request("GET  HTTP/1.1\r\n\r\n").expect("whole"), Err("400 Bad Request"));
        assert_eq!(request("nonsense\r\n\r\n").expect("whole"), Err("400 Bad Request"));
        assert!(request("GET / HTTP/1.1\r\n").is_err());
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(10_000));
        assert_eq!(request(&long).expect("read"), Err("431 Request Header Fields Too Large"));
    }

    #[test]
    fn writes_answers() {
        let text = Answer { status: "200 OK", body: "ok\n".to_owned() }.to_string();
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n")
                && text.contains("Content-Length: 3\r\n")
                && text.ends_with("\r\n\r\nok\n")
        );
    }
}
