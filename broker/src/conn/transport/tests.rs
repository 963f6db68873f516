//! Layers against a TLS client in memory: no socket, every split, every end.

use std::io::{Read, Write};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::*;
use crate::fuzz::configs;

const CODECS: [Option<Compression>; 3] = [
    None,
    Some(Compression::Snappy),
    Some(Compression::Deflate(6)),
];

/// Both ends of a connection.
struct Pair {
    client: ClientConnection,
    server: Transport,
    output: Output,
}

impl Pair {
    /// TLS is established.
    fn new() -> Self {
        let (server, client) = configs();
        let mut transport = Transport::default();
        transport.plan(Upgrades {
            tls: Some(server),
            compression: None,
        });
        assert!(transport.is_upgrade_due());
        transport.begin_tls(BytesMut::new()).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut pair = Self {
            client: ClientConnection::new(client, name).unwrap(),
            server: transport,
            output: Output::default(),
        };
        while pair.client.is_handshaking() || pair.server.is_handshaking() {
            let sent = pair.client_bytes();
            assert_eq!(pair.serve(&sent), (Vec::new(), Decoded::Dry));
            pair.flush(false, usize::MAX);
        }
        pair
    }

    fn client_bytes(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut sent).unwrap();
        }
        sent
    }

    /// What the server makes of some bytes.
    fn serve(&mut self, sent: &[u8]) -> (Vec<u8>, Decoded) {
        self.server.receive(sent);
        let mut plain = BytesMut::new();
        let end = self.server.decode(&mut plain, usize::MAX).unwrap();
        (plain.to_vec(), end)
    }

    /// Has the server send over a socket that takes `max` bytes at a time and refuses every other
    /// time.
    fn flush(&mut self, ending: bool, max: usize) {
        let mut refuse = false;
        loop {
            let mut wire = Vec::new();
            let done = self.server.flush(&mut self.output, ending, |slices| {
                refuse = !refuse;
                if !refuse && max != usize::MAX {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let all: Vec<u8> = slices.iter().flat_map(|s| s.to_vec()).collect();
                let sent = all.len().min(max);
                wire.extend_from_slice(&all[..sent]);
                Ok(sent)
            });
            let mut wire = &wire[..];
            while !wire.is_empty() {
                self.client.read_tls(&mut wire).unwrap();
                self.client.process_new_packets().unwrap();
            }
            match done.unwrap() {
                Flush::Done => break,
                Flush::Blocked => self.output.on_writable(),
            }
        }
        assert!(self.server.is_flushed() && self.output.is_empty());
    }

    /// Plain bytes that reached the client.
    fn client_reads(&mut self) -> Vec<u8> {
        let mut plain = vec![0; 1 << 20];
        let read = self.client.reader().read(&mut plain).unwrap();
        plain.truncate(read);
        plain
    }
}

#[test]
fn tls_is_understood_whatever_the_pieces() {
    let mut pair = Pair::new();
    let info = pair.server.tls().expect("established");
    assert_eq!(
        (info.version, info.cipher_suite.as_str(), &info.common_name),
        ("TLS1.3", "TLS_AES_256_GCM_SHA384", &None)
    );
    for step in [1, 2, 7, 1000] {
        pair.client.writer().write_all(&[5; 3000]).unwrap();
        let sent = pair.client_bytes();
        let mut plain = Vec::new();
        for piece in sent.chunks(step) {
            let (part, end) = pair.serve(piece);
            assert_eq!(end, Decoded::Dry);
            plain.extend(part);
        }
        assert_eq!(plain, [5; 3000], "pieces of {step}");
    }
}

#[test]
fn a_socket_may_take_as_little_as_it_likes() {
    for max in [1, 10, 20_000, usize::MAX] {
        let mut pair = Pair::new();
        for n in 0..100_u8 {
            pair.output.push(vec![n; 20].into());
        }
        pair.output.with_tail(|tail| tail.extend_from_slice(b"end"));
        pair.flush(false, max);
        let mut expected: Vec<u8> = (0..100_u8).flat_map(|n| [n; 20]).collect();
        expected.extend_from_slice(b"end");
        assert_eq!(pair.client_reads(), expected, "{max} at a time");
    }
}

#[test]
fn compression_goes_inside_tls() {
    let mut pair = Pair::new();
    pair.server.plan(Upgrades {
        tls: None,
        compression: Some(Compression::Deflate(1)),
    });
    // What was decrypted before is the beginning of the compressed stream.
    let mut stream = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    stream.write_all(&b"command".repeat(100)).unwrap();
    stream.flush().unwrap();
    let compressed = stream.get_ref().clone();
    let (early, late) = compressed.split_at(5);
    let begun = pair.server.begin_compression(BytesMut::from(early));
    assert_eq!(begun, Some(Compression::Deflate(1)));
    pair.client.writer().write_all(late).unwrap();
    let sent = pair.client_bytes();
    assert_eq!(pair.serve(&sent).0, b"command".repeat(100));
    pair.output.push(vec![b'x'; 600_000].into());
    pair.flush(false, 50_000);
    let mut plain = Vec::new();
    let read = pair.client_reads();
    flate2::read::DeflateDecoder::new(&read[..])
        .read_to_end(&mut plain)
        .unwrap_err();
    assert_eq!(plain.len(), 600_000);
}

#[test]
fn both_sides_may_end_their_stream() {
    let mut pair = Pair::new();
    pair.client.writer().write_all(b"last").unwrap();
    pair.client.send_close_notify();
    let sent = pair.client_bytes();
    assert_eq!(pair.serve(&sent), (b"last".to_vec(), Decoded::End));
    // The other half is still open.
    pair.output.push(vec![b'a'; 10].into());
    pair.flush(true, 7);
    assert_eq!(pair.client_reads(), [b'a'; 10]);
    assert_eq!(pair.client_reads(), b"", "the end, as the server said it");
    pair.flush(true, 7);
}

#[test]
fn what_is_no_handshake_is_told_apart_from_a_bad_one() {
    let (server, _) = configs();
    let refused = |bytes: &[u8]| {
        let mut transport = Transport::default();
        transport.plan(Upgrades {
            tls: Some(Arc::clone(&server)),
            compression: None,
        });
        transport.begin_tls(BytesMut::from(bytes)).unwrap();
        let error = transport.decode(&mut BytesMut::new(), 1000).unwrap_err();
        (error, transport.abandon())
    };
    assert_eq!(refused(b"NOP\n"), (LayerError::NotTls, Vec::new()));
    let (error, alert) = refused(b"\x16\x03\x01\x00\x04\xff\0\0\0");
    assert!(matches!(error, LayerError::Tls(_)), "{error}");
    assert_eq!(alert.first(), Some(&21), "an alert");
}

#[test]
fn a_record_that_was_tampered_with_ends_it_with_an_alert() {
    let mut pair = Pair::new();
    pair.client.writer().write_all(b"command").unwrap();
    let mut sent = pair.client_bytes();
    let last = sent.len() - 1;
    sent[last] ^= 1;
    pair.server.receive(&sent);
    let error = pair.server.decode(&mut BytesMut::new(), 1000).unwrap_err();
    assert!(matches!(error, LayerError::Tls(_)), "{error}");
    pair.output.push(vec![b'x'; 10].into());
    let mut wire = Vec::new();
    let flushed = pair.server.flush(&mut pair.output, true, |slices| {
        let before = wire.len();
        slices
            .iter()
            .for_each(|slice| wire.extend_from_slice(slice));
        Ok(wire.len() - before)
    });
    assert_eq!(flushed.unwrap(), Flush::Done);
    pair.client.read_tls(&mut &wire[..]).unwrap();
    let error = pair.client.process_new_packets().unwrap_err();
    assert_eq!(
        error,
        rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac)
    );
}

#[test]
fn decoding_waits_for_room_and_encoding_for_the_socket() {
    for compression in CODECS {
        let mut pair = Pair::new();
        if compression.is_some() {
            pair.server.plan(Upgrades {
                tls: None,
                compression,
            });
            pair.server.begin_compression(BytesMut::new());
        }
        pair.output.push(vec![b'x'; 3 << 20].into());
        let mut taken = 0;
        let blocked = pair.server.flush(&mut pair.output, false, |slices| {
            if taken > 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            taken += slices[0].len().min(100);
            Ok(taken)
        });
        assert_eq!(blocked.unwrap(), Flush::Blocked);
        assert_eq!(
            pair.output.len(),
            (3 << 20) - ENCODE_BYTES_MAX,
            "{compression:?}"
        );
    }
    let mut pair = Pair::new();
    for _ in 0..30 {
        pair.client.writer().write_all(&[1; 16_000]).unwrap();
        let sent = pair.client_bytes();
        pair.server.receive(&sent);
    }
    assert!(!pair.server.has_room());
    let mut plain = BytesMut::new();
    assert_eq!(
        pair.server.decode(&mut plain, 20_000).unwrap(),
        Decoded::Full
    );
    assert!((20_000..20_000 + (16 << 10)).contains(&plain.len()));
    assert_eq!(
        pair.server.decode(&mut plain, usize::MAX).unwrap(),
        Decoded::Dry
    );
    assert_eq!(plain.len(), 30 * 16_000);
}
