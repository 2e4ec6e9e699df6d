//! The monitor: all that a running container needs beside itself. One process, one thread, a few pages.
//!
//! A shim executes it in its own place, so it is the parent of the container's first process. It copies output to a
//! rotated log and to attached clients, passes input on, reaps, and when the container has ended writes the exit file,
//! removes the control groups, and executes what it was told to. It knows nothing of containers beyond its arguments.
//!
//! There is no allocator, no libc and no standard library; everything that can fail in an unusual way (a full disk, a
//! dead client, a missing directory) is borne, since nobody is there to be told.
#![no_std]
#![no_main]

mod arguments;
mod clients;
mod ending;
mod file;
mod init;
mod input;
mod log;
mod memory;
mod stage;
mod sys;
mod text;
mod watch;

use arguments::{Arguments, Wrong};
use core::{cell::UnsafeCell, panic::PanicInfo};
use watch::{Buffers, INPUT_CHUNK, Monitor, OUTPUT_CHUNK};

/// Wrong arguments (`EX_USAGE` of sysexits).
const USAGE: usize = 64;
/// The last program could not be executed.
const NOT_EXECUTED: usize = 71;
/// A bug (as a Rust program ends after a panic).
const PANIC: usize = 101;

struct Memory(UnsafeCell<Buffers>);

// SAFETY: there is one thread.
unsafe impl Sync for Memory {}

// In `.bss`, not on the stack: pages that nothing has been written to do not exist.
static MEMORY: Memory = Memory(UnsafeCell::new(Buffers { output: [0; OUTPUT_CHUNK], input: [0; INPUT_CHUNK] }));

/// Called once by the entry code, with the stack pointer as it was.
extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: this is the stack pointer at entry.
    let vector = unsafe { sys::Vector::at_entry(stack) };
    let arguments = match Arguments::parse(vector) {
        Ok(arguments) => arguments,
        Err(Wrong(argument)) => {
            for text in [b"monitor: wrong or missing argument: ", argument.to_bytes(), b"\n"] {
                // Whoever started it sees the exit code in any case.
                let _ = sys::write(sys::Fd(2), text);
            }
            sys::exit(USAGE)
        }
    };
    // SAFETY: `start` is entered once, so this is the only reference to the buffers.
    let buffers = unsafe { &mut *MEMORY.0.get() };
    Monitor::new(&arguments, buffers).run();
    let Some(_) = arguments.then.clone().next() else { sys::exit(0) };
    sys::unblock_signals();
    sys::execute(arguments.then.clone(), c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    sys::exit(NOT_EXECUTED)
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    sys::exit(PANIC)
}
