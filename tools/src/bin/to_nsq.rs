//! Publishes standard input; everything is in the library.

use std::process::ExitCode;

use nsq_tools::{command, to_nsq};

fn main() -> ExitCode {
    command::main(to_nsq::PROGRAM, to_nsq::run)
}
