//! Lines on their way to standard error.

use prometheus_client::metrics::counter::Counter;
use std::{
    cell::Cell,
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait; as many again may be with the thread that writes.
const BYTES: usize = 1 << 20;
/// Where standard error does not block by itself: how long to wait before the next try.
const RETRY: Duration = Duration::from_millis(10);

thread_local! {
    /// This thread is saying how many lines were dropped, which must not be dropped.
    static SAYING: Cell<bool> = const { Cell::new(false) };
}

/// Two buffers that change places: one is filled by everybody, one is written by the thread.
#[derive(Debug)]
pub(crate) struct Queue {
    lines: Mutex<Lines>,
    /// There is something to write.
    filled: Condvar,
    /// All is written.
    empty: Condvar,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: Vec<u8>,
    writing: bool,
    /// Dropped, and not yet said so in the log.
    unsaid: u64,
}

impl Queue {
    pub(crate) fn new(dropped: Counter) -> Self {
        Self { lines: Mutex::default(), filled: Condvar::new(), empty: Condvar::new(), dropped }
    }

    /// Takes a line, or drops it.
    fn push(&self, line: &[u8]) {
        let mut lines = self.lock();
        if lines.waiting.len() + line.len() > BYTES && !SAYING.get() {
            lines.unsaid += 1;
            self.dropped.inc();
            return;
        }
        let first = lines.waiting.is_empty();
        lines.waiting.extend_from_slice(line);
        drop(lines);
        if first {
            self.filled.notify_one();
        }
    }

    /// Starts the thread that writes to `out`, for as long as the process lives.
    pub(super) fn start(self: &Arc<Self>, mut out: impl Write + Send + 'static) -> io::Result<()> {
        let queue = self.clone();
        thread::Builder::new().name("logs".to_owned()).spawn(move || {
            let mut buffer = Vec::new();
            loop {
                let unsaid = queue.next(&mut buffer);
                let lost = !write(&mut out, &buffer);
                if lost {
                    queue.dropped.inc_by(buffer.split_inclusive(|byte| *byte == b'\n').count() as u64);
                }
                buffer.clear();
                if unsaid > 0 {
                    SAYING.set(true);
                    tracing::warn!(lines = unsaid, "lines of this log were dropped: nobody took them");
                    SAYING.set(false);
                }
                queue.wrote();
            }
        })?;
        Ok(())
    }

    /// Waits for lines, and swaps them into `buffer`, which is empty; gives how many were dropped before.
    fn next(&self, buffer: &mut Vec<u8>) -> u64 {
        let lines = self.lock();
        let mut lines =
            self.filled.wait_while(lines, |lines| lines.waiting.is_empty()).unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut lines.waiting, buffer);
        lines.writing = true;
        mem::take(&mut lines.unsaid)
    }

    fn wrote(&self) {
        let mut lines = self.lock();
        lines.writing = false;
        if lines.waiting.is_empty() {
            self.empty.notify_all();
        }
    }

    /// Waits until all is written; `false` when that takes longer than `within`.
    pub(crate) fn flush(&self, within: Duration) -> bool {
        let lines = self.lock();
        let busy = |lines: &mut Lines| lines.writing || !lines.waiting.is_empty();
        let waited = self.empty.wait_timeout_while(lines, within, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Nothing panics while it holds the lock but for want of memory.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all; `false` when that cannot be: there is nobody to tell why, standard error is what fails.
fn write(out: &mut impl Write, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return false,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => return false,
        }
    }
    true
}

/// What the lines are written to; each write is one line.
#[derive(Debug, Clone)]
pub(super) struct Writer(pub(super) Arc<Queue>);

impl MakeWriter<'_> for Writer {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Hands over what is written when somebody takes it, and blocks until then.
    struct Gate(mpsc::SyncSender<Vec<u8>>);
    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let bytes = &bytes[..bytes.len().min(1000)];
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Arc<Queue>, mpsc::Receiver<Vec<u8>>) {
        let queue = Arc::new(Queue::new(Counter::default()));
        let (gate, taken) = mpsc::sync_channel(0);
        queue.start(Gate(gate)).unwrap();
        (queue, taken)
    }

    #[test]
    fn a_stuck_reader_costs_lines_not_time() {
        let (queue, taken) = gated();
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        // Nobody takes anything: every push returns all the same, and what is kept is bounded.
        for _ in 0..10_000 {
            queue.push(&line);
        }
        let dropped = queue.dropped.get();
        assert!((10_000 - 2 * 1024..=10_000 - 1024).contains(&dropped), "{dropped}");
        assert!(!queue.flush(Duration::from_millis(20)), "it is stuck, and says so");
        let reader = thread::spawn(move || {
            taken.iter().take_while(|bytes| bytes != b"end").map(|bytes| bytes.len()).sum::<usize>()
        });
        assert!(queue.flush(Duration::from_secs(20)));
        queue.push(b"end");
        assert_eq!(reader.join().unwrap() as u64, (10_000 - dropped) * 1024, "what was not dropped is whole");
    }

    #[test]
    fn a_broken_output_is_counted() {
        let (queue, taken) = gated();
        drop(taken);
        queue.push(b"one\n");
        assert!(queue.flush(Duration::from_secs(20)), "it does not wait for what will never be");
        assert_eq!(queue.dropped.get(), 1);
    }
}
