//! The library against scripted peers and against real brokers, over real sockets.

mod consumer;
mod discovery;
mod producer;
mod real;
mod stopping;
mod support;
