//! Bodies of uploads, which tell whether they still move: a file, read ahead on a thread that may block, or bytes.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    convert::Infallible,
    fs::File,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Size of one part, bytes.
const PART: usize = 256 << 10;
/// Size of a piece of what is in memory, bytes. A connection takes in several pieces before one of them has left.
const PIECE: usize = 8 << 10;
/// Parts that are read ahead.
const AHEAD: usize = 4;

/// Tells whether something still moves.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    /// Milliseconds after `start` of the last beat.
    last: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    fn beat(&self) {
        let passed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for so long.
    pub(super) async fn stopped(&self, stall: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let silent = self.start.elapsed().saturating_sub(last);
            match stall.checked_sub(silent).filter(|left| !left.is_zero()) {
                Some(left) => tokio::time::sleep(left).await,
                None => return,
            }
        }
    }
}

/// What of a file is sent.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) file: Arc<File>,
    pub(super) from: u64,
    pub(super) size: u64,
}

impl Part {
    /// A body; `sent` is told how many bytes of the file have been handed over.
    pub(super) fn body(&self, pulse: &Arc<Pulse>, sent: Arc<dyn Fn(u64) + Send + Sync>) -> reqwest::Body {
        let (parts, received) = mpsc::channel(AHEAD);
        let (part, pulse) = (self.clone(), pulse.clone());
        let at = part.from;
        let left = part.size - part.from;
        // Not waited for: it ends with the body that it fills.
        drop(tokio::task::spawn_blocking(move || read(&part, &parts)));
        let body = FileBody { received, left, at, pulse, sent };
        reqwest::Body::wrap(body.boxed())
    }
}

fn read(part: &Part, parts: &mpsc::Sender<io::Result<Bytes>>) {
    // By place, not by the file's own offset: a body that is not wanted any more may still be read beside the one that
    // is sent in its stead, from the same file.
    let mut at = part.from;
    while at < part.size {
        let left = part.size - at;
        let mut bytes = BytesMut::zeroed(usize::try_from(left).map_or(PART, |left| left.min(PART)));
        let read = part.file.read_exact_at(&mut bytes, at);
        at += bytes.len() as u64;
        let failed = read.is_err();
        // An error means that the body is gone, and nobody wants the rest.
        if parts.blocking_send(read.map(|()| bytes.freeze())).is_err() || failed {
            return;
        }
    }
}

/// A body of bytes that are here already.
pub(super) fn pieces(bytes: Bytes, pulse: &Arc<Pulse>) -> reqwest::Body {
    reqwest::Body::wrap(Pieces { left: bytes, pulse: pulse.clone() })
}

struct Pieces {
    left: Bytes,
    pulse: Arc<Pulse>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.pulse.beat();
        let size = self.left.len().min(PIECE);
        Poll::Ready((size > 0).then(|| Ok(Frame::data(self.left.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

struct FileBody {
    received: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    at: u64,
    pulse: Arc<Pulse>,
    sent: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let received = std::task::ready!(self.received.poll_recv(context));
        self.pulse.beat();
        match received {
            Some(Ok(bytes)) => {
                let size = bytes.len() as u64;
                self.left = self.left.saturating_sub(size);
                // What was handed over before has left by now.
                (self.sent)(self.at);
                self.at += size;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None if self.left == 0 => Poll::Ready(None),
            None => Poll::Ready(Some(Err(io::Error::other("the file was not read to its end")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_bodies_of_one_file_do_not_disturb_each_other() {
        let content: Vec<u8> = (0..).take(AHEAD + 3).flat_map(|part| std::iter::repeat_n(part, PART)).collect();
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), &content).unwrap();
        let file = Arc::new(File::open(path.path()).unwrap());
        let part = Part { file, from: 10, size: content.len() as u64 };
        let pulse = Arc::new(Pulse::new());
        let mut first = part.body(&pulse, Arc::new(|_| ()));
        let begun = first.frame().await.unwrap().unwrap().into_data().unwrap();
        // The first is read ahead and waits; the second is read from the same place on.
        let second = part.body(&pulse, Arc::new(|_| ())).collect().await.unwrap().to_bytes();
        let rest = first.collect().await.unwrap().to_bytes();
        assert!(second == content[10..], "the second body is the file");
        assert!([begun, rest].concat() == content[10..], "and so is the first");
    }

    #[tokio::test]
    async fn bytes_that_leave_slowly_are_no_stall() {
        let stall = Duration::from_millis(300);
        let content = Bytes::from((0..=255).cycle().take(9 * PIECE + 1).collect::<Vec<u8>>());
        let pulse = Arc::new(Pulse::new());
        let mut body = pieces(content.clone(), &pulse);
        assert_eq!(body.size_hint().exact(), Some(content.len() as u64), "its length is said");
        let slow = async {
            let mut sent = BytesMut::new();
            while let Some(frame) = body.frame().await {
                sent.extend_from_slice(&frame.unwrap().into_data().unwrap());
                tokio::time::sleep(stall / 6).await;
            }
            sent.freeze()
        };
        let began = Instant::now();
        let sent = tokio::select! {
            sent = slow => sent,
            () = pulse.stopped(stall) => panic!("it moved all the time"),
        };
        assert!(began.elapsed() > stall && sent == content && body.is_end_stream());
        // And when it moves no more, that is noticed.
        pulse.stopped(stall).await;
    }
}
