//! nsqlookupd, the directory of topics: nsqd processes announce what they have over TCP, consumers
//! and operators ask over HTTP. Everything is in memory, and is announced again after a restart.
//!
//! A newcomer starts at [`boot`] (what happens when), then [`registry`] (what is known),
//! [`protocol`] (what a peer's bytes mean), `tcp` and `http` (the two doors).
//!
//! | module | one line |
//! |---|---|
//! | `boot`, `config`, `listen` | start and stop; flags; the listening sockets |
//! | `registry` | who has which topics, as plain data |
//! | `directory` | the registry behind its lock, in slices |
//! | `service` | what the doors share |
//! | `protocol`, `tcp` | the V1 protocol as bytes; its connections |
//! | `http` | the HTTP API |
//! | `json`, `clock` | JSON as Go writes it; the one clock |
#![forbid(unsafe_code)]

pub mod boot;
mod clock;
mod config;
mod directory;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod http;
pub mod json;
mod listen;
pub mod protocol;
pub mod registry;
mod service;
mod tcp;
