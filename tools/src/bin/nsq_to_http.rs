//! Sends messages to HTTP endpoints; everything is in the library.

use std::process::ExitCode;

use nsq_tools::{command, nsq_to_http};

fn main() -> ExitCode {
    command::main(nsq_to_http::PROGRAM, nsq_to_http::run)
}
