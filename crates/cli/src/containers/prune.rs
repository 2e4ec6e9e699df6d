//! `prune`, and asking before much is removed.

use super::Context;
use crate::{
    failure::{Code, Failure, Result},
    human,
};
use clap::Args;
use container::engine::Inspect;
use jiff::Timestamp;
use std::io::{BufRead, IsTerminal, Write};

/// `prune`
#[derive(Args, Debug)]
pub struct PruneArguments {
    /// until=TIME (created before it: RFC 3339, or a span before now such as 24h), label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// What `--filter` keeps: all of it has to hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter {
    until: Option<Timestamp>,
    /// Key, value if it matters, and whether there has to be such a label or must not be.
    labels: Vec<(String, Option<String>, bool)>,
}

impl Filter {
    fn parse(texts: &[String], now: Timestamp) -> std::result::Result<Self, String> {
        let mut filter = Self::default();
        for text in texts {
            let expected = || format!("`{text}`: expected until=TIME, label=KEY[=VALUE] or label!=KEY[=VALUE]");
            let (key, value) = text.split_once('=').ok_or_else(expected)?;
            let mut label = |wanted| {
                let (name, value) = match value.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (value, None),
                };
                filter.labels.push((name.to_owned(), value, wanted));
            };
            match key {
                "until" if filter.until.is_some() => return Err("until is given twice".to_owned()),
                "until" => filter.until = Some(human::time(value, now)?),
                "label" => label(true),
                "label!" => label(false),
                _ => return Err(expected()),
            }
        }
        Ok(filter)
    }

    fn keeps(&self, container: &Inspect) -> bool {
        let has = |name: &String, value: &Option<String>| {
            let found = container.record.labels.get(name);
            found.is_some_and(|found| value.as_ref().is_none_or(|value| found == value))
        };
        self.until.is_none_or(|until| container.created_at < until)
            && self.labels.iter().all(|(name, value, wanted)| has(name, value) == *wanted)
    }
}

/// Removes all that do not run, after asking.
pub fn prune(context: &mut Context<'_, '_, '_>, arguments: &PruneArguments) -> Result<Code> {
    let filter = Filter::parse(&arguments.filter, Timestamp::now()).map_err(|problem| {
        Failure::new(Code::USAGE, format!("--filter: {problem}")).next("jdos container prune --help")
    })?;
    let what = match arguments.filter.is_empty() {
        true => "This removes all containers that do not run, and what they wrote.",
        false => "This removes the containers chosen by --filter that do not run, and what they wrote.",
    };
    if !arguments.force && !confirmed(context, "prune", what)? {
        context.printer.hint("nothing was removed");
        return Ok(Code::DONE);
    }
    let removed =
        context.engine.prune(|container| filter.keeps(container)).map_err(|error| Failure::from_engine(&error))?;
    context.printer.result(&removed, || removed.iter().map(|id| format!("{id}\n")).collect())?;
    Ok(Code::DONE)
}

/// Asks on the terminal; where there is none to ask, `--force` has to be given.
pub fn confirmed(context: &mut Context<'_, '_, '_>, verb: &str, what: &str) -> Result<bool> {
    let stdin = std::io::stdin();
    if context.printer.json || !stdin.is_terminal() {
        let asks = format!("{verb} asks before it removes, and there is no terminal to ask on");
        return Err(Failure::new(Code::USAGE, asks).next(format!("jdos container {verb} --force")));
    }
    context.printer.flush()?;
    let mut err = std::io::stderr();
    let mut answer = String::new();
    write!(err, "{what} Go on? [y/N] ")
        .and_then(|()| err.flush())
        .and_then(|()| stdin.lock().read_line(&mut answer))
        .map_err(|error| Failure::from_error("cannot ask on the terminal", &error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_named() {
        let now = "2026-02-01T12:00:00Z".parse().unwrap();
        let parse = |texts: &[&str]| Filter::parse(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>(), now);
        let filter = parse(&["until=2h", "label=tier=front", "label!=keep"]).unwrap();
        assert_eq!(filter.until, Some("2026-02-01T10:00:00Z".parse().unwrap()));
        let labels = [("tier".to_owned(), Some("front".to_owned()), true), ("keep".to_owned(), None, false)];
        assert_eq!(filter.labels, labels);
        for (wrong, said) in [("until=soon", "soon"), ("until", "expected"), ("name=x", "`name=x`")] {
            let problem = parse(&[wrong]).unwrap_err();
            assert!(problem.contains(said), "{problem}");
        }
        assert!(parse(&["until=1h", "until=2h"]).unwrap_err().contains("twice"));
    }
}
