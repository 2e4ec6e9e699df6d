//! `demo`: what the product does, shown on this machine in a minute: a base image from the packages of the host's mirror,
//! pushed to a registry of ours and pulled from it; a web server in three containers of that image with limits and
//! addresses, called, watched, one of them bereft of its monitor, all removed.
//!
//! It works on data folders of its own, so it meets nothing else, and begins by removing what an interrupted run left.

mod http;
mod registry;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::jdos::Containers;
use crate::output::{self, say, step};
use crate::workspace::Workspace;
use crate::{run, setup};
use registry::Registry;

/// The containers, and the first port of the host that is tried for each.
const INSTANCES: [(&str, u16); 3] = [("web-1", 18081), ("web-2", 18082), ("web-3", 18083)];

/// The port that is tried first for the registry.
const REGISTRY: u16 = 18080;

/// The web server, as the containers see it.
const PROGRAM: &str = "/srv/web/web";

/// How long a web server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where from, where to.
#[derive(Args)]
pub struct Options {
    /// Debian mirror for the image [default: the one in this machine's apt sources]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Release of Debian in the image
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
    /// Where everything of the demo is.
    folder: PathBuf,
    /// Data folder of the containers.
    data: PathBuf,
    /// The image's name where it is made.
    base: String,
    /// The program that the containers run, in a folder that they see.
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
    step("remove what an earlier demo left", || stage.reset())?;
    let shown = stage.image(options).and_then(|image| show(&stage, &image).map(|()| image));
    let cleaned = match options.keep && shown.is_ok() {
        true => Ok(()),
        false => step("stop and remove the containers", || stage.clean()),
    };
    let image = shown?;
    cleaned?;
    say(&format!("\ndone in {}", output::seconds(start.elapsed())));
    stage.next(&image, options.keep);
    Ok(())
}

/// Builds.
fn prepare(options: &Options) -> Result<Stage> {
    let workspace = Workspace::read()?;
    let (binary, built) = step("build jdos and the web server (release)", || {
        Ok((workspace.release_binary("jdos")?, workspace.release_binary("web")?))
    })?;
    let folder = workspace.scratch("demo")?;
    let web = folder.join("web");
    fs::create_dir_all(&web).with_context(|| format!("cannot make {}", web.display()))?;
    fs::copy(&built, web.join("web")).with_context(|| format!("cannot write {}", web.join("web").display()))?;
    let data = options.data.clone().unwrap_or_else(|| folder.join("data"));
    let base = format!("debian:{}", options.suite);
    Ok(Stage { jdos: Containers::new(&binary, &data), binary, folder, data, base, web })
}

fn show(stage: &Stage, image: &str) -> Result<()> {
    let mut ports = Vec::new();
    for (name, wish) in INSTANCES {
        let port = free_port(wish)?;
        step(&format!("start {name}: 64 MiB, half a core, 64 processes, port {port}"), || {
            stage.start(image, name, port)
        })?;
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
        stage.print(&["exec", "web-1", "sh", "-c", "id; cat /etc/hostname /etc/debian_version /proc/1/comm"])
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
    /// Makes the base image, brings it to a registry of ours and from there to where the containers run; gives its name
    /// there. The registry ends again: what runs needs it no more.
    fn image(&self, options: &Options) -> Result<String> {
        let maker = self.folder.join("maker");
        step(&format!("make {} from Debian's packages", self.base), || {
            let mut command = Command::new(&self.binary);
            command.args(["image", "bootstrap", "--quiet", &self.base, "--data"]).arg(&maker);
            command.args(options.mirror.iter().flat_map(|mirror| ["--mirror", mirror]));
            run::quiet(&mut command)?.lines().for_each(output::detail);
            Ok(())
        })?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port(REGISTRY)?);
        let registry = step(&format!("start a registry on {address}"), || {
            Registry::start(&self.binary, &self.folder.join("registry"), address.into())
        })?;
        step("log in, and push the image", || registry.push(&maker, &self.base))?;
        step("pull it to where the containers run", || registry.pull(&self.data, &self.base))?;
        let name = registry.name(&self.base);
        step("stop the registry", || registry.stop())?;
        Ok(name)
    }

    fn start(&self, image: &str, name: &str, port: u16) -> Result<()> {
        let (variable, publish) = (format!("NAME={name}"), format!("{port}:8080"));
        let limits = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "64"];
        let rest = ["-v", &*self.volume(), "-e", &*variable, "-p", &*publish, image, PROGRAM];
        self.jdos.run(&[&["run", "-d", "--name", name][..], &limits, &rest].concat()).map(drop)
    }

    /// The folder with the program, as the containers see it.
    fn volume(&self) -> String {
        format!("{}:/srv/web:ro", self.web.display())
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

    /// No container, and no network on the host.
    fn reset(&self) -> Result<()> {
        self.jdos.run(&["reset", "--force"]).map(drop)
    }

    /// Stops with grace, removes, and looks that nothing is left.
    fn clean(&self) -> Result<()> {
        self.jdos.run(&["stop", "--ignore", "web-1", "web-2", "web-3"])?;
        self.reset()?;
        let left = self.jdos.json(&["ps", "--all"])?;
        ensure!(left.as_array().is_some_and(Vec::is_empty), "something is left: {left}");
        Ok(())
    }

    fn next(&self, image: &str, kept: bool) {
        let (jdos, folder) = (self.binary.display(), format!("--data {}", self.data.display()));
        say("try next");
        if kept {
            say(&format!("  {jdos} container exec {folder} -it web-1 bash"));
            say(&format!("  {jdos} container logs {folder} --follow web-2"));
            say(&format!("  {jdos} container update {folder} --cpus 1 web-3"));
            say(&format!("  {jdos} container rm {folder} --force --all        # when you have seen enough"));
        } else {
            let web = format!("-v {} -p 18080:8080 {image} {PROGRAM}", self.volume());
            say(&format!("  {jdos} container run {folder} --rm -it {image} bash"));
            say(&format!("  {jdos} container run {folder} --rm -e NAME=mine {web}"));
            say("  cargo xtask demo --keep                  # the same, and leave them running");
        }
        say(&format!("  {jdos} image ls {folder}"));
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
