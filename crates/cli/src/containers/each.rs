//! Verbs on several containers: go on after a failure, tell each, end with the worst code.

use super::Context;
use crate::failure::{Code, Failure, Result};
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

/// What was done to one container (or whatever it is), as a program reads it.
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

/// Does `act` to each; prints the line that `text` makes of each result, or all of them as one document.
///
/// # Errors
/// Only that of printing; failures of single containers end in the code.
pub fn each<T: Serialize>(
    context: &mut Context<'_, '_, '_>,
    containers: &[String],
    ignore_missing: bool,
    act: impl FnMut(&mut Context<'_, '_, '_>, &str) -> Result<T>,
    text: impl Fn(&str, &T) -> String,
) -> Result<Code> {
    each_of("container", context, containers, ignore_missing, act, text)
}

/// As [`each`], of things of this kind.
///
/// # Errors
/// As [`each`].
pub fn each_of<T: Serialize>(
    kind: &'static str,
    context: &mut Context<'_, '_, '_>,
    names: &[String],
    ignore_missing: bool,
    mut act: impl FnMut(&mut Context<'_, '_, '_>, &str) -> Result<T>,
    text: impl Fn(&str, &T) -> String,
) -> Result<Code> {
    let mut worst = Code::DONE;
    let mut all = Vec::new();
    for name in names {
        let subject = BTreeMap::from([(kind, name.clone())]);
        match act(context, name) {
            Ok(result) => {
                if !context.printer.json {
                    let line = text(name, &result);
                    context.printer.line(&line)?;
                    context.printer.flush()?;
                }
                all.push(Done { subject, result: Some(result), error: None });
            }
            Err(failure) if ignore_missing && failure.code == Code::NOT_FOUND => {}
            Err(failure) => {
                worst = worst.max(failure.code);
                context.printer.failure_text(&failure);
                all.push(Done { subject, result: None, error: Some(failure) });
            }
        }
    }
    if context.printer.json {
        context.printer.document(&all)?;
    }
    Ok(worst)
}
