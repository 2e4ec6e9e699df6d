//! `reconcile`: adopt what runs, sweep what nobody asked for.

use super::Context;
use crate::failure::{Code, Failure, Result};
use container::engine::Reconciled;

/// Prints what was done, one line each.
pub fn reconcile(context: &mut Context<'_, '_, '_>) -> Result<Code> {
    let done = context.engine.reconcile().map_err(|error| Failure::from_engine(&error))?;
    context.printer.result(&done, || text(&done))?;
    Ok(Code::DONE)
}

fn text(done: &Reconciled) -> String {
    let lists = [("adopted", &done.adopted), ("monitor replaced", &done.monitors_replaced), ("swept", &done.swept)];
    let lines: String =
        lines(lists.iter().flat_map(|(label, items)| items.iter().map(move |item| (*label, item.to_string()))));
    match lines.is_empty() {
        true => "nothing to do\n".to_owned(),
        false => lines,
    }
}

fn lines<'a>(items: impl Iterator<Item = (&'a str, String)>) -> String {
    items.map(|(label, item)| format!("{label:<17} {item}\n")).collect()
}
