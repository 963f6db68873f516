//! What lies between a socket and the protocol when a load asks for it: TLS, a compression, or a compression
//! inside TLS.
//!
//! What has arrived is always decoded at once; what is encoded is kept here until the socket takes it.

mod codec;
mod tls;

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::MsgFlags;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;

use crate::buffer::{Buffer, Received};
use codec::Codec;
pub use codec::Compression;
use tls::{Tls, suite_name};

/// Plain bytes that are encoded at a time.
const ENCODE_BYTES: usize = 256 << 10;

/// What a connection and the broker agreed on, as seen on the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Settled {
    /// `TLS1.2` or `TLS1.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<&'static str>,
    /// The cipher suite by its IANA name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cipher_suite: Option<String>,
    /// `snappy` or `deflate:LEVEL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compression: Option<String>,
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = self.tls.map(str::to_owned);
        let parts = [&tls, &self.cipher_suite, &self.compression];
        let parts: Vec<&str> = parts.into_iter().filter_map(|p| p.as_deref()).collect();
        f.write_str(&parts.join(", "))
    }
}

/// The layers of a connection.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    tls: Option<Tls>,
    codec: Option<Codec>,
    settled: Settled,
    /// As it came.
    raw: Buffer,
    /// Decrypted and still compressed; empty without both layers.
    inner: Buffer,
    /// Compressed and not yet encrypted; empty between calls.
    compressed: Vec<u8>,
    /// To be sent as it is.
    out: Buffer,
}

impl Layers {
    /// Shakes hands; what came behind it at once is appended to `input`.
    ///
    /// # Errors
    /// The broker's certificate is not believed, or there is no cipher suite in common.
    pub(crate) fn begin_tls(
        &mut self,
        config: Arc<ClientConfig>,
        peer: IpAddr,
        (socket, input): (&TcpStream, &mut Buffer),
    ) -> Result<()> {
        let tls = Tls::shake_hands(config, peer, socket, (&mut self.raw, input))?;
        let agreed = tls.agreed()?;
        self.settled.tls = Some(agreed.version);
        self.settled.cipher_suite = Some(agreed.suite);
        self.tls = Some(tls);
        Ok(())
    }

    /// From here on everything is compressed; what is in `input` already is too.
    ///
    /// # Errors
    /// What is there is not of the format.
    pub(crate) fn begin_compression(
        &mut self,
        compression: Compression,
        input: &mut Buffer,
    ) -> Result<()> {
        let early = std::mem::take(input);
        let behind = match self.tls {
            Some(_) => &mut self.inner,
            None => &mut self.raw,
        };
        behind.extend(early.bytes());
        self.codec = Some(Codec::new(compression));
        self.settled.compression = Some(compression.to_string());
        self.decode(input)
    }

    /// What was agreed on.
    pub(crate) fn settled(&self) -> &Settled {
        &self.settled
    }

    /// Receives once and appends what that amounts to, which may be nothing, to `input`.
    ///
    /// # Errors
    /// The connection has failed, or what came cannot be decoded.
    pub(crate) fn receive(
        &mut self,
        socket: &TcpStream,
        flags: MsgFlags,
        input: &mut Buffer,
    ) -> Result<Received> {
        let received = self.raw.receive(socket, flags)?;
        if received != Received::Some {
            return Ok(received);
        }
        let before = input.bytes().len();
        self.decode(input)?;
        Ok(match input.bytes().len() > before {
            true => Received::Some,
            false => Received::Nothing,
        })
    }

    fn decode(&mut self, input: &mut Buffer) -> Result<()> {
        match (&mut self.tls, &mut self.codec) {
            (None, None) => input.extend(self.raw.bytes()),
            (None, Some(codec)) => return codec.decode(&mut self.raw, input),
            (Some(tls), None) => return tls.decode(&mut self.raw, input, &mut self.out),
            (Some(tls), Some(codec)) => {
                tls.decode(&mut self.raw, &mut self.inner, &mut self.out)?;
                return codec.decode(&mut self.inner, input);
            }
        }
        self.raw.consume(self.raw.bytes().len());
        Ok(())
    }

    /// Makes room for a busy connection.
    pub(crate) fn expect_traffic(&mut self, room: usize) {
        self.raw.grow(room);
    }

    /// Encodes so much of `parts` as the socket seems to have room for, and sends it. `compressed`: the parts
    /// are compressed already.
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn send(
        &mut self,
        socket: &TcpStream,
        parts: &[IoSlice<'_>],
        compressed: bool,
    ) -> Result<usize> {
        let mut taken = 0;
        for part in parts {
            for piece in part.chunks(ENCODE_BYTES) {
                if !self.flush(socket)? {
                    return Ok(taken);
                }
                self.encode(piece, compressed)?;
                taken += piece.len();
            }
        }
        self.flush(socket)?;
        Ok(taken)
    }

    /// Encodes and sends everything, waiting as long as it takes.
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn send_all(&mut self, mut socket: &TcpStream, bytes: &[u8]) -> Result<()> {
        self.encode(bytes, false)?;
        io::Write::write_all(&mut socket, self.out.bytes())?;
        self.out.consume(self.out.bytes().len());
        Ok(())
    }

    fn encode(&mut self, bytes: &[u8], compressed: bool) -> Result<()> {
        let mut bytes = bytes;
        if let (Some(codec), false) = (&mut self.codec, compressed) {
            self.compressed.clear();
            codec.encode(bytes, &mut self.compressed)?;
            bytes = &self.compressed;
        }
        match &mut self.tls {
            Some(tls) => tls.encode(bytes, &mut self.out),
            None => {
                self.out.extend(bytes);
                Ok(())
            }
        }
    }

    /// Whether everything has left.
    fn flush(&mut self, socket: &TcpStream) -> Result<bool> {
        while self.has_unsent() {
            let sent = crate::link::send(socket, &[IoSlice::new(self.out.bytes())])?;
            if sent == 0 {
                return Ok(false);
            }
            self.out.consume(sent);
        }
        Ok(true)
    }

    /// Something waits for room in the socket.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.out.bytes().is_empty()
    }
}

/// A client that speaks one cipher suite and believes the certificates of a PEM file.
///
/// # Errors
/// There is no such suite, or no certificate in the file.
pub(crate) fn client_config(suite: &str, roots: &Path) -> Result<Arc<ClientConfig>> {
    let all = ring::ALL_CIPHER_SUITES.iter().copied();
    let suites: Vec<_> = all.filter(|known| suite_name(*known) == suite).collect();
    ensure!(
        !suites.is_empty(),
        "no cipher suite {suite}; there are {}",
        suite_names().join(", ")
    );
    let provider = CryptoProvider {
        cipher_suites: suites,
        ..ring::default_provider()
    };
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(roots)
        .with_context(|| format!("read {}", roots.display()))?;
    for certificate in certificates {
        store.add(certificate?)?;
    }
    ensure!(
        !store.is_empty(),
        "{} holds no certificate",
        roots.display()
    );
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The cipher suites that there are, by their IANA names.
fn suite_names() -> Vec<String> {
    ring::ALL_CIPHER_SUITES
        .iter()
        .copied()
        .map(suite_name)
        .collect()
}
