//! Signals to this process, made readable: a pipe for the poll loop and the numbers behind it.

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH},
    iterator::{backend::SignalDelivery, exfiltrator::SignalOnly},
};
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

/// The signals that a foreground verb deals with itself, from the moment this exists.
#[derive(Debug)]
pub struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    /// Catches HUP, INT, QUIT, TERM, USR1, USR2 and WINCH.
    ///
    /// # Errors
    /// That of making the pipe or of setting a handler.
    pub fn catch() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let caught = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
        SignalDelivery::with_pipe(read, write, SignalOnly, caught).map(Self)
    }

    /// The signals that came since the last call; one that came several times shows once.
    pub fn pending(&mut self) -> Vec<i32> {
        self.0.pending().collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }
}
