//! The program itself: exit codes and streams as a shell sees them. What needs containers is tested where they are.
#![allow(clippy::unwrap_used)] // helpers of tests are tests, which clippy sees in functions marked so only

use std::process::{Command, Output, Stdio};

fn jdos(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jdos")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_version_is_the_packages() {
    let output = jdos(&["--version"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("jdos {}\n", env!("CARGO_PKG_VERSION")));
    assert!(output.status.success());
}

#[test]
fn usage_errors_leave_standard_output_empty() {
    for (arguments, code) in [(&["contaner"][..], 2), (&["container", "run", "--nonsense"][..], 125)] {
        let output = jdos(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(output.stdout.is_empty() && output.stderr.starts_with(b"error: "), "{output:?}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error_to_be_told() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_jdos")).args(["completion", "bash"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141), "128 + SIGPIPE, as a shell reports it of others");
    assert!(output.stderr.is_empty(), "{output:?}");
}
