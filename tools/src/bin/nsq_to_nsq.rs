//! Copies messages to other nsqds; everything is in the library.

use std::process::ExitCode;

use nsq_tools::{command, nsq_to_nsq};

fn main() -> ExitCode {
    command::main(nsq_to_nsq::PROGRAM, nsq_to_nsq::run)
}
