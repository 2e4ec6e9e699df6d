//! What is done once, after the container has ended: exit file, control groups, sockets, next program.

use crate::{
    arguments::Arguments,
    log::Log,
    sys::{self, Errno, Fd},
    text::Text,
};
use core::ffi::CStr;

/// A control group can be busy for a moment after its last process has ended; how often and how long (nanoseconds, at
/// most) we wait between tries.
const TRIES: u32 = 40;
const LONGEST_WAIT: u64 = sys::SECOND / 10;
/// Enough for every exit file.
const RESERVED: [u8; 80] = [b' '; 80];

/// The exit file. It is made, with its space, when the container starts, so that a full disk cannot keep us from telling
/// how it ended.
pub struct ExitFile {
    path: &'static CStr,
    file: Option<Fd>,
}

impl ExitFile {
    pub fn reserve(path: &'static CStr, buffer: &mut [u8]) -> Self {
        let file = join(path, c".tmp", buffer).and_then(|path| make(path).ok());
        sys::forget(buffer);
        Self { path, file }
    }

    /// Writes the file and gives it its name. A file that does not fit on the disk is worth more than the oldest logs.
    pub fn write(&mut self, text: &[u8], sync: bool, log: &mut Log, buffer: &mut [u8]) {
        let Some(temporary) = join(self.path, c".tmp", buffer) else { return };
        let mut result = self.try_write(temporary, text, sync);
        if result.is_err() {
            // Anew: someone may have removed what was reserved.
            result = self.try_write(temporary, text, sync);
        }
        while matches!(result, Err(Errno::NOSPC | Errno::DQUOT)) && log.sacrifice() {
            result = self.try_write(temporary, text, sync);
        }
    }

    fn try_write(&mut self, temporary: &CStr, text: &[u8], sync: bool) -> sys::Result<()> {
        let file = self.file.take().map_or_else(|| make(temporary), Ok)?;
        let result = fill(file, text, sync);
        sys::close(file);
        result?;
        sys::rename(Fd::WORKING_DIRECTORY, temporary, self.path)
    }
}

fn fill(file: Fd, text: &[u8], sync: bool) -> sys::Result<()> {
    if sys::write_at(file, text, 0)? != text.len() {
        return Err(Errno::NOSPC);
    }
    sys::truncate(file, text.len() as u64)?;
    if sync { sys::sync(file) } else { Ok(()) }
}

/// Makes the file with all the space that it will need; without it if the disk is full.
fn make(path: &CStr) -> sys::Result<Fd> {
    let file = sys::open(Fd::WORKING_DIRECTORY, path, sys::O_WRONLY | sys::O_CREAT | sys::O_TRUNC, 0o644)?;
    // Tried again with the text itself.
    let _ = sys::write_at(file, &RESERVED, 0);
    Ok(file)
}

/// A path with something after it, in a buffer that has room for every path (`PATH_MAX`).
fn join<'a>(path: &CStr, suffix: &CStr, buffer: &'a mut [u8]) -> Option<&'a CStr> {
    let (path, suffix) = (path.to_bytes(), suffix.to_bytes_with_nul());
    let places = buffer.get_mut(..path.len() + suffix.len())?;
    let (start, end) = places.split_at_mut_checked(path.len())?;
    start.copy_from_slice(path);
    end.copy_from_slice(suffix);
    CStr::from_bytes_with_nul(places).ok()
}

/// The text of the exit file.
pub fn report(status: i32, time: u64, oom: bool, dropped: u64) -> Text<80> {
    let mut text = Text::new();
    if status < 0 {
        text.push(b"-");
    }
    text.push_number(u64::from(status.unsigned_abs())).push(b" ").push_number(time);
    text.push(if oom { b" 1 " } else { b" 0 " }).push_number(dropped).push(b"\n");
    text
}

/// Whether the kernel has killed something in the control group for want of memory: its file has a line `oom_kill N`
/// with a number above 0.
pub fn out_of_memory(path: &CStr) -> bool {
    let Ok(file) = sys::open(Fd::WORKING_DIRECTORY, path, sys::O_RDONLY, 0) else { return false };
    let mut buffer = [0; 512];
    let count = sys::read(file, &mut buffer).unwrap_or(0);
    sys::close(file);
    let text = buffer.get(..count).unwrap_or_default();
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"oom_kill "))
        .any(|number| number.iter().any(|byte| matches!(byte, b'1'..=b'9')))
}

/// Removes the control groups in order. What is still busy after the tries is left to the engine's sweep.
pub fn remove_cgroups(arguments: &Arguments, buffer: &mut [u8]) {
    let mut wait = sys::SECOND / 1000;
    for attempt in 0..TRIES {
        let mut busy = false;
        for path in arguments.values(b"cgroup") {
            if sys::remove_directory(path) == Err(Errno::BUSY) {
                busy = true;
                // Once is enough: the kernel keeps those that are born meanwhile from escaping.
                if attempt == 0 {
                    kill(path, buffer);
                }
            }
        }
        if !busy {
            return;
        }
        sys::sleep(wait);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Kills all that is in a control group, where the kernel can (cgroup v2, since 5.14).
fn kill(path: &CStr, buffer: &mut [u8]) {
    let Some(path) = join(path, c"/cgroup.kill", buffer) else { return };
    if let Ok(file) = sys::open(Fd::WORKING_DIRECTORY, path, sys::O_WRONLY, 0) {
        // Refused by a kernel without it; then the next tries show whether the group empties by itself.
        let _ = sys::write(file, b"1");
        sys::close(file);
    }
}

/// Removes what the container had in its run folder.
pub fn unlink(arguments: &Arguments) {
    for path in arguments.values(b"unlink") {
        // What is not there is as it should be; what cannot be removed is left to the engine's sweep.
        let _ = sys::unlink(Fd::WORKING_DIRECTORY, path);
    }
}
