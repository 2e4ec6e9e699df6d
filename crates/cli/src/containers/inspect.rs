//! `inspect`: all that is known of containers.

use super::Context;
use crate::failure::{Code, Failure, Result};
use clap::{Args, ValueEnum};
use container::engine::Inspect;
use serde::Serialize;

/// `inspect`
#[derive(Args, Debug)]
pub struct InspectArguments {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    /// The only format there is
    #[arg(short, long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
}

/// An element of the result.
#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Found(Box<Inspect>),
    Failed { container: &'a str, error: Failure },
}

/// Prints an array with one object per container; one that failed is an object with `error`.
pub fn inspect(context: &mut Context<'_, '_, '_>, arguments: &InspectArguments) -> Result<Code> {
    let Format::Json = arguments.format;
    let mut worst = Code::DONE;
    let mut all = Vec::with_capacity(arguments.containers.len());
    for reference in &arguments.containers {
        match one(context, reference) {
            Ok(inspect) => all.push(Item::Found(Box::new(inspect))),
            Err(failure) if arguments.containers.len() == 1 => return Err(failure),
            Err(failure) => {
                worst = worst.max(failure.code);
                context.printer.failure_text(&failure);
                all.push(Item::Failed { container: reference, error: failure });
            }
        }
    }
    context.printer.document(&all)?;
    Ok(worst)
}

fn one(context: &Context<'_, '_, '_>, reference: &str) -> Result<Inspect> {
    let id = context.find(reference)?;
    context.engine.inspect(&id).map_err(|error| Failure::from_engine(&error))
}
