//! `jdos container …`: the verbs, without any daemon.

mod attached;
mod change;
mod create;
pub(crate) mod each;
mod exec;
mod image;
mod inspect;
mod logs;
mod network;
mod problems;
mod ps;
mod reconcile;
mod resources;
mod run;
mod session;
mod stats;
mod translate;
mod update;

use crate::{
    closest::closest,
    failure::{Code, Failure, Result},
    lazy::Lazy,
    print::Printer,
};
use clap::{Args, Subcommand};
use container::{
    engine::{Engine, ErrorKind},
    layout::Layout,
};
use model::ContainerId;
use std::{ffi::OsString, path::PathBuf};

/// `jdos container`: one verb and the folders it works on.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct ContainerCommand {
    #[command(subcommand)]
    verb: Verb,
    /// Folder of everything that is kept
    #[arg(long, global = true, value_name = "DIR", default_value = Layout::DATA, display_order = 900)]
    data: PathBuf,
    /// Folder of sockets and state [default: goes with --data]
    #[arg(long = "run", id = "run-folder", global = true, value_name = "DIR", display_order = 901)]
    run_folder: Option<PathBuf>,
    /// Print the result as one JSON document
    #[arg(long, global = true, display_order = 902)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Create a container and run it
    #[command(disable_help_flag = true, after_help = EXAMPLES)]
    #[command(override_usage = "jdos container run [FLAGS] IMAGE [COMMAND [ARGUMENT]…]")]
    Run(Lazy<run::RunArguments>),
    /// Create a container without running it
    #[command(disable_help_flag = true)]
    #[command(override_usage = "jdos container create [FLAGS] IMAGE [COMMAND [ARGUMENT]…]")]
    Create(Lazy<create::CreateArguments>),
    /// Start containers that do not run
    Start(Lazy<run::StartArguments>),
    /// Stop containers: stop signal, grace, SIGKILL
    Stop(Lazy<change::StopArguments>),
    /// Send a signal to containers
    Kill(Lazy<change::KillArguments>),
    /// Freeze containers
    Pause(Lazy<change::PauseArguments>),
    /// Go on with frozen containers
    #[command(visible_alias = "unpause")]
    Resume(Lazy<change::ResumeArguments>),
    /// Change limits, also of a running container
    Update(Lazy<update::UpdateArguments>),
    /// Wait until containers end and print their exit codes
    Wait(Lazy<change::WaitArguments>),
    /// Remove containers and what they wrote
    #[command(visible_alias = "remove")]
    Rm(Lazy<change::RmArguments>),
    /// Remove all containers that have ended
    Prune(Lazy<change::PruneArguments>),
    /// List containers
    #[command(visible_aliases = ["ls", "list"])]
    Ps(Lazy<ps::PsArguments>),
    /// Print all that is known of containers, as JSON
    Inspect(Lazy<inspect::InspectArguments>),
    /// Print what a container wrote
    Logs(Lazy<logs::LogsArguments>),
    /// Show use of processor, memory and disk
    Stats(Lazy<stats::StatsArguments>),
    /// Run another program in a running container
    #[command(override_usage = "jdos container exec [FLAGS] CONTAINER COMMAND [ARGUMENT]…")]
    Exec(Lazy<exec::ExecArguments>),
    /// Connect to a running container's input and output
    Attach(Lazy<attached::AttachArguments>),
    /// Adopt what runs and sweep what nobody asked for
    Reconcile,
    /// List and remove networks
    Network(network::NetworkCommand),
}

/// The verbs as `--help` groups them.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Life", &["run", "create", "start", "stop", "kill", "pause", "resume", "update", "wait", "rm", "prune"]),
    ("Looking", &["ps", "inspect", "logs", "stats"]),
    ("Inside", &["exec", "attach"]),
    ("Machine", &["network", "reconcile"]),
];
const EXIT_CODES: &str = "\
Exit codes:
  0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 6 denied
  run, exec, attach, start -a: the program's own, or 128 + N after signal N; 125 when
  JDOS itself failed, 126 when the program can not be executed, 127 when it is not there";
const EXAMPLES: &str = "\
Examples:
  jdos container run --rm -it registry.example/debian:trixie bash
  jdos container run --rm -it --rootfs ./root sh
  jdos container run -d --name web -m 64m --cpus 0.5 -p 8080:80 --rootfs ./root httpd -f";

/// What every verb works with.
pub struct Context<'c, 'a, 'b> {
    /// Where results go.
    pub printer: &'c mut Printer<'a, 'b>,
    /// The containers of the chosen folders.
    pub engine: Engine,
}

impl ContainerCommand {
    /// Whether a program reads the result.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether the exit code is that of a program inside, so that our own failures need codes of their own.
    pub fn passes_code_on(&self) -> bool {
        match &self.verb {
            Verb::Run(_) | Verb::Exec(_) | Verb::Attach(_) => true,
            Verb::Start(arguments) => arguments.attach,
            _ => false,
        }
    }

    /// Does what the verb says.
    ///
    /// # Errors
    /// What the user is to be told, with the exit code.
    pub fn run(self, printer: &mut Printer<'_, '_>) -> Result<Code> {
        let engine =
            Engine::open(&self.data, self.run_folder.as_deref()).map_err(|error| Failure::from_engine(&error))?;
        let context = &mut Context { printer, engine };
        match self.verb {
            Verb::Run(arguments) => run::run(context, &arguments),
            Verb::Create(arguments) => run::create(context, &arguments),
            Verb::Start(arguments) => run::start(context, &arguments),
            Verb::Stop(arguments) => change::stop(context, &arguments),
            Verb::Kill(arguments) => change::kill(context, &arguments),
            Verb::Pause(arguments) => change::pause(context, &arguments),
            Verb::Resume(arguments) => change::resume(context, &arguments),
            Verb::Update(arguments) => update::update(context, &arguments),
            Verb::Wait(arguments) => change::wait(context, &arguments),
            Verb::Rm(arguments) => change::rm(context, &arguments),
            Verb::Prune(arguments) => change::prune(context, &arguments),
            Verb::Ps(arguments) => ps::ps(context, &arguments),
            Verb::Inspect(arguments) => inspect::inspect(context, &arguments),
            Verb::Logs(arguments) => logs::logs(context, &arguments),
            Verb::Stats(arguments) => stats::stats(context, &arguments),
            Verb::Exec(arguments) => exec::exec(context, &arguments),
            Verb::Attach(arguments) => attached::attach(context, &arguments),
            Verb::Reconcile => reconcile::reconcile(context),
            Verb::Network(command) => network::run(context, &command),
        }
    }
}

/// Whether these arguments, which could not be parsed, are those of a verb that passes a program's code on.
pub fn verb_passes_code_on(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    if !matches!(words.next(), Some("container" | "c")) {
        return false;
    }
    while let Some(word) = words.next() {
        match word {
            "--data" | "--run" => {
                words.next();
            }
            "run" | "exec" | "attach" => return true,
            flag if flag.starts_with('-') => {}
            _ => return false,
        }
    }
    false
}

/// Gives `jdos container --help` its groups of verbs: clap itself knows groups of flags only.
pub fn group_verbs(command: clap::Command) -> clap::Command {
    command.mut_subcommand("container", |container| {
        let mut text = String::new();
        for (group, verbs) in GROUPS {
            text.push_str(&format!("{group}:\n"));
            for verb in verbs {
                let Some(found) = container.find_subcommand(verb) else { continue };
                let about = found.get_about().map(ToString::to_string).unwrap_or_default();
                text.push_str(&format!("  {verb:<10} {about}\n"));
            }
            text.push('\n');
        }
        container
            .help_template(format!(
                "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{text}Flags:\n{{options}}\n\n{EXIT_CODES}\n"
            ))
            .override_usage("jdos container [FLAGS] VERB …")
    })
}

impl Context<'_, '_, '_> {
    /// The container that the user means.
    ///
    /// # Errors
    /// Not found, with the closest name there is.
    pub fn find(&self, reference: &str) -> Result<ContainerId> {
        self.engine.find(reference).map_err(|error| {
            if error.kind() != ErrorKind::NotFound {
                return Failure::from_engine(&error);
            }
            let failure = Failure::new(Code::NOT_FOUND, format!("there is no container `{reference}`"));
            // The failure at hand counts; that no name can be suggested does not.
            let names: Vec<String> = self
                .engine
                .list()
                .map(|all| all.into_iter().map(|container| container.name.to_string()).collect())
                .unwrap_or_default();
            let failure = match closest(reference, names.iter().map(String::as_str)) {
                Some(name) => failure.why(format!("did you mean `{name}`?")),
                None => failure,
            };
            failure.next("jdos container ps -a")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_verb_is_in_a_group_and_every_group_names_verbs() {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            _command: ContainerCommand,
        }
        let command = Only::command();
        let mut known: Vec<_> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
        let mut grouped: Vec<_> = GROUPS.iter().flat_map(|(_, verbs)| verbs.iter().map(|v| (*v).to_owned())).collect();
        known.sort();
        grouped.sort();
        assert_eq!(known, grouped);
    }

    #[test]
    fn verbs_that_pass_codes_on_are_told_from_words_alone() {
        let passes = |line: &str| verb_passes_code_on(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(passes("jdos container run --bad"));
        assert!(passes("jdos c --data run exec x"));
        assert!(!passes("jdos container --data run ps"));
        assert!(!passes("jdos container create run"));
        assert!(!passes("jdos completion run"));
    }
}
