//! `registry user` and `registry robot`.

use super::{Context, account_failure, secret};
use crate::{
    failure::{Code, Failure, Problem, Result},
    table::Table,
};
use ::images::registry::{Account, AccountError, Grant, Kind};
use clap::{Args, Subcommand};
use jiff::{Span, Timestamp, Zoned};
use serde::Serialize;
use std::path::PathBuf;
use supervisor::Secret;

/// `registry user`
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct UserCommand {
    #[command(subcommand)]
    verb: UserVerb,
}

#[derive(Subcommand, Debug)]
enum UserVerb {
    /// Add a user; the password is asked for, or read from standard input
    Add {
        /// Name
        name: String,
        #[command(flatten)]
        rights: Rights,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Change a user's password or grants
    Set {
        /// Name
        name: String,
        /// Ask for another password
        #[arg(long)]
        password: bool,
        #[command(flatten)]
        source: PasswordSource,
        /// What the user may do instead of what it might before (repeatable)
        #[arg(long = "allow", value_name = "PATTERN:VERBS")]
        allow: Vec<Grant>,
    },
    /// List users
    #[command(visible_alias = "list")]
    Ls,
    /// Remove users; they are out at once
    #[command(visible_alias = "remove")]
    Rm {
        /// Names
        #[arg(value_name = "USER", required = true)]
        names: Vec<String>,
    },
}

/// `registry robot`
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct RobotCommand {
    #[command(subcommand)]
    verb: RobotVerb,
}

#[derive(Subcommand, Debug)]
enum RobotVerb {
    /// Add a robot and print its token, which is shown only this once
    Add {
        /// Name
        name: String,
        #[command(flatten)]
        rights: Rights,
    },
    /// Give a robot another token; the old one is out at once
    Rotate {
        /// Name
        name: String,
    },
    /// Change what a robot may do
    Set {
        /// Name
        name: String,
        /// What the robot may do instead of what it might before (repeatable)
        #[arg(long = "allow", value_name = "PATTERN:VERBS", required = true)]
        allow: Vec<Grant>,
    },
    /// List robots
    #[command(visible_alias = "list")]
    Ls,
    /// Remove robots; their tokens are out at once
    #[command(visible_alias = "remove")]
    Rm {
        /// Names
        #[arg(value_name = "ROBOT", required = true)]
        names: Vec<String>,
    },
}

#[derive(Args, Debug)]
struct Rights {
    /// What it may do, such as `team/**:pull,push` (repeatable; `*` any characters but /, `**` any; verbs pull, push,
    /// delete, *)
    #[arg(long = "allow", value_name = "PATTERN:VERBS", required = true)]
    allow: Vec<Grant>,
    /// When it stops to be accepted, from now, such as 30d or 12h
    #[arg(long, value_name = "SPAN")]
    expires: Option<String>,
}

#[derive(Args, Debug)]
struct PasswordSource {
    /// Read the password from the first line of a file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Rights {
    fn until(&self, verb: &str) -> Result<Option<Timestamp>> {
        let Some(text) = &self.expires else { return Ok(None) };
        let wrong = |problem: String| {
            let argument = "--expires".to_owned();
            Failure::arguments(vec![Problem { argument, problem: format!("`{text}`: {problem}") }], verb)
        };
        let span: Span = text.parse().map_err(|_| wrong("expected a span such as 30d or 12h".to_owned()))?;
        let until = Zoned::now().checked_add(span).map_err(|error| wrong(error.to_string()))?;
        Ok(Some(until.timestamp()))
    }
}

/// A robot and its token, as a document.
#[derive(Serialize)]
struct WithToken<'a> {
    #[serde(flatten)]
    account: &'a Account,
    token: &'a str,
}

/// Does what the verb says.
pub fn user(context: &mut Context<'_, '_, '_>, command: &UserCommand) -> Result<Code> {
    let accounts = context.accounts();
    match &command.verb {
        UserVerb::Add { name, rights, password } => {
            let until = rights.until("jdos registry user add")?;
            let password = Secret::new(secret::password(password.password_file.as_deref())?);
            let added = accounts.add_user(name, &password, rights.allow.clone(), until).map_err(failed)?;
            context.printer.result(&added, || format!("{}\n", added.name))?;
        }
        UserVerb::Set { name, password, source, allow } => {
            known(context, name, Kind::User)?;
            let changes_password = *password || source.password_file.is_some();
            if !changes_password && allow.is_empty() {
                let failure = Failure::new(Code::USAGE, "nothing to change: give --password or --allow");
                return Err(failure.next("jdos registry user set --help"));
            }
            if changes_password {
                let password = Secret::new(secret::password(source.password_file.as_deref())?);
                accounts.set_password(name, &password).map_err(failed)?;
            }
            if !allow.is_empty() {
                accounts.set_grants(name, allow).map_err(failed)?;
            }
            show(context, name)?;
        }
        UserVerb::Ls => list(context, Kind::User)?,
        UserVerb::Rm { names } => remove(context, names, Kind::User)?,
    }
    Ok(Code::DONE)
}

/// Does what the verb says.
pub fn robot(context: &mut Context<'_, '_, '_>, command: &RobotCommand) -> Result<Code> {
    let accounts = context.accounts();
    match &command.verb {
        RobotVerb::Add { name, rights } => {
            let until = rights.until("jdos registry robot add")?;
            let (account, token) = accounts.add_robot(name, rights.allow.clone(), until).map_err(failed)?;
            show_token(context, &account, &token)?;
        }
        RobotVerb::Rotate { name } => {
            let account = known(context, name, Kind::Robot)?;
            let token = accounts.rotate(name).map_err(failed)?;
            show_token(context, &account, &token)?;
        }
        RobotVerb::Set { name, allow } => {
            known(context, name, Kind::Robot)?;
            accounts.set_grants(name, allow).map_err(failed)?;
            show(context, name)?;
        }
        RobotVerb::Ls => list(context, Kind::Robot)?,
        RobotVerb::Rm { names } => remove(context, names, Kind::Robot)?,
    }
    Ok(Code::DONE)
}

fn failed(error: AccountError) -> Failure {
    account_failure(&error)
}

fn known(context: &Context<'_, '_, '_>, name: &str, kind: Kind) -> Result<Account> {
    let account = context.accounts().find(name).map_err(failed)?;
    account.filter(|account| account.kind == kind).ok_or_else(|| failed(AccountError::Unknown(name.to_owned())))
}

fn show(context: &mut Context<'_, '_, '_>, name: &str) -> Result<()> {
    let account = context.accounts().find(name).map_err(failed)?;
    let account = account.ok_or_else(|| failed(AccountError::Unknown(name.to_owned())))?;
    context.printer.result(&account, || format!("{}\n", account.name))
}

fn show_token(context: &mut Context<'_, '_, '_>, account: &Account, token: &Secret<String>) -> Result<()> {
    let token = token.expose();
    context.printer.result(&WithToken { account, token }, || format!("{token}\n"))?;
    context.printer.hint("keep it: only its hash is stored");
    Ok(())
}

fn list(context: &mut Context<'_, '_, '_>, kind: Kind) -> Result<()> {
    let accounts = context.accounts().list().map_err(failed)?;
    let accounts: Vec<_> = accounts.into_iter().filter(|account| account.kind == kind).collect();
    context.printer.result(&accounts, || {
        let mut table = Table::new(&["NAME", "GRANTS", "CREATED", "EXPIRES"]);
        for account in &accounts {
            table.row([
                account.name.clone(),
                account.grants.iter().map(Grant::to_string).collect::<Vec<_>>().join(" "),
                account.created.to_string(),
                account.expires.map_or_else(|| "never".to_owned(), |time| time.to_string()),
            ]);
        }
        table.render()
    })
}

#[derive(Serialize)]
struct Removed<'a> {
    removed: Vec<&'a str>,
}

fn remove(context: &mut Context<'_, '_, '_>, names: &[String], kind: Kind) -> Result<()> {
    // All or none: a name that is mistyped must not leave half of the work done.
    for name in names {
        known(context, name, kind)?;
    }
    for name in names {
        context.accounts().remove(name).map_err(failed)?;
    }
    let removed = Removed { removed: names.iter().map(String::as_str).collect() };
    context.printer.result(&removed, || names.iter().map(|name| format!("{name}\n")).collect())
}
