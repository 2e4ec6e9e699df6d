//! Images between clients and a registry, all of them killed at random while collections run: what was acknowledged is
//! there and whole, and nothing is left over. `JDOS_KILL_ROUNDS` makes it longer.

use super::ground::{Random, rounds, until};
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tempfile::TempDir;

const PUSHERS: usize = 4;
const PULLERS: usize = 4;
/// Tags of each that pushes.
const TAGS: usize = 3;
const LAYERS: usize = 10;
const IMAGES: usize = 12;

/// A process that may be killed at any moment, by whoever likes to.
#[derive(Default)]
struct Slot(Mutex<Option<Child>>);

impl Slot {
    /// Runs to the end, whatever that is; whether it succeeded.
    fn run(&self, command: &mut Command) -> bool {
        *self.0.lock().unwrap() = Some(command.spawn().unwrap());
        loop {
            let mut slot = self.0.lock().unwrap();
            if let Some(status) = slot.as_mut().unwrap().try_wait().unwrap() {
                slot.take();
                return status.success();
            }
            drop(slot);
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn kill(&self) {
        if let Some(child) = &mut *self.0.lock().unwrap() {
            child.kill().unwrap();
        }
    }
}

/// What a tag may stand for: the last content that was acknowledged, and what was tried since.
#[derive(Default, Clone)]
struct Tag {
    acknowledged: bool,
    allowed: BTreeSet<String>,
}

struct Place {
    folder: TempDir,
    port: u16,
    images: Vec<(String, String)>,
    tags: Mutex<Vec<Tag>>,
    pushed: AtomicUsize,
    pulled: AtomicUsize,
    stop: AtomicBool,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("jdos-survival-").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut place = Self {
            folder,
            port,
            images: Vec::new(),
            tags: Mutex::new(vec![Tag::default(); PUSHERS * TAGS]),
            pushed: AtomicUsize::new(0),
            pulled: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        };
        place.images = (0..IMAGES).map(|number| place.make(number)).collect();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An image of two layers that it shares with others, in the folder of those who push; its name and digest.
    fn make(&self, number: usize) -> (String, String) {
        let folder = self.path("making");
        fs::create_dir_all(&folder).unwrap();
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in [number % LAYERS, (number * 3 + 1) % LAYERS] {
            let tar = folder.join(format!("{layer}.tar"));
            if !tar.exists() {
                let tree = folder.join(format!("tree-{layer}"));
                fs::create_dir_all(&tree).unwrap();
                let mut noise = vec![0; 300_000 + 1000 * layer];
                File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
                fs::write(tree.join(format!("file-{layer}")), noise).unwrap();
                let (tree, tar) = (tree.to_str().unwrap(), tar.to_str().unwrap());
                output(Command::new("tar").args(["-C", tree, "-cf", tar, "."]));
            }
            diff_ids.push(format!("sha256:{}", &output(Command::new("sha256sum").arg(&tar))[..64]));
            layers.push(format!("{layer}.tar"));
        }
        let name = format!("made:{number}");
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64", "config": { "Labels": { "number": number.to_string() } },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": layers }]);
        fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
        let archive = self.path("archive.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&folder).arg("-cf").arg(&archive).args(["manifest.json", "config.json"]).args(&layers);
        output(&mut tar);
        output(self.image("pushers", &["import", "--quiet", archive.to_str().unwrap()]).stderr(Stdio::piped()));
        let listed = output(&mut self.image("pushers", &["inspect", &name]));
        let all: serde_json::Value = serde_json::from_str(&listed).unwrap();
        (name, all[0]["digest"].as_str().unwrap().to_owned())
    }

    /// A verb of `jdos image` on one of the data folders.
    fn image(&self, data: &str, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
        command.arg("image").arg("--data").arg(self.path(data)).args(words);
        command.env("DOCKER_CONFIG", self.path("docker")).stdin(Stdio::null()).stdout(Stdio::null());
        let errors = OpenOptions::new().append(true).create(true).open(self.path("errors")).unwrap();
        command.stderr(errors);
        command
    }

    fn serve(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
        let address = format!("127.0.0.1:{}", self.port);
        command.args(["registry", "serve", "--open", "--listen", &address, "--data"]).arg(self.path("registry"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(self.path("serve.log")).unwrap());
        command
    }

    fn name(&self, tag: usize) -> String {
        format!("127.0.0.1:{}/kept/app:t{tag}", self.port)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn push(&self, slot: &Slot, mut random: Random, pusher: usize) {
        while !self.stopped() {
            let tag = pusher * TAGS + random.below(TAGS);
            let (image, digest) = &self.images[random.below(IMAGES)];
            // Intent first: killed in between, either is right.
            self.tags.lock().unwrap()[tag].allowed.insert(digest.clone());
            if slot.run(&mut self.image("pushers", &["push", "--plain-http", "--quiet", image, &self.name(tag)])) {
                self.tags.lock().unwrap()[tag] = Tag { acknowledged: true, allowed: [digest.clone()].into() };
                self.pushed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn pull(&self, slot: &Slot, mut random: Random) {
        while !self.stopped() {
            let name = self.name(random.below(PUSHERS * TAGS));
            if slot.run(&mut self.image("pullers", &["pull", "--plain-http", "--quiet", &name])) {
                self.pulled.fetch_add(1, Ordering::Relaxed);
            }
            if random.below(3) == 0 {
                slot.run(&mut self.image("pullers", &["rm", "--ignore", &name]));
            }
        }
    }

    fn collect(&self, slot: &Slot) {
        for data in ["registry", "pullers", "pushers"].into_iter().cycle().take_while(|_| !self.stopped()) {
            slot.run(&mut self.image(data, &["prune", "--grace", "0s"]));
        }
    }

    /// The digest that a tag stands for at the registry.
    fn digest(&self, tag: usize) -> Option<String> {
        until("the registry to answer", || self.head(tag).map_err(|error| error.to_string()))
    }

    fn head(&self, tag: usize) -> std::io::Result<Option<String>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let accept = "application/vnd.oci.image.manifest.v1+json";
        write!(
            stream,
            "HEAD /v2/kept/app/manifests/t{tag} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        if text.starts_with("HTTP/1.1 404 ") {
            return Ok(None);
        }
        let found = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("docker-content-digest").then(|| value.trim().to_owned())
        });
        found.map(Some).ok_or_else(|| std::io::Error::other(text))
    }

    /// Every tag stands for what was acknowledged or tried since.
    fn check(&self, round: usize) {
        for tag in 0..PUSHERS * TAGS {
            let before = self.tags.lock().unwrap()[tag].clone();
            let found = self.digest(tag);
            let after = self.tags.lock().unwrap()[tag].clone();
            match found {
                Some(digest) => {
                    let right = before.allowed.contains(&digest) || after.allowed.contains(&digest);
                    assert!(right, "round {round}: t{tag} is {digest}, not of {:?}", after.allowed);
                }
                None => assert!(!before.acknowledged, "round {round}: t{tag} is lost"),
            }
        }
    }

    /// Every tag can be brought away and is whole.
    fn check_content(&self, round: usize) {
        let data = format!("checked-{round}");
        for tag in 0..PUSHERS * TAGS {
            if self.tags.lock().unwrap()[tag].acknowledged {
                let mut pull = self.image(&data, &["pull", "--plain-http", "--quiet", &self.name(tag)]);
                output(pull.stderr(Stdio::piped()));
            }
        }
        fs::remove_dir_all(self.path(&data)).unwrap();
    }

    fn empty(&self, data: &str, parts: &[&str]) {
        for part in parts {
            let path = self.path(data).join("images").join(part);
            let left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

/// What it printed; it must have succeeded.
fn output(command: &mut Command) -> String {
    let output = command.stdout(Stdio::piped()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// How many files are below a folder.
fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| if entry.file_type().unwrap().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

#[test]
fn images_outlive_clients_registries_and_collections_that_are_killed() {
    let wanted = std::env::var("JDOS_KILL_ROUNDS").ok().and_then(|text| text.parse().ok());
    let wanted = wanted.unwrap_or_else(|| rounds(20, 2));
    let place = Place::new();
    let (server, collector) = (Slot::default(), Slot::default());
    let clients: Vec<Slot> = (0..PUSHERS + PULLERS).map(|_| Slot::default()).collect();
    let serving = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            while serving.load(Ordering::Relaxed) {
                server.run(&mut place.serve());
            }
        });
        let mut workers = Vec::new();
        for (number, slot) in clients.iter().enumerate() {
            let (place, random) = (&place, Random(77 + number as u64));
            workers.push(scope.spawn(move || match number {
                0..PUSHERS => place.push(slot, random, number),
                _ => place.pull(slot, random),
            }));
        }
        workers.push(scope.spawn(|| place.collect(&collector)));
        // Whatever happens below, they all come to an end.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut random = Random(4711);
            for round in 0..wanted {
                for _ in 0..10 {
                    thread::sleep(Duration::from_millis(10 + random.below(90) as u64));
                    match random.below(12) {
                        0..2 => server.kill(),
                        2..4 => collector.kill(),
                        one => clients[one - 4].kill(),
                    }
                }
                place.check(round);
                if round % 10 == 9 {
                    place.check_content(round);
                }
            }
        }));
        place.stop.store(true, Ordering::Relaxed);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        let checked = done.is_ok().then(|| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                place.check(wanted);
                place.check_content(wanted);
            }))
        });
        serving.store(false, Ordering::Relaxed);
        while server.0.lock().unwrap().is_some() {
            server.kill();
            thread::sleep(Duration::from_millis(2));
        }
        for result in [Some(done), checked].into_iter().flatten() {
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let (pushed, pulled) = (place.pushed.load(Ordering::Relaxed), place.pulled.load(Ordering::Relaxed));
    println!("{wanted} rounds: {pushed} pushes and {pulled} pulls acknowledged");
    assert!(pushed >= wanted && pulled >= wanted, "they had no time: {pushed} pushes, {pulled} pulls");

    // Those who pulled keep nothing without a name; those who pushed still have everything.
    let listed = output(&mut place.image("pullers", &["ls", "-q"]));
    for name in listed.lines() {
        output(&mut place.image("pullers", &["rm", name]));
    }
    for data in ["pullers", "pushers", "registry"] {
        output(&mut place.image(data, &["prune", "--grace", "0s"]));
        place.empty(data, &["trash", "processes"]);
    }
    place.empty("pullers", &["layers"]);
    assert_eq!(files(&place.path("pullers/images/blobs")), 0);
    for (name, digest) in &place.images {
        let archive = place.path("out.tar");
        output(&mut place.image("pushers", &["export", name, "-o", archive.to_str().unwrap()]));
        let listed = output(&mut place.image("pushers", &["inspect", name]));
        assert!(listed.contains(digest), "{name}");
    }
}
