//! The receiving direction: bytes of the stream, through a decoder if there is one, to frames.

use std::time::Duration;

use bytes::BytesMut;
use nsq_proto::{Frame, decode_frame};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::LinkError;
use super::codec::Decoder;

/// Room made for a read, in bytes. Bodies are slices of what a read filled.
const READ_BYTES: usize = 64 * 1024;
/// With less room than this left, new room is made.
const READ_BYTES_MIN: usize = 4 * 1024;

#[derive(Debug)]
pub(crate) struct Inbound {
    decoder: Option<Decoder>,
    /// Received and not decoded; always empty without a decoder.
    wire: BytesMut,
    /// Decoded and not yet taken as frames.
    plain: BytesMut,
    body_bytes_max: usize,
    read_timeout: Duration,
    endpoints: String,
}

impl Inbound {
    /// `body_bytes_max` 0 is no limit but the protocol's.
    pub(super) fn new(body_bytes_max: u32, read_timeout: Duration, endpoints: String) -> Self {
        let body_bytes_max = match body_bytes_max {
            0 => i32::MAX.cast_unsigned(),
            max => max,
        };
        Self {
            decoder: None,
            wire: BytesMut::new(),
            plain: BytesMut::new(),
            body_bytes_max: body_bytes_max as usize,
            read_timeout,
            endpoints,
        }
    }

    /// From here on, also for what has been received already, the stream is compressed.
    pub(super) fn decompress(&mut self, decoder: Decoder) {
        self.wire = std::mem::take(&mut self.plain);
        self.decoder = Some(decoder);
    }

    /// Whether everything received has been taken.
    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.wire.is_empty()
    }

    /// The next frame that is there.
    pub(crate) fn take_frame(&mut self) -> Result<Option<Frame>, LinkError> {
        Ok(decode_frame(&mut self.plain, self.body_bytes_max)?)
    }

    /// Waits until there are more bytes to take frames from.
    ///
    /// *Cancellation:* nothing is lost.
    pub(crate) async fn fill(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
    ) -> Result<(), LinkError> {
        let Some(decoder) = &mut self.decoder else {
            let (limit, endpoints) = (self.read_timeout, &self.endpoints);
            return read(source, &mut self.plain, limit, endpoints).await;
        };
        loop {
            let grew = decoder.step(&mut self.wire, &mut self.plain);
            if grew.map_err(LinkError::Codec)? {
                return Ok(());
            }
            let (limit, endpoints) = (self.read_timeout, &self.endpoints);
            read(source, &mut self.wire, limit, endpoints).await?;
        }
    }

    /// Waits for the next frame.
    pub(super) async fn frame(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
    ) -> Result<Frame, LinkError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            self.fill(source).await?;
        }
    }
}

async fn read(
    source: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    limit: Duration,
    endpoints: &str,
) -> Result<(), LinkError> {
    if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
        buffer.reserve(READ_BYTES);
    }
    match timeout(limit, source.read_buf(buffer)).await {
        Ok(Ok(0)) => Err(LinkError::Eof),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(LinkError::io("read", endpoints, &error)),
        Err(_) => Err(LinkError::timeout("read", endpoints)),
    }
}
