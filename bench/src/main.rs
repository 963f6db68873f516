//! The load generator's program; everything is in the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

/// 0: all well. 1: a protocol error, or messages lost or doubled. 2: a wrong command line (by clap).
fn main() -> ExitCode {
    match nsq_bench::run(nsq_bench::cli::Cli::parse()) {
        Ok(outcome) => {
            // A reader that has gone takes nothing away from the outcome.
            let _gone = std::io::stdout().write_all(outcome.text.as_bytes());
            if outcome.ok {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            let _gone = writeln!(std::io::stderr(), "nsq-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
