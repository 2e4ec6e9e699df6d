//! Takes the body of a request into an ingest.

use super::{
    problem::{Code, Problem, Result},
    service::{Service, store_problem},
    sessions::Running,
};
use crate::store::{Ingest, StoreError};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{StatusCode, body::Incoming};
use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes that are handed to another thread at once. Two batches are in memory for each upload that sends.
const BATCH: usize = 512 << 10;
/// Bytes after which others have their turn on the thread: two or three milliseconds.
const KEEP: u64 = 2 << 20;
/// Bytes after which the room on the disk is looked at: some microseconds.
const LOOK: u64 = 4 << 20;
/// A client that sends less than this in the time that it may stall is not waited for any longer.
const LEAST: u64 = 16 << 10;

/// Why the body did not come to its end.
enum Cut {
    /// The connection ended, or it was too slow.
    Client(String),
    /// Another request goes on with the upload.
    Wanted,
}

/// Takes `body` in, up to `most` bytes.
///
/// A piece is hashed and written where it arrived, while it is in the caches of that processor. Since writing may wait for
/// the disk, only so many uploads do that at a time as leave threads for everybody else; the others collect batches and
/// hand them to the threads that may block.
///
/// The ingest comes back whatever happened, with as much as has arrived; but not if writing failed.
pub(super) async fn receive(
    service: &Arc<Service>,
    mut ingest: Ingest,
    body: &mut Incoming,
    most: u64,
    running: Option<&Running>,
) -> (Option<Ingest>, Result<()>) {
    let mut arrival = Arrival { body, room: most, patience: service.settings.limits.stall, running };
    let mut batch = Vec::new();
    let mut next_yield = ingest.written() + KEEP;
    let mut next_look = ingest.written() + LOOK;
    let mut result = arrival.fill(&mut batch, 1).await;
    while !batch.is_empty() {
        if ingest.written() >= next_look {
            next_look = ingest.written() + LOOK;
            if let Err(error) = service.store.check_room() {
                return (Some(ingest), Err(store_problem("receiving of a blob", &error)));
            }
        }
        let mut more = matches!(result, Ok(true));
        if let Ok(_place) = service.in_place.try_acquire() {
            let pieces = std::mem::take(&mut batch);
            service.counters.received.inc_by(length(&pieces));
            let written;
            (ingest, written) = write(ingest, &pieces);
            if let Err(error) = written {
                return (None, Err(write_problem(error)));
            }
        } else {
            if more {
                result = arrival.fill(&mut batch, BATCH).await;
                more = matches!(result, Ok(true));
            }
            let full = std::mem::take(&mut batch);
            service.counters.received.inc_by(length(&full));
            let write = service.block("registry-upload", move || Ok(write(ingest, &full)));
            // While this batch is written the next one arrives.
            let (written, next) =
                tokio::join!(write, async { if more { arrival.fill(&mut batch, BATCH).await } else { Ok(false) } });
            ingest = match written {
                Ok((ingest, Ok(()))) => ingest,
                Ok((_, Err(error))) => return (None, Err(write_problem(error))),
                Err(problem) => return (None, Err(problem)),
            };
            if more {
                result = next;
            }
            continue;
        }
        if more {
            // A client that is faster than we are would keep this thread; but to let it go after each piece would wake
            // another thread each time.
            if ingest.written() >= next_yield {
                next_yield = ingest.written() + KEEP;
                tokio::task::yield_now().await;
            }
            result = arrival.fill(&mut batch, 1).await;
        }
    }
    (Some(ingest), result.map(drop))
}

fn length(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|bytes| bytes.len() as u64).sum()
}

fn write(mut ingest: Ingest, batch: &[Bytes]) -> (Ingest, io::Result<()>) {
    let written = batch.iter().try_for_each(|bytes| ingest.write_all(bytes));
    (ingest, written)
}

fn write_problem(source: io::Error) -> Box<Problem> {
    let error = StoreError::Io { operation: "write to", path: "an upload".into(), source };
    store_problem("receiving of a blob", &error)
}

struct Arrival<'a> {
    body: &'a mut Incoming,
    room: u64,
    patience: Duration,
    running: Option<&'a Running>,
}

impl Arrival<'_> {
    /// Adds to a batch until it has `enough` bytes; whether there may be more. What has arrived before a failure is in the
    /// batch.
    async fn fill(&mut self, batch: &mut Vec<Bytes>, enough: usize) -> Result<bool> {
        let mut filled: usize = batch.iter().map(Bytes::len).sum();
        let mut deadline = Instant::now() + self.patience;
        let mut slow = 0;
        while filled < enough {
            let wanted = async {
                match self.running {
                    Some(running) => running.wanted().await,
                    None => std::future::pending().await,
                }
            };
            let frame = tokio::select! {
                biased;
                frame = timeout_at(deadline, self.body.frame()) => match frame {
                    Ok(None) => return Ok(false),
                    Ok(Some(Ok(frame))) => frame,
                    Ok(Some(Err(error))) => return Err(cut(Cut::Client(format!("the connection ended: {error}")))),
                    Err(_) => return Err(cut(Cut::Client("nothing or too little came for too long".to_owned()))),
                },
                () = wanted => return Err(cut(Cut::Wanted)),
            };
            // Trailers are of no interest.
            let Ok(bytes) = frame.into_data() else { continue };
            if bytes.is_empty() {
                continue;
            }
            let length = bytes.len() as u64;
            if length > self.room {
                return Err(too_large());
            }
            self.room -= length;
            slow += length;
            if slow >= LEAST {
                slow = 0;
                deadline = Instant::now() + self.patience;
            }
            filled += bytes.len();
            batch.push(bytes);
        }
        Ok(true)
    }
}

/// Why a small body is not there.
pub(super) enum Unread {
    /// It has more bytes than allowed.
    TooLarge,
    /// The connection ended, or the body is malformed.
    Broken(hyper::Error),
    /// It did not come in time.
    Late,
}

/// Takes a body in that is kept in memory: up to `most` bytes, all of them within `patience`.
pub(super) async fn whole(body: &mut Incoming, most: usize, patience: Duration) -> std::result::Result<Bytes, Unread> {
    match timeout(patience, Limited::new(body, most).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => {
            Err(error.downcast::<hyper::Error>().map_or(Unread::TooLarge, |error| Unread::Broken(*error)))
        }
        Err(_) => Err(Unread::Late),
    }
}

/// The content is larger than a blob may be.
pub(super) fn too_large() -> Box<Problem> {
    Problem::new(Code::SizeInvalid, "the blob is larger than this registry takes").status(StatusCode::PAYLOAD_TOO_LARGE)
}

fn cut(cut: Cut) -> Box<Problem> {
    match cut {
        Cut::Client(why) => Problem::new(Code::BlobUploadInvalid, format!("{why}; go on from where GET says"))
            .status(StatusCode::REQUEST_TIMEOUT)
            .hang_up(),
        Cut::Wanted => Problem::new(Code::BlobUploadInvalid, "another request goes on with this upload")
            .status(StatusCode::CONFLICT)
            .hang_up(),
    }
}
