//! Lines out of records.

use super::{Line, Stream};
use jiff::Timestamp;

/// Longest line in one piece, bytes.
const LONGEST: usize = 16 << 10;

/// The unfinished line of each stream.
#[derive(Default)]
pub struct Assembler {
    pending: [Option<Line>; 2],
}

impl Assembler {
    /// Takes a record's bytes; gives each line that is complete, and each part that is full.
    pub fn add(&mut self, time: Timestamp, stream: Stream, bytes: &[u8], give: &mut dyn FnMut(Line)) {
        let pending = &mut self.pending[match stream {
            Stream::Stdout => 0,
            Stream::Stderr => 1,
        }];
        let mut rest = bytes;
        while !rest.is_empty() {
            let line = pending.get_or_insert_with(|| Line { time, stream, text: Vec::new(), partial: true });
            let room = LONGEST - line.text.len();
            let end = rest.iter().take(room + 1).position(|byte| *byte == b'\n');
            let take = end.unwrap_or(rest.len().min(room));
            line.text.extend_from_slice(&rest[..take]);
            rest = &rest[take..];
            if end.is_some() {
                rest = &rest[1..];
                line.partial = false;
            }
            if (end.is_some() || !rest.is_empty())
                && let Some(done) = pending.take()
            {
                give(done);
            }
        }
    }

    /// Lines that never ended.
    pub fn rest(&mut self) -> impl Iterator<Item = Line> {
        let mut all: Vec<Line> = self.pending.iter_mut().filter_map(Option::take).collect();
        all.sort_by_key(|line| line.time);
        all.into_iter()
    }
}
