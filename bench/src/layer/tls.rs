//! The client's side of TLS, without a socket. Records are decrypted where they lie in the receive buffer and
//! encrypted into the buffer that is sent.

use std::fmt;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::MsgFlags;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeTlsData, ReadTraffic, UnbufferedStatus};
use rustls::{ClientConfig, ProtocolVersion};

use crate::buffer::{Buffer, Received};
use crate::link::REPLY_TIMEOUT;

/// Room for a record that rustls has made: at most 16 KiB, and what TLS puts around it.
const RECORD_BYTES_MAX: usize = 18 << 10;
/// Plain bytes of a record.
const FRAGMENT_BYTES: usize = 16 << 10;
/// What TLS puts around the plain bytes of a record at most.
const RECORD_OVERHEAD_MAX: usize = 64;

/// See the module. The handshake is finished.
pub(super) struct Tls {
    connection: UnbufferedClientConnection,
}

/// What a handshake settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    /// `TLS1.2` or `TLS1.3`.
    pub(super) version: &'static str,
    /// The suite by its IANA name.
    pub(super) suite: String,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Shakes hands. What comes behind the handshake is left in `raw`, or is in `to`: with TLS 1.2 the broker
    /// has the last word of it and may go on at once.
    pub(super) fn shake_hands(
        config: Arc<ClientConfig>,
        peer: IpAddr,
        socket: &TcpStream,
        (raw, to): (&mut Buffer, &mut Buffer),
    ) -> Result<Self> {
        let mut connection = UnbufferedClientConnection::new(config, ServerName::from(peer))?;
        let deadline = Instant::now() + REPLY_TIMEOUT;
        let mut out = Buffer::default();
        loop {
            let UnbufferedStatus {
                mut discard, state, ..
            } = connection.process_tls_records(raw.bytes_mut());
            let mut is_blocked = false;
            match state? {
                ConnectionState::EncodeTlsData(record) => put(record, &mut out)?,
                ConnectionState::TransmitTlsData(transmit) => {
                    write(socket, &mut out)?;
                    transmit.done();
                }
                ConnectionState::BlockedHandshake => is_blocked = true,
                ConnectionState::WriteTraffic(_) => {
                    raw.consume(discard);
                    return Ok(Self { connection });
                }
                ConnectionState::ReadTraffic(traffic) => discard += take(traffic, to)?,
                other @ (ConnectionState::ReadEarlyData(_)
                | ConnectionState::PeerClosed
                | ConnectionState::Closed
                | _) => bail!("{other:?} in the middle of a handshake"),
            }
            raw.consume(discard);
            if is_blocked {
                let received = raw.receive(socket, MsgFlags::empty())?;
                ensure!(
                    received != Received::End,
                    "the broker has closed the connection"
                );
                ensure!(Instant::now() < deadline, "the broker does not answer");
            }
        }
    }

    /// What the handshake settled.
    pub(super) fn agreed(&self) -> Result<Agreed> {
        let suite = self
            .connection
            .negotiated_cipher_suite()
            .context("a handshake settles the cipher suite")?;
        Ok(Agreed {
            version: match self.connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLS1.2",
                _ => "TLS1.3",
            },
            suite: suite_name(suite),
        })
    }

    /// Appends what the whole records of `raw` hold; what TLS itself has to answer is appended to `out`.
    pub(super) fn decode(
        &mut self,
        raw: &mut Buffer,
        to: &mut Buffer,
        out: &mut Buffer,
    ) -> Result<()> {
        loop {
            let UnbufferedStatus {
                mut discard, state, ..
            } = self.connection.process_tls_records(raw.bytes_mut());
            let mut is_dry = false;
            match state? {
                ConnectionState::ReadTraffic(traffic) => discard += take(traffic, to)?,
                ConnectionState::EncodeTlsData(record) => put(record, out)?,
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                // The end of the connection follows, and is seen there.
                ConnectionState::WriteTraffic(_) | ConnectionState::PeerClosed => is_dry = true,
                other @ (ConnectionState::BlockedHandshake
                | ConnectionState::ReadEarlyData(_)
                | ConnectionState::Closed
                | _) => bail!("the broker has ended TLS: {other:?}"),
            }
            raw.consume(discard);
            if is_dry {
                return Ok(());
            }
        }
    }

    /// Appends `plain` as records to `out`.
    pub(super) fn encode(&mut self, plain: &[u8], out: &mut Buffer) -> Result<()> {
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
        let ConnectionState::WriteTraffic(mut traffic) = state? else {
            bail!("TLS is not ready to send");
        };
        let records = plain.len().div_ceil(FRAGMENT_BYTES);
        let room = out.space(plain.len() + records * RECORD_OVERHEAD_MAX);
        let written = traffic.encrypt(plain, room)?;
        out.add(written);
        Ok(())
    }
}

/// A suite by its IANA name; rustls marks those of TLS 1.3 by their prefix.
pub(super) fn suite_name(suite: rustls::SupportedCipherSuite) -> String {
    let name = suite.suite();
    name.as_str()
        .unwrap_or_default()
        .replacen("TLS13_", "TLS_", 1)
}

/// Appends what records hold; how many more bytes are to be discarded.
fn take(mut traffic: ReadTraffic<'_, '_, ClientConnectionData>, to: &mut Buffer) -> Result<usize> {
    let mut discard = 0;
    while let Some(record) = traffic.next_record() {
        let record = record?;
        discard += record.discard;
        to.extend(record.payload);
    }
    Ok(discard)
}

fn put(mut record: EncodeTlsData<'_, ClientConnectionData>, out: &mut Buffer) -> Result<()> {
    let written = record
        .encode(out.space(RECORD_BYTES_MAX))
        .map_err(|error| anyhow!("{error}"))?;
    out.add(written);
    Ok(())
}

fn write(mut socket: &TcpStream, out: &mut Buffer) -> Result<()> {
    std::io::Write::write_all(&mut socket, out.bytes())?;
    out.consume(out.bytes().len());
    Ok(())
}
