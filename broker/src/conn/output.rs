//! What is to be sent on a connection.
//!
//! Frames are queued as shared slices of the topics' blocks and leave through vectored sends: a
//! run of messages is one slice for each batch that it came in, and is never copied here. Replies
//! are gathered in a small buffer of the connection's own.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// I/O vectors per send; what is left goes with the next one.
const SLICES_PER_SEND: usize = 64;
/// Slices kept from a send that the kernel took whole; a longer queue gives its memory back.
const QUEUE_KEPT: usize = 256;

/// How a flush ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Nothing is left.
    Done,
    /// The socket takes no more for now.
    Blocked,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Output {
    queue: VecDeque<Bytes>,
    /// Replies behind everything in `queue`.
    tail: BytesMut,
    bytes: usize,
    /// A send was refused with `EAGAIN`; cleared when the socket is writable.
    blocked: bool,
    /// The socket said that it is writable and has taken nothing since.
    woken: bool,
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes queued.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// The socket refused a send and has not said that it is writable since.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// It is worth trying again to send.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// The socket said that it is writable.
    pub(crate) fn on_writable(&mut self) {
        self.blocked = false;
        self.woken = true;
    }

    /// The socket said that it is writable and refused a send all the same: io_uring reports a
    /// socket that the peer has half closed at once, whatever was asked for.
    pub(crate) fn was_misled(&self) -> bool {
        self.blocked && self.woken
    }

    /// Queues whole frames without copying them.
    pub(crate) fn push(&mut self, frames: Bytes) {
        self.seal();
        self.bytes += frames.len();
        self.queue.push_back(frames);
    }

    /// Lends the buffer of small frames; what is added to it is queued.
    pub(crate) fn with_tail(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        write(&mut self.tail);
        self.bytes += self.tail.len() - before;
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push_back(self.tail.split().freeze());
        }
    }

    /// Lends what is queued, `limit` bytes of it at most, and takes it out of the queue.
    pub(crate) fn take<T>(&mut self, limit: usize, encode: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        self.seal();
        let mut slices = [IoSlice::new(&[]); SLICES_PER_SEND];
        let (mut count, mut bytes) = (0, 0);
        for frames in self.queue.iter().take(SLICES_PER_SEND) {
            let part = frames.len().min(limit - bytes);
            slices[count] = IoSlice::new(&frames[..part]);
            count += 1;
            bytes += part;
            if bytes == limit {
                break;
            }
        }
        let taken = encode(&slices[..count]);
        self.consume(bytes);
        taken
    }

    /// Drops what is queued.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.tail.clear();
        self.bytes = 0;
    }

    /// The socket took something.
    pub(crate) fn on_sent(&mut self) {
        self.woken = false;
    }

    /// The socket takes no more for now.
    pub(crate) fn on_refused(&mut self) {
        self.blocked = true;
    }

    /// Sends until everything is gone or the socket takes no more.
    ///
    /// # Errors
    /// What `send` answers, other than `WouldBlock`; the connection is unusable then.
    pub(crate) fn flush(
        &mut self,
        mut send: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Flush> {
        if self.blocked {
            return Ok(Flush::Blocked);
        }
        self.seal();
        while self.bytes > 0 {
            let sent = {
                let mut slices = [IoSlice::new(&[]); SLICES_PER_SEND];
                let count = gather(&self.queue, &mut slices);
                send(&slices[..count])
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    self.on_sent();
                    self.consume(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.on_refused();
                    return Ok(Flush::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.queue.capacity() > QUEUE_KEPT {
            self.queue.shrink_to(QUEUE_KEPT);
        }
        Ok(Flush::Done)
    }

    fn consume(&mut self, mut sent: usize) {
        self.bytes -= sent;
        while sent > 0 {
            let front = self
                .queue
                .front_mut()
                .expect("no more was sent than was queued");
            if front.len() > sent {
                front.advance(sent);
                return;
            }
            sent -= front.len();
            self.queue.pop_front();
        }
    }
}

/// Fills `slices` from the front of the queue and returns how many it used.
fn gather<'a>(queue: &'a VecDeque<Bytes>, slices: &mut [IoSlice<'a>]) -> usize {
    let mut count = 0;
    for frames in queue {
        if count == slices.len() {
            break;
        }
        slices[count] = IoSlice::new(frames);
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taking(limit: usize, sent: &mut Vec<u8>) -> impl FnMut(&[IoSlice<'_>]) -> io::Result<usize> {
        move |slices| {
            let all: Vec<u8> = slices.iter().flat_map(|s| s.to_vec()).collect();
            let n = all.len().min(limit);
            sent.extend_from_slice(&all[..n]);
            Ok(n)
        }
    }

    #[test]
    fn frames_and_replies_leave_in_order_whatever_the_socket_takes() {
        for limit in 1..12 {
            let mut output = Output::default();
            output.with_tail(|tail| tail.extend_from_slice(b"one"));
            output.push(Bytes::from_static(b"two"));
            output.with_tail(|tail| tail.extend_from_slice(b"three"));
            assert_eq!(output.len(), 11);
            let mut sent = Vec::new();
            assert_eq!(output.flush(taking(limit, &mut sent)).unwrap(), Flush::Done);
            assert_eq!(sent, b"onetwothree");
            assert!(output.is_empty());
        }
    }

    #[test]
    fn a_blocked_socket_is_left_alone_until_it_is_writable() {
        let mut output = Output::default();
        output.push(Bytes::from_static(b"abc"));
        let refuse = |_: &[IoSlice<'_>]| Err(io::ErrorKind::WouldBlock.into());
        assert_eq!(output.flush(refuse).unwrap(), Flush::Blocked);
        let mut sent = Vec::new();
        assert_eq!(output.flush(taking(9, &mut sent)).unwrap(), Flush::Blocked);
        assert!(!output.was_misled());
        output.on_writable();
        assert_eq!(output.flush(refuse).unwrap(), Flush::Blocked);
        assert!(output.was_misled());
        output.unblock();
        assert_eq!(output.flush(taking(9, &mut sent)).unwrap(), Flush::Done);
        assert_eq!(sent, b"abc");
    }
}
