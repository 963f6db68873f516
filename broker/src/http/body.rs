//! The body of a request, read within a limit.
//!
//! Owned by the one request; nothing of it is read before an endpoint asks, so that a body that is
//! too long is refused before the client is told to send it (`Expect: 100-continue`).

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

/// What is reserved at once for a body that arrives in pieces; it grows only with what comes.
const FIRST_RESERVE: usize = 64 * 1024;

/// Why a body is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyError {
    /// Longer than the limit.
    TooBig,
    /// The chunks are malformed, or the client went in the middle.
    Broken,
}

/// The body of one request.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Incoming,
    /// The client waits for `100 Continue`, which reading sends.
    is_awaited: bool,
    /// Longer than it may be, or broken.
    is_given_up: bool,
    is_whole: bool,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, expects_continue: bool) -> Self {
        let is_whole = incoming.is_end_stream();
        Self {
            incoming,
            is_awaited: expects_continue,
            is_given_up: false,
            is_whole,
        }
    }

    /// Gives the body up when the client announces more than this.
    pub(super) fn check_announced(&mut self, limit: u64) -> Result<(), BodyError> {
        self.check_length(self.incoming.size_hint().lower(), limit)
    }

    /// Everything was read.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether it is worth reading what is left, to keep the connection: not where that would
    /// invite a client to send what nobody wants.
    pub(super) fn is_drainable(&self) -> bool {
        !self.is_given_up && !self.is_awaited
    }

    /// Reads all of it, at most `limit` bytes. A body that came in one piece is not copied.
    pub(super) async fn read(&mut self, limit: u64) -> Result<Bytes, BodyError> {
        self.check_announced(limit)?;
        let Some(first) = self.next_piece().await? else {
            return Ok(Bytes::new());
        };
        self.check_length(first.len() as u64, limit)?;
        let Some(second) = self.next_piece().await? else {
            return Ok(first);
        };
        let mut whole = BytesMut::with_capacity(FIRST_RESERVE.max(first.len() + second.len()));
        whole.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(piece) = next {
            self.check_length((whole.len() + piece.len()) as u64, limit)?;
            whole.extend_from_slice(&piece);
            next = self.next_piece().await?;
        }
        Ok(whole.freeze())
    }

    /// Reads and drops at most about `limit` bytes.
    pub(super) async fn discard(&mut self, limit: u64) -> Result<(), BodyError> {
        self.check_announced(limit)?;
        let mut discarded = 0;
        while let Some(piece) = self.next_piece().await? {
            discarded += piece.len() as u64;
            self.check_length(discarded, limit)?;
        }
        Ok(())
    }

    /// The next bytes, never empty; `None` at the end.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        self.is_awaited = false;
        while !self.is_whole {
            match self.incoming.frame().await {
                Some(Ok(frame)) => {
                    self.is_whole = self.incoming.is_end_stream();
                    if let Ok(piece) = frame.into_data()
                        && !piece.is_empty()
                    {
                        return Ok(Some(piece));
                    }
                }
                Some(Err(_)) => {
                    self.is_given_up = true;
                    return Err(BodyError::Broken);
                }
                None => self.is_whole = true,
            }
        }
        Ok(None)
    }

    fn check_length(&mut self, length: u64, limit: u64) -> Result<(), BodyError> {
        if length <= limit {
            return Ok(());
        }
        self.is_given_up = true;
        Err(BodyError::TooBig)
    }
}
