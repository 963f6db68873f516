//! The sockets of a shard and what is asked of the ring for them.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use nsq_core::ConnToken;
use slotmap::{Key, KeyData};

use super::http_socket::HttpSocket;
use crate::conn::Connection;
use crate::ring::Write;

slotmap::new_key_type! {
    /// A socket of this shard. Carries a generation, so that a late completion for a closed socket
    /// never reaches the one that took its place.
    pub(crate) struct SocketKey;
}

impl SocketKey {
    /// As a tag of the ring.
    pub(crate) fn tag(self) -> u64 {
        self.data().as_ffi()
    }

    pub(crate) fn from_tag(tag: u64) -> Self {
        KeyData::from_ffi(tag).into()
    }

    /// As the core's name for the connection.
    pub(crate) fn token(self) -> ConnToken {
        ConnToken(self.tag())
    }

    pub(crate) fn from_token(token: ConnToken) -> Self {
        Self::from_tag(token.0)
    }
}

/// A socket and what is spoken over it.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Shared with the ring while that uses it.
    pub(super) fd: Rc<OwnedFd>,
    pub(super) protocol: Protocol,
}

/// What is spoken over a socket.
#[derive(Debug)]
pub(super) enum Protocol {
    Tcp(Box<Connection>),
    Http(Box<HttpSocket>),
}

impl Socket {
    pub(super) fn tcp(&mut self) -> Option<&mut Connection> {
        match &mut self.protocol {
            Protocol::Tcp(connection) => Some(connection),
            Protocol::Http(_) => None,
        }
    }

    pub(super) fn http(&mut self) -> Option<&mut HttpSocket> {
        match &mut self.protocol {
            Protocol::Http(http) => Some(http),
            Protocol::Tcp(_) => None,
        }
    }
}

/// Something for the ring, submitted after the turn. Operations on a socket that is gone by then
/// are dropped.
#[derive(Debug)]
pub(crate) enum RingOp {
    Receive(SocketKey),
    StopReceive(SocketKey),
    PollWritable(SocketKey),
    /// The socket is gone: the ring is to let go of it. The one operation that needs no socket.
    Forget(SocketKey),
    Write(Write),
    Read {
        token: u64,
        file: Rc<OwnedFd>,
        offset: u64,
        len: u32,
    },
    Sync {
        token: u64,
        file: Rc<OwnedFd>,
    },
    Accept(u32),
    StopAccept,
}
