//! Prints the numbers of a channel; everything is in the library.

use std::process::ExitCode;

use nsq_tools::{command, nsq_stat};

fn main() -> ExitCode {
    command::main(nsq_stat::PROGRAM, nsq_stat::run)
}
