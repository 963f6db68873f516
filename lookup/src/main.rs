//! The directory's program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    nsqlookupd::boot::run(std::env::args_os().skip(1))
}
