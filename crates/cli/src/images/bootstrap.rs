//! `bootstrap`: base images from the Debian mirror of this machine.

use super::{Context, find, keep, progress::watch};
use crate::{
    failure::{Code, Failure, Result},
    human,
    table::Table,
};
use clap::Args;
use images::{
    Lease, Owner, Progress, Store,
    bootstrap::{
        self, BootstrapError, Built, Mirrors, Package, Plan, PlannedPackage, RECIPES, Recipe, Request, Suite, Watch,
    },
    store::digest_in,
};
use model::image::{ImageName, Tag};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// `bootstrap`
#[derive(Args, Debug)]
#[command(after_help = help())]
pub struct BootstrapArguments {
    /// What to make, and from which release of Debian [default of SUITE: trixie]
    #[arg(value_name = "NAME[:SUITE]")]
    recipe: String,
    /// Install this package as well, or this version of it
    #[arg(short, long = "package", value_name = "PACKAGE[=VERSION]")]
    packages: Vec<Package>,
    /// Name the image so
    #[arg(short, long, value_name = "IMAGE")]
    tag: Option<String>,
    /// Take packages from here, not from the mirror that apt uses on this machine
    #[arg(long, value_name = "URI")]
    mirror: Option<String>,
    /// Take security updates from here
    #[arg(long, value_name = "URI", requires = "mirror")]
    security_mirror: Option<String>,
    /// Only show which packages it would be
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not show how it comes along
    #[arg(short, long)]
    quiet: bool,
}

fn help() -> String {
    let width = RECIPES.iter().map(|recipe| recipe.name.len()).max().unwrap_or(0);
    let lines = RECIPES.iter().map(|recipe| format!("  {:width$}  {}\n", recipe.name, recipe.about));
    format!(
        "Names:\n{}\nThe same packages give the same image, byte for byte; when it is there, nothing is made.",
        lines.collect::<String>()
    )
}

/// What is printed for a program.
#[derive(Serialize)]
struct Document {
    name: ImageName,
    /// Absent when nothing was to be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<model::image::Digest>,
    key: String,
    /// Whether an image had to be made; absent in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    made: Option<bool>,
    /// An image with this key that was there before.
    found: Option<ImageName>,
    suite: String,
    version: Option<String>,
    architecture: String,
    packages: Vec<PlannedPackage>,
    warnings: Vec<String>,
}

/// Makes an image, or says what it would be.
pub fn bootstrap(context: &mut Context<'_, '_, '_>, arguments: &BootstrapArguments) -> Result<Code> {
    let (request, name) = request(arguments)?;
    let store = context.store()?;
    context.printer.quiet |= arguments.quiet;
    let stop = stop_flag()?;
    let wanted = !arguments.dry_run;
    if wanted {
        keep::make_room(context.printer, &store);
    }
    let done = watch(context.printer, |progress| make(&store, request, &name, wanted, &*progress, &stop));
    let (document, built) = done.map_err(|error| Failure::from_bootstrap(&error))?;
    if wanted {
        keep::make_room(context.printer, &store);
    }
    if !context.printer.json {
        context.printer.warnings(&document.warnings);
    }
    context.printer.result(&document, || match &built {
        Some(built) if built.made => format!("{name} {}\n", built.target.digest()),
        Some(built) => format!("{name} {} (was there)\n", built.target.digest()),
        None => render(&document),
    })?;
    Ok(Code::DONE)
}

fn request(arguments: &BootstrapArguments) -> Result<(Request, ImageName)> {
    let (name, suite) = match arguments.recipe.split_once(':') {
        Some((name, suite)) => (name, suite.parse().map_err(usage)?),
        None => (arguments.recipe.as_str(), Suite::default()),
    };
    let recipe = Recipe::named(name).ok_or_else(|| {
        let known: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
        let failure = Failure::new(Code::USAGE, format!("there is no recipe `{name}`"));
        let failure = match crate::closest::closest(name, known.iter().copied()) {
            Some(near) => failure.why(format!("did you mean `{near}`?")),
            None => failure,
        };
        failure.why(format!("there are {}", known.join(", "))).next("jdos image bootstrap --help")
    })?;
    let image = match &arguments.tag {
        Some(text) => find::parse(text)?,
        None => find::parse(&format!("{}:{suite}", recipe.name))?,
    };
    if image.digest.is_some() {
        return Err(Failure::new(Code::USAGE, format!("--tag `{image}` has a digest, which is not ours to choose")));
    }
    let tag = suite.as_str().parse::<Tag>().ok();
    let image = ImageName { tag: image.tag.or(tag), ..image };
    let mirrors = match &arguments.mirror {
        Some(uri) => Mirrors::new(uri, arguments.security_mirror.as_deref()),
        None => Mirrors::of_this_host(),
    };
    let mirrors = mirrors.map_err(|error| Failure::from_bootstrap(&error))?;
    let packages = arguments.packages.iter().cloned().collect();
    Ok((Request { recipe, suite, packages, mirrors }, image))
}

fn usage(error: impl std::error::Error) -> Failure {
    Failure::new(Code::USAGE, error.to_string()).next("jdos image bootstrap --help")
}

fn make(
    store: &Store,
    request: Request,
    name: &ImageName,
    wanted: bool,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> std::result::Result<(Document, Option<Built>), BootstrapError> {
    let watch = Watch { progress, stop };
    let plan = bootstrap::plan(store, request, watch)?;
    let mut document = Document::of(&plan, name);
    if !wanted {
        return Ok((document, None));
    }
    let lease: Lease = store.lease(Owner::Process)?;
    let built = plan.build(store, &lease, watch)?;
    if stop.load(Ordering::Relaxed) {
        return Err(BootstrapError::Stopped);
    }
    store.tag(name, &built.target)?;
    document.digest = Some(digest_in(&built.target)?);
    document.made = Some(built.made);
    Ok((document, Some(built)))
}

impl Document {
    fn of(plan: &Plan, name: &ImageName) -> Self {
        let (codename, version) = plan.release();
        Self {
            name: name.clone(),
            digest: None,
            key: plan.key().to_string(),
            made: None,
            found: plan.found().map(|image| image.name.clone()),
            suite: codename.to_owned(),
            version: version.map(str::to_owned),
            architecture: plan.architecture().to_owned(),
            packages: plan.packages(),
            warnings: plan.warnings().to_vec(),
        }
    }
}

fn render(document: &Document) -> String {
    let mut table = Table::new(&["PACKAGE", "VERSION", "FETCHED", "INSTALLED"]);
    for package in &document.packages {
        table.row([
            package.name.clone(),
            package.version.clone(),
            human::size(package.size),
            human::size(package.installed),
        ]);
    }
    let (fetched, installed) = document
        .packages
        .iter()
        .fold((0, 0), |(fetched, installed), package| (fetched + package.size, installed + package.installed));
    let there = match &document.found {
        Some(name) => format!("; it is there as {name}"),
        None => String::new(),
    };
    format!(
        "{}\n{} would be {} packages of {} {} for {}: {} to fetch, {} installed{there}\nkey {}\n",
        table.render(),
        document.name,
        document.packages.len(),
        document.suite,
        document.version.as_deref().unwrap_or_default(),
        document.architecture,
        human::size(fetched),
        human::size(installed),
        document.key
    )
}

/// Becomes true when somebody wants this process to end: what it started is then ended first, and its files removed.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone())
            .map_err(|error| Failure::from_error("cannot catch signals", &error))?;
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(recipe: &str, tag: Option<&str>) -> BootstrapArguments {
        BootstrapArguments {
            recipe: recipe.to_owned(),
            packages: Vec::new(),
            tag: tag.map(str::to_owned),
            mirror: Some("http://mirror.test/debian".to_owned()),
            security_mirror: None,
            dry_run: false,
            quiet: false,
        }
    }

    #[test]
    fn names_of_recipes_and_images() {
        let name = |recipe: &str, tag: Option<&str>| request(&arguments(recipe, tag)).unwrap().1.to_string();
        assert_eq!(name("debian", None), "debian:trixie");
        assert_eq!(name("jdk:forky", None), "jdk:forky");
        assert_eq!(name("cc", Some("registry.test/tools/cc")), "registry.test/tools/cc:trixie");
        assert_eq!(name("cc", Some("tools:1")), "tools:1");
        let failure = request(&arguments("pyton", None)).unwrap_err();
        assert_eq!((failure.code, failure.why[0].as_str()), (Code::USAGE, "did you mean `python`?"));
        assert_eq!(request(&arguments("cc:Trixie", None)).unwrap_err().code, Code::USAGE);
        let digest = format!("x@sha256:{}", "a".repeat(64));
        assert_eq!(request(&arguments("cc", Some(&digest))).unwrap_err().code, Code::USAGE);
    }
}
