//! Environment: `-e NAME=VALUE`, `-e NAME` (the caller's value), `-e PREFIX*` and files of such lines.

use super::Surroundings;
use crate::containers::problems::Problems;

/// Variables in the order in which they first appear; the last value of each counts, and `-e` counts more than files.
pub fn environment(
    variables: &[String],
    files: &[String],
    surroundings: &Surroundings<'_>,
    problems: &mut Problems,
) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for file in files {
        let path = surroundings.absolute(file);
        let read = (surroundings.read)(&path).map_err(|error| format!("{}: {error}", path.display()));
        let Some(text) = problems.take("--env-file", read) else { continue };
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = one(line, surroundings).map_err(|error| format!("{file}, line {number}: {error}"));
            all.extend(problems.take("--env-file", entry).unwrap_or_default());
        }
    }
    for variable in variables {
        all.extend(problems.take("--env", one(variable, surroundings)).unwrap_or_default());
    }
    let mut unique: Vec<(String, String)> = Vec::with_capacity(all.len());
    for (name, value) in all {
        match unique.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => unique.push((name, value)),
        }
    }
    unique
}

/// The variables that one text stands for: none when it names one that the caller has not.
fn one(text: &str, surroundings: &Surroundings<'_>) -> Result<Vec<(String, String)>, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if name.is_empty() || name.contains(char::is_whitespace) || text.contains('\0') {
        return Err(format!("`{text}` is not an environment variable: expected NAME=VALUE or NAME"));
    }
    let of_caller = |wanted: &dyn Fn(&str) -> bool| {
        surroundings.environment.iter().filter(|(name, _)| wanted(name)).cloned().collect()
    };
    Ok(match (value, name.strip_suffix('*')) {
        (Some(value), _) => vec![(name.to_owned(), value.to_owned())],
        (None, Some(prefix)) => of_caller(&|name| name.starts_with(prefix)),
        (None, None) => of_caller(&|known| known == name),
    })
}
