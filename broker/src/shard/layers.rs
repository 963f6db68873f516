//! TLS and compression of a connection: how they are granted and begin, and how what arrives
//! through them is served (spec nsqd.md §2.6.3). What they do to bytes is `conn::transport`'s.
//!
//! An upgrade is a row of steps, each of which waits until everything before it is sent:
//! the JSON of IDENTIFY in the old form, TLS and its handshake, `OK` inside TLS, the compression,
//! `OK` inside that. No command is served and no heartbeat sent meanwhile.
//!
//! Decrypting and inflating cost more than receiving, and what arrives may inflate a thousandfold:
//! a connection decodes [`ROUNDS_PER_TURN`] times its room in a turn, and the rest in the next
//! turns. So do handshakes, whose signatures take up to a millisecond each.

use std::sync::Arc;
use std::time::Duration;

use nsq_core::Deadline;
use nsq_proto::{IdentifyRequest, ProtoError};
use rustls::ServerConfig;

use super::publish::connection_mut;
use super::receive::INPUT_SLACK;
use super::{Shard, SocketKey};
use crate::conn::{
    Compression, Connection, Decoded, Hold, LayerError, Phase, Upgrades, response_frame,
};
use crate::shared::Settings;

/// How long a TLS handshake may take, as in the reference.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How often a connection fills its input in one turn.
const ROUNDS_PER_TURN: usize = 8;
/// Steps of handshakes that a shard takes in one turn.
pub(super) const HANDSHAKES_PER_TURN: usize = 4;

/// What an IDENTIFY gets of what it asks for: what the broker offers, and what is not there yet
/// (K4: layers are neither dropped nor stacked twice).
///
/// # Errors
/// Both compressions at once.
pub(super) fn grant(
    request: &IdentifyRequest,
    connection: &Connection,
    settings: &Settings,
    tls: Option<&Arc<ServerConfig>>,
) -> Result<Upgrades, ProtoError> {
    if !request.feature_negotiation {
        return Ok(Upgrades::default());
    }
    let snappy = request.snappy && settings.compression.snappy;
    let deflate = request.deflate && settings.compression.deflate;
    let compression = match (snappy, deflate) {
        (true, true) => return Err(ProtoError::both_compressions()),
        (true, false) => Some(Compression::Snappy),
        (false, true) => Some(Compression::Deflate(request.deflate_level)),
        (false, false) => None,
    };
    let transport = &connection.transport;
    Ok(Upgrades {
        tls: tls
            .filter(|_| request.tls_v1 && transport.is_plain())
            .cloned(),
        compression: compression.filter(|_| transport.compression().is_none()),
    })
}

impl Shard {
    /// Begins the next layer: everything before it is sent.
    pub(super) fn upgrade(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        // What came behind the IDENTIFY belongs to the layer already.
        let received = std::mem::take(&mut connection.input);
        let remote = connection.remote.clone();
        match connection.transport.begin_tls(received) {
            Ok(()) => {
                self.shared.logger.info(format_args!(
                    "PROTOCOL(V2): [{remote}] upgrading connection to TLS"
                ));
                self.limit_handshake(key);
                self.serve_input(key);
                self.settle_receive(key);
            }
            Err(received) => {
                let begun = connection.transport.begin_compression(received);
                let name = match begun {
                    Some(Compression::Deflate(level)) => format!("deflate (level {level})"),
                    Some(Compression::Snappy) | None => "snappy".to_owned(),
                };
                self.shared.logger.info(format_args!(
                    "PROTOCOL(V2): [{remote}] upgrading connection to {name}"
                ));
                self.finish_upgrade(key);
            }
        }
    }

    /// The read deadline becomes that of the handshake.
    fn limit_handshake(&mut self, key: SocketKey) {
        let at = self.now.after(HANDSHAKE_MAX);
        let timer = self.core.schedule(at, Deadline::ReadTimeout(key.token()));
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if let Some(old) = connection.timers.read.replace(timer) {
            self.core.cancel(old);
        }
    }

    /// A layer is in place: says so through it, and goes on with the next one or with commands.
    fn finish_upgrade(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        connection.replies.push_ready(response_frame(b"OK"));
        self.restart_heartbeat(key);
        self.queue_flush(key);
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if !connection.transport.is_upgrade_due() {
            self.release(key, Hold::Upgrade);
        }
    }

    /// Decodes what was received and takes the commands in it, as far as this turn's share goes.
    pub(super) fn serve_layered(&mut self, key: SocketKey) {
        for _ in 0..ROUNDS_PER_TURN {
            let Some(connection) = connection_mut(&mut self.sockets, key) else {
                return;
            };
            if !matches!(connection.phase, Phase::Magic | Phase::Serving) {
                return;
            }
            let was_handshaking = connection.transport.is_handshaking();
            if was_handshaking {
                if self.handshakes_left == 0 {
                    break;
                }
                self.handshakes_left -= 1;
            }
            let room = (connection.needed + INPUT_SLACK).saturating_sub(connection.input.len());
            let decoded = connection.transport.decode(&mut connection.input, room);
            let decoded = match decoded {
                Ok(decoded) => decoded,
                Err(error) => return self.fail_layer(key, &error),
            };
            if was_handshaking {
                if !self.on_handshake_step(key, decoded) {
                    return;
                }
                continue;
            }
            connection.eof |= decoded == Decoded::End;
            self.serve_plain(key);
            let Some(connection) = connection_mut(&mut self.sockets, key) else {
                return;
            };
            let has_room = connection.input.len() < connection.needed + INPUT_SLACK;
            match decoded {
                Decoded::Full if has_room => {}
                // It is held: what comes next is looked at when that is over.
                Decoded::Full => return,
                Decoded::Dry | Decoded::End => return self.settle_eof(key),
            }
        }
        self.undecoded.push(key);
        self.touched = true;
    }

    /// A handshake has gone on; whether what came behind it can be looked at.
    fn on_handshake_step(&mut self, key: SocketKey, decoded: Decoded) -> bool {
        self.queue_flush(key);
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return false;
        };
        if !connection.transport.is_handshaking() {
            self.finish_upgrade(key);
            return true;
        }
        if connection.eof || decoded == Decoded::End {
            self.fail_handshake(key, "EOF");
        }
        false
    }

    /// Goes on with the connections that had used up their share of a turn.
    pub(super) fn resume_undecoded(&mut self) {
        self.handshakes_left = HANDSHAKES_PER_TURN;
        if self.undecoded.is_empty() {
            return;
        }
        for key in std::mem::take(&mut self.undecoded) {
            self.serve_input(key);
            self.settle_receive(key);
        }
    }

    /// What arrived is not what the layers are made for. Of a handshake the peer is told in plain
    /// text; otherwise it gets what it was owed, and an alert if there is TLS.
    #[cold]
    fn fail_layer(&mut self, key: SocketKey, error: &LayerError) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if connection.transport.is_handshaking() {
            self.fail_handshake(key, &error.to_string());
            return;
        }
        connection.phase = Phase::Closing { linger: true };
        connection.input.clear();
        self.shared.logger.error(format_args!(
            "client({}) - failed to read command - {error}",
            connection.remote
        ));
        self.unsubscribe(key);
        self.queue_flush(key);
    }

    /// Ends a handshake that cannot be finished, and the connection with it.
    #[cold]
    pub(super) fn fail_handshake(&mut self, key: SocketKey, reason: &str) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        let last = connection.transport.abandon();
        connection.output.push(last.into());
        self.fail_connection(key, &ProtoError::identify_failed(reason));
    }
}
