//! The sending direction: commands, through an encoder if there is one, to bytes of the stream.

use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::LinkError;
use super::codec::Encoder;
use super::outbox::Outbox;

#[derive(Debug)]
pub(crate) struct Outbound {
    encoder: Option<Encoder>,
    /// Encoded, to be sent; empty between calls.
    wire: Vec<u8>,
    write_timeout: Duration,
    endpoints: String,
}

impl Outbound {
    pub(super) fn new(write_timeout: Duration, endpoints: String) -> Self {
        Self {
            encoder: None,
            wire: Vec::new(),
            write_timeout,
            endpoints,
        }
    }

    /// From here on what is sent is compressed.
    pub(super) fn compress(&mut self, encoder: Encoder) {
        self.encoder = Some(encoder);
    }

    /// Sends all of it; the time limit is that of each piece that the stream takes.
    pub(super) async fn send(
        &mut self,
        sink: &mut (impl AsyncWrite + Unpin),
        plain: &[u8],
    ) -> Result<(), LinkError> {
        let Self {
            encoder,
            wire,
            write_timeout,
            endpoints,
        } = self;
        let mut rest = match encoder {
            None => plain,
            Some(encoder) => {
                wire.clear();
                encoder.encode(plain, wire).map_err(LinkError::Codec)?;
                wire
            }
        };
        let failed = |error| LinkError::io("write", endpoints, &error);
        let late = |_| LinkError::timeout("write", endpoints);
        while !rest.is_empty() {
            let sent = timeout(*write_timeout, sink.write(rest)).await;
            rest = &rest[sent.map_err(late)?.map_err(failed)?..];
        }
        let flushed = timeout(*write_timeout, sink.flush()).await;
        flushed.map_err(late)?.map_err(failed)
    }

    /// Sends what comes into the outbox, until it is told to finish; then says so to the peer.
    pub(crate) async fn run<S>(
        &mut self,
        sink: &mut (impl AsyncWrite + Unpin),
        outbox: &Outbox<S>,
    ) -> Result<(), LinkError> {
        let mut commands = bytes::BytesMut::new();
        while outbox.take(&mut commands).await {
            self.send(sink, &commands).await?;
            commands.clear();
        }
        let failed = |error| LinkError::io("write", &self.endpoints, &error);
        match timeout(self.write_timeout, sink.shutdown()).await {
            Ok(shut) => shut.map_err(failed),
            Err(_) => Err(LinkError::timeout("write", &self.endpoints)),
        }
    }
}
