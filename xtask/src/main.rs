//! Development tasks: `cargo xtask <verb>`, one file per verb.
//!
//! Knows the workspace, Debian's packages and QEMU; knows nothing of the product but its command line.

mod bench;
mod debian;
mod demo;
mod guest;
mod jdos;
mod layers;
mod output;
mod run;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of JDOS", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need (Debian 12 and 13); elsewhere, say what is missing
    Setup,
    /// Check that crates depend only on what layers.toml lets them
    Layers,
    /// Format, lints, layers, dependencies, every test on this machine, and the privileged ones again in guests
    Test(test::Options),
    /// Measure against peers, interleaved in one run, and refresh docs/benchmarks.md
    Bench(bench::Options),
    /// Run a command in a virtual machine with pure cgroup v2 and Debian's cloud kernel
    Guest(guest::verb::Options),
    /// See the product at work: three web servers in containers, called, watched and removed
    Demo(demo::Options),
    /// One subject of a benchmark, driven over standard input (started by `bench`)
    #[command(hide = true)]
    Runner(bench::runner::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Setup => setup::run(),
        Verb::Layers => layers::run(),
        Verb::Test(options) => test::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Guest(options) => guest::verb::run(&options),
        Verb::Demo(options) => demo::run(&options),
        Verb::Runner(options) => bench::runner::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
