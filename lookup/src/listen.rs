//! The listening sockets, and accepting on them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nsq_cli::{Address, AddressError, Logger, errno_text};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// How long accepting rests when the process has no descriptor left.
const REST: Duration = Duration::from_secs(1);
/// As Go has it: a peer that vanished without a word is noticed after about two and a half minutes.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen ({address}) failed - {reason}")]
pub(crate) struct ListenError {
    address: String,
    reason: String,
}

/// Binds the address that a flag gives.
///
/// # Errors
/// [`ListenError`] with the reference's words.
pub(crate) fn bind(address: &str) -> Result<TcpListener, ListenError> {
    let failed = |reason: String| ListenError {
        address: address.to_owned(),
        reason,
    };
    let parsed = Address::parse_tcp(address).map_err(|error| {
        // The usual text speaks of unix sockets.
        failed(if let AddressError::MissingPort(text) = &error {
            format!("listen tcp: address {text}: missing port in address")
        } else {
            format!("listen tcp: {error}")
        })
    })?;
    let resolved = parsed
        .resolve()
        .map_err(|error| failed(format!("listen tcp: {error}")))?
        .expect("parse_tcp gives TCP addresses only");
    open(resolved).map_err(|error| {
        failed(format!(
            "listen tcp {resolved}: bind: {}",
            errno_text(&error)
        ))
    })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections, so many at a time: beyond that they wait in the backlog.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

/// A connection; its place at the door is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) stream: TcpStream,
    /// The peer, an IPv4 one as such even where it came through IPv6.
    pub(crate) peer: SocketAddr,
    /// Holds the place.
    pub(crate) place: OwnedSemaphorePermit,
}

impl Door {
    pub(crate) fn new(listener: TcpListener, connections_max: usize) -> Self {
        let room = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        Self { listener, room }
    }

    /// The next connection. Failures are logged, and it goes on.
    pub(crate) async fn next(&self, logger: &Logger) -> Visitor {
        let room = Arc::clone(&self.room);
        let place = room
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    keep_alive(&stream);
                    return Visitor {
                        stream,
                        peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
                        place,
                    };
                }
                Err(error) => {
                    let reason = errno_text(&error);
                    logger.warn(format_args!("temporary Accept() failure - {reason}"));
                    // A connection that was reset while it waited is no reason to rest.
                    if error.kind() != io::ErrorKind::ConnectionAborted {
                        tokio::time::sleep(REST).await;
                    }
                }
            }
        }
    }
}

/// A socket that takes no options still serves.
fn keep_alive(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive).ok();
    stream.set_nodelay(true).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> String {
        bind(address).expect_err("refused").to_string()
    }

    #[tokio::test]
    async fn refusals_have_the_words_of_go() {
        assert_eq!(
            refused("nohost"),
            "listen (nohost) failed - listen tcp: address nohost: missing port in address"
        );
        let taken = bind("127.0.0.1:0").expect("free");
        let address = taken.local_addr().expect("bound").to_string();
        assert_eq!(
            refused(&address),
            format!(
                "listen ({address}) failed - listen tcp {address}: bind: address already in use"
            )
        );
    }

    #[tokio::test]
    async fn a_full_door_lets_in_who_comes_when_one_leaves() {
        let logger = Logger::in_memory("", nsq_cli::Level::Info);
        let listener = bind("127.0.0.1:0").expect("free");
        let address = listener.local_addr().expect("bound");
        let door = Door::new(listener, 1);
        let clients = [
            TcpStream::connect(address).await,
            TcpStream::connect(address).await,
        ];
        let first = door.next(&logger).await;
        {
            let next = door.next(&logger);
            tokio::pin!(next);
            let now = std::future::ready(());
            tokio::select! {
                biased;
                _ = &mut next => panic!("the door is full"),
                () = now => {}
            }
            drop(first);
            let second = next.await;
            assert_eq!(
                second.peer,
                clients[1]
                    .as_ref()
                    .expect("connected")
                    .local_addr()
                    .unwrap()
            );
        }
    }
}
