//! Accepting, receiving and waiting for room to send.

#![expect(unsafe_code, reason = "descriptors and buffers named by completions")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::cqueue;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Completion;
use super::endpoints::Endpoint;
use super::ops::{AcceptOp, Interest, Op, OpId, SocketOp, outcome};
use super::turn::{Ready, Ring, Sink};

impl Ring {
    /// Accepts connections from `listener` until [`Ring::stop_accept`] or
    /// [`Completion::AcceptFailed`]. Does nothing if this tag is accepting already.
    pub fn accept(&mut self, listener: Rc<OwnedFd>, tag: u32) {
        if self.listeners.iter().all(|(known, _)| *known != tag) {
            let id = self.start(Op::Accept(AcceptOp {
                tag,
                listener,
                wanted: true,
            }));
            self.listeners.push((tag, id));
        }
    }

    /// Stops accepting. Connections that the kernel accepts in the meantime are closed unseen.
    pub fn stop_accept(&mut self, tag: u32) {
        let Some(at) = self.listeners.iter().position(|(known, _)| *known == tag) else {
            return;
        };
        let (_, id) = self.listeners.swap_remove(at);
        if let Some(Op::Accept(op)) = self.ops.get_mut(id) {
            op.wanted = false;
            self.queue.cancel(id);
        }
    }

    /// Receives from `fd` until [`Completion::Closed`], [`Ring::stop_receive`] or
    /// [`Ring::forget`]. The ring shares the descriptor for as long as it uses it.
    ///
    /// The low half of `tag` is a small slot number, the high half a generation that differs from
    /// the slot's previous user; whatever that one left behind is forgotten. Does nothing if this
    /// tag is receiving already; between `stop_receive` and its answer it must not be called.
    pub fn receive(&mut self, fd: Rc<OwnedFd>, tag: u64) {
        let endpoint = self.claim(tag);
        debug_assert!(!endpoint.stopping, "receive before ReceiveStopped");
        if endpoint.receive.is_none() {
            let op = SocketOp {
                tag,
                fd,
                interest: Interest::Wanted,
            };
            let id = self.start(Op::Receive(op));
            self.claim(tag).started().receive = Some(id);
        }
    }

    /// Ends everything in flight for `tag`, [`Ring::poll_writable`] included. What has arrived by
    /// then is still delivered; the last that comes is [`Completion::ReceiveStopped`], also if
    /// nothing was in flight or the peer closes meanwhile (the next receive then finds the end of
    /// the stream). After it the ring holds no share of the descriptor: the connection may move
    /// to another ring.
    pub fn stop_receive(&mut self, tag: u64) {
        let endpoint = self.claim(tag);
        if std::mem::replace(&mut endpoint.stopping, true) {
            return;
        }
        if endpoint.is_idle() {
            self.ready.push_back(Ready::Stopped { tag });
            return;
        }
        let (receive, writable) = (endpoint.receive, endpoint.writable.take());
        self.end(receive, Interest::Stopping);
        self.end(writable, Interest::Forgotten);
    }

    /// Reports once when `fd` has room to send. Does nothing if that is asked for already.
    pub fn poll_writable(&mut self, fd: Rc<OwnedFd>, tag: u64) {
        let endpoint = self.claim(tag);
        debug_assert!(!endpoint.stopping, "poll_writable before ReceiveStopped");
        if endpoint.writable.is_none() {
            let op = SocketOp {
                tag,
                fd,
                interest: Interest::Wanted,
            };
            let id = self.start(Op::Writable(op));
            self.claim(tag).started().writable = Some(id);
        }
    }

    /// Takes [`Ring::poll_writable`] back: no [`Completion::Writable`] comes.
    pub fn cancel_writable(&mut self, tag: u64) {
        if let Some(endpoint) = self.endpoints.get_mut(tag) {
            let writable = endpoint.writable.take();
            self.end(writable, Interest::Forgotten);
        }
    }

    /// Nothing more comes for `tag`: for a connection that is being closed. The ring lets go of
    /// the descriptor a turn or two later; shut the socket down if the peer must see the end at
    /// once.
    pub fn forget(&mut self, tag: u64) {
        if let Some(endpoint) = self.endpoints.get_mut(tag) {
            endpoint.stopping = false;
            let (receive, writable) = (endpoint.receive.take(), endpoint.writable.take());
            self.end(receive, Interest::Forgotten);
            self.end(writable, Interest::Forgotten);
        }
    }

    pub(super) fn on_accept(&mut self, id: OpId, cqe: &cqueue::Entry, sink: &mut Sink<'_>) {
        let Some(Op::Accept(op)) = self.ops.get_mut(id) else {
            return;
        };
        let (tag, wanted) = (op.tag, op.wanted);
        if cqe.result() >= 0 {
            // SAFETY: the kernel has just made this descriptor for us, and names it only here.
            let fd = unsafe { OwnedFd::from_raw_fd(cqe.result()) };
            if wanted {
                sink(Completion::Accepted { tag, fd });
            }
        }
        if cqueue::more(cqe.flags()) {
            return;
        }
        let error = outcome(cqe.result()).err();
        let errno = error.as_ref().map(errno_of);
        if errno == Some(Errno::EAGAIN) {
            make_blocking(&op.listener);
        }
        if wanted && errno.is_none_or(is_passing_accept_error) {
            self.rearm(id);
            return;
        }
        drop(self.ops.remove(id));
        if let (true, Some(error)) = (wanted, error) {
            self.listeners.retain(|(_, known)| *known != id);
            sink(Completion::AcceptFailed { tag, error });
        }
    }

    pub(super) fn on_receive(&mut self, id: OpId, cqe: &cqueue::Entry, sink: &mut Sink<'_>) {
        let Some(Op::Receive(op)) = self.ops.get_mut(id) else {
            return;
        };
        let (tag, interest) = (op.tag, op.interest);
        let received = outcome(cqe.result());
        if let Some(buffer) = cqueue::buffer_select(cqe.flags()) {
            let len = received.as_ref().map_or(0, |len| *len);
            let look = |data: &[u8]| {
                if !data.is_empty() && interest != Interest::Forgotten {
                    sink(Completion::Received { tag, data });
                }
            };
            // SAFETY: this completion names the buffer, and is taken off the queue only once.
            unsafe { self.buffers.lend(buffer, len, look) };
        }
        if cqueue::more(cqe.flags()) {
            return;
        }
        let errno = received.as_ref().err().map(errno_of);
        if errno == Some(Errno::EAGAIN) {
            make_blocking(&op.fd);
        }
        let again = match errno {
            None => received.as_ref().is_ok_and(|len| *len > 0),
            Some(errno) => matches!(errno, Errno::ENOBUFS | Errno::EINTR | Errno::EAGAIN),
        };
        if again && interest == Interest::Wanted {
            if errno == Some(Errno::ENOBUFS) && !self.closing {
                op.interest = Interest::Starved;
                self.starved.push_back(id);
            } else {
                self.rearm(id);
            }
            return;
        }
        drop(self.ops.remove(id));
        let stopped = self.endpoints.ended(tag, id);
        if stopped {
            sink(Completion::ReceiveStopped { tag });
        } else if interest == Interest::Wanted {
            sink(Completion::Closed {
                tag,
                error: received.err(),
            });
        }
    }

    pub(super) fn on_writable(&mut self, id: OpId, sink: &mut Sink<'_>) {
        let Some(Op::Writable(op)) = self.ops.remove(id) else {
            return;
        };
        let SocketOp { tag, fd, interest } = op;
        drop(fd);
        let stopped = self.endpoints.ended(tag, id);
        if interest == Interest::Wanted {
            sink(Completion::Writable { tag });
        } else if stopped {
            sink(Completion::ReceiveStopped { tag });
        }
    }

    /// The entry of `tag`; what an older user of its slot left in flight is forgotten.
    fn claim(&mut self, tag: u64) -> &mut Endpoint {
        for left in self.endpoints.displaced_by(tag) {
            self.end(left, Interest::Forgotten);
        }
        self.endpoints.claim(tag)
    }

    /// Has the kernel end a socket operation, of which only `interest` is wanted from now on.
    fn end(&mut self, id: Option<OpId>, interest: Interest) {
        let Some(id) = id else { return };
        if let Some(op) = self.ops.socket_mut(id) {
            let starved = std::mem::replace(&mut op.interest, interest) == Interest::Starved;
            if starved {
                // So that it comes to an end like any other.
                self.rearm(id);
            }
            self.queue.cancel(id);
        }
    }

    /// Arms receives that had found no buffer, the longest waiting first. All at once would only
    /// make most of them starve again when many connections are busy.
    pub(super) fn feed_starved(&mut self) {
        for _ in 0..self.buffers.count() {
            let Some(id) = self.starved.pop_front() else {
                return;
            };
            if let Some(op) = self.ops.socket_mut(id)
                && op.interest == Interest::Starved
            {
                op.interest = Interest::Wanted;
                self.rearm(id);
            }
        }
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

/// A non-blocking descriptor makes the kernel answer `EAGAIN` where it should wait for data.
/// Sends say `MSG_DONTWAIT` themselves.
fn make_blocking(fd: &OwnedFd) {
    if let Ok(flags) = fcntl(fd, FcntlArg::F_GETFL) {
        let flags = OFlag::from_bits_retain(flags) - OFlag::O_NONBLOCK;
        // It fails only on a bad descriptor, which the next completion reports.
        let _set = fcntl(fd, FcntlArg::F_SETFL(flags));
    }
}

/// Errors of one connection that died in the backlog (`accept(2)`), not of the listener. All
/// others are reported, and the caller's pause keeps them from spinning.
fn is_passing_accept_error(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED | Errno::EPROTO
    )
}
