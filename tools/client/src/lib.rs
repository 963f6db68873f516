//! Consumers and producers of NSQ for tokio.
//!
//! - A [`Consumer`] reads one channel of one topic from any number of nsqds, given or discovered
//!   through nsqlookupd. Messages are pulled, one or many at a time, and answered whenever and from
//!   wherever it suits: [`Message::finish`], [`Message::requeue`], [`Message::touch`].
//! - A [`Producer`] publishes to one nsqd, with any number of publishes under way: each has a
//!   [`Receipt`], which resolves to its answer.
//! - [`Config`] holds every option of the standard clients, by their names.
//!
//! Both connect again by themselves, speak TLS, snappy, deflate and AUTH, and log in the words of the
//! standard clients to a [`Log`] of the caller's choice.
//!
//! ```no_run
//! use nsq_client::{Config, Consumer, Log, LogLevel, Producer};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = Config::new();
//! config.set("max_in_flight", "200")?;
//!
//! let producer = Producer::new("127.0.0.1:4150", &config, Log::stderr(LogLevel::Info))?;
//! producer.publish("greetings", "hello").await?;
//!
//! let consumer = Consumer::builder("greetings", "printer").config(config).build()?;
//! consumer.connect_to_nsqds(["127.0.0.1:4150"]).await?;
//! while let Some(message) = consumer.recv().await {
//!     println!("{}", String::from_utf8_lossy(message.body()));
//!     message.finish();
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Everything runs on the tokio runtime in which it was made; a runtime of one thread will do.
#![forbid(unsafe_code)]

mod config;
mod consumer;
mod error;
mod link;
mod log;
mod producer;

pub use config::{BackoffStrategy, Config, ConfigError, TlsOptions};
pub use consumer::{Builder, Consumer, ConsumerStats, Message, MessageId};
pub use error::{ConnectError, NsqdError, PublishError, StartError, StopError};
#[cfg(any(test, fuzzing))]
pub use link::fuzz;
pub use log::{Log, LogLevel};
pub use producer::{Batch, Producer, Receipt};
