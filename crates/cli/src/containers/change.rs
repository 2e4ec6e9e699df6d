//! Verbs that change containers: stop, kill, pause, resume, wait, rm.

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
use std::time::Duration;

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
    each("container", context, &containers, selection.ignore, one, |reference, _| reference.to_owned())
}

/// The failure, with the command that helps after this verb.
pub fn advise(error: &EngineError, verb: &str, reference: &str) -> Failure {
    let failure = Failure::from_engine(error);
    let next = match (error, error.kind()) {
        (EngineError::WrongState { .. }, _) if verb == "rm" => format!("jdos container rm --force {reference}"),
        (EngineError::WrongState { status, .. }, _) => match status {
            Status::Created | Status::Exited => format!("jdos container start {reference}"),
            Status::Paused => format!("jdos container resume {reference}"),
            Status::Starting | Status::Running => format!("jdos container inspect {reference}"),
        },
        (EngineError::NameTaken { name, .. }, _) => format!("jdos container rm {name}, or give --replace"),
        (_, ErrorKind::Conflict) => "jdos container ps -a".to_owned(),
        (_, ErrorKind::Invalid) => format!("jdos container {verb} --help"),
        _ => return failure,
    };
    failure.next(next)
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
    change(context, &arguments.selection, "rm", &ANY, |context, id| match arguments.volumes {
        true => context.engine.remove_whole(id, force),
        false => context.engine.remove(id, force),
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
    each("container", context, &arguments.containers, arguments.ignore, one, text)
}

fn selected(containers: &[String], all: bool) -> Selection {
    Selection { containers: containers.to_vec(), all, ignore: false }
}
