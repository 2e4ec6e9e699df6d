//! What the meaning of arguments depends on besides themselves, as it is for this process.

use super::translate::Surroundings;
use crate::failure::{Failure, Result};
use std::{fs, path::Path};

/// Translates arguments in the surroundings of this process.
///
/// # Errors
/// When the working directory is gone.
pub fn in_this_process<T>(translate: impl FnOnce(&Surroundings<'_>) -> T) -> Result<T> {
    let directory =
        std::env::current_dir().map_err(|error| Failure::from_error("cannot tell the working directory", &error))?;
    Ok(translate(&Surroundings {
        directory: &directory,
        environment: &environment(),
        read: &|path: &Path| fs::read_to_string(path),
        is_file: &|path: &Path| path.is_file(),
    }))
}

/// Our environment. Variables that are not UTF-8 can not be passed on: a specification is JSON.
fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}
