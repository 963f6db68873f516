//! Fuzz target of this crate; `nsq-fuzz` says how it is run.

use std::io::{self, Read as _};

use bytes::BytesMut;
use nsq_fuzz::{Target, pieces};

use super::codec::{Decoder, Encoder, STEP_BYTES};

/// What a server sends compressed, and what is compressed for it.
pub const CODEC: Target = Target {
    name: "codec",
    run,
    seeds,
};

/// Plain bytes after which an input is a bomb and has been seen enough of.
const PLAIN_MAX: usize = 256 * 1024;

/// Whether it is snappy and whether it is encoded first (1), the seed of the cuts (2), then bytes.
fn run(input: &[u8]) {
    let Some((&[mode, c0, c1], bytes)) = input.split_first_chunk() else {
        return;
    };
    let (is_snappy, is_plain) = (mode & 1 == 1, mode & 2 == 2);
    let seed = u16::from_le_bytes([c0, c1]);
    if is_plain {
        return round_trip(is_snappy, mode >> 2, seed, bytes);
    }
    let (whole, whole_ends) = decoded([bytes].into_iter(), is_snappy);
    let (parts, parts_ends) = decoded(pieces(bytes, seed), is_snappy);
    let common = whole.len().min(parts.len());
    assert!(
        whole[..common] == parts[..common],
        "cuts change what is read"
    );
    if whole.len().max(parts.len()) <= PLAIN_MAX {
        assert_eq!(parts_ends, whole_ends);
        if !whole_ends {
            assert_eq!(parts.len(), whole.len());
            let theirs = library(bytes, is_snappy);
            assert!(whole.starts_with(&theirs), "read differently");
        }
    }
}

fn decoder(is_snappy: bool) -> Decoder {
    if is_snappy {
        Decoder::snappy()
    } else {
        Decoder::deflate()
    }
}

/// The plain bytes, and whether the stream is over or was refused.
fn decoded<'a>(pieces: impl Iterator<Item = &'a [u8]>, is_snappy: bool) -> (Vec<u8>, bool) {
    let mut decoder = decoder(is_snappy);
    let (mut wire, mut plain) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        wire.extend_from_slice(piece);
        loop {
            let mut step = BytesMut::new();
            let grew = decoder.step(&mut wire, &mut step);
            assert!(step.len() <= STEP_BYTES, "a step is bounded");
            match grew {
                Err(_) => return (plain, true),
                Ok(grew) => {
                    assert_eq!(grew, !step.is_empty());
                    plain.extend_from_slice(&step);
                    if plain.len() > PLAIN_MAX {
                        return (plain, false);
                    }
                    if !grew {
                        break;
                    }
                }
            }
        }
    }
    (plain, false)
}

/// What a library reads before it stops.
fn library(wire: &[u8], is_snappy: bool) -> Vec<u8> {
    let mut plain = Vec::new();
    let source: Box<dyn io::Read + '_> = if is_snappy {
        Box::new(snap::read::FrameDecoder::new(wire))
    } else {
        Box::new(flate2::read::DeflateDecoder::new(wire))
    };
    // An end in the middle of something is no error here.
    drop(source.take(2 * PLAIN_MAX as u64).read_to_end(&mut plain));
    plain
}

/// What is encoded can be read after every call.
fn round_trip(is_snappy: bool, control: u8, seed: u16, plain: &[u8]) {
    let plain = plain.repeat(1 << (control & 7));
    let plain = &plain[..plain.len().min(16 * 1024)];
    let mut encoder = if is_snappy {
        Encoder::snappy()
    } else {
        Encoder::deflate(1 + control % 9)
    };
    let mut decoder = decoder(is_snappy);
    let (mut wire, mut read, mut sent) = (BytesMut::new(), BytesMut::new(), 0);
    for piece in pieces(plain, seed) {
        let mut encoded = Vec::new();
        encoder.encode(piece, &mut encoded).expect("into memory");
        wire.extend_from_slice(&encoded);
        while decoder.step(&mut wire, &mut read).expect("our own stream") {}
        sent += piece.len();
        assert_eq!(
            (read.len(), wire.len()),
            (sent, 0),
            "a flush shows all that was sent"
        );
    }
    assert!(read == plain);
}

/// Both codecs in both directions, short and long; a bomb, a stream that ends, padding.
fn seeds() -> Vec<Vec<u8>> {
    let encoded = |is_snappy: bool, plain: &[u8]| {
        let mut encoder = if is_snappy {
            Encoder::snappy()
        } else {
            Encoder::deflate(6)
        };
        let mut wire = Vec::new();
        encoder.encode(plain, &mut wire).expect("into memory");
        wire
    };
    let text = b"\0\0\0\x06\0\0\0\0OK".repeat(30);
    let mut seeds = Vec::new();
    for mode in [0_u8, 1] {
        let wire = encoded(mode == 1, &text);
        let ended = [&wire[..], b"\x03\0"].concat();
        let padded = [&wire[..], b"\xfe\x05\0\0\0\0\0\0\0\x80\0\0\0"].concat();
        let bomb = encoded(mode == 1, &[0; 600_000]);
        for wire in [&wire, &ended, &padded, &bomb] {
            seeds.push([&[mode, 1, 0], &wire[..]].concat());
        }
        seeds.push([&[mode | 2, 9, 0], &text[..]].concat());
        seeds.push([&[mode | 2 | 7 << 2, 9, 2], &text[..]].concat());
    }
    seeds
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_and_old_findings_pass() {
        nsq_fuzz::replay(&super::CODEC);
    }
}
