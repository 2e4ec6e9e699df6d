//! One request of HTTP/1.1.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest answer that is read, and longest wait for any part of it.
const LIMIT: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// The body of the answer.
///
/// # Errors
/// No connection, no answer, or one whose status is not 200.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("no connection")?;
    stream.set_read_timeout(Some(PATIENCE)).context("cannot set a time-out")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("cannot send a request")?;
    let mut text = String::new();
    stream.take(LIMIT).read_to_string(&mut text).context("cannot read the answer")?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        Some((head, _)) => bail!("answered {}", head.lines().next().unwrap_or_default()),
        None => bail!("answered {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::get;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn bodies_and_statuses() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = std::thread::spawn(move || {
            for status in ["200 OK", "503 Service Unavailable"] {
                let (mut stream, _) = listener.accept().expect("a client");
                let length = stream.read(&mut [0; 1024]).expect("a request");
                assert!(length > 0);
                stream
                    .write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nyes").as_bytes())
                    .expect("sent");
            }
        });
        assert_eq!(get(address, "/").expect("200"), "yes");
        assert!(get(address, "/").expect_err("503").to_string().contains("503"));
        server.join().expect("served both");
        assert!(get(address, "/").is_err());
    }
}
