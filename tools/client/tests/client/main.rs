//! The library against scripted peers and against real brokers, over real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; one that is skipped says so"
)]

mod consumer;
mod discovery;
mod producer;
mod real;
mod stopping;
mod support;
