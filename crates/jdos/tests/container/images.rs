//! Containers from images: what an image says, what flags say against it, volumes, users, and that the layers stay.
//!
//! The registry is Debian's `docker-registry`; images get there by `skopeo`, so that nothing of ours made them.

use super::machine::{Machine, Outcome, finish};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A registry that ends with the value.
pub struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    pub fn new(machine: &Machine) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = machine.path("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            folder.display()
        );
        let file = machine.file("registry/config.yml", &config);
        let mut command = Command::new("docker-registry");
        let child = command.arg("serve").arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let registry = Self { child: child.expect("docker-registry runs: install docker-registry"), port };
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).unwrap();
    }
}

pub fn command(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An image on its way: an OCI layout that is pushed by `skopeo`.
struct Image {
    folder: PathBuf,
    layers: Vec<(Value, String)>,
}

impl Image {
    fn new(machine: &Machine, name: &str) -> Self {
        let folder = machine.path(name);
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        Self { folder, layers: Vec::new() }
    }

    fn blob(&self, path: &Path, media_type: &str) -> Value {
        let digest = command("sha256sum", &[path.to_str().unwrap()]).split(' ').next().unwrap().to_owned();
        let size = fs::metadata(path).unwrap().len();
        fs::rename(path, self.folder.join("blobs/sha256").join(&digest)).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size })
    }

    /// This folder as the next layer; `.wh.` files in it are whiteouts.
    fn layer(mut self, root: &Path) -> Self {
        let tar = self.folder.join("layer.tar");
        command("tar", &["--numeric-owner", "-C", root.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]);
        let plain = command("sha256sum", &[tar.to_str().unwrap()]).split(' ').next().unwrap().to_owned();
        command("gzip", &["-n1", tar.to_str().unwrap()]);
        let packed = self.folder.join("layer.tar.gz");
        let blob = self.blob(&packed, "application/vnd.oci.image.layer.v1.tar+gzip");
        self.layers.push((blob, format!("sha256:{plain}")));
        self
    }

    /// With this configuration, at a registry.
    fn push(self, config: &Value, name: &str) {
        let write = |file: &str, value: &Value| {
            let path = self.folder.join(file);
            fs::write(&path, serde_json::to_vec(value).unwrap()).unwrap();
            path
        };
        let diff_ids: Vec<_> = self.layers.iter().map(|(_, plain)| plain).collect();
        let whole = json!({
            "os": "linux", "architecture": "amd64", "config": config, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob(&write("config", &whole), "application/vnd.oci.image.config.v1+json");
        let layers: Vec<_> = self.layers.iter().map(|(blob, _)| blob).collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        let mut manifest = self.blob(&write("manifest", &manifest), media_type);
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "x" });
        write("index.json", &json!({ "schemaVersion": 2, "manifests": [manifest] }));
        write("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }));
        let source = format!("oci:{}:x", self.folder.display());
        command("skopeo", &["copy", "--quiet", "--dest-tls-verify=false", &source, &format!("docker://{name}")]);
    }
}

/// The program with `image --data …` before these arguments.
pub fn image(machine: &Machine, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
    command.arg("image").arg("--data").arg(machine.path("data")).args(arguments).stdin(Stdio::null());
    command.env("DOCKER_CONFIG", machine.path("docker"));
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn run(machine: &Machine, words: &[&str]) -> Outcome {
    machine.jdos(&[&["run", "--rm", "--network", "none", "--plain-http"], words].concat())
}

/// Two layers: busybox, and over it what an application brings.
pub fn application(machine: &Machine, registry: &Registry) -> String {
    let top = machine.path("top");
    for folder in ["srv/data/deep", "etc", "bin"] {
        fs::create_dir_all(top.join(folder)).unwrap();
    }
    fs::write(top.join("srv/data/seed"), "from the image\n").unwrap();
    fs::write(top.join("srv/data/deep/file"), "deep\n").unwrap();
    symlink("seed", top.join("srv/data/link")).unwrap();
    fs::hard_link(top.join("srv/data/seed"), top.join("srv/data/again")).unwrap();
    for owned in ["srv/data", "srv/data/seed"] {
        chown(top.join(owned), Some(1000), Some(1001)).unwrap();
    }
    fs::write(top.join("bin/.wh.vi"), "").unwrap();
    let name = registry.name("shop/app:1");
    let config = json!({
        "Entrypoint": ["sh", "-c"], "Cmd": ["echo default as $(id -u) in $(pwd) with $GREETING"],
        "Env": ["PATH=/bin", "GREETING=hello"], "User": "app", "WorkingDir": "/made/here",
        "Volumes": { "/srv/data": {} }, "ExposedPorts": { "80/tcp": {} }, "StopSignal": "SIGINT",
        "Labels": { "from": "image", "kind": "test" },
    });
    Image::new(machine, "app").layer(&machine.root).layer(&top).push(&config, &name);
    name
}

#[test]
fn an_image_says_what_runs_and_flags_say_it_better() {
    let machine = Machine::new();
    let registry = Registry::new(&machine);
    let name = application(&machine, &registry);
    assert_eq!(run(&machine, &[&name]).ok(), "default as 1000 in /made/here with hello");
    assert_eq!(run(&machine, &["--pull", "never", &name, "echo mine"]).ok(), "mine");
    assert_eq!(run(&machine, &["--entrypoint", "id", &name, "-g"]).ok(), "1001");
    assert_eq!(run(&machine, &["-u", "0", "-w", "/", "-e", "GREETING=x", &name]).ok(), "default as 0 in / with x");
    run(&machine, &["--entrypoint", "", &name]).code(125).says(&["COMMAND", "missing"]);
    assert_eq!(run(&machine, &["--entrypoint", "", &name, "test", "!", "-e", "/bin/vi"]).ok(), "", "a whiteout hides");
    let id = machine.ok(&["create", "--name", "kept", "-l", "from=me", &name]);
    let all = machine.inspect("kept");
    assert_eq!(all["id"], json!(id));
    let config = &all["config"];
    assert_eq!(config["labels"], json!({ "from": "me", "kind": "test" }));
    assert_eq!((&config["stop_signal"], &config["image"]["ports"]), (&json!(2), &json!(["80/tcp"])));
    assert_eq!(config["image"]["name"], json!(name));
    assert!(machine.ok(&["ps", "-a"]).contains(&name));
}

#[test]
fn a_volume_of_the_image_begins_with_its_content_and_goes_with_the_container() {
    let machine = Machine::new();
    let registry = Registry::new(&machine);
    let name = application(&machine, &registry);
    let script = "ls -ln /srv/data | tail -n +2 | cut -c1-40; cat /srv/data/deep/file; echo more >> /srv/data/seed; cat /srv/data/again";
    let seen = run(&machine, &[&name, script]).ok();
    assert!(
        seen.contains("1000     1001") && seen.contains("deep\n") && seen.ends_with("from the image\nmore"),
        "{seen}"
    );
    assert_eq!(fs::read_dir(machine.path("data/volumes")).unwrap().count(), 0, "it went with its container");
    assert_eq!(run(&machine, &[&name, "cat /srv/data/seed"]).ok(), "from the image", "the image is as it was");
    run(&machine, &["-v", "named:/srv/data", &name, "echo kept >> /srv/data/seed"]).ok();
    assert_eq!(run(&machine, &["-v", "named:/srv/data", &name, "cat /srv/data/seed"]).ok(), "from the image\nkept");
    let volume = fs::metadata(machine.path("data/volumes/named")).unwrap();
    assert_eq!((volume.uid(), volume.gid()), (1000, 1001), "on disk the owners are the image's");
    machine.ok(&["create", "--name", "own", &name]);
    assert_eq!(fs::read_dir(machine.path("data/volumes")).unwrap().count(), 2);
    machine.ok(&["rm", "--volumes", "own"]);
    assert_eq!(fs::read_dir(machine.path("data/volumes")).unwrap().count(), 1);
}

/// What stands in an image is not the text of a flag: no path of the host is in it.
#[test]
fn a_hostile_volume_of_an_image_is_a_place_inside() {
    let machine = Machine::new();
    let registry = Registry::new(&machine);
    let secret = machine.file("secret/file", "of the host");
    let evil = format!("{}:/x", secret.parent().unwrap().display());
    let name = registry.name("evil/app:1");
    let config = json!({ "Env": ["PATH=/bin"], "Volumes": { evil: {} } });
    Image::new(&machine, "evil").layer(&machine.root).push(&config, &name);
    let ran = run(&machine, &[&name, "sh", "-c", "ls /x 2>&1; cat /x/file; grep -c ' /x ' /proc/self/mountinfo"]);
    assert!(!ran.stdout.contains("of the host"), "{ran:?}");
    assert!(ran.stdout.ends_with("0\n"), "nothing is mounted there: {ran:?}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "of the host");
}

#[test]
fn one_set_of_layers_serves_containers_of_different_users() {
    let machine = Machine::new();
    let registry = Registry::new(&machine);
    let name = application(&machine, &registry);
    let layers = machine.path("data/images/layers");
    for (flags, owner) in [(&[][..], "1000"), (&["--userns", "host"], "1000"), (&["-u", "0"], "1000")] {
        let words =
            [flags, &[name.as_str(), "stat -c %u /etc/passwd /srv/data; touch /srv/data/x && echo wrote"]].concat();
        assert_eq!(run(&machine, &[&["-v", "/srv/data"], &words[..]].concat()).ok(), format!("0\n{owner}\nwrote"));
    }
    let passwd: Vec<_> =
        fs::read_dir(&layers).unwrap().map(|layer| layer.unwrap().path().join("fs/etc/passwd")).collect();
    let found: Vec<_> = passwd.iter().filter(|path| path.exists()).collect();
    assert_eq!(found.len(), 1, "unpacked once");
    assert_eq!(fs::metadata(found[0]).unwrap().uid(), 0, "and nobody's numbers but the image's are on disk");
}

#[test]
fn what_a_container_uses_is_not_collected() {
    let machine = Machine::new();
    let registry = Registry::new(&machine);
    let name = application(&machine, &registry);
    machine.ok(&["create", "--name", "user", "--plain-http", "--entrypoint", "", &name, "cat", "/srv/data/seed"]);
    image(&machine, &["rm", &name]).ok();
    image(&machine, &["prune", "--grace", "0s"]).ok();
    assert_eq!(image(&machine, &["ls", "-q"]).ok(), "");
    machine.ok(&["start", "user"]);
    assert_eq!(machine.ok(&["wait", "user"]), "0");
    assert_eq!(machine.ok(&["logs", "user"]), "from the image");
    let plan = |flags: &[&str]| -> Value {
        let words = [&["prune", "--grace", "0s", "--json"], flags].concat();
        serde_json::from_str(&image(&machine, &words).ok()).unwrap()
    };
    assert_eq!(plan(&["--dry-run"])["report"]["items"], json!([]));
    machine.ok(&["rm", "--volumes", "user"]);
    assert!(plan(&["--dry-run"])["report"]["freed"].as_u64().unwrap() > 1_000_000);
    plan(&[]);
    assert_eq!(fs::read_dir(machine.path("data/images/layers")).unwrap().count(), 0);
}

/// As after the death of a `create` that had stored the container and not held its image yet.
#[test]
fn an_image_that_is_not_held_is_held_from_the_start_on() {
    let machine = Machine::new();
    let registry = Registry::new(&machine);
    let name = application(&machine, &registry);
    machine.ok(&["create", "--name", "user", "--plain-http", "--entrypoint", "", &name, "cat", "/srv/data/seed"]);
    image(&machine, &["rm", &name]).ok();
    let index = rusqlite::Connection::open(machine.path("data/images/index.db")).unwrap();
    let forget = || assert_eq!(index.execute("DELETE FROM leases WHERE kind = 'file'", ()).unwrap(), 1);
    forget();
    machine.ok(&["start", "user"]);
    image(&machine, &["prune", "--grace", "0s"]).ok();
    machine.ok(&["wait", "user"]);
    machine.ok(&["start", "user"]);
    assert_eq!(machine.ok(&["wait", "user"]), "0");
    forget();
    image(&machine, &["prune", "--grace", "0s"]).ok();
    machine.jdos(&["start", "user"]).code(3).says(&[&name, "is gone", "jdos container rm user"]);
    machine.ok(&["rm", "user"]);
}

#[test]
fn what_can_not_hold_its_layers_does_not_stay() {
    let machine = Machine::new();
    let registry = Registry::new(&machine);
    let name = application(&machine, &registry);
    image(&machine, &["pull", "--plain-http", &name]).ok();
    let index = rusqlite::Connection::open(machine.path("data/images/index.db")).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON leases WHEN new.kind = 'file'
        BEGIN SELECT raise(ABORT, 'refused by the test'); END";
    index.execute_batch(refuse).unwrap();
    let id_file = machine.path("id");
    let id = id_file.to_str().unwrap();
    for verb in [&["run", "--rm"][..], &["run", "-d"], &["create"]] {
        let words = [verb, &["--network", "none", "--cidfile", id, &name, "touch /srv/data/ran"]].concat();
        assert_ne!(machine.jdos(&words).says(&["refused by the test"]).code, 0, "{verb:?}");
        assert_eq!(machine.ok(&["ps", "-aq"]), "", "{verb:?}");
        assert!(!id_file.exists(), "{verb:?}");
        assert_eq!(fs::read_dir(machine.path("data/volumes")).unwrap().count(), 0, "{verb:?}");
    }
    index.execute_batch("DROP TRIGGER refuse").unwrap();
    assert_eq!(run(&machine, &["--cidfile", id, &name, "echo ran"]).ok(), "ran");
}

#[test]
fn what_is_not_there_is_said() {
    let machine = Machine::new();
    let registry = Registry::new(&machine);
    let name = application(&machine, &registry);
    run(&machine, &["--pull", "never", &name]).code(125).says(&[
        "there is no image",
        "--pull never",
        "jdos image pull",
    ]);
    run(&machine, &["local:x", "true"]).code(125).says(&["there is no image `local:x`"]);
    let missing = registry.name("shop/none:1");
    run(&machine, &[&missing, "true"]).code(125).says(&["has no shop/none:1", "MANIFEST_UNKNOWN"]);
    let outcome = machine.jdos(&["run", "--rm", "--network", "none", &name]);
    outcome.code(125).says(&["no secure connection", "--plain-http"]);
    run(&machine, &["--platform", "linux/s390x", &name]).code(125).says(&["is for linux/amd64"]);
    image(&machine, &["pull", "--plain-http", &missing]).code(3);
    image(&machine, &["pull", "127.0.0.1:1/x"]).code(7).says(&["nothing listens there"]);
    image(&machine, &["inspect", "local:x"]).code(3);
    assert!(machine.containers().is_empty());
}

/// Lets `me` with the password `s3cret` in, for so many requests.
fn doorkeeper(requests: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for _ in 0..requests {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let allowed = String::from_utf8(head).unwrap().contains("Basic bWU6czNjcmV0");
            let answer = match allowed {
                true => "HTTP/1.1 200 OK\r\n",
                false => "HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=\"x\"\r\n",
            };
            stream.write_all(format!("{answer}Connection: close\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
        }
    });
    host
}

#[test]
fn a_login_is_tried_kept_and_forgotten() {
    let machine = Machine::new();
    let host = doorkeeper(4);
    let config = machine.path("docker/config.json");
    let login = |password: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
        command.arg("image").arg("--data").arg(machine.path("data")).env("DOCKER_CONFIG", machine.path("docker"));
        command.args(["login", "--plain-http", "-u", "me", "--password-stdin", &host]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
        finish(child)
    };
    let refused = login("not-it").code(6).says(&["does not let me", "jdos image login"]);
    assert!(!refused.stderr.contains("not-it") && !config.exists());
    let kept = login("s3cret").ok();
    assert!(kept.contains("config.json") && !kept.contains("s3cret"), "{kept}");
    let text: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    assert_eq!(text["auths"][&host]["auth"], json!("bWU6czNjcmV0"));
    assert_eq!(fs::metadata(&config).unwrap().mode() & 0o777, 0o600);
    image(&machine, &["logout", &host]).ok();
    let text: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    assert_eq!(text["auths"], json!({}));
}

#[test]
fn images_go_out_and_come_in_as_archives() {
    let machine = Machine::new();
    let registry = Registry::new(&machine);
    let name = application(&machine, &registry);
    image(&machine, &["pull", "--plain-http", "--quiet", &name]).ok();
    for (form, source) in [("oci", "oci-archive"), ("docker", "docker-archive"), ("oci-dir", "oci")] {
        let file = machine.path(&format!("out-{form}"));
        let file = file.to_str().unwrap();
        image(&machine, &["export", &name, "-o", file, "--format", form]).ok();
        let seen = command("skopeo", &["inspect", "--config", &format!("{source}:{file}")]);
        assert!(seen.contains("GREETING=hello"), "{form}: {seen}");
        let local = format!("from-{form}:1");
        image(&machine, &["import", "--name", &local, file]).ok();
        assert_eq!(run(&machine, &[&local, "cat /srv/data/seed"]).ok(), "from the image", "{form}");
    }
    image(&machine, &["export", "none:1", "-o", "/nowhere"]).code(3);
    image(&machine, &["import", "/no/such/file"]).code(3);
}

#[test]
fn images_are_named_listed_pushed_and_taken_away() {
    let machine = Machine::new();
    let registry = Registry::new(&machine);
    let name = application(&machine, &registry);
    let pulled: Value =
        serde_json::from_str(&image(&machine, &["pull", "--plain-http", "--json", &name]).ok()).unwrap();
    assert_eq!((&pulled[0]["image"], &pulled[0]["changed"]), (&json!(name), &json!(true)));
    let digest = pulled[0]["digest"].as_str().unwrap();
    let again = image(&machine, &["pull", "--plain-http", &name]);
    assert!(again.stderr.contains("is there"), "{again:?}");
    assert!(again.ok().ends_with("(as before)"));
    image(&machine, &["tag", &name, "mine:1", "mine:2"]).ok();
    assert_eq!(image(&machine, &["ls", "-q"]).ok(), format!("{name}\nmine:1\nmine:2"));
    let second = registry.name("other/app:2");
    let pushed = image(&machine, &["push", "--plain-http", "mine:1", &second]).ok();
    assert!(pushed.contains(digest), "{pushed}");
    let seen =
        command("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{second}")]);
    assert_eq!(seen.trim(), digest);
    let hex = digest.trim_start_matches("sha256:");
    image(&machine, &["rm", &hex[..12]]).code(4).says(&["has 3 names", "--force"]);
    image(&machine, &["rm", "mine:1"]).ok();
    let all: Value = serde_json::from_str(&image(&machine, &["inspect", &hex[..12]]).ok()).unwrap();
    assert_eq!(all[0]["config"]["User"], json!("app"));
    assert_eq!(all[0]["names"], json!([name, "mine:2"]));
    let df: Value = serde_json::from_str(&image(&machine, &["df", "--json"]).ok()).unwrap();
    assert_eq!(df["layers"]["count"], json!(2));
    image(&machine, &["rm", "--force", &hex[..12]]).ok();
    assert_eq!(image(&machine, &["ls", "-q"]).ok(), "");
    image(&machine, &["rm", "mine:2"]).code(3);
    image(&machine, &["rm", "--ignore", "mine:2"]).ok();
}
