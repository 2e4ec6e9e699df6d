//! `login` and `logout`.

use super::{Context, find, transfer::RegistryArguments};
use crate::failure::{Code, Failure, Result};
use clap::Args;
use images::{
    Client,
    client::{CredentialSource, Credentials, DockerConfig},
};
use model::image::{ReferenceError, Registry};
use std::io::{IsTerminal, Read};
use supervisor::Secret;

/// Longest password that is read, bytes.
const LONGEST: u64 = 64 << 10;

/// `login`
#[derive(Args, Debug)]
pub struct LoginArguments {
    /// Host and port
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
    /// User
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    connection: RegistryArguments,
}

/// `logout`
#[derive(Args, Debug)]
pub struct LogoutArguments {
    /// Host and port
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
}

/// Tries the credentials, and keeps them.
pub fn login(context: &mut Context<'_, '_, '_>, arguments: &LoginArguments) -> Result<Code> {
    let registry = registry(context, arguments.registry.as_deref())?;
    let config = config()?;
    let terminal = std::io::stdin().is_terminal() && !arguments.password_stdin;
    let user = match &arguments.username {
        Some(user) => user.clone(),
        None if terminal => ask("user: ", false)?,
        None => {
            return Err(Failure::new(Code::USAGE, "--username is missing")
                .next(format!("jdos image login --username NAME --password-stdin {registry} < FILE")));
        }
    };
    if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) {
        return Err(Failure::new(Code::USAGE, "a user's name is not empty, and has no `:` and no control characters"));
    }
    let password = match terminal {
        true => ask("password: ", true)?,
        false => from_input()?,
    };
    let credentials = Credentials::Password { user: user.clone(), password: Secret::new(password) };
    let mut settings = arguments.connection.settings(context.data)?;
    settings.credentials = CredentialSource::Given(credentials.clone());
    let client = Client::new(context.store()?, settings);
    super::transfer::block_on(client.check(&registry))?.map_err(|error| Failure::from_client(&error))?;
    let place = config.store(registry.as_str(), &credentials).map_err(|error| Failure::from_credentials(&error))?;
    let document = serde_json::json!({ "registry": registry, "user": user, "kept": place });
    context.printer.result(&document, || format!("logged in to {registry} as {user}; kept in {place}\n"))?;
    Ok(Code::DONE)
}

/// Forgets them.
pub fn logout(context: &mut Context<'_, '_, '_>, arguments: &LogoutArguments) -> Result<Code> {
    let registry = registry(context, arguments.registry.as_deref())?;
    let had = config()?.erase(registry.as_str()).map_err(|error| Failure::from_credentials(&error))?;
    let document = serde_json::json!({ "registry": registry, "removed": had });
    context.printer.result(&document, || match had {
        true => format!("logged out from {registry}\n"),
        false => format!("there was no login to {registry}\n"),
    })?;
    Ok(Code::DONE)
}

/// The one that is named, else the default.
fn registry(context: &Context<'_, '_, '_>, text: Option<&str>) -> Result<Registry> {
    match text {
        Some(text) => text.parse().map_err(|error: ReferenceError| Failure::new(Code::USAGE, error.to_string())),
        None => find::registries(context.data)?.default_registry().cloned().ok_or_else(|| {
            Failure::new(Code::USAGE, "there is no default registry: say which").next("jdos image login REGISTRY")
        }),
    }
}

fn config() -> Result<DockerConfig> {
    DockerConfig::of_caller().ok_or_else(|| {
        Failure::new(Code::FAILED, "there is no place for credentials: neither HOME nor DOCKER_CONFIG is set")
    })
}

/// The password without the line's end that `echo` gives it.
fn from_input() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().take(LONGEST).read_to_string(&mut text);
    read.map_err(|error| Failure::from_error("cannot read the password from standard input", &error))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    match text.strip_suffix('\r').unwrap_or(text) {
        "" => Err(Failure::new(Code::USAGE, "standard input has no password")),
        text => Ok(text.to_owned()),
    }
}

/// Asks on the terminal; what is secret is not shown.
fn ask(question: &str, secret: bool) -> Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    use std::io::Write;
    let input = std::io::stdin();
    let fail = |error: &dyn std::error::Error| Failure::from_error("cannot ask on the terminal", error);
    let mut terminal = std::io::stderr();
    terminal.write_all(question.as_bytes()).and_then(|()| terminal.flush()).map_err(|error| fail(&error))?;
    let before = tcgetattr(&input).map_err(|error| fail(&error))?;
    if secret {
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &hidden).map_err(|error| fail(&error))?;
    }
    let mut line = String::new();
    let read = input.read_line(&mut line);
    if secret {
        tcsetattr(&input, OptionalActions::Flush, &before).map_err(|error| fail(&error))?;
        terminal.write_all(b"\n").map_err(|error| fail(&error))?;
    }
    read.map_err(|error| fail(&error))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
