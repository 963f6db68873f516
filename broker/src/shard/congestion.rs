//! Publishers wait while too much is gathered and not yet written (`unwritten_bytes_max` of the core).
//!
//! A TCP connection that publishes takes no further commands ([`Hold::Congestion`]); a task of the
//! HTTP door waits here, before it reads a body and again before it publishes it. So what waits in
//! memory is at most one body per HTTP connection, of those that had begun to arrive.
//! A shard that was congested tells the others when it has room, and everybody looks again.

use futures_channel::oneshot;
use nsq_proto::TopicName;

use super::Shard;
use super::message::ShardMessage;
use crate::conn::Hold;

impl Shard {
    /// Something to wait for before a publish to this topic, if its shard has no room.
    pub(super) fn room_for(&mut self, topic: &TopicName) -> Option<oneshot::Receiver<()>> {
        let owner = self.owner_of(topic.as_str());
        let congested = if owner == self.id {
            self.core.is_congested()
        } else {
            self.shared.congestion.of(owner)
        };
        // A stopping broker refuses it.
        if !congested || self.stopping.is_some() {
            return None;
        }
        if self.waiting_tasks.len() > 2 * self.sockets.len() {
            // Clients that gave up leave theirs behind.
            self.waiting_tasks.retain(|task| !task.is_canceled());
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting_tasks.push(sender);
        Some(receiver)
    }

    /// Has every waiting task look again.
    pub(super) fn wake_waiting_tasks(&mut self) {
        for task in self.waiting_tasks.drain(..) {
            // Its client may have gone.
            task.send(()).ok();
        }
        self.touched = true;
    }

    /// Once a turn: says whether this shard has room.
    pub(super) fn settle_congestion(&mut self) {
        let is_congested = self.core.is_congested();
        if is_congested == self.is_congested {
            return;
        }
        self.is_congested = is_congested;
        self.shared.congestion.set(self.id, is_congested);
        if is_congested {
            return;
        }
        self.wake_waiting_tasks();
        for other in 0..self.outboxes.len() {
            if other != self.id {
                self.send(other, ShardMessage::Room);
            }
        }
    }

    /// Lets the connections that were held for congestion go on where there is room again.
    pub(super) fn resume_congested(&mut self) {
        for key in std::mem::take(&mut self.congested) {
            if self.is_crowded(key) {
                self.congested.push(key);
            } else {
                self.release(key, Hold::Congestion);
            }
        }
    }
}
