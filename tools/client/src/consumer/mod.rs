//! A consumer of one channel of one topic.

mod backoff;
mod connection;
mod flow;
mod lookup;
mod message;
mod port;
mod queue;
mod shared;
mod supervisor;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use nsq_proto::{ChannelName, TopicName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::link::Dialer;
use crate::log::InstanceLog;
use crate::{Config, ConnectError, Log, StartError, StopError};
use lookup::{Lookup, lookup_url};
use queue::Queue;
use shared::{Counters, Shared};
use supervisor::{Command, Stopped, Supervisor};

pub use message::{Message, MessageId};

/// Is told of messages that are given up.
type GiveUpHook = Box<dyn Fn(&Message) + Send + Sync>;

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
pub struct Builder {
    topic: String,
    channel: String,
    config: Config,
    log: Log,
    on_give_up: Option<GiveUpHook>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("topic", &self.topic)
            .field("channel", &self.channel)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
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
    /// finished without being handed out, and after the log line about it. With `max_attempts` 0 it is
    /// never called. It runs on the task of a connection and must not block.
    #[must_use]
    pub fn on_give_up(mut self, hook: impl Fn(&Message) + Send + Sync + 'static) -> Self {
        self.on_give_up = Some(Box::new(hook));
        self
    }

    /// Makes the consumer, which has no connection yet.
    ///
    /// # Errors
    /// [`StartError`], in the order of configuration, topic, channel.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build(self) -> Result<Consumer, StartError> {
        self.config.validate()?;
        if !TopicName::is_valid(self.topic.as_bytes()) {
            return Err(StartError::Topic);
        }
        if !ChannelName::is_valid(self.channel.as_bytes()) {
            return Err(StartError::Channel);
        }
        let (commands, received) = mpsc::unbounded_channel();
        let (stopped_sender, stopped) = watch::channel(None);
        let scope = format!("[{}/{}] ", self.topic, self.channel);
        let shared = Arc::new(Shared {
            log: InstanceLog::new(self.log, &scope),
            topic: self.topic,
            channel: self.channel,
            max_in_flight: self.config.max_in_flight.into(),
            dialer: Dialer::new(self.config),
            on_give_up: self.on_give_up,
            queue: Queue::default(),
            counters: Counters::default(),
            backing_off: AtomicBool::new(false),
            ports: Mutex::default(),
            commands,
            started: Instant::now(),
        });
        let supervisor = Supervisor::new(Arc::clone(&shared), received, stopped_sender);
        let supervisor = tokio::spawn(supervisor.run()).abort_handle();
        Ok(Consumer {
            handle: Arc::new(Handle {
                shared,
                stopped,
                supervisor,
            }),
        })
    }
}

/// A consumer; clones share it. When the last clone is dropped its connections are closed at once,
/// and what was in flight is delivered again by its nsqds: [`Consumer::stop`] is the polite way.
#[derive(Clone)]
pub struct Consumer {
    handle: Arc<Handle>,
}

/// Ends everything when it is dropped.
struct Handle {
    shared: Arc<Shared>,
    stopped: watch::Receiver<Stopped>,
    supervisor: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("topic", &self.handle.shared.topic)
            .field("channel", &self.handle.shared.channel)
            .finish_non_exhaustive()
    }
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
            on_give_up: None,
        }
    }

    /// Connects to these nsqds, `host:port` each, one after the other. A connection that is lost
    /// later is made again after `lookupd_poll_interval`, for ever.
    ///
    /// # Errors
    /// The first that cannot be reached ends it; those before it stay connected.
    pub async fn connect_to_nsqds<A: AsRef<str>>(
        &self,
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<(), ConnectError> {
        for address in addresses {
            let (reply, answer) = oneshot::channel();
            let address = address.as_ref().to_owned();
            self.shared().tell(Command::Connect(address, Some(reply)));
            answer.await.unwrap_or(Err(ConnectError::Stopped))?;
        }
        Ok(())
    }

    /// Adds an nsqd and goes on trying to reach it in the background, every
    /// `lookupd_poll_interval`, also when the first try fails (which is logged).
    pub fn add_nsqd(&self, address: &str) {
        self.shared()
            .tell(Command::Connect(address.to_owned(), None));
    }

    /// Closes the connection to an nsqd, and forgets its address.
    pub fn disconnect_from_nsqd(&self, address: &str) {
        self.shared().tell(Command::Disconnect(address.to_owned()));
    }

    /// Discovers nsqds through these nsqlookupds: `host:port`, or an `http` or `https` URL. The first
    /// look-up is over when this returns; failures of look-ups are logged and tried again.
    ///
    /// # Errors
    /// [`ConnectError::Address`]: then none is used.
    pub async fn connect_to_lookupds<A: AsRef<str>>(
        &self,
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<(), ConnectError> {
        let shared = self.shared();
        let urls: Result<Vec<_>, _> = addresses
            .into_iter()
            .map(|address| lookup_url(address.as_ref(), &shared.topic))
            .collect();
        let urls = urls?;
        if urls.is_empty() {
            return Ok(());
        }
        let lookup = Lookup::new(&shared.dialer, shared.log.clone())?;
        let (reply, answer) = oneshot::channel();
        shared.tell(Command::Discover(lookup, urls, reply));
        answer.await.map_err(|_| ConnectError::Stopped)
    }

    /// The next message; `None` once the consumer is stopping and no further one can come, also while
    /// taken ones are still unanswered. May be called from many tasks. Cancelling it loses nothing.
    pub async fn recv(&self) -> Option<Message> {
        let mut taken = None;
        let queue = &self.shared().queue;
        queue.take(1, |message| taken = Some(message)).await;
        taken
    }

    /// Waits for a message, then appends as many as there are, at most `limit`, to `messages`, and says
    /// how many; 0 in the cases in which [`Consumer::recv`] says `None`. Cancelling it loses nothing.
    pub async fn recv_many(&self, messages: &mut Vec<Message>, limit: usize) -> usize {
        let queue = &self.shared().queue;
        queue
            .take(limit.max(1), |message| messages.push(message))
            .await
    }

    /// Whether some connection has so many unanswered messages (85 % of its RDY) that answers should
    /// not be held back for a larger batch.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        let starved = |ports: &mut Vec<Arc<port::Port>>| ports.iter().any(|port| port.is_starved());
        self.shared().with_ports(starved)
    }

    /// Changes `max_in_flight`; 0 pauses.
    pub fn change_max_in_flight(&self, max_in_flight: u32) {
        self.shared().tell(Command::MaxInFlight(max_in_flight));
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ConsumerStats {
        self.shared().stats()
    }

    /// Starts to stop: no new messages are asked for (CLS), no connections are made. Messages that have
    /// been received can still be taken, until [`Consumer::recv`] says `None`, and answered.
    pub fn begin_stop(&self) {
        self.shared().tell(Command::Stop { give_back: false });
    }

    /// Stops: as [`Consumer::begin_stop`], but messages that nobody has taken yet go back to their
    /// nsqds. Returns when what was taken is answered and all connections are closed.
    ///
    /// # Errors
    /// [`StopError`] after 30 seconds.
    pub async fn stop(&self) -> Result<(), StopError> {
        self.shared().tell(Command::Stop { give_back: true });
        self.stopped().await
    }

    /// Waits for the end of a stop that was begun.
    ///
    /// # Errors
    /// [`StopError`] 30 seconds after its beginning.
    pub async fn stopped(&self) -> Result<(), StopError> {
        let mut stopped = self.handle.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(result) => result.unwrap_or(Ok(())),
            // The supervisor is gone, and all connections with it.
            Err(_) => Ok(()),
        }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}
