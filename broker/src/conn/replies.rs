//! Replies in command order.
//!
//! A reply either is ready or waits for a publish to be committed. [`Replies`] is the queue of
//! those that could not leave yet; ready ones at its front move to the output.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use nsq_proto::{ProtoError, encode_error, encode_response};

/// The bytes of an `OK` response frame.
const OK_FRAME: [u8; 10] = *b"\0\0\0\x06\0\0\0\0OK";

/// Names a reply that waits. Tickets of a connection grow; they are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// The publishing command, for the words of its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishVerb {
    Pub,
    Mpub,
    Dpub,
}

impl PublishVerb {
    /// The command's word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pub => "PUB",
            Self::Mpub => "MPUB",
            Self::Dpub => "DPUB",
        }
    }

    /// `E_PUB_FAILED PUB failed <reason>` and its likes.
    #[cold]
    pub(crate) fn failure(self, reason: &str) -> ProtoError {
        match self {
            Self::Pub => ProtoError::pub_failed(reason),
            Self::Mpub => ProtoError::mpub_failed(reason),
            Self::Dpub => ProtoError::dpub_failed(reason),
        }
    }
}

#[derive(Debug)]
enum Reply {
    /// Ready to leave.
    Ready(Bytes),
    /// `count` publishes in a row that are committed together; ready when `done`.
    Publish {
        verb: PublishVerb,
        count: u32,
        done: bool,
        /// Bytes that went to another shard with it.
        remote_bytes: usize,
    },
    /// Something else that waits; ready when `Some`.
    Waiting(Option<Bytes>),
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    queue: VecDeque<Reply>,
    /// Ticket of the front of the queue.
    front: u64,
}

impl Replies {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Replies that have not left yet.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    fn next_ticket(&self) -> u64 {
        self.front + self.queue.len() as u64
    }

    fn entry(&mut self, ticket: Ticket) -> Option<&mut Reply> {
        let index = ticket.0.checked_sub(self.front)?;
        self.queue.get_mut(usize::try_from(index).ok()?)
    }

    /// Adds a reply that waits for a publish.
    pub(crate) fn push_publish(&mut self, verb: PublishVerb) -> Ticket {
        let ticket = self.next_ticket();
        self.queue.push_back(Reply::Publish {
            verb,
            count: 1,
            done: false,
            remote_bytes: 0,
        });
        Ticket(ticket)
    }

    /// Adds one more publish to the reply of `ticket`, if that is the newest and of the same verb.
    pub(crate) fn extend_publish(&mut self, ticket: Ticket, verb: PublishVerb) -> bool {
        if ticket.0 + 1 != self.next_ticket() {
            return false;
        }
        match self.queue.back_mut() {
            Some(Reply::Publish {
                verb: last,
                count,
                done: false,
                ..
            }) if *last == verb => {
                *count += 1;
                true
            }
            _ => false,
        }
    }

    /// Adds a reply whose bytes will be given later.
    pub(crate) fn push_waiting(&mut self) -> Ticket {
        let ticket = self.next_ticket();
        self.queue.push_back(Reply::Waiting(None));
        Ticket(ticket)
    }

    /// Adds a reply that could leave at once.
    pub(crate) fn push_ready(&mut self, frame: Bytes) {
        self.queue.push_back(Reply::Ready(frame));
    }

    /// The publish of `ticket` has `bytes` under way to another shard.
    pub(crate) fn note_remote_bytes(&mut self, ticket: Ticket, bytes: usize) {
        if let Some(Reply::Publish { remote_bytes, .. }) = self.entry(ticket) {
            *remote_bytes = bytes;
        }
    }

    /// The publish of `ticket` is committed. Returns the bytes that are no longer under way to
    /// another shard.
    pub(crate) fn complete(&mut self, ticket: Ticket) -> usize {
        let Some(Reply::Publish {
            done, remote_bytes, ..
        }) = self.entry(ticket)
        else {
            return 0;
        };
        *done = true;
        std::mem::take(remote_bytes)
    }

    /// Gives the waiting reply of `ticket` its bytes.
    pub(crate) fn fulfil(&mut self, ticket: Ticket, frame: Bytes) {
        if let Some(Reply::Waiting(slot)) = self.entry(ticket) {
            *slot = Some(frame);
        }
    }

    /// The waiting reply of `ticket` and everything after it will not be given: a fatal error will.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) {
        if self.entry(ticket).is_some() {
            let keep = usize::try_from(ticket.0 - self.front).expect("the entry was found at it");
            self.queue.truncate(keep);
        }
    }

    /// The publish of `ticket` failed: it and everything after it is answered with one error, for
    /// the error is fatal. Returns that error.
    pub(crate) fn fail(&mut self, ticket: Ticket, reason: &str) -> Option<ProtoError> {
        let Some(Reply::Publish { verb, .. }) = self.entry(ticket) else {
            return None;
        };
        let error = verb.failure(reason);
        self.withdraw(ticket);
        Some(error)
    }

    /// Moves what is ready at the front into `out`.
    pub(crate) fn drain_ready(&mut self, out: &mut BytesMut) {
        while let Some(reply) = self.queue.front() {
            match reply {
                Reply::Ready(frame) | Reply::Waiting(Some(frame)) => out.extend_from_slice(frame),
                Reply::Publish {
                    count, done: true, ..
                } => {
                    for _ in 0..*count {
                        out.extend_from_slice(&OK_FRAME);
                    }
                }
                Reply::Publish { .. } | Reply::Waiting(None) => return,
            }
            self.queue.pop_front();
            self.front += 1;
        }
    }
}

/// A response frame.
pub(crate) fn response_frame(data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(data.len() + 8);
    encode_response(&mut frame, data);
    frame.freeze()
}

/// An error frame.
pub(crate) fn error_frame(error: &ProtoError) -> Bytes {
    let mut frame = BytesMut::new();
    encode_error(&mut frame, &error.to_bytes());
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(replies: &mut Replies) -> Vec<u8> {
        let mut out = BytesMut::new();
        replies.drain_ready(&mut out);
        out.to_vec()
    }

    #[test]
    fn the_ok_frame_is_what_the_encoder_makes() {
        assert_eq!(response_frame(b"OK"), &OK_FRAME[..]);
    }

    #[test]
    fn a_waiting_publish_holds_back_what_follows() {
        let mut replies = Replies::default();
        let first = replies.push_publish(PublishVerb::Pub);
        replies.push_ready(response_frame(b"CLOSE_WAIT"));
        assert!(drained(&mut replies).is_empty());
        replies.complete(first);
        assert_eq!(
            drained(&mut replies),
            [&OK_FRAME[..], &response_frame(b"CLOSE_WAIT")].concat()
        );
        assert!(replies.is_empty());
    }

    #[test]
    fn publishes_in_a_row_share_an_entry_and_answer_one_by_one() {
        let mut replies = Replies::default();
        let ticket = replies.push_publish(PublishVerb::Mpub);
        assert!(replies.extend_publish(ticket, PublishVerb::Mpub));
        assert!(!replies.extend_publish(ticket, PublishVerb::Pub));
        let other = replies.push_publish(PublishVerb::Pub);
        assert!(!replies.extend_publish(ticket, PublishVerb::Mpub));
        replies.complete(other);
        assert!(drained(&mut replies).is_empty());
        replies.complete(ticket);
        assert_eq!(drained(&mut replies), OK_FRAME.repeat(3));
    }

    #[test]
    fn bytes_under_way_are_given_back_once() {
        let mut replies = Replies::default();
        let local = replies.push_publish(PublishVerb::Pub);
        let remote = replies.push_publish(PublishVerb::Pub);
        replies.note_remote_bytes(remote, 7);
        assert_eq!(replies.complete(remote), 7);
        assert_eq!(replies.complete(remote), 0);
        assert_eq!(replies.complete(local), 0);
    }

    #[test]
    fn tickets_stay_valid_while_the_front_moves() {
        let mut replies = Replies::default();
        let a = replies.push_publish(PublishVerb::Pub);
        let b = replies.push_waiting();
        replies.complete(a);
        assert_eq!(drained(&mut replies), OK_FRAME);
        replies.complete(a);
        replies.fulfil(b, response_frame(b"x"));
        assert_eq!(drained(&mut replies), &response_frame(b"x")[..]);
    }

    #[test]
    fn a_failure_drops_what_came_after_and_keeps_what_came_before() {
        let mut replies = Replies::default();
        let a = replies.push_publish(PublishVerb::Pub);
        let b = replies.push_publish(PublishVerb::Dpub);
        replies.push_ready(response_frame(b"never"));
        let error = replies.fail(b, "exiting").unwrap();
        assert_eq!(error.to_string(), "E_DPUB_FAILED DPUB failed exiting");
        replies.complete(a);
        assert_eq!(drained(&mut replies), OK_FRAME);
        assert!(replies.fail(b, "again").is_none());
    }
}
