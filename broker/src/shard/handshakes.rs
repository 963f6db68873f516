//! How many steps of TLS handshakes the HTTPS tasks of a shard may take in one turn.
//!
//! A step costs up to a millisecond of signing. The tasks share an executor with everything else
//! that the shard does, so those who come too many wait for a later turn, in order of arrival.
//! Connections of the TCP port have a share of the same size, see `layers`.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use super::layers::HANDSHAKES_PER_TURN;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Handshakes {
    left: usize,
    waiting: VecDeque<Waker>,
}

impl Handshakes {
    pub(super) fn new() -> Self {
        Self {
            left: HANDSHAKES_PER_TURN,
            waiting: VecDeque::new(),
        }
    }

    /// Takes a step of this turn's, or has the task woken in a later one.
    pub(super) fn poll_step(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.left == 0 {
            self.waiting.push_back(cx.waker().clone());
            return Poll::Pending;
        }
        self.left -= 1;
        Poll::Ready(())
    }

    /// A new turn has begun: whose turn it is now.
    pub(super) fn refill(&mut self) -> impl Iterator<Item = Waker> {
        self.left = HANDSHAKES_PER_TURN;
        let woken = self.waiting.len().min(HANDSHAKES_PER_TURN);
        self.waiting.drain(..woken)
    }

    /// Somebody waits for another turn.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_comes_too_many_is_woken_in_a_later_turn_and_in_order() {
        let mut handshakes = Handshakes::new();
        let tasks: Vec<_> = (0..2 * HANDSHAKES_PER_TURN + 1)
            .map(|_| Arc::new(Woken::default()))
            .collect();
        let granted = |handshakes: &mut Handshakes, task: &Arc<Woken>| {
            let waker = Waker::from(Arc::clone(task));
            handshakes
                .poll_step(&Context::from_waker(&waker))
                .is_ready()
        };
        let count = tasks
            .iter()
            .filter(|task| granted(&mut handshakes, task))
            .count();
        assert_eq!(count, HANDSHAKES_PER_TURN);
        for turn in 1..=2 {
            assert!(handshakes.is_waited_for());
            handshakes.refill().for_each(Waker::wake);
            let end = ((turn + 1) * HANDSHAKES_PER_TURN).min(tasks.len());
            for (index, task) in tasks.iter().enumerate() {
                let is_woken = (HANDSHAKES_PER_TURN..end).contains(&index);
                assert_eq!(task.0.load(Ordering::Relaxed), usize::from(is_woken));
            }
            let mine = &tasks[turn * HANDSHAKES_PER_TURN..end];
            assert!(mine.iter().all(|task| granted(&mut handshakes, task)));
        }
        assert!(!handshakes.is_waited_for());
        assert_eq!(handshakes.refill().count(), 0);
    }
}
