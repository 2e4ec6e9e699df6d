//! Keeping an eye on a stream that is being unpacked.

use super::{error::Refusal, stream};
use crate::{progress::LayerState, tarball::TarError};
use std::{
    io::{self, BufRead, Read},
    sync::atomic::{AtomicU64, Ordering},
};

/// What an archive may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one layer.
    pub entries: u64,
    /// Plain bytes of one layer.
    pub bytes: u64,
    /// How many times larger than its compressed form a layer may be, once it is larger than [`Limits::free`].
    pub ratio: u64,
    /// Bytes below which the ratio does not matter.
    pub free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 5_000_000, bytes: 512 << 30, ratio: 300, free: 4 << 30 }
    }
}

/// Counts plain bytes against the limits, and reports progress.
pub(super) struct Metered<'a, 's, F> {
    pub plain: &'a mut stream::Stream,
    pub taken: u64,
    pub reported: u64,
    pub limits: Limits,
    pub compressed: &'s AtomicU64,
    pub report: F,
}

/// Passed through the reader as the cause of an input error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Bomb(Refusal);

pub(super) fn bomb(error: &TarError) -> Option<(String, Refusal)> {
    let TarError::Io { entry, source, .. } = error else { return None };
    let bomb = source.get_ref()?.downcast_ref::<Bomb>()?;
    Some((entry.clone(), bomb.0))
}

const REPORT_EACH: u64 = 4 << 20;

impl<F: Fn(LayerState<'static>)> BufRead for Metered<'_, '_, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let limits = self.limits;
        if self.taken > limits.bytes {
            return Err(io::Error::other(Bomb(Refusal::TooLarge(limits.bytes))));
        }
        if self.taken > limits.free {
            let compressed = self.compressed.load(Ordering::Relaxed).max(1);
            if self.taken / compressed > limits.ratio {
                return Err(io::Error::other(Bomb(Refusal::TooCompressed(limits.ratio))));
            }
        }
        if self.taken - self.reported >= REPORT_EACH {
            self.reported = self.taken;
            (self.report)(LayerState::Unpack { done: self.compressed.load(Ordering::Relaxed) });
        }
        self.plain.fill_buf()
    }
    fn consume(&mut self, length: usize) {
        self.taken += length as u64;
        self.plain.consume(length);
    }
}

impl<F: Fn(LayerState<'static>)> Read for Metered<'_, '_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = Read::read(&mut self.fill_buf()?, buffer)?;
        self.consume(length);
        Ok(length)
    }
}
