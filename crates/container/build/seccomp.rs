//! Build step: compiles the default system call filter, with the very code that the engine has for the others.

use std::{env, fs, path::Path};

// The library uses all of these files; a build script, that is one program of its own, uses a part of them.
#[allow(dead_code)]
#[path = "../src/seccomp/bpf.rs"]
mod bpf;
#[allow(dead_code)]
#[path = "../src/capability.rs"]
mod capability;
#[allow(dead_code)]
#[path = "../src/seccomp/compile.rs"]
mod compile;
#[allow(dead_code)]
#[path = "../src/seccomp/error.rs"]
mod error;
#[path = "../src/seccomp/i386.rs"]
mod i386;
#[path = "../src/seccomp/numbers.rs"]
mod numbers;
#[allow(dead_code)]
#[path = "../src/seccomp/profile.rs"]
mod profile;

/// Writes `seccomp.bpf`: the program for Docker's capabilities. It is empty when this program is built for another kind
/// of machine, because a build script has the system call numbers of the machine that it runs on; the library then
/// compiles the filter when it needs it.
pub fn build() {
    for file in ["bpf", "compile", "error", "i386", "numbers", "profile"] {
        println!("cargo::rerun-if-changed=src/seccomp/{file}.rs");
    }
    println!("cargo::rerun-if-changed=src/capability.rs");
    println!("cargo::rerun-if-changed=build/seccomp.rs");

    let native = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|target| target == env::consts::ARCH);
    let profile = profile::default_profile(capability::CapabilitySet::DOCKER, false);
    let program = match native {
        true => compile::compile(&profile).expect("the default profile is one that compiles"),
        false => Vec::new(),
    };
    let folder = env::var_os("OUT_DIR").expect("cargo tells build scripts where to write");
    fs::write(Path::new(&folder).join("seccomp.bpf"), program).expect("cargo's folder for this crate can be written");
}
