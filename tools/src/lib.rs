//! The utilities of NSQ: `nsq_stat`, `nsq_tail`, `nsq_to_file`, `nsq_to_http`, `nsq_to_nsq`, `to_nsq`.
//!
//! One module per program, named after it, with a `run` that the binary of that name calls; what
//! several of them share lies beside them. The words of flags, messages and file names are those
//! of the Go programs, because scripts know them.
//!
//! Not here: how to be an NSQ client (`nsq-client`), how flags are written (`nsq-cli`).

mod client;
mod cluster;
pub mod command;
mod host_pool;
mod http;
pub mod nsq_stat;
pub mod nsq_tail;
pub mod nsq_to_file;
pub mod nsq_to_http;
pub mod nsq_to_nsq;
mod terminal;
mod timing;
pub mod to_nsq;
