//! Containers: the time and processor time of a start, memory of a monitor, a flooded log, adoption.
//!
//! The program in the container is a static busybox that prints a word. The bundle, with its limits and its system call
//! filter, is one and the same for all; what cannot be said by a bundle (a network, private users) uses flags.

mod lab;
mod long;

use anyhow::{Context, Result};

use super::Options;
use super::report::{Report, Row};
use super::subject::{Subject, interleave};
use crate::output;
use crate::workspace::Workspace;
use lab::{Lab, Place};

/// Containers started at once.
const CROWD: u64 = 100;

/// The name of an absolute promise in the place of a peer.
const BOUND: &str = "bound";

/// Takes all figures.
///
/// # Errors
/// A peer is missing, or a run fails.
pub fn run(workspace: &Workspace, options: &Options) -> Result<Report> {
    let lab = output::step("prepare the bundle and the peers", || Lab::new(workspace, options.ours.as_deref()))?;
    let mut rows = Vec::new();
    // Cheap and short works first: they are the ones that are looked at most.
    let works: [(&str, Work); 7] = [
        ("first output", first_output),
        ("with user namespace", users),
        ("network set-up", network),
        ("100 at once", crowd),
        ("monitor", long::monitor),
        ("log flood", long::flood),
        ("adoption", long::adoption),
    ];
    for (name, work) in works.into_iter().filter(|(name, _)| options.wants(name)) {
        rows.extend(output::step(name, || work(&lab, options.rounds)).with_context(|| format!("measuring: {name}"))?);
    }
    let mut conditions = lab.conditions()?;
    conditions.push(format!("{} rounds: `cargo xtask bench container --rounds {}`", options.rounds, options.rounds));
    lab.clear()?;
    Ok(Report { name: "container", rows, conditions })
}

/// One work: rounds in, rows out.
type Work = fn(&Lab, u32) -> Result<Vec<Row>>;

/// One start on the same bundle, everything by default.
fn first_output(lab: &Lab, rounds: u32) -> Result<Vec<Row>> {
    let mut ours =
        lab.ours("ours", |place, _| vec![place.jdos.words(&["run", "--rm", "--bundle", &place.bundle("ours")])])?;
    let mut crun = lab.crun(1)?;
    let mut runc = lab.runc(1)?;
    let mut podman = lab.podman()?;
    interleave(&mut [&mut ours, &mut crun, &mut runc], rounds)?;
    // Thirty times as long as the others: a fraction of the rounds says as much.
    interleave(&mut [&mut ours, &mut podman], (rounds / 4).max(3))?;
    let first = |subject: &Subject| subject.median(|sample| sample.first);
    let cpu = |subject: &Subject| subject.median(|sample| sample.cpu);
    let (time, work) = ("start to first output", "processor time of a whole run");
    Ok(vec![
        Row::new(time, (first(&ours), first(&crun)), "crun", "ms", Some(0.5)),
        Row::new(time, (first(&ours), first(&runc)), "runc", "ms", Some(0.3)),
        Row::new(time, (first(&ours), first(&podman)), "podman", "ms", None),
        Row::new(work, (cpu(&ours), cpu(&crun)), "crun", "ms", Some(0.7)),
        Row::new(work, (cpu(&ours), cpu(&runc)), "runc", "ms", None),
        Row::new(work, (cpu(&ours), cpu(&podman)), "podman", "ms", None),
    ])
}

/// One start with private users, against crun without.
fn users(lab: &Lab, rounds: u32) -> Result<Vec<Row>> {
    let mut ours = lab.ours("users", |place, _| {
        vec![place.flags(&["--rm", "--network", "none", "--userns", "private"], &["/bin/busybox", "echo", "ready"])]
    })?;
    let mut crun = lab.crun(1)?;
    interleave(&mut [&mut ours, &mut crun], rounds)?;
    let first = |subject: &Subject| subject.median(|sample| sample.first);
    let work = "start to first output with a user namespace";
    Ok(vec![Row::new(work, (first(&ours), first(&crun)), "crun without", "ms", Some(0.7))])
}

/// What a bridge network adds to a start.
fn network(lab: &Lab, rounds: u32) -> Result<Vec<Row>> {
    let start = |network: &'static str| {
        move |place: &Place, _: u64| {
            vec![place.flags(&["--rm", "--network", network], &["/bin/busybox", "echo", "ready"])]
        }
    };
    let mut with = lab.ours("network", start("bridge"))?;
    let mut without = lab.ours("no-network", start("none"))?;
    interleave(&mut [&mut with, &mut without], rounds)?;
    let first = |subject: &Subject| subject.median(|sample| sample.first);
    Ok(vec![Row::new("setting a network up", (first(&with) - first(&without), 5.0), BOUND, "ms", Some(1.0))])
}

/// Many starts at the same moment, ours with network, runc's without.
fn crowd(lab: &Lab, rounds: u32) -> Result<Vec<Row>> {
    let mut ours = lab.ours("crowd", |place, _| {
        let one = || place.flags(&["--rm", "--network", "bridge"], &["/bin/busybox", "echo", "ready"]);
        (0..CROWD).map(|_| one()).collect()
    })?;
    let mut runc = lab.runc(CROWD)?;
    interleave(&mut [&mut ours, &mut runc], (rounds / 8).max(3))?;
    let first = |subject: &Subject| subject.median(|sample| sample.first);
    let cpu = |subject: &Subject| subject.median(|sample| sample.cpu);
    Ok(vec![
        Row::new(
            "100 starts at once, with network",
            (first(&ours), first(&runc)),
            "runc without network",
            "ms",
            Some(0.6),
        ),
        Row::new("processor time of these", (cpu(&ours), cpu(&runc)), "runc without network", "ms", None),
    ])
}
