//! One connection of a producer: what was sent on it and is not answered yet.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use nsq_proto::encode_nop;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::Receipt;
use crate::NsqdError;
use crate::link::Outbox;

#[derive(Debug)]
pub(super) struct Port {
    pub(super) outbox: Outbox<VecDeque<Waiting>>,
    /// Nothing more is to be sent on it.
    retired: AtomicBool,
    /// Told at the end.
    end: watch::Sender<()>,
}

/// A publish that waits for its answer; dropping it says that there will be none.
#[derive(Debug)]
pub(super) struct Waiting {
    answer: oneshot::Sender<Result<(), NsqdError>>,
    _room: OwnedSemaphorePermit,
}

impl Port {
    pub(super) fn new() -> Self {
        Self {
            outbox: Outbox::new(VecDeque::new()),
            retired: AtomicBool::new(false),
            end: watch::Sender::new(()),
        }
    }

    /// Sends one publish; gives the room back when the connection is closed.
    pub(super) fn send(
        &self,
        encode: impl Fn(&mut BytesMut),
        room: OwnedSemaphorePermit,
    ) -> Result<Receipt, OwnedSemaphorePermit> {
        let (sender, answer) = oneshot::channel();
        let mut room = Some(room);
        let sent = self.outbox.push(|entry| {
            // On a connection that is ending it would not be answered.
            if let Some(room) = room.take_if(|_| !*entry.finishing) {
                encode(entry.commands);
                entry.side.push_back(Waiting {
                    answer: sender,
                    _room: room,
                });
            }
        });
        debug_assert!(sent.is_some() || room.is_some());
        match room {
            None => Ok(Receipt { answer }),
            Some(room) => Err(room),
        }
    }

    /// An answer: that of the oldest publish. Says whether there was one.
    pub(super) fn on_answer(&self, answer: Result<(), NsqdError>) -> bool {
        let oldest = self.outbox.push(|entry| entry.side.pop_front()).flatten();
        let known = oldest.is_some();
        if let Some(waiting) = oldest {
            // Nobody has to want to know.
            drop(waiting.answer.send(answer));
        }
        known
    }

    /// Ends the connection after what was sent on it.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.outbox.finish();
    }

    /// Whether it takes publishes.
    pub(super) fn is_usable(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && !self.outbox.is_closed()
    }

    pub(super) fn answer_heartbeat(&self) {
        self.outbox.push(|entry| encode_nop(entry.commands));
    }

    /// The end of the connection: what waits gets no answer.
    pub(super) fn close(&self) {
        drop(self.outbox.close(std::mem::take));
        self.end.send_replace(());
    }

    pub(super) fn has_ended(&self) -> bool {
        self.outbox.is_closed()
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) {
        let mut end = self.end.subscribe();
        while !self.outbox.is_closed() {
            if end.changed().await.is_err() {
                return;
            }
        }
    }
}
