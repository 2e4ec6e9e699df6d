//! The real program with real pipes, sockets and children. Needs root for the two tests that mount or make control groups.

use super::*;
use crate::{
    attach::{Client, Event},
    logs::{self, Line, Query, Stream},
    runtime::shim::listen_at,
    state::Exit,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, mkfifoat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use std::{
    fs::File,
    ops::ControlFlow,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

mod clients;
mod endings;
mod output;

/// Starts the command as a child of what becomes the monitor. The container's ends of the FIFOs are opened before, as a
/// shim does. Descriptors come as standard input (listening socket), output (client) and error (terminal), since nothing
/// else can be passed without other tests' children inheriting it. dash has descriptors of one digit only, and reaps at
/// every command, so nothing may stand between the start of the command and the monitor.
const SHIM: &str = r#"
exec 4<&0 5<&1 6<&2 </dev/null >/dev/null 2>errors
if [ -n "$TTY" ]; then
    setsid sh -c "$COMMAND" <>"$TTY" >&0 2>&0 4<&- 5<&- 6<&- &
    exec "$MONITOR" pid=$! tty=1 out=6 "$@"
fi
exec 8<>out 9<>err
exec 3<out 6<err
exec 1</dev/null
if [ -p in ]; then
    exec 7<>in 1<in
    exec 7>in
    set -- in=7 "$@"
fi
sh -c "$OTHER" </dev/null 3<&- 4<&- 5<&- 6<&- 7>&- 8>&- 9>&- &
sh -c "$COMMAND" <&1 >&8 2>&9 3<&- 4<&- 5<&- 6<&- 7>&- 8>&- 9>&- &
exec "$MONITOR" pid=$! out=3 err=6 "$@" >/dev/null 8>&- 9>&-
"#;

/// Takes over: the command's process is not a child of the new monitor.
const REPLACEMENT: &str = r#"
exec 4<&0 5<&1 </dev/null >/dev/null 2>errors
exec 8<>out 9<>err
exec 3<out 6<err
exec "$MONITOR" out=3 err=6 pidfd=4 listen=5 adopted=1 "$@" 8>&- 9>&-
"#;

fn program() -> &'static Path {
    static PATH: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PATH.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = install_in(folder.path()).unwrap();
        // A child that another test forked meanwhile has the file open for writing until it executes.
        eventually("the program can be executed", || {
            let code = Command::new(&path).stderr(Stdio::null()).status().ok()?.code();
            (code == Some(64)).then_some(())
        });
        (folder, path)
    });
    path
}

fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    // Long, because an emulated machine is slow; it passes only where something is wrong.
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        if let Some(result) = condition() {
            return result;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What a test runs, and where.
struct Case {
    folder: TempDir,
    max: u64,
    files: u32,
    stdin: bool,
    terminal: Option<(OwnedFd, String)>,
    client: Option<OwnedFd>,
    other: &'static str,
    more: Vec<String>,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("log")).unwrap();
        Self {
            folder,
            max: 16 << 20,
            files: 3,
            stdin: false,
            terminal: None,
            client: None,
            other: ":",
            more: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn fifo(self, name: &str) -> Self {
        make_fifo(&self.path(name));
        self
    }

    fn log(mut self, max: u64, files: u32) -> Self {
        (self.max, self.files) = (max, files);
        self
    }

    fn stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    fn more(mut self, arguments: &[&str]) -> Self {
        self.more.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// With a client from the start.
    fn attached(mut self) -> (Self, Client) {
        let (client, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        self.client = Some(other);
        (self, Client::from_fd(client))
    }

    fn shell(&self, script: &str, zeroth: Stdio) -> Command {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg("shim").current_dir(self.folder.path()).env("MONITOR", program());
        shell.stdin(zeroth).process_group(0);
        shell.args(["log=log", "exit=exit"]).arg(format!("max={}", self.max)).arg(format!("files={}", self.files));
        shell
    }

    fn start(mut self, command: &str) -> Running {
        for (name, wanted) in [("out", true), ("err", true), ("in", self.stdin)] {
            if wanted {
                make_fifo(&self.path(name));
            }
        }
        let socket = listen_at(self.folder.path()).unwrap();
        let mut shell = self.shell(SHIM, socket.into());
        shell.env("COMMAND", command).env("OTHER", self.other).arg("listen=4");
        match self.client.take() {
            Some(client) => shell.stdout(client).arg("client=5"),
            None => shell.stdout(Stdio::null()),
        };
        match self.terminal.take() {
            Some((master, name)) => shell.stderr(master).env("TTY", name),
            None => shell.stderr(Stdio::null()),
        };
        shell.args(&self.more);
        let monitor = shell.spawn().unwrap();
        let running = Running { case: self, monitor };
        eventually("the shell has become the monitor, or ended", || {
            let state = fs::read_to_string(format!("/proc/{}/stat", running.monitor.id())).unwrap();
            (running.init().is_some() || state.contains(") Z ")).then_some(())
        });
        running
    }
}

impl Case {
    /// A monitor for a process that is not its child.
    fn replacement(self, init: Pid) -> Running {
        let pidfd = pidfd_open(init, PidfdFlags::empty()).unwrap();
        let socket = listen_at(self.folder.path()).unwrap();
        let mut shell = self.shell(REPLACEMENT, pidfd.into());
        shell.arg(format!("pid={}", init.as_raw_nonzero())).stdout(socket).stderr(Stdio::null());
        Running { monitor: shell.spawn().unwrap(), case: self }
    }
}

struct Running {
    case: Case,
    monitor: Child,
}

impl Running {
    fn path(&self, name: &str) -> PathBuf {
        self.case.path(name)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.monitor.id().try_into().unwrap()).unwrap()
    }

    fn attach(&self) -> Client {
        Client::connect(&self.path("attach")).unwrap()
    }

    /// Waits for the monitor's end, and reads the exit file.
    fn wait(&mut self) -> Exit {
        let status = eventually("the monitor ends", || self.monitor.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{}", fs::read_to_string(self.path("errors")).unwrap());
        self.exit()
    }

    fn exit(&self) -> Exit {
        Exit::read(&self.path("exit")).unwrap().expect("an exit file")
    }

    fn lines(&self) -> Vec<Line> {
        lines_of(&self.path("log"), &Query::default())
    }

    fn text(&self, stream: Stream) -> String {
        let mut text = Vec::new();
        for line in self.lines() {
            if line.stream == stream {
                text.extend_from_slice(&line.text);
                if !line.partial {
                    text.push(b'\n');
                }
            }
        }
        String::from_utf8(text).unwrap()
    }

    fn children(&self) -> Vec<i32> {
        let pid = self.monitor.id();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// The command's process, as the monitor was told.
    fn init(&self) -> Option<Pid> {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", self.monitor.id())).unwrap();
        let pid = line.split('\0').find_map(|argument| argument.strip_prefix("pid="))?;
        Pid::from_raw(pid.parse().unwrap())
    }

    /// Lets a command go on that waits for a line from the FIFO `go`.
    fn go(&self) {
        File::options().write(true).open(self.path("go")).unwrap().write_all(b"go\n").unwrap();
    }

    /// A new monitor for the command of one that was killed.
    fn replace(mut self, init: Pid) -> Self {
        let case = std::mem::replace(&mut self.case, Case::new());
        case.replacement(init)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed test only: its own process group, still there as long as the monitor has not been waited for.
        if let Ok(None) = self.monitor.try_wait() {
            rustix::process::kill_process_group(self.pid(), Signal::KILL).ok();
            self.monitor.wait().ok();
        }
    }
}

fn make_fifo(path: &Path) {
    mkfifoat(CWD, path, Mode::from_raw_mode(0o600)).unwrap();
}

fn lines_of(log: &Path, query: &Query) -> Vec<Line> {
    let mut lines = Vec::new();
    logs::read(
        log,
        query,
        || false,
        |line| {
            lines.push(line);
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    lines
}

/// All that a client gets: output, error output, and how it ended.
fn receive_all(client: &Client) -> (Vec<u8>, Vec<u8>, Option<(i32, bool)>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match client.receive().unwrap() {
            Event::Stdout(bytes) => out.extend(bytes),
            Event::Stderr(bytes) => err.extend(bytes),
            Event::Exited { status, oom } => return (out, err, Some((status, oom))),
            Event::Closed => return (out, err, None),
        }
    }
}

/// The next event if there is one now.
fn try_receive(client: &Client) -> Option<Event> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(client, PollFlags::IN)], Some(&now)).unwrap();
    (ready > 0).then(|| client.receive().unwrap())
}

/// Receives output until it contains the text.
fn receive_until(client: &Client, text: &str) -> String {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(text) {
        match client.receive().unwrap() {
            Event::Stdout(bytes) | Event::Stderr(bytes) => got.extend(bytes),
            other => panic!("{other:?} before {text:?}, after {:?}", String::from_utf8_lossy(&got)),
        }
    }
    String::from_utf8(got).unwrap()
}

/// `1\n2\n…` as seq(1) writes it.
fn numbers(from: usize, to: usize) -> String {
    (from..=to).map(|number| format!("{number}\n")).collect()
}

/// Compares without printing megabytes.
fn assert_same(got: &[u8], wanted: &[u8]) {
    if got != wanted {
        let place = got.iter().zip(wanted).position(|(got, wanted)| got != wanted);
        panic!("{} bytes instead of {}, first difference at {place:?}", got.len(), wanted.len());
    }
}

fn assert_code(exit: Exit, code: i32) {
    assert_eq!((exit.code, exit.signal, exit.oom, exit.dropped), (Some(code), None, false, 0));
}

/// A file system of its own, small enough to be full.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: &Path, flags: MountFlags, options: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        let options = CString::new(options).unwrap();
        mount("tmpfs", path, "tmpfs", flags, options.as_c_str()).expect("mounting needs root");
        Self(path.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

fn layout(folder: &TempDir) -> Layout {
    Layout::open(&folder.path().join("data"), Some(&folder.path().join("run"))).unwrap()
}

#[test]
fn the_program_is_installed_once_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let layout = layout(&folder);
    let path = install(&layout).unwrap();
    assert_eq!(path.parent(), Some(layout.run().join("bin").as_path()));
    let first = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(install(&layout).unwrap(), path);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), first, "not written again");
    fs::write(&path, b"torn").unwrap();
    assert_eq!(install(&layout).unwrap(), path);
    assert_eq!(fs::read(&path).unwrap(), PROGRAM);
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "no temporary file is left");
    thread::scope(|scope| {
        fs::remove_file(&path).unwrap();
        let installs: Vec<_> = (0..8).map(|_| scope.spawn(|| install(&layout))).collect();
        for result in installs {
            assert_eq!(result.join().unwrap().unwrap(), path);
        }
    });
}

#[test]
fn the_program_goes_where_it_can_be_executed() {
    let folder = tempfile::tempdir().unwrap();
    let _run = Tmpfs::mount(&folder.path().join("run"), MountFlags::NOEXEC, "size=1m");
    let layout = layout(&folder);
    let path = install(&layout).unwrap();
    assert_eq!(path.parent(), Some(layout.data().join("bin").as_path()));
    let _data = Tmpfs::mount(&folder.path().join("data"), MountFlags::NOEXEC, "size=1m");
    let error = install(&layout).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("noexec"), "{error}");
}

#[test]
fn the_command_line_says_all() {
    let mut arguments = Arguments {
        pid: 7,
        pidfd: 3,
        adopted: true,
        output: 4,
        error: Some(5),
        input: Some(6),
        tty: false,
        interactive: true,
        listen: 7,
        client: Some(8),
        log: "/a b/log".into(),
        max_size: 65536,
        max_files: 3,
        exit: "/x/exit".into(),
        sync: true,
        oom: Some("/o".into()),
        cgroups: vec!["/c1".into(), "/c2".into()],
        unlink: vec!["/u".into()],
        finally: vec!["/bin/true".into(), "now".into()],
    };
    let text = |arguments: &Arguments| {
        let argv = arguments.to_argv().unwrap();
        argv.iter().map(|argument| argument.to_str().unwrap().to_owned()).collect::<Vec<_>>().join("|")
    };
    assert_eq!(
        text(&arguments),
        "jdos-monitor|pid=7|pidfd=3|adopted=1|out=4|err=5|in=6|tty=0|interactive=1|listen=7|client=8|log=/a b/log|\
         max=65536|files=3|exit=/x/exit|sync=1|oom=/o|cgroup=/c1|cgroup=/c2|unlink=/u|--|/bin/true|now"
    );
    (arguments.tty, arguments.error, arguments.input, arguments.client) = (true, None, None, None);
    (arguments.oom, arguments.cgroups, arguments.unlink, arguments.finally) = (None, vec![], vec![], vec![]);
    assert_eq!(
        text(&arguments),
        "jdos-monitor|pid=7|pidfd=3|adopted=1|out=4|tty=1|interactive=1|listen=7|log=/a b/log|max=65536|files=3|\
         exit=/x/exit|sync=1"
    );
    arguments.exit = "a\0b".into();
    assert_eq!(arguments.to_argv().unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn wrong_arguments_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], wrong: &str| {
        let output = Command::new(program()).args(arguments).current_dir(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text, format!("monitor: wrong or missing argument: {wrong}\n"), "{arguments:?}");
    };
    let all = ["pid=1", "pidfd=0", "adopted=1", "out=0", "log=l", "max=4096", "files=1", "exit=e"];
    for wrong in [
        "nonsense=1",
        "nonsense",
        "=",
        "=1",
        "",
        "-",
        "pid",
        "pid=",
        "pid=1x",
        "pid=-1",
        "pid= 1",
        "pid=99999999999",
        "out=99999999999999999999999",
        "err=x",
        "in=",
        "listen=1.0",
        "client=0x1",
        "pidfd=+1",
        "tty=2",
        "adopted=yes",
        "interactive=",
        "sync=01",
        "max=4095",
        "max=64k",
        "files=0",
        "log=",
        "exit=",
        "oom=",
        "cgroup=",
        "unlink=",
    ] {
        refused(&[&[wrong], &all[..]].concat(), wrong);
        refused(&[&all[..], &[wrong]].concat(), wrong);
    }
    for needed in ["pid", "pidfd", "out", "log", "max", "files", "exit"] {
        let rest: Vec<_> =
            all.iter().copied().filter(|argument| argument.split_once('=').unwrap().0 != needed).collect();
        refused(&rest, needed);
        // What comes after belongs to another program.
        refused(&[&rest[..], &["--"], &all[..]].concat(), needed);
    }
    refused(&["pid=0", "out=0", "log=l", "max=4096", "files=1", "exit=e"], "pid");
    refused(&[], "pid");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
}
