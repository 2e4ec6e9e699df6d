//! `prune` and `df`: what images take on disk, and getting it back.

use super::Context;
use crate::{
    failure::{Code, Failure, Result},
    human,
    print::Printer,
    table::Table,
};
use clap::Args;
use images::{
    Store,
    collect::{self, ItemKind, Options, Report},
    registry,
};
use std::time::Duration;

/// `prune`
#[derive(Args, Debug)]
pub struct PruneArguments {
    /// Only show what would be deleted
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Leave alone what was used so short a time ago, such as 10m
    #[arg(long, value_name = "SPAN", default_value = "1h")]
    grace: String,
}

/// Deletes what nothing refers to.
pub fn prune(context: &mut Context<'_, '_, '_>, arguments: &PruneArguments) -> Result<Code> {
    let span = human::span(&arguments.grace).and_then(|span| Duration::try_from(span).ok());
    let grace = span.ok_or_else(|| {
        let what = format!("--grace `{}` is not a span of time, such as 0s, 10m or 1d", arguments.grace);
        Failure::new(Code::USAGE, what).next("jdos image prune --help")
    })?;
    let store = context.store()?;
    let options = Options { grace, ..Options::default() };
    let report = match arguments.dry_run {
        true => collect::plan(&store, &options),
        false => registry::sweep(&store, registry::Limits::default().unreferenced)
            .and_then(|_| collect::run(&store, &options)),
    };
    let report = report.map_err(|error| Failure::from_store(&error))?;
    let document = serde_json::json!({ "dry_run": arguments.dry_run, "report": report });
    context.printer.result(&document, || render(&report, arguments))?;
    Ok(Code::DONE)
}

fn render(report: &Report, arguments: &PruneArguments) -> String {
    let (will, done) = if arguments.dry_run { ("would be", "would become free") } else { ("was", "are free now") };
    let kind = |kind: ItemKind| match kind {
        ItemKind::Blob => "blob",
        ItemKind::Layer => "unpacked layer",
        ItemKind::Ingest => "unfinished transfer",
        ItemKind::Leftover => "left-over",
    };
    let mut text = String::new();
    if arguments.dry_run {
        let mut table = Table::new(&["WHAT", "NAME", "SIZE"]);
        for item in &report.items {
            table.row([kind(item.kind).to_owned(), item.name.clone(), human::size(item.size)]);
        }
        text = table.render();
    }
    let things = if report.items.len() == 1 { "thing" } else { "things" };
    text.push_str(&format!("{} {things} {will} deleted, {} {done}", report.items.len(), human::size(report.freed)));
    text.push_str(&format!("; what was used in the last {} is left alone\n", arguments.grace));
    text
}

/// Deletes what nothing refers to when the disk is past its watermark; for before and after content comes in. What comes
/// of it is said, and is no failure of the work at hand: the store refuses content when there is no room for it.
pub fn make_room(printer: &mut Printer<'_, '_>, store: &Store) {
    match collect::run_if_due(store, &Options::default()) {
        Ok(Some(report)) if !report.items.is_empty() => {
            let freed = human::size(report.freed);
            printer
                .warnings(&[format!("the disk is nearly full: images that nothing refers to were deleted, {freed}")]);
        }
        Ok(_) => {}
        Err(error) => printer.warnings(&[format!("the disk is nearly full, and nothing could be deleted: {error}")]),
    }
}

/// Prints what takes the room.
pub fn df(context: &mut Context<'_, '_, '_>) -> Result<Code> {
    let store = context.store()?;
    let usage = store.usage().map_err(|error| Failure::from_store(&error))?;
    context.printer.result(&usage, || {
        let mut table = Table::new(&["IMAGE", "BLOBS", "UNPACKED", "ALONE"]);
        for image in &usage.images {
            table.row([
                image.name.to_string(),
                human::size(image.blobs),
                human::size(image.layers),
                human::size(image.unique),
            ]);
        }
        let mut sums = Table::new(&["ALL", "COUNT", "SIZE"]);
        for (name, figure) in [("blobs", usage.blobs), ("unpacked layers", usage.layers), ("coming in", usage.ingests)]
        {
            sums.row([name.to_owned(), figure.count.to_string(), human::size(figure.bytes)]);
        }
        sums.row(["shared".to_owned(), String::new(), human::size(usage.shared)]);
        sums.row(["can be freed".to_owned(), String::new(), human::size(usage.reclaimable)]);
        let disk = format!("disk: {} % full, {} free\n", usage.disk_percent, human::size(usage.disk_free));
        format!("{}\n{}{disk}", table.render(), sums.render())
    })?;
    Ok(Code::DONE)
}
