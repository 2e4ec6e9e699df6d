//! `reset`: everything that was made on this machine goes, and the machine is as it was.

use super::{Context, prune::confirmed, reconcile::failure};
use crate::failure::{Code, Failure, Result};
use clap::Args;
use container::engine::Reset;

/// `reset`
#[derive(Args, Debug)]
pub struct ResetArguments {
    /// Named volumes as well, with what is in them
    #[arg(long)]
    volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Takes everything back, after asking, and says what went.
pub fn reset(context: &mut Context<'_, '_, '_>, arguments: &ResetArguments) -> Result<Code> {
    let what = match arguments.volumes {
        true => "This kills and removes all containers, removes all networks and all volumes, and puts the host back.",
        false => "This kills and removes all containers, removes all networks, and puts the host back. Volumes stay.",
    };
    if !arguments.force && !confirmed(context, "reset", what)? {
        context.printer.hint("nothing was removed");
        return Ok(Code::DONE);
    }
    let done = context.engine.reset(arguments.volumes).map_err(|error| Failure::from_engine(&error))?;
    context.printer.result(&done, || text(&done))?;
    for trouble in &done.troubles {
        context.printer.failure_text(&failure(trouble, "jdos container reset"));
    }
    Ok(if done.troubles.is_empty() { Code::DONE } else { Code::FAILED })
}

fn text(done: &Reset) -> String {
    let containers = done.containers.iter().map(|one| ("container", one.name.to_string()));
    let networks = done.networks.iter().map(|name| ("network", name.to_string()));
    let volumes = done.volumes.iter().map(|name| ("volume", name.clone()));
    let host = done.host.iter().map(|what| ("host", what.clone()));
    let lines: String = containers
        .chain(networks)
        .chain(volumes)
        .chain(host)
        .map(|(label, what)| format!("{label:<10} {what}\n"))
        .collect();
    match lines.is_empty() && done.troubles.is_empty() {
        true => "nothing to do\n".to_owned(),
        false => lines,
    }
}
