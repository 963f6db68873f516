//! Which nsqds the consumer is connected to, connecting to, or about to try again.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::flow::ConnectionId;
use super::super::port::Port;
use crate::ConnectError;

type Reply = oneshot::Sender<Result<(), ConnectError>>;

/// For how long an address is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// It was given: it is tried for ever.
    Always,
    /// It was discovered: it is found again.
    WhileOpen,
}

#[derive(Debug)]
struct Address {
    keep: Keep,
    /// Forgotten while it was connecting.
    unwanted: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Connecting {
        /// Dropping it ends the attempt.
        _cancel: oneshot::Sender<()>,
        reply: Option<Reply>,
    },
    Open(ConnectionId, Arc<Port>),
    RetryAt(Instant),
    /// The attempt was ended; its task still has to say so.
    Cancelled,
}

#[derive(Debug, Default)]
pub(super) struct Addresses {
    by_name: HashMap<Arc<str>, Address>,
    open: HashMap<ConnectionId, Arc<Port>>,
}

impl Addresses {
    /// Whether there is a connection, or one is being made.
    pub(super) fn is_connected(&self, name: &str) -> bool {
        let address = self.by_name.get(name);
        address.is_some_and(|address| !matches!(address.state, State::RetryAt(_)))
    }

    pub(super) fn is_connecting(&self) -> bool {
        let mut addresses = self.by_name.values();
        addresses.any(|address| matches!(address.state, State::Connecting { .. }))
    }

    /// What was discovered was now given as well.
    pub(super) fn keep(&mut self, name: &str) {
        if let Some(address) = self.by_name.get_mut(name) {
            address.keep = Keep::Always;
        }
    }

    pub(super) fn on_connecting(
        &mut self,
        name: Arc<str>,
        keep: Keep,
        cancel: oneshot::Sender<()>,
        reply: Option<Reply>,
    ) {
        let address = Address {
            keep,
            unwanted: false,
            state: State::Connecting {
                _cancel: cancel,
                reply,
            },
        };
        self.by_name.insert(name, address);
    }

    /// The attempt has worked; says whether the connection is still wanted.
    pub(super) fn on_open(&mut self, name: &str, id: ConnectionId, port: &Arc<Port>) -> bool {
        let Some(address) = self.by_name.get_mut(name) else {
            return false;
        };
        self.open.insert(id, Arc::clone(port));
        let before = std::mem::replace(&mut address.state, State::Open(id, Arc::clone(port)));
        if let State::Connecting {
            reply: Some(reply), ..
        } = before
        {
            drop(reply.send(Ok(())));
        }
        !address.unwanted
    }

    /// The attempt has failed: the address is forgotten unless it is tried again.
    pub(super) fn on_not_opened(&mut self, name: &str) -> (Keep, Option<Reply>) {
        match self.by_name.remove(name) {
            Some(Address {
                keep,
                state: State::Connecting { reply, .. },
                ..
            }) => (keep, reply),
            _ => (Keep::WhileOpen, None),
        }
    }

    /// The connection has ended; says whether its address is to be kept, if it was still known.
    pub(super) fn on_closed(&mut self, name: &str) -> Option<Keep> {
        let address = self.by_name.remove(name)?;
        if let State::Open(id, _) = address.state {
            self.open.remove(&id);
        }
        (!address.unwanted).then_some(address.keep)
    }

    pub(super) fn retry_at(&mut self, name: Arc<str>, at: Instant) {
        let address = Address {
            keep: Keep::Always,
            unwanted: false,
            state: State::RetryAt(at),
        };
        self.by_name.insert(name, address);
    }

    /// When an address is to be tried again next.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let times = self
            .by_name
            .values()
            .filter_map(|address| match address.state {
                State::RetryAt(at) => Some(at),
                State::Connecting { .. } | State::Open(..) | State::Cancelled => None,
            });
        times.min()
    }

    /// The addresses to be tried again now.
    pub(super) fn due(&self, now: Instant) -> Vec<Arc<str>> {
        let due = |address: &Address| matches!(address.state, State::RetryAt(at) if at <= now);
        let addresses = self.by_name.iter().filter(|(_, address)| due(address));
        addresses.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Forgets an address; returns its connection, which is then to be closed.
    pub(super) fn forget(&mut self, name: &str) -> Option<Arc<Port>> {
        let address = self.by_name.get_mut(name)?;
        address.unwanted = true;
        match &address.state {
            State::Open(_, port) => return Some(Arc::clone(port)),
            State::RetryAt(_) => drop(self.by_name.remove(name)),
            State::Connecting { .. } => address.cancel(),
            State::Cancelled => {}
        }
        None
    }

    /// Ends all attempts, and forgets what was to be tried again.
    pub(super) fn cancel(&mut self) {
        self.by_name
            .retain(|_, address| !matches!(address.state, State::RetryAt(_)));
        for address in self.by_name.values_mut() {
            if matches!(address.state, State::Connecting { .. }) {
                address.cancel();
            }
        }
    }

    pub(super) fn open(&self) -> impl Iterator<Item = (ConnectionId, &Arc<Port>)> {
        self.open.iter().map(|(id, port)| (*id, port))
    }

    pub(super) fn port(&self, id: ConnectionId) -> Option<&Arc<Port>> {
        self.open.get(&id)
    }

    pub(super) fn id_of(&self, name: &str) -> Option<ConnectionId> {
        match self.by_name.get(name)?.state {
            State::Open(id, _) => Some(id),
            State::Connecting { .. } | State::RetryAt(_) | State::Cancelled => None,
        }
    }
}

impl Address {
    /// Ends the attempt; whoever waits for it is told.
    fn cancel(&mut self) {
        let before = std::mem::replace(&mut self.state, State::Cancelled);
        if let State::Connecting {
            reply: Some(reply), ..
        } = before
        {
            drop(reply.send(Err(ConnectError::Stopped)));
        }
    }
}
