//! TLS, without a socket: ciphertext in, plain bytes out, and the other way round.
//!
//! rustls keeps at most one record that is not whole (18 KiB; 64 KiB during a handshake) and what
//! is to be sent. The latter is bounded by its users: they add to it only when it is empty.

use std::io::{self, BufRead, IoSlice, Write};
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use rustls::{CipherSuite, ProtocolVersion, ServerConfig, ServerConnection};

use super::{Decoded, LayerError};
use crate::tls::common_name;

/// Kinds of record that a client may begin with: an alert, a handshake.
const FIRST_RECORDS: [u8; 2] = [21, 22];

/// What a finished handshake settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsInfo {
    /// `TLS1.2` or `TLS1.3`.
    pub(crate) version: &'static str,
    /// The suite by its IANA name.
    pub(crate) cipher_suite: String,
    /// Of the client's certificate, if it sent one.
    pub(crate) common_name: Option<String>,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct TlsLayer {
    connection: ServerConnection,
    /// `None` until the handshake is finished.
    info: Option<TlsInfo>,
    /// The peer has sent something.
    begun: bool,
    failed: bool,
    /// The peer was told that nothing follows.
    ended: bool,
}

impl TlsLayer {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Self {
        let mut connection =
            ServerConnection::new(config).expect("a server can always wait for a client");
        connection.set_buffer_limit(None);
        Self {
            connection,
            info: None,
            begun: false,
            failed: false,
            ended: false,
        }
    }

    /// What the handshake settled; `None` while it is under way.
    pub(crate) fn info(&self) -> Option<&TlsInfo> {
        self.info.as_ref()
    }

    /// Nothing further can be encrypted or decrypted; what waits to be sent is an alert.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Nothing waits to be sent.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.connection.wants_write()
    }

    /// Appends what `from` decrypts to, about `room` bytes at most; goes on with the handshake.
    pub(crate) fn decode(
        &mut self,
        from: &mut BytesMut,
        to: &mut BytesMut,
        room: usize,
    ) -> Result<Decoded, LayerError> {
        if let Some(kind) = from.first().filter(|_| !self.begun) {
            self.begun = true;
            if !FIRST_RECORDS.contains(kind) {
                self.failed = true;
                return Err(LayerError::NotTls);
            }
        }
        let limit = to.len().saturating_add(room);
        loop {
            let end = self.decrypted(to, limit)?;
            if end != Decoded::Dry || from.is_empty() {
                return Ok(end);
            }
            self.take(from).inspect_err(|_| self.failed = true)?;
        }
    }

    /// Gives rustls some of `from`. It keeps what is not a whole record.
    fn take(&mut self, from: &mut BytesMut) -> Result<(), LayerError> {
        let taken = self.connection.read_tls(&mut &from[..])?;
        if taken == 0 {
            return Err(LayerError::Io(io::ErrorKind::InvalidData));
        }
        from.advance(taken);
        self.connection.process_new_packets()?;
        if self.info.is_none() && !self.connection.is_handshaking() {
            self.info = Some(info(&self.connection));
        }
        Ok(())
    }

    /// Takes plain bytes until there are none or `to` has `limit`.
    fn decrypted(&mut self, to: &mut BytesMut, limit: usize) -> Result<Decoded, LayerError> {
        let mut reader = self.connection.reader();
        while to.len() < limit {
            match reader.fill_buf() {
                Ok([]) => return Ok(Decoded::End),
                Ok(plain) => {
                    to.extend_from_slice(plain);
                    let taken = plain.len();
                    reader.consume(taken);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Decoded::Dry),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Decoded::Full)
    }

    /// Encrypts all of `plain`, once the handshake is finished.
    ///
    /// # Errors
    /// When the keys are worn out (TLS 1.2 cannot change them): rustls has ended the stream then.
    pub(crate) fn encode(&mut self, plain: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: usize = plain.iter().map(|slice| slice.len()).sum();
        let written = self.connection.writer().write_vectored(plain)?;
        if written < bytes {
            return Err(io::Error::other("the keys of the TLS session are worn out"));
        }
        Ok(())
    }

    /// Tells the peer that nothing follows; `false` if it was told before or nothing can be.
    pub(crate) fn end(&mut self) -> bool {
        if self.ended || self.failed || self.info.is_none() {
            return false;
        }
        self.ended = true;
        self.connection.send_close_notify();
        true
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// What `send` answers; `WouldBlock` when the socket takes no more.
    pub(crate) fn send(
        &mut self,
        send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Sink(send))?;
        }
        Ok(())
    }
}

fn info(connection: &ServerConnection) -> TlsInfo {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLS1.2",
        _ => "TLS1.3",
    };
    let suite = connection.negotiated_cipher_suite();
    let suite = suite.map_or(CipherSuite::Unknown(0), |suite| suite.suite());
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    TlsInfo {
        version,
        // rustls marks the suites of TLS 1.3 by their prefix.
        cipher_suite: suite
            .as_str()
            .unwrap_or_default()
            .replacen("TLS13_", "TLS_", 1),
        common_name: leaf.and_then(common_name),
    }
}

/// A function that sends, as rustls wants it.
struct Sink<'a>(&'a mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>);

impl Write for Sink<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (self.0)(&[IoSlice::new(data)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (self.0)(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
