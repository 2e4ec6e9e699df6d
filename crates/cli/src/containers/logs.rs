//! `logs`: what a container wrote, each stream to the stream of ours that it was written to.

use super::{Context, problems::Problems};
use crate::{
    failure::{Code, Failure, Result},
    human,
    print::Printer,
};
use clap::Args;
use container::logs::{Line, Query, Stream};
use jiff::Timestamp;
use serde::Serialize;
use std::ops::ControlFlow;

/// `logs`
#[derive(Args, Debug)]
pub struct LogsArguments {
    /// Name, id or beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Go on with what comes until the container ends
    #[arg(short, long)]
    follow: bool,
    /// From this time on: RFC 3339, or a span before now such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The last lines only
    #[arg(short = 'n', long, value_name = "NUMBER", allow_hyphen_values = true)]
    tail: Option<String>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
}

/// A line as a program reads it.
#[derive(Serialize)]
struct Document<'a> {
    time: Timestamp,
    stream: &'static str,
    /// Bytes that are not UTF-8 are replaced.
    text: std::borrow::Cow<'a, str>,
    /// Whether the line had no end (yet).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

/// Prints the lines; with `--json` one object per line.
pub fn logs(context: &mut Context<'_, '_, '_>, arguments: &LogsArguments) -> Result<Code> {
    let mut problems = Problems::default();
    let query = query(arguments, Timestamp::now(), &mut problems);
    problems.check("jdos container logs")?;
    let id = context.find(&arguments.container)?;
    let mut printed = Ok(());
    let Context { printer, engine } = context;
    let mut sink = |line: Line| {
        printed = print(printer, &line, arguments.timestamps)
            .and_then(|()| if arguments.follow { printer.flush() } else { Ok(()) });
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    engine.logs(&id, &query, &mut sink).map_err(|error| Failure::from_engine(&error))?;
    printed.map(|()| Code::DONE)
}

fn query(arguments: &LogsArguments, now: Timestamp, problems: &mut Problems) -> Query {
    let mut time =
        |flag: &str, text: &Option<String>| text.as_ref().and_then(|text| problems.take(flag, human::time(text, now)));
    let since = time("--since", &arguments.since);
    let until = time("--until", &arguments.until);
    let tail = match arguments.tail.as_deref() {
        None | Some("all" | "-1") => None, // as Docker and podman write "all of them"
        Some(text) => {
            let number = text.parse().map_err(|_| format!("`{text}` is not a number of lines"));
            problems.take("--tail", number)
        }
    };
    Query { since, until, tail, stdout: true, stderr: true, follow: arguments.follow }
}

fn print(printer: &mut Printer<'_, '_>, line: &Line, timestamps: bool) -> Result<()> {
    let stderr = line.stream == Stream::Stderr;
    if printer.json {
        let stream = if stderr { "stderr" } else { "stdout" };
        let text = String::from_utf8_lossy(&line.text);
        return printer.document_line(&Document { time: line.time, stream, text, partial: line.partial });
    }
    let mut bytes = Vec::with_capacity(line.text.len() + 40);
    if timestamps {
        bytes.extend_from_slice(format!("{:.9} ", line.time).as_bytes());
    }
    bytes.extend_from_slice(&line.text);
    if !line.partial {
        bytes.push(b'\n');
    }
    if stderr { printer.error_bytes(&bytes) } else { printer.bytes(&bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::print::Streams;

    fn printed(json: bool, timestamps: bool, lines: &[Line]) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            out: &mut out,
            err: &mut err,
            out_is_terminal: false,
            err_is_terminal: false,
            colour: false,
            width: None,
        };
        let mut printer = Printer::new(&mut streams, json);
        lines.iter().for_each(|line| print(&mut printer, line, timestamps).unwrap());
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn lines() -> [Line; 2] {
        let time = "2026-02-01T12:00:00.5Z".parse().unwrap();
        [
            Line { time, stream: Stream::Stdout, text: b"out".to_vec(), partial: false },
            Line { time, stream: Stream::Stderr, text: b"err \xff".to_vec(), partial: true },
        ]
    }

    #[test]
    fn streams_stay_apart_and_bytes_stay_bytes() {
        let [out, mut err] = lines();
        err.text.truncate(3);
        let all = [out, err];
        assert_eq!(printed(false, false, &all), ("out\n".to_owned(), "err".to_owned()));
        assert_eq!(printed(false, true, &all[..1]).0, "2026-02-01T12:00:00.500000000Z out\n");
    }

    #[test]
    fn programs_get_one_object_per_line() {
        let (out, err) = printed(true, false, &lines());
        assert_eq!(
            out,
            "{\"time\":\"2026-02-01T12:00:00.5Z\",\"stream\":\"stdout\",\"text\":\"out\"}\n\
             {\"time\":\"2026-02-01T12:00:00.5Z\",\"stream\":\"stderr\",\"text\":\"err \u{fffd}\",\"partial\":true}\n"
        );
        assert_eq!(err, "");
    }

    #[test]
    fn queries() {
        let now = "2026-02-01T12:00:00Z".parse().unwrap();
        let arguments = |since: &str, tail: &str| LogsArguments {
            container: "x".to_owned(),
            follow: true,
            since: Some(since.to_owned()),
            until: None,
            tail: Some(tail.to_owned()),
            timestamps: false,
        };
        let mut problems = Problems::default();
        let read = query(&arguments("10m", "5"), now, &mut problems);
        assert_eq!(read.since, Some("2026-02-01T11:50:00Z".parse().unwrap()));
        assert_eq!((read.tail, read.until, read.follow), (Some(5), None, true));
        assert_eq!(query(&arguments("10m", "all"), now, &mut problems).tail, None);
        assert!(problems.into_vec().is_empty());
        let mut problems = Problems::default();
        query(&arguments("soon", "few"), now, &mut problems);
        let flags: Vec<_> = problems.into_vec().into_iter().map(|problem| problem.argument).collect();
        assert_eq!(flags, ["--since", "--tail"]);
    }
}
