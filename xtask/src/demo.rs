//! `demo`: what the product does, shown on this machine in a minute: a small Debian root from the host's mirror, a web server
//! of ours in three containers with limits and addresses, called, watched, one of them bereft of its monitor, all removed.
//!
//! It works on a data folder of its own, so it meets nothing else, and begins by removing what an interrupted run left.

mod http;
mod mirror;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::debian::{self, System};
use crate::jdos::Containers;
use crate::output::{self, say, step};
use crate::workspace::Workspace;
use crate::{run, setup};

/// The containers, and the first port of the host that is tried for each.
const INSTANCES: [(&str, u16); 3] = [("web-1", 18081), ("web-2", 18082), ("web-3", 18083)];

/// What is in the small Debian root. Only extracted, not configured: enough to run static programs and look around.
const PACKAGES: &str = "base-files,busybox-static,ca-certificates,libc6,netbase,tzdata";

/// How long a web server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where from, where to.
#[derive(Args)]
pub struct Options {
    /// Debian mirror for the root file system [default: the one in this machine's apt sources]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Release of Debian inside the containers
    #[arg(long, default_value = "trixie")]
    suite: String,
    /// Data folder of the containers [default: one below the target folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leave the containers running at the end
    #[arg(long)]
    keep: bool,
}

/// The machine, ready to be shown.
struct Stage {
    jdos: Containers,
    binary: PathBuf,
    data: PathBuf,
    root: PathBuf,
    web: PathBuf,
}

/// Shows everything.
///
/// # Errors
/// A step fails; what was started is removed all the same.
pub fn run(options: &Options) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "containers need root; next: sudo -E cargo xtask demo");
    let start = Instant::now();
    setup::run()?;
    let stage = prepare(options)?;
    step("remove what an earlier demo left", || stage.jdos.clear())?;
    let shown = show(&stage);
    if !options.keep || shown.is_err() {
        let cleaned = step("stop and remove the containers", || stage.clean());
        shown?;
        cleaned?;
    }
    say(&format!("\ndone in {}", output::seconds(start.elapsed())));
    stage.next(options.keep);
    Ok(())
}

/// Builds, and makes the root file system unless it is there already.
fn prepare(options: &Options) -> Result<Stage> {
    let workspace = Workspace::read()?;
    let (binary, web) = step("build jdos and the web server (release)", || {
        Ok((workspace.release_binary("jdos")?, workspace.release_binary("web")?))
    })?;
    let folder = workspace.scratch("demo")?;
    let root = folder.join(&options.suite);
    if root.is_dir() {
        output::detail(&format!("root file system of {} is cached in {}", options.suite, root.display()));
    } else {
        bootstrap(options, &root)?;
    }
    // The web server is a layer of its own above Debian: what is below is shared and never changed.
    let layer = folder.join("web");
    fs::create_dir_all(&layer).with_context(|| format!("cannot make {}", layer.display()))?;
    fs::copy(&web, layer.join("web")).with_context(|| format!("cannot write {}", layer.join("web").display()))?;
    let data = options.data.clone().unwrap_or_else(|| folder.join("data"));
    Ok(Stage { jdos: Containers::new(&binary, &data), binary, data, root, web: layer })
}

/// A small Debian from packages, without an image registry.
fn bootstrap(options: &Options, root: &Path) -> Result<()> {
    if System::detect().is_supported() {
        debian::install(&["mmdebstrap", "debian-archive-keyring"])?;
    }
    ensure!(
        run::exists("mmdebstrap"),
        "the root file system is made by mmdebstrap; next: install the package mmdebstrap"
    );
    let mirror = match &options.mirror {
        Some(mirror) => mirror.clone(),
        None => mirror::of_this_host().context("no Debian mirror in this machine's apt sources; next: --mirror URL")?,
    };
    step(&format!("bootstrap a small Debian root ({})", options.suite), || {
        // Under another name until it is whole.
        let partial = root.with_extension("partial");
        debian::remove(&partial)?;
        let mut command = Command::new("mmdebstrap");
        command.args(["--quiet", "--mode=root", "--format=directory", "--variant=extract", "--include", PACKAGES]);
        run::quiet(command.arg(&options.suite).arg(&partial).arg(&mirror))?;
        fs::rename(&partial, root).with_context(|| format!("cannot rename {}", partial.display()))
    })
}

fn show(stage: &Stage) -> Result<()> {
    let mut ports = Vec::new();
    for (name, wish) in INSTANCES {
        let port = free_port(wish)?;
        step(&format!("start {name}: 64 MiB, half a core, 64 processes, port {port}"), || stage.start(name, port))?;
        ports.push(port);
    }
    step("call them at their own addresses and at the published ports", || {
        for ((name, _), port) in INSTANCES.iter().zip(&ports) {
            let address: Ipv4Addr = stage.field(name, "/addresses/ipv4")?.parse().context("an address is none")?;
            for target in [SocketAddrV4::new(address, 8080), SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port)] {
                stage.call(name, target.into())?;
            }
        }
        Ok(())
    })?;
    step("jdos container ps", || stage.print(&["ps"]))?;
    step("jdos container stats", || stage.print(&["stats", "--no-stream"]))?;
    step("jdos container logs web-1", || stage.print(&["logs", "--timestamps", "web-1"]))?;
    step("jdos container exec web-1 (who am I, inside)", || {
        stage.print(&[
            "exec",
            "web-1",
            "/usr/bin/busybox",
            "sh",
            "-c",
            "id; cat /etc/hostname /etc/debian_version; busybox ps",
        ])
    })?;
    step("kill the process that watches web-2: it goes on serving, and gets a new one", || {
        let monitor = stage.jdos.monitor("web-2")?;
        let pid = Pid::from_raw(monitor).with_context(|| format!("{monitor} is no process"))?;
        kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill {monitor}"))?;
        stage.call("web-2", SocketAddrV4::new(Ipv4Addr::LOCALHOST, ports[1]).into())?;
        stage.print(&["reconcile"])?;
        stage.call("web-2", SocketAddrV4::new(Ipv4Addr::LOCALHOST, ports[1]).into())
    })
}

impl Stage {
    fn start(&self, name: &str, port: u16) -> Result<()> {
        let (variable, publish) = (format!("NAME={name}"), format!("{port}:8080"));
        let (root, web) = (self.root.to_string_lossy(), self.web.to_string_lossy());
        let limits = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "64"];
        let rest = ["--layer", &*root, "--layer", &*web, "-e", &*variable, "-p", &*publish, "/web"];
        self.jdos.run(&[&["run", "-d", "--name", name][..], &limits, &rest].concat()).map(drop)
    }

    /// Calls until it answers as the instance that it should be; shows the answer.
    fn call(&self, name: &str, address: SocketAddr) -> Result<()> {
        let ends = Instant::now() + PATIENCE;
        loop {
            match http::get(address, "/") {
                Ok(body) if body.contains(&format!("on {name},")) => {
                    output::detail(&format!("http://{address}/  {}", body.trim()));
                    return Ok(());
                }
                Ok(body) => bail!("{address} should be {name}, but answers: {}", body.trim()),
                Err(_) if Instant::now() < ends => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => {
                    let logs =
                        self.jdos.run(&["logs", "--tail", "10", name]).unwrap_or_else(|error| format!("{error:#}"));
                    return Err(error)
                        .with_context(|| format!("{name} does not answer at {address}; its last lines:\n{logs}"));
                }
            }
        }
    }

    fn field(&self, name: &str, pointer: &str) -> Result<String> {
        let inspect = self.jdos.inspect(name)?;
        let value = inspect.pointer(pointer).and_then(serde_json::Value::as_str);
        value.map(str::to_owned).with_context(|| format!("inspect {name} has no {pointer}"))
    }

    fn print(&self, arguments: &[&str]) -> Result<()> {
        self.jdos.run(arguments)?.lines().for_each(output::detail);
        Ok(())
    }

    /// Stops with grace, removes, and looks that nothing is left.
    fn clean(&self) -> Result<()> {
        self.jdos.run(&["stop", "--ignore", "web-1", "web-2", "web-3"])?;
        self.jdos.clear()?;
        let left = self.jdos.json(&["ps", "--all"])?;
        ensure!(left.as_array().is_some_and(Vec::is_empty), "something is left: {left}");
        Ok(())
    }

    fn next(&self, kept: bool) {
        let jdos = format!("{} container", self.binary.display());
        let folder = format!("--data {}", self.data.display());
        let layers = format!("--layer {} --layer {}", self.root.display(), self.web.display());
        say("try next");
        if kept {
            say(&format!("  {jdos} exec {folder} -it web-1 busybox sh"));
            say(&format!("  {jdos} logs {folder} --follow web-2"));
            say(&format!("  {jdos} update {folder} --cpus 1 web-3"));
            say(&format!("  {jdos} rm {folder} --force --all        # when you have seen enough"));
        } else {
            say(&format!("  {jdos} run {folder} --rm -it {layers} busybox sh"));
            say(&format!("  {jdos} run {folder} --rm -e NAME=mine -p 18080:8080 {layers} /web"));
            say("  cargo xtask demo --keep                  # the same, and leave them running");
        }
        say("  cargo xtask bench container              # the same against crun, runc and podman, in figures");
    }
}

/// The wished port, or another one if it is taken.
fn free_port(wish: u16) -> Result<u16> {
    let any = Ipv4Addr::UNSPECIFIED;
    let listener =
        TcpListener::bind((any, wish)).or_else(|_| TcpListener::bind((any, 0))).context("no port is free")?;
    Ok(listener.local_addr().context("cannot read a port")?.port())
}
