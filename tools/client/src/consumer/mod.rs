//! A consumer of one channel of one topic.

mod message;

use crate::{Config, ConnectError, Log, StartError, StopError};

pub use message::{Message, MessageId};

/// What a consumer has seen and has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConsumerStats {
    /// Messages received, since the start.
    pub messages_received: u64,
    /// Messages finished, given up ones included, since the start.
    pub messages_finished: u64,
    /// Messages requeued, since the start.
    pub messages_requeued: u64,
    /// Messages given up after `max_attempts`, since the start.
    pub messages_given_up: u64,
    /// Connections now.
    pub connections: usize,
}

/// Makes a [`Consumer`].
#[derive(Debug)]
pub struct Builder {
    topic: String,
    channel: String,
    config: Config,
    log: Log,
}

impl Builder {
    /// The options; without it the defaults.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Where log lines go; without it nowhere.
    #[must_use]
    pub fn log(mut self, log: Log) -> Self {
        self.log = log;
        self
    }

    /// Is told of each message that was delivered more than `max_attempts` times, right before it is
    /// finished undelivered (and after the log line about it). With `max_attempts` 0 it is never called.
    #[must_use]
    pub fn on_give_up(self, _hook: impl Fn(&Message) + Send + Sync + 'static) -> Self {
        unimplemented!()
    }

    /// Makes the consumer, which has no connection yet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`], in the order of configuration, topic, channel.
    pub fn build(self) -> Result<Consumer, StartError> {
        unimplemented!()
    }
}

/// A consumer; clones share it. When the last clone is dropped its connections are closed at once,
/// and what was in flight is delivered again by its nsqds: [`Consumer::stop`] is the polite way.
#[derive(Debug, Clone)]
pub struct Consumer {
    _inner: (),
}

impl Consumer {
    /// Starts to describe a consumer of `channel` of `topic`.
    #[must_use]
    pub fn builder(topic: &str, channel: &str) -> Builder {
        Builder {
            topic: topic.to_owned(),
            channel: channel.to_owned(),
            config: Config::new(),
            log: Log::silent(),
        }
    }

    /// Connects to these nsqds, `host:port` each, one after the other. A connection that is lost
    /// later is made again after `lookupd_poll_interval`, for ever.
    ///
    /// # Errors
    /// The first that cannot be reached ends it; those before it stay connected.
    pub async fn connect_to_nsqds<A: AsRef<str>>(
        &self,
        _addresses: impl IntoIterator<Item = A>,
    ) -> Result<(), ConnectError> {
        unimplemented!()
    }

    /// Adds an nsqd and goes on trying to reach it in the background, every
    /// `lookupd_poll_interval`, also when the first try fails (which is logged).
    pub fn add_nsqd(&self, _address: &str) {
        unimplemented!()
    }

    /// Closes the connection to an nsqd, and forgets its address.
    pub fn disconnect_from_nsqd(&self, _address: &str) {
        unimplemented!()
    }

    /// Discovers nsqds through these nsqlookupds: `host:port`, or an `http` or `https` URL. The first
    /// look-up is over when this returns; failures of look-ups are logged and tried again.
    ///
    /// # Errors
    /// [`ConnectError::Address`]: then none is used.
    pub async fn connect_to_lookupds<A: AsRef<str>>(
        &self,
        _addresses: impl IntoIterator<Item = A>,
    ) -> Result<(), ConnectError> {
        unimplemented!()
    }

    /// The next message; `None` once the consumer is stopping and no further one can come, also while
    /// taken ones are still unanswered. May be called from many tasks. Cancelling it loses nothing.
    pub async fn recv(&self) -> Option<Message> {
        unimplemented!()
    }

    /// Waits for a message, then appends as many as there are, at most `limit`, to `messages`, and says
    /// how many; 0 in the cases in which [`Consumer::recv`] says `None`. Cancelling it loses nothing.
    pub async fn recv_many(&self, _messages: &mut Vec<Message>, _limit: usize) -> usize {
        unimplemented!()
    }

    /// Whether some connection has so many unanswered messages (85 % of its RDY) that answers should
    /// not be held back for a larger batch.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        unimplemented!()
    }

    /// Changes `max_in_flight`; 0 pauses.
    pub fn change_max_in_flight(&self, _max_in_flight: u32) {
        unimplemented!()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ConsumerStats {
        unimplemented!()
    }

    /// Starts to stop: no new messages are asked for (CLS) and no connections made. Messages that have
    /// been received can still be taken, until [`Consumer::recv`] says `None`, and answered.
    pub fn begin_stop(&self) {
        unimplemented!()
    }

    /// Stops: as [`Consumer::begin_stop`], but messages that nobody has taken yet go back to their
    /// nsqds. Returns when what was taken is answered and all connections are closed.
    ///
    /// # Errors
    /// [`StopError`] after 30 seconds.
    pub async fn stop(&self) -> Result<(), StopError> {
        unimplemented!()
    }

    /// Waits for the end of a stop that was begun.
    ///
    /// # Errors
    /// [`StopError`] 30 seconds after its beginning.
    pub async fn stopped(&self) -> Result<(), StopError> {
        unimplemented!()
    }
}
