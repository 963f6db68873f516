//! The door as a client sees it, over an in-memory stream and against a broker that records what
//! it is asked. Answers were taken from the reference daemon.

mod api;
mod connection;
pub(crate) mod fixture;
mod publishing;
mod statistics;
mod wire;
