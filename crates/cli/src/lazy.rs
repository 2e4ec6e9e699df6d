//! Flags of a verb that are described to the parser only when that verb is used.
//!
//! A verb is one of twenty and has up to eighty flags; describing all of them takes longer than starting a process.

use clap::{ArgMatches, Args, Command, Error, FromArgMatches};
use std::ops::Deref;

/// The arguments of one verb.
#[derive(Debug)]
pub struct Lazy<T>(Box<T>);

impl<T> Deref for Lazy<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: FromArgMatches> FromArgMatches for Lazy<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(|arguments| Self(Box::new(arguments)))
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl<T: Args> Args for Lazy<T> {
    fn augment_args(command: Command) -> Command {
        command.defer(|command| described_by_verb(command, T::augment_args))
    }
    fn augment_args_for_update(command: Command) -> Command {
        command.defer(|command| described_by_verb(command, T::augment_args_for_update))
    }
}

/// The verb's own description stays: the arguments' type brings one as well, and here it comes later.
fn described_by_verb(command: Command, augment: fn(Command) -> Command) -> Command {
    let about = command.get_about().cloned();
    let command = augment(command);
    match about {
        Some(about) => command.about(about),
        None => command,
    }
}
