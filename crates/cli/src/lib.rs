//! Verbs, progress and tables: the command line of JDOS.
//!
//! Arguments become options in pure functions, options go to the library that does the work, and what comes back goes to
//! the [`print::Printer`]; nothing here starts, stops or decides anything itself. The key types are
//! [`containers::ContainerCommand`] and [`images::ImageCommand`] (the verbs), [`print::Printer`] (the one place that writes for people and programs)
//! and [`failure::Failure`] (what, why, what next, and the exit code).
//!
//! It starts in [`main`], ends with the exit code of the verb, and knows nothing of cgroups, namespaces and monitors.
#![forbid(unsafe_code)]

pub mod closest;
pub mod containers;
pub mod failure;
pub mod human;
pub mod images;
mod lazy;
pub mod print;
pub mod table;

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use failure::{Code, Failure, Result};
use print::{Printer, Streams};
use std::{
    ffi::OsString,
    io::{BufWriter, IsTerminal},
    process::ExitCode,
};

/// An open data-centre OS: containers and images on one machine.
#[derive(Parser, Debug)]
#[command(name = "jdos", version, disable_help_subcommand = true, max_term_width = 110)]
#[command(after_help = "Next: jdos container --help, jdos container run --help, jdos image --help")]
struct Cli {
    #[command(subcommand)]
    system: System,
}

#[derive(Subcommand, Debug)]
enum System {
    /// Run and look after containers on this machine
    #[command(visible_alias = "c")]
    Container(Box<containers::ContainerCommand>),
    /// Keep, move and look at images
    #[command(visible_alias = "i")]
    Image(Box<images::ImageCommand>),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process on its own streams.
pub fn main() -> ExitCode {
    // Standard output of the library flushes at every line, which costs a system call each: logs are many lines.
    let stdout = std::io::stdout();
    let out_is_terminal = stdout.is_terminal();
    let err_is_terminal = std::io::stderr().is_terminal();
    let colour = err_is_terminal && print::colour_allowed(|name| std::env::var_os(name));
    let mut out = BufWriter::new(stdout.lock());
    let err = &mut std::io::stderr();
    let mut streams = Streams { out: &mut out, err, out_is_terminal, err_is_terminal, colour, width: None };
    let code = run(std::env::args_os(), &mut streams);
    ExitCode::from(code.0)
}

/// Runs one command line (the first argument is the program's name) and gives its exit code; everything is printed on
/// `streams`, but for the streams of a container in the foreground, which are those of this process.
pub fn run(arguments: impl IntoIterator<Item = OsString>, streams: &mut Streams<'_>) -> Code {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match parse(&arguments, streams.width) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments, streams),
    };
    let (json, passing) = match &cli.system {
        System::Container(command) => (command.json(), command.passes_code_on()),
        System::Image(command) => (command.json(), false),
        System::Completion { .. } => (false, false),
    };
    let mut printer = Printer::new(streams, json);
    let done = match cli.system {
        System::Container(command) => command.run(&mut printer),
        System::Image(command) => command.run(&mut printer),
        System::Completion { shell } => completion(shell, &mut printer),
    };
    let done = done.and_then(|code| printer.flush().map(|()| code));
    done.unwrap_or_else(|failure| {
        let failure = if passing { failure.of_passing_verb() } else { failure };
        printer.failure(&failure);
        match printer.flush() {
            Ok(()) => failure.code,
            Err(broken) => failure.code.max(broken.code),
        }
    })
}

/// The whole tree of commands, for help, completion and parsing.
fn tree(width: Option<usize>) -> clap::Command {
    let command = containers::group_verbs(Cli::command());
    match width {
        Some(width) => command.term_width(width),
        None => command,
    }
}

fn parse(arguments: &[OsString], width: Option<usize>) -> std::result::Result<Cli, clap::Error> {
    let mut arguments = arguments.to_vec();
    loop {
        let mut tree = tree(width);
        match tree.try_get_matches_from_mut(&arguments) {
            Ok(matches) => return Cli::from_arg_matches(&matches),
            Err(error) if plain_switch(&error, &mut arguments) => {}
            Err(error) => return Err(suggest(error, &tree)),
        }
    }
}

/// Podman and Docker take `--rm=true` for `--rm`, and `--rm=false` for nothing. Rewrites the switch that the parser
/// stumbled over, which is the first of its text: what stands before it was understood.
fn plain_switch(error: &clap::Error, arguments: &mut Vec<OsString>) -> bool {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (ErrorKind::TooManyValues, Some(flag), Some(value)) =
        (error.kind(), context(ContextKind::InvalidArg), context(ContextKind::InvalidValue))
    else {
        return false;
    };
    let text = format!("{flag}={value}");
    let Some(position) = arguments.iter().position(|argument| argument.to_str() == Some(text.as_str())) else {
        return false;
    };
    match value {
        "true" | "1" => arguments[position] = flag.into(),
        "false" | "0" => {
            arguments.remove(position);
        }
        _ => return false,
    }
    true
}

/// Suggests the closest verb. (clap's own measure misses swapped letters and finds aliases of one letter.)
fn suggest(mut error: clap::Error, tree: &clap::Command) -> clap::Error {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    let verbs = std::iter::once(tree)
        .chain(tree.get_subcommands())
        .chain(tree.get_subcommands().flat_map(clap::Command::get_subcommands));
    // The command at fault is the one whose usage the error shows.
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    let parent = verbs
        .filter(|verb| verb.get_subcommands().next().is_some())
        .filter(|verb| usage.contains(&format!(" {}", verb.get_bin_name().unwrap_or_else(|| verb.get_name()))));
    let Some(parent) = parent.last() else { return error };
    let known: Vec<_> = parent
        .get_subcommands()
        .flat_map(|verb| std::iter::once(verb.get_name()).chain(verb.get_visible_aliases()))
        .filter(|name| name.len() > 1)
        .collect();
    let suggested: Vec<_> = crate::closest::closest(typed, known).map(str::to_owned).into_iter().collect();
    error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(suggested));
    error
}

/// Prints what clap says of arguments that it does not understand, or the help or version that was asked for.
fn usage(error: &clap::Error, arguments: &[OsString], streams: &mut Streams<'_>) -> Code {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let styled = error.render();
    let (target, colour): (&mut dyn std::io::Write, bool) = match asked {
        true => (&mut streams.out, streams.colour && streams.out_is_terminal),
        false => (&mut streams.err, streams.colour),
    };
    let text = if colour { styled.ansi().to_string() } else { styled.to_string() };
    let written = target.write_all(text.as_bytes()).and_then(|()| target.flush());
    match (asked, written) {
        (true, Ok(())) => return Code::DONE,
        (true, Err(_)) => return Code::BROKEN_PIPE,
        (false, _) => {}
    }
    let word = |position: usize| arguments.get(position).and_then(|word| word.to_str());
    let json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let code = match containers::verb_passes_code_on(arguments) && word(1).is_some() {
        true => Code::ENGINE,
        false => Code::USAGE,
    };
    if json {
        let what = styled.to_string();
        let what = what.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let failure = Failure { kind: Code::USAGE.word(), ..Failure::new(code, what) };
        // The person was told above; what is left to fail is that nobody reads.
        if let Err(broken) = Printer::new(streams, true).failure_document(&failure) {
            return broken.code;
        }
    }
    code
}

fn completion(shell: clap_complete::Shell, printer: &mut Printer<'_, '_>) -> Result<Code> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tree(None), "jdos", &mut script);
    printer.bytes(&script)?;
    Ok(Code::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        tree(Some(100)).debug_assert();
    }

    #[test]
    fn switches_take_values_as_podmans_do() {
        let parse = |line: &str| {
            let words: Vec<_> = line.split(' ').map(OsString::from).collect();
            parse(&words, Some(100)).map(|cli| format!("{cli:?}"))
        };
        let run = parse("jdos container run --rm=true --tty=false -i --rootfs / echo --rm=true").unwrap();
        assert!(run.contains("rm: true") && run.contains("tty: false") && run.contains("interactive: true"), "{run}");
        assert!(run.contains(r#"command: ["echo", "--rm=true"]"#), "{run}");
        assert!(parse("jdos container run --rm=perhaps --rootfs / true").is_err());
        assert!(parse("jdos container ps --help=true").is_err());
    }
}
