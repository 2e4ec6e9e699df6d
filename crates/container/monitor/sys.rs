//! System calls: the one file that knows the processor, and the only one with `unsafe` besides the entry in `main.rs`.
//!
//! A port to another processor adds its entry code, its call instruction and its table of numbers. Only calls that
//! every 64-bit Linux has are used (`openat`, `ppoll`, `renameat2`, never `open`, `poll`, `rename`), so nothing above
//! this file changes.

use core::{
    arch::{asm, global_asm},
    ffi::{CStr, c_char},
    marker::PhantomData,
    ptr,
};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!(
    "the monitor has system calls for x86_64 Linux only: add this processor's entry, call and numbers to monitor/sys.rs"
);

// At entry the stack pointer points at argc, argv, NULL, environment, NULL (System V ABI, "process initialization").
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym crate::start,
);

#[cfg(target_arch = "x86_64")]
mod number {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const LSEEK: usize = 8;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const PREAD64: usize = 17;
    pub const PWRITE64: usize = 18;
    pub const MADVISE: usize = 28;
    pub const SENDMSG: usize = 46;
    pub const RECVMSG: usize = 47;
    pub const SETSOCKOPT: usize = 54;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const FCNTL: usize = 72;
    pub const FSYNC: usize = 74;
    pub const FTRUNCATE: usize = 77;
    pub const CLOCK_GETTIME: usize = 228;
    pub const EXIT_GROUP: usize = 231;
    pub const OPENAT: usize = 257;
    pub const UNLINKAT: usize = 263;
    pub const PPOLL: usize = 271;
    pub const SPLICE: usize = 275;
    pub const TEE: usize = 276;
    pub const ACCEPT4: usize = 288;
    pub const SIGNALFD4: usize = 289;
    pub const PIPE2: usize = 293;
    pub const PWRITEV: usize = 296;
    pub const RENAMEAT2: usize = 316;
    pub const PIDFD_SEND_SIGNAL: usize = 424;
    pub const PIDFD_OPEN: usize = 434;
}

/// An error number of the kernel (errno(3)).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const SRCH: Self = Self(3);
    pub const CHILD: Self = Self(10);
    pub const AGAIN: Self = Self(11);
    pub const NOMEM: Self = Self(12);
    pub const BUSY: Self = Self(16);
    pub const INVAL: Self = Self(22);
    pub const NOSPC: Self = Self(28);
    pub const DQUOT: Self = Self(122);
    pub const CONNRESET: Self = Self(104);
    pub const NOBUFS: Self = Self(105);
}

pub type Result<T> = core::result::Result<T, Errno>;

/// The largest error number (`MAX_ERRNO` of the kernel); results from `-MAX_ERRNO` to -1 are errors.
const MAX_ERRNO: isize = 4095;

/// Pointers are passed as numbers, and must be exposed (`expose_provenance`): else the compiler may think that nobody can
/// reach what they point to, and leave out writing it.
///
/// # Safety
/// Pointers among the arguments must be valid for what the call does with them.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize> {
    let result: isize;
    // SAFETY: the kernel keeps every register but rax, rcx and r11; the caller answers for the arguments.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if (-MAX_ERRNO..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

/// An open file. Copies name the same file: who closes it must have taken it from its owner (`Option::take`).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Fd(pub i32);

impl Fd {
    /// The directory that `…at` calls start from, when their path is absolute or relative to the working directory.
    pub const WORKING_DIRECTORY: Self = Self(-100);
    const fn raw(self) -> usize {
        self.0 as usize
    }
}

pub const O_RDONLY: usize = 0;
pub const O_WRONLY: usize = 1;
pub const O_RDWR: usize = 2;
pub const O_CREAT: usize = 0o100;
pub const O_TRUNC: usize = 0o1000;
const O_NONBLOCK: usize = 0o4000;
const O_CLOEXEC: usize = 0o2_000_000;

pub fn open(directory: Fd, path: &CStr, flags: usize, mode: usize) -> Result<Fd> {
    // SAFETY: the path is a string that ends with NUL.
    let fd = unsafe {
        call(number::OPENAT, [directory.raw(), path.as_ptr().expose_provenance(), flags | O_CLOEXEC, mode, 0, 0])
    }?;
    Ok(Fd(fd as i32))
}

pub fn close(fd: Fd) {
    // SAFETY: no memory is involved. An error leaves nothing to do: the number is free again in any case.
    let _ = unsafe { call(number::CLOSE, [fd.raw(), 0, 0, 0, 0, 0]) };
}

pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes into a buffer that is ours alone.
    unsafe { call(number::READ, [fd.raw(), buffer.as_mut_ptr().expose_provenance(), buffer.len(), 0, 0, 0]) }
}

pub fn read_at(fd: Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    // SAFETY: as for `read`.
    unsafe {
        call(number::PREAD64, [fd.raw(), buffer.as_mut_ptr().expose_provenance(), buffer.len(), offset as usize, 0, 0])
    }
}

pub fn write(fd: Fd, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads `len` bytes.
    unsafe { call(number::WRITE, [fd.raw(), bytes.as_ptr().expose_provenance(), bytes.len(), 0, 0, 0]) }
}

pub fn write_at(fd: Fd, bytes: &[u8], offset: u64) -> Result<usize> {
    // SAFETY: the kernel reads `len` bytes.
    unsafe {
        call(number::PWRITE64, [fd.raw(), bytes.as_ptr().expose_provenance(), bytes.len(), offset as usize, 0, 0])
    }
}

/// One part of a scattered read or write (`struct iovec`); the lifetime is that of the memory.
#[repr(C)]
pub struct Part<'a> {
    base: *mut u8,
    length: usize,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Part<'a> {
    pub fn from(bytes: &'a [u8]) -> Self {
        Self { base: bytes.as_ptr().cast_mut(), length: bytes.len(), memory: PhantomData }
    }
    pub fn into(bytes: &'a mut [u8]) -> Self {
        Self { base: bytes.as_mut_ptr(), length: bytes.len(), memory: PhantomData }
    }
}

pub fn write_parts_at(fd: Fd, parts: &[Part<'_>], offset: u64) -> Result<usize> {
    // SAFETY: each part is valid for reading as long as it lives. The high half of the offset counts on 32-bit only.
    unsafe { call(number::PWRITEV, [fd.raw(), parts.as_ptr().expose_provenance(), parts.len(), offset as usize, 0, 0]) }
}

/// Moves up to `most` bytes from a pipe into a file at an offset, without waiting for the pipe.
pub fn splice_at(pipe: Fd, file: Fd, offset: u64, most: usize) -> Result<usize> {
    let mut offset = offset as i64;
    // SAFETY: the kernel reads and writes the offset, which outlives the call.
    unsafe {
        call(
            number::SPLICE,
            [pipe.raw(), 0, file.raw(), ptr::from_mut(&mut offset).expose_provenance(), most, SPLICE_F_NONBLOCK],
        )
    }
}

const SPLICE_F_NONBLOCK: usize = 2;

/// Moves up to `most` bytes from a pipe to a pipe or device, without waiting.
pub fn splice(from: Fd, to: Fd, most: usize) -> Result<usize> {
    // SAFETY: no memory is involved.
    unsafe { call(number::SPLICE, [from.raw(), 0, to.raw(), 0, most, SPLICE_F_NONBLOCK]) }
}

/// Puts up to `most` bytes that one pipe holds into another as well, without copying and without waiting.
pub fn tee(from: Fd, to: Fd, most: usize) -> Result<usize> {
    // SAFETY: no memory is involved.
    unsafe { call(number::TEE, [from.raw(), to.raw(), most, SPLICE_F_NONBLOCK, 0, 0]) }
}

/// A new pipe: the end to read and the end to write.
pub fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [Fd(-1); 2];
    // SAFETY: the kernel writes two numbers.
    unsafe { call(number::PIPE2, [ends.as_mut_ptr().expose_provenance(), O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0]) }?;
    Ok((ends[0], ends[1]))
}

/// Asks for a larger or smaller pipe, bytes.
pub fn set_pipe_size(pipe: Fd, size: usize) -> Result<usize> {
    const F_SETPIPE_SZ: usize = 1031;
    // SAFETY: no memory is involved.
    unsafe { call(number::FCNTL, [pipe.raw(), F_SETPIPE_SZ, size, 0, 0, 0]) }
}

/// Makes reads and writes return `AGAIN` instead of waiting.
pub fn set_nonblocking(fd: Fd) -> Result<()> {
    const F_GETFL: usize = 3;
    const F_SETFL: usize = 4;
    // SAFETY: no memory is involved.
    let flags = unsafe { call(number::FCNTL, [fd.raw(), F_GETFL, 0, 0, 0, 0]) }?;
    // SAFETY: likewise.
    unsafe { call(number::FCNTL, [fd.raw(), F_SETFL, flags | O_NONBLOCK, 0, 0, 0]) }.map(drop)
}

/// How many bytes a pipe holds.
pub fn pending(pipe: Fd) -> Result<usize> {
    const FIONREAD: usize = 0x541b;
    let mut count = 0i32;
    // SAFETY: the kernel writes one int.
    unsafe { call(number::IOCTL, [pipe.raw(), FIONREAD, ptr::from_mut(&mut count).expose_provenance(), 0, 0, 0]) }?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Gives a terminal its size; its foreground processes get SIGWINCH.
pub fn set_window_size(terminal: Fd, rows: u16, columns: u16) -> Result<()> {
    const TIOCSWINSZ: usize = 0x5414;
    let size = [rows, columns, 0, 0];
    // SAFETY: the kernel reads a `struct winsize`, four shorts.
    unsafe { call(number::IOCTL, [terminal.raw(), TIOCSWINSZ, size.as_ptr().expose_provenance(), 0, 0, 0]) }.map(drop)
}

/// Wait status of a process that has been reaped by its parent, `None` when the kernel cannot tell (it is older than
/// 6.15, or nobody has reaped the process yet).
pub fn exit_status(pidfd: Fd) -> Option<i32> {
    const PIDFD_GET_INFO: usize = 0xc040_ff0b; // _IOWR(0xff, 11, struct pidfd_info) in its first version, 64 bytes
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    #[repr(C)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    let mut info = Info { mask: PIDFD_INFO_EXIT, cgroup: 0, ids: [0; 11], exit_code: 0 };
    // SAFETY: the kernel reads and writes as many bytes as the request's number says, which is the size of `Info`.
    unsafe {
        call(number::IOCTL, [pidfd.raw(), PIDFD_GET_INFO, ptr::from_mut(&mut info).expose_provenance(), 0, 0, 0])
    }
    .ok()?;
    (info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// A pidfd of the process that has this number now.
pub fn open_pidfd(pid: i32) -> Result<Fd> {
    // SAFETY: no memory is involved.
    unsafe { call(number::PIDFD_OPEN, [pid as usize, 0, 0, 0, 0, 0]) }.map(|fd| Fd(fd as i32))
}

/// Whether the process of a pidfd has ended and been reaped: it cannot even be asked whether it can be signalled.
pub fn is_reaped(pidfd: Fd) -> bool {
    // SAFETY: no memory is involved: signal 0 is a question, and carries no information.
    let answer = unsafe { call(number::PIDFD_SEND_SIGNAL, [pidfd.raw(), 0, 0, 0, 0, 0]) };
    answer == Err(Errno::SRCH)
}

pub fn size(file: Fd) -> Result<u64> {
    const SEEK_END: usize = 2;
    // SAFETY: no memory is involved.
    unsafe { call(number::LSEEK, [file.raw(), 0, SEEK_END, 0, 0, 0]) }.map(|size| size as u64)
}

pub fn truncate(file: Fd, size: u64) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call(number::FTRUNCATE, [file.raw(), size as usize, 0, 0, 0, 0]) }.map(drop)
}

pub fn sync(file: Fd) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call(number::FSYNC, [file.raw(), 0, 0, 0, 0, 0]) }.map(drop)
}

pub fn rename(directory: Fd, from: &CStr, to: &CStr) -> Result<()> {
    // SAFETY: both paths end with NUL.
    unsafe {
        call(
            number::RENAMEAT2,
            [
                directory.raw(),
                from.as_ptr().expose_provenance(),
                directory.raw(),
                to.as_ptr().expose_provenance(),
                0,
                0,
            ],
        )
    }
    .map(drop)
}

pub fn unlink(directory: Fd, path: &CStr) -> Result<()> {
    // SAFETY: the path ends with NUL.
    unsafe { call(number::UNLINKAT, [directory.raw(), path.as_ptr().expose_provenance(), 0, 0, 0, 0]) }.map(drop)
}

pub fn remove_directory(path: &CStr) -> Result<()> {
    const AT_REMOVEDIR: usize = 0x200;
    // SAFETY: the path ends with NUL.
    unsafe {
        call(number::UNLINKAT, [Fd::WORKING_DIRECTORY.raw(), path.as_ptr().expose_provenance(), AT_REMOVEDIR, 0, 0, 0])
    }
    .map(drop)
}

/// `struct msghdr` without name and control data.
#[repr(C)]
struct Message {
    name: usize,
    name_length: u32,
    parts: usize,
    part_count: usize,
    control: usize,
    control_length: usize,
    flags: i32,
}

impl Message {
    fn of(parts: &[Part<'_>]) -> Self {
        Self {
            name: 0,
            name_length: 0,
            parts: parts.as_ptr().expose_provenance(),
            part_count: parts.len(),
            control: 0,
            control_length: 0,
            flags: 0,
        }
    }
}

const MSG_TRUNC: i32 = 0x20;
const MSG_DONTWAIT: usize = 0x40;
const MSG_NOSIGNAL: usize = 0x4000;

/// Sends one packet without waiting.
pub fn send(socket: Fd, parts: &[Part<'_>]) -> Result<usize> {
    let message = Message::of(parts);
    // SAFETY: the message names parts that outlive the call and that the kernel only reads.
    unsafe {
        call(
            number::SENDMSG,
            [socket.raw(), ptr::from_ref(&message).expose_provenance(), MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0, 0],
        )
    }
}

/// Receives one packet without waiting; 0 when the other end is gone, `INVAL` when the packet was longer than the parts.
pub fn receive(socket: Fd, parts: &mut [Part<'_>]) -> Result<usize> {
    let mut message = Message::of(parts);
    // SAFETY: the message names parts that outlive the call and are ours alone (`Part::into`).
    let count = unsafe {
        call(number::RECVMSG, [socket.raw(), ptr::from_mut(&mut message).expose_provenance(), MSG_DONTWAIT, 0, 0, 0])
    }?;
    if message.flags & MSG_TRUNC != 0 { Err(Errno::INVAL) } else { Ok(count) }
}

/// Lets a socket hold this many bytes of unread packets, beyond the system's limit where we may.
pub fn set_send_buffer(socket: Fd, size: i32) {
    const SOL_SOCKET: usize = 1;
    const SO_SNDBUF: usize = 7;
    const SO_SNDBUFFORCE: usize = 32;
    for option in [SO_SNDBUFFORCE, SO_SNDBUF] {
        // SAFETY: the kernel reads one int.
        let result = unsafe {
            call(
                number::SETSOCKOPT,
                [socket.raw(), SOL_SOCKET, option, ptr::from_ref(&size).expose_provenance(), size_of::<i32>(), 0],
            )
        };
        if result.is_ok() {
            return;
        }
    }
}

pub fn accept(socket: Fd) -> Result<Fd> {
    // SAFETY: no address is asked for, so no memory is involved.
    let fd = unsafe { call(number::ACCEPT4, [socket.raw(), 0, 0, O_CLOEXEC | O_NONBLOCK, 0, 0]) }?;
    Ok(Fd(fd as i32))
}

/// One entry of poll(2).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Watch {
    fd: i32,
    events: i16,
    pub seen: i16,
}

pub const IN: i16 = 0x1;
pub const OUT: i16 = 0x4;
pub const HANG_UP: i16 = 0x10;

impl Watch {
    /// Watches nothing.
    pub const NOTHING: Self = Self { fd: -1, events: 0, seen: 0 };
    pub fn new(fd: Option<Fd>, events: i16) -> Self {
        fd.map_or(Self::NOTHING, |Fd(fd)| Self { fd, events, seen: 0 })
    }
}

/// Waits until a watch has seen something or the time has passed (nanoseconds; `None`: for ever).
pub fn poll(watches: &mut [Watch], timeout: Option<u64>) -> Result<usize> {
    let timeout = timeout.map(|nanos| [nanos / SECOND, nanos % SECOND]);
    let timeout = timeout.as_ref().map_or(0, |timeout| timeout.as_ptr().expose_provenance());
    // SAFETY: the kernel writes `seen` of each entry, and reads (and may write) the `struct timespec`, which is a copy.
    unsafe { call(number::PPOLL, [watches.as_mut_ptr().expose_provenance(), watches.len(), timeout, 0, 0, 0]) }
}

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

pub fn sleep(nanos: u64) {
    // With nothing watched there is nothing that can fail but the wait itself, which the caller bounds by counting.
    let _ = poll(&mut [], Some(nanos));
}

/// Nanoseconds since 1970.
pub fn realtime() -> u64 {
    clock(0)
}

/// Nanoseconds since some fixed moment.
pub fn monotonic() -> u64 {
    clock(1)
}

fn clock(id: usize) -> u64 {
    let mut time = [0u64; 2];
    // SAFETY: the kernel writes a `struct timespec`, two longs. It does not fail for these clocks.
    let _ = unsafe { call(number::CLOCK_GETTIME, [id, time.as_mut_ptr().expose_provenance(), 0, 0, 0, 0]) };
    time[0].wrapping_mul(SECOND).wrapping_add(time[1])
}

/// Blocks every signal that can be blocked, and returns a file that is readable when one has arrived.
pub fn block_signals() -> Result<Fd> {
    const SIGCHLD: usize = 17;
    const SIG_SETMASK: usize = 2;
    const BYTES: usize = 8;
    let all = u64::MAX;
    let default = [0usize; 4];
    // SAFETY: the kernel reads one 64-bit set.
    unsafe { call(number::RT_SIGPROCMASK, [SIG_SETMASK, ptr::from_ref(&all).expose_provenance(), 0, BYTES, 0, 0]) }?;
    // An inherited SIG_IGN for SIGCHLD would have the kernel throw exit statuses away.
    // SAFETY: the kernel reads a `struct sigaction` that says SIG_DFL.
    unsafe { call(number::RT_SIGACTION, [SIGCHLD, default.as_ptr().expose_provenance(), 0, BYTES, 0, 0]) }?;
    // SAFETY: the kernel reads one 64-bit set.
    let fd = unsafe {
        call(
            number::SIGNALFD4,
            [usize::MAX, ptr::from_ref(&all).expose_provenance(), BYTES, O_CLOEXEC | O_NONBLOCK, 0, 0],
        )
    }?;
    Ok(Fd(fd as i32))
}

/// Unblocks every signal.
pub fn unblock_signals() {
    const SIG_SETMASK: usize = 2;
    let none = 0u64;
    // SAFETY: the kernel reads one 64-bit set; with valid arguments the call does not fail.
    let _ =
        unsafe { call(number::RT_SIGPROCMASK, [SIG_SETMASK, ptr::from_ref(&none).expose_provenance(), 0, 8, 0, 0]) };
}

/// Reaps one child that has ended: its process id and wait status; `None` when none has.
pub fn reap() -> Result<Option<(i32, i32)>> {
    const WNOHANG: usize = 1;
    const WALL: usize = 0x4000_0000; // whatever signal the child was to send at its end
    let mut status = 0i32;
    // SAFETY: the kernel writes one int.
    let pid = unsafe {
        call(number::WAIT4, [usize::MAX, ptr::from_mut(&mut status).expose_provenance(), WNOHANG | WALL, 0, 0, 0])
    }?;
    Ok((pid != 0).then_some((pid as i32, status)))
}

/// Gives the pages of a buffer back; it reads as zeros afterwards.
pub fn forget(pages: &mut [u8]) {
    const MADV_DONTNEED: usize = 4;
    // SAFETY: only pages of this buffer are touched (the kernel refuses a start that is not on a page boundary), and its
    // content may become zeros since it is borrowed mutably. A refusal costs memory, nothing else.
    let _ =
        unsafe { call(number::MADVISE, [pages.as_mut_ptr().expose_provenance(), pages.len(), MADV_DONTNEED, 0, 0, 0]) };
}

/// What is left of the argument vector of this process.
#[derive(Clone)]
pub struct Vector(*const *const c_char);

impl Vector {
    /// # Safety
    /// `stack` is the stack pointer as it was at entry.
    pub unsafe fn at_entry(stack: *const usize) -> Self {
        // SAFETY: argc is followed by the argument vector.
        Self(unsafe { stack.add(1) }.cast())
    }
}

impl Iterator for Vector {
    type Item = &'static CStr;
    fn next(&mut self) -> Option<&'static CStr> {
        // SAFETY: `self.0` points into the vector that the kernel made, at most at the NULL that ends it.
        let argument = unsafe { *self.0 };
        if argument.is_null() {
            return None;
        }
        // SAFETY: this entry was not the last one.
        self.0 = unsafe { self.0.add(1) };
        // SAFETY: the kernel ends each string with NUL; they stay where they are as long as the process lives.
        Some(unsafe { CStr::from_ptr(argument) })
    }
}

/// Executes the program that comes first in the vector; returns only when there is none or that fails.
pub fn execute(arguments: Vector, variable: &CStr) {
    let Some(program) = arguments.clone().next() else { return };
    let environment = [variable.as_ptr(), ptr::null()];
    // SAFETY: the vector and the environment are arrays of strings that end with NULL.
    let _ = unsafe {
        call(
            number::EXECVE,
            [
                program.as_ptr().expose_provenance(),
                arguments.0.expose_provenance(),
                environment.as_ptr().expose_provenance(),
                0,
                0,
                0,
            ],
        )
    };
}

pub fn exit(code: usize) -> ! {
    loop {
        // SAFETY: no memory is involved, and the call does not return.
        let _ = unsafe { call(number::EXIT_GROUP, [code, 0, 0, 0, 0, 0]) };
    }
}
