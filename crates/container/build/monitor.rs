//! Builds the monitor: a program of its own without standard library or libc, which the crate embeds.
//!
//! Cargo cannot build a binary of one crate into another on stable Rust (artifact dependencies), and a separate crate
//! would need its own profile and target flags; so the compiler is called here.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Processors whose system calls `monitor/sys.rs` has.
const ARCHITECTURES: [&str; 1] = ["x86_64"];

/// For the linker: no start files and no libraries; one segment for code and constants, so that the running program is
/// two or three pages of file; nothing that is not needed at run time.
const LINK: [&str; 9] = [
    "-nostartfiles",
    "-nostdlib",
    "-static",
    "-Wl,-z,noseparate-code",
    "-Wl,-z,norelro",
    "-Wl,-z,noexecstack",
    "-Wl,--build-id=none",
    "-Wl,--no-eh-frame-hdr",
    "-Wl,--gc-sections",
];

pub fn build() {
    let source = PathBuf::from("monitor");
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-env-changed=RUSTC");
    let variable = |name: &str| match env::var(name) {
        Ok(value) => value,
        Err(error) => fail(&format!("{name}: {error} (this is run by cargo)")),
    };
    let target = variable("TARGET");
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    if variable("CARGO_CFG_TARGET_OS") != "linux" || !ARCHITECTURES.contains(&architecture.as_str()) {
        fail(&format!(
            "the container monitor cannot be built for {target}: its system calls are known for Linux on {} only; add \
             others to crates/container/monitor/sys.rs and crates/container/build/monitor.rs",
            ARCHITECTURES.join(", ")
        ));
    }
    let output = Path::new(&variable("OUT_DIR")).join("monitor");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "monitor", "--target", &target])
        .args(["-C", "panic=abort", "-C", "opt-level=s", "-C", "lto=fat", "-C", "codegen-units=1"])
        .args(["-C", "relocation-model=static", "-C", "strip=symbols", "-C", "force-unwind-tables=no"])
        .args(["-C", "overflow-checks=off"]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    for argument in LINK {
        rustc.args(["-C", &format!("link-arg={argument}")]);
    }
    rustc.arg("-o").arg(&output).arg(source.join("main.rs"));
    match rustc.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("the container monitor could not be built: {rustc:?}: {status}")),
        Err(error) => fail(&format!("the container monitor could not be built: {rustc:?}: {error}")),
    }
}

fn fail(reason: &str) -> ! {
    println!("cargo::error={reason}");
    std::process::exit(1)
}
