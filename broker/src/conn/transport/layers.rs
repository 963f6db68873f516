//! The layers of one connection, and how bytes pass through them.

use std::io::{self, IoSlice};

use bytes::BytesMut;

use super::super::output::{Flush, Output};
use super::{
    Compression, Decoded, ENCODE_BYTES_MAX, INNER_BYTES_MAX, LayerError, TlsLayer, Upgrades,
    WIRE_BYTES_KEPT, deflate, snappy,
};

type Send<'a> = dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize> + 'a;

/// A compression in place.
#[derive(Debug)]
pub(super) enum Codec {
    Snappy(snappy::Decoder, Box<snappy::Encoder>),
    Deflate(u8, Box<deflate::Decoder>, Box<deflate::Encoder>),
}

impl Codec {
    fn new(compression: Compression) -> Self {
        match compression {
            Compression::Snappy => {
                Self::Snappy(snappy::Decoder::default(), Box::new(snappy::Encoder::new()))
            }
            Compression::Deflate(level) => Self::Deflate(
                level,
                Box::new(deflate::Decoder::new()),
                Box::new(deflate::Encoder::new(level)),
            ),
        }
    }

    pub(super) fn kind(&self) -> Compression {
        match self {
            Self::Snappy(..) => Compression::Snappy,
            Self::Deflate(level, ..) => Compression::Deflate(*level),
        }
    }

    fn decode(
        &mut self,
        from: &mut BytesMut,
        to: &mut BytesMut,
        room: usize,
    ) -> Result<Decoded, LayerError> {
        match self {
            Self::Snappy(decoder, _) => decoder.decode(from, to, room),
            Self::Deflate(_, decoder, _) => decoder.decode(from, to, room),
        }
    }

    fn encode(&mut self, plain: &[IoSlice<'_>], wire: &mut Vec<u8>) {
        match self {
            Self::Snappy(_, encoder) => encoder.encode(plain, wire),
            Self::Deflate(_, _, encoder) => encoder.encode(plain, wire),
        }
    }
}

/// See the module documentation. Without `tls` and `codec` only while they are planned.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) planned: Upgrades,
    pub(super) tls: Option<TlsLayer>,
    pub(super) codec: Option<Codec>,
    /// Received and not decoded.
    pub(super) undecoded: BytesMut,
    /// Decrypted and still compressed; empty without both layers.
    inner: BytesMut,
    /// Compressed and not sent; empty with TLS, which keeps what it encrypted.
    wire: Vec<u8>,
    /// Bytes of `wire` that are sent.
    sent: usize,
}

impl Layers {
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.info().is_none())
    }

    pub(super) fn begin_tls(&mut self, received: BytesMut) -> Result<(), BytesMut> {
        let Some(config) = self.planned.tls.take() else {
            return Err(received);
        };
        self.tls = Some(TlsLayer::new(config));
        self.undecoded = received;
        Ok(())
    }

    pub(super) fn begin_compression(&mut self, received: BytesMut) -> Option<Compression> {
        let compression = self.planned.compression.take()?;
        self.codec = Some(Codec::new(compression));
        if self.tls.is_some() {
            self.inner = received;
        } else {
            self.undecoded = received;
        }
        Some(compression)
    }

    pub(super) fn decode(
        &mut self,
        plain: &mut BytesMut,
        room: usize,
    ) -> Result<Decoded, LayerError> {
        match (&mut self.tls, &mut self.codec) {
            (None, None) => Ok(Decoded::Dry),
            (Some(tls), None) => tls.decode(&mut self.undecoded, plain, room),
            (None, Some(codec)) => codec.decode(&mut self.undecoded, plain, room),
            (Some(tls), Some(codec)) => {
                let limit = plain.len().saturating_add(room);
                loop {
                    let left = limit.saturating_sub(plain.len());
                    match codec.decode(&mut self.inner, plain, left)? {
                        Decoded::Dry => {}
                        end @ (Decoded::Full | Decoded::End) => return Ok(end),
                    }
                    let before = self.inner.len();
                    let end = tls.decode(&mut self.undecoded, &mut self.inner, INNER_BYTES_MAX)?;
                    if self.inner.len() == before {
                        return Ok(end);
                    }
                }
            }
        }
    }

    pub(super) fn flush(
        &mut self,
        output: &mut Output,
        ending: bool,
        send: &mut Send<'_>,
    ) -> io::Result<Flush> {
        if output.is_blocked() {
            return Ok(Flush::Blocked);
        }
        loop {
            if let Err(error) = self.send(output, send) {
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Err(error);
                }
                output.on_refused();
                return Ok(Flush::Blocked);
            }
            if self.tls.as_ref().is_some_and(TlsLayer::has_failed) {
                output.clear();
            }
            if output.is_empty() || self.is_handshaking() {
                let ended = ending && self.tls.as_mut().is_some_and(TlsLayer::end);
                if !ended {
                    return Ok(Flush::Done);
                }
            } else {
                self.encode(output)?;
            }
        }
    }

    /// Sends what is encoded.
    fn send(&mut self, output: &mut Output, send: &mut Send<'_>) -> io::Result<()> {
        let mut send = |slices: &[IoSlice<'_>]| {
            let sent = send(slices)?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            output.on_sent();
            Ok(sent)
        };
        if let Some(tls) = &mut self.tls {
            return tls.send(&mut send);
        }
        while self.sent < self.wire.len() {
            self.sent += send(&[IoSlice::new(&self.wire[self.sent..])])?;
        }
        self.sent = 0;
        self.wire.clear();
        self.wire.shrink_to(WIRE_BYTES_KEPT);
        Ok(())
    }

    /// Encodes a bounded part of the output; nothing encoded waits to be sent.
    fn encode(&mut self, output: &mut Output) -> io::Result<()> {
        let (tls, wire) = (&mut self.tls, &mut self.wire);
        match (tls, &mut self.codec) {
            // Only while a layer is planned, and that waits for the output.
            (None, None) => {
                output.take(ENCODE_BYTES_MAX, |slices| {
                    for slice in slices {
                        wire.extend_from_slice(slice);
                    }
                });
            }
            (Some(tls), None) => return output.take(ENCODE_BYTES_MAX, |slices| tls.encode(slices)),
            (None, Some(codec)) => {
                output.take(ENCODE_BYTES_MAX, |slices| codec.encode(slices, wire));
            }
            (Some(tls), Some(codec)) => {
                let mut compressed = Vec::new();
                output.take(ENCODE_BYTES_MAX, |slices| {
                    codec.encode(slices, &mut compressed)
                });
                return tls.encode(&[IoSlice::new(&compressed)]);
            }
        }
        Ok(())
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.wire.is_empty() && self.tls.as_ref().is_none_or(TlsLayer::is_flushed)
    }

    /// What TLS still wants to be sent.
    pub(super) fn abandon(&mut self) -> Vec<u8> {
        let mut last = Vec::new();
        if let Some(tls) = &mut self.tls {
            tls.send(&mut |slices| {
                let before = last.len();
                for slice in slices {
                    last.extend_from_slice(slice);
                }
                Ok(last.len() - before)
            })
            .expect("memory takes all of it");
        }
        last
    }
}
