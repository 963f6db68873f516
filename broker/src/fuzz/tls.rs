//! TLS against a client in memory. Its keys are new each time, so an input is a script: what each
//! side sends, and what becomes of it on the way.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use nsq_fuzz::pieces;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::streams::flushed;
use crate::conn::{Compression, Decoded, LayerError, Output, Transport, Upgrades};
use crate::tls::provider;

/// A server's configuration, and a client's that believes it.
pub(crate) fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    static CONFIGS: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
            .expect("a certificate can be made");
        let certificate = CertificateDer::from(made.cert);
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("just made");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("just made");
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("just made");
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    });
    CONFIGS.clone()
}

/// What a step of the script does with its bytes.
const SEND: u8 = 0;
const ANSWER: u8 = 1;
const SPOIL: u8 = 2;
const CUT: u8 = 3;
const INJECT: u8 = 4;
const CLOSE: u8 = 5;
const STEPS: u8 = 6;
const STEPS_MAX: usize = 16;

/// The mode (1: compression, and whether the client is nothing but bytes), the room of a step (1),
/// the seed of the cuts (2), then steps: what (1), length (2), bytes.
pub(super) fn run(input: &[u8]) {
    let Some((&[mode, room, c0, c1], mut script)) = input.split_first_chunk() else {
        return;
    };
    let compression = match mode % 3 {
        0 => None,
        1 => Some(Compression::Snappy),
        _ => Some(Compression::Deflate(6)),
    };
    let seed = u16::from_le_bytes([c0, c1]);
    let room = 1 << (room % 17);
    if mode & 0x80 != 0 {
        return stranger(script, seed, room);
    }
    let mut pair = Pair::new(compression, seed, room);
    for _ in 0..STEPS_MAX {
        let Some((&[what, l0, l1], rest)) = script.split_first_chunk() else {
            break;
        };
        let len = usize::from(u16::from_le_bytes([l0, l1])).min(rest.len());
        let (bytes, rest) = rest.split_at(len);
        script = rest;
        let is_over = match what % STEPS {
            ANSWER => pair.answer(bytes),
            CLOSE => pair.close(),
            what => pair.send(what, bytes),
        };
        if is_over {
            break;
        }
    }
}

/// Somebody who knows no keys: nothing plain ever comes of it.
fn stranger(bytes: &[u8], seed: u16, room: usize) {
    let mut server = server(None);
    let (mut plain, mut output) = (BytesMut::new(), Output::default());
    for piece in pieces(bytes, seed) {
        server.receive(piece);
        let decoded = server.decode(&mut plain, room);
        flushed(&mut server, &mut output, usize::MAX);
        match decoded {
            Ok(Decoded::Dry) => {}
            Ok(Decoded::End) | Err(_) => break,
            Ok(Decoded::Full) => panic!("plain bytes"),
        }
    }
    assert!(plain.is_empty() && server.tls().is_none());
}

/// A transport in which TLS has begun.
fn server(compression: Option<Compression>) -> Transport {
    let mut server = Transport::default();
    server.plan(Upgrades {
        tls: Some(configs().0),
        compression,
    });
    server.begin_tls(BytesMut::new()).expect("it was planned");
    server
}

/// Both ends of an established connection, and what has gone through.
struct Pair {
    client: ClientConnection,
    server: Transport,
    output: Output,
    /// The client's compression.
    layer: Option<Transport>,
    seed: u16,
    room: usize,
    sent: Vec<u8>,
    received: Vec<u8>,
    answered: Vec<u8>,
    answers: Vec<u8>,
}

impl Pair {
    fn new(compression: Option<Compression>, seed: u16, room: usize) -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(configs().1, name).expect("a good configuration");
        let mut pair = Self {
            client,
            server: server(compression),
            output: Output::default(),
            layer: None,
            seed,
            room,
            sent: Vec::new(),
            received: Vec::new(),
            answered: Vec::new(),
            answers: Vec::new(),
        };
        while pair.client.is_handshaking() || pair.server.is_handshaking() {
            let hello = pair.client_bytes();
            assert_eq!(pair.serve(&hello), Ok(Decoded::Dry));
            let wire = flushed(&mut pair.server, &mut pair.output, usize::MAX);
            pair.client_receives(&wire);
        }
        assert_eq!(pair.server.begin_compression(BytesMut::new()), compression);
        pair.layer = compression.map(|compression| {
            let mut layer = Transport::default();
            layer.plan(Upgrades {
                tls: None,
                compression: Some(compression),
            });
            layer.begin_compression(BytesMut::new());
            layer
        });
        pair
    }

    fn client_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).expect("into memory");
        }
        bytes
    }

    fn client_receives(&mut self, mut wire: &[u8]) {
        while !wire.is_empty() {
            self.client.read_tls(&mut wire).expect("from memory");
            self.client.process_new_packets().expect("the server's own");
        }
    }

    /// What the server makes of some bytes, in pieces and with little room.
    fn serve(&mut self, wire: &[u8]) -> Result<Decoded, LayerError> {
        let mut end = Decoded::Dry;
        for piece in pieces(wire, self.seed) {
            self.server.receive(piece);
            loop {
                let mut plain = BytesMut::new();
                end = self.server.decode(&mut plain, self.room)?;
                assert!(plain.len() <= self.room + 64 * 1024);
                let missing = &self.sent[self.received.len()..];
                assert!(missing.starts_with(&plain), "nobody sent this");
                self.received.extend_from_slice(&plain);
                match end {
                    Decoded::Full => assert!(plain.len() >= self.room, "room was left"),
                    Decoded::Dry => break,
                    Decoded::End => return Ok(end),
                }
            }
        }
        Ok(end)
    }

    /// The client sends, and something may happen to it. Says whether that was the end.
    fn send(&mut self, what: u8, bytes: &[u8]) -> bool {
        self.sent.extend_from_slice(bytes);
        let payload = match &mut self.layer {
            None => bytes.to_vec(),
            Some(layer) => {
                let mut output = Output::default();
                output.push(Bytes::copy_from_slice(bytes));
                flushed(layer, &mut output, usize::MAX)
            }
        };
        self.client
            .writer()
            .write_all(&payload)
            .expect("into memory");
        let mut wire = self.client_bytes();
        let middle = wire.len() / 2;
        match what {
            SPOIL if !wire.is_empty() => wire[middle] ^= bytes.first().map_or(1, |byte| byte | 1),
            CUT => wire.truncate(middle),
            INJECT => wire.extend_from_slice(bytes),
            _ => {}
        }
        let outcome = self.serve(&wire);
        if what == SEND {
            assert_eq!(outcome, Ok(Decoded::Dry));
            assert!(self.received == self.sent, "all that was sent");
            return false;
        }
        // The alert, if there is one, goes out whatever happened.
        flushed(&mut self.server, &mut self.output, usize::MAX);
        true
    }

    /// The server sends.
    fn answer(&mut self, bytes: &[u8]) -> bool {
        self.answered.extend_from_slice(bytes);
        self.output.push(Bytes::copy_from_slice(bytes));
        let wire = flushed(&mut self.server, &mut self.output, self.room.max(16));
        self.client_receives(&wire);
        let mut payload = vec![0; 256 * 1024];
        let read = self.client.reader().read(&mut payload).unwrap_or(0);
        payload.truncate(read);
        match &mut self.layer {
            None => self.answers.append(&mut payload),
            Some(layer) => {
                let mut plain = BytesMut::new();
                layer.receive(&payload);
                assert_eq!(layer.decode(&mut plain, usize::MAX), Ok(Decoded::Dry));
                self.answers.extend_from_slice(&plain);
            }
        }
        assert!(
            self.answers == self.answered,
            "a flush shows all that was sent"
        );
        false
    }

    fn close(&mut self) -> bool {
        self.client.send_close_notify();
        let wire = self.client_bytes();
        assert_eq!(self.serve(&wire), Ok(Decoded::End));
        assert!(self.received == self.sent, "all that was sent");
        true
    }
}

/// Every way to end, in every mode; and what a stranger may say.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let step = |what: u8, bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).expect("short").to_le_bytes();
        [&[what], &len[..], bytes].concat()
    };
    let talk = [
        step(SEND, b"PUB t\n\0\0\0\x01x"),
        step(ANSWER, b"\0\0\0\x06\0\0\0\0OK"),
    ]
    .concat();
    let long = step(SEND, &[9; 2_000]);
    let mut seeds = Vec::new();
    for mode in 0..3 {
        for what in [SPOIL, CUT, INJECT, CLOSE] {
            let last = step(what, b"NOP\nNOP\n");
            seeds.push([&[mode, 9, 3, 0], &talk[..], &long, &last].concat());
        }
    }
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(configs().1, name).expect("a good configuration");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("into memory");
    seeds.push([b"\x80\x09\x01\0", &hello[..]].concat());
    seeds.push(b"\x80\x09\0\0GET / HTTP/1.1\r\n".to_vec());
    seeds.push(b"\x80\x09\0\0\x15\x03\x01\0\x02\x02\x00".to_vec());
    seeds
}
