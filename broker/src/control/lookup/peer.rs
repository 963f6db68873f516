//! The life of one nsqlookupd peer: connect, say who we are and everything there is, then every
//! change and a PING; when that fails, again after a pause.
//!
//! What a peer misses while it is away is not kept: it is told everything when it is back, and
//! forgets on its own what it was told over a connection that ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nsq_cli::{Logger, errno_text};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::registry::{NameChange, Registry};
use super::session::{BATCH, STEP, Session, in_time};

/// Time between two PINGs.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Pause after a connection that failed; doubled up to [`PAUSE_MAX`] while no attempt succeeds.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = PING_INTERVAL;
/// Bytes of a peer's reply that are worth logging.
const SHOWN_BYTES_MAX: usize = 256;

/// What a peer says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct PeerInfo {
    tcp_port: u16,
    pub(super) http_port: u16,
    version: String,
    pub(super) broadcast_address: String,
}

/// What is known of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum PeerState {
    /// The first attempt to reach it has not ended.
    #[default]
    Connecting,
    /// It has not been reached yet.
    Unknown,
    /// It was reached; it may be gone since.
    Known(PeerInfo),
}

/// How a peer is connected to.
pub(super) trait Dial {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin;

    /// Connects; the caller bounds the time.
    ///
    /// # Errors
    /// The system's.
    fn dial(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Over TCP.
#[derive(Debug)]
pub(super) struct DialTcp;

impl Dial for DialTcp {
    type Stream = tokio::net::TcpStream;

    async fn dial(&self, address: &str) -> io::Result<Self::Stream> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Peer<D> {
    pub(super) address: String,
    pub(super) dialer: D,
    /// The JSON of IDENTIFY.
    pub(super) identity: Arc<[u8]>,
    pub(super) registry: Arc<Registry>,
    pub(super) state: watch::Sender<PeerState>,
    pub(super) logger: Logger,
}

impl<D: Dial> Peer<D> {
    /// Runs until the task is ended.
    pub(super) async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            if let Some((session, changes)) = self.connect().await {
                pause = PAUSE_MIN;
                self.follow(session, changes).await;
            } else {
                self.note_failure();
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Who waits for the first attempt need not any longer.
    fn note_failure(&self) {
        self.state.send_if_modified(|state| {
            let is_first = *state == PeerState::Connecting;
            if is_first {
                *state = PeerState::Unknown;
            }
            is_first
        });
    }

    /// Connects and registers everything; the changes from then on. `None` when it failed.
    async fn connect(&self) -> Option<(Session<D::Stream>, Receiver<NameChange>)> {
        let address = &self.address;
        self.logger
            .info(format_args!("LOOKUP connecting to {address}"));
        let dialed = in_time(self.dialer.dial(address)).await;
        let stream = dialed
            .inspect_err(|error| {
                let step = error.raw_os_error().map_or("", |_| "connect: ");
                let reason = errno_text(error);
                self.logger.error(format_args!(
                    "LOOKUPD({address}): dial tcp {address}: {step}{reason}"
                ));
            })
            .ok()?;
        let identified = Session::identify(stream, &self.identity).await;
        let (mut session, reply) = identified
            .inspect_err(|error| self.log_failure("IDENTIFY", error))
            .ok()?;
        let info = self.read_info(&reply)?;
        self.state.send_replace(PeerState::Known(info));
        let (all, changes) = self.registry.subscribe();
        for registration in &all {
            self.logger
                .info(format_args!("LOOKUPD({address}): {registration}"));
        }
        session
            .register(&all)
            .await
            .inspect_err(|(command, error)| self.log_failure(*command, error))
            .ok()?;
        Some((session, changes))
    }

    fn read_info(&self, reply: &[u8]) -> Option<PeerInfo> {
        let address = &self.address;
        let shown = String::from_utf8_lossy(&reply[..reply.len().min(SHOWN_BYTES_MAX)]);
        if reply.starts_with(b"E_") {
            self.logger
                .info(format_args!("LOOKUPD({address}): lookupd returned {shown}"));
            return None;
        }
        let Ok(info) = serde_json::from_slice::<PeerInfo>(reply) else {
            self.logger.error(format_args!(
                "LOOKUPD({address}): parsing response - {shown}"
            ));
            return None;
        };
        let PeerInfo {
            tcp_port,
            http_port,
            version,
            broadcast_address,
        } = &info;
        self.logger.info(format_args!(
            "LOOKUPD({address}): peer info {{TCPPort:{tcp_port} HTTPPort:{http_port} \
             Version:{version} BroadcastAddress:{broadcast_address}}}"
        ));
        if broadcast_address.is_empty() {
            self.logger
                .error(format_args!("LOOKUPD({address}): no broadcast address"));
        }
        Some(info)
    }

    /// Passes changes on until the connection fails.
    async fn follow(&self, mut session: Session<D::Stream>, mut changes: Receiver<NameChange>) {
        let address = &self.address;
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = changes.recv() => {
                    let Some(batch) = self.gather(change, &mut changes) else { return };
                    if let Err((command, error)) = session.register(&batch).await {
                        self.log_failure(command, &error);
                        return;
                    }
                }
                _ = pings.tick() => {
                    self.logger
                        .debug(format_args!("LOOKUPD({address}): sending heartbeat"));
                    if let Err(error) = session.ping().await {
                        self.log_failure("PING", &error);
                        return;
                    }
                }
                error = session.ended() => {
                    let reason = errno_text(&error);
                    self.logger.error(format_args!("LOOKUPD({address}): {reason}"));
                    return;
                }
            }
        }
    }

    /// A change and those that came with it; `None` when some are lost: the peer is to be told
    /// everything again.
    fn gather(
        &self,
        first: Result<NameChange, RecvError>,
        changes: &mut Receiver<NameChange>,
    ) -> Option<Vec<NameChange>> {
        let mut batch = match first {
            Ok(change) => vec![change],
            Err(_) => return self.fell_behind(),
        };
        while batch.len() < BATCH {
            match changes.try_recv() {
                Ok(change) => batch.push(change),
                Err(TryRecvError::Lagged(_)) => return self.fell_behind(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        for change in &batch {
            let kind = change.kind();
            self.logger
                .info(format_args!("LOOKUPD({}): {kind} {change}", self.address));
        }
        Some(batch)
    }

    fn fell_behind<T>(&self) -> Option<T> {
        self.logger.warn(format_args!(
            "LOOKUPD({}): too slow for the changes, registering everything again",
            self.address
        ));
        None
    }

    fn log_failure(&self, command: impl std::fmt::Display, error: &io::Error) {
        let reason = errno_text(error);
        self.logger.error(format_args!(
            "LOOKUPD({}): {command} - {reason}",
            self.address
        ));
    }
}

/// The longest that a first attempt takes, all names registered or not: connecting, saying who we
/// are, and the reply.
pub(super) const FIRST_ATTEMPT_MAX: Duration = Duration::from_secs(3 * STEP.as_secs());
