//! One call of the program runc, and what it has to say when it fails.

use crate::{
    options::Runc,
    runtime::{
        message::{During, Failure, FailureKind},
        runc::FOLDER,
    },
    sys::process::{self, Side},
};
use oci_spec::runtime::Process;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Signal, WaitId, WaitIdOptions, chdir, pidfd_send_signal, setsid, waitid},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use std::{
    ffi::CString,
    fs,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// How long one call may take; runc needs some 20 ms.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// Bytes of its log that are read.
const MOST_LOG: u64 = 64 << 10;

/// A call, put together.
pub struct Call<'a> {
    runc: &'a Runc,
    running: &'a Path,
    log: &'a str,
    program: &'a str,
    arguments: Vec<String>,
}

impl<'a> Call<'a> {
    /// A call about the container with this run folder, where its log is written; for this process, if it is about one.
    pub fn new(runc: &'a Runc, running: &'a Path, log: &'a str, process: &'a Process) -> Self {
        let program = process.args().as_ref().and_then(|all| all.first()).map_or("", String::as_str);
        let root = running.join(FOLDER).display().to_string();
        let arguments = ["runc", "--root", &root, "--log", log, "--log-format", "json"].map(str::to_owned).to_vec();
        Self { runc, running, log, program, arguments }
    }

    /// Adds arguments.
    pub fn arguments<const N: usize>(&mut self, more: [&str; N]) {
        self.arguments.extend(more.map(str::to_owned));
    }

    /// Runs it in the run folder with these standard streams, and waits for its end.
    pub fn run(self, streams: [BorrowedFd<'_>; 3]) -> Result<(), Failure> {
        let program = &self.runc.0.display();
        let name = |text: &str| CString::new(text).map_err(io::Error::from).during("run", program);
        let file = name(&self.runc.0.to_string_lossy())?;
        let arguments = self.arguments.iter().map(|one| name(one)).collect::<Result<Vec<_>, _>>()?;
        let path = CString::new("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .map_err(io::Error::from)
            .during("run", program)?;
        let (told, tell) = pipe_with(PipeFlags::CLOEXEC).during("open", "a pipe")?;
        let pidfd = match process::clone(0, None).during("start", program)? {
            Side::Child => {
                let errno = become_it(self.running, streams, &file, &arguments, &[path]);
                // The parent has gone if nobody reads this; it ends either way.
                let code = i32::from(rustix::io::write(&tell, &errno.raw_os_error().to_ne_bytes()).is_err());
                process::exit(126 + code)
            }
            Side::Parent { pidfd, .. } => pidfd,
        };
        drop(tell);
        let mut word = Vec::new();
        let read = fs::File::from(told).read_to_end(&mut word);
        let status = wait(&pidfd).during("wait for", program)?;
        read.during("start", program)?;
        if let Ok(number) = word.as_slice().try_into() {
            let errno = io::Error::from_raw_os_error(i32::from_ne_bytes(number));
            return Err(Failure::new(FailureKind::Failed, "execute", program, errno));
        }
        match status {
            Ended::With(0) => Ok(()),
            Ended::With(code) => Err(self.failure(&format!("it ended with code {code} without a word"))),
            Ended::By(signal) => Err(self.failure(&format!("it was ended by signal {signal}"))),
            Ended::Late => Err(self.failure(&format!("it was not done in {} s", PATIENCE.tv_sec))),
        }
    }

    /// What it has last logged as an error, or else this.
    fn failure(&self, otherwise: &str) -> Failure {
        let mut text = String::new();
        let log = fs::File::open(self.running.join(self.log));
        let read = log.and_then(|file| file.take(MOST_LOG).read_to_string(&mut text));
        let reason = match (read, last_error(&text)) {
            (_, Some(reason)) => reason,
            (Err(error), None) if error.kind() != io::ErrorKind::NotFound => {
                format!("{otherwise} ({}: {error})", self.log)
            }
            (_, None) => otherwise.to_owned(),
        };
        let kind = kind(&reason, self.program);
        match kind {
            FailureKind::NotFound | FailureKind::NotExecutable => {
                Failure::new(kind, "run", self.program, format!("runc says: {reason}"))
            }
            _ => Failure::new(kind, "have it made by", self.runc.0.display(), reason),
        }
    }
}

fn become_it(
    folder: &Path,
    [input, output, error]: [BorrowedFd<'_>; 3],
    file: &CString,
    arguments: &[CString],
    environment: &[CString],
) -> Errno {
    let prepare = || {
        // A runc that outlived its shim could make groups that have just been swept.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        setsid()?;
        chdir(folder)?;
        dup2_stdin(input)?;
        dup2_stdout(output)?;
        dup2_stderr(error)?;
        process::default_sigpipe()?;
        process::close_on_exec_from(3)
    };
    match prepare() {
        Ok(()) => process::execute(file, arguments, environment),
        Err(errno) => errno,
    }
}

enum Ended {
    With(i32),
    By(i32),
    Late,
}

fn wait(pidfd: &OwnedFd) -> rustix::io::Result<Ended> {
    let mut late = false;
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&PATIENCE)) {
            Ok(0) => {
                late = true;
                pidfd_send_signal(pidfd, Signal::KILL)?;
                break;
            }
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
    Ok(match status.map(|status| (status.exit_status(), status.terminating_signal())) {
        _ if late => Ended::Late,
        Some((Some(code), _)) => Ended::With(code),
        Some((None, Some(signal))) => Ended::By(signal),
        Some((None, None)) | None => Ended::With(-1),
    })
}

/// The last message of a log in JSON whose level is an error's.
fn last_error(log: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut errors = lines.filter(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic"));
    errors.next_back().map(|line| line.msg.trim().to_owned())
}

/// Tells a program that is missing, or can not be executed, from all else by what runc says of it.
fn kind(reason: &str, program: &str) -> FailureKind {
    let Some((_, why)) = reason.split_once(&format!("exec: {program:?}: ")) else { return FailureKind::Failed };
    if why.contains("not found") || why.contains("no such file") {
        FailureKind::NotFound
    } else {
        FailureKind::NotExecutable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_counts_and_its_kind_is_told() {
        let log = r#"{"level":"warning","msg":"a","time":"x"}
            {"level":"error","msg":"first","time":"x"}
            {"level":"error","msg":"runc create failed: exec: \"no\": executable file not found in $PATH","time":"x"}
            half a li"#;
        let last = last_error(log).unwrap();
        assert_eq!(last, "runc create failed: exec: \"no\": executable file not found in $PATH");
        assert_eq!(kind(&last, "no"), FailureKind::NotFound);
        assert_eq!(kind(&last, "other"), FailureKind::Failed);
        let text = "exec failed: exec: \"/etc/passwd\": permission denied";
        assert_eq!(kind(text, "/etc/passwd"), FailureKind::NotExecutable);
        assert_eq!(last_error("nothing\n{}"), None);
    }
}
