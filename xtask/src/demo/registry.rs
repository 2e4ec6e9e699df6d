//! The image's way: made from Debian's packages in one data folder, kept by a registry of ours in a second one, and brought
//! from there to the third, where containers run from it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, http};
use crate::{debian, output, run};

/// Who pushes.
const USER: &str = "demo";

/// How long the registry may take to end.
const DRAIN: Duration = Duration::from_secs(40);

/// A registry that runs, in a folder of its own.
pub struct Registry {
    binary: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
    child: Child,
}

impl Registry {
    /// Starts one with a single user, whom nobody else knows. Anybody may read.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(binary: &Path, folder: &Path, address: SocketAddr) -> Result<Self> {
        debian::remove(folder)?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write_password(&folder.join("password"))?;
        let data = folder.join("data");
        let mut user = Command::new(binary);
        user.args(["registry", "user", "add", USER, "--allow", "demo/**:pull,push", "--data"]).arg(&data);
        run::quiet(user.arg("--password-file").arg(folder.join("password")))?;
        let log = folder.join("log");
        let sink = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut serve = Command::new(binary);
        serve.args(["registry", "serve", "--anonymous-read", "--listen", &address.to_string(), "--data"]).arg(&data);
        serve.stdin(Stdio::null()).stdout(sink.try_clone().context("cannot share a file")?).stderr(sink);
        let child = serve.spawn().context("cannot start the registry")?;
        let mut registry = Self { binary: binary.to_owned(), folder: folder.to_owned(), address, child };
        let ends = Instant::now() + PATIENCE;
        while let Err(error) = http::get(address, "/v2/_catalog") {
            let ended = registry.child.try_wait().context("cannot wait for the registry")?.is_some();
            let said = fs::read_to_string(&log).unwrap_or_default();
            ensure!(Instant::now() < ends && !ended, "the registry does not answer: {error:#}\n{said}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// The name under which it has an image.
    pub fn name(&self, image: &str) -> String {
        format!("{}/demo/{image}", self.address)
    }

    /// Logs in, and pushes an image of a data folder.
    ///
    /// # Errors
    /// The registry refuses, or the image is not there.
    pub fn push(&self, data: &Path, image: &str) -> Result<()> {
        let password = self.folder.join("password");
        let input = File::open(&password).with_context(|| format!("cannot read {}", password.display()))?;
        let mut login = self.image(data, "login");
        login.args(["--plain-http", "--password-stdin", "--username", USER, &self.address.to_string()]);
        run::fed(&mut login, input)?;
        let mut push = self.image(data, "push");
        run::quiet(push.args(["--plain-http", "--quiet", image, &self.name(image)])).map(drop)
    }

    /// Brings an image to a data folder, as somebody whom it does not know.
    ///
    /// # Errors
    /// The registry refuses, or does not have it.
    pub fn pull(&self, data: &Path, image: &str) -> Result<()> {
        let mut pull = self.image(data, "pull");
        pull.env("DOCKER_CONFIG", self.folder.join("nobody"));
        run::quiet(pull.args(["--plain-http", &self.name(image)]))?.lines().for_each(output::detail);
        Ok(())
    }

    fn image(&self, data: &Path, verb: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("DOCKER_CONFIG", self.folder.join("docker"));
        command.args(["image", verb, "--data"]).arg(data);
        command
    }

    /// Ends it as a service manager would.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub fn stop(mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).context("cannot end the registry")?;
        let ends = Instant::now() + DRAIN;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for the registry")? {
                ensure!(status.success(), "the registry ended with {status}");
                return Ok(());
            }
            ensure!(Instant::now() < ends, "the registry does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A password that nobody needs to remember, for the owner of the file alone.
fn write_password(path: &Path) -> Result<()> {
    let mut random = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).context("no random numbers")?;
    let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| writeln!(file, "{password}"));
    written.with_context(|| format!("cannot write {}", path.display()))
}
