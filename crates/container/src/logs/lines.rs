//! Lines, put together from chunks. Each stream has its own, since the two are cut where the container happened to write.

use super::{
    LONGEST_LINE, Line, Sink, Stream,
    files::LogFile,
    records::{Header, Kind, Next},
};
use jiff::Timestamp;
use std::{io, mem, ops::ControlFlow};

/// Unfinished lines of both streams.
#[derive(Debug, Default)]
pub struct Lines {
    out: Unfinished,
    err: Unfinished,
}

#[derive(Debug, Default)]
struct Unfinished {
    text: Vec<u8>,
    /// When its first byte was written; `None` while there is none.
    time: Option<Timestamp>,
}

impl Lines {
    /// Reads all whole records that the file has now.
    ///
    /// # Errors
    /// That of the file system, with the path.
    pub fn read(&mut self, file: &mut LogFile, sink: Sink<'_>) -> io::Result<ControlFlow<()>> {
        let mut flow = ControlFlow::Continue(());
        let mut dropped = Vec::new();
        while flow.is_continue() {
            let next = file.next(&mut |header, piece| {
                if flow.is_continue() {
                    flow = match header.kind {
                        Kind::Out => self.out.push(Stream::Stdout, header.time, piece, sink),
                        Kind::Err => self.err.push(Stream::Stderr, header.time, piece, sink),
                        Kind::Dropped => self.note(&mut dropped, header, piece, sink),
                    };
                }
            })?;
            match next {
                Next::Record => {}
                Next::Damage(bytes) if flow.is_continue() => {
                    let text = format!("{bytes} bytes of the log are damaged and left out");
                    flow = self.notice(file.time(), &text, sink);
                }
                Next::Damage(_) => {}
                Next::End => break,
            }
        }
        Ok(flow)
    }

    /// Gives what has no newline.
    pub fn finish(&mut self, sink: Sink<'_>) -> ControlFlow<()> {
        self.out.give(Stream::Stdout, true, sink)?;
        self.err.give(Stream::Stderr, true, sink)
    }

    /// Says that something may be missing before what was written at this time.
    pub fn lose(&mut self, time: Timestamp, sink: Sink<'_>) -> ControlFlow<()> {
        self.notice(time, "output may be missing here: the log was rotated faster than it was read", sink)
    }

    fn note(&mut self, count: &mut Vec<u8>, header: Header, piece: &[u8], sink: Sink<'_>) -> ControlFlow<()> {
        count.extend_from_slice(piece);
        let Some(bytes) = count.first_chunk() else { return ControlFlow::Continue(()) };
        let text =
            format!("{} bytes of output are missing here: they could not be written", u64::from_le_bytes(*bytes));
        count.clear();
        self.notice(header.time, &text, sink)
    }

    /// Lines that it interrupts end here.
    fn notice(&mut self, time: Timestamp, text: &str, sink: Sink<'_>) -> ControlFlow<()> {
        self.out.give(Stream::Stdout, false, sink)?;
        self.err.give(Stream::Stderr, false, sink)?;
        sink(Line { time, stream: Stream::Notice, text: format!("[{text}]").into_bytes(), partial: false })
    }
}

impl Unfinished {
    fn push(&mut self, stream: Stream, time: Timestamp, bytes: &[u8], sink: Sink<'_>) -> ControlFlow<()> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (mut text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            self.time.get_or_insert(time);
            // A line of just this length is whole if its newline comes next: parts are given only when more follows.
            while self.text.len() + text.len() > LONGEST_LINE {
                let (part, rest) = text.split_at(LONGEST_LINE - self.text.len());
                self.text.extend_from_slice(part);
                self.give(stream, true, sink)?;
                self.time = Some(time);
                text = rest;
            }
            self.text.extend_from_slice(text);
            if ends {
                self.give(stream, false, sink)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn give(&mut self, stream: Stream, partial: bool, sink: Sink<'_>) -> ControlFlow<()> {
        match self.time.take() {
            Some(time) => sink(Line { time, stream, text: mem::take(&mut self.text), partial }),
            None => ControlFlow::Continue(()),
        }
    }
}
