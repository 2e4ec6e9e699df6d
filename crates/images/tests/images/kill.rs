//! Processes that are killed at any moment.
//!
//! Children push, pull, pack and collect in one store, without any grace, and are killed at random. After each round
//! every name that was acknowledged stands for a complete image with good bytes; in the end nothing is left over.
//! `IMAGES_KILL_ROUNDS` and `IMAGES_KILL_SEED` make it longer or repeat it.

use crate::support::*;
use images::{
    Owner, Silent, Store, StoreError,
    collect::{Options, run},
    layer::{PackOptions, UnpackError, pack},
};
use model::image::Digest;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

const NOW: Options = Options { grace: Duration::ZERO, ingest: Duration::ZERO };
const CHILDREN: u64 = 8;

/// xorshift64*: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// What the children do; started by the test below in a process of its own.
#[test]
#[ignore = "a part of `nothing_is_lost_when_processes_are_killed`"]
fn child() {
    let Ok(folder) = std::env::var("IMAGES_KILL_STORE") else { return };
    let number: u64 = std::env::var("IMAGES_KILL_CHILD").unwrap().parse().unwrap();
    let mut random = Random(std::env::var("IMAGES_KILL_SEED").unwrap().parse().unwrap());
    let folder = Path::new(&folder);
    let store = Store::open(&folder.join("images")).unwrap();
    loop {
        match number % 4 {
            0 if number == 0 => drop(run(&store, &NOW).unwrap()),
            0 | 1 => push(&store, folder, number, &mut random),
            2 => pull(&store, &mut random),
            _ => build(&store, folder, number, &mut random),
        }
    }
}

/// One of a few layers, so that images share them.
fn layer(random: &mut Random) -> Layer {
    let n = random.below(12);
    let files: Vec<_> = (0..20).map(|at| file(&format!("d{n}/f{at}"), &vec![u8::try_from(n).unwrap(); 3000])).collect();
    Layer::gzip(tar(&files))
}

fn push(store: &Store, folder: &Path, number: u64, random: &mut Random) {
    let lease = store.lease(Owner::Process).unwrap();
    let layers: Vec<Layer> = (0..=random.below(3)).map(|_| layer(random)).collect();
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for layer in &layers {
        let digest = images::digest::digest_of(model::image::Algorithm::Sha256, &layer.stored);
        // As a client does: only what is not there is sent.
        let blob = match lease.hold(&digest).unwrap() {
            Some(blob) => blob,
            None => put(&lease, &layer.stored),
        };
        blob.verify().unwrap();
        descriptors.push(images::store::describe(layer.media_type, &blob).unwrap());
        diff_ids.push(images::digest::digest_of(model::image::Algorithm::Sha256, &layer.plain).to_string());
    }
    let target = assemble(&lease, &descriptors, &diff_ids);
    let slot = random.below(4);
    let (text, kept) = match random.below(2) {
        0 => (format!("kept:{number}-{slot}"), true),
        _ => (format!("loose:{slot}"), false),
    };
    if !kept && random.below(3) == 0 {
        store.untag(&name(&text)).unwrap();
        return;
    }
    if kept {
        // Intent first: killed in between, either is right.
        note(folder, number, &format!("try {text} {}", target.digest()));
    }
    store.tag(&name(&text), &target).unwrap();
    if kept {
        note(folder, number, &format!("done {text} {}", target.digest()));
    }
}

fn note(folder: &Path, number: u64, line: &str) {
    let mut file =
        fs::OpenOptions::new().append(true).create(true).open(folder.join(format!("notes-{number}"))).unwrap();
    // One write, so that a line is there or not.
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn pull(store: &Store, random: &mut Random) {
    let images = store.images().unwrap();
    if images.is_empty() {
        return;
    }
    let image = &images[usize::try_from(random.below(images.len() as u64)).unwrap()];
    let lease = store.lease(Owner::Process).unwrap();
    match lease.hold_all(&image.digest().unwrap()) {
        Ok(()) => {}
        // The name went, and the content with it, before it was held.
        Err(StoreError::Incomplete { .. } | StoreError::Missing { .. }) => return,
        Err(error) => panic!("{error}"),
    }
    // From here on everything is there, whatever the others do.
    let (manifest, configuration) = documents(store, &image.target);
    let layers = store.unpack(&lease, &manifest, &configuration, &Silent).unwrap();
    for descriptor in manifest.layers() {
        store.need(&images::store::digest_in(descriptor).unwrap()).unwrap().verify().unwrap();
    }
    for layer in layers {
        let found: Vec<_> = fs::read_dir(&layer).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(found.len(), 1);
        assert!(!fs::read(found[0].join("f7")).or_else(|_| fs::read(found[0].join("f0"))).unwrap().is_empty());
    }
}

fn build(store: &Store, folder: &Path, number: u64, random: &mut Random) {
    let upper = folder.join(format!("upper-{number}"));
    fs::create_dir_all(upper.join("d")).unwrap();
    fs::write(upper.join("d/f0"), format!("{}", random.below(5)).repeat(5000)).unwrap();
    let lease = store.lease(Owner::Process).unwrap();
    let packed = pack(store, &lease, &upper, PackOptions::default()).unwrap();
    let target = assemble(&lease, &[packed.descriptor], &[packed.diff_id.to_string()]);
    let (manifest, configuration) = documents(store, &target);
    match store.unpack(&lease, &manifest, &configuration, &Silent) {
        Ok(_) => {}
        Err(UnpackError::Store(error)) => panic!("{}", chain(&error)),
        Err(error) => panic!("{}", chain(&error)),
    }
    let text = format!("built:{}", random.below(3));
    if random.below(4) == 0 { store.untag(&name(&text)).map(drop) } else { store.tag(&name(&text), &target) }.unwrap();
    // Left to be resumed, by nobody.
    if random.below(4) == 0 {
        let mut ingest = store.ingest().unwrap();
        ingest.write_all(&[1; 100]).unwrap();
    }
}

/// A child that does not outlive the test, also when that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(folder: &Path, number: u64, seed: u64) -> Running {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env("IMAGES_KILL_STORE", folder)
        .env("IMAGES_KILL_CHILD", number.to_string())
        .env("IMAGES_KILL_SEED", seed.max(1).to_string())
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(fs::OpenOptions::new().append(true).create(true).open(folder.join("errors")).unwrap())
        .spawn();
    Running(child.unwrap())
}

#[test]
fn nothing_is_lost_when_processes_are_killed() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let rounds: u64 = number("IMAGES_KILL_ROUNDS", 200);
    let seed: u64 = number("IMAGES_KILL_SEED", u64::from(std::process::id()));
    let (folder, store) = store();
    let folder = folder.path();
    let mut random = Random(seed | 1);
    let context =
        || format!("seed {seed}; the children say: {}", fs::read_to_string(folder.join("errors")).unwrap_or_default());
    for round in 0..rounds {
        let mut children: Vec<Running> =
            (0..CHILDREN).map(|number| start(folder, number, random.below(u64::MAX >> 34))).collect();
        // Some die early and are replaced, as clients come and go.
        for _ in 0..random.below(6) {
            std::thread::sleep(Duration::from_millis(random.below(40)));
            let at = usize::try_from(random.below(CHILDREN)).unwrap();
            end(&mut children[at], &context);
            children[at] = start(folder, at as u64, random.below(u64::MAX >> 34));
        }
        std::thread::sleep(Duration::from_millis(random.below(150)));
        for child in &mut children {
            end(child, &context);
        }
        check(&store, folder, round, &context);
    }
    // It was no idle exercise.
    let pushed = acknowledged(folder);
    let rows = "SELECT (SELECT value FROM counters WHERE name = 'epoch'), (SELECT seq FROM sqlite_sequence WHERE name = 'leases')";
    let (collections, leases): (u64, u64) = store
        .index()
        .read("count", |connection| connection.query_row(rows, (), |row| Ok((row.get(0)?, row.get(1)?))))
        .unwrap();
    println!("{rounds} rounds: {collections} collections, {leases} leases, {pushed} pushes acknowledged");
    assert!(collections > rounds && pushed > rounds, "the children had no time; {}", context());
    // Nothing but what the names need.
    for image in store.images().unwrap() {
        store.untag(&image.name).unwrap();
    }
    for _ in 0..2 {
        run(&store, &NOW).unwrap();
    }
    for part in ["ingest", "layers", "trash", "processes"] {
        let left = list(&store.folder().join(part));
        assert!(left.is_empty(), "{part}: {left:?}; {}", context());
    }
    let left = crate::support::run("find", &[store.folder().join("blobs").to_str().unwrap(), "-type", "f"]);
    assert_eq!(left, "", "{}", context());
    let rows = "SELECT (SELECT count(*) FROM blobs) + (SELECT count(*) FROM layers) + (SELECT count(*) FROM leases) + (SELECT count(*) FROM holds) + (SELECT count(*) FROM links)";
    let rows: u64 = store.index().read("count", |connection| connection.query_row(rows, (), |row| row.get(0))).unwrap();
    assert_eq!(rows, 0, "{}", context());
}

fn acknowledged(folder: &Path) -> u64 {
    let notes =
        (0..CHILDREN).map(|number| fs::read_to_string(folder.join(format!("notes-{number}"))).unwrap_or_default());
    notes.map(|notes| notes.lines().filter(|line| line.starts_with("done ")).count() as u64).sum()
}

/// Kills it; it must not have ended by itself.
fn end(Running(child): &mut Running, context: &dyn Fn() -> String) {
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "{status}; {}", context());
}

/// Every name stands for a complete image with good bytes; every acknowledged one is there.
fn check(store: &Store, folder: &Path, round: u64, context: &dyn Fn() -> String) {
    let mut checked: BTreeSet<Digest> = BTreeSet::new();
    let images = store.images().unwrap();
    let mut targets: BTreeMap<String, String> = BTreeMap::new();
    for image in &images {
        targets.insert(image.name.to_string(), image.target.digest().to_string());
        let digest = image.digest().unwrap();
        let mut needed = vec![digest];
        let (manifest, _) = store
            .resolve(&image.target, &images::store::host_platform())
            .map(|(_, manifest, configuration)| (manifest, configuration))
            .unwrap_or_else(|error| panic!("round {round}, {}: {error}; {}", image.name, context()));
        needed.extend(
            std::iter::once(manifest.config())
                .chain(manifest.layers())
                .map(|part| images::store::digest_in(part).unwrap()),
        );
        for digest in needed {
            if checked.insert(digest.clone()) {
                let verified = store.need(&digest).and_then(|blob| blob.verify());
                verified.unwrap_or_else(|error| panic!("round {round}, {}: {error}; {}", image.name, context()));
            }
        }
    }
    // The last acknowledged target of each name, and those that were tried after it.
    let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for number in 0..CHILDREN {
        let notes = fs::read_to_string(folder.join(format!("notes-{number}"))).unwrap_or_default();
        for line in notes.lines() {
            let [what, name, digest] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let targets = expected.entry(name.to_owned()).or_default();
            if what == "done" {
                targets.clear();
                targets.insert("acknowledged".to_owned());
            }
            targets.insert(digest.to_owned());
        }
    }
    for (name, allowed) in expected {
        match targets.get(&name) {
            Some(found) => assert!(allowed.contains(found), "round {round}, {name}: {found} is none of {allowed:?}"),
            None => assert!(!allowed.contains("acknowledged"), "round {round}: {name} is lost; {}", context()),
        }
    }
    // Complete layers only.
    for layer in list(&store.folder().join("layers")) {
        let path = store.folder().join("layers").join(&layer);
        assert!(layer.starts_with('.') || path.join("complete").exists(), "round {round}: {layer}");
    }
}
