//! Compiles the embedded programs with the `rustc` that compiles this crate.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=embedded");
    let output = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // `init` brings its own entry point and system calls.
    let alone = [
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Crelocation-model=static",
    ];
    compile(Path::new("embedded/init.rs"), &output.join("init"), &alone);
    compile(
        Path::new("embedded/welcome/main.rs"),
        &output.join("welcome"),
        &[],
    );
}

/// Small and static, in a debug build of Naru as in a release build.
fn compile(source: &Path, program: &Path, flags: &[&str]) {
    let mut rustc = Command::new(std::env::var_os("RUSTC").expect("cargo sets RUSTC"));
    rustc.args([
        "--edition=2024",
        "--crate-type=bin",
        "-Ctarget-feature=+crt-static",
        "-Cpanic=abort",
    ]);
    rustc.args([
        "-Copt-level=s",
        "-Clto=fat",
        "-Ccodegen-units=1",
        "-Cstrip=symbols",
        "-Coverflow-checks=off",
    ]);
    rustc.args(flags).arg("-o").arg(program).arg(source);
    let (host, target) = (std::env::var("HOST"), std::env::var("TARGET"));
    if let (Ok(host), Ok(target)) = (host, target)
        && host != target
    {
        rustc.arg("--target").arg(target);
    }
    let status = rustc.status().expect("rustc can be started");
    assert!(status.success(), "{} does not compile", source.display());
}
