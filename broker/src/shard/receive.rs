//! What the ring reports: accepted sockets, received bytes, finished disk operations.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{Shutdown, shutdown};
use nsq_core::Deadline;
use socket2::SockRef;

use super::http_socket::HttpSocket;
use super::publish::connection_mut;
use super::socket::{Protocol, RingOp, Socket};
use super::{Shard, SocketKey};
use crate::conn::{Connection, Hold, Identity, Phase, Receive};
use crate::ring::Completion;

/// Listener tags.
pub(super) const TCP_LISTENER: u32 = 0;
pub(super) const HTTP_LISTENER: u32 = 1;
pub(super) const HTTPS_LISTENER: u32 = 2;

/// Bytes that may stand in a connection's input beyond what its command needs.
pub(super) const INPUT_SLACK: usize = 128 * 1024;
/// Bytes thrown away from a connection that lingers after a fatal error.
const DISCARD_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Shard {
    /// Takes one completion of the ring.
    pub(crate) fn on_completion(&mut self, completion: Completion<'_>) {
        match completion {
            Completion::Accepted { tag, fd } => self.on_accepted(tag, fd),
            Completion::AcceptFailed { tag, error } => self.on_accept_failed(tag, &error),
            Completion::Received { tag, data } => self.on_received(SocketKey::from_tag(tag), data),
            Completion::Closed { tag, error } => {
                self.on_closed(SocketKey::from_tag(tag), error.as_ref());
            }
            Completion::ReceiveStopped { tag } => {
                self.on_receive_stopped(SocketKey::from_tag(tag));
            }
            Completion::Writable { tag } => self.on_writable(SocketKey::from_tag(tag)),
            Completion::WriteAccepted { token } => self.on_write_accepted(token),
            Completion::Written { token, result } | Completion::Synced { token, result } => {
                self.on_disk_op(token, result.map(|()| None));
            }
            Completion::Read { token, result } => self.on_disk_op(token, result.map(Some)),
        }
    }

    /// Starts to accept connections.
    pub(super) fn serve_clients(&mut self) {
        self.ring_ops.push(RingOp::Accept(TCP_LISTENER));
        self.ring_ops.push(RingOp::Accept(HTTP_LISTENER));
        self.ring_ops.push(RingOp::Accept(HTTPS_LISTENER));
        self.schedule_housekeeping();
    }

    fn on_accepted(&mut self, tag: u32, fd: OwnedFd) {
        let socket = SockRef::from(&fd);
        // Without it small replies wait for acknowledgements; a socket that refuses (a unix one
        // does) works too.
        drop(socket.set_tcp_nodelay(true));
        keep_alive(&socket);
        // The peer of a unix socket has no name.
        let Ok(peer) = socket.peer_addr().map(|peer| peer.as_socket()) else {
            return;
        };
        if self.stopping.is_some() {
            return;
        }
        let remote = peer.map_or_else(|| "@".to_owned(), |peer| peer.to_string());
        let fd = Rc::new(fd);
        let key = if tag != TCP_LISTENER {
            let tls = self.tls.clone().filter(|_| tag == HTTPS_LISTENER);
            assert!(
                tls.is_some() || tag == HTTP_LISTENER,
                "the door of HTTPS opens after the certificates have come"
            );
            let http = HttpSocket::new(remote, self.now, tls);
            let protocol = Protocol::Http(Box::new(http));
            let key = self.sockets.insert(Socket { fd, protocol });
            self.new_http.push(key);
            self.watch_http(key);
            key
        } else {
            self.shared
                .logger
                .info(format_args!("TCP: new client({remote})"));
            let identity = self.first_identity(peer);
            let connection = Connection::new(remote, self.now, identity);
            let protocol = Protocol::Tcp(Box::new(connection));
            let key = self.sockets.insert(Socket { fd, protocol });
            self.restart_heartbeat(key);
            key
        };
        self.ring_ops.push(RingOp::Receive(key));
        self.set_receive(key, Receive::On);
    }

    /// Before any IDENTIFY a client is known by its address, if it has one (spec §2.6.1).
    fn first_identity(&self, peer: Option<SocketAddr>) -> Identity {
        let ip = peer.map_or_else(String::new, |peer| peer.ip().to_string());
        Identity {
            client_id: ip.clone(),
            hostname: ip,
            user_agent: String::new(),
            heartbeat_interval: Some(self.shared.settings.heartbeat_interval),
            msg_timeout: self.shared.settings.identify.msg_timeout,
            sample_rate: 0,
            topology_region: String::new(),
            topology_zone: String::new(),
        }
    }

    fn on_accept_failed(&mut self, tag: u32, error: &io::Error) {
        if self.stopping.is_some() {
            return;
        }
        let name = match tag {
            TCP_LISTENER => "TCP",
            HTTP_LISTENER => "HTTP",
            _ => "HTTPS",
        };
        self.shared.logger.error(format_args!(
            "{name}: accept failed, trying again in a second - {error}"
        ));
        let at = self.now.after(super::timers::ACCEPT_PAUSE);
        self.core
            .schedule(at, Deadline::Tick(super::timers::TICK_ACCEPT + tag));
    }

    fn set_receive(&mut self, key: SocketKey, receive: Receive) {
        match self.sockets.get_mut(key).map(|socket| &mut socket.protocol) {
            Some(Protocol::Tcp(connection)) => connection.receive = receive,
            Some(Protocol::Http(http)) => http.receive = receive,
            None => {}
        }
    }

    fn on_received(&mut self, key: SocketKey, data: &[u8]) {
        match self.sockets.get(key).map(|socket| &socket.protocol) {
            Some(Protocol::Tcp(_)) => self.on_connection_received(key, data),
            Some(Protocol::Http(_)) => self.on_http_received(key, data),
            None => {}
        }
    }

    fn on_connection_received(&mut self, key: SocketKey, data: &[u8]) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        match connection.phase {
            Phase::Lingering => {
                connection.discarded += data.len();
                if connection.discarded > DISCARD_BYTES_MAX {
                    self.close_socket(key);
                }
                return;
            }
            Phase::Closing { .. } => return,
            Phase::Magic | Phase::Serving => {}
        }
        let plain = connection.transport.is_plain();
        let direct = plain
            && connection.phase == Phase::Serving
            && connection.input.is_empty()
            && connection.hold == Hold::None;
        if direct {
            // The usual case: whole commands are taken straight from the receive buffer.
            let taken = self.serve(key, data);
            if let Some(connection) = connection_mut(&mut self.sockets, key)
                && matches!(connection.phase, Phase::Magic | Phase::Serving)
            {
                connection.input.extend_from_slice(&data[taken..]);
            }
        } else {
            if plain {
                connection.input.extend_from_slice(data);
            } else {
                connection.transport.receive(data);
            }
            self.serve_input(key);
        }
        self.settle_receive(key);
    }

    /// Stops or starts receiving so that the input stays bounded.
    pub(super) fn settle_receive(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        let room = connection.input.len() < connection.needed + INPUT_SLACK
            && connection.transport.has_room();
        let moving = matches!(connection.hold, Hold::Moving(_));
        match connection.receive {
            Receive::On if !room || moving => {
                connection.receive = Receive::Stopping;
                self.ring_ops.push(RingOp::StopReceive(key));
            }
            Receive::Off if room && !moving && !connection.eof => {
                connection.receive = Receive::On;
                self.ring_ops.push(RingOp::Receive(key));
            }
            Receive::On | Receive::Off | Receive::Stopping => {}
        }
    }

    fn on_receive_stopped(&mut self, key: SocketKey) {
        self.set_receive(key, Receive::Off);
        match self.sockets.get_mut(key).map(|socket| &mut socket.protocol) {
            Some(Protocol::Tcp(connection)) => {
                // Stopping also ended the wait for room.
                connection.output.unblock();
                self.settle_receive(key);
                self.queue_flush(key);
            }
            Some(Protocol::Http(http)) => {
                http.write_blocked = false;
                self.wakers.extend(http.write_waker.take());
                self.settle_http_receive(key);
            }
            None => {}
        }
    }

    fn on_closed(&mut self, key: SocketKey, error: Option<&io::Error>) {
        match self.sockets.get_mut(key).map(|socket| &mut socket.protocol) {
            Some(Protocol::Tcp(connection)) => {
                connection.receive.end();
                connection.eof = true;
                match error {
                    // Nothing that is sent will arrive.
                    Some(_) => self.close_socket(key),
                    None if connection.phase == Phase::Lingering => self.close_socket(key),
                    None => {
                        self.serve_input(key);
                        self.queue_flush(key);
                    }
                }
            }
            Some(Protocol::Http(_)) => self.on_http_closed(key, error),
            None => {}
        }
    }

    pub(super) fn on_writable(&mut self, key: SocketKey) {
        match self.sockets.get_mut(key).map(|socket| &mut socket.protocol) {
            Some(Protocol::Tcp(connection)) => {
                connection.output.on_writable();
                self.queue_flush(key);
            }
            Some(Protocol::Http(http)) => {
                http.write_blocked = false;
                http.write_woken = true;
                self.wakers.extend(http.write_waker.take());
            }
            None => {}
        }
    }

    /// Closes a socket at once. Its consumer, timers and tasks are settled here and nowhere else.
    pub(super) fn close_socket(&mut self, key: SocketKey) {
        self.unsubscribe(key);
        let Some(socket) = self.sockets.remove(key) else {
            return;
        };
        self.ring_ops.push(RingOp::Forget(key));
        // What its consumer left is for others, and this may be behind the turn's dispatch.
        self.touched = true;
        // The peer sees the end at once, also while the ring still holds its share. A peer that
        // is gone already has nothing to see.
        let _ = shutdown(socket.fd.as_raw_fd(), Shutdown::Both);
        match socket.protocol {
            Protocol::Tcp(connection) => {
                let timers = &connection.timers;
                for timer in [timers.heartbeat, timers.read, timers.write]
                    .into_iter()
                    .flatten()
                {
                    self.core.cancel(timer);
                }
                self.log_exit(&connection);
                self.forget_changes_of(key);
            }
            Protocol::Http(mut http) => {
                if let Some(timer) = http.idle_timer {
                    self.core.cancel(timer);
                }
                self.wakers.extend(http.read_waker.take());
                self.wakers.extend(http.write_waker.take());
            }
        }
    }

    /// The reference has a loop for either direction, and a line for the end of each.
    fn log_exit(&self, connection: &Connection) {
        let (logger, remote) = (&self.shared.logger, &connection.remote);
        if connection.is_greeted {
            logger.info(format_args!("PROTOCOL(V2): [{remote}] exiting ioloop"));
            logger.info(format_args!("PROTOCOL(V2): [{remote}] exiting messagePump"));
        }
        if let Some(failure) = &connection.failure {
            logger.error(format_args!("client({remote}) - {failure}"));
        }
    }

    /// Closes a connection from the core's side: its channel or topic was deleted.
    pub(super) fn disconnect(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        connection.subscription = None;
        connection.phase = Phase::Closing { linger: false };
        connection.input.clear();
        self.queue_flush(key);
    }
}

/// As the reference's sockets: probes after 15 s of silence.
fn keep_alive(socket: &SockRef<'_>) {
    let probes = socket2::TcpKeepalive::new()
        .with_time(std::time::Duration::from_secs(15))
        .with_interval(std::time::Duration::from_secs(15));
    // A socket without keep-alive works too; heartbeats find a dead peer as well.
    drop(socket.set_tcp_keepalive(&probes));
}
