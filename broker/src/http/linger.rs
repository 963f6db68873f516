//! A stream that closes without losing the last answer.
//!
//! A request that is refused before its body was read leaves input in the socket, and closing a
//! socket with unread input resets the connection: the client may never see why it was refused.
//! So such a connection is closed for writing first, and what the client still sends is dropped
//! until it closes too, up to a bound in bytes. The bound in time is the stream's own read timeout.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

/// What is dropped at most. More than a `/mpub` body of the default limit, which is what clients
/// that did not expect the refusal have on its way.
const DISCARD_BYTES_MAX: usize = 16 << 20;

/// Wraps the stream below hyper; the flag is shared with the requests of the connection.
#[derive(Debug)]
pub(super) struct LingeringStream<S> {
    stream: S,
    has_unread_body: Rc<Cell<bool>>,
    is_write_closed: bool,
    discarded: usize,
}

impl<S> LingeringStream<S> {
    pub(super) fn new(stream: S, has_unread_body: Rc<Cell<bool>>) -> Self {
        Self {
            stream,
            has_unread_body,
            is_write_closed: false,
            discarded: 0,
        }
    }
}

impl<S: Read + Unpin> Read for LingeringStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Read + Write + Unpin> Write for LingeringStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_write_closed {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.is_write_closed = true;
        }
        while self.has_unread_body.get() && self.discarded < DISCARD_BYTES_MAX {
            let mut space = [MaybeUninit::uninit(); 4096];
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer.unfilled()))?;
            if buffer.filled().is_empty() {
                break;
            }
            self.discarded += buffer.filled().len();
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
