//! The container's first process: has it ended, and how?

use crate::{
    arguments::Arguments,
    sys::{self, Errno, Fd, Watch},
    text::{self, Text},
};

/// Wait status when nobody can tell.
const UNKNOWN: i32 = -1;
/// How long the parent of an adopted init may take to reap it before its status counts as unknown (nanoseconds).
const REAPING: u64 = 2 * sys::SECOND;

pub struct Init {
    pid: i32,
    pidfd: Option<Fd>,
    /// Not our child: only the kernel's word, by pidfd, tells how it ended.
    adopted: bool,
    /// When it was seen to have ended without a status that can be had (monotonic nanoseconds).
    ended: Option<u64>,
    status: Option<i32>,
}

impl Init {
    pub fn new(arguments: &Arguments) -> Self {
        Self { pid: arguments.pid, pidfd: arguments.pidfd, adopted: arguments.adopted, ended: None, status: None }
    }

    /// Its wait status, once it has ended.
    pub fn status(&self) -> Option<i32> {
        self.status
    }

    pub fn watch(&self) -> Watch {
        // After it has ended only the hang-up is waited for, which tells that it has been reaped, and is always reported.
        // A child of ours is waited for by SIGCHLD only: while someone traces it, its pidfd would be readable without us
        // being able to reap it.
        Watch::new(self.pidfd.filter(|_| self.adopted), if self.ended.is_none() { sys::IN } else { 0 })
    }

    /// How long to wait at most before [`Init::look`] should be called again.
    pub fn wait(&self) -> Option<u64> {
        self.ended.map(|_| REAPING / 20)
    }

    /// Reaps every child that has ended; the init may be one of them.
    pub fn reap(&mut self) {
        loop {
            match sys::reap() {
                Ok(Some((pid, status))) => {
                    // Once it has ended without us, its number may be another's.
                    if pid == self.pid && self.ended.is_none() {
                        self.status = Some(status);
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    if error == Errno::CHILD && self.status.is_none() && !self.adopted {
                        self.adopt();
                    }
                    return;
                }
            }
        }
    }

    /// Without any child it is not our child either, whatever we were told.
    fn adopt(&mut self) {
        self.adopted = true;
        self.pidfd = self.pidfd.or_else(|| sys::open_pidfd(self.pid).ok());
        if self.pidfd.is_none() {
            self.status = Some(UNKNOWN);
        }
    }

    /// Looks at what the pidfd has seen.
    pub fn look(&mut self, seen: i16) {
        let Some(pidfd) = self.pidfd.filter(|_| self.adopted && self.status.is_none()) else { return };
        if seen == 0 && self.ended.is_none() {
            return;
        }
        let ended = *self.ended.get_or_insert_with(sys::monotonic);
        self.status = sys::exit_status(pidfd).or_else(|| self.zombie(pidfd));
        if self.status.is_none() && (sys::is_reaped(pidfd) || sys::monotonic() > ended + REAPING) {
            // Once more: it may have been reaped since.
            self.status = Some(sys::exit_status(pidfd).unwrap_or(UNKNOWN));
        }
    }

    /// The status of a process that has ended and has not been reaped, from the last field of its `stat`
    /// (proc_pid_stat(5)): all there is before kernel 6.15.
    fn zombie(&self, pidfd: Fd) -> Option<i32> {
        let mut path = Text::<32>::new();
        path.push(b"/proc/").push_number(self.pid.unsigned_abs().into()).push(b"/stat");
        let file = sys::open(Fd::WORKING_DIRECTORY, path.c_str(), sys::O_RDONLY, 0).ok()?;
        let mut buffer = [0; 768];
        let count = sys::read(file, &mut buffer);
        sys::close(file);
        let line = buffer.get(..count.ok()?)?.trim_ascii_end();
        // The name, in parentheses, may hold anything; what follows it does not.
        let name = line.iter().rposition(|&byte| byte == b')')?;
        let is_zombie = line.get(name + 2) == Some(&b'Z');
        let last = line.rsplit(|&byte| byte == b' ').next()?;
        let status = i32::try_from(text::number(last)?).ok()?;
        // If it has been reaped meanwhile, this may have been another process with the same number.
        (is_zombie && !sys::is_reaped(pidfd)).then_some(status)
    }
}
