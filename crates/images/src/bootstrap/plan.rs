//! What an image would be: versions, sizes, and the key that says it all.

use super::{
    BootstrapError, Kind, Request, Suite, Watch,
    error::io,
    known,
    lists::{self, Listed, Release},
    sources::{Source, without_password},
    tool::{self, Broken, Run},
    work::Work,
};
use crate::{
    digest::digest_of,
    progress::Event,
    store::{DiskUse, Image, Store},
};
use model::image::{Algorithm, Digest};
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    fs,
    path::{Path, PathBuf},
};

/// Raised whenever the same packages would become another image.
const FORM: u32 = 2;

/// Names an image by what it is made of: the hash of a text that says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(Digest);

impl Key {
    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A package of a plan.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PlannedPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Size of its file, in bytes.
    pub size: u64,
    /// Size of what is in it, in bytes.
    pub installed: u64,
}

/// What an image would be. The folder it works in goes with it.
#[derive(Debug)]
pub struct Plan {
    pub(super) request: Request,
    pub(super) work: Work,
    pub(super) context: Context,
    pub(super) release: Release,
    /// All packages.
    pub(super) whole: Resolved,
    /// Those of the base layer, when there is a second one.
    pub(super) base: Option<Resolved>,
    found: Option<Image>,
    warnings: Vec<String>,
}

/// What all runs for one image have in common.
#[derive(Debug)]
pub(super) struct Context {
    pub architecture: String,
    pub sources: Vec<Source>,
    pub options: Vec<String>,
    /// The store's folder.
    pub folder: PathBuf,
    /// The mirror's package lists, once they are there.
    pub lists: PathBuf,
}

/// Packages with their versions.
#[derive(Debug)]
pub(super) struct Resolved {
    /// Named to mmdebstrap.
    pub wanted: Vec<String>,
    pub packages: BTreeMap<String, String>,
    pub listed: BTreeMap<String, Listed>,
    pub key: Key,
}

#[cfg(test)]
impl Resolved {
    /// These packages, wanted by nobody.
    pub fn of_packages(packages: &[(&str, &str)]) -> Self {
        let packages = packages.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect();
        Self { wanted: Vec::new(), packages, listed: BTreeMap::new(), key: Key(digest_of(Algorithm::Sha256, b"")) }
    }
}

impl Plan {
    /// The key of the image.
    pub fn key(&self) -> &Key {
        &self.whole.key
    }
    /// The image that was made here by this key, if it is there still.
    pub fn found(&self) -> Option<&Image> {
        self.found.as_ref()
    }
    /// What was asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }
    /// The release of the suite: its code name, and its version if it has one.
    pub fn release(&self) -> (&str, Option<&str>) {
        (&self.release.codename, self.release.version.as_deref())
    }
    /// Debian's name of the architecture.
    pub fn architecture(&self) -> &str {
        &self.context.architecture
    }
    /// Every package, by name.
    pub fn packages(&self) -> Vec<PlannedPackage> {
        let one = |(name, version): (&String, &String)| {
            let listed = self.whole.listed.get(name).cloned().unwrap_or_default();
            PlannedPackage {
                name: name.clone(),
                version: version.clone(),
                size: listed.size,
                installed: listed.installed,
            }
        };
        self.whole.packages.iter().map(one).collect()
    }
    /// What is not as it could be.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Refuses to begin what the disk has no room for.
    pub(super) fn check_room(&self, store: &Store) -> Result<(), BootstrapError> {
        store.check_room()?;
        let sum = |resolved: &Resolved| -> u64 {
            resolved.listed.values().map(|listed| listed.size + 2 * listed.installed).sum()
        };
        // Packages, the tree, and the archive of it; the layer itself is smaller than the packages.
        let needed = sum(&self.whole) + self.base.as_ref().map_or(0, |base| sum(base) / 2);
        let free = DiskUse::of(self.work.path())?.free;
        match needed <= free {
            true => Ok(()),
            false => Err(BootstrapError::NoRoom { path: store.folder().to_owned(), free, needed: Some(needed) }),
        }
    }
}

pub(super) fn plan(store: &Store, request: Request, watch: Watch<'_>) -> Result<Plan, BootstrapError> {
    tool::check()?;
    let work = Work::new(store)?;
    let mut context = Context {
        architecture: tool::architecture()?,
        sources: request.mirrors.sources(&request.suite),
        options: tool::fetch_options()?,
        folder: store.folder().to_owned(),
        lists: work.path().join("lists/var/lib/apt/lists"),
    };
    let wanted = request.recipe.wanted(&request.packages, request.mirrors.https());
    let base_wanted =
        super::Recipe { packages: &[], ..*request.recipe }.wanted(&Default::default(), request.mirrors.https());
    let mut warnings = Vec::new();
    let whole = loop {
        let wanted = wanted.iter().map(|package| package.as_str().to_owned()).collect();
        match context.resolve(&request, &work, wanted, "lists", watch) {
            // A suite that never had updates, or has none yet; all else that fails is an error.
            Err(BootstrapError::Suite { suite, mirror })
                if suite != request.suite.as_str() && context.sources.len() > 1 =>
            {
                context.sources.retain(|source| source.suite != suite);
                warnings.push(format!("the mirror {mirror} has no suite {suite}: the image is made without it"));
                let lists = work.path().join("lists");
                fs::remove_dir_all(&lists).map_err(io("empty", &lists))?;
            }
            resolved => break resolved?,
        }
    };
    let base = match request.recipe.kind {
        Kind::System if wanted != base_wanted => {
            let wanted = base_wanted.iter().map(|package| package.as_str().to_owned()).collect();
            Some(context.resolve(&request, &work, wanted, "base-lists", watch)?)
        }
        _ => None,
    };
    watch.progress.event(Event::Step { what: "reading package lists", done: 0, of: 0 });
    let release = lists::release(&context.lists, &request.suite)?;
    let mut plan = Plan { request, work, context, release, whole, base, found: None, warnings };
    plan.whole.listed = lists::describe(&plan.context.lists, &plan.whole.packages)?;
    plan.whole.key = plan.key_of(plan.request.recipe.name, &plan.whole);
    if let Some(mut base) = plan.base.take() {
        let of_base = |(name, listed): (&String, &Listed)| {
            base.packages.contains_key(name).then(|| (name.clone(), listed.clone()))
        };
        base.listed = plan.whole.listed.iter().filter_map(of_base).collect();
        base.key = plan.key_of("debian", &base);
        plan.base = Some(base);
    }
    plan.found = known::image(store, &plan.whole.key)?;
    Ok(plan)
}

impl Plan {
    fn key_of(&self, recipe: &str, resolved: &Resolved) -> Key {
        let text = key_text(recipe, self.request.recipe.kind, &self.context, &self.release, resolved);
        Key(digest_of(Algorithm::Sha256, text.as_bytes()))
    }
}

/// Everything that the bytes of an image depend on.
fn key_text(recipe: &str, kind: Kind, context: &Context, release: &Release, resolved: &Resolved) -> String {
    let mut text = format!(
        "form {FORM}\nrecipe {recipe} {kind:?}\nsuite {} {} {}\narchitecture {}\n",
        release.codename,
        release.version.as_deref().unwrap_or("-"),
        release.date,
        context.architecture
    );
    // Writing to a string can not fail.
    if kind == Kind::System {
        // Its own apt is told of them.
        for line in super::sources::for_image(&context.sources).unwrap_or_default().lines() {
            _ = writeln!(text, "source {line}");
        }
    }
    // What was named is marked as such in the image; the rest came along.
    for name in &resolved.wanted {
        _ = writeln!(text, "wanted {name}");
    }
    for (name, version) in &resolved.packages {
        _ = writeln!(text, "package {name}={version}");
    }
    text
}

impl Context {
    /// What mmdebstrap would install. The first time it also fetches the lists.
    fn resolve(
        &self,
        request: &Request,
        work: &Work,
        wanted: Vec<String>,
        folder: &str,
        watch: Watch<'_>,
    ) -> Result<Resolved, BootstrapError> {
        let target = work.folder(folder)?;
        let first = !self.lists.exists();
        let mut skip = "cleanup/apt/lists,check/empty".to_owned();
        if !first {
            link_files(&self.lists, &target.join("var/lib/apt/lists"))?;
            skip.push_str(",update");
        }
        let mut arguments = self.arguments(request.recipe.kind, &wanted);
        arguments.extend(["--simulate", "--format=directory", "--skip", &skip].map(str::to_owned));
        self.place(&mut arguments, &request.suite, &target);
        let mut packages = BTreeMap::new();
        let run = Run { arguments, folder: work.path(), epoch: 0, packages: 0 };
        let done = run.run(&watch, |line| packages.extend(simulated(line)))?;
        done.map_err(|broken| self.explain(broken, request, &wanted))?;
        if packages.is_empty() {
            return Err(BootstrapError::Unclear { program: "apt", what: "which packages it would install" });
        }
        let key = Key(digest_of(Algorithm::Sha256, b""));
        Ok(Resolved { wanted, packages, listed: BTreeMap::new(), key })
    }

    /// What all runs are told.
    pub fn arguments(&self, kind: Kind, wanted: &[String]) -> Vec<String> {
        let variant = match kind {
            Kind::System => "--variant=minbase",
            Kind::Files => "--variant=extract",
        };
        let mut arguments: Vec<String> = ["--verbose", "--mode=root", variant].map(str::to_owned).into();
        arguments.push(format!("--architectures={}", self.architecture));
        arguments.extend(self.options.iter().map(|option| format!("--aptopt={option}")));
        // The folder is root's alone, so apt's own user could not write there.
        arguments.push("--aptopt=APT::Sandbox::User \"root\"".to_owned());
        if kind == Kind::System {
            // What is made is packed and thrown away: nothing needs to last through a power cut.
            arguments.push("--dpkgopt=force-unsafe-io".to_owned());
        }
        if !wanted.is_empty() {
            arguments.push(format!("--include={}", wanted.join(",")));
        }
        arguments
    }

    /// Adds suite, target and sources, which come last.
    pub fn place(&self, arguments: &mut Vec<String>, suite: &Suite, target: &Path) {
        arguments.extend([suite.to_string(), target.to_string_lossy().into_owned()]);
        arguments.extend(self.sources.iter().map(Source::line));
    }

    /// What went wrong, from what apt said.
    pub fn explain(&self, broken: Broken, request: &Request, wanted: &[String]) -> BootstrapError {
        let suite = request.suite.to_string();
        let mirror = without_password(self.sources.first().map_or("", |source| &source.uri));
        let errors = broken.errors.join("\n");
        if let Some(name) = errors.lines().find_map(unknown_package) {
            let package = wanted.iter().find(|wanted| wanted.split('=').next() == Some(&name)).cloned().unwrap_or(name);
            return BootstrapError::Package { package, suite };
        }
        let missing = self.sources.iter().find(|source| {
            let repository =
                format!("The repository '{} {} Release' does not have a Release file", source.uri, source.suite);
            errors.contains(&repository)
        });
        let source = super::Said { lines: broken.errors.iter().map(|line| without_password(line)).collect() };
        let unreached =
            ["Could not resolve", "Could not connect", "Connection failed", "Temporary failure", "Failed to fetch"]
                .iter()
                .any(|words| errors.contains(words));
        let unknown_key = ["NO_PUBKEY", "is not signed", "signatures couldn't be verified", "Missing key"]
            .iter()
            .any(|words| errors.contains(words));
        if errors.contains("No space left on device")
            || broken.said.lines.iter().any(|line| line.contains("No space left"))
        {
            let free = DiskUse::of(&self.folder).map_or(0, |disk| disk.free);
            return BootstrapError::NoRoom { path: self.folder.clone(), free, needed: None };
        }
        if unknown_key {
            return BootstrapError::Signature { suite, mirror, source };
        }
        // apt also says so of a host that does not answer: then it could not fetch.
        let refused = ["Could not resolve", "Could not connect", "Connection failed", "Temporary failure"];
        if let Some(missing) = missing.filter(|_| !refused.iter().any(|words| errors.contains(words))) {
            return BootstrapError::Suite { suite: missing.suite.clone(), mirror: without_password(&missing.uri) };
        }
        if unreached {
            return BootstrapError::Unreachable { suite, mirror, source };
        }
        let together =
            ["unmet dependencies", "held broken packages", "Unable to correct problems", "pkgProblemResolver"];
        if together.iter().any(|words| errors.contains(words)) {
            return BootstrapError::Conflict { suite, packages: wanted.join(", "), source: broken.said };
        }
        broken.plain()
    }
}

/// `Inst NAME [OLD] (VERSION ARCHIVE [ARCHITECTURE])`, or the same with `Conf`.
fn simulated(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix("Inst ").or(line.strip_prefix("Conf "))?;
    let name = rest.split(' ').next()?;
    let (_, inside) = rest.split_once(" (")?;
    let version = inside.split([' ', ')']).next()?;
    Some((name.to_owned(), version.to_owned()))
}

/// The package that apt does not know.
fn unknown_package(line: &str) -> Option<String> {
    let line = line.strip_prefix("E: ")?;
    if let Some(name) = line.strip_prefix("Unable to locate package ") {
        return Some(name.trim().to_owned());
    }
    let quoted = |text: &str| text.split('\'').nth(1).map(str::to_owned);
    if line.ends_with("has no installation candidate") {
        return quoted(line);
    }
    let (_, rest) =
        line.split_once(" for ").filter(|_| line.starts_with("Version '") && line.ends_with("was not found"))?;
    quoted(rest)
}

/// Gives the files of a folder names in another one too.
fn link_files(from: &Path, to: &Path) -> Result<(), BootstrapError> {
    fs::create_dir_all(to).map_err(io("make folder", to))?;
    for entry in fs::read_dir(from).map_err(io("list", from))? {
        let entry = entry.map_err(io("list", from))?;
        // The lock and folders are of the moment.
        if entry.file_type().is_ok_and(|kind| kind.is_file()) && entry.file_name() != "lock" {
            let path = to.join(entry.file_name());
            fs::hard_link(entry.path(), &path).map_err(io("link", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
