//! A container in the foreground: `run`, `start -a` and `attach` from the moment they are connected.

use super::{
    Context,
    change::advise,
    session::{AttachedPeer, DetachKeys, End, RawTerminal, Reaction, Session, Signals, window_size},
};
use crate::{
    failure::{Code, Failure, Result},
    human,
};
use clap::Args;
use container::{
    attach::Client,
    engine::{Engine, ErrorKind, Status},
    spec::Signal,
    state::Exit,
};
use jiff::Timestamp;
use model::{ContainerId, ContainerName};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::{
    io::IsTerminal,
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// `attach`
#[derive(Args, Debug)]
pub struct AttachArguments {
    /// Name, id or beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Forward no input
    #[arg(long)]
    no_stdin: bool,
    #[command(flatten)]
    foreground: ForegroundArguments,
}

/// How a foreground verb treats keys and signals.
#[derive(Args, Debug, Clone)]
pub struct ForegroundArguments {
    /// Keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT)]
    pub detach_keys: String,
    /// Forward signals, but with a terminal
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        hide_possible_values = true,
        action = clap::ArgAction::Set
    )]
    pub sig_proxy: bool,
}

impl ForegroundArguments {
    /// The keys, or what is wrong with them.
    ///
    /// # Errors
    /// Usage.
    pub fn keys(&self) -> Result<Option<DetachKeys>> {
        DetachKeys::parse(&self.detach_keys)
            .map_err(|problem| Failure::new(Code::USAGE, format!("--detach-keys: {problem}")))
    }
}

/// A container that this process is connected to.
pub struct Foreground<'f> {
    /// Its id.
    pub id: &'f ContainerId,
    /// Its name.
    pub name: &'f ContainerName,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether our input is its input.
    pub interactive: bool,
    /// Whether it is to be removed when it ends.
    pub remove: bool,
    /// Whether it is ours: it is stopped when nobody reads its output any more.
    pub owned: bool,
    /// Keys that leave it running.
    pub keys: Option<DetachKeys>,
    /// Whether signals go to it.
    pub sig_proxy: bool,
}

/// Interrupts after which the user no longer means the container but us: its first process may ignore them (one that
/// has no handler does: kill(2), notes).
const PATIENCE: u32 = 3;

/// How often in a row a lost connection is made again, the pause before the second time, which doubles from then on, and
/// how long a connection lasts that starts a new row. More than once, for a monitor that was killed may still accept.
const LOSSES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(1);
const LASTING: Duration = Duration::from_secs(10);

/// Connects to a running container.
pub fn attach(context: &mut Context<'_, '_, '_>, arguments: &AttachArguments) -> Result<Code> {
    let keys = arguments.foreground.keys()?;
    let id = context.find(&arguments.container)?;
    let inspect = context.engine.inspect(&id).map_err(|error| Failure::from_engine(&error))?;
    let signals = catch()?;
    let client = context.engine.attach(&id).map_err(|error| advise(&error, "attach", &arguments.container))?;
    let foreground = Foreground {
        id: &id,
        name: &inspect.name,
        tty: inspect.record.tty(),
        interactive: inspect.record.interactive && !arguments.no_stdin,
        remove: inspect.record.remove,
        owned: false,
        keys,
        sig_proxy: arguments.foreground.sig_proxy,
    };
    foreground.run(context, client, signals)
}

/// Catches signals, from before a program is started that they are meant for.
///
/// # Errors
/// That of the kernel.
pub fn catch() -> Result<Signals> {
    Signals::catch().map_err(|error| Failure::from_error("cannot catch signals", &error))
}

impl Foreground<'_> {
    /// Carries input, output and signals until the container ends or is left; gives its exit code.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn run(self, context: &mut Context<'_, '_, '_>, client: Client, mut signals: Signals) -> Result<Code> {
        if self.tty && self.interactive && !std::io::stdin().is_terminal() {
            let why = "standard input is no terminal: its input ends with ours, and keys are not passed on as typed";
            context.printer.warnings(&[why.to_owned()]);
        }
        context.printer.flush()?;
        let mut failures = Vec::new();
        let (mut client, mut losses) = (client, 0);
        let end = loop {
            let since = Instant::now();
            let end = self.carry(&context.engine, client, &mut signals, &mut failures);
            losses = if since.elapsed() > LASTING { 1 } else { losses + 1 };
            if losses > LOSSES || !matches!(end, Ok(End::Lost)) {
                break end;
            }
            if losses > 1 {
                std::thread::sleep(PAUSE * (1 << (losses - 2)));
            }
            // Its monitor is gone: what it did not pass on yet comes from the next one.
            client = match context.engine.attach(self.id) {
                Ok(client) => client,
                Err(error) => {
                    let ended = matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound);
                    failures.extend((!ended).then(|| Failure::from_engine(&error)));
                    break end;
                }
            };
        };
        drop(signals); // what follows may take a while, and can be interrupted
        for failure in &failures {
            context.printer.failure_text(failure);
        }
        let end = end.map_err(|error| {
            Failure::from_error(format!("lost the streams of {}", self.name), &error).next(self.again())
        })?;
        match end {
            End::Exited { status, oom } => {
                let exit = Exit::from_wait_status(status.unwrap_or(-1), oom, 0, Timestamp::now());
                self.ended(context, exit)
            }
            End::Detached => {
                context.printer.hint(&format!("\ndetached; {} goes on: {}", self.name, self.again()));
                context.printer_result(&self, None)?;
                Ok(Code::DONE)
            }
            End::OutputClosed => {
                if self.owned {
                    context.printer.hint(&format!("nobody reads the output of {} any more: stopping it", self.name));
                    match context.engine.stop(self.id, None) {
                        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Failure::from_engine(&error)),
                        _ => self.settle(context, Exit::from_wait_status(-1, false, 0, Timestamp::now()))?,
                    };
                }
                Ok(Code::BROKEN_PIPE)
            }
            End::Signal(number) => {
                context.printer.hint(&format!(
                    "left on {}; {name} goes on: {}, or jdos container stop {name}",
                    name_of(number),
                    self.again(),
                    name = self.name,
                ));
                Ok(Code(u8::try_from(128 + number).unwrap_or(Code::INTERRUPTED.0)))
            }
            End::Lost => {
                let unknown = Exit::from_wait_status(-1, false, 0, Timestamp::now());
                match context.engine.inspect(self.id) {
                    Ok(now) if now.status == Status::Exited => self.ended(context, now.exit.unwrap_or(unknown)),
                    Err(error) if error.kind() == ErrorKind::NotFound => self.ended(context, unknown),
                    Err(error) => Err(Failure::from_engine(&error)),
                    Ok(_) => Err(Failure::new(Code::ENGINE, format!("lost the connection to {}", self.name))
                        .why("its monitor hangs up: it may have as many clients as it can, which is 8")
                        .next("jdos container reconcile")
                        .next(self.again())),
                }
            }
        }
    }

    /// Whether signals that this process gets are meant for the container. Not with a terminal: whoever wants to interrupt
    /// what runs there types so into it, be it from here or, when our input is not its input, from elsewhere.
    fn forwards_signals(&self) -> bool {
        self.sig_proxy && !self.tty
    }

    fn again(&self) -> String {
        format!("jdos container attach {}", self.name)
    }

    fn carry(
        &self,
        engine: &Engine,
        client: Client,
        signals: &mut Signals,
        failures: &mut Vec<Failure>,
    ) -> std::io::Result<End> {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let raw = match self.tty && self.interactive && stdin.is_terminal() {
            true => Some(RawTerminal::enter(stdin.as_fd())?),
            false => None,
        };
        let is_raw = raw.is_some();
        let mut impatience = 0;
        let mut on_signal = |number: i32| {
            let fatal = matches!(number, SIGHUP | SIGINT | SIGQUIT | SIGTERM);
            if !self.forwards_signals() {
                return if fatal { Reaction::Leave } else { Reaction::GoOn };
            }
            impatience += u32::from(matches!(number, SIGINT | SIGTERM));
            if impatience >= PATIENCE {
                return Reaction::Leave;
            }
            match engine.kill(self.id, number) {
                // It has just ended, which the session will be told.
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
                Err(error) => failures.push(Failure::from_engine(&error)),
                Ok(()) => {}
            }
            Reaction::GoOn
        };
        let window = [stdout.as_fd(), stdin.as_fd()].into_iter().find(|fd| window_size(*fd).is_some());
        let mut session = Session {
            stdin: self.interactive.then(|| stdin.as_fd()),
            stdout: stdout.as_fd(),
            stderr: stderr.as_fd(),
            keys: self.keys.clone().filter(|_| is_raw),
            window: window.filter(|_| self.tty),
            signals,
            on_signal: &mut on_signal,
        };
        session.run(&mut AttachedPeer(client))
    }

    fn ended(&self, context: &mut Context<'_, '_, '_>, seen: Exit) -> Result<Code> {
        let exit = self.settle(context, seen)?;
        let mut warnings = Vec::new();
        if exit.oom {
            warnings.push(format!("{}: the kernel killed a process in it: out of memory", self.name));
        }
        if exit.dropped > 0 {
            let lost = human::size(exit.dropped);
            warnings.push(format!("{}: {lost} of its output could not be written to its log", self.name));
        }
        context.printer.warnings(&warnings);
        context.printer_result(self, Some(exit))?;
        let code = exit.code.and_then(|code| u8::try_from(code).ok()).map(Code);
        code.ok_or_else(|| {
            Failure::new(Code::ENGINE, format!("how {} ended is not known", self.name))
                .why("its monitor was killed before it")
                .next(format!("jdos container logs {}", self.name))
        })
    }

    /// Waits until what the run left is cleared away, so that the next command finds it ended (or gone); gives how it
    /// ended as it is recorded, or as it was seen when there is no record any more.
    fn settle(&self, context: &Context<'_, '_, '_>, seen: Exit) -> Result<Exit> {
        let exit = match context.engine.wait(self.id) {
            Ok(exit) => exit,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(seen),
            Err(error) => return Err(Failure::from_engine(&error)),
        };
        if self.remove {
            match context.engine.remove(self.id, true) {
                // Another one that saw it end was faster.
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(Failure::from_engine(&error)),
                _ => {}
            }
        }
        Ok(exit)
    }
}

fn name_of(signal: i32) -> String {
    Signal::from_number(signal).map_or_else(|| signal.to_string(), |signal| signal.to_string())
}

impl Context<'_, '_, '_> {
    /// What a program is told of a container that was in the foreground, after the container's own output.
    fn printer_result(&mut self, foreground: &Foreground<'_>, exit: Option<Exit>) -> Result<()> {
        if !self.printer.json {
            return Ok(());
        }
        self.printer.closing_document(&serde_json::json!({
            "id": foreground.id,
            "name": foreground.name,
            "detached": exit.is_none(),
            "exit": exit,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_to_what_has_no_terminal_unless_told_otherwise() {
        let (id, name) = (ContainerId::from_random([7; 16]), "web".parse().unwrap());
        for (tty, interactive, sig_proxy, forwards) in [
            (false, false, true, true),
            (false, true, true, true),
            (false, true, false, false),
            (true, true, true, false),
            // A container with a terminal that was made without `--interactive`: our terminal is not raw then.
            (true, false, true, false),
        ] {
            let (id, name, remove, owned, keys) = (&id, &name, false, false, None);
            let foreground = Foreground { id, name, tty, interactive, remove, owned, keys, sig_proxy };
            assert_eq!(foreground.forwards_signals(), forwards, "{tty} {interactive} {sig_proxy}");
        }
    }
}
