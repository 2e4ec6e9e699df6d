//! Our own command line, as a user would call it, on a data folder of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run;

/// `jdos container` on one data folder.
#[derive(Clone)]
pub struct Containers {
    binary: PathBuf,
    data: PathBuf,
}

impl Containers {
    /// That of this binary, on this data folder.
    pub fn new(binary: &Path, data: &Path) -> Self {
        Self { binary: binary.to_path_buf(), data: data.to_path_buf() }
    }

    /// The words of a command, for another process to run.
    pub fn words(&self, arguments: &[&str]) -> Vec<String> {
        let (verb, rest) = arguments.split_first().unwrap_or((&"ps", &[]));
        let binary = self.binary.to_string_lossy();
        let data = self.data.to_string_lossy();
        // The folder stands before what the verb takes as a program's arguments.
        let first = [&*binary, "container", verb, "--data", &*data];
        first.into_iter().chain(rest.iter().copied()).map(str::to_owned).collect()
    }

    /// A command that has not been run yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let words = self.words(arguments);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// Runs a verb; gives what it printed.
    ///
    /// # Errors
    /// The verb failed.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        run::quiet(&mut self.command(arguments))
    }

    /// Runs a verb that answers in JSON.
    ///
    /// # Errors
    /// The verb failed, or printed something else.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let (verb, rest) = arguments.split_first().context("a verb is missing")?;
        let text = self.run(&[&[*verb, "--json"], rest].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{verb} --json did not print JSON"))
    }

    /// All that is known of one container.
    ///
    /// # Errors
    /// As [`Containers::json`].
    pub fn inspect(&self, name: &str) -> Result<Value> {
        Ok(self.json(&["inspect", name])?[0].take())
    }

    /// Removes every container, running or not.
    ///
    /// # Errors
    /// One could not be removed.
    pub fn clear(&self) -> Result<()> {
        self.run(&["rm", "--force", "--all"]).map(drop)
    }

    /// The process that watches a container: the parent of its first process.
    ///
    /// # Errors
    /// It does not run.
    pub fn monitor(&self, name: &str) -> Result<i32> {
        let pid = self.inspect(name)?["pid"].as_i64().with_context(|| format!("{name} does not run"))?;
        field(&format!("/proc/{pid}/status"), "PPid:").with_context(|| format!("{name} has no parent process"))
    }
}

/// A number from a file of `name: number` lines, such as `/proc/PID/status`.
pub fn field<T: std::str::FromStr>(path: &str, name: &str) -> Option<T> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Containers, field};
    use std::path::Path;

    #[test]
    fn the_data_folder_stands_before_the_program() {
        let words =
            Containers::new(Path::new("/bin/jdos"), Path::new("/data")).words(&["run", "--rm", "echo", "--data"]);
        assert_eq!(words, ["/bin/jdos", "container", "run", "--data", "/data", "--rm", "echo", "--data"]);
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(field("/proc/self/status", "Pid:"), Some(std::process::id()));
        assert_eq!(field::<u32>("/proc/self/status", "Nothing:"), None);
    }
}
