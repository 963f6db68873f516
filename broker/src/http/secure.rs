//! HTTPS: TLS between the socket and hyper.
//!
//! [`TlsStream`] keeps at most one read of ciphertext, one record of plain bytes, and one write
//! that is not sent yet. The layer itself is that of the TCP protocol.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use nsq_http::response::{self, Response};
use rustls::ServerConfig;

use crate::conn::{Decoded, LayerError, TlsLayer};
use crate::gateway::Broker;

/// Bytes read from the socket, decrypted, and encrypted at a time.
const STEP_BYTES: usize = 16 * 1024;
/// How the requests begin of clients that took the door for a plain one.
const PLAIN_REQUESTS: [&[u8; 5]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
/// What they get; the reference's words.
const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// 403 to everything, where TLS is required; the reference's JSON to the space.
pub(super) fn tls_required(https_port: u16) -> Response {
    let body = format!(r#"{{"message": "TLS_REQUIRED", "https_port": {https_port}}}"#);
    let mut response = response::json(body);
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct TlsStream<S> {
    stream: S,
    tls: TlsLayer,
    received: BytesMut,
    plain: BytesMut,
}

impl<S: Read + Write + Unpin> TlsStream<S> {
    /// Performs the handshake, step by step as the broker allows it.
    ///
    /// # Errors
    /// Why there is none; the client has been told what it can be told.
    pub(super) async fn accept(
        stream: S,
        config: Arc<ServerConfig>,
        broker: &impl Broker,
    ) -> Result<Self, LayerError> {
        let mut this = Self {
            stream,
            tls: TlsLayer::new(config),
            received: BytesMut::new(),
            plain: BytesMut::new(),
        };
        match poll_fn(|cx| this.poll_handshake(cx, broker)).await {
            Ok(()) => Ok(this),
            Err(error) => {
                // A client that is gone, too, is no reason to go on.
                drop(poll_fn(|cx| this.poll_farewell(cx)).await);
                Err(error)
            }
        }
    }

    fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        broker: &impl Broker,
    ) -> Poll<Result<(), LayerError>> {
        loop {
            let mut has_ended = false;
            if !self.received.is_empty() {
                ready!(broker.poll_handshake_step(cx));
                let decoded = self
                    .tls
                    .decode(&mut self.received, &mut self.plain, STEP_BYTES)?;
                has_ended = decoded == Decoded::End;
            }
            let sent = self.poll_send(cx)?;
            if self.tls.info().is_some() {
                return Poll::Ready(Ok(()));
            }
            ready!(sent);
            if has_ended || ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(LayerError::Io(io::ErrorKind::UnexpectedEof)));
            }
        }
    }

    /// After a handshake that failed: the alert, or an answer to a plain request.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        if let Some(begin) = self.received.first_chunk()
            && PLAIN_REQUESTS.contains(&begin)
        {
            self.received.clear();
            // It fits into the empty buffer of a new socket.
            ready!(Pin::new(&mut self.stream).poll_write(cx, PLAIN_ANSWER))?;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Takes one read of ciphertext; 0 bytes at the end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); STEP_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer.unfilled()))?;
        self.received.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Sends what is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, tls, .. } = self;
        let sent = tls.send(&mut |slices| match Pin::new(&mut *stream)
            .poll_write_vectored(cx, slices)
        {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        });
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            sent => Poll::Ready(sent),
        }
    }
}

impl<S: Read + Write + Unpin> Read for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.plain.is_empty() {
            let decoded = this
                .tls
                .decode(&mut this.received, &mut this.plain, STEP_BYTES);
            // An alert, or what TLS 1.3 answers by itself.
            if this.poll_send(cx)?.is_pending() && decoded.is_ok() && this.plain.is_empty() {
                return Poll::Pending;
            }
            let decoded = decoded.map_err(io::Error::other)?;
            if !this.plain.is_empty() {
                break;
            }
            if decoded == Decoded::End || ready!(this.poll_receive(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let taken = this.plain.len().min(buffer.remaining());
        buffer.put_slice(&this.plain[..taken]);
        this.plain.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: Read + Write + Unpin> Write for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.end();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_send(cx))?;
        let mut taken = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(STEP_BYTES - taken)];
            this.tls.encode(&[IoSlice::new(part)])?;
            taken += part.len();
        }
        // What does not leave now leaves with the next write or flush.
        if let Poll::Ready(Err(error)) = this.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }
}
