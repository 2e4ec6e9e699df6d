//! `stats`: use of processor, memory, processes and disk.
//!
//! Use of the processor is a difference: two readings are taken. The only file that looks into [`Stats`].

use super::{Context, change::advise};
use crate::{
    failure::{Code, Failure, Result},
    human,
    table::Table,
};
use clap::{Args, ValueEnum};
use container::{cgroup::Stats, engine::Status};
use model::ContainerId;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

/// `stats`
#[derive(Args, Debug)]
pub struct StatsArguments {
    /// Names, ids or beginnings of ids [default: all that run]
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Print one reading and end; as do a pipe and --json
    #[arg(long)]
    no_stream: bool,
    /// Seconds between readings
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// How to print it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// One container's row.
#[derive(Debug, Serialize)]
struct Row {
    id: ContainerId,
    name: String,
    /// 100 is one core in full; absent without two readings.
    cpu_percent: Option<f64>,
    #[serde(flatten)]
    stats: Stats,
}

/// Between the two readings of a single answer. The machine's clock of processor time ticks every 10 ms.
const FIRST: Duration = Duration::from_millis(500);

/// Prints use, again and again on a terminal.
pub fn stats(context: &mut Context<'_, '_, '_>, arguments: &StatsArguments) -> Result<Code> {
    let once = arguments.no_stream || !context.printer.live() || arguments.format == Format::Json;
    let json = context.printer.json || arguments.format == Format::Json;
    let named = arguments.containers.iter().map(|name| context.find(name)).collect::<Result<Vec<_>>>()?;
    let mut before = BTreeMap::new();
    read(context, arguments, &named, true)?.into_iter().for_each(|row| {
        before.insert(row.id, row.stats);
    });
    let mut pause = FIRST;
    loop {
        let next = Instant::now() + pause;
        if !before.is_empty() || !once {
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let mut rows = read(context, arguments, &named, false)?;
        if rows.is_empty() && !named.is_empty() && !once {
            return Ok(Code::DONE); // all that was to be watched has ended
        }
        for row in &mut rows {
            row.cpu_percent = before.get(&row.id).and_then(|earlier| row.stats.cpu_percent_since(earlier));
        }
        if json {
            context.printer.document(&rows)?;
        } else {
            if !once {
                context.printer.text("\x1b[H\x1b[2J")?;
            }
            context.printer.text(&table(&rows))?;
        }
        context.printer.flush()?;
        if once {
            return Ok(Code::DONE);
        }
        before = rows.into_iter().map(|row| (row.id, row.stats)).collect();
        pause = Duration::from_secs(arguments.interval);
    }
}

/// One reading of each container that is named, or of each that runs. At first what is named has to run; later it may
/// have ended, and is left out.
fn read(
    context: &Context<'_, '_, '_>,
    arguments: &StatsArguments,
    named: &[ContainerId],
    first: bool,
) -> Result<Vec<Row>> {
    let all = context.engine.list().map_err(|error| Failure::from_engine(&error))?;
    let mut rows = Vec::new();
    for container in all {
        let position = named.iter().position(|id| *id == container.id);
        let runs = matches!(container.status, Status::Running | Status::Paused);
        if position.is_none() && (!named.is_empty() || !runs) {
            continue;
        }
        match context.engine.stats(&container.id) {
            Ok(stats) => {
                rows.push(Row { id: container.id, name: container.name.to_string(), cpu_percent: None, stats });
            }
            // It ended between two readings, or between the list and the reading: its groups may be gone already.
            Err(_) if !(first && position.is_some()) && has_ended(context, &container.id) => {}
            Err(error) => {
                let name = position.and_then(|position| arguments.containers.get(position));
                return Err(advise(&error, "stats", name.map_or(container.name.as_str(), |name| name)));
            }
        }
    }
    Ok(rows)
}

fn has_ended(context: &Context<'_, '_, '_>, id: &ContainerId) -> bool {
    !context.engine.inspect(id).is_ok_and(|now| matches!(now.status, Status::Running | Status::Paused))
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(&["NAME", "ID", "CPU", "MEMORY", "LIMIT", "USED", "PIDS", "READ", "WRITTEN"]);
    for row in rows {
        let Row { stats, .. } = row;
        let memory = stats.memory;
        let limit = memory.and_then(|memory| memory.limit);
        // A hundredth of a percent of a size fits.
        #[allow(clippy::cast_precision_loss)]
        let used = memory
            .zip(limit)
            .filter(|(_, limit)| *limit > 0)
            .map(|(memory, limit)| format!("{:.1}%", memory.working_set as f64 * 100.0 / limit as f64));
        let pids = stats.pids.map(|pids| match pids.limit {
            Some(limit) => format!("{}/{limit}", pids.current),
            None => pids.current.to_string(),
        });
        table.row([
            row.name.clone(),
            row.id.short().to_owned(),
            row.cpu_percent.map(|percent| format!("{percent:.1}%")).unwrap_or_default(),
            memory.map(|memory| human::size(memory.working_set)).unwrap_or_default(),
            limit.map(human::size).unwrap_or_default(),
            used.unwrap_or_default(),
            pids.unwrap_or_default(),
            stats.io.map(|io| human::size(io.read_bytes)).unwrap_or_default(),
            stats.io.map(|io| human::size(io.write_bytes)).unwrap_or_default(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use container::cgroup::{Io, Memory, Pids};

    #[test]
    fn what_is_not_counted_is_a_dash() {
        let id = ContainerId::from_random([0xab; 16]);
        let taken = "2026-02-01T12:00:00Z".parse().unwrap();
        let none = Stats { taken, cpu: None, host_cpu: Default::default(), memory: None, pids: None, io: None };
        let full = Stats {
            memory: Some(Memory { limit: Some(64 << 20), working_set: 16 << 20, ..Memory::default() }),
            pids: Some(Pids { current: 3, limit: Some(100) }),
            io: Some(Io { read_bytes: 1536, ..Io::default() }),
            ..none.clone()
        };
        let row = |name: &str, cpu_percent, stats| Row { id: id.clone(), name: name.to_owned(), cpu_percent, stats };
        assert_eq!(
            table(&[row("web", Some(12.34), full), row("bare", None, none)]),
            "\
NAME  ID            CPU    MEMORY  LIMIT  USED   PIDS   READ    WRITTEN
web   abababababab  12.3%  16MiB   64MiB  25.0%  3/100  1.5KiB  0B
bare  abababababab  -      -       -      -      -      -       -
"
        );
    }
}
