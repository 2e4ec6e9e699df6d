//! Signals: to end, to end at once, to read the configuration again.

use std::{fmt, fs, io};
use tokio::signal::unix::{self, SignalKind};

/// A signal that means something to a supervised process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP.
    HangUp,
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// As the kernel numbers it.
    pub fn number(self) -> u8 {
        match self {
            Self::HangUp => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HangUp => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// The stream of them. Those which were ignored when the process began stay ignored: `nohup` and the background jobs of
/// a shell mean it so.
pub(crate) struct Signals {
    hang_up: Option<unix::Signal>,
    interrupt: Option<unix::Signal>,
    terminate: Option<unix::Signal>,
}

impl Signals {
    /// Takes them over, for as long as the process lives.
    pub(crate) fn take() -> io::Result<Self> {
        // Where /proc is not mounted they count as not ignored, as they nearly always are.
        let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let take = |signal: Signal| {
            let kind = SignalKind::from_raw(i32::from(signal.number()));
            if ignored & (1 << (signal.number() - 1)) != 0 { Ok(None) } else { unix::signal(kind).map(Some) }
        };
        Ok(Self {
            hang_up: take(Signal::HangUp)?,
            interrupt: take(Signal::Interrupt)?,
            terminate: take(Signal::Terminate)?,
        })
    }

    /// None of them.
    pub(crate) fn none() -> Self {
        Self { hang_up: None, interrupt: None, terminate: None }
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            () = next(&mut self.hang_up) => Signal::HangUp,
            () = next(&mut self.interrupt) => Signal::Interrupt,
            () = next(&mut self.terminate) => Signal::Terminate,
        }
    }
}

async fn next(stream: &mut Option<unix::Signal>) {
    if let Some(stream) = stream
        && stream.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// The mask of ignored signals in the text of `/proc/PID/status` (proc(5), `SigIgn`); none when it is not there.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_read() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), 0x1001);
        assert_eq!(ignored("Name:\tx\n"), 0);
        // The runtime of Rust ignores SIGPIPE, number 13.
        assert_ne!(ignored(&fs::read_to_string("/proc/self/status").unwrap()) & (1 << 12), 0);
    }
}
