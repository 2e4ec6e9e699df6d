//! Running other programs: quietly with their last lines in the error, or with their output shown and kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Lines of a failed program's output that an error shows.
const TAIL: usize = 30;

/// Runs to the end without showing anything; gives standard output.
///
/// # Errors
/// The program cannot be started or fails; the error holds the last lines of what it printed.
pub fn quiet(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    check(&name, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`quiet`], with a file as standard input.
///
/// # Errors
/// As [`quiet`].
pub fn fed(command: &mut Command, input: std::fs::File) -> Result<String> {
    let name = describe(command);
    let output = command.stdin(input).output().with_context(|| format!("cannot run {name}"))?;
    check(&name, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end, shows both outputs as they come and also gives them, interleaved by line, with whether it succeeded.
///
/// # Errors
/// The program cannot be started.
pub fn shown(command: &mut Command) -> Result<(bool, String)> {
    let name = describe(command);
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let other = writer.try_clone().context("cannot duplicate a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(other)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    // The command keeps its copies of the writing end; without this the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let text = show(reader).with_context(|| format!("cannot read the output of {name}"))?;
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    Ok((status.success(), text))
}

/// Copies lines to standard error until the end, and gives them.
fn show(reader: impl Read) -> Result<String> {
    let mut lines = BufReader::new(reader);
    let (mut line, mut text) = (Vec::new(), String::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        std::io::stderr().lock().write_all(&line)?;
        crate::output::spoken();
        text.push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(text)
}

/// Whether the program exists on the path.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Fails when a program did, with its last lines.
fn check(name: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&both);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n  │ ");
    ensure!(!tail.is_empty(), "{name} failed ({}) and printed nothing", output.status);
    bail!("{name} failed ({})\n  │ {tail}", output.status)
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().take(6).map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{quiet, shown};
    use std::process::Command;

    #[test]
    fn a_failure_shows_the_last_lines() {
        let error =
            quiet(Command::new("sh").args(["-c", "echo first; echo last >&2; exit 3"])).expect_err("exits with 3");
        let text = format!("{error:#}");
        assert!(text.contains("first") && text.contains("last") && text.contains('3'), "{text}");
        let error = quiet(&mut Command::new("/no/such/program")).expect_err("cannot start");
        assert!(format!("{error:#}").contains("cannot run /no/such/program"));
    }

    #[test]
    fn both_outputs_are_shown_and_kept() {
        let (ok, text) = shown(Command::new("sh").args(["-c", "echo one; echo two >&2; false"])).expect("starts");
        assert!(!ok);
        assert_eq!(text, "one\ntwo\n");
    }
}
