//! Verbs on several things: go on after a failure, tell each, end with the worst code.

use super::Context;
use crate::{
    failure::{Code, Failure, Result},
    print::Printer,
};
use clap::Args;
use container::engine::{Inspect, Status};
use serde::Serialize;
use std::collections::BTreeMap;

/// The containers that a verb is for.
#[derive(Args, Debug, Clone, Default)]
pub struct Selection {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
    /// All that the verb can be applied to
    #[arg(short, long, conflicts_with = "containers")]
    pub all: bool,
    /// Do not mind when one is not there
    #[arg(short, long)]
    pub ignore: bool,
}

/// What verbs on several things work with.
pub trait Prints<'a: 'b, 'b> {
    /// Where results go.
    fn printer(&mut self) -> &mut Printer<'a, 'b>;
}

impl<'a, 'b> Prints<'a, 'b> for Context<'_, 'a, 'b> {
    fn printer(&mut self) -> &mut Printer<'a, 'b> {
        self.printer
    }
}

/// What was done to one, as a program reads it.
#[derive(Debug, Serialize)]
struct Done<T> {
    /// What it is, and as the user named it: one entry.
    #[serde(flatten)]
    subject: BTreeMap<&'static str, String>,
    #[serde(flatten)]
    result: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

impl Selection {
    /// The names to work on; with `--all` those of the containers in one of these states.
    ///
    /// # Errors
    /// Usage, when nothing is named; what the engine says of its list.
    pub fn resolve(&self, context: &Context<'_, '_, '_>, verb: &str, states: &[Status]) -> Result<Vec<String>> {
        if !self.all {
            return match self.containers.is_empty() && !self.ignore {
                true => Err(Failure::new(Code::USAGE, format!("{verb}: no container is named"))
                    .next(format!("jdos container {verb} CONTAINER…"))
                    .next(format!("jdos container {verb} --all"))),
                false => Ok(self.containers.clone()),
            };
        }
        let all = context.engine.list().map_err(|error| Failure::from_engine(&error))?;
        let chosen = |container: &Inspect| states.contains(&container.status).then(|| container.name.to_string());
        Ok(all.iter().filter_map(chosen).collect())
    }
}

/// Does `act` to each of several things of a kind; prints the line that `text` makes of each result, or all of them as one
/// document, in which `kind` is the key of what the user has named.
///
/// # Errors
/// Only that of printing; failures of single ones end in the code.
pub fn each<'a: 'b, 'b, C: Prints<'a, 'b>, T: Serialize>(
    kind: &'static str,
    context: &mut C,
    names: &[String],
    ignore_missing: bool,
    mut act: impl FnMut(&mut C, &str) -> Result<T>,
    text: impl Fn(&str, &T) -> String,
) -> Result<Code> {
    let mut worst = Code::DONE;
    let mut all = Vec::new();
    for name in names {
        let subject = BTreeMap::from([(kind, name.clone())]);
        let result = act(context, name);
        let printer = context.printer();
        match result {
            Ok(result) => {
                if !printer.json {
                    printer.line(&text(name, &result))?;
                    printer.flush()?;
                }
                all.push(Done { subject, result: Some(result), error: None });
            }
            Err(failure) if ignore_missing && failure.code == Code::NOT_FOUND => {}
            Err(failure) => {
                worst = worst.max(failure.code);
                printer.failure_text(&failure);
                all.push(Done { subject, result: None, error: Some(failure) });
            }
        }
    }
    let printer = context.printer();
    if printer.json {
        printer.document(&all)?;
    }
    Ok(worst)
}
