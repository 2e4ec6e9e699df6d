//! The user's terminal: raw mode that is always undone, and its size.

use container::options::WindowSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

/// A terminal in raw mode for as long as this exists: restored by drop, hence on every return and while a panic unwinds
/// (signals that would end the process are caught by the session and end it by a return).
#[derive(Debug)]
pub struct RawTerminal<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawTerminal<'a> {
    /// Switches the terminal to raw mode: every key goes on as it is typed, none is echoed, none makes a signal.
    ///
    /// # Errors
    /// That of tcgetattr(3) and tcsetattr(3).
    pub fn enter(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawTerminal<'_> {
    fn drop(&mut self) {
        // Not `Drain`: it would wait for output that a stopped terminal never takes. A failure means that the terminal
        // is gone.
        let _gone = tcsetattr(self.terminal, OptionalActions::Now, &self.before).is_err();
    }
}

/// The size of a terminal; `None` when it has none or is no terminal.
pub fn window_size(terminal: BorrowedFd<'_>) -> Option<WindowSize> {
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// The size of this process's own terminal: the one that shows its output, or else the one that gives its input.
pub fn own_window_size() -> Option<WindowSize> {
    window_size(std::io::stdout().as_fd()).or_else(|| window_size(std::io::stdin().as_fd()))
}
