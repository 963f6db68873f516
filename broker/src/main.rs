//! The broker's program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    nsqd::boot::run(std::env::args_os().skip(1))
}
