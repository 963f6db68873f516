//! `nsq_to_file`: writes the messages of topics to files, and finishes them when they are on disk.
//!
//! One task finds topics and passes on signals; each topic has a task of its own, with its consumer
//! and its files.

mod discovery;
mod filename;
mod options;
mod output;
mod rotation;
mod strftime;
mod topic;

use std::ffi::OsString;
use std::fmt;

use nsq_cli::{Level, Logger};

use self::discovery::Discovery;
use self::options::Options;
use crate::client::block_on;
use crate::command::Outcome;

/// The program's name.
pub const PROGRAM: &str = "nsq_to_file";

/// Runs the program.
///
/// # Errors
/// Whatever ends it with another status than 0.
pub fn run(args: Vec<OsString>) -> Outcome {
    let options = Options::from_args(args)?;
    block_on(Discovery::new(options).run())
}

/// Log lines about one topic.
#[derive(Debug, Clone)]
struct TopicLog {
    logger: Logger,
    /// `[topic/channel] `.
    scope: String,
}

impl TopicLog {
    fn new(logger: Logger, topic: &str, channel: &str) -> Self {
        let scope = format!("[{topic}/{channel}] ");
        Self { logger, scope }
    }

    fn info(&self, message: fmt::Arguments<'_>) {
        self.line(Level::Info, message);
    }

    fn warn(&self, message: fmt::Arguments<'_>) {
        self.line(Level::Warn, message);
    }

    fn line(&self, level: Level, message: fmt::Arguments<'_>) {
        self.logger
            .log(level, format_args!("{}{message}", self.scope));
    }
}
