//! Images: unpacking against `tar`, and our registry against distribution's.
//!
//! The base is a real one, made by `jdos image bootstrap`; `tar` gets the very same layers. Both registries keep their
//! blobs on the same disk and are asked by one client, whose own processor time does not count.

mod http;
mod lab;
mod layout;
mod registry;
mod server;
mod unpack;

use anyhow::{Context, Result};

use super::Options;
use super::report::{Report, Row};
use crate::output;
use crate::workspace::Workspace;
use lab::Lab;

/// Takes all figures.
///
/// # Errors
/// A peer cannot be had, or a run fails.
pub fn run(workspace: &Workspace, options: &Options) -> Result<Report> {
    let lab = output::step("prepare the images and the peers", || Lab::new(workspace, options.ours.as_deref()))?;
    let rows = measure(&lab, options);
    // Also after a failure: control groups and two hundred megabytes a piece are not to be left.
    lab.clear()?;
    let rows = rows?;
    let mut conditions = lab.conditions()?;
    conditions.push(format!("{} rounds: `cargo xtask bench images --rounds {}`", options.rounds, options.rounds));
    Ok(Report { name: "images", rows, conditions })
}

fn measure(lab: &Lab, options: &Options) -> Result<Vec<Row>> {
    let works: [(&str, Work); 2] = [("unpack", unpack::measure), ("registry", registry::measure)];
    let mut rows = Vec::new();
    for (name, work) in works.into_iter().filter(|(name, _)| options.wants(name)) {
        rows.extend(output::step(name, || work(lab, options.rounds)).with_context(|| format!("measuring: {name}"))?);
    }
    Ok(rows)
}

/// One work: rounds in, rows out.
type Work = fn(&Lab, u32) -> Result<Vec<Row>>;
