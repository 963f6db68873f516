//! Records the compiler's version for the version banner.

use std::env;
use std::process::Command;

fn main() {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().ok();
    // "rustc 1.95.0 (hash date)" becomes "rustc1.95.0", as Go writes "go1.19.8".
    let toolchain = version
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .and_then(|text| {
            text.split_whitespace()
                .nth(1)
                .map(|number| format!("rustc{number}"))
        })
        .unwrap_or_else(|| "rustc".to_owned());
    println!("cargo::rustc-env=NSQ_TOOLCHAIN={toolchain}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
}
