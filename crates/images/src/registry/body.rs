//! Bodies of responses. Content of blobs goes from the page cache to the socket without passing through this process
//! where the connection is plain TCP, and in large pieces where it is encrypted.

use super::{blocking::Pool, transport::Outbox};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// Bytes that are read at once for a connection that encrypts them.
const PIECE: usize = 256 << 10;

/// The body of a response.
pub(super) enum Content {
    /// Nothing.
    Empty,
    /// All of it at once.
    Whole(Bytes),
    /// Part of a file.
    File(FileContent),
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

/// Bytes of a file, which does not change.
pub(super) struct FileContent {
    file: Arc<File>,
    offset: u64,
    left: u64,
    way: Way,
}

type Reading<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// How the bytes get to the client.
enum Way {
    /// The transport sends them itself: see [`Outbox`].
    Sent {
        outbox: Outbox,
        /// Waits for the disk.
        warming: Option<Reading<()>>,
        warm: bool,
    },
    /// They are read.
    Read { pool: Pool, reading: Option<Reading<Bytes>> },
}

impl FileContent {
    /// `length` bytes from `offset`, for a connection that has this outbox, or none.
    pub fn new(file: File, offset: u64, length: u64, outbox: Option<Outbox>, pool: &Pool) -> Self {
        let way = match outbox {
            Some(outbox) => Way::Sent { outbox, warming: None, warm: false },
            None => Way::Read { pool: pool.clone(), reading: None },
        };
        Self { file: Arc::new(file), offset, left: length, way }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let bytes = match &mut self.way {
            Way::Sent { outbox, warming, warm } => {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(Outbox::PIECE);
                if !*warm {
                    if warming.is_none() && !is_cached(&self.file, self.offset, length) {
                        *warming = Some(outbox.warm(self.file.clone(), self.offset, length));
                    }
                    if let Some(waiting) = warming {
                        let warmed = ready!(waiting.as_mut().poll(context));
                        *warming = None;
                        if let Err(error) = warmed {
                            return Poll::Ready(Some(Err(error)));
                        }
                    }
                }
                *warm = false;
                outbox.put(self.file.clone(), self.offset, length)
            }
            Way::Read { pool, reading } => {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE);
                let mut work = match reading.take() {
                    Some(work) => work,
                    None => match read_cached(&self.file, self.offset, length) {
                        Some(bytes) => Box::pin(std::future::ready(Ok(bytes))) as Reading<Bytes>,
                        None => {
                            let (file, offset, pool) = (self.file.clone(), self.offset, pool.clone());
                            Box::pin(async move {
                                let read = move || {
                                    let mut bytes = vec![0; length];
                                    file.read_exact_at(&mut bytes, offset).map(|()| Bytes::from(bytes))
                                };
                                pool.run("registry-read", read).await.map_err(io::Error::other)?
                            })
                        }
                    },
                };
                match work.as_mut().poll(context) {
                    Poll::Pending => {
                        *reading = Some(work);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(bytes)) => bytes,
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                }
            }
        };
        self.offset += bytes.len() as u64;
        self.left -= bytes.len() as u64;
        Poll::Ready(Some(Ok(bytes)))
    }
}

/// Whether a part of a file seems to be in the page cache: its first and its last byte are. (The kernel reads ahead in
/// between; asking about each page would cost more than it saves.)
fn is_cached(file: &File, offset: u64, length: usize) -> bool {
    let mut byte = [0];
    [offset, offset + (length as u64).saturating_sub(1)].into_iter().all(|at| {
        match preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) {
            // A file system that cannot answer is one that has its content in memory, such as tmpfs.
            Ok(_) | Err(Errno::OPNOTSUPP) => true,
            Err(_) => false,
        }
    })
}

/// The bytes, if no disk has to be waited for.
fn read_cached(file: &File, offset: u64, length: usize) -> Option<Bytes> {
    let mut bytes = vec![0; length];
    let read = preadv2(file, &mut [IoSliceMut::new(&mut bytes)], offset, ReadWriteFlags::NOWAIT).ok()?;
    // Less than asked for is what was cached; nothing at all is the end of a file that should be longer, which the
    // reading thread reports.
    bytes.truncate(read);
    (read > 0).then(|| Bytes::from(bytes))
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::File(content) => content.poll(context).map(|polled| polled.map(|read| read.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::File(content) => content.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Empty => 0,
            Self::Whole(bytes) => bytes.len() as u64,
            Self::File(content) => content.left,
        })
    }
}
