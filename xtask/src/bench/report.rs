//! The result of a benchmark: rows, a table, a section of the documentation.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One figure of ours beside one of a peer's.
#[derive(Serialize, Debug)]
pub struct Row {
    /// What is done.
    pub work: String,
    /// Our median.
    pub ours: f64,
    /// The peer's median, or the bound.
    pub peer: f64,
    /// Who, with how it was run; `bound` for an absolute promise.
    pub peer_name: String,
    /// Of both figures.
    pub unit: &'static str,
    /// ours / peer.
    pub ratio: f64,
    /// Largest ratio that keeps the promise; none where nothing is promised.
    pub goal: Option<f64>,
    /// Whether the promise is kept; true where there is none.
    pub meets: bool,
}

impl Row {
    /// A row, its ratio and verdict worked out.
    pub fn new(work: &str, (ours, peer): (f64, f64), peer_name: &str, unit: &'static str, goal: Option<f64>) -> Self {
        let ratio = ours / peer;
        // A figure that could not be had is not a number, and meets nothing.
        let meets = goal.map_or(ratio.is_finite(), |goal| ratio <= goal);
        Self { work: work.to_owned(), ours, peer, peer_name: peer_name.to_owned(), unit, ratio, goal, meets }
    }
}

/// All rows of a benchmark, and under what conditions they came about.
pub struct Report {
    /// Name of the benchmark, which is the name of the section.
    pub name: &'static str,
    /// The figures.
    pub rows: Vec<Row>,
    /// Versions, machine, number of rounds: one sentence each.
    pub conditions: Vec<String>,
}

impl Report {
    /// The rows as a Markdown table, aligned to be read as it is.
    pub fn table(&self) -> String {
        let mut cells = vec![["work", "ours", "peer", "", "ratio", "goal", "meets"].map(str::to_owned)];
        cells.extend(self.rows.iter().map(|row| {
            [
                row.work.clone(),
                format!("{} {}", figure(row.ours), row.unit),
                format!("{} {}", figure(row.peer), row.unit),
                row.peer_name.clone(),
                format!("{:.2}", row.ratio),
                row.goal.map_or_else(|| "—".to_owned(), |goal| format!("≤ {goal}")),
                if row.meets { "yes" } else { "**no**" }.to_owned(),
            ]
        }));
        let widths: [usize; 7] =
            std::array::from_fn(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
        let mut text = String::new();
        for (index, row) in cells.iter().enumerate() {
            let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            // Writing to a string cannot fail.
            _ = writeln!(text, "| {} |", padded.collect::<Vec<_>>().join(" | "));
            if index == 0 {
                _ = writeln!(text, "|-{}-|", widths.map(|width| "-".repeat(width)).join("-|-"));
            }
        }
        text
    }

    /// Puts the section into the file: in the place of its older self, or at the end.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn refresh(&self, path: &Path) -> Result<()> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                "# Benchmarks\n\nMedians, ours and theirs interleaved in one run on one machine; lower is better. Absolute figures vary with the\n\
                 machine: read the ratios.\n"
                    .to_owned()
            }
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let partial = path.with_extension("partial");
        fs::write(&partial, self.insert(&text)).with_context(|| format!("cannot write {}", partial.display()))?;
        fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
    }

    fn insert(&self, text: &str) -> String {
        let (begin, end) = (format!("<!-- bench {} -->", self.name), format!("<!-- end {} -->", self.name));
        let conditions: String = self.conditions.iter().map(|line| format!("- {line}\n")).collect();
        let section = format!("{begin}\n{}\n{conditions}{end}", self.table());
        match (text.find(&begin), text.find(&end)) {
            (Some(from), Some(to)) if from < to => {
                format!("{}{section}{}", &text[..from], &text[to + end.len()..])
            }
            _ => format!("{}\n\n## {}\n\n{section}\n", text.trim_end(), self.name),
        }
    }
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle of the values; not a number when there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Row, median};

    fn report(ours: f64) -> Report {
        let rows = vec![
            Row::new("start", (ours, 20.0), "runc", "ms", Some(0.3)),
            Row::new("idle", (1.0, 2.0), "x", "kB", None),
        ];
        Report { name: "container", rows, conditions: vec!["two cores".to_owned()] }
    }

    #[test]
    fn ratios_and_verdicts() {
        let rows = report(5.0).rows;
        assert!(rows[0].meets && rows[1].meets && (rows[0].ratio - 0.25).abs() < 1e-9);
        assert!(!report(7.0).rows[0].meets);
        assert!(!Row::new("gone", (f64::NAN, 1.0), "x", "ms", Some(1.0)).meets);
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9 && (median(&[1.0, 2.0]) - 1.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_section_is_replaced_and_the_rest_kept() {
        let first = report(5.0).insert("# Benchmarks\n");
        assert!(first.contains("| start | 5.00 ms | 20.0 ms | runc | 0.25  | ≤ 0.3 | yes   |"), "{first}");
        let second = report(7.0).insert(&format!("{first}\n## other\n"));
        assert!(second.contains("**no**") && !second.contains("0.25") && second.ends_with("## other\n"), "{second}");
        assert_eq!(second.matches("<!-- bench container -->").count(), 1);
    }
}
