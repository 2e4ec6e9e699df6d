//! `layers`: dependencies between our crates point down only.
//!
//! `layers.toml` lists, for every crate of the workspace, the crates of the workspace it may depend on. A crate that is
//! not listed, an edge that is not allowed, and an entry that names no crate fail: the file is always the whole truth.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use crate::output;
use crate::workspace::{Package, Workspace};

/// What each crate may depend on, by name.
type Allowed = BTreeMap<String, BTreeSet<String>>;

/// Checks the workspace.
///
/// # Errors
/// `layers.toml` cannot be read, or an edge is not in it; the error names every one.
pub fn run() -> Result<()> {
    output::step("layers", check_workspace)
}

/// As [`run`], without saying that it begins.
///
/// # Errors
/// As [`run`].
pub fn check_workspace() -> Result<()> {
    let workspace = Workspace::read()?;
    let path = workspace.root().join("layers.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let faults = check(&parse(&text).context("layers.toml")?, &edges(workspace.packages()));
    ensure!(faults.is_empty(), "{}\n  next: remove the dependency, or allow it in layers.toml", faults.join("\n  "));
    Ok(())
}

/// The dependencies that exist, of every kind, between crates of the workspace.
fn edges(packages: &[Package]) -> Allowed {
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    packages
        .iter()
        .map(|package| {
            let inside = package.dependencies.iter().filter(|other| other.path.is_some());
            let to = inside.map(|other| other.name.clone()).filter(|name| names.contains(name.as_str()));
            (package.name.clone(), to.collect())
        })
        .collect()
}

/// One sentence for each fault.
fn check(allowed: &Allowed, found: &Allowed) -> Vec<String> {
    let mut faults = Vec::new();
    for (from, targets) in found {
        let Some(may) = allowed.get(from) else {
            faults.push(format!("{from} is not in layers.toml"));
            continue;
        };
        faults.extend(targets.difference(may).map(|to| format!("{from} must not depend on {to}")));
    }
    for (from, targets) in allowed {
        let named = std::iter::once(from).chain(targets);
        faults.extend(named.filter(|name| !found.contains_key(*name)).map(|name| {
            format!(
                "layers.toml names {name}{}, which is no crate of the workspace",
                if name == from { "" } else { " (as a dependency)" }
            )
        }));
    }
    faults
}

/// Reads the part of TOML the file uses: comments and `name = ["name", …]`, each on a line of its own. Anything else
/// is refused rather than guessed at; a TOML library for this one file would be one more dependency to keep.
fn parse(text: &str) -> Result<Allowed> {
    let mut allowed = Allowed::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (name, targets) =
            entry(line).with_context(|| format!("line {}: expected name = [\"name\", …]", index + 1))?;
        if allowed.insert(name.clone(), targets).is_some() {
            bail!("line {}: {name} is listed twice", index + 1);
        }
    }
    Ok(allowed)
}

fn entry(line: &str) -> Option<(String, BTreeSet<String>)> {
    let (name, list) = line.split_once('=')?;
    let list = list.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    let targets =
        words.map(|word| word.strip_prefix('"')?.strip_suffix('"').map(str::to_owned)).collect::<Option<_>>()?;
    let name = name.trim();
    (!name.is_empty() && !name.contains(char::is_whitespace)).then(|| (name.to_owned(), targets))
}

#[cfg(test)]
mod tests {
    use super::{check, parse};

    #[test]
    fn reads_the_file() {
        let allowed = parse("# why\nmodel = []\ncli = [\"model\", \"container\"] # verbs\n").expect("valid");
        assert!(allowed["model"].is_empty());
        assert_eq!(allowed["cli"].iter().collect::<Vec<_>>(), ["container", "model"]);
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for text in ["model", "model = \"x\"", "[layers]", "model = [x]", "a b = []", "model = [\"x\""] {
            let error = parse(&format!("\n{text}\n")).expect_err(text);
            assert!(error.to_string().starts_with("line 2:"), "{error}");
        }
        assert!(parse("a = []\na = []").expect_err("twice").to_string().contains("listed twice"));
    }

    #[test]
    fn names_every_fault() {
        let allowed = parse("model = []\ncontainer = [\"model\", \"gone\"]\nold = []").expect("valid");
        let found = parse("model = [\"container\"]\ncontainer = [\"model\"]\nnew = []").expect("valid");
        let faults = check(&allowed, &found);
        assert_eq!(
            faults,
            [
                "model must not depend on container",
                "new is not in layers.toml",
                "layers.toml names gone (as a dependency), which is no crate of the workspace",
                "layers.toml names old, which is no crate of the workspace",
            ]
        );
        assert!(check(&found, &found).is_empty());
    }
}
