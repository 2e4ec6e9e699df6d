//! A power cut while containers are made: what the engine had said to be done is there when the power is back.
//!
//! The data folder lies on a disk that outlives the guest. What the guest had written to the disk stays; what was only in
//! its memory is lost, at a random moment.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use super::{Builder, blank_disk};
use crate::output;
use crate::workspace::Workspace;

/// Runs one cut; `jdos` is the program.
///
/// # Errors
/// A guest does not boot or end, or something was lost or damaged: the error says what.
pub fn check(workspace: &Workspace, jdos: &Path) -> Result<()> {
    let disk = workspace.scratch("guest/power")?.join("data");
    blank_disk(&disk)?;
    let chance = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_micros());
    let (wanted, delay) = (usize::try_from(4 + chance % 5)?, Duration::from_millis(chance % 400));
    let mut seen = 0;
    let said = Builder::new(workspace, "power")?
        .executable(jdos, "/usr/bin/jdos")
        .disk(&disk)
        .command(include_str!("power-before.sh"))
        .boot()?
        .cut_when(delay, |line| {
            seen += usize::from(there(line).is_some());
            seen == wanted
        })?;
    let names: Vec<&str> = said.iter().filter_map(|line| there(line)).collect();
    output::detail(&format!(
        "power cut {} ms after {wanted} containers; made by then: {}",
        delay.as_millis(),
        names.join(" ")
    ));

    let outcome = Builder::new(workspace, "power")?
        .executable(jdos, "/usr/bin/jdos")
        .disk(&disk)
        .text("/guest/there", names.join("\n") + "\n", 0o644)
        .command(include_str!("power-after.sh"))
        .boot()?
        .wait(|_| ())?;
    ensure!(outcome.statuses == [0], "after a power cut:\n  │ {}", outcome.text.trim_end().replace('\n', "\n  │ "));
    Ok(())
}

/// The container that a line says to be there; a line that was cut short says nothing.
fn there(line: &str) -> Option<&str> {
    line.strip_prefix("there is ")?.strip_suffix('.')
}
