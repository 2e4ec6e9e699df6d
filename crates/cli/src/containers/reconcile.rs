//! `reconcile`: adopt what runs, sweep what nobody asked for.

use super::Context;
use crate::failure::{Code, Failure, Result};
use container::engine::{Reconciled, Trouble};

/// Prints what was done, one line each, and tells what could not be.
pub fn reconcile(context: &mut Context<'_, '_, '_>) -> Result<Code> {
    let done = context.engine.reconcile().map_err(|error| Failure::from_engine(&error))?;
    context.printer.result(&done, || text(&done))?;
    for trouble in &done.troubles {
        let failure = failure(trouble);
        context.printer.failure_text(&failure);
    }
    Ok(if done.troubles.is_empty() { Code::DONE } else { Code::FAILED })
}

fn failure(trouble: &Trouble) -> Failure {
    let whose = match (&trouble.name, &trouble.container) {
        (Some(name), _) => format!("container {name}: "),
        (None, Some(id)) => format!("container {}: ", id.short()),
        (None, None) => String::new(),
    };
    let failure = Failure::new(Code::FAILED, format!("{whose}{}", trouble.message));
    let failure = trouble.why.iter().fold(failure, |failure, why| failure.why(why));
    failure.next("jdos container reconcile")
}

fn text(done: &Reconciled) -> String {
    let lists = [("adopted", &done.adopted), ("monitor replaced", &done.monitors_replaced), ("swept", &done.swept)];
    let lines: String =
        lines(lists.iter().flat_map(|(label, items)| items.iter().map(move |item| (*label, item.to_string()))));
    match lines.is_empty() && done.troubles.is_empty() {
        true => "nothing to do\n".to_owned(),
        false => lines,
    }
}

fn lines<'a>(items: impl Iterator<Item = (&'a str, String)>) -> String {
    items.map(|(label, item)| format!("{label:<17} {item}\n")).collect()
}
