//! `exec`: an additional program in a running container.

use super::{
    Context,
    attached::catch,
    change::advise,
    problems::Problems,
    session::{DetachKeys, End, ExecPeer, RawTerminal, Reaction, Session, own_window_size, window_size},
    surroundings::in_this_process,
    translate::{Surroundings, env},
};
use crate::failure::{Code, Failure, Result};
use clap::Args;
use container::engine::{Exec, ExecIo, ExecOptions};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::{io, io::IsTerminal, os::fd::AsFd};

/// `exec`
#[derive(Args, Debug)]
pub struct ExecArguments {
    /// Do not wait for it, and drop its output; it gets no input and no terminal
    #[arg(short, long)]
    detach: bool,
    /// Forward standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Environment variable; without a value: the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File with one variable a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User and group by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Allow everything
    #[arg(long)]
    privileged: bool,
    /// Keys that hang up on it
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT)]
    detach_keys: String,
    // One list, so that everything after the first word belongs to the program.
    /// Name, id or beginning of an id; then the program and its arguments
    #[arg(value_name = "CONTAINER", required = true, trailing_var_arg = true)]
    words: Vec<String>,
}

/// Runs the program and exits with its code.
pub fn exec(context: &mut Context<'_, '_, '_>, arguments: &ExecArguments) -> Result<Code> {
    let mut problems = Problems::default();
    let keys = problems.take("--detach-keys", DetachKeys::parse(&arguments.detach_keys)).flatten();
    let options = in_this_process(|surroundings| exec_options(arguments, surroundings, &mut problems))?;
    problems.check("jdos container exec")?;
    let reference = arguments.words.first().map(String::as_str).unwrap_or_default();
    let id = context.find(reference)?;
    let streams = Streams::of(&options);
    let ignored = arguments.detach && (arguments.tty || arguments.interactive);
    if ignored {
        let why = "--detach: the program gets neither input nor a terminal, since nobody stays with it";
        context.printer.warnings(&[why.to_owned()]);
    }
    context.printer.flush()?;
    let mut signals = if options.detach { None } else { Some(catch()?) };
    let mut exec = context.engine.exec(&id, &options, streams.io).map_err(|error| advise(&error, "exec", reference))?;
    let pid = exec.pid;
    let Some(signals) = &mut signals else {
        let document = serde_json::json!({ "container": reference, "id": id, "pid": pid });
        context.printer.result(&document, String::new)?;
        return Ok(Code::DONE);
    };
    let end = carry(&mut exec, &options, &streams, keys, signals)
        .map_err(|error| Failure::from_error("lost the streams of the program", &error))?;
    let code = match end {
        End::Exited { .. } | End::Lost => exec.wait().map_err(|error| advise(&error, "exec", reference))?,
        End::Detached => {
            context.printer.hint("\nleft; the program was told that its terminal is gone");
            return Ok(Code::DONE);
        }
        End::OutputClosed => return Ok(Code::BROKEN_PIPE),
        End::Signal(number) => 128 + number,
    };
    if context.printer.json {
        let document = serde_json::json!({ "container": reference, "id": id, "pid": pid, "code": code });
        context.printer.closing_document(&document)?;
    }
    Ok(Code(u8::try_from(code).unwrap_or(Code::ENGINE.0)))
}

fn exec_options(arguments: &ExecArguments, surroundings: &Surroundings<'_>, problems: &mut Problems) -> ExecOptions {
    let command = arguments.words.get(1..).unwrap_or_default().to_vec();
    if command.is_empty() {
        problems.add("COMMAND", "is missing: say which program to run in the container");
    }
    if arguments.workdir.as_ref().is_some_and(|dir| !dir.starts_with('/')) {
        problems.add("--workdir", "is not absolute: it is a path inside the container");
    }
    ExecOptions {
        command,
        env: env::environment(&arguments.env, &arguments.env_file, surroundings, problems),
        workdir: arguments.workdir.clone(),
        user: arguments.user.clone(),
        // Nobody could ever be at them: the terminal would hang up as soon as this process ends.
        tty: arguments.tty && !arguments.detach,
        window: own_window_size(),
        interactive: arguments.interactive && !arguments.detach,
        privileged: arguments.privileged,
        detach: arguments.detach,
    }
}

/// Which descriptors the program gets.
struct Streams {
    io: ExecIo,
}

impl Streams {
    /// Files and pipes are handed over, which costs nothing; a terminal of the host is not, for what is inside could type
    /// into it (tty_ioctl(4), TIOCSTI) and ask it for things.
    fn of(options: &ExecOptions) -> Self {
        let terminal = (options.interactive && io::stdin().is_terminal())
            || io::stdout().is_terminal()
            || io::stderr().is_terminal();
        let io = match (options.detach, options.tty || terminal) {
            (true, _) => ExecIo::Null,
            (false, true) => ExecIo::Pipes,
            (false, false) => ExecIo::Inherit,
        };
        Self { io }
    }
}

/// Carries streams and signals until the program ends.
fn carry(
    exec: &mut Exec,
    options: &ExecOptions,
    streams: &Streams,
    keys: Option<DetachKeys>,
    signals: &mut super::session::Signals,
) -> io::Result<End> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let has_pty = exec.pty.is_some();
    let raw = match has_pty && options.interactive && stdin.is_terminal() {
        true => Some(RawTerminal::enter(stdin.as_fd())?),
        false => None,
    };
    let is_raw = raw.is_some();
    // Absent when the program has ended already.
    let target = Pid::from_raw(exec.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut on_signal = |number: i32| {
        let fatal = matches!(number, SIGHUP | SIGINT | SIGQUIT | SIGTERM);
        if has_pty {
            return if fatal { Reaction::Leave } else { Reaction::GoOn };
        }
        let sent = match (&target, Signal::from_named_raw(number)) {
            (Some(target), Some(signal)) => pidfd_send_signal(target, signal),
            _ => return Reaction::GoOn,
        };
        // Not ours to signal (it runs as another user): leaving is what is left to do.
        if sent == Err(rustix::io::Errno::PERM) && fatal { Reaction::Leave } else { Reaction::GoOn }
    };
    let forwards = options.interactive && !matches!(streams.io, ExecIo::Inherit);
    let mut peer = ExecPeer::new(exec)?;
    let window = [stdout.as_fd(), stdin.as_fd()].into_iter().find(|fd| window_size(*fd).is_some());
    let mut session = Session {
        stdin: forwards.then(|| stdin.as_fd()),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        keys: keys.filter(|_| is_raw),
        window: window.filter(|_| has_pty),
        signals,
        on_signal: &mut on_signal,
    };
    session.run(&mut peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        exec: ExecArguments,
    }

    #[test]
    fn a_detached_program_is_given_no_terminal_and_no_input() {
        for (flags, expected) in [
            ("-dt", (true, false, false)),
            ("-di", (true, false, false)),
            ("-dit", (true, false, false)),
            ("-it", (false, true, true)),
            ("-t", (false, true, false)),
        ] {
            let line = Line::try_parse_from(["exec", flags, "web", "true"]).unwrap();
            let mut problems = Problems::default();
            let options =
                in_this_process(|surroundings| exec_options(&line.exec, surroundings, &mut problems)).unwrap();
            problems.check("exec").unwrap();
            assert_eq!((options.detach, options.tty, options.interactive), expected, "{flags}");
        }
    }
}
