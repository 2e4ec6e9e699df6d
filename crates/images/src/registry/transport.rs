//! The stream of a connection, below HTTP: TCP, or TLS over it.
//!
//! Over plain TCP the content of files is sent with sendfile(2): no copy of it enters this process. HTTP above it works
//! on buffers in memory, so a body hands it *stand-ins*, slices of one static region that is never looked into, and tells
//! the [`Outbox`] of the connection, in the same order, which bytes of which file each of them stands for. When the
//! stream is asked to write from that region it sends those bytes instead. Responses of a connection follow each other,
//! so stand-ins and what they stand for stay in step.
//!
//! A client that does not take what is sent to it is given up after a time.

use super::blocking::Pool;
use bytes::Bytes;
use rustix::{fs::sendfile, io::Errno};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSlice},
    os::{fd::AsFd, unix::fs::FileExt},
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;

/// What stand-ins are slices of: zeroed pages that nobody touches, so they take addresses and no memory.
static STAND_IN: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; Outbox::PIECE]));

/// The parts of files that stand-ins of a connection stand for, first to be sent first.
#[derive(Clone)]
pub(super) struct Outbox {
    parts: Arc<Mutex<VecDeque<Part>>>,
    pool: Pool,
}

struct Part {
    file: Arc<File>,
    offset: u64,
    left: usize,
}

impl Outbox {
    /// Bytes that one stand-in stands for at most.
    pub const PIECE: usize = 2 << 20;

    pub fn new(pool: Pool) -> Self {
        Self { parts: Arc::default(), pool }
    }

    /// The stand-in for `length` bytes of a file, at most [`Outbox::PIECE`]. It must be the next that is written.
    pub fn put(&self, file: Arc<File>, offset: u64, length: usize) -> Bytes {
        let length = length.min(Self::PIECE);
        self.lock().push_back(Part { file, offset, left: length });
        STAND_IN.slice(..length)
    }

    /// Waits for the disk, so that sending this part does not.
    pub fn warm(
        &self,
        file: Arc<File>,
        offset: u64,
        length: usize,
    ) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>> {
        let pool = self.pool.clone();
        Box::pin(async move {
            let read = move || {
                let mut buffer = vec![0; 128 << 10];
                let (mut at, end) = (offset, offset + length as u64);
                while at < end {
                    let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                    match file.read_at(&mut buffer[..most], at) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(read) => at += read as u64,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            };
            pool.run("registry-read", read).await.map_err(io::Error::other)?
        })
    }

    /// Sends of the first part up to `most` bytes, as far as the socket takes them.
    fn send(&self, socket: &TcpStream, most: usize) -> io::Result<usize> {
        let mut parts = self.lock();
        let part = parts.front_mut().ok_or_else(|| io::Error::other("a stand-in stands for nothing"))?;
        let mut offset = part.offset;
        let sent = loop {
            match sendfile(socket.as_fd(), part.file.as_fd(), Some(&mut offset), part.left.min(most)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => break sent,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        part.offset = offset;
        part.left -= sent;
        if part.left == 0 {
            parts.pop_front();
        }
        Ok(sent)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Part>> {
        // Between any two statements under the lock the queue is whole.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a slice is one of the region that stand-ins are slices of.
fn is_stand_in(slice: &[u8]) -> bool {
    let region = STAND_IN.as_ptr_range();
    let at = slice.as_ptr();
    !slice.is_empty() && region.start <= at && at < region.end
}

enum Stream {
    Plain(TcpStream, Outbox),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The stream of a connection.
pub(super) struct Transport {
    stream: Stream,
    patience: Duration,
    /// When the client has taken nothing for too long; armed while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Transport {
    /// Over TCP as it is.
    pub fn plain(socket: TcpStream, outbox: Outbox, patience: Duration) -> Self {
        Self { stream: Stream::Plain(socket, outbox), patience, stalled: None }
    }
    /// Over TLS.
    pub fn tls(stream: TlsStream<TcpStream>, patience: Duration) -> Self {
        Self { stream: Stream::Tls(Box::new(stream)), patience, stalled: None }
    }

    /// Gives up a client that has taken nothing for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(socket, _) => Pin::new(socket).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Plain(socket, outbox) => match slices.iter().position(|slice| is_stand_in(slice)) {
                None => Pin::new(socket).poll_write_vectored(context, slices),
                // A header before the content: the client can read on only when both are there.
                Some(first) if slices[..first].iter().any(|slice| !slice.is_empty()) => {
                    Pin::new(socket).poll_write_vectored(context, &slices[..first])
                }
                Some(first) => poll_send(socket, outbox, slices[first].len(), context),
            },
        };
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.stream {
            Stream::Plain(socket, _) => Pin::new(socket).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        };
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = match &mut self.stream {
            Stream::Plain(socket, _) => Pin::new(socket).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        };
        self.watch(context, shut)
    }
}

fn poll_send(socket: &TcpStream, outbox: &Outbox, most: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(context))?;
        match socket.try_io(Interest::WRITABLE, || outbox.send(socket, most)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return Poll::Ready(sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_known_by_their_place() {
        assert!(is_stand_in(&STAND_IN[..1]) && is_stand_in(&STAND_IN[5..]));
        assert!(!is_stand_in(&[0; 16]) && !is_stand_in(&STAND_IN[..0]));
    }
}
