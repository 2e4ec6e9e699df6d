//! Kernel calls: bpf(2), as far as programs that decide about devices need it.

use rustix::{
    fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    io::Errno,
};
use std::io;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 1 << 1;
const F_REPLACE: u32 = 1 << 2;

/// Programs that one cgroup may have of its own for one purpose: the kernel's limit.
const MOST_PROGRAMS: usize = 64;

/// `union bpf_attr` for BPF_PROG_LOAD, up to the last field that is set.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// `union bpf_attr` for BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

/// `union bpf_attr` for BPF_PROG_QUERY, up to its very end: newer kernels write `revision` whatever size they were told.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// `union bpf_attr` for BPF_PROG_GET_FD_BY_ID.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// The attribute unions of the calls used here.
///
/// # Safety
/// `repr(C)`, as long as or shorter than the kernel's `union bpf_attr`, laid out like its member for the command, without
/// padding.
unsafe trait Attribute {}
// SAFETY: laid out as in linux/bpf.h, 4 and 8 byte fields at their natural places, no padding.
unsafe impl Attribute for Load {}
// SAFETY: five 4-byte fields as in linux/bpf.h.
unsafe impl Attribute for Attach {}
// SAFETY: laid out as in linux/bpf.h, the only gap is a field of its own.
unsafe impl Attribute for Query {}
// SAFETY: three 4-byte fields as in linux/bpf.h.
unsafe impl Attribute for ById {}

fn bpf<T: Attribute>(command: libc::c_int, attribute: &mut T) -> Result<libc::c_int, Errno> {
    // SAFETY: `Attribute` promises the layout that the kernel reads for it; the pointer is valid and exclusive for its
    // size; what the addresses within point to outlives the call (callers keep the buffers).
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if result < 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    libc::c_int::try_from(result).map_err(|_| Errno::OVERFLOW)
}

/// Takes over a descriptor that the kernel just made.
fn owned(descriptor: libc::c_int) -> OwnedFd {
    // SAFETY: returned by a successful bpf(2) call, so it is open and nobody else's.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn raw(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// Loads a program of type cgroup device; each number is one `struct bpf_insn`.
///
/// # Errors
/// That of the kernel and, when it is the verifier's, what it says.
pub fn load_device_program(instructions: &[u64]) -> Result<OwnedFd, (Errno, String)> {
    let mut attribute = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| (Errno::TOOBIG, String::new()))?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    attribute.name[..7].copy_from_slice(b"devices");
    let refused = match bpf(PROG_LOAD, &mut attribute) {
        Ok(descriptor) => return Ok(owned(descriptor)),
        Err(error) => error,
    };
    // Once more for its words: a log on every load would cost on the path where nothing is wrong.
    let mut log = vec![0u8; 1 << 16];
    attribute.log_level = 1;
    attribute.log_size = 1 << 16;
    attribute.log = log.as_mut_ptr() as u64;
    match bpf(PROG_LOAD, &mut attribute) {
        Ok(descriptor) => Ok(owned(descriptor)),
        Err(_) => {
            log.truncate(log.iter().position(|byte| *byte == 0).unwrap_or(log.len()));
            Err((refused, String::from_utf8_lossy(&log).trim_end().to_owned()))
        }
    }
}

/// Attaches a device program to a cgroup, beside those of its ancestors; in place of `replaced` in one step when given.
///
/// # Errors
/// That of the kernel.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attribute = Attach {
        target: raw(cgroup),
        program: raw(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: F_ALLOW_MULTI | replaced.map_or(0, |_| F_REPLACE),
        replaced: replaced.map_or(0, raw),
    };
    bpf(PROG_ATTACH, &mut attribute).map(drop)
}

/// Detaches a device program from a cgroup.
///
/// # Errors
/// That of the kernel.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attribute =
        Attach { target: raw(cgroup), program: raw(program), attach_type: ATTACH_CGROUP_DEVICE, ..Attach::default() };
    bpf(PROG_DETACH, &mut attribute).map(drop)
}

/// The device programs attached to a cgroup itself.
///
/// # Errors
/// That of the kernel.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut attribute = Query {
        target: raw(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        programs: ids.as_mut_ptr() as u64,
        count: 64,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut attribute)?;
    let count = usize::try_from(attribute.count).unwrap_or(MOST_PROGRAMS).min(MOST_PROGRAMS);
    let mut programs = Vec::with_capacity(count);
    for id in &ids[..count] {
        match bpf(PROG_GET_FD_BY_ID, &mut ById { id: *id, ..ById::default() }) {
            Ok(descriptor) => programs.push(owned(descriptor)),
            Err(Errno::NOENT) => {} // detached and gone meanwhile
            Err(error) => return Err(error),
        }
    }
    Ok(programs)
}
