//! `jdos`: arguments to roles to wiring, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A shim or a container's first process is this same program: it is told apart before anything else is set up.
    if let Some(code) = container::runtime::dispatch() {
        return code;
    }
    cli::main()
}
