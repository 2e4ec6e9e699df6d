//! What the person at the terminal sees: one line when a step begins, one when it ends, with its time.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Result;

/// A step that has nothing to say for so long says that it goes on, for whoever watches from afar.
const SILENCE: Duration = Duration::from_secs(30);

/// When a line was printed last.
static SPOKEN: Mutex<Option<Instant>> = Mutex::new(None);

/// Runs `body` as a named step: says that it begins, now and then that it goes on, and how it ended after what time. The
/// error is passed on untouched.
pub fn step<T>(title: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    say(&format!("{} {title}", paint("36", "▸")));
    let start = Instant::now();
    let result = std::thread::scope(|scope| {
        let (end, ended) = sync_channel::<()>(0);
        scope.spawn(move || {
            let mut wait = SILENCE;
            while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = SILENCE.saturating_sub(silence());
                if wait.is_zero() {
                    detail(&format!("… {title}: {}", seconds(start.elapsed())));
                    wait = SILENCE;
                }
            }
        });
        let result = body();
        drop(end);
        result
    });
    let took = seconds(start.elapsed());
    match &result {
        Ok(_) => say(&format!("{} {title}  {took}", paint("32", "✔"))),
        Err(_) => say(&format!("{} {title}  failed after {took}", paint("31", "✘"))),
    }
    result
}

/// Prints one line at once. Progress goes to standard error, so that `--json` has standard output for itself.
pub fn say(line: &str) {
    let mut stderr = std::io::stderr().lock();
    // Progress that nobody can read (a closed terminal) must not end the work.
    _ = writeln!(stderr, "{line}");
    spoken();
}

/// Notes that something was printed just now.
pub fn spoken() {
    *SPOKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
}

/// How long ago something was printed.
pub fn silence() -> Duration {
    let last = *SPOKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    last.map_or(Duration::MAX, |last| last.elapsed())
}

/// A detail of the running step, indented below it.
pub fn detail(line: &str) {
    say(&format!("    {line}"));
}

/// A time as people read it: `0.4 s`, `12.3 s`, `3 min 5 s`.
pub fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    if whole < 100 { format!("{:.1} s", time.as_secs_f64()) } else { format!("{} min {} s", whole / 60, whole % 60) }
}

fn paint(code: &str, text: &str) -> String {
    if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;
    use std::time::Duration;

    #[test]
    fn times_read_well() {
        assert_eq!(seconds(Duration::from_millis(430)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 min 5 s");
    }
}
