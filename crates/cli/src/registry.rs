//! `jdos registry …`: a registry of this machine's images, and who may use it.

mod accounts;
mod secret;
mod serve;

use crate::{
    failure::{Code, Failure, Result},
    lazy::Lazy,
    print::Printer,
};
use ::images::{
    registry::{AccountError, Accounts},
    store::Store,
};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `jdos registry`: one verb and the folder it works on.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct RegistryCommand {
    #[command(subcommand)]
    verb: Verb,
    /// Folder of everything that is kept
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/jdos", display_order = 900)]
    data: PathBuf,
    /// Print the result as one JSON document
    #[arg(long, global = true, display_order = 902)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Serve images to any OCI client until a signal
    Serve(Lazy<serve::ServeArguments>),
    /// Manage people who may use the registry
    User(accounts::UserCommand),
    /// Manage programs that may use the registry, and their tokens
    Robot(accounts::RobotCommand),
}

/// What every verb works with.
struct Context<'c, 'a, 'b> {
    printer: &'c mut Printer<'a, 'b>,
    data: PathBuf,
    store: Store,
}

impl RegistryCommand {
    /// Whether a program reads the result.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Does what the verb says.
    ///
    /// # Errors
    /// What the user is to be told, with the exit code.
    pub fn run(self, printer: &mut Printer<'_, '_>) -> Result<Code> {
        let store = Store::open(&self.data.join("images"));
        let store = store.map_err(|error| Failure::from_error("cannot open the content store", &error))?;
        let context = &mut Context { printer, data: self.data, store };
        match self.verb {
            Verb::Serve(arguments) => serve::serve(context, &arguments),
            Verb::User(command) => accounts::user(context, &command),
            Verb::Robot(command) => accounts::robot(context, &command),
        }
    }
}

impl Context<'_, '_, '_> {
    fn accounts(&self) -> Accounts {
        Accounts::new(&self.store)
    }
}

/// What the user is told when accounts are managed.
fn account_failure(error: &AccountError) -> Failure {
    let code = match error {
        AccountError::Name(_) | AccountError::Password(_) => Code::USAGE,
        AccountError::Exists(_) => Code::CONFLICT,
        AccountError::Unknown(_) => Code::NOT_FOUND,
        AccountError::Hash(_) | AccountError::Random(_) | AccountError::Store(_) => Code::FAILED,
    };
    let mut failure = Failure::from_error(error.to_string(), error);
    // The first is the message itself.
    failure.why.remove(0);
    Failure { kind: code.word(), code, ..failure }.next("jdos registry user ls").next("jdos registry robot ls")
}
