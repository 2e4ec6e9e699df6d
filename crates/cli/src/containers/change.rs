//! Verbs that change containers: stop, kill, pause, resume, wait, rm, prune.

use super::{
    Context,
    each::{Selection, each},
};
use crate::failure::{Code, Failure, Result};
use clap::Args;
use container::{
    engine::{EngineError, ErrorKind, Status},
    spec::Signal,
    state::Exit,
};
use model::ContainerId;
use serde::Serialize;
use std::{
    io::{BufRead, IsTerminal, Write},
    time::Duration,
};

/// `stop`
#[derive(Args, Debug)]
pub struct StopArguments {
    #[command(flatten)]
    selection: Selection,
    /// Seconds before SIGKILL [default: the container's own --stop-timeout]
    #[arg(short, long, alias = "timeout", value_name = "SECONDS")]
    time: Option<u32>,
}

/// `kill`
#[derive(Args, Debug)]
pub struct KillArguments {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// All running ones
    #[arg(short, long, conflicts_with = "containers")]
    all: bool,
    /// Name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
}

/// `pause`
#[derive(Args, Debug)]
pub struct PauseArguments {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// All running ones
    #[arg(short, long, conflicts_with = "containers")]
    all: bool,
}

/// `resume`
#[derive(Args, Debug)]
pub struct ResumeArguments {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// All frozen ones
    #[arg(short, long, conflicts_with = "containers")]
    all: bool,
}

/// `wait`
#[derive(Args, Debug)]
pub struct WaitArguments {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    /// Do not mind when one is not there
    #[arg(short, long)]
    ignore: bool,
}

/// `rm`
#[derive(Args, Debug)]
pub struct RmArguments {
    #[command(flatten)]
    selection: Selection,
    /// Kill it first if it runs
    #[arg(short, long)]
    force: bool,
    /// Remove the volumes that are its own as well
    #[arg(short, long)]
    volumes: bool,
}

/// `prune`
#[derive(Args, Debug)]
pub struct PruneArguments {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Which container was changed.
#[derive(Debug, Serialize)]
struct Changed {
    id: ContainerId,
}

/// How a container ended.
#[derive(Debug, Serialize)]
struct Ended {
    id: ContainerId,
    exit: Exit,
}

const ALIVE: [Status; 3] = [Status::Starting, Status::Running, Status::Paused];
const ANY: [Status; 5] = [Status::Created, Status::Starting, Status::Running, Status::Paused, Status::Exited];

/// Does `act` to each container and prints its name.
fn change(
    context: &mut Context<'_, '_, '_>,
    selection: &Selection,
    verb: &str,
    states: &[Status],
    act: impl Fn(&Context<'_, '_, '_>, &ContainerId) -> std::result::Result<(), EngineError>,
) -> Result<Code> {
    let containers = selection.resolve(context, verb, states)?;
    let one = |context: &mut Context<'_, '_, '_>, reference: &str| {
        let id = context.find(reference)?;
        act(context, &id).map_err(|error| advise(&error, verb, reference))?;
        Ok(Changed { id })
    };
    each(context, &containers, selection.ignore, one, |reference, _| reference.to_owned())
}

/// The failure, with the command that helps after this verb.
pub fn advise(error: &EngineError, verb: &str, reference: &str) -> Failure {
    let failure = Failure::from_engine(error);
    match (error.kind(), verb) {
        (ErrorKind::Conflict, "rm") => failure.next(format!("jdos container rm --force {reference}")),
        (ErrorKind::Conflict, "exec" | "attach" | "stats" | "pause" | "kill") => failure
            .next(format!("jdos container start {reference}"))
            .next(format!("jdos container resume {reference}, if it is paused")),
        (ErrorKind::Conflict, "resume") => failure.next("jdos container ps"),
        (ErrorKind::Conflict, _) => failure.next("jdos container ps -a"),
        (ErrorKind::Invalid, _) => failure.next(format!("jdos container {verb} --help")),
        (ErrorKind::CannotStart(_), "start") => failure.next(format!("jdos container inspect {reference}")),
        _ => failure,
    }
}

/// Stop signal, grace, SIGKILL.
pub fn stop(context: &mut Context<'_, '_, '_>, arguments: &StopArguments) -> Result<Code> {
    let timeout = arguments.time.map(|seconds| Duration::from_secs(seconds.into()));
    change(context, &arguments.selection, "stop", &ALIVE, |context, id| context.engine.stop(id, timeout))
}

/// Sends a signal.
pub fn kill(context: &mut Context<'_, '_, '_>, arguments: &KillArguments) -> Result<Code> {
    let signal = arguments
        .signal
        .parse::<Signal>()
        .map_err(|problem| Failure::new(Code::USAGE, format!("--signal: {problem}")).next("kill -l"))?;
    let selection = selected(&arguments.containers, arguments.all);
    change(context, &selection, "kill", &ALIVE, |context, id| context.engine.kill(id, signal.number()))
}

/// Freezes.
pub fn pause(context: &mut Context<'_, '_, '_>, arguments: &PauseArguments) -> Result<Code> {
    let selection = selected(&arguments.containers, arguments.all);
    change(context, &selection, "pause", &[Status::Running], |context, id| context.engine.pause(id))
}

/// Thaws.
pub fn resume(context: &mut Context<'_, '_, '_>, arguments: &ResumeArguments) -> Result<Code> {
    let selection = selected(&arguments.containers, arguments.all);
    change(context, &selection, "resume", &[Status::Paused], |context, id| context.engine.resume(id))
}

/// Removes.
pub fn rm(context: &mut Context<'_, '_, '_>, arguments: &RmArguments) -> Result<Code> {
    let force = arguments.force;
    change(context, &arguments.selection, "rm", &ANY, |context, id| {
        let record = arguments.volumes.then(|| context.engine.record(id)).transpose()?;
        context.engine.remove(id, force)?;
        record.map_or(Ok(()), |record| context.engine.remove_own_volumes(&record))
    })
}

/// Waits, and prints one exit code per line.
pub fn wait(context: &mut Context<'_, '_, '_>, arguments: &WaitArguments) -> Result<Code> {
    let one = |context: &mut Context<'_, '_, '_>, reference: &str| {
        let id = context.find(reference)?;
        let exit = context.engine.wait(&id).map_err(|error| advise(&error, "wait", reference))?;
        Ok(Ended { id, exit })
    };
    let text = |_: &str, ended: &Ended| ended.exit.code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
    each(context, &arguments.containers, arguments.ignore, one, text)
}

/// Removes all that have ended, after asking.
pub fn prune(context: &mut Context<'_, '_, '_>, arguments: &PruneArguments) -> Result<Code> {
    if !arguments.force && !confirmed(context, "This removes all containers that have ended, and what they wrote.")? {
        context.printer.hint("nothing was removed");
        return Ok(Code::DONE);
    }
    let removed = context.engine.prune().map_err(|error| Failure::from_engine(&error))?;
    context.printer.result(&removed, || removed.iter().map(|id| format!("{id}\n")).collect())?;
    Ok(Code::DONE)
}

fn selected(containers: &[String], all: bool) -> Selection {
    Selection { containers: containers.to_vec(), all, ignore: false }
}

/// Asks on the terminal; where there is none to ask, `--force` has to be given.
fn confirmed(context: &mut Context<'_, '_, '_>, what: &str) -> Result<bool> {
    let stdin = std::io::stdin();
    if context.printer.json || !stdin.is_terminal() {
        return Err(Failure::new(Code::USAGE, "prune asks before it removes, and there is no terminal to ask on")
            .next("jdos container prune --force"));
    }
    context.printer.flush()?;
    let mut err = std::io::stderr();
    let mut answer = String::new();
    write!(err, "{what} Go on? [y/N] ")
        .and_then(|()| err.flush())
        .and_then(|()| stdin.lock().read_line(&mut answer))
        .map_err(|error| Failure::from_error("cannot ask on the terminal", &error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
