//! The bytes of a batch: a header, a record table, and the frames.
//!
//! All numbers are little-endian. A batch starts at a multiple of [`ALIGN`] in its segment file;
//! the bytes between two batches are not written and never looked at.
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 4 | magic `RQB1` |
//! | 4 | 4 | CRC-32C of everything from offset 8 to the end of the record table |
//! | 8 | 1 | version, 1 |
//! | 9 | 1 | flags, reserved, 0 |
//! | 10 | 2 | header length in bytes, extensions included, a multiple of 8 |
//! | 12 | 4 | total length in bytes: header, record table and frames |
//! | 16 | 8 | sequence of the first record |
//! | 24 | 4 | epoch of the records' ids |
//! | 28 | 4 | number of records, at least 1 |
//! | 32 | 8 | tag: a random number that all batches of a log share |
//! | 40 | 8 | reserved, 0 |
//! | 48 | … | extensions, each 16 bytes or more: type (2), reserved (2), value length (4), value padded to 8 |
//! | header length | 8 each | record table: length (4), CRC-32C of the frame (4) |
//! | … | … | frames, one directly after the other |
//!
//! - The header's checksum covers the table and the table covers the frames, so damage to a frame
//!   costs that record only, and damage before the frames costs the batch only.
//! - The tag keeps a message body that happens (or was made) to look like a batch from being taken
//!   for one when a reader searches for the next header after damage, or looks at the stale
//!   content of a recycled file: whoever publishes bodies does not know the tag.
//! - *Version rule:* offsets 0 to 31 keep their meaning in every version. An extension type below
//!   [`REQUIRED_TYPES`] may be added without a new version, because readers skip the ones they do
//!   not know; one from there on, or any other change, is refused by older readers instead of being
//!   misread.
//!
//! Hot path: per record one checksum and one table entry; no allocation beyond the pooled buffer.

use bytes::BytesMut;

pub(crate) const MAGIC: [u8; 4] = *b"RQB1";
pub(crate) const VERSION: u8 = 1;
/// Batches start at multiples of this, so that a search after damage has few places to try.
pub(crate) const ALIGN: u64 = 8;
/// Bytes of the header before the extensions.
pub(crate) const FIXED_LEN: usize = 48;
/// Bytes of one entry of the record table.
pub(crate) const ENTRY_LEN: usize = 8;
/// Bytes of an extension with an 8-byte value; both that exist are of this kind.
const EXTENSION_LEN: usize = 16;
/// Far above what extensions need; a bound for the reader.
const HEADER_LEN_MAX: usize = 4096;
/// Sequences, offsets and the like are below this. No log comes near (ids have 50 bits for a
/// sequence), and what is reckoned with them cannot overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;
/// The same for epochs, for which ids have 20 bits.
pub(crate) const EPOCH_MAX: u32 = 1 << 31;
/// Extension types from here on must be understood to read the batch.
pub(crate) const REQUIRED_TYPES: u16 = 0x8000;
/// When the records are due, Unix ms.
const EXTENSION_DUE: u16 = 1;
/// Name of the segment before this one; in the first batch of a segment.
const EXTENSION_PREVIOUS: u16 = 2;

const AT_CRC: usize = 4;
const AT_VERSION: usize = 8;
const AT_HEADER_LEN: usize = 10;
const AT_TOTAL_LEN: usize = 12;
const AT_FIRST: usize = 16;
const AT_EPOCH: usize = 24;
const AT_COUNT: usize = 28;
const AT_TAG: usize = 32;
const AT_RESERVED: usize = 40;

const _: () = assert!(AT_TAG + 8 == AT_RESERVED && AT_RESERVED + 8 == FIXED_LEN);
const _: () = assert!(AT_COUNT + 4 == AT_TAG && AT_FIRST.is_multiple_of(8));
const _: () = assert!(FIXED_LEN.is_multiple_of(8) && EXTENSION_LEN.is_multiple_of(8));
const _: () = assert!(FIXED_LEN + 2 * EXTENSION_LEN <= HEADER_LEN_MAX);
const _: () = assert!(HEADER_LEN_MAX <= u16::MAX as usize && ENTRY_LEN == 8);

/// What a batch says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) header_len: u32,
    /// Header, table and frames, without the padding up to the next batch.
    pub(crate) total_len: u32,
    pub(crate) first: u64,
    pub(crate) epoch: u32,
    pub(crate) count: u32,
    pub(crate) tag: u64,
    /// 0 = none.
    pub(crate) due_ms: u64,
    /// The segment before, if this is the first batch of one that has a predecessor.
    pub(crate) previous: Option<u64>,
}

impl Header {
    /// One past the last sequence.
    pub(crate) const fn end(&self) -> u64 {
        self.first + self.count as u64
    }

    /// Distance to where the next batch starts.
    pub(crate) const fn stride(&self) -> u64 {
        aligned(self.total_len as u64)
    }

    /// The records of the batch; `bytes` starts with the header and holds the whole batch.
    pub(crate) fn records<'a>(&self, bytes: &'a [u8]) -> Records<'a> {
        let table_start = self.header_len as usize;
        let table_end = table_start + self.count as usize * ENTRY_LEN;
        Records {
            bytes: &bytes[..self.total_len as usize],
            table: &bytes[table_start..table_end],
            at: table_end,
        }
    }
}

/// Where a batch starts in its segment, and with which sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) sequence: u64,
    pub(crate) offset: u64,
}

/// What the bytes at a place where a batch may start turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A header and table that are intact; the frames are not checked.
    Batch(Header),
    /// So many bytes are needed to tell.
    Short(usize),
    /// Never written.
    Zero,
    /// Intact, but of a version that this program does not know. What it claims holds.
    Unsupported,
    /// Not a batch.
    Invalid,
}

/// `offset` rounded up to where a batch may start.
pub(crate) const fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN)
}

/// Bytes of header and table of a batch with these properties.
pub(crate) const fn head_len(count: usize, has_due: bool, has_previous: bool) -> usize {
    header_len(has_due, has_previous) + count * ENTRY_LEN
}

const fn header_len(has_due: bool, has_previous: bool) -> usize {
    FIXED_LEN + (has_due as usize + has_previous as usize) * EXTENSION_LEN
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Writes header and table into `out`, which must be empty. `header_len`, `total_len` and `count`
/// of `header` are not looked at: they follow from the rest.
pub(crate) fn encode_head(
    out: &mut BytesMut,
    header: &Header,
    frames: &[u8],
    ends: (&[u32], &[u32]),
) {
    let count = ends.0.len() + ends.1.len();
    let header_len = header_len(header.due_ms != 0, header.previous.is_some());
    let head_len = header_len + count * ENTRY_LEN;
    let total_len =
        u32::try_from(head_len + frames.len()).expect("a batch is far smaller than 4 GiB");
    assert!(
        out.is_empty() && count > 0,
        "an empty buffer and at least one record"
    );
    out.resize(head_len, 0);

    out[..4].copy_from_slice(&MAGIC);
    out[AT_VERSION] = VERSION;
    let short = u16::try_from(header_len).expect("two extensions at most");
    out[AT_HEADER_LEN..AT_HEADER_LEN + 2].copy_from_slice(&short.to_le_bytes());
    put_u32(out, AT_TOTAL_LEN, total_len);
    put_u64(out, AT_FIRST, header.first);
    put_u32(out, AT_EPOCH, header.epoch);
    put_u32(
        out,
        AT_COUNT,
        u32::try_from(count).expect("fewer records than bytes"),
    );
    put_u64(out, AT_TAG, header.tag);
    let mut at = FIXED_LEN;
    if header.due_ms != 0 {
        put_extension(out, at, EXTENSION_DUE, header.due_ms);
        at += EXTENSION_LEN;
    }
    if let Some(previous) = header.previous {
        put_extension(out, at, EXTENSION_PREVIOUS, previous);
        at += EXTENSION_LEN;
    }
    debug_assert_eq!(at, header_len, "as reckoned");

    fill_table(&mut out[header_len..], frames, ends);
    let crc = crc32c(&out[AT_VERSION..]);
    put_u32(out, AT_CRC, crc);
}

/// Per record: its length and checksum.
fn fill_table(table: &mut [u8], frames: &[u8], ends: (&[u32], &[u32])) {
    let mut start = 0;
    let all_ends = ends.0.iter().chain(ends.1);
    for (entry, &end) in table.chunks_exact_mut(ENTRY_LEN).zip(all_ends) {
        let frame = &frames[start as usize..end as usize];
        entry[..4].copy_from_slice(&(end - start).to_le_bytes());
        entry[4..].copy_from_slice(&crc32c(frame).to_le_bytes());
        start = end;
    }
    assert_eq!(
        start as usize,
        frames.len(),
        "the last frame ends where the frames end"
    );
}

fn put_u32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn put_extension(out: &mut [u8], at: usize, kind: u16, value: u64) {
    out[at..at + 2].copy_from_slice(&kind.to_le_bytes());
    put_u32(out, at + 4, 8);
    put_u64(out, at + 8, value);
}

fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes"))
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Looks at the bytes where a batch may start. Trusts nothing before the checksum has matched,
/// but for the lengths that say what it covers.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let Some(fixed) = bytes.get(..FIXED_LEN) else {
        return Parsed::Short(FIXED_LEN);
    };
    if fixed[..4] != MAGIC {
        return if fixed.iter().all(|&byte| byte == 0) {
            Parsed::Zero
        } else {
            Parsed::Invalid
        };
    }
    let header_len = usize::from(get_u16(fixed, AT_HEADER_LEN));
    let total_len = get_u32(fixed, AT_TOTAL_LEN);
    let count = get_u32(fixed, AT_COUNT);
    let Some(head_len) = (count as usize)
        .checked_mul(ENTRY_LEN)
        .and_then(|table| table.checked_add(header_len))
    else {
        return Parsed::Invalid;
    };
    let is_plausible = (FIXED_LEN..=HEADER_LEN_MAX).contains(&header_len)
        && header_len.is_multiple_of(8)
        && count > 0
        && head_len <= total_len as usize;
    if !is_plausible {
        return Parsed::Invalid;
    }
    let Some(head) = bytes.get(..head_len) else {
        return Parsed::Short(head_len);
    };
    if crc32c(&head[AT_VERSION..]) != get_u32(head, AT_CRC) {
        return Parsed::Invalid;
    }
    let (first, epoch, _) = claims(head);
    if first >= NUMBER_MAX || epoch >= EPOCH_MAX {
        return Parsed::Invalid;
    }
    if head[AT_VERSION] != VERSION {
        return Parsed::Unsupported;
    }
    decode_checked(head, header_len, total_len)
}

/// First sequence, epoch and tag that a header claims, before its checksum is looked at.
pub(crate) fn claims(fixed: &[u8]) -> (u64, u32, u64) {
    let first = get_u64(fixed, AT_FIRST);
    (first, get_u32(fixed, AT_EPOCH), get_u64(fixed, AT_TAG))
}

/// Reads a header whose checksum is right.
fn decode_checked(head: &[u8], header_len: usize, total_len: u32) -> Parsed {
    let table = &head[header_len..];
    let frames: u64 = table
        .chunks_exact(ENTRY_LEN)
        .map(|entry| u64::from(get_u32(entry, 0)))
        .sum();
    if head.len() as u64 + frames != u64::from(total_len) {
        return Parsed::Invalid;
    }
    let (first, epoch, tag) = claims(head);
    let mut header = Header {
        header_len: u32::try_from(header_len).expect("checked against the maximum"),
        total_len,
        first,
        epoch,
        count: get_u32(head, AT_COUNT),
        tag,
        due_ms: 0,
        previous: None,
    };
    let mut rest = &head[FIXED_LEN..header_len];
    while rest.len() >= 8 {
        let kind = get_u16(rest, 0);
        let value_len = get_u32(rest, 4) as usize;
        let Some(value) = rest.get(8..8 + value_len) else {
            return Parsed::Invalid;
        };
        match (kind, value_len) {
            (EXTENSION_DUE, 8) => header.due_ms = get_u64(value, 0),
            (EXTENSION_PREVIOUS, 8) => header.previous = Some(get_u64(value, 0)),
            (REQUIRED_TYPES.., _) => return Parsed::Unsupported,
            _ => {}
        }
        rest = &rest[(8 + value_len).next_multiple_of(8)..];
    }
    Parsed::Batch(header)
}

/// The records of a batch, in order.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    table: &'a [u8],
    at: usize,
}

impl Records<'_> {
    /// Passes over `count` records without checking them.
    pub(crate) fn skip_unchecked(&mut self, count: usize) {
        let (skipped, rest) = self.table.split_at(count * ENTRY_LEN);
        let skipped = skipped.chunks_exact(ENTRY_LEN);
        self.at += skipped
            .map(|entry| get_u32(entry, 0) as usize)
            .sum::<usize>();
        self.table = rest;
    }
}

impl Iterator for Records<'_> {
    /// Start and end of the frame from the start of the batch, and whether it is intact.
    type Item = (usize, usize, bool);

    fn next(&mut self) -> Option<Self::Item> {
        let (entry, rest) = self.table.split_at_checked(ENTRY_LEN)?;
        let start = self.at;
        let end = start + get_u32(entry, 0) as usize;
        self.table = rest;
        self.at = end;
        Some((
            start,
            end,
            crc32c(&self.bytes[start..end]) == get_u32(entry, 4),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            header_len: 0,
            total_len: 0,
            first: 77,
            epoch: 3,
            count: 0,
            tag: 0xDEAD_BEEF,
            due_ms: 0,
            previous: None,
        }
    }

    fn batch(header: &Header) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode_head(&mut out, header, b"onetwothree", (&[3], &[6, 11]));
        let mut bytes = out.to_vec();
        bytes.extend_from_slice(b"onetwothree");
        bytes
    }

    #[test]
    fn crc_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn batch_survives_the_round_trip() {
        for (due_ms, previous) in [(0, None), (5, None), (0, Some(9)), (5, Some(0))] {
            let bytes = batch(&Header {
                due_ms,
                previous,
                ..header()
            });
            let Parsed::Batch(parsed) = parse(&bytes) else {
                panic!("not a batch")
            };
            assert_eq!((parsed.first, parsed.end(), parsed.epoch), (77, 80, 3));
            assert_eq!(
                (parsed.due_ms, parsed.previous, parsed.tag),
                (due_ms, previous, 0xDEAD_BEEF)
            );
            assert_eq!(parsed.total_len as usize, bytes.len());
            assert_eq!(parsed.stride(), aligned(bytes.len() as u64));
            let frames: Vec<_> = parsed
                .records(&bytes)
                .map(|(start, end, ok)| (&bytes[start..end], ok))
                .collect();
            assert_eq!(
                frames,
                [(&b"one"[..], true), (b"two", true), (b"three", true)]
            );
            let mut tail = parsed.records(&bytes);
            tail.skip_unchecked(2);
            assert_eq!(
                tail.map(|(start, end, _)| end - start).collect::<Vec<_>>(),
                [5]
            );
        }
    }

    #[test]
    fn layout_is_as_documented() {
        let bytes = batch(&Header {
            due_ms: 0x0102,
            ..header()
        });
        assert_eq!(&bytes[..4], b"RQB1");
        assert_eq!(bytes[8..12], [1, 0, 64, 0]);
        assert_eq!(get_u32(&bytes, 12) as usize, bytes.len());
        assert_eq!(
            (
                get_u64(&bytes, 16),
                get_u32(&bytes, 24),
                get_u32(&bytes, 28)
            ),
            (77, 3, 3)
        );
        assert_eq!((get_u64(&bytes, 32), get_u64(&bytes, 40)), (0xDEAD_BEEF, 0));
        assert_eq!(
            bytes[48..64],
            [1, 0, 0, 0, 8, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(get_u32(&bytes, 64), 3);
        assert_eq!(&bytes[88..], b"onetwothree");
        assert_eq!(head_len(3, true, false), 88);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let intact = batch(&Header {
            due_ms: 12,
            ..header()
        });
        for bit in 0..intact.len() * 8 {
            let mut bytes = intact.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match parse(&bytes) {
                Parsed::Batch(parsed) => {
                    assert!(bit / 8 >= 88, "bit {bit} of the head went unnoticed");
                    assert_eq!(parsed.records(&bytes).filter(|record| !record.2).count(), 1);
                }
                Parsed::Short(_) | Parsed::Invalid => assert!(bit / 8 < 88),
                Parsed::Zero | Parsed::Unsupported => panic!("bit {bit} hid the batch"),
            }
        }
    }

    #[test]
    fn every_truncation_asks_for_more() {
        let bytes = batch(&header());
        for len in 0..72 {
            assert!(matches!(parse(&bytes[..len]), Parsed::Short(need) if need > len));
        }
        assert!(matches!(parse(&bytes[..72]), Parsed::Batch(_)));
    }

    #[test]
    fn unknown_extensions_are_skipped_or_refused() {
        for (kind, is_read) in [(0x7FFF_u16, true), (REQUIRED_TYPES, false)] {
            let mut bytes = batch(&Header {
                due_ms: 12,
                ..header()
            });
            bytes[48..50].copy_from_slice(&kind.to_le_bytes());
            let crc = crc32c(&bytes[8..88]);
            put_u32(&mut bytes, AT_CRC, crc);
            match parse(&bytes) {
                Parsed::Batch(parsed) => assert!(is_read && parsed.due_ms == 0),
                Parsed::Unsupported => assert!(!is_read),
                Parsed::Short(_) | Parsed::Zero | Parsed::Invalid => panic!("not intact"),
            }
        }
        let mut newer = batch(&header());
        newer[AT_VERSION] = 2;
        let crc = crc32c(&newer[8..72]);
        put_u32(&mut newer, AT_CRC, crc);
        assert_eq!(parse(&newer), Parsed::Unsupported);
    }

    #[test]
    fn noise_is_not_a_batch() {
        assert_eq!(parse(&[0; 64]), Parsed::Zero);
        assert_eq!(parse(&[7; 64]), Parsed::Invalid);
        let mut bytes = [0xFF; 64];
        bytes[..4].copy_from_slice(&MAGIC);
        assert_eq!(parse(&bytes), Parsed::Invalid);
    }
}
