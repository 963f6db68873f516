//! The listening sockets: one per shard and door, all on the same address (`SO_REUSEPORT`), so that
//! the kernel spreads connections over the shards. A unix socket is one that all shards share.

mod unix;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

pub(crate) use unix::{SocketFile, bind as bind_unix};

/// How long a port that is in use is tried again, and how often.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Connections that wait to be accepted, per listener.
const BACKLOG: i32 = 4096;

/// The sockets of one door.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) address: BoundAddress,
    /// One per shard.
    pub(crate) sockets: Vec<OwnedFd>,
    /// Of a unix socket.
    pub(crate) file: Option<SocketFile>,
}

/// What was bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BoundAddress {
    /// With the real port.
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl BoundAddress {
    /// 0 for a unix socket.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix(_) => 0,
        }
    }
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Binds `count` sockets to one address.
///
/// # Errors
/// The system's; `AddrInUse` also when another process listens there with `SO_REUSEPORT`.
pub(crate) fn bind(address: SocketAddr, count: usize) -> io::Result<Listeners> {
    if address.port() != 0 {
        // Alone first: sharing the port is meant for our own shards, not for a second broker.
        drop(patiently(|| open(address, false))?);
    }
    let first = open(address, true)?;
    let bound = first
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("not an internet address"))?;
    let mut sockets = vec![OwnedFd::from(first)];
    for _ in 1..count {
        sockets.push(open(bound, true)?.into());
    }
    Ok(Listeners {
        address: BoundAddress::Tcp(bound),
        sockets,
        file: None,
    })
}

/// Tries until the address is free: the rings of a process that was killed let go of its sockets a
/// little after its end.
#[expect(
    clippy::disallowed_methods,
    reason = "at start, before there is a shard"
)]
fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let begun = Instant::now();
    loop {
        match open() {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < PATIENCE =>
            {
                thread::sleep(RETRY_INTERVAL);
            }
            other => return other,
        }
    }
}

fn open(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_shared_by_the_shards_and_refused_to_a_second_broker() {
        let any = "127.0.0.1:0".parse().unwrap();
        let listeners = bind(any, 3).unwrap();
        assert_eq!(listeners.sockets.len(), 3);
        assert_ne!(listeners.address.port(), 0);
        let BoundAddress::Tcp(address) = listeners.address else {
            panic!("not an internet address");
        };
        let error = bind(address, 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
