//! Raw DEFLATE (RFC 1951), in both directions (spec nsqd.md §2.6.4).
//!
//! What is sent ends with a sync flush, so that the peer sees all of it. What is received is
//! inflated only as far as there is room for it: a small input that grows a thousandfold waits in
//! its compressed form.

use std::io::IoSlice;

use bytes::{Buf, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Decoded, LayerError};

/// Most that is inflated or deflated in one step.
const STEP_MAX: usize = 32 * 1024;
/// Least room for a step: the marker of a sync flush and a little more.
const STEP_MIN: usize = 512;

/// Receives a stream; about 48 KiB with its window.
#[derive(Debug)]
pub(super) struct Decoder {
    stream: Decompress,
    /// The last step filled its room: there may be more without further input.
    pending: bool,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            stream: Decompress::new(false),
            pending: false,
        }
    }

    /// Appends what `from` inflates to, about `room` bytes at most.
    pub(super) fn decode(
        &mut self,
        from: &mut BytesMut,
        to: &mut BytesMut,
        room: usize,
    ) -> Result<Decoded, LayerError> {
        let begin = to.len();
        while to.len() - begin < room {
            if from.is_empty() && !self.pending {
                return Ok(Decoded::Dry);
            }
            // Room to inflate into must be cleared first; not much of it for a short command.
            let step = (from.len() * 4).clamp(STEP_MIN, STEP_MAX);
            let old = to.len();
            to.resize(old + step, 0);
            let (read, written) = (self.stream.total_in(), self.stream.total_out());
            let outcome = self
                .stream
                .decompress(from, &mut to[old..], FlushDecompress::None);
            let read = count(self.stream.total_in() - read);
            let written = count(self.stream.total_out() - written);
            from.advance(read);
            to.truncate(old + written);
            self.pending = written == step;
            match outcome {
                Ok(Status::StreamEnd) => return Ok(Decoded::End),
                // Nothing could be done: what is there is the beginning of something.
                Ok(_) if read == 0 && written == 0 => return Ok(Decoded::Dry),
                Ok(Status::Ok | Status::BufError) => {}
                Err(_) => return Err(LayerError::Deflate),
            }
        }
        Ok(Decoded::Full)
    }
}

/// Sends a stream; about 270 KiB with its window and hash chains.
#[derive(Debug)]
pub(super) struct Encoder {
    stream: Compress,
}

impl Encoder {
    /// `level` is 1 to 9.
    pub(super) fn new(level: u8) -> Self {
        Self {
            stream: Compress::new(Compression::new(level.into()), false),
        }
    }

    /// Appends `plain` to the stream, with a sync flush behind it.
    pub(super) fn encode(&mut self, plain: &[IoSlice<'_>], wire: &mut Vec<u8>) {
        for slice in plain {
            self.run(slice, wire, FlushCompress::None);
        }
        self.run(&[], wire, FlushCompress::Sync);
    }

    /// Repeats one step until it has taken all and says, by leaving room, that it is done.
    fn run(&mut self, mut plain: &[u8], wire: &mut Vec<u8>, flush: FlushCompress) {
        let is_flush = matches!(flush, FlushCompress::Sync);
        loop {
            wire.reserve(plain.len().clamp(STEP_MIN, STEP_MAX));
            let before = self.stream.total_in();
            self.stream
                .compress_vec(plain, wire, flush)
                .expect("deflating fails only after the end of a stream");
            plain = &plain[count(self.stream.total_in() - before)..];
            let left_room = wire.len() < wire.capacity();
            if plain.is_empty() && (left_room || !is_flush) {
                return;
            }
        }
    }
}

/// Bytes of one step.
fn count(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a step is short")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn plain() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..50_000_u32)
            .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
            .collect();
        bytes.extend_from_slice(&[7; 300_000]);
        bytes
    }

    fn encoded(level: u8, slices: &[&[u8]]) -> Vec<u8> {
        let slices: Vec<IoSlice<'_>> = slices.iter().map(|s| IoSlice::new(s)).collect();
        let mut wire = Vec::new();
        Encoder::new(level).encode(&slices, &mut wire);
        wire
    }

    #[test]
    fn every_level_is_read_whatever_the_pieces() {
        let plain = plain();
        for level in 1..=9 {
            let wire = encoded(level, &[&plain[..1], &plain[1..1000], &plain[1000..]]);
            assert!(wire.ends_with(b"\0\0\xff\xff"), "a sync flush");
            for step in [1, 3, 1000, wire.len()] {
                let mut decoder = Decoder::new();
                let (mut from, mut to) = (BytesMut::new(), BytesMut::new());
                for part in wire.chunks(step) {
                    from.extend_from_slice(part);
                    let end = decoder.decode(&mut from, &mut to, usize::MAX).unwrap();
                    assert_eq!(end, Decoded::Dry);
                }
                assert!(to == plain, "level {level} in pieces of {step}");
            }
        }
    }

    #[test]
    fn each_flush_shows_all_that_was_sent() {
        let mut encoder = Encoder::new(6);
        let mut decoder = Decoder::new();
        for n in 0..200_usize {
            let message = vec![u8::try_from(n).unwrap(); n * 37 % 4000];
            let mut wire = Vec::new();
            encoder.encode(&[IoSlice::new(&message)], &mut wire);
            let (mut from, mut to) = (BytesMut::from(&wire[..]), BytesMut::new());
            let end = decoder.decode(&mut from, &mut to, usize::MAX).unwrap();
            assert_eq!((end, &to[..]), (Decoded::Dry, &message[..]));
        }
    }

    #[test]
    fn a_bomb_is_inflated_no_further_than_there_is_room() {
        let mut bomb = Vec::new();
        flate2::read::DeflateEncoder::new(std::io::repeat(0).take(64 << 20), Compression::best())
            .read_to_end(&mut bomb)
            .unwrap();
        assert!(bomb.len() < 100_000);
        let mut decoder = Decoder::new();
        let mut from = BytesMut::from(&bomb[..]);
        let mut total = 0;
        loop {
            let mut to = BytesMut::new();
            let end = decoder.decode(&mut from, &mut to, 10_000).unwrap();
            assert!(to.len() <= 10_000 + STEP_MAX);
            total += to.len();
            if end == Decoded::End {
                break;
            }
        }
        assert_eq!(total, 64 << 20);
    }

    #[test]
    fn garbage_is_refused() {
        let mut to = BytesMut::new();
        let mut from = BytesMut::from(&b"PUB topic\n\0\0\0\x01x PUB topic\n"[..]);
        let error = Decoder::new().decode(&mut from, &mut to, 1000).unwrap_err();
        assert_eq!(error, LayerError::Deflate);
    }
}
