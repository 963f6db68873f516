//! The snappy framing format, in both directions (spec nsqd.md §2.6.4).
//!
//! A stream is a run of chunks `[kind u8 | length u24 LE | body]`; the first one is the stream
//! identifier. A data chunk is `[masked CRC-32C of the plain bytes u32 LE | block]` and holds at most
//! 64 KiB of plain bytes, which bounds what a chunk may claim to be. The blocks are `snap`'s; its
//! own framing reads from a blocking source, and ours is given bytes as they come.

use std::io::IoSlice;

use bytes::{Buf, BytesMut};
use snap::raw::{self, max_compress_len};

use super::{Decoded, LayerError};

/// The first chunk of every stream.
const IDENTIFIER: &[u8; 10] = b"\xff\x06\x00\x00sNaPpY";
/// Bytes of kind and length.
const HEADER: usize = 4;
/// Bytes of the checksum in front of a block.
const CHECKSUM: usize = 4;
/// Most plain bytes of a data chunk, by the format.
const BLOCK_MAX: usize = 64 * 1024;

const COMPRESSED: u8 = 0x00;
const UNCOMPRESSED: u8 = 0x01;
/// Kinds from here on are padding and the like; the ones below that are not named are reserved.
const SKIPPABLE_MIN: u8 = 0x80;
const STREAM_IDENTIFIER: u8 = 0xff;

/// Receives a stream. Keeps nothing of it but where it is.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    blocks: raw::Decoder,
    identified: bool,
    /// Bytes of a skippable chunk that are yet to come.
    skip: usize,
}

impl Decoder {
    /// Appends plain bytes of the whole chunks in `from`, about `room` at most.
    pub(super) fn decode(
        &mut self,
        from: &mut BytesMut,
        to: &mut BytesMut,
        room: usize,
    ) -> Result<Decoded, LayerError> {
        let begin = to.len();
        loop {
            let skipped = self.skip.min(from.len());
            from.advance(skipped);
            self.skip -= skipped;
            if to.len() - begin >= room {
                return Ok(Decoded::Full);
            }
            let Some(&[kind, a, b, c]) = from.first_chunk::<HEADER>() else {
                return Ok(Decoded::Dry);
            };
            let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
            self.check(kind, length)?;
            if kind >= SKIPPABLE_MIN && kind != STREAM_IDENTIFIER {
                from.advance(HEADER);
                self.skip = length;
                continue;
            }
            let Some(chunk) = from.get(..HEADER + length) else {
                return Ok(Decoded::Dry);
            };
            if kind == STREAM_IDENTIFIER {
                if chunk != IDENTIFIER {
                    return Err(LayerError::Snappy("wrong stream identifier"));
                }
                self.identified = true;
            } else {
                self.block(kind, &chunk[HEADER..], to)?;
            }
            from.advance(HEADER + length);
        }
    }

    /// What the header alone tells, so that nothing is waited for that could not be right.
    fn check(&self, kind: u8, length: usize) -> Result<(), LayerError> {
        let max = match kind {
            COMPRESSED => CHECKSUM + max_compress_len(BLOCK_MAX),
            UNCOMPRESSED => CHECKSUM + BLOCK_MAX,
            STREAM_IDENTIFIER => IDENTIFIER.len() - HEADER,
            SKIPPABLE_MIN.. => usize::MAX,
            _ => return Err(LayerError::Snappy("reserved chunk type")),
        };
        if !self.identified && kind != STREAM_IDENTIFIER {
            return Err(LayerError::Snappy("no stream identifier"));
        }
        if length > max {
            return Err(LayerError::Snappy("chunk too long"));
        }
        Ok(())
    }

    /// Appends the plain bytes of one data chunk.
    fn block(&mut self, kind: u8, chunk: &[u8], to: &mut BytesMut) -> Result<(), LayerError> {
        let (checksum, block) = chunk
            .split_first_chunk::<CHECKSUM>()
            .ok_or(LayerError::Snappy("chunk too short"))?;
        let begin = to.len();
        if kind == UNCOMPRESSED {
            to.extend_from_slice(block);
        } else {
            let corrupt = |_| LayerError::Snappy("corrupt block");
            let length = raw::decompress_len(block).map_err(corrupt)?;
            if length > BLOCK_MAX {
                return Err(LayerError::Snappy("block too long"));
            }
            to.resize(begin + length, 0);
            let plain = &mut to[begin..];
            self.blocks.decompress(block, plain).map_err(corrupt)?;
        }
        if u32::from_le_bytes(*checksum) != masked_checksum(&to[begin..]) {
            return Err(LayerError::Snappy("wrong checksum"));
        }
        Ok(())
    }
}

/// Sends a stream. Between flushes it keeps the compressor's hash table (2 KiB, and 32 KiB more
/// after a block of over 1 KiB).
#[derive(Debug)]
pub(super) struct Encoder {
    blocks: raw::Encoder,
    identified: bool,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self {
            blocks: raw::Encoder::new(),
            identified: false,
        }
    }

    /// Appends `plain` to the stream, complete and without anything held back.
    pub(super) fn encode(&mut self, plain: &[IoSlice<'_>], wire: &mut Vec<u8>) {
        if !self.identified {
            wire.extend_from_slice(IDENTIFIER);
            self.identified = true;
        }
        // A block is compressed as a whole: what comes in small slices is gathered first.
        let mut gathered = Vec::new();
        for slice in plain {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                if gathered.is_empty() && rest.len() >= BLOCK_MAX {
                    let (block, after) = rest.split_at(BLOCK_MAX);
                    self.block(block, wire);
                    rest = after;
                    continue;
                }
                let (part, after) = rest.split_at(rest.len().min(BLOCK_MAX - gathered.len()));
                gathered.extend_from_slice(part);
                rest = after;
                if gathered.len() == BLOCK_MAX {
                    self.block(&gathered, wire);
                    gathered.clear();
                }
            }
        }
        if !gathered.is_empty() {
            self.block(&gathered, wire);
        }
    }

    fn block(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        let begin = wire.len();
        let body = begin + HEADER + CHECKSUM;
        wire.resize(body + max_compress_len(plain.len()), 0);
        let compressed = self
            .blocks
            .compress(plain, &mut wire[body..])
            .expect("there is room for the worst case");
        // As the format advises: what hardly shrinks is sent as it is.
        let kind = if compressed < plain.len() - plain.len() / 8 {
            wire.truncate(body + compressed);
            COMPRESSED
        } else {
            wire.truncate(body);
            wire.extend_from_slice(plain);
            UNCOMPRESSED
        };
        let length = u32::try_from(wire.len() - begin - HEADER).expect("a block is short");
        wire[begin] = kind;
        wire[begin + 1..begin + HEADER].copy_from_slice(&length.to_le_bytes()[..3]);
        let checksum = masked_checksum(plain).to_le_bytes();
        wire[begin + HEADER..body].copy_from_slice(&checksum);
    }
}

/// CRC-32C, rotated and shifted as the format asks.
fn masked_checksum(plain: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(plain)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn plain() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..200_000_u32)
            .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
            .collect();
        bytes.extend_from_slice(&[7; 100_000]);
        bytes
    }

    fn encoded(slices: &[&[u8]]) -> Vec<u8> {
        let slices: Vec<IoSlice<'_>> = slices.iter().map(|s| IoSlice::new(s)).collect();
        let mut wire = Vec::new();
        Encoder::new().encode(&slices, &mut wire);
        wire
    }

    fn decoded(wire: &[u8], step: usize) -> Result<Vec<u8>, LayerError> {
        let mut decoder = Decoder::default();
        let (mut from, mut to) = (BytesMut::new(), BytesMut::new());
        for part in wire.chunks(step) {
            from.extend_from_slice(part);
            assert_eq!(
                decoder.decode(&mut from, &mut to, usize::MAX)?,
                Decoded::Dry
            );
        }
        Ok(to.to_vec())
    }

    fn error(wire: &[u8]) -> &'static str {
        match decoded(wire, wire.len().max(1)) {
            Err(LayerError::Snappy(reason)) => reason,
            other => panic!("expected an error, got {other:?}"),
        }
    }

    #[test]
    fn the_library_reads_what_is_written() {
        let plain = plain();
        for wire in [
            encoded(&[&plain]),
            encoded(&plain.chunks(1000).collect::<Vec<_>>()),
            encoded(&[&plain[..10], &plain[10..300_000], &plain[300_000..]]),
        ] {
            let mut read = Vec::new();
            snap::read::FrameDecoder::new(&wire[..])
                .read_to_end(&mut read)
                .unwrap();
            assert!(read == plain);
        }
    }

    #[test]
    fn what_the_library_writes_is_read_whatever_the_pieces() {
        let plain = plain();
        let mut writer = snap::write::FrameEncoder::new(Vec::new());
        writer.write_all(&plain).unwrap();
        let wire = writer.into_inner().unwrap();
        for step in [1, 2, 3, 5, 1000, wire.len()] {
            assert!(decoded(&wire, step).unwrap() == plain, "pieces of {step}");
        }
    }

    #[test]
    fn decoding_stops_at_its_room_and_goes_on() {
        let wire = encoded(&[&[0; 1 << 20]]);
        assert!(wire.len() < 100_000, "a bomb");
        let mut decoder = Decoder::default();
        let mut from = BytesMut::from(&wire[..]);
        let mut total = 0;
        loop {
            let mut to = BytesMut::new();
            let end = decoder.decode(&mut from, &mut to, 1000).unwrap();
            assert!(to.len() <= 1000 + BLOCK_MAX);
            total += to.len();
            if end == Decoded::Dry {
                break;
            }
        }
        assert_eq!(total, 1 << 20);
    }

    #[test]
    fn padding_is_skipped_and_an_identifier_may_come_again() {
        let mut wire = encoded(&[b"one"]);
        wire.extend_from_slice(b"\xfe\x05\x00\x00\0\0\0\0\0\x80\0\0\0");
        wire.extend_from_slice(&encoded(&[b"two"]));
        for step in 1..wire.len() {
            assert_eq!(decoded(&wire, step).unwrap(), b"onetwo");
        }
    }

    #[test]
    fn what_is_not_the_format_is_refused_at_once() {
        let good = encoded(&[&b"0123456789 0123456789 abcdefgh abcdefgh ".repeat(20)]);
        assert_eq!(error(b"PUB t\n"), "reserved chunk type");
        assert_eq!(error(&good[10..]), "no stream identifier");
        assert_eq!(error(b"\xff\x06\x00\x00snappy"), "wrong stream identifier");
        assert_eq!(error(b"\xff\xff\xff\xff"), "chunk too long");
        let after = |tail: &[u8]| error(&[IDENTIFIER, tail].concat());
        assert_eq!(after(b"\x00\xff\xff\xff"), "chunk too long");
        assert_eq!(after(b"\x01\x05\x00\x01"), "chunk too long");
        assert_eq!(after(b"\x00\x02\x00\x00ab"), "chunk too short");
        assert_eq!(after(b"\x02\x00\x00\x00"), "reserved chunk type");
        // A block of eight bytes that says it holds 2 GiB.
        assert_eq!(
            after(b"\x00\x0c\x00\x00\0\0\0\0\xff\xff\xff\xff\x07aaa"),
            "block too long"
        );
        let mut wrong = good.clone();
        // In the middle of the first literal.
        wrong[24] ^= 1;
        assert!(["wrong checksum", "corrupt block"].contains(&error(&wrong)));
        let mut wrong = good;
        wrong[14] ^= 1;
        assert_eq!(error(&wrong), "wrong checksum");
    }
}
