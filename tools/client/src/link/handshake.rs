//! From a TCP connection to one on which commands can be sent: IDENTIFY, the upgrades that the reply
//! grants (TLS, then deflate, then snappy, each confirmed by an `OK` inside of it), AUTH.

use std::fmt::Display;
use std::time::Duration;

use bytes::BytesMut;
use nsq_proto::{ClientIdentity, Frame, MAGIC_V2, ServerFeatures, encode_auth, encode_identify};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::codec::{Decoder, Encoder};
use super::inbound::Inbound;
use super::outbound::Outbound;
use super::stream::{Stream, endpoints};
use super::{Dialer, LinkError};
use crate::log::InstanceLog;
use crate::{Config, ConnectError};

/// A connection that is ready for commands.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) features: ServerFeatures,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    pub(crate) source: ReadHalf<Stream>,
    pub(crate) sink: WriteHalf<Stream>,
}

impl Link {
    /// Connects to the nsqd at `address`.
    pub(crate) async fn open(
        dialer: &Dialer,
        address: &str,
        log: &InstanceLog,
    ) -> Result<Self, ConnectError> {
        let config = &dialer.config;
        let mut tcp = dialer.dial(address).await?;
        let endpoints = endpoints(&tcp);
        let mut talk = Talk {
            inbound: Inbound::new(config.max_msg_size, config.read_timeout, endpoints.clone()),
            outbound: Outbound::new(config.write_timeout, endpoints),
            address,
            log,
        };
        let failed = ConnectError::Identify;
        let features = talk.identify(&mut tcp, config).await.map_err(failed)?;
        let mut stream = if features.tls_v1 {
            talk.start_tls(tcp, dialer).await.map_err(failed)?
        } else {
            Stream::Plain(tcp)
        };
        talk.start_compression(&mut stream, &features, config.deflate_level)
            .await
            .map_err(failed)?;
        if features.auth_required {
            talk.authenticate(&mut stream, config).await?;
        }
        let (source, sink) = tokio::io::split(stream);
        Ok(Self {
            features,
            inbound: talk.inbound,
            outbound: talk.outbound,
            source,
            sink,
        })
    }
}

/// Question and answer over a stream that changes its layers.
struct Talk<'a> {
    inbound: Inbound,
    outbound: Outbound,
    address: &'a str,
    log: &'a InstanceLog,
}

impl Talk<'_> {
    async fn ask(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        commands: &[u8],
    ) -> Result<Frame, LinkError> {
        self.outbound.send(stream, commands).await?;
        self.inbound.frame(stream).await
    }

    async fn identify(
        &mut self,
        tcp: &mut TcpStream,
        config: &Config,
    ) -> Result<ServerFeatures, String> {
        let mut commands = BytesMut::from(&MAGIC_V2[..]);
        encode_identify(&mut commands, identity(config).to_json().as_bytes());
        let features = match self.ask(tcp, &commands).await.map_err(text)? {
            Frame::Response(data) => ServerFeatures::parse(&data)?,
            Frame::Error(data) => return Err(lossy(&data)),
            Frame::Message(_) => return Err("a message instead of a reply".to_owned()),
        };
        let address = self.address;
        self.log
            .debug(format_args!("({address}) IDENTIFY response: {features:?}"));
        // As with the Go clients a refused feature is no error, but it is not passed over in silence.
        let asked = [
            ("TLS", config.tls_v1, features.tls_v1),
            ("Deflate", config.deflate, features.deflate),
            ("Snappy", config.snappy, features.snappy),
        ];
        for (name, asked, granted) in asked {
            if asked && !granted {
                self.log
                    .warn(format_args!("({address}) nsqd does not grant {name}"));
            }
        }
        Ok(features)
    }

    async fn start_tls(&mut self, tcp: TcpStream, dialer: &Dialer) -> Result<Stream, String> {
        let address = self.address;
        self.log.info(format_args!("({address}) upgrading to TLS"));
        // The server speaks second: what it said before the handshake is not from inside of it.
        if !self.inbound.is_empty() {
            return Err("invalid response from TLS upgrade".to_owned());
        }
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(text)?;
        let connector = TlsConnector::from(dialer.tls()?);
        let tls = timeout(dialer.config.read_timeout, connector.connect(name, tcp))
            .await
            .map_err(|_| "TLS handshake timeout".to_owned())?
            .map_err(text)?;
        let mut stream = Stream::Tls(Box::new(tls));
        self.expect_ok(&mut stream, "TLS").await?;
        Ok(stream)
    }

    async fn start_compression(
        &mut self,
        stream: &mut Stream,
        features: &ServerFeatures,
        deflate_level: u8,
    ) -> Result<(), String> {
        let (name, decoder, encoder) = match (features.deflate, features.snappy) {
            (false, false) => return Ok(()),
            (true, false) => (
                "Deflate",
                Decoder::deflate(),
                Encoder::deflate(deflate_level),
            ),
            (false, true) => ("Snappy", Decoder::snappy(), Encoder::snappy()),
            (true, true) => return Err("both deflate and snappy granted".to_owned()),
        };
        let address = self.address;
        self.log
            .info(format_args!("({address}) upgrading to {name}"));
        self.inbound.decompress(decoder);
        self.outbound.compress(encoder);
        self.expect_ok(stream, name).await
    }

    async fn expect_ok(&mut self, stream: &mut Stream, layer: &str) -> Result<(), String> {
        match self.inbound.frame(stream).await.map_err(text)? {
            Frame::Response(data) if &data[..] == b"OK" => Ok(()),
            Frame::Error(data) => Err(lossy(&data)),
            Frame::Response(_) | Frame::Message(_) => {
                Err(format!("invalid response from {layer} upgrade"))
            }
        }
    }

    async fn authenticate(
        &mut self,
        stream: &mut Stream,
        config: &Config,
    ) -> Result<(), ConnectError> {
        let address = self.address;
        let Some(secret) = &config.auth_secret else {
            self.log.error(format_args!("({address}) Auth Required"));
            return Err(ConnectError::AuthRequired);
        };
        if config.tls_v1 && matches!(stream, Stream::Plain(_)) {
            let refusal = "over a connection without the TLS that was asked for";
            return Err(ConnectError::Auth(refusal.to_owned()));
        }
        let mut command = BytesMut::new();
        encode_auth(&mut command, secret.as_bytes());
        let identity = match self.ask(stream, &command).await {
            Ok(Frame::Response(data)) => AuthReply::parse(&data),
            Ok(Frame::Error(data)) => Err(lossy(&data)),
            Ok(Frame::Message(_)) => Err("a message instead of a reply".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match identity {
            Ok(reply) => {
                self.log.info(format_args!(
                    "({address}) Auth accepted. Identity: {:?} {} Permissions: {}",
                    reply.identity, reply.identity_url, reply.permission_count
                ));
                Ok(())
            }
            Err(reason) => {
                let error = ConnectError::Auth(reason);
                self.log
                    .error(format_args!("({address}) Auth Failed {error}"));
                Err(error)
            }
        }
    }
}

/// The reply to AUTH.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthReply {
    identity: String,
    identity_url: String,
    permission_count: i64,
}

impl AuthReply {
    fn parse(data: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(data).map_err(text)
    }
}

fn identity(config: &Config) -> ClientIdentity<'_> {
    ClientIdentity {
        client_id: &config.client_id,
        deflate: config.deflate,
        deflate_level: config.deflate_level,
        feature_negotiation: true,
        heartbeat_interval: milliseconds_or_off(config.heartbeat_interval),
        hostname: &config.hostname,
        msg_timeout: milliseconds(config.msg_timeout),
        output_buffer_size: config.output_buffer_size.map_or(-1, i64::from),
        output_buffer_timeout: milliseconds_or_off(config.output_buffer_timeout),
        sample_rate: config.sample_rate,
        snappy: config.snappy,
        tls_v1: config.tls_v1,
        topology_region: &config.topology_region,
        topology_zone: &config.topology_zone,
        user_agent: &config.user_agent,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn milliseconds_or_off(duration: Option<Duration>) -> i64 {
    duration.map_or(-1, |duration| {
        i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
    })
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn lossy(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}
