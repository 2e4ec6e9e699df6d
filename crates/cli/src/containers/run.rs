//! `run`, `create` and `start`.

use super::{
    Context,
    attached::{Foreground, ForegroundArguments, catch},
    change::advise,
    create::CreateArguments,
    each::{Selection, each},
    image,
    problems::Problems,
    session::{DetachKeys, own_window_size},
    surroundings::in_this_process,
    translate::{create_options, image::FromImage},
};
use crate::failure::{Code, Failure, Result};
use clap::Args;
use container::{
    engine::{Claim, Created, EngineError, ErrorKind, Status, Viewer},
    options::CreateOptions,
};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
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
    let Prepared { options, image, id_file } = prepare(context, &arguments.create, VERB)?;
    let made = context.engine.create_claimed(&options);
    let (created, claim) = made.map_err(|error| advise(&error, VERB, "CONTAINER"))?;
    let started = keep(context, &created, image, id_file)
        .and_then(|()| launch(context, (&created, claim), &options, arguments, keys));
    if started.is_err() {
        take_back(context, &created, &arguments.create);
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
                let (foreground, client, signals) = *parts;
                foreground.run(context, client, signals)
            }
        }
    }
}

fn launch<'l>(
    context: &mut Context<'_, '_, '_>,
    (created, claim): (&'l Created, Claim),
    options: &CreateOptions,
    arguments: &RunArguments,
    keys: Option<DetachKeys>,
) -> Result<Launched<'l>> {
    // Caught before it starts: an interrupt then is for the container.
    let signals = if arguments.detach { None } else { Some(catch()?) };
    let viewer = (!arguments.detach).then(|| Viewer { window: own_window_size() });
    let started =
        context.engine.start_claimed(claim, viewer).map_err(|error| advise(&error, "run", created.name.as_str()))?;
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
    let Prepared { options, image, id_file } = prepare(context, arguments, "create")?;
    let created = context.engine.create(&options).map_err(|error| advise(&error, "create", "CONTAINER"))?;
    keep(context, &created, image, id_file).inspect_err(|_| take_back(context, &created, arguments))?;
    let document = serde_json::json!({ "id": created.id, "name": created.name, "warnings": created.warnings });
    context.printer.result(&document, || format!("{}\n", created.id))?;
    Ok(Code::DONE)
}

/// All that a container is created from.
struct Prepared<'a> {
    options: CreateOptions,
    /// The image that it is of, held by this process.
    image: Option<image::Prepared>,
    id_file: Option<IdFile<'a>>,
}

/// Translates the arguments, brings the image, and makes room for the container.
fn prepare<'a>(context: &mut Context<'_, '_, '_>, arguments: &'a CreateArguments, verb: &str) -> Result<Prepared<'a>> {
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
    Ok(Prepared { options, image, id_file })
}

/// Hands the image over to what was created, and says what that is. When this fails it must not stay: its layers are
/// not held, or nobody knows of it.
fn keep(
    context: &mut Context<'_, '_, '_>,
    created: &Created,
    image: Option<image::Prepared>,
    id_file: Option<IdFile<'_>>,
) -> Result<()> {
    if let Some(image) = image {
        image.keep_for(&context.engine, &created.id)?;
    }
    context.printer.warnings(&created.warnings);
    id_file.map_or(Ok(()), |file| file.fill(created.id.as_str()))
}

/// Leaves nothing behind of what did not come to be. Why it did not is what the user is told.
fn take_back(context: &mut Context<'_, '_, '_>, created: &Created, arguments: &CreateArguments) {
    match context.engine.remove_whole(&created.id, true) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            context.printer.warnings(&[format!("{} was not removed: {error}", created.name)]);
        }
        _ => {}
    }
    // One that was not filled has gone by itself.
    if let Some(file) = &arguments.keeping.cidfile
        && let Err(error) = fs::remove_file(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        context.printer.warnings(&[format!("--cidfile {file} was not removed: {error}")]);
    }
}

fn options(arguments: &CreateArguments, image: Option<&FromImage>, verb: &str) -> Result<CreateOptions> {
    let mut problems = Problems::default();
    let options = in_this_process(|surroundings| create_options(arguments, image, surroundings, &mut problems))?;
    problems.check(&format!("jdos container {verb}"))?;
    Ok(options)
}

fn remove_if_there(context: &Context<'_, '_, '_>, name: &str) -> Result<()> {
    let missing = |error: &EngineError| error.kind() == ErrorKind::NotFound;
    let removed = context.engine.find(name).and_then(|id| context.engine.remove_whole(&id, true));
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
            io::ErrorKind::AlreadyExists => Failure::new(Code::CONFLICT, format!("--cidfile {path} exists already"))
                .why("another container may be known by it")
                .next(format!("rm {path}")),
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
        image::hold_for(&context.engine, &id)?;
        let started = context.engine.start(&id).map_err(|error| advise(&error, "start", reference))?;
        context.printer.warnings(&started.warnings);
        Ok(serde_json::json!({ "id": id, "pid": started.pid, "warnings": started.warnings }))
    };
    each("container", context, &containers, false, one, |reference, _| reference.to_owned())
}

fn start_attached(
    context: &mut Context<'_, '_, '_>,
    arguments: &StartArguments,
    reference: &str,
    keys: Option<DetachKeys>,
) -> Result<Code> {
    let id = context.find(reference)?;
    image::hold_for(&context.engine, &id)?;
    let inspect = context.engine.inspect(&id).map_err(|error| Failure::from_engine(&error))?;
    let signals = catch()?;
    let started =
        context.engine.start_attached(&id, own_window_size()).map_err(|error| advise(&error, "start", reference))?;
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
    foreground.run(context, client, signals)
}
