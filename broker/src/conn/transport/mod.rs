//! What lies between a connection's socket and its protocol: nothing, TLS, a compression, or a
//! compression inside TLS (spec nsqd.md §2.6.3).
//!
//! Owned by the connection and plain data like the rest of it: it is told what arrived and asked
//! what to send, and never sees the socket. A connection without layers pays one pointer and one
//! branch per receive and per flush.
//!
//! Invariants:
//! * a layer begins where the answer that grants it has been sent to the last byte;
//! * what is received is decoded only as far as the connection's input has room: the rest stays
//!   here as it came, and the shard stops receiving when that is [`UNDECODED_BYTES_MAX`];
//! * output is encoded only when all that was encoded before is sent, [`ENCODE_BYTES_MAX`] at a
//!   time: what a slow peer does not take waits in its plain form, where it is counted.
//!
//! Memory per connection, beyond what is bounded by these two: TLS about 14 KiB, and 18 KiB more
//! while a record is incomplete (64 KiB during a handshake); snappy 10 to 40 KiB; deflate about 340 KiB.

mod deflate;
mod layers;
mod snappy;
#[cfg(test)]
mod tests;
mod tls;

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::BytesMut;
use rustls::ServerConfig;

use super::output::{Flush, Output};
use layers::Layers;
pub(crate) use tls::{TlsInfo, TlsLayer};

/// Received bytes that may wait to be decoded; one receive buffer more may be on its way.
pub(crate) const UNDECODED_BYTES_MAX: usize = 128 * 1024;
/// Plain bytes encoded at a time.
const ENCODE_BYTES_MAX: usize = 256 * 1024;
/// Capacity kept by an empty buffer of encoded bytes.
const WIRE_BYTES_KEPT: usize = 64 * 1024;
/// Compressed bytes taken out of TLS at a time.
const INNER_BYTES_MAX: usize = 64 * 1024;

/// A compression, as IDENTIFY grants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Snappy,
    /// With its level, 1 to 9.
    Deflate(u8),
}

/// The layers that IDENTIFY grants, in the order in which they begin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upgrades {
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) compression: Option<Compression>,
}

impl Upgrades {
    pub(crate) fn is_any(&self) -> bool {
        self.tls.is_some() || self.compression.is_some()
    }
}

/// How decoding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// There is no more room; there may be more.
    Full,
    /// What has arrived is decoded, except for the beginning of something.
    Dry,
    /// The peer has ended its stream.
    End,
}

/// Why what arrived cannot be decoded. The connection takes no more.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum LayerError {
    /// The peer goes on in plain text; the reference's words.
    #[error("tls: first record does not look like a TLS handshake")]
    NotTls,
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    #[error("tls: {0}")]
    Io(io::ErrorKind),
    #[error("snappy: {0}")]
    Snappy(&'static str),
    #[error("deflate: corrupt input")]
    Deflate,
}

impl From<io::Error> for LayerError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Transport(Option<Box<Layers>>);

impl Transport {
    /// Bytes go through as they are.
    pub(crate) fn is_plain(&self) -> bool {
        self.0.is_none()
    }

    /// What the TLS handshake settled, if there was one.
    pub(crate) fn tls(&self) -> Option<&TlsInfo> {
        self.0.as_ref()?.tls.as_ref()?.info()
    }

    /// A TLS handshake is under way.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|layers| layers.is_handshaking())
    }

    /// The compression in place.
    pub(crate) fn compression(&self) -> Option<Compression> {
        self.0.as_ref()?.codec.as_ref().map(|codec| codec.kind())
    }

    /// Notes the layers that are to begin when the answer that grants them is sent.
    pub(crate) fn plan(&mut self, upgrades: Upgrades) {
        self.0.get_or_insert_default().planned = upgrades;
    }

    /// A layer is to begin as soon as everything before it is sent.
    pub(crate) fn is_upgrade_due(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|layers| !layers.is_handshaking() && layers.planned.is_any())
    }

    /// Begins TLS if that is next. `received` goes through it.
    pub(crate) fn begin_tls(&mut self, received: BytesMut) -> Result<(), BytesMut> {
        match self.0.as_mut() {
            Some(layers) => layers.begin_tls(received),
            None => Err(received),
        }
    }

    /// Begins the compression that was planned, if one was. `received` goes through it.
    pub(crate) fn begin_compression(&mut self, received: BytesMut) -> Option<Compression> {
        self.0.as_mut()?.begin_compression(received)
    }

    /// Takes bytes from the socket.
    pub(crate) fn receive(&mut self, data: &[u8]) {
        if let Some(layers) = &mut self.0 {
            layers.undecoded.extend_from_slice(data);
        }
    }

    /// There is room for more bytes from the socket.
    pub(crate) fn has_room(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|layers| layers.undecoded.len() < UNDECODED_BYTES_MAX)
    }

    /// Decodes what was received to the end of `plain`, about `room` bytes of it at most.
    pub(crate) fn decode(
        &mut self,
        plain: &mut BytesMut,
        room: usize,
    ) -> Result<Decoded, LayerError> {
        match &mut self.0 {
            Some(layers) => layers.decode(plain, room),
            None => Ok(Decoded::Dry),
        }
    }

    /// Encodes and sends `output` until it is empty or the socket takes no more. When `ending`, the
    /// peer is told behind it that nothing follows.
    ///
    /// # Errors
    /// What `send` answers, other than `WouldBlock`; the connection is unusable then.
    pub(crate) fn flush(
        &mut self,
        output: &mut Output,
        ending: bool,
        mut send: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Flush> {
        match &mut self.0 {
            None => output.flush(send),
            Some(layers) => layers.flush(output, ending, &mut send),
        }
    }

    /// All that was encoded is sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.0.as_ref().is_none_or(|layers| layers.is_flushed())
    }

    /// Gives up a handshake. Returns what the peer is to get of it before anything plain.
    pub(crate) fn abandon(&mut self) -> Vec<u8> {
        self.0
            .take()
            .map(|mut layers| layers.abandon())
            .unwrap_or_default()
    }
}
