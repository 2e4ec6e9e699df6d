//! `bench`: ours and theirs in one run, interleaved, so that both meet the same machine in the same mood.
//!
//! Every figure is a median; lower is better everywhere, a throughput is told as the time the work takes. A goal is the
//! largest ratio ours/peer that keeps the promise; where the promise is an absolute bound, the bound is the peer.

mod bundle;
mod container;
mod images;
mod report;
pub mod runner;
mod subject;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::output;
use crate::workspace::Workspace;

/// What to measure, and how often.
#[derive(Args)]
pub struct Options {
    /// The benchmark
    #[arg(value_enum)]
    name: Name,
    /// Rounds of the short works; the long ones take a fraction of it
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Print the result as JSON and leave docs/benchmarks.md alone
    #[arg(long)]
    json: bool,
    /// Measure this binary instead of building one
    #[arg(long, value_name = "FILE")]
    ours: Option<PathBuf>,
    /// Only works whose name contains this word; docs/benchmarks.md is left alone
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Starting, watching and adopting containers, against crun, runc and podman
    Container,
    /// Unpacking images and serving them, against tar and distribution's registry
    Images,
}

impl Options {
    /// Whether a work of this name is to be measured.
    fn wants(&self, work: &str) -> bool {
        self.only.as_deref().is_none_or(|word| work.contains(word))
    }
}

/// Measures, prints, and refreshes the section of the documentation.
///
/// # Errors
/// A peer cannot be installed, or a run fails.
pub fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::read()?;
    let report = match options.name {
        Name::Container => output::step("bench container", || container::run(&workspace, options))?,
        Name::Images => output::step("bench images", || images::run(&workspace, options))?,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.rows)?);
        return Ok(());
    }
    println!("{}", report.table());
    if options.only.is_none() {
        report.refresh(&workspace.root().join("docs/benchmarks.md"))?;
    }
    Ok(())
}
