//! Writes messages to files; everything is in the library.

use std::process::ExitCode;

use nsq_tools::{command, nsq_to_file};

fn main() -> ExitCode {
    command::main(nsq_to_file::PROGRAM, nsq_to_file::run)
}
