//! What a client's bytes mean: the protocol session of one connection (spec nsqd.md §2).

use std::time::Duration;

use bytes::{Buf, Bytes};
use nsq_core::{
    AckError, ConsumerKey, ConsumerOptions, Deadline, MessageId, PublishError, TopicKey,
};
use nsq_proto::{
    ChannelName, Command, DecodeContext, Decoded, FIN_LINE_LEN, IdentifyBody, ProtoError,
    SessionState, TopicName, decode, plain_fins, truncation_error,
};

use super::change::ChangeDone;
use super::layers::grant;
use super::publish::{ConnectionPublish, REMOTE_BYTES_MAX, connection_mut};
use super::{Shard, SocketKey};
use crate::conn::{
    Connection, Hold, Phase, PublishVerb, Subscription, error_frame, response_frame,
};
use crate::grants::Access;

/// The magic of this protocol (spec §2.1).
const MAGIC: &[u8; 4] = b"  V2";
/// Unread replies and messages of a connection, above which its commands wait.
const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Replies of a connection that wait for the disk, above which its commands wait.
const REPLIES_MAX: usize = 64 * 1024;

/// What becomes of the command loop after a command.
pub(super) enum Flow {
    /// Go on with the next command.
    Next,
    /// Stop; this command is done.
    Pause,
    /// Stop; look at this command again when the hold is over, or more of it has arrived.
    Again,
    /// Stop; the connection takes no more commands.
    Fail(ProtoError),
}

impl Shard {
    pub(super) fn connection(&mut self, key: SocketKey) -> Option<&mut Connection> {
        connection_mut(&mut self.sockets, key)
    }

    /// Takes the commands that have fully arrived in `data` and returns how many bytes they took.
    pub(super) fn serve(&mut self, key: SocketKey, data: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            taken += self.serve_finishes(key, &data[taken..]);
            let (flow, consumed) = self.serve_one(key, &data[taken..]);
            if self.is_verbose && !matches!(flow, Flow::Again) {
                self.log_command(key, &data[taken..]);
            }
            match flow {
                Flow::Next => taken += consumed,
                Flow::Pause => return taken + consumed,
                Flow::Again => return taken,
                Flow::Fail(error) => {
                    self.fail_connection(key, &error);
                    return data.len();
                }
            }
        }
    }

    /// Takes the FINs at the beginning of `data`, of which there is one for every message that is consumed,
    /// together, and says how many bytes they took. What is special about one is for
    /// [`Self::serve_one`] to see.
    fn serve_finishes(&mut self, key: SocketKey, data: &[u8]) -> usize {
        if self.is_verbose || plain_fins(data).next().is_none() || self.is_crowded(key) {
            return 0;
        }
        let Some(connection) = connection_mut(&mut self.sockets, key).filter(|c| c.is_served())
        else {
            return 0;
        };
        let Some(subscription) = &connection.subscription else {
            return 0;
        };
        let (consumer, topic) = (subscription.consumer, subscription.topic_key);
        connection.last_command = self.now;
        connection.needed = 1;
        let mut taken = 0;
        loop {
            let ids = plain_fins(&data[taken..]).map(MessageId);
            let (count, failure) = self.core.finish_all(self.now, consumer, ids);
            taken += count * FIN_LINE_LEN;
            self.work += count as u64;
            if count == 0 || failure.is_some() {
                break;
            }
        }
        if taken > 0 {
            self.schedule_checkpoint(topic);
        }
        taken
    }

    /// Takes the command at the beginning of `data`, if it is whole, and says how many bytes it took.
    fn serve_one(&mut self, key: SocketKey, data: &[u8]) -> (Flow, usize) {
        if self.is_crowded(key) {
            self.hold(key, Hold::Congestion);
        }
        if let Some(flow) = self.mpub_lacks_permission(key, data) {
            return (flow, 0);
        }
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return (Flow::Pause, data.len());
        };
        if !connection.is_served() || data.is_empty() {
            connection.needed = 1;
            return (Flow::Again, 0);
        }
        let context = self.shared.settings.decode_context(connection);
        match decode(data, &context) {
            Ok(Decoded::Incomplete { needed }) => {
                connection.needed = needed;
                (Flow::Again, 0)
            }
            Ok(Decoded::Command { command, consumed }) => {
                connection.last_command = self.now;
                connection.needed = 1;
                self.work += 1;
                (self.execute(key, command), consumed)
            }
            Err(error) => (Flow::Fail(error), 0),
        }
    }

    /// Takes the commands that stand in the connection's own buffer, and what its layers still hold.
    pub(super) fn serve_input(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if connection.transport.is_plain() {
            self.serve_plain(key);
            self.settle_eof(key);
        } else {
            self.serve_layered(key);
        }
    }

    /// Takes the commands that stand in the connection's own buffer.
    pub(super) fn serve_plain(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if connection.phase == Phase::Magic {
            self.take_magic(key);
        }
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if connection.may_decode() {
            let mut input = std::mem::take(&mut connection.input);
            let taken = self.serve(key, &input);
            input.advance(taken);
            if let Some(connection) = connection_mut(&mut self.sockets, key) {
                connection.input = input;
            }
        }
    }

    fn take_magic(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        let Some(magic) = connection.input.first_chunk::<4>().copied() else {
            return;
        };
        connection.input.advance(4);
        let remote = connection.remote.clone();
        let shown = String::from_utf8_lossy(&magic).into_owned();
        self.shared.logger.info(format_args!(
            "CLIENT({remote}): desired protocol magic '{shown}'"
        ));
        if &magic == MAGIC {
            connection.phase = Phase::Serving;
            connection.is_greeted = true;
            connection.needed = 1;
            return;
        }
        self.shared.logger.error(format_args!(
            "client({remote}) bad protocol magic '{shown}'"
        ));
        self.refuse(key, &ProtoError::bad_protocol());
    }

    /// When the peer has closed its side and nothing that it sent is left to do: answer and close.
    pub(super) fn settle_eof(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if !connection.eof || connection.hold != Hold::None {
            return;
        }
        if connection.phase == Phase::Magic {
            let end = match connection.input.is_empty() {
                true => "EOF",
                false => "unexpected EOF",
            };
            let logger = &self.shared.logger;
            logger.error(format_args!("failed to read protocol version - {end}"));
            self.close_socket(key);
            return;
        }
        if connection.phase == Phase::Serving {
            let context = self.shared.settings.decode_context(connection);
            match truncation_error(&connection.input, &context) {
                Some(error) => self.fail_truncated(key, &error),
                None => connection.phase = Phase::Closing { linger: false },
            }
            self.queue_flush(key);
        }
    }

    /// Too much of this connection's is under way to take another command.
    pub(super) fn is_crowded(&mut self, key: SocketKey) -> bool {
        let congested = self.core.is_congested();
        self.connection(key).is_some_and(|connection| {
            (congested && !connection.published.is_empty())
                || connection.output.len() > OUTPUT_BYTES_MAX
                || connection.replies.len() > REPLIES_MAX
                || connection.published.remote_bytes > REMOTE_BYTES_MAX
        })
    }

    pub(super) fn hold(&mut self, key: SocketKey, hold: Hold) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if connection.hold == Hold::None {
            connection.hold = hold;
            if hold == Hold::Congestion {
                self.congested.push(key);
            }
        }
    }

    /// Ends a hold and goes on with the connection's commands.
    pub(super) fn release(&mut self, key: SocketKey, hold: Hold) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if connection.hold == hold {
            connection.hold = Hold::None;
            connection.last_command = self.now;
            self.serve_input(key);
            self.queue_flush(key);
            self.settle_receive(key);
        }
    }

    fn execute(&mut self, key: SocketKey, command: Command<'_>) -> Flow {
        match command {
            Command::Pub { topic, body } => {
                let bodies = std::iter::once(body);
                self.on_publish(key, PublishVerb::Pub, topic, (Duration::ZERO, bodies, 1))
            }
            Command::Mpub { topic, bodies } => {
                let messages = bodies.len() as u64;
                self.on_publish(
                    key,
                    PublishVerb::Mpub,
                    topic,
                    (Duration::ZERO, bodies, messages),
                )
            }
            Command::Dpub {
                topic,
                delay_ms,
                body,
            } => {
                let delay = Duration::from_millis(delay_ms);
                let bodies = std::iter::once(body);
                self.on_publish(key, PublishVerb::Dpub, topic, (delay, bodies, 1))
            }
            Command::Fin { id } => {
                self.on_ack(key, ProtoError::fin_failed, id, |shard, consumer, id| {
                    shard.core.finish(shard.now, consumer, id)
                })
            }
            Command::Req { id, delay_ms } => {
                let delay = self.clamp_requeue(key, Duration::from_millis(delay_ms));
                self.on_ack(key, ProtoError::req_failed, id, |shard, consumer, id| {
                    shard.core.requeue(shard.now, consumer, id, delay)
                })
            }
            Command::Touch { id } => {
                self.on_ack(key, ProtoError::touch_failed, id, |shard, consumer, id| {
                    shard.core.touch(shard.now, consumer, id)
                })
            }
            Command::Rdy { count } => self.on_ready(key, count),
            Command::Nop => Flow::Next,
            Command::Sub { topic, channel } => self.on_sub(key, topic, channel),
            Command::Identify { body } => self.on_identify(key, body),
            Command::Cls => self.on_cls(key),
            Command::Auth { secret } => self.on_auth(key, secret),
        }
    }

    fn on_publish<'a>(
        &mut self,
        key: SocketKey,
        verb: PublishVerb,
        topic: &'a str,
        (delay, bodies, messages): (Duration, impl Iterator<Item = &'a [u8]>, u64),
    ) -> Flow {
        // An MPUB was checked before its body was looked at.
        if verb != PublishVerb::Mpub
            && let Some(flow) = self.lacks_permission(key, verb.as_str(), topic, Access::Publish)
        {
            return flow;
        }
        if self.stopping.is_some() {
            // Not by its topic's shard, which may have ended.
            return Flow::Fail(verb.failure(&PublishError::Exiting.to_string()));
        }
        if self.should_move_publisher(key, topic) {
            return self.move_to_owner(key, topic);
        }
        let publish = ConnectionPublish {
            verb,
            topic,
            delay,
            bodies,
            messages,
        };
        match self.publish_from_connection(key, publish) {
            Ok(()) => {
                self.queue_flush(key);
                Flow::Next
            }
            Err(error @ (PublishError::Exiting | PublishError::Log(_))) => {
                Flow::Fail(verb.failure(&error.to_string()))
            }
        }
    }

    fn move_to_owner(&mut self, key: SocketKey, topic: &str) -> Flow {
        let owner = self.owner_of(topic);
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return Flow::Again;
        };
        if connection.replies.is_empty() {
            self.start_move(key, owner);
        } else {
            self.hold(key, Hold::Replies);
        }
        Flow::Again
    }

    fn on_ack(
        &mut self,
        key: SocketKey,
        failed: fn(&[u8; 16], &str) -> ProtoError,
        id: [u8; 16],
        apply: impl FnOnce(&mut Self, ConsumerKey, &MessageId) -> Result<(), AckError>,
    ) -> Flow {
        let subscription = self.connection(key).and_then(|c| c.subscription.as_ref());
        let Some((consumer, topic)) = subscription.map(|s| (s.consumer, s.topic_key)) else {
            return Flow::Pause;
        };
        match apply(self, consumer, &MessageId(id)) {
            Ok(()) => self.schedule_checkpoint(topic),
            Err(error) => self.reply_error(key, &failed(&id, &error.to_string())),
        }
        Flow::Next
    }

    /// A longer delay than the limit is cut to it, which the operators are told.
    fn clamp_requeue(&mut self, key: SocketKey, delay: Duration) -> Duration {
        let max = self.shared.settings.max_req_timeout;
        if delay > max
            && let Some(connection) = connection_mut(&mut self.sockets, key)
        {
            let (remote, asked, max) = (&connection.remote, delay.as_nanos(), max.as_nanos());
            self.shared.logger.info(format_args!(
                "PROTOCOL(V2): [{remote}] REQ timeout {asked} out of range 0-{max}. \
                 Setting to {max}"
            ));
        }
        delay.min(max)
    }

    /// Answers with an error that the connection survives.
    #[cold]
    fn reply_error(&mut self, key: SocketKey, error: &ProtoError) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        connection.replies.push_ready(error_frame(error));
        let (remote, error) = (&connection.remote, error.with_cause());
        let logger = &self.shared.logger;
        logger.error(format_args!("[{remote}] - {error}"));
        self.queue_flush(key);
    }

    fn on_ready(&mut self, key: SocketKey, count: u32) -> Flow {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return Flow::Pause;
        };
        if connection.session == SessionState::Subscribed
            && let Some(subscription) = &connection.subscription
        {
            self.core.ready(subscription.consumer, count);
        }
        Flow::Next
    }

    fn on_cls(&mut self, key: SocketKey) -> Flow {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return Flow::Pause;
        };
        if let Some(subscription) = &connection.subscription {
            self.core.close(subscription.consumer);
        }
        connection.session = SessionState::Closing;
        connection.replies.push_ready(response_frame(b"CLOSE_WAIT"));
        self.queue_flush(key);
        Flow::Next
    }

    fn on_identify(&mut self, key: SocketKey, body: &[u8]) -> Flow {
        let settings = &self.shared.settings;
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return Flow::Pause;
        };
        let request = IdentifyBody::parse(body).and_then(|body| {
            let (logger, remote) = (&self.shared.logger, &connection.remote);
            logger.debug(format_args!("PROTOCOL(V2): [{remote}] {body}"));
            logger.info(format_args!("[{remote}] IDENTIFY: {body}"));
            body.check(&settings.identify)
        });
        let request = match request {
            Ok(request) => request,
            Err(error) => return Flow::Fail(error),
        };
        let upgrades = match grant(&request, connection, settings, self.tls.as_ref()) {
            Ok(upgrades) => upgrades,
            Err(error) => return Flow::Fail(error),
        };
        let reply = if request.feature_negotiation {
            Bytes::from(settings.identify_reply(&request, &upgrades))
        } else {
            Bytes::from_static(b"OK")
        };
        let interval = request.heartbeat_interval;
        let identity = &mut connection.identity;
        identity.client_id = request.client_id;
        identity.hostname = request.hostname;
        identity.user_agent = request.user_agent;
        identity.heartbeat_interval = interval;
        identity.msg_timeout = request.msg_timeout;
        identity.sample_rate = request.sample_rate;
        identity.topology_region = request.topology_region;
        identity.topology_zone = request.topology_zone;
        connection.replies.push_ready(response_frame(&reply));
        let is_upgraded = upgrades.is_any();
        if is_upgraded {
            connection.transport.plan(upgrades);
            connection.hold = Hold::Upgrade;
        }
        self.restart_heartbeat(key);
        self.queue_flush(key);
        if is_upgraded { Flow::Pause } else { Flow::Next }
    }

    fn on_sub(&mut self, key: SocketKey, topic: &str, channel: &str) -> Flow {
        let access = Access::Subscribe(channel);
        if let Some(flow) = self.lacks_permission(key, "SUB", topic, access) {
            return flow;
        }
        if self.owner_of(topic) != self.id {
            return self.move_to_owner(key, topic);
        }
        if self.stopping.is_some() {
            return Flow::Fail(ProtoError::sub_failed("exiting"));
        }
        let topic = TopicName::parse(topic.as_bytes()).expect("checked by the decoder");
        let channel = ChannelName::parse(channel.as_bytes()).expect("checked by the decoder");
        let topic_key = self.topic(&topic);
        let created = self.core.create_channel(self.now, topic_key, &channel);
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return Flow::Pause;
        };
        let identity = &connection.identity;
        let (region, zone) = (&identity.topology_region, &identity.topology_zone);
        let options = ConsumerOptions {
            msg_timeout: identity.msg_timeout,
            sample_rate: identity.sample_rate,
            locality: self.shared.settings.locality(region, zone),
        };
        let subscribed = self
            .core
            .subscribe(topic_key, channel.as_str(), key.token(), &options);
        let consumer = match subscribed {
            Ok(consumer) => consumer,
            Err(error) => return Flow::Fail(ProtoError::sub_failed(&error.to_string())),
        };
        connection.session = SessionState::Subscribed;
        let subscription = Subscription {
            consumer,
            topic_key,
            writable: true,
        };
        connection.subscription = Some(subscription);
        self.queue_flush(key);
        let is_change = created && !topic.is_ephemeral() && !channel.is_ephemeral();
        if is_change || self.is_unsaved(topic_key) {
            self.answer_sub_when_saved(key, (topic_key, &topic), is_change);
            return Flow::Pause;
        }
        if let Some(connection) = connection_mut(&mut self.sockets, key) {
            connection.replies.push_ready(response_frame(b"OK"));
        }
        Flow::Next
    }

    fn answer_sub_when_saved(
        &mut self,
        key: SocketKey,
        (topic_key, topic): (TopicKey, &TopicName),
        is_change: bool,
    ) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        let ticket = connection.replies.push_waiting();
        self.hold(key, Hold::Change);
        let done = ChangeDone::Subscription(key, ticket);
        if is_change {
            self.change_topic(topic_key, topic, done);
        } else {
            self.await_change(topic_key, topic, done);
        }
    }

    /// Sends a fatal error behind everything that is to be answered before it, and takes no more
    /// commands. The socket is closed after a bounded lingering (K2).
    #[cold]
    pub(super) fn fail_connection(&mut self, key: SocketKey, error: &ProtoError) {
        if !self.refuse(key, error) {
            return;
        }
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        connection.failure = Some(error.to_string().into());
        let (logger, remote) = (&self.shared.logger, &connection.remote);
        logger.error(format_args!("[{remote}] - {}", error.with_cause()));
    }

    /// The same for a command of which the rest will not come.
    #[cold]
    fn fail_truncated(&mut self, key: SocketKey, error: &ProtoError) {
        if self.is_verbose
            && let Some(input) = self.connection(key).map(|c| c.input.clone())
        {
            self.log_command(key, &input);
        }
        self.fail_connection(key, error);
    }

    /// The same without a line in the log; `false` where the connection fails already.
    #[cold]
    fn refuse(&mut self, key: SocketKey, error: &ProtoError) -> bool {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return false;
        };
        if matches!(
            connection.phase,
            Phase::Closing { linger: true } | Phase::Lingering
        ) {
            return false;
        }
        connection.phase = Phase::Closing { linger: true };
        connection.input.clear();
        connection.replies.push_ready(error_frame(error));
        self.unsubscribe(key);
        self.queue_flush(key);
        true
    }

    /// Ends the connection's subscription, if it has one.
    pub(super) fn unsubscribe(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if let Some(subscription) = connection.subscription.take() {
            self.core.unsubscribe(subscription.consumer);
        }
    }

    /// The peer of this connection sent no complete command for two heartbeat intervals.
    pub(super) fn on_read_timeout(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        connection.timers.read = None;
        if connection.transport.is_handshaking() {
            self.fail_handshake(key, "i/o timeout");
            return;
        }
        let Some(interval) = connection.identity.heartbeat_interval else {
            return;
        };
        let held = connection.hold != Hold::None;
        let deadline = connection.last_command.after(interval * 2);
        if deadline > self.now || held {
            let at = if held {
                self.now.after(interval * 2)
            } else {
                deadline
            };
            let timer = self.core.schedule(at, Deadline::ReadTimeout(key.token()));
            if let Some(connection) = self.connection(key) {
                connection.timers.read = Some(timer);
            }
            return;
        }
        let context = self.shared.settings.decode_context(connection);
        let serving = connection.phase == Phase::Serving;
        match truncation_error(&connection.input, &context).filter(|_| serving) {
            Some(error) => self.fail_truncated(key, &error),
            None => {
                let remote = connection.remote.clone();
                self.shared.logger.error(format_args!(
                    "client({remote}) - failed to read command - i/o timeout"
                ));
                self.close_socket(key);
            }
        }
    }
}

impl crate::shared::Settings {
    /// What the decoder must know of a connection.
    pub(super) fn decode_context(&self, connection: &Connection) -> DecodeContext {
        DecodeContext {
            state: connection.session,
            heartbeats_disabled: connection.identity.heartbeat_interval.is_none(),
            tls_missing: self.tls_required && !connection.is_tls(),
            limits: self.limits,
        }
    }
}
