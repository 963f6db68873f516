//! nsqd, the broker: sockets, shards, HTTP, control.
//!
//! The shell around the pure queue semantics of `nsq_core` and the logs of `nsq_log`. A newcomer
//! starts at [`boot`] (what happens when), then `shard` (what one core owns), then
//! `shard::session` (what a client's bytes mean).

pub mod boot;
mod catalogue;
pub mod clock;
pub mod config;
mod conn;
mod control;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gateway;
mod go_regex;
mod grants;
pub mod http;
mod import;
mod listen;
pub mod mailbox;
pub mod preflight;
mod profile;
pub mod ring;
mod settings;
mod shard;
mod shared;
mod stage;
mod storage;
mod tls;
