//! Compression of a connection, as pure steps over buffers.
//!
//! - A decoder yields at most [`STEP_BYTES`] per step, so that a few bytes from the wire cannot turn
//!   into a flood: what it yields is consumed before the next step.
//! - An encoder flushes with every call: the peer can read all that was encoded.

use std::io::{self, Read as _, Write as _};

use bytes::{Buf as _, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use snap::read::FrameDecoder;
use snap::write::FrameEncoder;

/// Bytes that one step of a decoder yields at most; a snappy chunk has no more either.
pub(super) const STEP_BYTES: usize = 64 * 1024;

/// Wire to plain.
#[derive(Debug)]
pub(super) enum Decoder {
    Deflate {
        stream: Decompress,
        scratch: Vec<u8>,
    },
    Snappy(Box<FrameDecoder<Chunk>>),
}

/// The chunk that the snappy decoder reads next. It is given whole chunks only, because it cannot go
/// on after half of one.
#[derive(Debug, Default)]
pub(super) struct Chunk(Bytes);

impl io::Read for Chunk {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = out.len().min(self.0.len());
        self.0.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}

/// Longest snappy chunk that the decoder takes, with room to spare: 64 KiB, compressed badly.
const CHUNK_BYTES_MAX: usize = 80 * 1024;
/// Chunk type (1) and length (3, little-endian).
const CHUNK_HEADER_LEN: usize = 4;

impl Decoder {
    pub(super) fn deflate() -> Self {
        Self::Deflate {
            stream: Decompress::new(false),
            scratch: vec![0; STEP_BYTES],
        }
    }

    pub(super) fn snappy() -> Self {
        Self::Snappy(Box::new(FrameDecoder::new(Chunk::default())))
    }

    /// Moves on, from `wire` to `plain`; says whether `plain` grew. If not, more of the wire is needed.
    pub(super) fn step(&mut self, wire: &mut BytesMut, plain: &mut BytesMut) -> io::Result<bool> {
        match self {
            Self::Deflate { stream, scratch } => inflate(stream, scratch, wire, plain),
            Self::Snappy(decoder) => unsnap(decoder, wire, plain),
        }
    }
}

fn inflate(
    stream: &mut Decompress,
    scratch: &mut [u8],
    wire: &mut BytesMut,
    plain: &mut BytesMut,
) -> io::Result<bool> {
    let (read, written) = (stream.total_in(), stream.total_out());
    let status = stream
        .decompress(wire, scratch, FlushDecompress::None)
        .map_err(io::Error::other)?;
    wire.advance(delta(stream.total_in(), read));
    let count = delta(stream.total_out(), written);
    plain.extend_from_slice(&scratch[..count]);
    if status == Status::StreamEnd && count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(count > 0)
}

fn delta(now: u64, before: u64) -> usize {
    usize::try_from(now - before).expect("within a buffer")
}

fn unsnap(
    decoder: &mut FrameDecoder<Chunk>,
    wire: &mut BytesMut,
    plain: &mut BytesMut,
) -> io::Result<bool> {
    let before = plain.len();
    while plain.len() == before {
        let Some([_, l0, l1, l2]) = wire.first_chunk::<CHUNK_HEADER_LEN>() else {
            return Ok(false);
        };
        let len = u32::from_le_bytes([*l0, *l1, *l2, 0]) as usize;
        let whole = if len > CHUNK_BYTES_MAX {
            // The decoder refuses it by its header: no need to wait for the rest.
            CHUNK_HEADER_LEN
        } else {
            CHUNK_HEADER_LEN + len
        };
        if wire.len() < whole {
            return Ok(false);
        }
        decoder.get_mut().0 = wire.split_to(whole).freeze();
        plain.reserve(STEP_BYTES);
        let mut scratch = [0; 8 * 1024];
        loop {
            match decoder.read(&mut scratch)? {
                0 => break,
                count => plain.extend_from_slice(&scratch[..count]),
            }
        }
    }
    Ok(true)
}

/// Plain to wire.
#[derive(Debug)]
pub(super) enum Encoder {
    Deflate(Compress),
    Snappy(Box<FrameEncoder<Vec<u8>>>),
}

impl Encoder {
    /// Of level 1 to 9.
    pub(super) fn deflate(level: u8) -> Self {
        Self::Deflate(Compress::new(Compression::new(level.into()), false))
    }

    pub(super) fn snappy() -> Self {
        Self::Snappy(Box::new(FrameEncoder::new(Vec::new())))
    }

    /// Appends all of `plain` to `wire`, compressed and flushed.
    pub(super) fn encode(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Deflate(stream) => deflate(stream, plain, wire),
            Self::Snappy(encoder) => {
                encoder.write_all(plain)?;
                encoder.flush()?;
                wire.append(encoder.get_mut());
                Ok(())
            }
        }
    }
}

fn deflate(stream: &mut Compress, mut plain: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
    loop {
        wire.reserve(plain.len() / 2 + 1024);
        let read = stream.total_in();
        stream
            .compress_vec(plain, wire, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        plain = &plain[delta(stream.total_in(), read)..];
        // Room left over means that there was nothing more to say.
        if plain.is_empty() && wire.len() < wire.capacity() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair = fn() -> (Encoder, Decoder);

    const PAIRS: [Pair; 4] = [
        || (Encoder::deflate(1), Decoder::deflate()),
        || (Encoder::deflate(6), Decoder::deflate()),
        || (Encoder::deflate(9), Decoder::deflate()),
        || (Encoder::snappy(), Decoder::snappy()),
    ];

    fn noise(len: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        std::iter::repeat_with(|| random.u8(..)).take(len).collect()
    }

    fn decode_all(decoder: &mut Decoder, wire: &mut BytesMut, plain: &mut BytesMut) {
        while decoder.step(wire, plain).unwrap() {}
    }

    #[test]
    fn what_was_encoded_can_be_read_after_every_call() {
        for pair in PAIRS {
            let (mut encoder, mut decoder) = pair();
            let mut received = BytesMut::new();
            for piece in [noise(10), vec![0; 300_000], noise(200_000), noise(1)] {
                let mut wire = Vec::new();
                encoder.encode(&piece, &mut wire).unwrap();
                let mut plain = BytesMut::new();
                received.extend_from_slice(&wire);
                decode_all(&mut decoder, &mut received, &mut plain);
                assert_eq!(plain, piece);
                assert!(received.is_empty());
            }
        }
    }

    #[test]
    fn cuts_do_not_matter() {
        for pair in PAIRS {
            let (mut encoder, mut decoder) = pair();
            let mut wire = Vec::new();
            let text = noise(1000);
            encoder.encode(&text, &mut wire).unwrap();
            let (mut received, mut plain) = (BytesMut::new(), BytesMut::new());
            for byte in wire {
                received.extend_from_slice(&[byte]);
                decode_all(&mut decoder, &mut received, &mut plain);
            }
            assert_eq!(plain, text);
        }
    }

    #[test]
    fn a_bomb_goes_off_in_steps() {
        for pair in PAIRS {
            let (mut encoder, mut decoder) = pair();
            let mut wire = Vec::new();
            encoder.encode(&vec![0; 8 << 20], &mut wire).unwrap();
            let mut received = BytesMut::from(&wire[..]);
            let (mut plain, mut total) = (BytesMut::new(), 0);
            while decoder.step(&mut received, &mut plain).unwrap() {
                assert!(plain.len() <= STEP_BYTES);
                total += plain.len();
                plain.clear();
            }
            assert_eq!(total, 8 << 20);
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for pair in PAIRS {
            let (_, mut decoder) = pair();
            let mut garbage = BytesMut::from(&[0xff; 64][..]);
            let mut plain = BytesMut::new();
            assert!(decoder.step(&mut garbage, &mut plain).is_err());
        }
        let mut huge = BytesMut::from(&[0x00, 0xff, 0xff, 0xff][..]);
        let mut plain = BytesMut::new();
        assert!(Decoder::snappy().step(&mut huge, &mut plain).is_err());
    }
}
