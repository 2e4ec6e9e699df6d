//! `run`, `create` and `start`.

use super::{
    Context,
    attached::{Foreground, ForegroundArguments, catch},
    change::advise,
    create::CreateArguments,
    each::{Selection, each},
    image,
    problems::Problems,
    session::DetachKeys,
    translate::{Surroundings, create_options, image::FromImage},
};
use crate::failure::{Code, Failure, Result};
use clap::Args;
use container::{
    engine::{Created, EngineError, ErrorKind, Status},
    options::CreateOptions,
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// `run`
#[derive(Args, Debug)]
pub struct RunArguments {
    /// Run it in the background and print its id
    #[arg(short, long, help_heading = "Foreground")]
    detach: bool,
    #[command(flatten, next_help_heading = "Foreground")]
    foreground: ForegroundArguments,
    #[command(flatten)]
    create: CreateArguments,
    /// Write the id of its first process to this file
    #[arg(long, value_name = "FILE", help_heading = "Keeping")]
    pidfile: Option<String>,
}

/// `start`
#[derive(Args, Debug)]
pub struct StartArguments {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// All that do not run
    #[arg(long, conflicts_with_all = ["containers", "attach", "interactive"])]
    all: bool,
    /// Connect to its output and exit with its code; one container only
    #[arg(short, long)]
    pub attach: bool,
    /// Forward input as well
    #[arg(short, long, requires = "attach")]
    interactive: bool,
    #[command(flatten)]
    foreground: ForegroundArguments,
}

/// Creates, starts, and unless detached stays until it ends.
pub fn run(context: &mut Context<'_, '_, '_>, arguments: &RunArguments) -> Result<Code> {
    const VERB: &str = "run";
    let keys = arguments.foreground.keys()?;
    context.printer.quiet = arguments.create.keeping.quiet;
    let (created, options) = make(context, &arguments.create, VERB)?;
    let started = launch(context, &created, &options, arguments, keys);
    if started.is_err() {
        // Nothing is left behind of what did not start. That it failed to start is what the user is told.
        match context.engine.remove_whole(&created.id) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                context.printer.warnings(&[format!("{} was not removed: {error}", created.name)]);
            }
            _ => {}
        }
        if let Some(file) = &arguments.create.keeping.cidfile
            && let Err(error) = fs::remove_file(file)
        {
            context.printer.warnings(&[format!("--cidfile {file} was not removed: {error}")]);
        }
    }
    started?.finish(context)
}

/// A container that was started by `run`.
enum Launched<'l> {
    Background(Code),
    Foreground(Box<(Foreground<'l>, container::attach::Client, super::session::Signals)>),
}

impl Launched<'_> {
    fn finish(self, context: &mut Context<'_, '_, '_>) -> Result<Code> {
        match self {
            Self::Background(code) => Ok(code),
            Self::Foreground(parts) => {
                let (foreground, client, mut signals) = *parts;
                foreground.run(context, client, &mut signals)
            }
        }
    }
}

fn launch<'l>(
    context: &mut Context<'_, '_, '_>,
    created: &'l Created,
    options: &CreateOptions,
    arguments: &RunArguments,
    keys: Option<DetachKeys>,
) -> Result<Launched<'l>> {
    // Caught before it starts: an interrupt then is for the container.
    let signals = if arguments.detach { None } else { Some(catch()?) };
    let started = context
        .engine
        .start(&created.id, !arguments.detach)
        .map_err(|error| advise(&error, "run", created.name.as_str()))?;
    context.printer.warnings(&started.warnings);
    if let Some(file) = &arguments.pidfile {
        fs::write(file, format!("{}\n", started.pid))
            .map_err(|error| Failure::from_error(format!("cannot write --pidfile {file}"), &error))?;
    }
    let (Some(signals), Some(client)) = (signals, started.client) else {
        let warnings = [created.warnings.as_slice(), started.warnings.as_slice()].concat();
        let document = serde_json::json!({
            "id": created.id, "name": created.name, "pid": started.pid, "warnings": warnings,
        });
        context.printer.result(&document, || format!("{}\n", created.id))?;
        return Ok(Launched::Background(Code::DONE));
    };
    let foreground = Foreground {
        id: &created.id,
        name: &created.name,
        tty: options.tty,
        interactive: options.interactive,
        remove: options.remove,
        owned: true,
        keys,
        sig_proxy: arguments.foreground.sig_proxy,
    };
    Ok(Launched::Foreground(Box::new((foreground, client, signals))))
}

/// Creates only.
pub fn create(context: &mut Context<'_, '_, '_>, arguments: &CreateArguments) -> Result<Code> {
    context.printer.quiet = arguments.keeping.quiet;
    let (created, _) = make(context, arguments, "create")?;
    let document = serde_json::json!({ "id": created.id, "name": created.name, "warnings": created.warnings });
    context.printer.result(&document, || format!("{}\n", created.id))?;
    Ok(Code::DONE)
}

/// Translates the arguments and creates the container.
fn make(
    context: &mut Context<'_, '_, '_>,
    arguments: &CreateArguments,
    verb: &str,
) -> Result<(Created, CreateOptions)> {
    let mut options = options(arguments, None, verb)?;
    let image = image::prepare(context, arguments)?;
    if let Some(image) = &image {
        options = self::options(arguments, Some(&image.from), verb)?;
    }
    let id_file = arguments.keeping.cidfile.as_deref().map(IdFile::reserve).transpose()?;
    if arguments.keeping.replace
        && let Some(name) = &options.name
    {
        remove_if_there(context, name.as_str())?;
    }
    let created = context.engine.create(&options).map_err(|error| advise(&error, verb, "CONTAINER"))?;
    if let Some(image) = image
        && let Err(failure) = image.keep_for(&context.engine, &created.id)
    {
        // Without its layers held it must not be there. That they can not be held is what the user is told.
        if let Err(error) = context.engine.remove_whole(&created.id) {
            context.printer.warnings(&[format!("{} was not removed: {error}", created.name)]);
        }
        return Err(failure);
    }
    context.printer.warnings(&created.warnings);
    if let Some(id_file) = id_file {
        id_file.fill(created.id.as_str())?;
    }
    Ok((created, options))
}

fn options(arguments: &CreateArguments, image: Option<&FromImage>, verb: &str) -> Result<CreateOptions> {
    let directory: PathBuf =
        std::env::current_dir().map_err(|error| Failure::from_error("cannot tell the working directory", &error))?;
    let surroundings = Surroundings {
        directory: &directory,
        environment: &environment(),
        read: &|path: &Path| fs::read_to_string(path),
        is_file: &|path: &Path| path.is_file(),
    };
    let mut problems = Problems::default();
    let options = create_options(arguments, image, &surroundings, &mut problems);
    problems.check(&format!("jdos container {verb}"))?;
    Ok(options)
}

/// Our environment. Variables that are not UTF-8 can not be passed on: a specification is JSON.
pub fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

fn remove_if_there(context: &Context<'_, '_, '_>, name: &str) -> Result<()> {
    let missing = |error: &EngineError| error.kind() == ErrorKind::NotFound;
    let removed = context.engine.find(name).and_then(|id| context.engine.remove_whole(&id));
    match removed {
        Err(error) if !missing(&error) => Err(Failure::from_engine(&error)),
        _ => Ok(()),
    }
}

/// `--cidfile`: made before the container, so that two callers do not both think that it is theirs, and removed again
/// when there is no container.
struct IdFile<'a> {
    path: &'a str,
    file: fs::File,
    filled: bool,
}

impl<'a> IdFile<'a> {
    fn reserve(path: &'a str) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Failure::new(Code::CONFLICT, format!("--cidfile {path} exists already"))
                    .why("another container may be known by it")
                    .next(format!("rm {path}"))
            }
            _ => Failure::from_error(format!("cannot make --cidfile {path}"), &error),
        })?;
        Ok(Self { path, file, filled: false })
    }

    fn fill(mut self, id: &str) -> Result<()> {
        self.file
            .write_all(id.as_bytes())
            .map_err(|error| Failure::from_error(format!("cannot write --cidfile {}", self.path), &error))?;
        self.filled = true;
        Ok(())
    }
}

impl Drop for IdFile<'_> {
    fn drop(&mut self) {
        if !self.filled {
            // The failure that led here is told; an empty file left behind is the lesser one.
            let _left = fs::remove_file(self.path).is_err();
        }
    }
}

/// Starts containers, in the background unless attached to the only one.
pub fn start(context: &mut Context<'_, '_, '_>, arguments: &StartArguments) -> Result<Code> {
    let keys = arguments.foreground.keys()?;
    let selection = Selection { containers: arguments.containers.clone(), all: arguments.all, ignore: false };
    let containers = selection.resolve(context, "start", &[Status::Created, Status::Exited])?;
    if arguments.attach {
        return match containers.as_slice() {
            [reference] => start_attached(context, arguments, reference, keys),
            _ => Err(Failure::new(Code::USAGE, "start --attach: name exactly one container")
                .next("jdos container start CONTAINER…")),
        };
    }
    let one = |context: &mut Context<'_, '_, '_>, reference: &str| {
        let id = context.find(reference)?;
        let started = context.engine.start(&id, false).map_err(|error| advise(&error, "start", reference))?;
        context.printer.warnings(&started.warnings);
        Ok(serde_json::json!({ "id": id, "pid": started.pid, "warnings": started.warnings }))
    };
    each(context, &containers, false, one, |reference, _| reference.to_owned())
}

fn start_attached(
    context: &mut Context<'_, '_, '_>,
    arguments: &StartArguments,
    reference: &str,
    keys: Option<DetachKeys>,
) -> Result<Code> {
    let id = context.find(reference)?;
    let inspect = context.engine.inspect(&id).map_err(|error| Failure::from_engine(&error))?;
    let mut signals = catch()?;
    let started = context.engine.start(&id, true).map_err(|error| advise(&error, "start", reference))?;
    context.printer.warnings(&started.warnings);
    let client = started
        .client
        .ok_or_else(|| Failure::new(Code::ENGINE, format!("{reference} was started but not connected to")))?;
    let foreground = Foreground {
        id: &id,
        name: &inspect.name,
        tty: inspect.record.tty(),
        interactive: arguments.interactive && inspect.record.interactive,
        remove: inspect.record.remove,
        owned: true,
        keys,
        sig_proxy: arguments.foreground.sig_proxy,
    };
    foreground.run(context, client, &mut signals)
}
