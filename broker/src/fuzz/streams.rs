//! The compressions, against the libraries that clients use.

use std::io::{self, Read as _, Write as _};

use bytes::{Bytes, BytesMut};
use flate2::read::DeflateDecoder;
use nsq_fuzz::pieces;
use snap::read::FrameDecoder;
use snap::write::FrameEncoder;

use crate::conn::{Compression, Decoded, Flush, Output, Transport, Upgrades};

/// Plain bytes after which an input is a bomb and has been seen enough of.
const PLAIN_MAX: usize = 256 * 1024;
/// Most that a decoder gives beyond the room that it has: a block of snappy.
const STEP_MAX: usize = 64 * 1024;
/// Longest part of what is compressed that is flushed in pieces.
const CUT_MAX: usize = 256;
/// The seed of the cuts (2), the room of a step (1), then the stream.
const CONTROL_LEN: usize = 3;

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It did not, or in the middle of something.
    Dry,
    /// By itself.
    Ended,
    Refused,
    Bomb,
}

/// A transport with this compression and nothing else.
fn begun(compression: Compression) -> Transport {
    let mut transport = Transport::default();
    transport.plan(Upgrades {
        tls: None,
        compression: Some(compression),
    });
    assert_eq!(
        transport.begin_compression(BytesMut::new()),
        Some(compression)
    );
    transport
}

/// Receives as a shard does: in pieces, and as far as there is room each time. What comes out
/// before a refusal is not compared, so it is left out.
fn receive<'a>(
    transport: &mut Transport,
    pieces: impl Iterator<Item = &'a [u8]>,
    room: usize,
    plain: &mut Vec<u8>,
) -> End {
    for piece in pieces {
        transport.receive(piece);
        loop {
            let mut step = BytesMut::new();
            let decoded = transport.decode(&mut step, room);
            assert!(step.len() <= room.saturating_add(STEP_MAX));
            match decoded {
                Err(_) => return End::Refused,
                Ok(decoded) => {
                    plain.extend_from_slice(&step);
                    match decoded {
                        Decoded::Dry => break,
                        Decoded::End => return End::Ended,
                        Decoded::Full => assert!(step.len() >= room, "room was left"),
                    }
                }
            }
            if plain.len() > PLAIN_MAX {
                return End::Bomb;
            }
        }
    }
    End::Dry
}

/// Decodes in pieces with little room, and at once; it must be the same.
fn both_ways(input: &[u8], compression: Compression) -> Option<(&[u8], Vec<u8>, End)> {
    let (&[c0, c1, room], wire) = input.split_first_chunk::<CONTROL_LEN>()?;
    let mut whole = Vec::new();
    let end = receive(
        &mut begun(compression),
        [wire].into_iter(),
        STEP_MAX,
        &mut whole,
    );
    let mut parts = Vec::new();
    let cuts = pieces(wire, u16::from_le_bytes([c0, c1]));
    let room = 1 << (room % 17);
    let parts_end = receive(&mut begun(compression), cuts, room, &mut parts);
    let common = whole.len().min(parts.len());
    assert!(
        whole[..common] == parts[..common],
        "cuts change what is read"
    );
    if ![end, parts_end].contains(&End::Bomb) {
        assert_eq!(parts_end, end);
        assert!(end == End::Refused || parts.len() == whole.len());
    }
    Some((wire, whole, end))
}

/// What a library makes of it: the plain bytes, and why it stopped.
fn library(reader: impl io::Read) -> (Vec<u8>, Option<io::Error>) {
    let mut plain = Vec::new();
    let mut reader = reader.take(2 * PLAIN_MAX as u64);
    let error = reader.read_to_end(&mut plain).err();
    (plain, error)
}

/// The library buffers what it skips, and refuses more than a block of it.
fn is_long_padding(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(snap::Error::UnsupportedChunkLength { .. }))
}

pub(super) fn snappy(input: &[u8]) {
    let Some((wire, plain, end)) = both_ways(input, Compression::Snappy) else {
        return;
    };
    let (theirs, error) = library(FrameDecoder::new(wire));
    if error.as_ref().is_some_and(is_long_padding) {
        let common = plain.len().min(theirs.len());
        assert!(end != End::Dry || common == theirs.len());
        assert!(end == End::Refused || plain[..common] == theirs[..common]);
        return;
    }
    match end {
        End::Dry => {
            let kind = error.map(|error| error.kind());
            assert!(
                matches!(kind, None | Some(io::ErrorKind::UnexpectedEof)),
                "{kind:?}"
            );
            assert!(theirs == plain, "read differently");
        }
        End::Refused => assert!(error.is_some(), "only we refuse it"),
        End::Bomb => assert!(theirs.starts_with(&plain[..PLAIN_MAX])),
        End::Ended => panic!("snappy has no end"),
    }
}

pub(super) fn deflate(input: &[u8]) {
    let Some((wire, plain, end)) = both_ways(input, Compression::Deflate(6)) else {
        return;
    };
    let (theirs, error) = library(DeflateDecoder::new(wire));
    match end {
        End::Ended => assert!(error.is_none() && theirs == plain, "read differently"),
        End::Dry => assert!(plain.starts_with(&theirs), "read differently"),
        End::Refused => assert!(error.is_some(), "only we refuse it"),
        End::Bomb => assert!(theirs.starts_with(&plain[..PLAIN_MAX])),
    }
}

/// Text that shrinks, noise that does not, and a stretch longer than any window.
fn plain() -> Vec<u8> {
    let mut plain = b"PUB topic\n\0\0\0\x05hello".repeat(9);
    plain.extend((1..=25_u32).flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes()));
    plain.extend([7; 70_000]);
    plain
}

fn with_controls(wire: &[u8]) -> Vec<Vec<u8>> {
    let controls: [&[u8; CONTROL_LEN]; 3] = [b"\x01\0\x02", b"\0\0\x0a", b"\x09\x01\x10"];
    controls
        .iter()
        .map(|control| [&control[..], wire].concat())
        .collect()
}

/// Streams of the library: one with all chunks, a cut one, one with padding, a bomb.
pub(super) fn snappy_seeds() -> Vec<Vec<u8>> {
    let encoded = |plain: &[u8]| {
        let mut encoder = FrameEncoder::new(Vec::new());
        encoder.write_all(plain).expect("into memory");
        encoder.into_inner().expect("into memory")
    };
    let all = encoded(&plain());
    let short = encoded(b"PUB t\n\0\0\0\x01x");
    let padded = [&short[..], b"\xfe\x05\0\0\0\0\0\0\0\x80\0\0\0", &short[..]].concat();
    let bomb = encoded(&[0; 600_000]);
    let wires = [&all[..], &all[..all.len() / 2], &short, &padded, &bomb];
    wires.iter().flat_map(|wire| with_controls(wire)).collect()
}

/// Streams of the library at each kind of level, with their ends and without, and a bomb.
pub(super) fn deflate_seeds() -> Vec<Vec<u8>> {
    let encoded = |plain: &[u8], level| {
        let level = flate2::Compression::new(level);
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
        encoder.write_all(plain).expect("into memory");
        encoder.flush().expect("into memory");
        let open = encoder.get_ref().clone();
        (open, encoder.finish().expect("into memory"))
    };
    let mut seeds = Vec::new();
    for level in [0, 1, 6, 9] {
        let (open, ended) = encoded(&plain()[..2000], level);
        seeds.extend(with_controls(&open));
        seeds.extend(with_controls(&ended));
    }
    seeds.extend(with_controls(&encoded(&[0; 600_000], 9).1));
    seeds
}

/// The compression (1: 0 is snappy, else a level), how often the plain bytes are repeated (1), how
/// much the socket takes at a time (1), the seed of the cuts (2), then the plain bytes.
pub(super) fn compression(input: &[u8]) {
    let Some((&[kind, times, takes, c0, c1], plain)) = input.split_first_chunk() else {
        return;
    };
    let compression = match kind % 10 {
        0 => Compression::Snappy,
        level => Compression::Deflate(level),
    };
    let plain = plain.repeat(1 << (times % 8));
    let plain = &plain[..plain.len().min(128 * 1024)];
    let (mut sender, mut receiver) = (begun(compression), begun(compression));
    let (mut output, mut read, mut sent) = (Output::default(), Vec::new(), 0);
    // Many small flushes show no more than some do.
    let (cut, rest) = plain.split_at(plain.len().min(CUT_MAX));
    let cuts = pieces(cut, u16::from_le_bytes([c0, c1]));
    for piece in cuts.chain([rest]) {
        if piece.len().is_multiple_of(3) {
            output.with_tail(|tail| tail.extend_from_slice(piece));
        } else {
            output.push(Bytes::copy_from_slice(piece));
        }
        sent += piece.len();
        let wire = flushed(&mut sender, &mut output, 1 << (takes % 18));
        let end = receive(&mut receiver, [&wire[..]].into_iter(), STEP_MAX, &mut read);
        assert_eq!(
            (end, read.len()),
            (End::Dry, sent),
            "a flush shows all that was sent"
        );
    }
    assert!(read == plain);
}

/// What a socket gets that takes `max` bytes at a time and nothing every other time.
pub(super) fn flushed(transport: &mut Transport, output: &mut Output, max: usize) -> Vec<u8> {
    let (mut wire, mut refuses) = (Vec::new(), false);
    loop {
        let flush = transport.flush(output, false, |slices| {
            refuses = !refuses;
            if refuses {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let all: Vec<u8> = slices
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .collect();
            let taken = all.len().min(max);
            wire.extend_from_slice(&all[..taken]);
            Ok(taken)
        });
        match flush.expect("the socket only refuses") {
            Flush::Done => break,
            Flush::Blocked => output.on_writable(),
        }
    }
    assert!(transport.is_flushed() && output.is_empty());
    wire
}

/// Each kind of level, short and long.
pub(super) fn compression_seeds() -> Vec<Vec<u8>> {
    let kinds = [0_u8, 1, 3, 6, 9];
    let seed = |kind: u8, times: u8| {
        let control = [kind, times, 11, 7, 3];
        [&control[..], &plain()[..400]].concat()
    };
    kinds
        .iter()
        .flat_map(|&kind| [seed(kind, 0), seed(kind, 7)])
        .collect()
}
