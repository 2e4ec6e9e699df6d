//! `network ls` and `network rm`.

use super::{Context, each::each_of};
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
    /// Remove networks that no container uses
    #[command(visible_alias = "remove")]
    Rm {
        /// Names
        #[arg(value_name = "NETWORK", required = true)]
        networks: Vec<String>,
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
        NetworkVerb::Rm { networks } => {
            let one = |context: &mut Context<'_, '_, '_>, name: &str| {
                let name: NetworkName =
                    name.parse().map_err(|error: NameError| Failure::new(Code::USAGE, error.to_string()))?;
                context.engine.remove_network(&name).map_err(|error| Failure {
                    what: format!("can not remove network {name}"),
                    ..Failure::from_engine(&error).next("jdos container network ls")
                })?;
                Ok(Removed { removed: true })
            };
            each_of("network", context, networks, false, one, |name, _| name.to_owned())
        }
    }
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
