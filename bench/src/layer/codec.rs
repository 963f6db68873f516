//! The compressions, without a socket.
//!
//! Everything that is sent stands alone: it refers to nothing that was sent before, so commands can be
//! compressed once and sent again and again, with others between them. For snappy that is the format's nature,
//! for DEFLATE it is what a full flush does.

use std::collections::VecDeque;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use snap::read::FrameDecoder;
use snap::write::FrameEncoder;

use crate::buffer::Buffer;

/// Plain bytes of a chunk of snappy at most.
const CHUNK_PLAIN_MAX: usize = 64 << 10;
/// Kind and length of a chunk.
const CHUNK_HEADER: usize = 4;
/// Least room to compress or inflate into.
const STEP_BYTES: usize = 64 << 10;
/// Level of what is compressed while the clock runs: the generator's time is not what is measured.
const LIVE_LEVEL: u32 = 1;

/// What is asked of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// The snappy framing format.
    Snappy,
    /// DEFLATE of this level, 1 to 9.
    Deflate(u8),
}

impl FromStr for Compression {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "snappy" {
            return Ok(Self::Snappy);
        }
        let level = text.strip_prefix("deflate:");
        let level = level.context("want snappy or deflate:LEVEL")?;
        let level = level.parse().context("want deflate:LEVEL")?;
        ensure!((1..=9).contains(&level), "levels are 1 to 9");
        Ok(Self::Deflate(level))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snappy => f.write_str("snappy"),
            Self::Deflate(level) => write!(f, "deflate:{level}"),
        }
    }
}

impl Compression {
    /// Compresses as thoroughly as the broker is asked to.
    ///
    /// # Errors
    /// Never, as long as there is memory.
    pub(crate) fn compress(self, plain: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut encoder = match self {
            Self::Snappy => Encoder::snappy(),
            Self::Deflate(level) => Encoder::deflate(level.into()),
        };
        encoder.encode(plain, &mut out)?;
        Ok(out)
    }
}

/// A compression in place.
#[derive(Debug)]
pub(super) struct Codec {
    decoder: Decoder,
    encoder: Encoder,
}

impl Codec {
    pub(super) fn new(compression: Compression) -> Self {
        let (decoder, encoder) = match compression {
            Compression::Snappy => (
                Decoder::Snappy(Box::new(FrameDecoder::new(VecDeque::new()))),
                Encoder::snappy(),
            ),
            Compression::Deflate(_) => (
                Decoder::Deflate(Decompress::new(false)),
                Encoder::deflate(LIVE_LEVEL),
            ),
        };
        Self { decoder, encoder }
    }

    /// Appends what is whole in `from`.
    pub(super) fn decode(&mut self, from: &mut Buffer, to: &mut Buffer) -> Result<()> {
        match &mut self.decoder {
            Decoder::Snappy(decoder) => unsnap(decoder, from, to),
            Decoder::Deflate(stream) => inflate(stream, from, to),
        }
    }

    /// Appends `plain`, compressed.
    pub(super) fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.encoder.encode(plain, out)
    }
}

#[derive(Debug)]
enum Decoder {
    /// The library reads from a source that has all; it is given one whole chunk at a time.
    Snappy(Box<FrameDecoder<VecDeque<u8>>>),
    Deflate(Decompress),
}

fn unsnap(
    decoder: &mut FrameDecoder<VecDeque<u8>>,
    from: &mut Buffer,
    to: &mut Buffer,
) -> Result<()> {
    while let Some(&[_, a, b, c]) = from.bytes().first_chunk::<CHUNK_HEADER>() {
        let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
        let Some(chunk) = from.bytes().get(..CHUNK_HEADER + length) else {
            break;
        };
        decoder.get_mut().extend(chunk);
        from.consume(CHUNK_HEADER + length);
        loop {
            let count = decoder.read(to.space(CHUNK_PLAIN_MAX)).context("snappy")?;
            if count == 0 {
                break;
            }
            to.add(count);
        }
    }
    Ok(())
}

fn inflate(stream: &mut Decompress, from: &mut Buffer, to: &mut Buffer) -> Result<()> {
    loop {
        let room = to.space(STEP_BYTES);
        let (read, written) = (stream.total_in(), stream.total_out());
        let status = stream
            .decompress(from.bytes(), room, FlushDecompress::None)
            .context("deflate")?;
        let filled = room.len();
        let read = usize::try_from(stream.total_in() - read)?;
        let written = usize::try_from(stream.total_out() - written)?;
        from.consume(read);
        to.add(written);
        ensure!(status != Status::StreamEnd, "the broker has ended DEFLATE");
        if written < filled {
            return Ok(());
        }
    }
}

#[derive(Debug)]
enum Encoder {
    Snappy(Box<FrameEncoder<Vec<u8>>>),
    Deflate(Box<Compress>),
}

impl Encoder {
    fn snappy() -> Self {
        Self::Snappy(Box::new(FrameEncoder::new(Vec::new())))
    }

    fn deflate(level: u32) -> Self {
        let level = flate2::Compression::new(level);
        Self::Deflate(Box::new(Compress::new(level, false)))
    }

    fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Snappy(writer) => {
                writer.write_all(plain)?;
                writer.flush()?;
                out.append(writer.get_mut());
                Ok(())
            }
            Self::Deflate(stream) => deflate(stream, plain, out),
        }
    }
}

fn deflate(stream: &mut Compress, mut plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
    loop {
        out.reserve(STEP_BYTES);
        let before = stream.total_in();
        let status = stream.compress_vec(plain, out, FlushCompress::Full)?;
        plain = &plain[usize::try_from(stream.total_in() - before)?..];
        if status == Status::StreamEnd {
            bail!("DEFLATE has ended");
        }
        // Room that is left says that the flush is complete.
        if plain.is_empty() && out.len() < out.capacity() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        let lines = (0..20_000_u32).map(|n| format!("line {} of {n}\n", n * n % 977));
        lines.collect::<String>().into_bytes()
    }

    #[test]
    fn compressions_are_named() {
        for text in ["snappy", "deflate:1", "deflate:9"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        for text in ["", "deflate", "deflate:0", "deflate:10", "gzip"] {
            assert!(text.parse::<Compression>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_prepared_can_be_sent_again_and_between_other_things() {
        for compression in [Compression::Snappy, Compression::Deflate(6)] {
            let plain = text();
            let prepared = compression.compress(&plain).unwrap();
            assert!(prepared.len() < plain.len());
            let mut codec = Codec::new(compression);
            let mut wire = Vec::new();
            codec.encode(b"first ", &mut wire).unwrap();
            wire.extend_from_slice(&prepared);
            codec.encode(b"NOP\n", &mut wire).unwrap();
            wire.extend_from_slice(&prepared);
            let want = [b"first ", &plain[..], b"NOP\n", &plain].concat();
            for step in [1, 7, 1000, wire.len()] {
                let mut codec = Codec::new(compression);
                let (mut from, mut to) = (Buffer::default(), Buffer::default());
                for part in wire.chunks(step) {
                    from.extend(part);
                    codec.decode(&mut from, &mut to).unwrap();
                }
                assert!(to.bytes() == want, "{compression} in pieces of {step}");
            }
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for compression in [Compression::Snappy, Compression::Deflate(6)] {
            let mut codec = Codec::new(compression);
            let (mut from, mut to) = (Buffer::default(), Buffer::default());
            from.extend(b"\x07\x04\0\0garbage and more of it");
            assert!(codec.decode(&mut from, &mut to).is_err(), "{compression}");
        }
    }
}
