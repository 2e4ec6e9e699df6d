//! `guest`: a virtual machine for manual work.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Builder;
use crate::output;
use crate::workspace::Workspace;

/// What the guest holds and runs.
#[derive(Args)]
pub struct Options {
    /// Build jdos and put it into the guest as /usr/bin/jdos
    #[arg(long)]
    jdos: bool,
    /// Put a copy of a file of this machine into the guest (may be given several times)
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    files: Vec<String>,
    /// Put a program of this machine, with its libraries, into the guest (may be given several times)
    #[arg(long = "program", value_name = "NAME")]
    programs: Vec<String>,
    /// Memory of the guest in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Processors of the guest
    #[arg(long, default_value_t = 1)]
    processors: u32,
    /// Seconds until the plug is pulled
    #[arg(long, default_value_t = 600)]
    deadline: u64,
    /// A line for the guest's shell; without one, a shell on this terminal
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Boots, runs the command, and fails as the command does.
///
/// # Errors
/// The guest cannot be made or booted, or the command fails.
pub fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::read()?;
    let mut guest = Builder::new(&workspace, "manual")?
        .memory(options.memory)
        .processors(options.processors)
        .deadline(Duration::from_secs(options.deadline))
        .variable("RUST_BACKTRACE", "1");
    for program in &options.programs {
        guest = guest.program(program)?;
    }
    if options.jdos {
        let binary = output::step("build jdos", || workspace.release_binary("jdos"))?;
        guest = guest.executable(binary, "/usr/bin/jdos");
    }
    for file in &options.files {
        let (host, inside) = file.split_once(':').unwrap_or((file, file));
        let host = Path::new(host).canonicalize().with_context(|| format!("no file {host} on this machine"))?;
        let inside = if inside == file { host.clone() } else { inside.into() };
        guest = guest.file(host, inside);
    }
    if options.command.is_empty() {
        return guest.shell();
    }
    // As with ssh: the words make up a line for the guest's shell.
    let machine = guest.command(options.command.join(" ")).boot()?;
    let outcome = machine.wait(|line| println!("{line}"))?;
    match outcome.statuses[..] {
        [0] => Ok(()),
        [code] => bail!("the command ended with {code}"),
        _ => bail!("the guest ran {} commands instead of one", outcome.statuses.len()),
    }
}
