//! Where a password comes from: a file, standard input, or a person who is asked.

use crate::failure::{Code, Failure, Result};
use rustix::{
    stdio::stdin,
    termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr},
};
use std::{
    io::{self, BufRead, Read, Write},
    path::Path,
};

/// More than any password has.
const MOST: u64 = 4096;

/// The password from this file, or from standard input; a person at a terminal is asked twice.
pub fn password(file: Option<&Path>) -> Result<String> {
    let read = match file {
        Some(path) => std::fs::File::open(path).and_then(|file| first_line(file.take(MOST))),
        None if isatty(stdin()) => asked(),
        None => first_line(io::stdin().lock().take(MOST)),
    };
    let text = read.map_err(|error| Failure::from_error("cannot read the password", &error))?;
    if text.is_empty() { Err(Failure::new(Code::USAGE, "the password is empty")) } else { Ok(text) }
}

fn first_line(reader: impl Read) -> io::Result<String> {
    let mut line = String::new();
    io::BufReader::new(reader).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks twice, without showing what is typed.
fn asked() -> io::Result<String> {
    let before = tcgetattr(stdin())?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(stdin(), OptionalActions::Flush, &silent)?;
    let answers = ask("Password: ").and_then(|first| ask("Again: ").map(|second| (first, second)));
    tcsetattr(stdin(), OptionalActions::Flush, &before)?;
    let (first, second) = answers?;
    if first == second { Ok(first) } else { Err(io::Error::other("the two are not the same")) }
}

fn ask(prompt: &str) -> io::Result<String> {
    let mut err = io::stderr();
    err.write_all(prompt.as_bytes())?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    err.write_all(b"\n")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
