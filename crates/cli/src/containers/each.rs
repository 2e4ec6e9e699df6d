//! Verbs on several containers: go on after a failure, tell each, end with the worst code.

use super::Context;
use crate::{
    failure::{Code, Failure, Result},
    print::Printer,
};
use clap::Args;
use container::engine::{Inspect, Status};
use serde::Serialize;

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
pub trait Several<'a: 'b, 'b> {
    /// What the things are called in documents.
    const NOUN: &'static str;
    /// Where results go.
    fn printer(&mut self) -> &mut Printer<'a, 'b>;
}

impl<'a, 'b> Several<'a, 'b> for Context<'_, 'a, 'b> {
    const NOUN: &'static str = "container";
    fn printer(&mut self) -> &mut Printer<'a, 'b> {
        self.printer
    }
}

/// What was done to one, as a program reads it.
#[derive(Debug)]
struct Done<T> {
    noun: &'static str,
    /// As the user named it.
    name: String,
    result: std::result::Result<T, Failure>,
}

impl<T: Serialize> Serialize for Done<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'d, T> {
            #[serde(flatten)]
            name: std::collections::BTreeMap<&'static str, &'d str>,
            #[serde(flatten)]
            result: Option<&'d T>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'d Failure>,
        }
        let name = [(self.noun, self.name.as_str())].into();
        Fields { name, result: self.result.as_ref().ok(), error: self.result.as_ref().err() }.serialize(serializer)
    }
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
/// Only that of printing; failures of single ones end in the code.
pub fn each<'a: 'b, 'b, C: Several<'a, 'b>, T: Serialize>(
    context: &mut C,
    names: &[String],
    ignore_missing: bool,
    mut act: impl FnMut(&mut C, &str) -> Result<T>,
    text: impl Fn(&str, &T) -> String,
) -> Result<Code> {
    let mut worst = Code::DONE;
    let mut all = Vec::new();
    for name in names {
        let result = act(context, name);
        let printer = context.printer();
        match &result {
            Ok(result) if !printer.json => {
                printer.line(&text(name, result))?;
                printer.flush()?;
            }
            Ok(_) => {}
            Err(failure) if ignore_missing && failure.code == Code::NOT_FOUND => continue,
            Err(failure) => {
                worst = worst.max(failure.code);
                printer.failure_text(failure);
            }
        }
        all.push(Done { noun: C::NOUN, name: name.clone(), result });
    }
    if context.printer().json {
        context.printer().document(&all)?;
    }
    Ok(worst)
}
