//! What the library of images says, as a person is told it.

use crate::failure::{Code, Failure};
use images::{
    ClientError, StoreError,
    archive::ArchiveError,
    bootstrap::BootstrapError,
    client::{ClientErrorKind, CredentialError},
    layer::UnpackError,
};
use std::error::Error;

impl Failure {
    /// The store refused or failed.
    pub fn from_store(error: &StoreError) -> Self {
        let code = match error {
            StoreError::Missing { .. } | StoreError::NoPlatform { .. } | StoreError::Incomplete { .. } => {
                Code::NOT_FOUND
            }
            StoreError::Ambiguous { .. } | StoreError::Busy { .. } => Code::CONFLICT,
            error if is_denied(error) => Code::DENIED,
            _ => Code::FAILED,
        };
        let failure = with_sources(code, error);
        match error {
            StoreError::Full { .. } => failure.next("jdos image df").next("jdos image prune"),
            StoreError::NoPlatform { .. } => failure.next("choose one of them with --platform"),
            _ if code == Code::DENIED => failure.next("run it as root, such as with sudo"),
            _ => failure,
        }
    }

    /// A registry refused, or a transfer failed.
    pub fn from_client(error: &ClientError) -> Self {
        // What the store says has its own code and advice.
        if let ClientError::Store { doing, source } = error {
            let mut failure = Self::from_store(source);
            failure.why.insert(0, std::mem::replace(&mut failure.what, format!("cannot {doing}")));
            return failure;
        }
        let code = match error.kind() {
            ClientErrorKind::Invalid => Code::USAGE,
            ClientErrorKind::NotFound => Code::NOT_FOUND,
            ClientErrorKind::Denied => Code::DENIED,
            ClientErrorKind::Unavailable => Code::NO_SERVER,
            ClientErrorKind::Failed => Code::FAILED,
        };
        let failure = with_sources(code, error);
        advise(failure, error)
    }

    /// A base image could not be made.
    pub fn from_bootstrap(error: &BootstrapError) -> Self {
        let code = match error {
            BootstrapError::Store(error) => return Self::from_store(error),
            BootstrapError::Mirror { .. } | BootstrapError::Conflict { .. } => Code::USAGE,
            BootstrapError::Package { .. } | BootstrapError::Suite { .. } => Code::NOT_FOUND,
            BootstrapError::NotRoot => Code::DENIED,
            BootstrapError::Unreachable { .. } => Code::NO_SERVER,
            BootstrapError::Stopped => Code::INTERRUPTED,
            _ => Code::FAILED,
        };
        let failure = with_sources(code, error);
        match error {
            BootstrapError::Program { package, .. } => failure.next(format!("apt-get install {package}")),
            BootstrapError::Signature { .. } => failure.next("apt-get install debian-archive-keyring"),
            BootstrapError::NotRoot => failure.next("run it as root, such as with sudo"),
            BootstrapError::NoMirror | BootstrapError::Unreachable { .. } => {
                failure.next("name a mirror with --mirror URI")
            }
            BootstrapError::Suite { .. } => {
                failure.next("name a mirror that has it with --mirror URI, or another suite")
            }
            BootstrapError::Package { package, suite } => failure
                .next(format!("look for it: apt-cache search {package} (this machine's own suite may not be {suite})")),
            BootstrapError::NoRoom { .. } => failure.next("jdos image df").next("jdos image prune"),
            BootstrapError::Changed { .. } => failure.next("try again"),
            _ => failure,
        }
    }

    /// Layers could not be unpacked.
    pub fn from_unpack(error: &UnpackError) -> Self {
        match error {
            UnpackError::Store(error) => Self::from_store(error),
            error => with_sources(Code::FAILED, error),
        }
    }

    /// An archive could not be read or written.
    pub fn from_archive(error: &ArchiveError) -> Self {
        match error {
            ArchiveError::Store(error) => Self::from_store(error),
            ArchiveError::Unnamed { .. } => with_sources(Code::USAGE, error).next("jdos image import --name NAME FILE"),
            ArchiveError::Several(_) => with_sources(Code::USAGE, error).next("leave --name out"),
            ArchiveError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                with_sources(Code::NOT_FOUND, error)
            }
            ArchiveError::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => Self::broken_pipe(),
            error => with_sources(Code::FAILED, error),
        }
    }

    /// Credentials could not be read or kept.
    pub fn from_credentials(error: &CredentialError) -> Self {
        with_sources(Code::FAILED, error)
    }
}

/// What helps.
fn advise(failure: Failure, error: &ClientError) -> Failure {
    match error {
        ClientError::NoRegistry { name } => failure
            .next(format!("say which registry, such as registry.example/{name}"))
            .next("or set `default` in registries.toml of the data folder"),
        ClientError::Denied { asked, known: false, .. } => failure.next(format!("jdos image login {}", asked.registry)),
        ClientError::Denied { asked, known: true, .. } => {
            failure.next(format!("jdos image login {} (as somebody who may)", asked.registry))
        }
        ClientError::Tls { .. } => failure
            .next("--ca FILE, when its certificate is signed by an authority of your own")
            .next("--plain-http, when it speaks no TLS"),
        ClientError::Incomplete { .. } => {
            failure.next("jdos image pull --all-platforms NAME").next("or push one image of it with --platform")
        }
        ClientError::Wait { .. } => failure.next("try again later; what was transferred is kept for a day"),
        ClientError::GaveUp { last, .. } => {
            let failure = advise(failure, last);
            match failure.next.is_empty() {
                true => failure.next("try again; what was transferred is kept for a day"),
                false => failure,
            }
        }
        _ => failure,
    }
}

fn with_sources(code: Code, error: &(dyn Error + 'static)) -> Failure {
    let mut failure = Failure::new(code, error.to_string());
    let causes = std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string);
    for cause in causes {
        // Libraries repeat themselves.
        if failure.why.last().is_none_or(|last| !last.contains(&cause)) {
            failure.why.push(cause);
        }
    }
    failure
}

fn is_denied(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
}
