//! `jdos image …`: the content store of this machine, and registries.
//!
//! Every verb opens the store itself: there is no daemon. A runtime is made only where a registry is spoken to.

mod archive;
mod bootstrap;
mod failure;
pub mod find;
mod inspect;
mod keep;
pub mod layers;
mod login;
mod ls;
mod name;
pub mod progress;
pub mod transfer;
mod unpack;

use crate::{
    failure::{Code, Result},
    lazy::Lazy,
    print::Printer,
};
use clap::{Args, Subcommand};
use container::layout::Layout;
use images::Store;
use std::path::{Path, PathBuf};

/// `jdos image`: one verb and the folder it works on.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true, after_help = HELP)]
pub struct ImageCommand {
    #[command(subcommand)]
    verb: Verb,
    /// Folder of everything that is kept
    #[arg(long, global = true, value_name = "DIR", default_value = Layout::DATA, display_order = 900)]
    data: PathBuf,
    /// Print the result as one JSON document
    #[arg(long, global = true, display_order = 902)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List images
    #[command(visible_alias = "list")]
    Ls(Lazy<ls::LsArguments>),
    /// Print all that is known of images, as JSON
    Inspect(Lazy<inspect::InspectArguments>),
    /// Bring images from a registry
    Pull(Lazy<transfer::PullArguments>),
    /// Bring an image to a registry
    Push(Lazy<transfer::PushArguments>),
    /// Give an image one more name
    Tag(Lazy<name::TagArguments>),
    /// Take names away; content that is left without one is collected later
    #[command(visible_alias = "remove")]
    Rm(Lazy<name::RmArguments>),
    /// Bring images from an archive: OCI layout (folder or tar) or docker-archive
    #[command(visible_alias = "load")]
    Import(Lazy<archive::ImportArguments>),
    /// Unpack the layers of images, so that the first container need not
    Unpack(Lazy<unpack::UnpackArguments>),
    /// Write images to an archive
    #[command(visible_alias = "save")]
    Export(Lazy<archive::ExportArguments>),
    /// Make a base image from the Debian mirror of this machine
    Bootstrap(Lazy<bootstrap::BootstrapArguments>),
    /// Delete content that nothing refers to
    Prune(Lazy<keep::PruneArguments>),
    /// Show what the images take on disk
    Df,
    /// Keep a user and a password for a registry, after trying them
    Login(Lazy<login::LoginArguments>),
    /// Forget the password for a registry
    Logout(Lazy<login::LogoutArguments>),
}

const HELP: &str = "\
Names:
  [REGISTRY/]REPOSITORY[:TAG][@DIGEST], such as registry.example:5000/shop/cart:7
  without REGISTRY: of this machine, or of the `default` in DATA/registries.toml
Credentials:
  config.json in $DOCKER_CONFIG or ~/.docker, and the helpers that it names

Exit codes:
  0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 6 denied, 7 no server";

/// What every verb works with.
pub struct Context<'c, 'a, 'b> {
    /// Where results go.
    pub printer: &'c mut Printer<'a, 'b>,
    /// Folder of everything that is kept.
    pub data: &'c Path,
}

impl Context<'_, '_, '_> {
    /// The images of the data folder.
    ///
    /// # Errors
    /// The folder or its index can not be opened.
    pub fn store(&self) -> Result<Store> {
        open_store(self.data)
    }
}

/// The images of a data folder.
///
/// # Errors
/// The folder or its index can not be opened.
pub fn open_store(data: &Path) -> Result<Store> {
    Store::open(&data.join("images")).map_err(|error| crate::failure::Failure::from_store(&error))
}

impl ImageCommand {
    /// Whether a program reads the result.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Does what the verb says.
    ///
    /// # Errors
    /// What the user is to be told, with the exit code.
    pub fn run(self, printer: &mut Printer<'_, '_>) -> Result<Code> {
        let context = &mut Context { printer, data: &self.data };
        match self.verb {
            Verb::Ls(arguments) => ls::ls(context, &arguments),
            Verb::Inspect(arguments) => inspect::inspect(context, &arguments),
            Verb::Pull(arguments) => transfer::pull(context, &arguments),
            Verb::Push(arguments) => transfer::push(context, &arguments),
            Verb::Tag(arguments) => name::tag(context, &arguments),
            Verb::Rm(arguments) => name::rm(context, &arguments),
            Verb::Import(arguments) => archive::import(context, &arguments),
            Verb::Unpack(arguments) => unpack::unpack(context, &arguments),
            Verb::Export(arguments) => archive::export(context, &arguments),
            Verb::Bootstrap(arguments) => bootstrap::bootstrap(context, &arguments),
            Verb::Prune(arguments) => keep::prune(context, &arguments),
            Verb::Df => keep::df(context),
            Verb::Login(arguments) => login::login(context, &arguments),
            Verb::Logout(arguments) => login::logout(context, &arguments),
        }
    }
}
