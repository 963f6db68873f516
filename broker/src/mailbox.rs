//! Bounded queues into a shard, from other shards and from the control thread.
//!
//! A mailbox belongs to the receiving shard; its driver drains it once per turn up to a budget,
//! and names it in the `is_idle` check of [`Ring::turn`](crate::ring::Ring::turn), so that no
//! message waits behind a parked ring. A full mailbox refuses: the sender keeps the value and
//! tries again next turn. Order is kept per sender; there are no locks.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::ring::Doorbell;

/// One end of the queue; both ends are alike. Cheap to clone.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Arc<ArrayQueue<T>>,
    doorbell: Doorbell,
}

impl<T> Mailbox<T> {
    /// An empty mailbox of the ring that `doorbell` wakes.
    ///
    /// # Panics
    /// If `capacity` is 0.
    #[must_use]
    pub fn new(capacity: usize, doorbell: Doorbell) -> Self {
        Self {
            queue: Arc::new(ArrayQueue::new(capacity)),
            doorbell,
        }
    }

    /// Puts a value in and wakes the receiver if it sleeps. Costs no system call if it does not.
    ///
    /// # Errors
    /// Gives the value back if the mailbox is full.
    pub fn try_send(&self, value: T) -> Result<(), T> {
        self.queue.push(value)?;
        self.doorbell.ring();
        Ok(())
    }

    /// Takes up to `budget` values out, the oldest first; returns how many there were.
    pub fn drain(&self, budget: usize, mut on: impl FnMut(T)) -> usize {
        for taken in 0..budget {
            match self.queue.pop() {
                Some(value) => on(value),
                None => return taken,
            }
        }
        budget
    }

    /// Whether there is nothing to drain.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Values waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// How many values fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self {
            queue: Arc::clone(&self.queue),
            doorbell: self.doorbell.clone(),
        }
    }
}
