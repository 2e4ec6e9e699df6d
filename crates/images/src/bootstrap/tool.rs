//! Running mmdebstrap: everything it starts ends with us, what it says becomes progress, and its last lines an error.

use super::{
    BootstrapError, Watch,
    error::{Said, io},
};
use crate::progress::Event;
use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        atomic::Ordering,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

const TOOL: &str = "mmdebstrap";
/// Last lines kept for an error.
const TAIL: usize = 12;
/// Longest line that is looked at.
const LINE: u64 = 64 << 10;

/// Fails early when something that is needed is missing.
pub(super) fn check() -> Result<(), BootstrapError> {
    let needed = [
        (TOOL, "mmdebstrap"),
        ("apt-get", "apt"),
        ("dpkg", "dpkg"),
        ("setpriv", "util-linux"),
        ("unshare", "util-linux"),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (program, package) in needed {
        if !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
            return Err(BootstrapError::Program { program, package });
        }
    }
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(BootstrapError::NotRoot),
    }
}

/// Debian's name of this machine's architecture.
pub(super) fn architecture() -> Result<String, BootstrapError> {
    Ok(output("dpkg", &["--print-architecture"])?.trim().to_owned())
}

/// How this machine's apt fetches: proxies, deadlines, whether old lists are taken. None of it gets into the image.
pub(super) fn fetch_options() -> Result<Vec<String>, BootstrapError> {
    let text = output("apt-config", &["dump"])?;
    Ok(text.lines().filter(|line| is_fetch_option(line)).map(|line| line.trim_end_matches(';').to_owned()).collect())
}

/// `Acquire::http::Proxy "http://…";`, but nothing about which files are fetched.
fn is_fetch_option(line: &str) -> bool {
    const KNOWN: [&str; 10] = [
        "http::",
        "https::",
        "ftp::",
        "Retries",
        "Check-Valid-Until",
        "Check-Date",
        "Max-ValidTime",
        "Queue-Mode",
        "ForceIPv4",
        "ForceIPv6",
    ];
    line.strip_prefix("Acquire::").is_some_and(|rest| KNOWN.iter().any(|known| rest.starts_with(known)))
        && !line.ends_with("\"\";")
}

fn output(program: &'static str, arguments: &[&str]) -> Result<String, BootstrapError> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(io("run", Path::new(program)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
        let step = format!("running {}", arguments.join(" "));
        return Err(BootstrapError::Failed { program, step, source: Said { lines: said } });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One run of mmdebstrap.
pub(super) struct Run<'a> {
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where it works.
    pub folder: &'a Path,
    /// The time of everything it makes, in seconds since 1970.
    pub epoch: i64,
    /// How many packages it handles; 0: not known.
    pub packages: u64,
}

/// How a run ended badly.
pub(super) struct Broken {
    /// What it was doing.
    pub step: String,
    /// Its last lines that say something.
    pub said: Said,
    /// Everything that apt and dpkg called an error or a warning.
    pub errors: Vec<String>,
}

impl Broken {
    /// As an error of its own kind.
    pub fn plain(self) -> BootstrapError {
        BootstrapError::Failed { program: TOOL, step: self.step, source: self.said }
    }
}

impl Run<'_> {
    /// Runs to the end; each line it prints goes to `line` too.
    ///
    /// # Errors
    /// It can not be started, or the caller wants it to stop. That it failed is the inner result.
    pub fn run(self, watch: &Watch<'_>, mut line: impl FnMut(&str)) -> Result<Result<(), Broken>, BootstrapError> {
        let (reader, mut child) = self.start()?;
        let mut steps = Steps::new(self.packages);
        let (send, lines) = sync_channel::<String>(256);
        let (status, stopped) = thread::scope(|scope| {
            scope.spawn(move || read_lines(reader, |line| send.send(line).is_ok()));
            let mut stopped = false;
            loop {
                match lines.recv_timeout(Duration::from_millis(100)) {
                    Ok(text) => {
                        steps.line(&text, watch);
                        line(&text);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if !stopped && watch.stop.load(Ordering::Relaxed) {
                    stopped = true;
                    // Its namespace goes with it, and everything in that.
                    child.kill().map_err(io("stop", Path::new(TOOL)))?;
                }
            }
            let status: ExitStatus = child.wait().map_err(io("wait for", Path::new(TOOL)))?;
            Ok::<_, BootstrapError>((status, stopped))
        })?;
        match (status.success(), stopped) {
            (_, true) => Err(BootstrapError::Stopped),
            (true, _) => Ok(Ok(())),
            (false, _) => Ok(Err(steps.broken(status))),
        }
    }

    fn start(&self) -> Result<(impl Read + Send + use<>, Child), BootstrapError> {
        let temporary = self.folder.join("temporary");
        fs::create_dir_all(&temporary).map_err(io("make folder", &temporary))?;
        let (reader, writer) = std::io::pipe().map_err(io("make a pipe for", Path::new(TOOL)))?;
        let other = writer.try_clone().map_err(io("make a pipe for", Path::new(TOOL)))?;
        // A process namespace, which is killed when its first process is: when this thread ends, setpriv's signal ends
        // unshare, whose own ends the namespace. Nothing of it can outlive us, nor can what it mounts for the scripts of
        // packages: that is in a namespace too, which goes with the last process in it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL"]);
        command.args(["--mount", "--propagation", "private"]);
        // The shell stays, as the first process of the namespace: it takes in what loses its parent, which mmdebstrap does
        // not expect.
        command.args(["sh", "-c", "umask 022; \"$@\"; exit $?", "sh", TOOL]).args(&self.arguments);
        let kept = std::env::vars_os().filter(|(name, _)| is_kept(name));
        command.env_clear().envs(kept);
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("TMPDIR", &temporary).env("HOME", &temporary);
        command.env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        command.stdin(Stdio::null()).stdout(writer).stderr(other).current_dir(self.folder);
        // Ctrl-C on the terminal is for us: we stop it in our own way.
        command.process_group(0);
        let child = command.spawn().map_err(io("run", Path::new("setpriv")))?;
        Ok((reader, child))
    }
}

/// The environment may say how to get out, nothing else that could find its way into an image.
fn is_kept(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    name == "path" || name.ends_with("_proxy")
}

fn read_lines(reader: impl Read, mut each: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        // An error of a pipe is its end.
        match reader.by_ref().take(LINE).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(_) if !each(String::from_utf8_lossy(&bytes).trim_end().to_owned()) => return,
            Ok(_) => {}
        }
    }
}

/// What a run is doing.
struct Steps {
    step: String,
    done: u64,
    packages: u64,
    tail: VecDeque<String>,
    errors: Vec<String>,
}

impl Steps {
    fn new(packages: u64) -> Self {
        let (tail, errors) = (VecDeque::with_capacity(TAIL + 1), Vec::new());
        Self { step: "starting".to_owned(), done: 0, packages, tail, errors }
    }

    fn line(&mut self, line: &str, watch: &Watch<'_>) {
        if line.starts_with("E: ") || line.starts_with("W: ") || line.starts_with("Err:") {
            self.errors.push(line.to_owned());
            self.errors.truncate(64);
        }
        if !line.is_empty() {
            self.tail.push_back(line.to_owned());
            if self.tail.len() > TAIL {
                self.tail.pop_front();
            }
        }
        if let Some(step) = line.strip_prefix("I: ").and_then(step) {
            if step != self.step {
                step.clone_into(&mut self.step);
                self.done = 0;
                self.tell(watch);
            }
        } else if ["Get:", "Selecting ", "Preparing ", "Setting up "].iter().any(|begin| line.starts_with(begin)) {
            self.done += 1;
            self.tell(watch);
        }
    }

    fn tell(&self, watch: &Watch<'_>) {
        // Preparing, unpacking and configuring are not all said in every step: an estimate that never runs over.
        let of =
            if self.step.starts_with("downloading") || self.step.starts_with("install") { self.packages } else { 0 };
        watch.progress.event(Event::Step { what: &self.step, done: self.done.min(of), of });
    }

    fn broken(self, status: ExitStatus) -> Broken {
        let mut lines: Vec<String> = self.tail.into();
        if lines.is_empty() {
            lines.push(format!("it ended with {status}"));
        }
        Broken { step: self.step, said: Said { lines }, errors: self.errors }
    }
}

/// What a line of mmdebstrap's says it does now, for people.
fn step(line: &str) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 9] = [
        ("running apt-get update", "fetching package lists"),
        ("simulate ", "resolving packages"),
        ("downloading packages", "downloading packages"),
        ("extracting archives", "extracting packages"),
        ("installing essential", "installing essential packages"),
        ("installing remaining", "installing packages"),
        ("cleaning package lists", "cleaning up"),
        ("creating tarball", "writing the archive"),
        ("removing tempdir", "cleaning up"),
    ];
    KNOWN.iter().find(|(begin, _)| line.starts_with(begin)).map(|(_, step)| *step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Progress;
    use std::sync::{Mutex, atomic::AtomicBool};

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Progress for Heard {
        fn event(&self, event: Event<'_>) {
            if let Event::Step { what, done, of } = event {
                self.0.lock().unwrap().push(format!("{what} {done}/{of}"));
            }
        }
    }

    #[test]
    fn options_of_fetching() {
        assert!(is_fetch_option(r#"Acquire::http::Proxy "http://proxy.test:3128";"#));
        assert!(is_fetch_option(r#"Acquire::Check-Valid-Until "false";"#));
        assert!(!is_fetch_option(r#"Acquire::Languages "";"#) && !is_fetch_option(r#"Acquire::http::Proxy "";"#));
        assert!(!is_fetch_option(r#"APT::Install-Recommends "0";"#));
    }

    #[test]
    fn steps_are_told_once_and_packages_counted() {
        let heard = Heard::default();
        let stop = AtomicBool::new(false);
        let watch = Watch { progress: &heard, stop: &stop };
        let mut steps = Steps::new(2);
        for line in
            ["I: downloading packages with apt...", "Get:1 x", "Get:2 y", "Get:3 z", "I: creating tarball...", "E: no"]
        {
            steps.line(line, &watch);
        }
        let told = heard.0.lock().unwrap().join(", ");
        let expected = "downloading packages 0/2, downloading packages 1/2, downloading packages 2/2, downloading packages 2/2, writing the archive 0/0";
        assert_eq!(told, expected);
        assert_eq!(steps.errors, ["E: no"]);
    }

    #[test]
    fn what_is_run_ends_with_the_wish() {
        let folder = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(true);
        let watch = Watch { progress: &crate::Silent, stop: &stop };
        let run = Run { arguments: vec!["--help".to_owned()], folder: folder.path(), epoch: 0, packages: 0 };
        assert!(matches!(run.run(&watch, |_| {}), Err(BootstrapError::Stopped)));
    }
}
