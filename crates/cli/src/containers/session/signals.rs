//! Signals to this process, made readable: a pipe for the poll loop and the numbers behind it.

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH},
    flag,
    iterator::{backend::SignalDelivery, exfiltrator::SignalOnly},
};
use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// The signals that a foreground verb deals with itself, from the moment this exists until it is dropped.
#[derive(Debug)]
pub struct Signals(SignalDelivery<UnixStream, SignalOnly>);

/// Who wants signals in this process. Handlers stay for good; while nobody wants them, `released` makes the signals mean
/// what they meant before.
#[derive(Debug)]
struct Claims {
    held: usize,
    released: Option<Arc<AtomicBool>>,
}
static CLAIMS: Mutex<Claims> = Mutex::new(Claims { held: 0, released: None });

const CAUGHT: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];

impl Signals {
    /// Catches HUP, INT, QUIT, TERM, USR1, USR2 and WINCH.
    ///
    /// # Errors
    /// That of making the pipe or of setting a handler.
    pub fn catch() -> io::Result<Self> {
        let mut claims = claims();
        let released = match &claims.released {
            Some(released) => released,
            None => {
                let released = Arc::new(AtomicBool::new(false));
                // A window's size means nothing by default.
                for signal in CAUGHT.into_iter().filter(|signal| *signal != SIGWINCH) {
                    flag::register_conditional_default(signal, Arc::clone(&released))?;
                }
                claims.released.insert(released)
            }
        };
        released.store(false, Ordering::SeqCst);
        claims.held += 1;
        drop(claims);
        // From here on a failure gives the claim back.
        let (read, write) = UnixStream::pair().inspect_err(|_| give_back())?;
        SignalDelivery::with_pipe(read, write, SignalOnly, CAUGHT).map(Self).inspect_err(|_| give_back())
    }

    /// The signals that came since the last call; one that came several times shows once.
    pub fn pending(&mut self) -> Vec<i32> {
        self.0.pending().collect()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    let mut claims = claims();
    claims.held -= 1;
    if let Some(released) = &claims.released {
        released.store(claims.held == 0, Ordering::SeqCst);
    }
}

fn claims() -> MutexGuard<'static, Claims> {
    // What it guards is right after every statement: a panic elsewhere does not spoil it.
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }
}
