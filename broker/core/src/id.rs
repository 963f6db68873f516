//! Message ids: 16 characters `[0-9a-v]`, 80 bits: node (10) | epoch (20) | sequence (50).
//!
//! The alphabet ascends in ASCII, so ids of one topic compare as bytes in the order of their
//! publishing. Hot path: no allocation, formatting or branch per character.

use crate::Sequence;

/// Five bits each, ascending in ASCII.
const ALPHABET: [u8; 32] = *b"0123456789abcdefghijklmnopqrstuv";
/// Marks a byte that is no digit; any real digit is below 32.
const NO_DIGIT: u8 = 0xff;
/// The value of each byte as a digit.
const DIGITS: [u8; 256] = digits();
const BITS_PER_DIGIT: u32 = 5;
const NODE_BITS: u32 = 10;
const EPOCH_BITS: u32 = 20;
const SEQUENCE_BITS: u32 = 50;
/// Characters that node and epoch take; the sequence takes the rest.
pub(crate) const PREFIX_LEN: usize = 6;
/// Characters of an id.
pub(crate) const ID_LEN: usize = 16;

const _: () = assert!(NODE_BITS + EPOCH_BITS + SEQUENCE_BITS == BITS_PER_DIGIT * 16);
const _: () = assert!(NODE_BITS + EPOCH_BITS == BITS_PER_DIGIT * 6);

const fn digits() -> [u8; 256] {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0u8;
    while value < 32 {
        table[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    table
}

/// Writes the low bits of `value` as digits, most significant first.
pub(crate) fn encode_digits(out: &mut [u8], value: u64) {
    let mut rest = value;
    for byte in out.iter_mut().rev() {
        *byte = ALPHABET[(rest & 31) as usize];
        rest >>= BITS_PER_DIGIT;
    }
}

fn decode_digits(digits: &[u8]) -> Option<u64> {
    let mut value = 0u64;
    let mut seen = 0u8;
    for &byte in digits {
        let digit = DIGITS[usize::from(byte)];
        seen |= digit;
        value = (value << BITS_PER_DIGIT) | u64::from(digit & 31);
    }
    (seen < 32).then_some(value)
}

/// The characters that all ids of a node and epoch share.
pub(crate) fn encode_prefix(node: NodeId, epoch: Epoch) -> [u8; PREFIX_LEN] {
    debug_assert!(node.0 < 1 << NODE_BITS, "checked where the flag is read");
    let mut prefix = [0; PREFIX_LEN];
    encode_digits(
        &mut prefix,
        (u64::from(node.0) << EPOCH_BITS) | u64::from(epoch.0 & Epoch::MAX.0),
    );
    prefix
}

/// `--node-id`, `0..1024`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(pub u16);

/// Counts the openings of a topic's log, `0..2^20`; grows at every start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The last one that fits into an id.
    pub const MAX: Self = Self((1 << EPOCH_BITS) - 1);
}

/// The 16 bytes of an id as they stand on the wire. Any 16 bytes may arrive from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId(pub [u8; ID_LEN]);

impl MessageId {
    /// Encodes.
    #[must_use]
    pub fn encode(node: NodeId, epoch: Epoch, sequence: Sequence) -> Self {
        debug_assert!(
            sequence.0 < 1 << SEQUENCE_BITS,
            "a topic would need 35 years at 1 M/s"
        );
        let mut id = [0; ID_LEN];
        let (prefix, digits) = id.split_at_mut(PREFIX_LEN);
        prefix.copy_from_slice(&encode_prefix(node, epoch));
        encode_digits(digits, sequence.0);
        Self(id)
    }

    /// Decodes; `None` where the bytes are not an id of this form.
    #[must_use]
    pub fn decode(&self) -> Option<(NodeId, Epoch, Sequence)> {
        let (prefix, digits) = self.0.split_at(PREFIX_LEN);
        let prefix = decode_digits(prefix)?;
        let sequence = decode_digits(digits)?;
        let node = u16::try_from(prefix >> EPOCH_BITS).ok()?;
        let epoch = u32::try_from(prefix & u64::from(Epoch::MAX.0)).ok()?;
        Some((NodeId(node), Epoch(epoch), Sequence(sequence)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_vectors() {
        let id = MessageId::encode(NodeId(0), Epoch(0), Sequence(0));
        assert_eq!(&id.0, b"0000000000000000");
        let id = MessageId::encode(NodeId(1023), Epoch::MAX, Sequence((1 << SEQUENCE_BITS) - 1));
        assert_eq!(&id.0, b"vvvvvvvvvvvvvvvv");
        let id = MessageId::encode(NodeId(1), Epoch(2), Sequence(33));
        assert_eq!(&id.0, b"0100020000000011");
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [
            *b"000000000000000w",
            *b"A000000000000000",
            [0xff; 16],
            [0; 16],
        ] {
            assert_eq!(MessageId(bytes).decode(), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(node in 0u16..1024, epoch in 0u32..(1 << 20), sequence in 0u64..(1 << 50)) {
            let id = MessageId::encode(NodeId(node), Epoch(epoch), Sequence(sequence));
            prop_assert!(id.0.iter().all(|b| ALPHABET.contains(b)));
            prop_assert_eq!(id.decode(), Some((NodeId(node), Epoch(epoch), Sequence(sequence))));
        }

        #[test]
        fn order_of_bytes_is_order_of_publishing(
            a in (0u32..(1 << 20), 0u64..(1 << 50)),
            b in (0u32..(1 << 20), 0u64..(1 << 50)),
        ) {
            let encode = |(epoch, sequence)| MessageId::encode(NodeId(7), Epoch(epoch), Sequence(sequence));
            prop_assert_eq!(encode(a).0.cmp(&encode(b).0), a.cmp(&b));
        }

        #[test]
        fn decode_survives_anything(bytes in any::<[u8; 16]>()) {
            if let Some((node, epoch, sequence)) = MessageId(bytes).decode() {
                prop_assert_eq!(MessageId::encode(node, epoch, sequence).0, bytes);
            }
        }
    }
}
