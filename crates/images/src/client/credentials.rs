//! User names and passwords of registries, where Docker's tools keep them: `config.json` and credential helpers.
//!
//! Reading blocks (a file, a program); writing is what `login` and `logout` do. Nothing here prints a secret: passwords
//! are [`Secret`]s, and what a helper says is shown only when it failed.

mod file;
mod helper;

pub use file::DockerConfig;

use std::{path::PathBuf, time::Duration};
use supervisor::Secret;

/// A proof of identity for one registry.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// A user and a password, or an access token in the place of one.
    Password {
        /// User.
        user: String,
        /// Password.
        password: Secret<String>,
    },
    /// A token that the registry's token server takes for others (OAuth 2 refresh token).
    Identity(Secret<String>),
}

impl Credentials {
    /// Who this is, as far as it can be shown.
    pub fn user(&self) -> &str {
        match self {
            Self::Password { user, .. } => user,
            Self::Identity(_) => "the holder of an identity token",
        }
    }
}

/// Credentials could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A file.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// Operation.
        doing: &'static str,
        /// Subject.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what Docker's tools write.
    #[error("{} is not a Docker configuration: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong; names no value.
        why: String,
    },
    /// A helper failed.
    #[error("the credential helper {program} could not {doing} for {registry}: {why}")]
    Helper {
        /// Name of the program.
        program: String,
        /// Operation.
        doing: &'static str,
        /// Subject.
        registry: String,
        /// What it said, or what became of it.
        why: String,
    },
}

/// How long a helper may take.
pub(super) const HELPER_DEADLINE: Duration = Duration::from_secs(20);
