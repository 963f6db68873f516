//! Segments, batches, checkpoints and recovery of one topic's log.
//!
//! A [`TopicLog`] decides *what* goes *where* and keeps the frontiers; a [`Disk`] carries the
//! operations out and reports each back through [`TopicLog::complete`]. So the same log runs on
//! io_uring, and on a simulated disk that tears writes and forgets what was not synced.
//!
//! What a log's directory holds:
//!
//! | file | what |
//! |---|---|
//! | `<20 digits>.log` | a segment: batches of messages, one after the other (module `format`) |
//! | `checkpoint.log` | the journal: what the caller checkpointed, and where to start scanning (module `checkpoint`) |
//! | `*.tmp` | what a crash left of a file that was being replaced; removed at start |
//!
//! What it knows and does not: records with sequences, checkpoint entries as keys and values; not
//! what a channel is or what a message body means. It never blocks, but for [`TopicLog::recover`].
//!
//! Calling order: [`TopicLog::create`] or [`TopicLog::recover`]; then any of
//! [`append`](TopicLog::append), [`read`](TopicLog::read), [`sync`](TopicLog::sync),
//! [`checkpoint`](TopicLog::checkpoint) followed by [`reclaim`](TopicLog::reclaim), with every
//! outcome of a submitted operation handed to [`complete`](TopicLog::complete) exactly once; and
//! when [`pending`](TopicLog::pending) is zero the log may be dropped. For a clean stop: wait for
//! the last `Written`, `sync` until [`is_sync_due`](TopicLog::is_sync_due) says no, and write a
//! last durable checkpoint.
#![forbid(unsafe_code)]

mod appender;
mod checkpoint;
mod disk;
mod error;
mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod journal;
mod log;
mod ops;
mod reader;
mod reclaim;
mod recovery;
mod scan;
mod segment;

pub use disk::{Disk, File, Op, OpOutput, OpResult, Token};
pub use error::LogError;
pub use log::{Batch, LogConfig, LogEvent, Recovered, Shortage, SyncPolicy, TopicLog};
pub use reader::Planned;
