//! Base images from the real mirror of this machine: the same twice, and nothing left of what did not come about.
//! Needs root, mmdebstrap and the mirror, as making such images does.

use images::{
    Event, Manifest, Owner, Progress, Silent, Store, StoreError,
    bootstrap::{self, BootstrapError, Built, Mirrors, Plan, Recipe, Request, Suite, Watch},
    collect,
    store::digest_in,
};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

fn request(recipe: &str) -> Request {
    Request {
        recipe: Recipe::named(recipe).unwrap(),
        suite: Suite::default(),
        packages: BTreeSet::new(),
        mirrors: Mirrors::of_this_host().unwrap(),
    }
}

fn plan(store: &Store, request: Request) -> Result<Plan, BootstrapError> {
    bootstrap::plan(store, request, Watch { progress: &Silent, stop: &AtomicBool::new(false) })
}

fn build(store: &Store, plan: Plan) -> Built {
    let lease = store.lease(Owner::Process).unwrap();
    let built = plan.build(store, &lease, Watch { progress: &Silent, stop: &AtomicBool::new(false) }).unwrap();
    store.tag(&"base:trixie".parse().unwrap(), &built.target).unwrap();
    built
}

/// Files and folders in a folder of the store.
fn left(store: &Store, folder: &str) -> usize {
    fs::read_dir(store.folder().join(folder)).map_or(0, Iterator::count)
}

#[test]
fn twice_the_same_and_then_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| Store::open(&folder.path().join(name)).unwrap();
    let (one, two) = (open("one"), open("two"));
    let first = build(&one, plan(&one, request("base")).unwrap());
    let second = build(&two, plan(&two, request("base")).unwrap());
    assert_eq!(first, second);
    assert!(first.made);
    let again = plan(&one, request("base")).unwrap();
    assert_eq!(again.found().unwrap().name.to_string(), "base:trixie");
    let third = build(&one, again);
    assert_eq!((third.made, &third.target), (false, &first.target));
    assert_eq!((left(&one, "bootstrap"), left(&one, "ingest")), (0, 0));
    // What is in it is there and right: it unpacks, with its users and certificates.
    let Manifest::Image(manifest) = one.manifest(&digest_in(&first.target).unwrap()).unwrap() else {
        panic!("a base image is an image")
    };
    let configuration = one.configuration(&manifest).unwrap();
    let lease = one.lease(Owner::Process).unwrap();
    let layers = one.unpack(&lease, &manifest, &configuration, &Silent).unwrap();
    let read = |path: &str| fs::read_to_string(layers[0].join(path)).unwrap();
    assert!(read("etc/passwd").contains("nonroot:x:65532:"));
    assert!(read("etc/ssl/certs/ca-certificates.crt").matches("BEGIN CERTIFICATE").count() > 100);
    assert!(layers[0].join("usr/share/zoneinfo/Europe/Berlin").exists());
    assert!(!layers[0].join("etc/hostname").exists());
    // And a collection keeps it.
    collect::run(&one, &collect::Options { grace: Duration::ZERO, ..collect::Options::default() }).unwrap();
    assert!(one.manifest(&digest_in(&first.target).unwrap()).is_ok());
}

/// Says stop when a step begins.
struct StopAt<'a> {
    step: &'static str,
    stop: &'a AtomicBool,
}

impl Progress for StopAt<'_> {
    fn event(&self, event: Event<'_>) {
        if matches!(event, Event::Step { what, .. } if what == self.step) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn stopped_at_any_step_it_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for step in ["fetching package lists", "downloading packages", "packing a layer"] {
        let stop = AtomicBool::new(false);
        let watch = Watch { progress: &StopAt { step, stop: &stop }, stop: &stop };
        let lease = store.lease(Owner::Process).unwrap();
        let result = bootstrap::plan(&store, request("base"), watch).and_then(|plan| plan.build(&store, &lease, watch));
        assert!(matches!(result, Err(BootstrapError::Stopped)), "{step}: {result:?}");
        assert_eq!((left(&store, "bootstrap"), left(&store, "ingest")), (0, 0), "{step}");
    }
    assert_eq!(store.images().unwrap(), []);
    assert_eq!(processes(folder.path()), Vec::<String>::new());
}

/// Processes that were started to work below a folder.
fn processes(folder: &Path) -> Vec<String> {
    let needle = folder.to_str().unwrap();
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(needle) && line.contains("mmdebstrap")).collect()
}

#[test]
fn errors_name_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut wrong = request("base");
    wrong.packages.insert("no-such-package".parse().unwrap());
    let error = plan(&store, wrong).unwrap_err();
    assert_eq!(error.to_string(), "the suite trixie has no package no-such-package");

    let mut wrong = request("debian");
    wrong.suite = "no-such-suite".parse().unwrap();
    let error = plan(&store, wrong).unwrap_err();
    assert!(matches!(&error, BootstrapError::Suite { suite, .. } if suite == "no-such-suite"), "{error}");

    let mut wrong = request("base");
    // Nobody listens on the port for discarding, and what is local is never asked of a proxy.
    wrong.mirrors = Mirrors::new("http://127.0.0.1:9/debian", None).unwrap();
    let error = plan(&store, wrong).unwrap_err();
    assert!(
        matches!(&error, BootstrapError::Unreachable { mirror, .. } if mirror.contains("127.0.0.1:9")),
        "{error:?}"
    );
    assert_eq!((left(&store, "bootstrap"), left(&store, "ingest")), (0, 0));
}

#[test]
fn a_full_disk_is_said_before_anything_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let marks = images::store::Watermarks { collect: 0, refuse: 0 };
    let store = Store::open_with(folder.path(), marks).unwrap();
    let lease = store.lease(Owner::Process).unwrap();
    let watch = Watch { progress: &Silent, stop: &AtomicBool::new(false) };
    let error = plan(&store, request("base")).unwrap().build(&store, &lease, watch).unwrap_err();
    assert!(matches!(error, BootstrapError::Store(StoreError::Full { .. })), "{error}");
    assert_eq!((left(&store, "bootstrap"), left(&store, "ingest")), (0, 0));
}
