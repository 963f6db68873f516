//! Bodies: how long they are, and the stamp at their front by which they are recognised.
//!
//! The stamp, big-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `RQB1` |
//! | 4 | 4 | stream: which producer connection |
//! | 8 | 8 | sequence within the stream, from 0 |
//! | 16 | 8 | intended time of sending, nanoseconds since the run's epoch |

use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};

/// Bytes of a stamp; a stamped body cannot be shorter.
pub(crate) const STAMP_LEN: usize = 24;
const STAMP_MAGIC: [u8; 4] = *b"RQB1";
/// The reference refuses larger messages even with generous flags; it also keeps lengths in 32 bits.
const BODY_BYTES_MAX: usize = 64 << 20;

/// How long bodies are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySize {
    /// Every body is as long.
    Fixed(usize),
    /// Any length from the first to the second, both included, is as likely.
    Uniform(usize, usize),
}

/// What bodies look like; matters where they are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BodyKind {
    /// Printable bytes that do not repeat for long, so that nothing on the way can compress them.
    Noise,
    /// Events as JSON: the keys repeat, the values do not. Cut off at the end.
    Json,
}

impl FromStr for BodySize {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| {
            let bytes = text
                .parse::<usize>()
                .with_context(|| format!("{text:?} is no size"))?;
            ensure!(
                (1..=BODY_BYTES_MAX).contains(&bytes),
                "a body has 1 to {BODY_BYTES_MAX} bytes"
            );
            Ok(bytes)
        };
        let Some(range) = text.strip_prefix("uniform:") else {
            return number(text).map(Self::Fixed);
        };
        let (low, high) = range
            .split_once('-')
            .ok_or_else(|| anyhow!("want uniform:LOW-HIGH"))?;
        let (low, high) = (number(low)?, number(high)?);
        ensure!(low <= high, "the range {low}-{high} is empty");
        Ok(Self::Uniform(low, high))
    }
}

impl BodySize {
    /// The shortest body.
    pub(crate) fn least(self) -> usize {
        match self {
            Self::Fixed(bytes) | Self::Uniform(bytes, _) => bytes,
        }
    }

    /// Whether all bodies are alike, so that a few commands stand for all.
    pub(crate) fn is_fixed(self) -> bool {
        matches!(self, Self::Fixed(_))
    }

    /// The next length.
    pub(crate) fn draw(self, dice: &mut Dice) -> usize {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Uniform(low, high) => {
                let width = u64::try_from(high - low + 1).expect("a size fits 64 bits");
                low + usize::try_from(dice.roll() % width).expect("below a size")
            }
        }
    }
}

/// A small generator of numbers (xorshift64*): the same seed gives the same load.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Seeds the generator; 0 would be its fixed point.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

impl BodyKind {
    /// A body of so many bytes.
    pub(crate) fn write(self, len: usize, dice: &mut Dice) -> Vec<u8> {
        let mut body = Vec::with_capacity(len + 8);
        while body.len() < len {
            match self {
                Self::Noise => body.extend(dice.roll().to_le_bytes().map(|b| b' ' + b % 95)),
                Self::Json => body.extend_from_slice(event(dice).as_bytes()),
            }
        }
        body.truncate(len);
        body
    }
}

/// Some 230 bytes, of which a third is chance.
fn event(dice: &mut Dice) -> String {
    const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
    const PATHS: [&str; 4] = ["orders", "users", "carts/items", "payments/refunds"];
    let (request, user) = (dice.roll(), dice.roll() % 10_000_000);
    let mut pick = |from: [&'static str; 4]| {
        let index = usize::try_from(dice.roll() % 4).expect("below 4");
        from[index]
    };
    let (method, path) = (pick(METHODS), pick(PATHS));
    let (number, status) = (dice.roll() % 1_000_000, 200 + dice.roll() % 5);
    let (bytes, micros, at) = (
        dice.roll() % 100_000,
        dice.roll() % 1_000_000,
        dice.roll() % 86_400_000,
    );
    format!(
        "{{\"request\":\"{request:016x}\",\"at_ms\":{at},\"user\":{user},\"method\":\"{method}\",\
         \"path\":\"/v1/{path}/{number}\",\"status\":{status},\"bytes\":{bytes},\"micros\":{micros},\
         \"host\":\"web-{}.example.com\",\"agent\":\"Mozilla/5.0 (X11; Linux x86_64)\"}}",
        dice.roll() % 40,
    )
}

/// What a body says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which producer connection.
    pub(crate) stream: u32,
    /// Number of the message in its stream.
    pub(crate) sequence: u64,
    /// When it should have been sent, or a deferred one should arrive, in nanoseconds since the run's epoch;
    /// 0 when that is not of interest.
    pub(crate) intended_ns: u64,
}

impl Stamp {
    /// Overwrites the front of a body of at least [`STAMP_LEN`] bytes.
    pub(crate) fn write(self, body: &mut [u8]) {
        let mut stamp = [0; STAMP_LEN];
        stamp[..4].copy_from_slice(&STAMP_MAGIC);
        stamp[4..8].copy_from_slice(&self.stream.to_be_bytes());
        stamp[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        stamp[16..].copy_from_slice(&self.intended_ns.to_be_bytes());
        body[..STAMP_LEN].copy_from_slice(&stamp);
    }

    /// Reads the front of a body. `None`: the body is not one of ours.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let (magic, rest) = body.split_first_chunk::<4>()?;
        let (stream, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let intended = rest.first_chunk::<8>()?;
        (*magic == STAMP_MAGIC).then(|| Self {
            stream: u32::from_be_bytes(*stream),
            sequence: u64::from_be_bytes(*sequence),
            intended_ns: u64::from_be_bytes(*intended),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        assert_eq!("200".parse::<BodySize>().unwrap(), BodySize::Fixed(200));
        assert_eq!(
            "uniform:10-20".parse::<BodySize>().unwrap(),
            BodySize::Uniform(10, 20)
        );
        for text in [
            "",
            "0",
            "-1",
            "uniform:",
            "uniform:20-10",
            "uniform:0-1",
            "99999999999",
            "x",
        ] {
            assert!(text.parse::<BodySize>().is_err(), "{text}");
        }
    }

    #[test]
    fn uniform_sizes_reach_both_ends_and_stay_inside() {
        let mut dice = Dice::new(1);
        let drawn: Vec<usize> = (0..1000)
            .map(|_| BodySize::Uniform(10, 13).draw(&mut dice))
            .collect();
        assert!((10..=13).all(|size| drawn.contains(&size)));
        assert!(drawn.iter().all(|size| (10..=13).contains(size)));
    }

    #[test]
    fn bodies_are_as_long_as_asked_and_differ() {
        let mut dice = Dice::new(1);
        for kind in [BodyKind::Noise, BodyKind::Json] {
            let bodies: Vec<Vec<u8>> = (1..600).map(|len| kind.write(len, &mut dice)).collect();
            assert!(bodies.iter().zip(1..).all(|(body, len)| body.len() == len));
            assert_ne!(kind.write(200, &mut dice), kind.write(200, &mut dice));
        }
        let event = BodyKind::Json.write(600, &mut dice);
        assert!(
            event.starts_with(b"{\"request\":\""),
            "{}",
            event.escape_ascii()
        );
    }

    #[test]
    fn stamps_survive_the_way() {
        let stamp = Stamp {
            stream: 3,
            sequence: 1 << 40,
            intended_ns: 42,
        };
        let mut body = vec![b'x'; STAMP_LEN + 5];
        stamp.write(&mut body);
        assert_eq!(Stamp::read(&body), Some(stamp));
        assert_eq!(&body[STAMP_LEN..], b"xxxxx");
    }

    #[test]
    fn foreign_bodies_have_no_stamp() {
        assert_eq!(Stamp::read(b"hello"), None);
        assert_eq!(Stamp::read(&[b'x'; 100]), None);
        let mut body = vec![0; STAMP_LEN];
        Stamp {
            stream: 0,
            sequence: 0,
            intended_ns: 0,
        }
        .write(&mut body);
        assert_eq!(Stamp::read(&body[..STAMP_LEN - 1]), None);
    }
}
