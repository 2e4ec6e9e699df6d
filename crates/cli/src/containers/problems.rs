//! All that is wrong with the arguments, collected, so that a user mends everything at once.

use crate::failure::{Failure, Problem};
use std::fmt::Display;

/// Arguments that can not be used, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds one.
    pub fn add(&mut self, argument: &str, problem: impl Display) {
        self.0.push(Problem { argument: argument.to_owned(), problem: problem.to_string() });
    }

    /// The value, or `None` with the error added under the argument's name.
    pub fn take<T, E: Display>(&mut self, argument: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(argument, error)).ok()
    }

    /// Fails with all of them if there are any; `verb` is the command whose help tells more.
    ///
    /// # Errors
    /// [`Failure::arguments`].
    pub fn check(self, verb: &str) -> Result<(), Failure> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(Failure::arguments(self.0, verb)),
        }
    }

    /// All of them, for tests that look at each.
    #[cfg(test)]
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}
