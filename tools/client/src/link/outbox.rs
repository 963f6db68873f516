//! Commands on their way to a connection's task, from any task.
//!
//! Whoever has something to say encodes it under the lock; the task swaps the whole buffer out and
//! sends it in one write. `S` is what the connection's side counts under the same lock.
//!
//! - Commands leave in the order in which they were pushed.
//! - After [`Outbox::close`] nothing is taken any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Outbox<S> {
    state: Mutex<State<S>>,
    /// The sender waits here while there is nothing to do.
    ready: Notify,
    /// Mirrors the state's, to be read without the lock.
    closed: AtomicBool,
}

#[derive(Debug)]
struct State<S> {
    commands: BytesMut,
    finishing: bool,
    closed: bool,
    side: S,
}

/// What a push may do.
pub(crate) struct Entry<'a, S> {
    /// Append commands here.
    pub(crate) commands: &'a mut BytesMut,
    /// What the side counts.
    pub(crate) side: &'a mut S,
    /// Set it to end the connection when all commands have been sent.
    pub(crate) finishing: &'a mut bool,
}

impl<S> Outbox<S> {
    pub(crate) fn new(side: S) -> Self {
        Self {
            state: Mutex::new(State {
                commands: BytesMut::new(),
                finishing: false,
                closed: false,
                side,
            }),
            ready: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `act` say something, unless the connection is closed: then it is not called.
    pub(crate) fn push<R>(&self, act: impl FnOnce(Entry<'_, S>) -> R) -> Option<R> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.closed {
            return None;
        }
        let idle = state.commands.is_empty() && !state.finishing;
        let result = act(Entry {
            commands: &mut state.commands,
            side: &mut state.side,
            finishing: &mut state.finishing,
        });
        let busy = !state.commands.is_empty() || state.finishing;
        drop(guard);
        if idle && busy {
            self.ready.notify_one();
        }
        Some(result)
    }

    /// Looks at what the side counts.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        look(&self.lock().side)
    }

    /// Ends the connection when all commands have been sent.
    pub(crate) fn finish(&self) {
        self.push(|entry| *entry.finishing = true);
    }

    /// Takes nothing more; `act` may clear up. For the connection's task, at its end.
    pub(crate) fn close<R>(&self, act: impl FnOnce(&mut S) -> R) -> R {
        self.closed.store(true, Ordering::Release);
        let mut state = self.lock();
        state.closed = true;
        state.commands = BytesMut::new();
        act(&mut state.side)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits for commands and swaps them with the empty buffer given; false when all was taken and
    /// the connection is to end. For one sender.
    ///
    /// *Cancellation:* nothing is lost.
    pub(super) async fn take(&self, empty: &mut BytesMut) -> bool {
        loop {
            {
                let mut state = self.lock();
                if !state.commands.is_empty() {
                    std::mem::swap(&mut state.commands, empty);
                    return true;
                }
                if state.finishing {
                    return false;
                }
            }
            self.ready.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;

    #[tokio::test]
    async fn what_was_pushed_is_taken_at_once_and_then_the_end() {
        let outbox = Outbox::new(0_u32);
        for text in ["a", "b"] {
            let pushed = outbox.push(|entry| {
                entry.commands.put_slice(text.as_bytes());
                *entry.side += 1;
            });
            assert!(pushed.is_some());
        }
        outbox.finish();
        let mut commands = BytesMut::new();
        assert!(outbox.take(&mut commands).await);
        assert_eq!(commands, "ab");
        commands.clear();
        assert!(!outbox.take(&mut commands).await);
        assert_eq!(outbox.read(|count| *count), 2);
    }

    #[tokio::test]
    async fn a_waiting_sender_is_woken() {
        let outbox = Outbox::new(());
        let mut commands = BytesMut::new();
        let push = async {
            tokio::task::yield_now().await;
            outbox.push(|entry| entry.commands.put_u8(b'x'))
        };
        let (taken, pushed) = tokio::join!(outbox.take(&mut commands), push);
        assert!(taken && pushed.is_some());
        assert_eq!(commands, "x");
    }

    #[test]
    fn after_the_close_nothing_is_taken() {
        let outbox = Outbox::new(5);
        assert_eq!(outbox.close(std::mem::take), 5);
        assert!(outbox.is_closed());
        assert!(outbox.push(|_| ()).is_none());
    }
}
