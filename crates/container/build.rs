//! Builds the monitor (a program without the standard library) and compiles the default system call filter.

#[path = "build/monitor.rs"]
mod monitor;
#[path = "build/seccomp.rs"]
mod seccomp;

fn main() {
    monitor::build();
    seccomp::build();
}
