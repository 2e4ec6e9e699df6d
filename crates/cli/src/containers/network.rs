//! `network ls`, `inspect`, `rm` and `prune`.

use super::{Context, each::each, prune::confirmed};
use crate::{
    failure::{Code, Failure, Result},
    table::Table,
};
use clap::{Args, Subcommand};
use model::{NameError, NetworkName};
use serde::Serialize;

/// `network`
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct NetworkCommand {
    #[command(subcommand)]
    verb: NetworkVerb,
}

#[derive(Subcommand, Debug)]
enum NetworkVerb {
    /// List networks
    #[command(visible_alias = "list")]
    Ls {
        /// Names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print all that is known of networks, as JSON
    Inspect {
        /// Names
        #[arg(value_name = "NETWORK", required = true)]
        networks: Vec<String>,
    },
    /// Remove networks that no container runs on
    #[command(visible_alias = "remove")]
    Rm {
        /// Names
        #[arg(value_name = "NETWORK", required = true)]
        networks: Vec<String>,
    },
    /// Remove all networks that no container is on, running or not
    Prune {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Serialize)]
struct Removed {
    removed: bool,
}

/// Does what the verb says.
pub fn run(context: &mut Context<'_, '_, '_>, command: &NetworkCommand) -> Result<Code> {
    match &command.verb {
        NetworkVerb::Ls { quiet } => list(context, *quiet),
        NetworkVerb::Inspect { networks } => inspect(context, networks),
        NetworkVerb::Prune { force } => prune(context, *force),
        NetworkVerb::Rm { networks } => {
            let one = |context: &mut Context<'_, '_, '_>, name: &str| {
                let name = parse(name)?;
                context.engine.remove_network(&name).map_err(|error| Failure {
                    what: format!("can not remove network {name}"),
                    ..Failure::from_engine(&error).next("jdos container network ls")
                })?;
                Ok(Removed { removed: true })
            };
            each("network", context, networks, false, one, |name, _| name.to_owned())
        }
    }
}

fn parse(name: &str) -> Result<NetworkName> {
    name.parse().map_err(|error: NameError| Failure::new(Code::USAGE, error.to_string()))
}

/// Prints an array with one object per network.
fn inspect(context: &mut Context<'_, '_, '_>, names: &[String]) -> Result<Code> {
    let all = context.engine.networks().map_err(|error| Failure::from_engine(&error))?;
    let find = |name: &String| {
        let name = parse(name)?;
        all.iter().find(|network| network.name == name).ok_or_else(|| {
            Failure::new(Code::NOT_FOUND, format!("there is no network `{name}`")).next("jdos container network ls")
        })
    };
    let found = names.iter().map(find).collect::<Result<Vec<_>>>()?;
    context.printer.document(&found)?;
    Ok(Code::DONE)
}

/// Removes all that nobody is on, after asking.
fn prune(context: &mut Context<'_, '_, '_>, force: bool) -> Result<Code> {
    let what =
        "This removes all networks that no container is on, and the addresses kept for containers that are gone.";
    if !force && !confirmed(context, "network prune", what)? {
        context.printer.hint("nothing was removed");
        return Ok(Code::DONE);
    }
    let removed = context.engine.prune_networks().map_err(|error| Failure::from_engine(&error))?;
    context.printer.result(&removed, || removed.iter().map(|name| format!("{name}\n")).collect())?;
    Ok(Code::DONE)
}

fn list(context: &mut Context<'_, '_, '_>, quiet: bool) -> Result<Code> {
    let networks = context.engine.networks().map_err(|error| Failure::from_engine(&error))?;
    context.printer.result(&networks, || {
        if quiet {
            return networks.iter().map(|network| format!("{}\n", network.name)).collect();
        }
        let mut table = Table::new(&["NAME", "BRIDGE", "IPV4", "IPV6", "LEASES", "CONTAINERS"]);
        for network in &networks {
            table.row([
                network.name.to_string(),
                network.bridge.to_string(),
                network.ipv4.to_string(),
                network.ipv6.to_string(),
                network.leases.to_string(),
                network.users.join(", "),
            ]);
        }
        table.render()
    })?;
    Ok(Code::DONE)
}
