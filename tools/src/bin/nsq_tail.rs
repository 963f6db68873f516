//! Prints messages; everything is in the library.

use std::process::ExitCode;

use nsq_tools::{command, nsq_tail};

fn main() -> ExitCode {
    command::main(nsq_tail::PROGRAM, nsq_tail::run)
}
