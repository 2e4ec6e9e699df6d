//! The whole way with nobody else's server: an image pushed to a registry of ours over TLS by one who may, brought back and
//! run; and what those are told who may not, or when the registry is killed.

use super::images::{Registry, application, command, image};
use super::machine::{Machine, finish};
use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// `jdos registry serve` with TLS, on a data folder of its own.
struct Ours {
    child: Child,
    port: u16,
    data: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Ours {
    fn new(machine: &Machine) -> Self {
        const SETTINGS: &str = "[req]\ndistinguished_name = name\nx509_extensions = extensions\nprompt = no\n\
            [name]\nCN = ours\n\
            [extensions]\nsubjectAltName = IP:127.0.0.1\nbasicConstraints = critical,CA:FALSE\n";
        let settings = machine.file("ours/settings", SETTINGS);
        let (certificate, key) = (machine.path("ours/certificate"), machine.path("ours/key"));
        let paths = [&settings, &key, &certificate].map(|path| path.to_str().unwrap().to_owned());
        let new = ["req", "-x509", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        command("openssl", &[&new[..], &["-config", &paths[0], "-keyout", &paths[1], "-out", &paths[2]]].concat());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = machine.path("ours/data");
        let child = serve(port, &data, &certificate, &key);
        Self { child, port, data, certificate, key }
    }

    fn restart(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).unwrap();
        self.child = serve(self.port, &self.data, &self.certificate, &self.key);
    }

    /// An account with a password, made while it serves.
    fn user(&self, machine: &Machine, name: &str, allow: &str, password: &str) {
        let file = machine.file("ours/password", &format!("{password}\n"));
        let data = self.data.to_str().unwrap();
        let words = ["registry", "user", "add", name, "--allow", allow, "--data", data, "--password-file"];
        command(env!("CARGO_BIN_EXE_jdos"), &[&words[..], &[file.to_str().unwrap()]].concat());
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host())
    }

    fn ca(&self) -> &str {
        self.certificate.to_str().unwrap()
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).unwrap();
    }
}

/// A process that ends with the value.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

fn serve(port: u16, data: &PathBuf, certificate: &PathBuf, key: &PathBuf) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
    command.args(["registry", "serve", "--listen", &format!("127.0.0.1:{port}"), "--data"]).arg(data);
    command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
    listening(&mut command, port)
}

/// Starts a server, and waits until it listens.
fn listening(command: &mut Command, port: u16) -> Child {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "the registry does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn login(machine: &Machine, ours: &Ours, user: &str, password: &str) -> i32 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
    command.arg("image").arg("--data").arg(machine.path("data")).env("DOCKER_CONFIG", machine.path("docker"));
    command.args(["login", "--ca", ours.ca(), "-u", user, "--password-stdin", &ours.host()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    finish(child).code
}

#[test]
fn an_image_goes_to_a_registry_of_ours_and_comes_back() {
    let machine = Machine::new();
    let mut ours = Ours::new(&machine);
    ours.user(&machine, "anna", "shop/**:pull,push", "s3cret-s3cret");
    let name = ours.name("shop/app:1");
    {
        let theirs = Registry::new(&machine);
        let source = application(&machine, &theirs);
        image(&machine, &["pull", "--plain-http", "--quiet", &source]).ok();
        image(&machine, &["tag", &source, &name]).ok();
        image(&machine, &["rm", &source]).ok();
    }
    let push = |name: &str| image(&machine, &["push", "--ca", ours.ca(), name]);
    // Its authority is not one of this machine's; nobody is let in without a name; nobody may do more than he may.
    image(&machine, &["push", &name]).code(7).says(&["certificate"]);
    push(&name).code(6);
    assert_eq!(login(&machine, &ours, "anna", "wrong-wrong"), 6);
    assert_eq!(login(&machine, &ours, "anna", "s3cret-s3cret"), 0);
    let other = ours.name("other/app:1");
    image(&machine, &["tag", &name, &other]).ok();
    push(&other).code(6).says(&["other/app"]);
    push(&name).ok();
    ours.restart();
    let again = image(&machine, &["push", "--ca", ours.ca(), &name]);
    assert!(again.stderr.contains("is there"), "{again:?}");
    image(&machine, &["rm", &name, &other]).ok();
    image(&machine, &["prune", "--grace", "0s"]).ok();
    assert_eq!(fs::read_dir(machine.path("data/images/layers")).unwrap().count(), 0);
    let mut command = machine.command(&["run", "--rm", "--network", "none", "--ca", ours.ca(), &name]);
    command.env("DOCKER_CONFIG", machine.path("docker")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = finish(command.spawn().unwrap());
    assert_eq!(ran.ok(), "default as 1000 in /made/here with hello");
}

/// Programs of others, in folders of the test's own.
struct Others<'m> {
    machine: &'m Machine,
    port: u16,
}

impl Others<'_> {
    fn run(&self, program: &str, words: &[&str]) -> String {
        let mut command = Command::new(program);
        if program != "skopeo" {
            for (flag, folder) in [("--root", "theirs/root"), ("--runroot", "theirs/run")] {
                command.arg(flag).arg(self.machine.path(folder));
            }
            command.args(["--storage-driver", "vfs"]);
        }
        let output = command.args(words).env("BUILDAH_ISOLATION", "chroot").stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn at(&self, name: &str) -> String {
        format!("docker://{}", self.name(name))
    }

    fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    fn tags(&self, repository: &str) -> Vec<String> {
        let listed = self.run("skopeo", &["list-tags", "--tls-verify=false", &self.at(repository)]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        listed["Tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
    }

    fn digest(&self, name: &str) -> String {
        self.run("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &self.at(name)])
    }
}

#[test]
fn skopeo_buildah_and_podman_work_with_a_registry_of_ours() {
    const PLAIN: &str = "--tls-verify=false";
    let machine = Machine::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jdos"));
    command.args(["registry", "serve", "--open", "--listen", &format!("127.0.0.1:{port}"), "--data"]);
    let _server = Ending(listening(command.arg(machine.path("open/data")), port));
    let others = Others { machine: &machine, port };
    let payload = machine.file("payload", &"content ".repeat(100_000));

    // buildah: images for two platforms, in OCI's and in Docker's form, and an index of both.
    for platform in ["amd64", "arm64"] {
        let container = others.run("buildah", &["from", "scratch"]);
        others.run("buildah", &["copy", "-q", &container, payload.to_str().unwrap(), "/payload"]);
        others.run("buildah", &["config", "--arch", platform, "--os", "linux", "--cmd", "/payload", &container]);
        others.run("buildah", &["commit", "-q", &container, &format!("made:{platform}")]);
        let to = others.at(&format!("team/app:{platform}"));
        others.run("buildah", &["push", "-q", PLAIN, &format!("made:{platform}"), &to]);
    }
    let docker = others.at("team/app:docker");
    others.run("buildah", &["push", "-q", PLAIN, "--format", "v2s2", "made:amd64", &docker]);
    others.run("buildah", &["manifest", "create", "both"]);
    for platform in ["amd64", "arm64"] {
        others.run("buildah", &["manifest", "add", PLAIN, "both", &others.at(&format!("team/app:{platform}"))]);
    }
    others.run("buildah", &["manifest", "push", "-q", PLAIN, "--all", "both", &others.at("team/app:both")]);
    assert_eq!(others.tags("team/app"), ["amd64", "arm64", "both", "docker"]);

    // skopeo: all of it to another repository, to files and back, compressed otherwise, and one tag away.
    let (from, to) = ("--src-tls-verify=false", "--dest-tls-verify=false");
    let copy = |words: &[&str]| others.run("skopeo", &[&["copy", "--quiet"], words].concat());
    copy(&["--all", from, to, &others.at("team/app:both"), &others.at("mirror/app:both")]);
    assert_eq!(others.digest("mirror/app:both"), others.digest("team/app:both"));
    let layout = format!("oci:{}:both", machine.path("layout").display());
    copy(&["--all", from, &others.at("team/app:both"), &layout]);
    copy(&["--all", to, &layout, &others.at("back/app:both")]);
    assert_eq!(others.digest("back/app:both"), others.digest("team/app:both"));
    copy(&[to, "--dest-compress-format", "zstd", "--override-arch", "arm64", &layout, &others.at("zstd/app:1")]);
    copy(&[from, &docker, &format!("docker-archive:{}:x:1", machine.path("archive").display())]);
    others.run("skopeo", &["delete", PLAIN, &others.at("mirror/app:both")]);
    let gone = Command::new("skopeo").args(["inspect", PLAIN, &others.at("mirror/app:both")]).output().unwrap();
    assert!(!gone.status.success());

    // podman: down, renamed, up, and down again.
    others.run("podman", &["pull", "-q", PLAIN, &others.name("team/app:both")]);
    others.run("podman", &["tag", &others.name("team/app:both"), &others.name("podman/app:1")]);
    others.run("podman", &["push", "-q", PLAIN, &others.name("podman/app:1")]);
    others.run("podman", &["rmi", "-f", &others.name("podman/app:1")]);
    others.run("podman", &["pull", "-q", PLAIN, &others.name("podman/app:1")]);

    // And what they pushed is what this program pulls.
    for name in ["team/app:both", "team/app:docker", "podman/app:1"] {
        image(&machine, &["pull", "--plain-http", "--quiet", &others.name(name)]).ok();
    }
}
