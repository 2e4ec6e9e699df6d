//! A registry that runs for a while, in a control group that counts its processor time.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::http::{Body, Connection};
use super::lab::Lab;
use crate::bench::runner;
use crate::jdos::field;

/// How long a registry may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running registry.
pub struct Server {
    /// `ours` or `distribution`.
    pub name: &'static str,
    child: Child,
    address: SocketAddr,
    meter: runner::Meter,
}

impl Server {
    /// Ours, with everything by default but who may write.
    ///
    /// # Errors
    /// It does not start.
    pub fn ours(lab: &Lab) -> Result<Self> {
        let data = lab.run_folder("ours")?;
        let address = free_address()?;
        let mut words = vec![lab.jdos.to_string_lossy().into_owned()];
        words.extend(["registry", "serve", "--open", "--listen"].map(str::to_owned));
        words.extend([address.to_string(), "--data".to_owned(), data.to_string_lossy().into_owned()]);
        Self::start(lab, "ours", address, &words)
    }

    /// The peer, set up as its documentation does it.
    ///
    /// # Errors
    /// It does not start.
    pub fn peer(lab: &Lab) -> Result<Self> {
        let data = lab.run_folder("distribution")?;
        let address = free_address()?;
        let settings = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  cache:\n    blobdescriptor: inmemory\n  \
             delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            data.join("store").display()
        );
        let path = data.join("config.yml");
        fs::write(&path, settings).with_context(|| format!("cannot write {}", path.display()))?;
        let words = [&lab.registry, Path::new("serve"), &path].map(|word| word.to_string_lossy().into_owned());
        Self::start(lab, "distribution", address, &words)
    }

    fn start(lab: &Lab, name: &'static str, address: SocketAddr, words: &[String]) -> Result<Self> {
        let group = format!("{}/{name}", lab.group);
        let (meter, tasks) = runner::Meter::of_group(&group)?;
        let log = lab.folder.join("runs").join(format!("{name}.log"));
        let log_file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new("sh")
            .args(["-c", "echo 0 > \"$0\" && exec \"$@\""])
            .arg(&tasks)
            .args(words)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log_file.try_clone().context("cannot share a file")?)
            .stderr(log_file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut server = Self { name, child, address, meter };
        let begin = Instant::now();
        loop {
            let ready = server
                .connect()
                .and_then(|mut connection| connection.request("GET", "/v2/", "*/*", &Body::None, false)?.expect(200));
            match ready {
                Ok(_) => return Ok(server),
                Err(error) if begin.elapsed() > PATIENCE || server.child.try_wait()?.is_some() => {
                    let said = fs::read_to_string(&log).unwrap_or_default();
                    bail!("{name} does not answer: {error:#}\n{said}");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// It does not listen any more.
    pub fn connect(&self) -> Result<Connection> {
        Connection::open(self.address)
    }

    /// Time and its own processor time that `work` takes, in milliseconds.
    ///
    /// # Errors
    /// The work's.
    pub fn measure(&self, work: impl FnOnce() -> Result<()>) -> Result<(f64, f64)> {
        let before = self.meter.total()?;
        let begin = Instant::now();
        work().with_context(|| format!("with {}", self.name))?;
        let time = begin.elapsed();
        let cpu = self.meter.total()?.saturating_sub(before);
        Ok((time.as_secs_f64() * 1e3, cpu.as_secs_f64() * 1e3))
    }

    /// Resident memory in MiB: now, and at its largest.
    ///
    /// # Errors
    /// It is gone.
    pub fn memory(&self) -> Result<(f64, f64)> {
        let status = format!("/proc/{}/status", self.child.id());
        let read = |name| field::<f64>(&status, name).map(|kib| kib / 1024.0);
        read("VmRSS:").zip(read("VmHWM:")).with_context(|| format!("{} is gone", self.name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    listener.local_addr().context("no free port")
}
