//! A load generator for any nsqd, ours or the reference, over the V2 protocol.
//!
//! It must never be what limits a run, so a load thread does little more than receive and send: commands
//! are built before the run and sent again and again (`template`), acknowledgements are counted ten
//! bytes at a time and messages walked in the receive buffer (`wire`), and the answers to one receive
//! leave in one send (`consumer`). What that costs is measured beside the broker's own use, and a
//! generator that was busy is remarked on.
//!
//! | module | one line |
//! |---|---|
//! | `cli`, `plan` | the command line; a scenario as data |
//! | `play` | sets up, runs the load threads, sums up |
//! | `drive` | the loop of a load thread |
//! | `link`, `layer`, `buffer` | connections, TLS and compression over them, what has arrived |
//! | `wire`, `body`, `template` | bytes, bodies, prepared commands |
//! | `producer`, `pacer`, `consumer` | closed loop, open loop, consuming |
//! | `ledger` | which messages arrived |
//! | `idle` | connections and topics that do nothing |
//! | `floor` | a server that does next to nothing |
//! | `process`, `http` | the broker's use of the machine; its HTTP door |
//! | `certificate` | what brokers need for TLS |
//! | `compare` | ours against the reference and the floor |
//! | `report`, `progress` | results; how far it is |
#![forbid(unsafe_code)]

mod body;
mod buffer;
mod certificate;
pub mod cli;
mod compare;
mod consumer;
mod drive;
pub mod floor;
mod http;
mod idle;
mod layer;
mod ledger;
mod link;
mod pacer;
mod plan;
mod play;
mod process;
mod producer;
mod progress;
mod report;
mod shared;
mod template;
mod wire;

use std::io::Write as _;
use std::sync::atomic::AtomicBool;

use anyhow::Result;

pub use body::{BodyKind, BodySize};
use cli::{Cli, Command};
pub use layer::Compression;
use plan::Plan;

/// What a command has to say at its end.
#[derive(Debug)]
pub struct Outcome {
    /// Whether nothing failed.
    pub ok: bool,
    /// The results, as a table or as JSON.
    pub text: String,
}

/// Carries a command out.
///
/// # Errors
/// The broker cannot be reached, refuses or breaks the protocol, or the arguments do not fit together.
pub fn run(cli: Cli) -> Result<Outcome> {
    match cli.command {
        Command::Pub(args) => play(&Plan::publishing("pub", args, 0)?),
        Command::Fill(args) => play(&Plan::publishing("fill", args, 1)?),
        Command::Sub(args) => play(&Plan::consuming("sub", args)?),
        Command::Drain(args) => play(&Plan::consuming("drain", args)?),
        Command::Pubsub(args) => play(&Plan::together(args)?),
        Command::E2e(args) => play(&Plan::paced(args)?),
        Command::Defer(args) => play(&Plan::deferred(args)?),
        Command::Idle(args) => {
            let report = idle::run(&args)?;
            let text = if args.target.json {
                json(&report)?
            } else {
                report.table()
            };
            Ok(Outcome { ok: true, text })
        }
        Command::Certificate(args) => {
            let made = certificate::Files::make(&args.folder)?;
            Ok(Outcome {
                ok: true,
                text: format!(
                    "--tls-cert={} --tls-key={}\n",
                    made.certificate.display(),
                    made.key.display()
                ),
            })
        }
        Command::Compare(args) => compare::run(&args),
        Command::Floor(args) => {
            let floor = floor::Floor::bind(&args)?;
            let address = floor.address()?;
            // In the words of a broker's log; nobody may be there to read them.
            let _gone = writeln!(std::io::stderr(), "TCP: listening on {address}");
            let served = floor.run(&AtomicBool::new(false))?;
            Ok(Outcome {
                ok: true,
                text: format!("{served:?}\n"),
            })
        }
    }
}

fn play(plan: &Plan) -> Result<Outcome> {
    let report = play::play_all(plan)?;
    let text = if plan.target.json {
        json(&report)?
    } else {
        report.table()
    };
    Ok(Outcome {
        ok: report.ok,
        text,
    })
}

fn json(report: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}
