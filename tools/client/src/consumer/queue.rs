//! Messages that were received and not yet taken.
//!
//! Connections put them in by the batch, any number of tasks take them out. Bounded: a connection that
//! finds it full stops reading until there is room.
//!
//! - Messages whose connection is gone are skipped: their nsqd delivers them again.
//! - Once it has ended and is empty, every taker is told so.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::message::Message;

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Takers wait here.
    available: Notify,
    /// Connections wait here.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    /// No further message will come.
    ended: bool,
    /// Nobody wants them: they go back to their nsqds.
    giving_back: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts all of them in, also above the bound, and leaves the batch empty.
    pub(super) fn push(&self, batch: &mut Vec<Message>) {
        if batch.is_empty() {
            return;
        }
        let mut state = self.lock();
        if state.giving_back {
            drop(state);
            give_back(batch.drain(..));
            return;
        }
        state.messages.extend(batch.drain(..));
        drop(state);
        self.available.notify_one();
    }

    /// Waits until it holds at most `limit` messages.
    pub(super) async fn wait_for_room(&self, limit: usize) {
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            if self.lock().messages.len() <= limit {
                return;
            }
            room.await;
        }
    }

    /// Waits for a message, then hands at most `limit` to `out`; says how many. 0 is the end.
    pub(super) async fn take(&self, limit: usize, mut out: impl FnMut(Message)) -> usize {
        loop {
            let mut available = pin!(self.available.notified());
            available.as_mut().enable();
            if let Some(count) = self.try_take(limit, &mut out) {
                return count;
            }
            available.await;
        }
    }

    fn try_take(&self, limit: usize, out: &mut impl FnMut(Message)) -> Option<usize> {
        let mut state = self.lock();
        let (mut count, mut stale) = (0, Vec::new());
        while count < limit {
            match state.messages.pop_front() {
                Some(message) if message.is_answerable() => {
                    out(message);
                    count += 1;
                }
                // Dropped outside of the lock.
                Some(message) => stale.push(message),
                None => break,
            }
        }
        let (rest, ended) = (!state.messages.is_empty(), state.ended);
        drop(state);
        if rest {
            // This taker has used up the notification of a batch.
            self.available.notify_one();
        }
        if count > 0 || !stale.is_empty() {
            self.room.notify_waiters();
        }
        (count > 0 || (ended && !rest)).then_some(count)
    }

    /// No further message will come.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.available.notify_waiters();
    }

    /// Sends back what is in it and what still comes.
    pub(super) fn give_back(&self) {
        let mut state = self.lock();
        state.giving_back = true;
        let messages = std::mem::take(&mut state.messages);
        drop(state);
        give_back(messages);
        self.room.notify_waiters();
    }
}

fn give_back(messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        message.requeue_without_backoff(Some(Duration::ZERO));
    }
}
