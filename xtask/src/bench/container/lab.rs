//! What the works share: peers, bundles, our data folder, runners.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::bench::subject::Subject;
use crate::bench::{bundle, runner};
use crate::jdos::Containers;
use crate::workspace::Workspace;
use crate::{debian, run};

/// Packages of the peers, and what they need.
const PEERS: [&str; 4] = ["crun", "runc", "podman", "conmon"];

/// A container of ours that lives as long as the lab does, so that the control group of our data folder, which has
/// counted the time of all that lived in it, does too.
const KEEPER: &str = "keeper";

/// Everything a work needs. What it made is removed when it is dropped.
pub struct Lab {
    place: Place,
    group: String,
    ours: String,
}

/// What the commands of a run are made from.
#[derive(Clone)]
pub struct Place {
    /// Our command line.
    pub jdos: Containers,
    /// Where bundles and data are.
    pub folder: PathBuf,
    root: PathBuf,
}

impl Deref for Lab {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Place {
    /// A bundle's folder.
    pub fn bundle(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// The words of `run` with our root file system.
    pub fn flags(&self, flags: &[&str], program: &[&str]) -> Vec<String> {
        self.jdos.words(&self.with_root(flags, program))
    }

    /// `run`, flags, root, program.
    pub fn with_root<'a>(&'a self, flags: &[&'a str], program: &[&'a str]) -> Vec<&'a str> {
        let root = self.root.to_str().unwrap_or_default();
        [&["run"], flags, &["--rootfs", root], program].concat()
    }
}

impl Lab {
    /// Installs the peers, builds ours, makes the bundles.
    ///
    /// # Errors
    /// Any of it fails.
    pub fn new(workspace: &Workspace, ours: Option<&Path>) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "containers need root; next: sudo -E cargo xtask bench container"
        );
        debian::install(&PEERS)?;
        debian::install(&["busybox-static"])?;
        let binary = match ours {
            Some(path) => path.canonicalize().with_context(|| format!("no file {}", path.display()))?,
            None => workspace.release_binary("jdos")?,
        };
        let folder = workspace.scratch("bench/container")?;
        let data = folder.join("data");
        let jdos = Containers::new(&binary, &data);
        if data.exists() {
            // Of a run that was interrupted.
            jdos.clear()?;
        }
        let root = folder.join("root");
        make_root(&root)?;
        let group = format!("jdos-bench-{}", std::process::id());
        let mut lab = Self { place: Place { jdos, folder, root }, group, ours: String::new() };
        lab.bundles()?;
        lab.jdos.run(&lab.with_root(
            &["-d", "--replace", "--name", KEEPER, "--network", "none"],
            &["/bin/busybox", "sleep", "86400"],
        ))?;
        let cgroup =
            lab.jdos.inspect(KEEPER)?["cgroup"].as_str().context("the keeper has no control group")?.to_owned();
        let parent = cgroup.rsplit_once('/').map(|(parent, _)| parent.trim_start_matches('/'));
        let parent = parent.filter(|parent| !parent.is_empty());
        lab.ours = parent.with_context(|| format!("our containers have no group of their own: {cgroup}"))?.to_owned();
        Ok(lab)
    }

    /// Our runner; `make` gives the commands of the run with a number.
    pub fn ours(&self, name: &str, make: impl Fn(&Place, u64) -> Vec<Vec<String>> + 'static) -> Result<Subject> {
        let place = self.place.clone();
        let make = Box::new(move |number| make(&place, number));
        Subject::start(name, &[], &self.subgroup(name), &[&self.ours], make)
    }

    /// crun, which refuses a host that mounts both versions of control groups: there it lives where only version 1 is.
    pub fn crun(&self, count: u64) -> Result<Subject> {
        let hybrid = Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists();
        let wrap = ["unshare", "--mount", "sh", "-c", "umount /sys/fs/cgroup/unified && exec \"$@\"", "crun"];
        self.peer("crun", if hybrid { &wrap } else { &[] }, count)
    }

    /// runc.
    pub fn runc(&self, count: u64) -> Result<Subject> {
        self.peer("runc", &[], count)
    }

    /// podman with the same root and filter; it has no daemon, but storage of its own. By default it asks for larger process
    /// limits than a host without `CAP_SYS_RESOURCE` can give.
    pub fn podman(&self) -> Result<Subject> {
        let words: Vec<String> = self.podman_words(&["run", "--rm"], &["echo", "ready"]);
        Subject::start("podman", &[], &self.subgroup("podman"), &[], Box::new(move |_| vec![words.clone()]))
    }

    /// A command of podman's with our root file system.
    pub fn podman_words(&self, verb: &[&str], program: &[&str]) -> Vec<String> {
        let store = self.bundle("podman");
        let root = self.root.to_string_lossy();
        let parent = format!("/{}", self.subgroup("podman"));
        let words = [
            &["podman", "--root", &store, "--runroot", "/run/jdos-bench/podman"][..],
            &["--cgroup-manager", "cgroupfs", "--runtime", "runc", "--events-backend", "file"],
            verb,
            &["--network", "none", "--cgroup-parent", &parent, "--security-opt", "no-new-privileges"],
            &[
                "--ulimit",
                "nofile=1024:1024",
                "--ulimit",
                "nproc=4096:4096",
                "--memory",
                "256m",
                "--pids-limit",
                "100",
                "--rootfs",
                &root,
                "/bin/busybox",
            ],
            program,
        ];
        words.concat().into_iter().map(str::to_owned).collect()
    }

    fn peer(&self, name: &'static str, wrap: &[&str], count: u64) -> Result<Subject> {
        // Alone, its group lies below the runner's, where its time is counted; many at once need one each.
        let bundle = self.bundle(if count == 1 { name } else { "free" });
        let make = move |number: u64| {
            let one = |index: u64| {
                let id = format!("{name}-{number}-{index}");
                ["--root", &format!("/run/jdos-bench/{name}"), "run", "--bundle", &bundle, &id].map(str::to_owned)
            };
            (0..count).map(|index| [vec![name.to_owned()], one(index).to_vec()].concat()).collect()
        };
        Subject::start(name, wrap, &self.subgroup(name), &[], Box::new(make))
    }

    fn subgroup(&self, name: &str) -> String {
        format!("{}/{name}", self.group)
    }

    fn bundles(&self) -> Result<()> {
        for (name, cgroup) in [("ours", None), ("crun", Some("crun")), ("runc", Some("runc")), ("free", None)] {
            let cgroup = cgroup.map(|name| format!("/{}/container", self.subgroup(name)));
            bundle::write(&self.folder.join(name), &self.root, cgroup.as_deref(), &["/bin/busybox", "echo", "ready"])?;
        }
        Ok(())
    }

    /// Removes what the lab made, but for the files below the target folder.
    pub fn clear(&self) -> Result<()> {
        self.jdos.clear()?;
        for root in runner::hierarchies()? {
            runner::remove_groups(&root.path.join(&self.group));
        }
        debian::remove(Path::new("/run/jdos-bench"))
    }

    /// Who was measured, on what.
    pub fn conditions(&self) -> Result<Vec<String>> {
        let versions = ["crun", "runc", "podman"].map(|name| Ok(format!("{name} {}", debian::version(name)?)));
        let versions = versions.into_iter().collect::<Result<Vec<_>>>()?.join(", ");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
        let cores = std::thread::available_parallelism().context("cannot count the cores")?;
        let (_, file) = runner::accounting()?;
        let groups = if file == "cpu.stat" { "version 2" } else { "version 1" };
        let date = run::quiet(Command::new("date").arg("+%Y-%m-%d"))?;
        Ok(vec![
            format!("{}: {versions}", date.trim()),
            format!("Linux {}, {cores} cores, control groups {groups}, system call filter and limits on everywhere", kernel.trim()),
            "first output: from before the process is made until the first byte is read; processor time: all that was started, to its very end"
                .to_owned(),
        ])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // After a failure in the middle; a complete run has cleared already, and then this finds nothing.
        if let Err(error) = self.clear() {
            crate::output::detail(&format!("something of the benchmark may be left: {error:#}"));
        }
    }
}

/// A root file system of one static program.
fn make_root(root: &Path) -> Result<()> {
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(name)).with_context(|| format!("cannot make {}", root.display()))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| Path::new(path).is_file());
    let Some(busybox) = busybox else { bail!("busybox-static is installed, but there is no busybox") };
    let copy = root.join("bin/busybox");
    fs::copy(busybox, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot change {}", copy.display()))
}
