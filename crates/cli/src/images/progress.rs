//! How long operations are watched: live bars on a terminal, plain lines in a pipe.
//!
//! The work is done on a thread of its own and tells what happens to a [`Board`]; this thread, which owns the printer,
//! shows it. What is told never waits for the terminal.

use crate::{human, print::Printer, table::printable};
use images::{Event, LayerState, Progress};
use jiff::Timestamp;
use model::image::Digest;
use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Time between two pictures.
const PICTURE: Duration = Duration::from_millis(100);
/// Most layers drawn at once; the others are counted.
const MOST_DRAWN: usize = 16;
/// Most layers and lines remembered.
const MOST_KEPT: usize = 4096;
/// Width of a bar.
const BAR: usize = 24;

/// Does `work` on another thread and shows how it comes along, unless nobody wants to know.
pub fn watch<T: Send>(printer: &mut Printer<'_, '_>, work: impl FnOnce(Arc<dyn Progress>) -> T + Send) -> T {
    if printer.json || printer.quiet {
        return work(Arc::new(images::Silent));
    }
    let board = Arc::new(Board::default());
    let told = board.clone();
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            // Told also when the work panics.
            let _end = End(told.clone());
            work(told)
        });
        let mut picture = Picture { live: printer.watched(), drawn: 0, began: Instant::now() };
        while !board.wait(PICTURE) {
            picture.show(printer, &board, false);
        }
        picture.show(printer, &board, true);
        match worker.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

struct End(Arc<Board>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

/// What has been told and not shown.
#[derive(Default)]
struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    layers: Vec<Layer>,
    lines: Vec<String>,
    step: Option<Step>,
    ended: bool,
}

/// What is being done where nothing is transferred.
struct Step {
    what: String,
    done: u64,
    of: u64,
}

struct Layer {
    digest: Digest,
    size: u64,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Waiting,
    Transfer(u64),
    Unpack(u64),
    Retry(String),
    Done(&'static str),
}

impl Board {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next picture; whether the work has ended.
    fn wait(&self, time: Duration) -> bool {
        let state = self.state();
        let waited = self.changed.wait_timeout_while(state, time, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

impl Progress for Board {
    fn event(&self, event: Event<'_>) {
        let mut state = self.state();
        match event {
            Event::Layer { digest, size, state: stage } => state.layer(digest, size, stage),
            Event::Manifest { digest } => state.line(format!("manifest {}", digest.short())),
            Event::Step { what, done, of } => state.step(what, done, of),
            Event::Message(text) => state.line(printable(text)),
        }
    }
}

impl State {
    fn line(&mut self, text: String) {
        if self.lines.len() < MOST_KEPT {
            self.lines.push(text);
        }
    }

    fn step(&mut self, what: &str, done: u64, of: u64) {
        // A line only where a step begins.
        if self.step.as_ref().is_none_or(|step| step.what != what) {
            self.line(printable(what));
        }
        self.step = Some(Step { what: printable(what), done, of });
    }

    fn layer(&mut self, digest: &Digest, size: u64, told: LayerState<'_>) {
        let short = digest.short();
        let stage = match told {
            LayerState::Exists => Stage::Done("is there"),
            LayerState::Waiting => Stage::Waiting,
            LayerState::Transfer { done } => Stage::Transfer(done),
            LayerState::Unpack { done } => Stage::Unpack(done),
            LayerState::Done => Stage::Done("done"),
            LayerState::Retry { after, why } => {
                let text = format!("again in {:.1} s: {}", after.as_secs_f64(), printable(why));
                self.line(format!("layer {short} {text}"));
                Stage::Retry(text)
            }
        };
        let known = self.layers.iter().position(|layer| layer.digest == *digest);
        let before = known.map(|position| self.layers[position].stage.clone());
        // A line only where a stage begins or ends.
        let what = match (&stage, &before) {
            (Stage::Done(how), Some(Stage::Done(_))) if *how == "is there" => None,
            (Stage::Done(how), _) => Some(*how),
            (Stage::Unpack(_), Some(Stage::Unpack(_))) => None,
            (Stage::Unpack(_), _) => Some("unpack"),
            (Stage::Transfer(_), Some(Stage::Waiting) | None) => Some("transfer"),
            _ => None,
        };
        if let Some(what) = what {
            let size = if size > 0 { format!(" {}", human::size(size)) } else { String::new() };
            self.line(format!("layer {short}{size} {what}"));
        }
        match known {
            Some(position) => {
                let layer = &mut self.layers[position];
                layer.stage = stage;
                layer.size = layer.size.max(size);
            }
            None if self.layers.len() < MOST_KEPT => self.layers.push(Layer { digest: digest.clone(), size, stage }),
            None => {}
        }
    }
}

/// What is on the screen.
struct Picture {
    live: bool,
    /// Lines of the last picture.
    drawn: usize,
    began: Instant,
}

impl Picture {
    fn show(&mut self, printer: &mut Printer<'_, '_>, board: &Board, last: bool) {
        let mut state = board.state();
        let lines = std::mem::take(&mut state.lines);
        if !self.live {
            drop(state);
            // To the second: more tells nobody anything.
            let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
            let text: String = lines.iter().map(|line| format!("{now} {line}\n")).collect();
            return printer.aside(&text);
        }
        let mut rows = rows(&state.layers, self.began.elapsed(), last);
        // What is done needs no picture: the result says it.
        rows.extend(state.step.as_ref().filter(|_| !last).map(|step| step_row(step, self.began.elapsed())));
        drop(state);
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        for row in &rows {
            text.push_str(row);
            text.push('\n');
        }
        self.drawn = rows.len();
        printer.aside(&text);
    }
}

/// A line for each layer that something happens to, and one for all others.
fn rows(layers: &[Layer], elapsed: Duration, last: bool) -> Vec<String> {
    let busy = |layer: &&Layer| last || !matches!(layer.stage, Stage::Done(_) | Stage::Waiting);
    let shown: Vec<&Layer> = layers.iter().filter(busy).take(MOST_DRAWN).collect();
    let mut rows: Vec<String> = shown.iter().map(|layer| row(layer)).collect();
    let done = layers.iter().filter(|layer| matches!(layer.stage, Stage::Done(_))).count();
    if shown.len() < layers.len() {
        let seconds = elapsed.as_secs();
        rows.push(format!("  {done} of {} layers done, {seconds} s", layers.len()));
    }
    rows
}

fn step_row(step: &Step, elapsed: Duration) -> String {
    let many = if step.of > 0 { format!("  {} of {}", step.done, step.of) } else { String::new() };
    format!("  {}{many}, {} s", step.what, elapsed.as_secs())
}

fn row(layer: &Layer) -> String {
    let (done, what) = match &layer.stage {
        Stage::Waiting => (0, "waits".to_owned()),
        Stage::Transfer(done) => (*done, format!("{} of {}", human::size(*done), human::size(layer.size))),
        Stage::Unpack(done) => (*done, format!("unpacks, {} of {}", human::size(*done), human::size(layer.size))),
        Stage::Retry(why) => (0, why.clone()),
        Stage::Done(how) => (layer.size, format!("{} {how}", human::size(layer.size))),
    };
    let parts = BAR as u64;
    let full = done.min(layer.size).saturating_mul(parts).checked_div(layer.size).unwrap_or(parts);
    let full = usize::try_from(full).unwrap_or(BAR);
    format!("  {}  {}{}  {what}", layer.digest.short(), "█".repeat(full), "░".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> Digest {
        format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap()
    }

    #[test]
    fn a_line_for_each_step_and_none_between() {
        let board = Board::default();
        let one = digest('a');
        let tell = |state| board.event(Event::Layer { digest: &one, size: 2048, state });
        tell(LayerState::Waiting);
        for done in [0, 512, 1024] {
            tell(LayerState::Transfer { done });
        }
        tell(LayerState::Retry { after: Duration::from_millis(500), why: "cut\x1b[2J" });
        tell(LayerState::Transfer { done: 1024 });
        tell(LayerState::Done);
        tell(LayerState::Unpack { done: 1 });
        tell(LayerState::Unpack { done: 2 });
        let lines = board.state().lines.clone();
        let short = one.short().to_owned();
        assert_eq!(
            lines,
            [
                format!("layer {short} 2KiB transfer"),
                format!("layer {short} again in 0.5 s: cut\\u{{1b}}[2J"),
                format!("layer {short} 2KiB done"),
                format!("layer {short} 2KiB unpack"),
            ]
        );
    }

    #[test]
    fn bars_show_what_moves_and_count_the_rest() {
        let layer = |digit, stage| Layer { digest: digest(digit), size: 100, stage };
        let layers = [layer('a', Stage::Transfer(50)), layer('b', Stage::Done("done")), layer('c', Stage::Waiting)];
        let drawn = rows(&layers, Duration::from_secs(3), false);
        assert_eq!(drawn.len(), 2);
        assert!(
            drawn[0].contains(&format!("{}{}", "█".repeat(12), "░".repeat(12))) && drawn[0].ends_with("50B of 100B")
        );
        assert_eq!(drawn[1], "  1 of 3 layers done, 3 s");
        assert_eq!(rows(&layers, Duration::ZERO, true).len(), 3);
    }

    #[test]
    fn steps_are_lines_when_they_begin_and_rows_while_they_last() {
        let board = Board::default();
        for done in 0..3 {
            board.event(Event::Step { what: "installing packages", done, of: 3 });
        }
        board.event(Event::Step { what: "packing", done: 0, of: 0 });
        let state = board.state();
        assert_eq!(state.lines, ["installing packages", "packing"]);
        let row = |done, of| step_row(&Step { what: "packing".to_owned(), done, of }, Duration::from_secs(4));
        assert_eq!((row(2, 3).as_str(), row(0, 0).as_str()), ("  packing  2 of 3, 4 s", "  packing, 4 s"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let board = Board::default();
        for _ in 0..3 * MOST_KEPT {
            board.event(Event::Message("x"));
        }
        assert_eq!(board.state().lines.len(), MOST_KEPT);
    }
}
