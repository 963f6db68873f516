//! The TCP door: one task per connection, which owns the socket and the producer it announced.
//!
//! - Commands are answered in order; what arrived together is answered together.
//! - An idle connection costs nothing and may stay; what was begun must be finished within
//!   [`PATIENCE`].
//! - Whatever ends the connection, its registrations go with it; when the process stops, all go.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::directory::LIMITS;
use crate::listen::{Door, Visitor};
use crate::protocol::{self, Command, MAGIC, ProtocolError};
use crate::registry::{Announcement, Producer, Refusal};
use crate::service::{PATIENCE, Service};

/// Room in the receive buffer for each read: nsqd sends one short command at a time.
const READ_BYTES: usize = 1024;
/// How long, and how many bytes, a peer may go on sending after its last answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Serves until the process stops; then waits for the connections to end.
pub(crate) async fn run(door: Door, service: Arc<Service>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let visitor = tokio::select! {
            visitor = door.next(&service.logger) => visitor,
            () = service.stopped() => break,
        };
        connections.spawn(serve(visitor, Arc::clone(&service)));
        while connections.try_join_next().is_some() {}
    }
    drop(door);
    while connections.join_next().await.is_some() {}
}

/// One connection, from accept to close.
async fn serve(mut visitor: Visitor, service: Arc<Service>) {
    let peer = visitor.peer.to_string();
    service.logger.info(format_args!("TCP: new client({peer})"));
    let mut connection = Connection {
        service: &service,
        peer,
        input: Vec::new(),
        producer: None,
    };
    tokio::select! {
        () = connection.talk(&mut visitor.stream) => {}
        // The registry ends with the process: no need to empty it first.
        () = service.stopped() => return,
    }
    connection.leave().await;
}

/// Why a conversation ended.
enum End {
    /// The peer closed, or the socket failed.
    Socket(io::Error),
    /// The peer made a mistake.
    Mistake(ProtocolError),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

struct Connection<'s> {
    service: &'s Service,
    peer: String,
    /// What has arrived and is no whole command yet; less than a line and a body.
    input: Vec<u8>,
    /// Set by IDENTIFY.
    producer: Option<Arc<Producer>>,
}

impl Connection<'_> {
    /// The whole conversation.
    async fn talk(&mut self, stream: &mut TcpStream) {
        if !self.greet(stream).await {
            return;
        }
        let end = self.obey(stream).await;
        if let Err(End::Mistake(error)) = &end {
            let (logger, peer) = (&self.service.logger, &self.peer);
            logger.error(format_args!("[{peer}] - {error}"));
            let mut answer = Vec::new();
            protocol::encode_response(&error.payload, &mut answer);
            say_goodbye(stream, &answer).await;
        }
        let (logger, peer) = (&self.service.logger, &self.peer);
        logger.info(format_args!("PROTOCOL(V1): [{peer}] exiting ioloop"));
        match end {
            Ok(()) => logger.info(format_args!("client({peer}) - EOF")),
            Err(End::Socket(error)) => logger.error(format_args!("client({peer}) - {error}")),
            Err(End::Mistake(error)) => {
                let text = String::from_utf8_lossy(&error.payload);
                logger.error(format_args!("client({peer}) - {text}"));
            }
        }
    }

    /// Reads the magic; whether to go on.
    async fn greet(&mut self, stream: &mut TcpStream) -> bool {
        let (logger, peer) = (&self.service.logger, &self.peer);
        let mut magic = [0; MAGIC.len()];
        if let Err(error) = patiently(stream.read_exact(&mut magic)).await {
            let is_short = error.kind() == io::ErrorKind::UnexpectedEof;
            let reason = if is_short {
                "unexpected EOF".to_owned()
            } else {
                error.to_string()
            };
            logger.error(format_args!("failed to read protocol version - {reason}"));
            return false;
        }
        let shown = String::from_utf8_lossy(&magic);
        logger.info(format_args!(
            "CLIENT({peer}): desired protocol magic '{shown}'"
        ));
        if magic == *MAGIC {
            return true;
        }
        let mut answer = Vec::new();
        protocol::encode_response(protocol::BAD_PROTOCOL, &mut answer);
        say_goodbye(stream, &answer).await;
        logger.error(format_args!("client({peer}) bad protocol magic '{shown}'"));
        false
    }

    /// Carries commands out until the peer closes between two of them.
    async fn obey(&mut self, stream: &mut TcpStream) -> Result<(), End> {
        let mut answers = Vec::new();
        let mut deadline = None;
        loop {
            // What came before a mistake is answered all the same.
            let outcome = self.drain(&mut answers).await;
            if self.input.is_empty() || !answers.is_empty() {
                deadline = None;
            }
            if !answers.is_empty() {
                patiently(stream.write_all(&answers)).await?;
                answers.clear();
            }
            outcome.map_err(End::Mistake)?;
            self.input.reserve(READ_BYTES);
            let is_idle = self.input.is_empty();
            let reading = stream.read_buf(&mut self.input);
            let count = if is_idle {
                reading.await?
            } else {
                let begun = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                timeout_at(begun, reading)
                    .await
                    .unwrap_or_else(|_| Err(too_slow()))?
            };
            if count == 0 {
                return match protocol::truncation_error(&self.input) {
                    Some(error) => Err(End::Mistake(error)),
                    None => Ok(()),
                };
            }
        }
    }

    /// Carries out every whole command of the input.
    async fn drain(&mut self, answers: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let mut begin = 0;
        let outcome = loop {
            let is_identified = self.producer.is_some();
            match protocol::decode(&self.input[begin..], is_identified) {
                Ok(Some((command, length))) => {
                    begin += length;
                    self.carry_out(command, answers).await;
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.input.drain(..begin);
        outcome
    }

    async fn carry_out(&mut self, command: Command, answers: &mut Vec<u8>) {
        match command {
            Command::Ping => self.ping(),
            Command::Identify(announcement) => {
                self.identify(*announcement);
                return protocol::encode_response(self.service.identity.as_bytes(), answers);
            }
            Command::Register { topic, channel } => {
                let producer = self.producer.as_ref().expect("checked by decode");
                let directory = &self.service.directory;
                match directory.register(producer.id(), &topic, channel.as_ref()) {
                    Ok(added) => {
                        if let Some(channel) = channel.as_ref().filter(|_| added.channel) {
                            self.log("REGISTER", "channel", topic.as_str(), channel.as_str());
                        }
                        if added.topic {
                            self.log("REGISTER", "topic", topic.as_str(), "");
                        }
                    }
                    Err(refusal) => return self.refuse(refusal, answers),
                }
            }
            Command::Unregister { topic, channel } => {
                let id = self.producer.as_ref().expect("checked by decode").id();
                let directory = &self.service.directory;
                if let Some(channel) = channel {
                    if directory.unregister_channel(id, &topic, &channel) {
                        self.log("UNREGISTER", "channel", topic.as_str(), channel.as_str());
                    }
                } else {
                    let each = |gone: crate::registry::Registration| match gone.channel {
                        Some(channel) => self.service.logger.warn(format_args!(
                            "client({}) unexpected UNREGISTER category:channel key:{} subkey:{}",
                            self.peer, gone.topic, channel
                        )),
                        None => self.log("UNREGISTER", "topic", gone.topic.as_str(), ""),
                    };
                    directory.unregister_topic(id, &topic, each).await;
                }
            }
        }
        protocol::encode_response(b"OK", answers);
    }

    fn ping(&self) {
        let Some(producer) = &self.producer else {
            return;
        };
        let now = self.service.now();
        let silence = nsq_cli::format_duration(now.since(producer.touch(now)));
        let peer = &self.peer;
        let logger = &self.service.logger;
        logger.debug(format_args!("CLIENT({peer}): pinged (last ping {silence})"));
    }

    fn identify(&mut self, announcement: Announcement) {
        let announcement = Announcement {
            remote_address: self.peer.clone(),
            ..announcement
        };
        self.service.logger.info(format_args!(
            "CLIENT({}): IDENTIFY Address:{} TCP:{} HTTP:{} Version:{}",
            self.peer,
            announcement.broadcast_address,
            announcement.tcp_port,
            announcement.http_port,
            announcement.version,
        ));
        let now = self.service.now();
        self.producer = Some(self.service.directory.identify(announcement, now));
        self.log("REGISTER", "client", "", "");
    }

    /// The one answer that says no and goes on: closing would take away what is registered.
    fn refuse(&self, refusal: Refusal, answers: &mut Vec<u8>) {
        let text = match refusal {
            Refusal::TooManyRegistrations => format!(
                "REGISTER too many registrations (max {} per client)",
                LIMITS.registrations_max
            ),
            Refusal::TooManyKeys => {
                format!(
                    "REGISTER too many topics and channels (max {})",
                    LIMITS.keys_max
                )
            }
        };
        let error = ProtocolError::new("E_INVALID", text);
        let peer = &self.peer;
        self.service
            .logger
            .error(format_args!("[{peer}] - {error}"));
        protocol::encode_response(&error.payload, answers);
    }

    /// Takes away everything that was registered.
    async fn leave(self) {
        let Some(producer) = &self.producer else {
            return;
        };
        self.log("UNREGISTER", "client", "", "");
        let each = |gone: crate::registry::Registration| match &gone.channel {
            Some(channel) => {
                self.log(
                    "UNREGISTER",
                    "channel",
                    gone.topic.as_str(),
                    channel.as_str(),
                );
            }
            None => self.log("UNREGISTER", "topic", gone.topic.as_str(), ""),
        };
        self.service.directory.leave(producer.id(), each).await;
    }

    fn log(&self, verb: &str, category: &str, key: &str, subkey: &str) {
        let peer = &self.peer;
        self.service.logger.info(format_args!(
            "DB: client({peer}) {verb} category:{category} key:{key} subkey:{subkey}"
        ));
    }
}

async fn patiently<T>(operation: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(PATIENCE, operation).await {
        Ok(outcome) => outcome,
        Err(_) => Err(too_slow()),
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")
}

/// Sends the last answer and closes so that the peer can read it: what the peer still sends is read
/// for a while, for the kernel answers unread input with a reset.
async fn say_goodbye(stream: &mut TcpStream, answer: &[u8]) {
    let rest = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        let mut scratch = [0; READ_BYTES];
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            match stream.read(&mut scratch).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        io::Result::Ok(())
    };
    // The peer may be gone already; then nobody misses anything.
    drop(timeout(LINGER, rest).await);
}
