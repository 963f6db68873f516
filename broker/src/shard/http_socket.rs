//! A socket of the HTTP door: the shard's ring below, hyper above.
//!
//! The shard receives into `inbox` and stops receiving while that is full; [`HttpStream`] is what
//! a local task reads and writes. A connection whose task waits for the peer, to send or to take
//! what it is sent, and sees nothing of it for [`HTTP_IDLE`] is closed (K35). While a request is
//! being answered the peer owes nothing, however long that takes.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use nix::sys::socket::{Shutdown, shutdown};
use nsq_core::{Deadline, Now, TimerKey};
use rustls::ServerConfig;

use super::cell::ShardCell;
use super::socket::RingOp;
use super::{Shard, SocketKey};
use crate::conn::Receive;
use crate::ring::send_vectored;

/// Received and unread bytes of an HTTP connection, above which nothing more is received.
const INBOX_BYTES_MAX: usize = 256 * 1024;
/// How long the peer of an HTTP connection may stay silent.
const HTTP_IDLE: Duration = Duration::from_secs(120);

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct HttpSocket {
    pub(super) remote: String,
    /// For an HTTPS connection that has no task yet.
    tls: Option<Arc<ServerConfig>>,
    pub(super) receive: Receive,
    inbox: BytesMut,
    eof: bool,
    /// When bytes came or went last, or the task began to wait for the peer.
    silent_since: Now,
    pub(super) idle_timer: Option<TimerKey>,
    pub(super) read_waker: Option<Waker>,
    pub(super) write_waker: Option<Waker>,
    /// Waits for a clean stop.
    pub(super) stop_waker: Option<Waker>,
    /// The socket took no more; a poll for room is under way.
    pub(super) write_blocked: bool,
    /// It said that it has room and has taken nothing since.
    pub(super) write_woken: bool,
}

impl HttpSocket {
    pub(super) fn new(remote: String, now: Now, tls: Option<Arc<ServerConfig>>) -> Self {
        Self {
            remote,
            tls,
            receive: Receive::Off,
            inbox: BytesMut::new(),
            eof: false,
            silent_since: now,
            idle_timer: None,
            read_waker: None,
            write_waker: None,
            stop_waker: None,
            write_blocked: false,
            write_woken: false,
        }
    }

    /// Notes that the task waits for bytes.
    fn await_bytes(&mut self, now: Now, waker: &Waker) {
        self.begin_to_wait(now);
        self.read_waker = Some(waker.clone());
    }

    /// Notes that the task waits for room.
    fn await_room(&mut self, now: Now, waker: &Waker) {
        self.begin_to_wait(now);
        self.write_waker = Some(waker.clone());
    }

    /// Who was woken for room that is not there has been waiting all the time.
    fn begin_to_wait(&mut self, now: Now) {
        if !self.is_waiting() && !self.write_woken {
            self.silent_since = now;
        }
    }

    fn is_waiting(&self) -> bool {
        self.read_waker.is_some() || self.write_waker.is_some()
    }

    /// When the peer will have been silent for too long, if the task waits for it.
    fn patience_ends(&self) -> Option<Now> {
        self.is_waiting()
            .then(|| self.silent_since.after(HTTP_IDLE))
    }
}

/// An HTTP connection that was accepted and has no task yet.
pub(crate) struct NewHttp {
    pub(crate) key: SocketKey,
    pub(crate) remote: String,
    /// Certificates, if it is to be HTTPS.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

impl Shard {
    fn http(&mut self, key: SocketKey) -> Option<&mut HttpSocket> {
        self.sockets.get_mut(key)?.http()
    }

    pub(super) fn on_http_received(&mut self, key: SocketKey, data: &[u8]) {
        let now = self.now;
        let Some(http) = self.http(key) else { return };
        http.inbox.extend_from_slice(data);
        http.silent_since = now;
        let waker = http.read_waker.take();
        self.wakers.extend(waker);
        self.settle_http_receive(key);
    }

    pub(super) fn on_http_closed(&mut self, key: SocketKey, error: Option<&io::Error>) {
        let Some(http) = self.http(key) else { return };
        http.receive.end();
        http.eof = true;
        if error.is_some() {
            self.close_socket(key);
            return;
        }
        let waker = http.read_waker.take();
        self.wakers.extend(waker);
    }

    /// Stops or starts receiving so that the inbox stays bounded.
    pub(super) fn settle_http_receive(&mut self, key: SocketKey) {
        let Some(http) = self.http(key) else { return };
        let room = http.inbox.len() < INBOX_BYTES_MAX;
        match http.receive {
            Receive::On if !room => {
                http.receive = Receive::Stopping;
                self.ring_ops.push(RingOp::StopReceive(key));
            }
            Receive::Off if room && !http.eof => {
                http.receive = Receive::On;
                self.ring_ops.push(RingOp::Receive(key));
            }
            Receive::On | Receive::Off | Receive::Stopping => {}
        }
    }

    /// Looks at the peer's silence when it may have been too long.
    pub(super) fn watch_http(&mut self, key: SocketKey) {
        let Some(http) = self.http(key) else { return };
        let at = http.patience_ends();
        let at = at.unwrap_or_else(|| self.now.after(HTTP_IDLE));
        let timer = self.core.schedule(at, Deadline::ReadTimeout(key.token()));
        if let Some(http) = self.http(key) {
            http.idle_timer = Some(timer);
        }
    }

    pub(super) fn on_http_idle(&mut self, key: SocketKey) {
        let now = self.now;
        let Some(http) = self.http(key) else { return };
        http.idle_timer = None;
        if http.patience_ends().is_some_and(|end| end <= now) {
            self.close_socket(key);
        } else {
            self.watch_http(key);
        }
    }

    /// Takes a step of a handshake of HTTPS, or has the task woken when there is one left.
    pub(super) fn poll_handshake_step(&mut self, cx: &Context<'_>) -> Poll<()> {
        let polled = self.https_handshakes.poll_step(cx);
        self.touched |= polled.is_pending();
        polled
    }

    /// Lets the tasks go on that found no step of a handshake left; they go before who has just come.
    pub(super) fn resume_handshakes(&mut self) {
        self.wakers.splice(..0, self.https_handshakes.refill());
        self.touched |= self.https_handshakes.is_waited_for();
    }

    /// HTTP connections that were accepted and have no task yet.
    pub(crate) fn take_new_http(&mut self) -> Vec<NewHttp> {
        let keys = std::mem::take(&mut self.new_http);
        let new = |key| {
            let http = self.http(key)?;
            Some(NewHttp {
                key,
                remote: http.remote.clone(),
                tls: http.tls.take(),
            })
        };
        keys.into_iter().filter_map(new).collect()
    }

    fn poll_http_read(
        &mut self,
        key: SocketKey,
        cx: &Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let now = self.now;
        let Some(http) = self.http(key) else {
            return Poll::Ready(Ok(()));
        };
        if http.inbox.is_empty() {
            if http.eof {
                return Poll::Ready(Ok(()));
            }
            http.await_bytes(now, cx.waker());
            return Poll::Pending;
        }
        let taken = http.inbox.len().min(buffer.remaining());
        buffer.put_slice(&http.inbox[..taken]);
        http.inbox.advance(taken);
        self.settle_http_receive(key);
        Poll::Ready(Ok(()))
    }

    fn poll_http_write(
        &mut self,
        key: SocketKey,
        cx: &Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(socket) = self.sockets.get_mut(key) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let (fd, now) = (Rc::clone(&socket.fd), self.now);
        let Some(http) = socket.http() else {
            return Poll::Pending;
        };
        if !http.write_blocked {
            match send_vectored(fd.as_fd(), slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    http.write_blocked = true;
                    http.await_room(now, cx.waker());
                    // While the ring lets go of the socket nothing may be asked of it; when it
                    // has, the task is woken.
                    if http.receive != Receive::Stopping {
                        let was_misled = http.write_woken;
                        self.await_room(key, was_misled);
                    }
                    return Poll::Pending;
                }
                other => {
                    http.write_woken = false;
                    http.silent_since = now;
                    return Poll::Ready(other);
                }
            }
        }
        http.await_room(now, cx.waker());
        Poll::Pending
    }

    fn poll_http_stop(&mut self, key: SocketKey, cx: &Context<'_>) -> Poll<()> {
        if self.is_answering() {
            return Poll::Ready(());
        }
        if let Some(http) = self.http(key) {
            match &mut http.stop_waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    fn shut_http(&mut self, key: SocketKey) {
        if let Some(socket) = self.sockets.get(key) {
            // A peer that is gone already has nothing to be told.
            let _ = shutdown(socket.fd.as_raw_fd(), Shutdown::Write);
        }
    }
}

/// An HTTP connection as a task sees it. Dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct HttpStream {
    cell: ShardCell,
    key: SocketKey,
}

impl HttpStream {
    pub(crate) fn new(cell: ShardCell, key: SocketKey) -> Self {
        Self { cell, key }
    }
}

impl Drop for HttpStream {
    fn drop(&mut self) {
        self.cell.with(|shard| shard.close_socket(self.key));
    }
}

impl Read for HttpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.cell
            .with(|shard| shard.poll_http_read(self.key, cx, buffer))
    }
}

impl Write for HttpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.cell
            .with(|shard| shard.poll_http_write(self.key, cx, &[IoSlice::new(data)]))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cell.with(|shard| shard.shut_http(self.key));
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.cell
            .with(|shard| shard.poll_http_write(self.key, cx, slices))
    }
}

/// Resolves when an HTTP connection is to end after the request under way, for a clean stop.
#[derive(Debug)]
pub(crate) struct StopNotice {
    cell: ShardCell,
    key: SocketKey,
}

impl StopNotice {
    pub(crate) fn new(cell: ShardCell, key: SocketKey) -> Self {
        Self { cell, key }
    }
}

impl Future for StopNotice {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.cell.with(|shard| shard.poll_http_stop(self.key, cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds after the beginning.
    fn at(seconds: u64) -> Now {
        Now(0).after(Duration::from_secs(seconds))
    }

    fn socket() -> HttpSocket {
        HttpSocket::new("peer".to_owned(), at(0), None)
    }

    #[test]
    fn silence_counts_while_bytes_are_waited_for() {
        let mut http = socket();
        assert_eq!(http.patience_ends(), None);
        http.await_bytes(at(5), Waker::noop());
        assert_eq!(http.patience_ends(), Some(at(125)));
        // Asking again is no sign of life.
        http.await_bytes(at(50), Waker::noop());
        assert_eq!(http.patience_ends(), Some(at(125)));
    }

    #[test]
    fn answering_takes_as_long_as_it_takes() {
        let mut http = socket();
        http.await_bytes(at(0), Waker::noop());
        http.read_waker = None;
        assert_eq!(http.patience_ends(), None);
        http.await_bytes(at(1000), Waker::noop());
        assert_eq!(http.patience_ends(), Some(at(1120)));
    }

    #[test]
    fn a_peer_that_does_not_take_its_answer_is_silent_too() {
        let mut http = socket();
        http.await_room(at(10), Waker::noop());
        assert_eq!(http.patience_ends(), Some(at(130)));
        // Woken for nothing: no byte has gone.
        (http.write_waker, http.write_woken) = (None, true);
        http.await_room(at(60), Waker::noop());
        assert_eq!(http.patience_ends(), Some(at(130)));
        (http.write_waker, http.write_woken) = (None, false);
        http.await_room(at(100), Waker::noop());
        assert_eq!(http.patience_ends(), Some(at(220)));
    }
}
