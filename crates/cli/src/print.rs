//! The printer: the only place that knows whether a person or a program reads.
//!
//! Results go to standard output, everything said besides (warnings, errors, hints) to standard error. With `--json`
//! standard output holds exactly one document per verb, for a failure too: `{"error": …}`.

use crate::failure::{Code, Failure, Result};
use serde::Serialize;
use std::io::{self, ErrorKind, Write};

/// Where output goes and how it looks.
pub struct Streams<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// Everything else.
    pub err: &'a mut dyn Write,
    /// Whether `out` is a terminal.
    pub out_is_terminal: bool,
    /// Whether `err` is a terminal, on which what is said can be replaced.
    pub err_is_terminal: bool,
    /// Whether `err` may be coloured.
    pub colour: bool,
    /// Columns for help texts; those of the terminal when absent.
    pub width: Option<usize>,
}

/// Prints results, warnings and failures of one verb.
pub struct Printer<'a, 'b> {
    streams: &'b mut Streams<'a>,
    /// Whether a program reads.
    pub json: bool,
    /// Whether warnings are left out.
    pub quiet: bool,
}

impl<'a, 'b> Printer<'a, 'b> {
    /// A printer on these streams.
    pub fn new(streams: &'b mut Streams<'a>, json: bool) -> Self {
        Self { streams, json, quiet: false }
    }

    /// Whether a person watches standard output.
    pub fn live(&self) -> bool {
        self.streams.out_is_terminal && !self.json
    }

    /// Whether a person watches standard error.
    pub fn watched(&self) -> bool {
        self.streams.err_is_terminal && !self.json
    }

    /// Says how something comes along; the text brings its own line ends.
    pub fn aside(&mut self, text: &str) {
        if !self.json && !self.quiet && !text.is_empty() {
            say(self.streams.err, text);
        }
    }

    /// Prints a result for a person; the text brings its own line ends.
    ///
    /// # Errors
    /// [`Failure::broken_pipe`], or what the file system says.
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())
    }

    /// Prints one line of a result.
    ///
    /// # Errors
    /// As [`Printer::text`].
    pub fn line(&mut self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Prints a part of a result as it is.
    ///
    /// # Errors
    /// As [`Printer::text`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.streams.out.write_all(bytes).map_err(|error| output(&error))
    }

    /// Prints bytes on standard error as they are (a container's own standard error).
    ///
    /// # Errors
    /// As [`Printer::text`].
    pub fn error_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.streams.err.write_all(bytes).map_err(|error| output(&error))
    }

    /// Sends on what is held back.
    ///
    /// # Errors
    /// As [`Printer::text`].
    pub fn flush(&mut self) -> Result<()> {
        self.streams.out.flush().and_then(|()| self.streams.err.flush()).map_err(|error| output(&error))
    }

    /// Prints the one document of a verb.
    ///
    /// # Errors
    /// As [`Printer::text`].
    pub fn document(&mut self, value: &impl Serialize) -> Result<()> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| Failure::from_error("cannot write JSON", &error))?;
        self.line(&text)
    }

    /// Prints one document on one line, for results that are a stream of documents.
    ///
    /// # Errors
    /// As [`Printer::text`].
    pub fn document_line(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|error| Failure::from_error("cannot write JSON", &error))?;
        self.line(&text)
    }

    /// Prints one document on a line of its own after output of a container, which may have stopped in the middle of a
    /// line: `tail -n 1` finds it.
    ///
    /// # Errors
    /// As [`Printer::text`].
    pub fn closing_document(&mut self, value: &impl Serialize) -> Result<()> {
        self.text("\n")?;
        self.document_line(value)
    }

    /// Prints the document when a program reads, else the text.
    ///
    /// # Errors
    /// As [`Printer::text`].
    pub fn result(&mut self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        match self.json {
            true => self.document(value),
            false => self.text(&text()),
        }
    }

    /// Says what was done otherwise than asked.
    pub fn warnings(&mut self, warnings: &[String]) {
        if self.quiet {
            return;
        }
        for warning in warnings {
            let label = paint(self.streams.colour, "33", "warning:");
            say(self.streams.err, &format!("{label} {warning}\n"));
        }
    }

    /// Says something that helps a person and is not part of the result.
    pub fn hint(&mut self, text: &str) {
        if !self.json {
            say(self.streams.err, &format!("{text}\n"));
        }
    }

    /// Prints a failure: for a person on standard error, and for a program as a document too.
    pub fn failure(&mut self, failure: &Failure) {
        self.failure_text(failure);
        if self.json
            && failure.code != Code::BROKEN_PIPE
            && let Err(failure) = self.failure_document(failure)
        {
            self.failure_text(&failure);
        }
    }

    /// Prints a failure for a program only.
    ///
    /// # Errors
    /// As [`Printer::text`].
    pub fn failure_document(&mut self, failure: &Failure) -> Result<()> {
        #[derive(Serialize)]
        struct Document<'f> {
            error: &'f Failure,
        }
        self.document(&Document { error: failure })
    }

    /// Prints a failure for a person only: the verb puts it into its own document.
    pub fn failure_text(&mut self, failure: &Failure) {
        if failure.code != Code::BROKEN_PIPE {
            let text = render(failure, self.streams.colour);
            say(self.streams.err, &text);
        }
    }
}

/// A failure of writing to standard error has no one left to be told to.
fn say(err: &mut dyn Write, text: &str) {
    let _unheard = err.write_all(text.as_bytes()).and_then(|()| err.flush()).is_err();
}

fn output(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::broken_pipe(),
        _ => Failure::from_error("cannot write the result", error),
    }
}

fn paint(colour: bool, style: &str, text: &str) -> String {
    match colour {
        true => format!("\x1b[1;{style}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// The failure as text: the message, then one indented line per argument, cause and command.
fn render(failure: &Failure, colour: bool) -> String {
    let mut text = format!("{} {}\n", paint(colour, "31", "error:"), failure.what);
    let width = failure.arguments.iter().map(|problem| problem.argument.chars().count()).max().unwrap_or(0);
    for problem in &failure.arguments {
        text.push_str(&format!("  {:width$}  {}\n", problem.argument, problem.problem));
    }
    for (label, lines) in [("why", &failure.why), ("next", &failure.next)] {
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            let indented = line.trim_end().replace('\n', "\n         ");
            text.push_str(&format!("  {label:<5}  {indented}\n"));
        }
    }
    text
}

/// Whether the environment lets a terminal be coloured: `NO_COLOR` is unset or empty, and `TERM` is not `dumb`.
pub fn colour_allowed(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> bool {
    variable("NO_COLOR").is_none_or(|value| value.is_empty()) && variable("TERM").is_none_or(|value| value != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Problem;

    fn print(json: bool, act: impl FnOnce(&mut Printer<'_, '_>)) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            out: &mut out,
            err: &mut err,
            out_is_terminal: false,
            err_is_terminal: false,
            colour: false,
            width: Some(100),
        };
        act(&mut Printer::new(&mut streams, json));
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_failure_says_what_where_why_and_next() {
        let mut failure = Failure::new(Code::CONFLICT, "cannot publish port 80 of web")
            .why("the port is in use\nby nginx")
            .why("bind: address in use")
            .next("jdos container ps");
        failure.arguments.push(Problem { argument: "--publish".to_owned(), problem: "`80:80`: in use".to_owned() });
        let (out, err) = print(false, |printer| printer.failure(&failure));
        assert_eq!(out, "");
        assert_eq!(
            err,
            "error: cannot publish port 80 of web\n  --publish  `80:80`: in use\n  why    the port is in use\n         by nginx\n         bind: address in use\n  next   jdos container ps\n"
        );
    }

    #[test]
    fn a_failure_is_a_document_for_programs() {
        let failure = Failure::new(Code::NOT_FOUND, "there is no container `web`");
        let (out, err) = print(true, |printer| printer.failure(&failure));
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(document["error"]["kind"], "not-found");
        assert_eq!(document["error"]["message"], "there is no container `web`");
        assert!(err.starts_with("error: there is no container"), "{err}");
    }

    #[test]
    fn nobody_is_told_that_nobody_listens() {
        let (out, err) = print(true, |printer| printer.failure(&Failure::broken_pipe()));
        assert_eq!((out.as_str(), err.as_str()), ("", ""));
    }

    #[test]
    fn no_color_is_honoured() {
        let with = |pairs: &'static [(&str, &str)]| {
            colour_allowed(move |name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()))
        };
        assert!(with(&[("TERM", "xterm")]) && with(&[("NO_COLOR", "")]));
        assert!(!with(&[("NO_COLOR", "1")]) && !with(&[("TERM", "dumb")]));
        assert!(render(&Failure::broken_pipe(), true).starts_with("\x1b[1;31merror:\x1b[0m "));
    }
}
