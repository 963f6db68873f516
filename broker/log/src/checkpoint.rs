//! The bytes of the checkpoint journal, and what they add up to.
//!
//! The journal is one file of records, appended one after the other. All numbers little-endian.
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 4 | magic `RQJ1` |
//! | 4 | 4 | CRC-32C of everything from offset 8 to the end of the payload |
//! | 8 | 1 | version, 1 |
//! | 9 | 1 | kind: 0 = adds to the records before, 1 = full, replaces them |
//! | 10 | 2 | reserved, 0 |
//! | 12 | 4 | payload length |
//! | 16 | 8 | number of the record, one more than that of the one before |
//! | 24 | 4 | epoch of the run that wrote it |
//! | 28 | 4 | reserved, 0 |
//! | 32 | 8 | tag of the log (see [`crate::format`]) |
//! | 40 | … | payload |
//!
//! The payload is six lists, each a count (4) and its items: the scan hint (0 or 1 of it: seven
//! numbers of 8), epoch floors (8 + 8 + 8 + 4), epochs begun (8 + 4), segments sealed (four numbers
//! of 8), segments freed (8), and the caller's entries (key length 4, value length 4, key, value).
//! Behind them is for each sealed segment of the record, in the same order, the list of some places in
//! it where a batch starts: messages (4) and multiples of 8 bytes (4) since the place before, the first
//! since the start of the segment. Older records end with the entries.
//!
//! - A file begins with a full record; the first record that is not intact, or does not carry the
//!   numbers on, ends it. The chain of numbers and epochs keeps the remains of a longer tail, cut
//!   by an earlier recovery, from being taken for records.
//! - Per key the last value counts; an empty one removes the key.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::{ALIGN, EPOCH_MAX, IndexEntry, NUMBER_MAX, crc32c, get_u32, get_u64};

const MAGIC: [u8; 4] = *b"RQJ1";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 40;
const AT_CRC: usize = 4;
const AT_VERSION: usize = 8;
const AT_KIND: usize = 9;
const AT_PAYLOAD_LEN: usize = 12;
const AT_NUMBER: usize = 16;
const AT_EPOCH: usize = 24;
const AT_TAG: usize = 32;

const _: () = assert!(AT_TAG + 8 == HEADER_LEN && AT_NUMBER.is_multiple_of(8));

/// Name of the journal's file.
pub(crate) const FILE_NAME: &str = "checkpoint.log";

/// A key and its value, as the caller gave them.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

/// Where a recovery may start to scan: everything before was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint {
    /// Name of the segment.
    pub(crate) segment: u64,
    /// Its first sequence.
    pub(crate) segment_first: u64,
    /// Where the first unwritten batch goes.
    pub(crate) offset: u64,
    /// Its sequence.
    pub(crate) sequence: u64,
    /// One past the last sequence that was handed out, written or not.
    pub(crate) head: u64,
    /// Everything below was synced.
    pub(crate) durable: u64,
    /// No batch from the hint on has a lower epoch.
    pub(crate) epoch: u32,
}

/// Where a recovery ended and a run went on. The next recovery comes to the same end, even if what
/// led this one there is gone by then; and no batch from here on has a lower epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// One past the last sequence of the segment then.
    pub(crate) end: u64,
    pub(crate) epoch: u32,
}

/// A segment that will not change any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) name: u64,
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) used: u64,
    /// Some places where a batch starts, ascending.
    pub(crate) index: Vec<IndexEntry>,
}

impl Sealed {
    /// Appends the index.
    fn encode_index(&self, out: &mut Vec<u8>) {
        let at_count = out.len();
        put_count(out, 0);
        let mut count = 0;
        let mut before = self.start();
        for entry in &self.index {
            let messages = u32::try_from(entry.sequence - before.sequence);
            let strides = u32::try_from((entry.offset - before.offset) / ALIGN);
            let (Ok(messages), Ok(strides)) = (messages, strides) else {
                // 32 GiB without a place between: what lies behind is found without the index.
                break;
            };
            out.extend_from_slice(&messages.to_le_bytes());
            out.extend_from_slice(&strides.to_le_bytes());
            count += 1;
            before = *entry;
        }
        out[at_count..at_count + 4].copy_from_slice(&u32::to_le_bytes(count));
    }

    /// Reads what [`Self::encode_index`] has appended.
    fn decode_index(&self, payload: &mut Payload<'_>) -> Option<Vec<IndexEntry>> {
        let mut before = self.start();
        payload.list(|item| {
            let (messages, strides) = (item.u32()?, item.u32()?);
            before.sequence += u64::from(messages);
            before.offset += u64::from(strides) * ALIGN;
            // Where a recovery began to scan may turn out to be the end.
            let is_within = before.sequence <= self.end && before.offset <= self.used;
            is_within.then_some(before)
        })
    }

    const fn start(&self) -> IndexEntry {
        IndexEntry {
            sequence: self.first,
            offset: 0,
        }
    }
}

/// What a record says, besides the entries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    pub(crate) is_full: bool,
    pub(crate) number: u64,
    pub(crate) epoch: u32,
    pub(crate) tag: u64,
    /// Goes with the caller's entries, which cover everything before it: deferred messages, above
    /// all, which are found by scanning only. So records of the log's own have none.
    pub(crate) hint: Option<Hint>,
    pub(crate) floors: Vec<Floor>,
    /// First sequence and epoch.
    pub(crate) epochs: Vec<(u64, u32)>,
    pub(crate) sealed: Vec<Sealed>,
    pub(crate) freed: Vec<u64>,
}

/// Bytes of a record.
pub(crate) fn encode(contents: &Contents, entries: &[Entry]) -> Vec<u8> {
    let mut out = vec![0; HEADER_LEN];
    out[..4].copy_from_slice(&MAGIC);
    out[AT_VERSION] = VERSION;
    out[AT_KIND] = u8::from(contents.is_full);
    out[AT_NUMBER..AT_NUMBER + 8].copy_from_slice(&contents.number.to_le_bytes());
    out[AT_EPOCH..AT_EPOCH + 4].copy_from_slice(&contents.epoch.to_le_bytes());
    out[AT_TAG..AT_TAG + 8].copy_from_slice(&contents.tag.to_le_bytes());

    put_count(&mut out, usize::from(contents.hint.is_some()));
    if let Some(hint) = &contents.hint {
        let numbers = [
            hint.segment,
            hint.segment_first,
            hint.offset,
            hint.sequence,
            hint.head,
            hint.durable,
            u64::from(hint.epoch),
        ];
        numbers.iter().for_each(|&number| put_u64(&mut out, number));
    }
    put_count(&mut out, contents.floors.len());
    for floor in &contents.floors {
        put_u64(&mut out, floor.segment);
        put_u64(&mut out, floor.offset);
        put_u64(&mut out, floor.end);
        out.extend_from_slice(&floor.epoch.to_le_bytes());
    }
    put_count(&mut out, contents.epochs.len());
    for &(first, epoch) in &contents.epochs {
        put_u64(&mut out, first);
        out.extend_from_slice(&epoch.to_le_bytes());
    }
    put_count(&mut out, contents.sealed.len());
    for sealed in &contents.sealed {
        let numbers = [sealed.name, sealed.first, sealed.end, sealed.used];
        numbers.iter().for_each(|&number| put_u64(&mut out, number));
    }
    put_count(&mut out, contents.freed.len());
    contents
        .freed
        .iter()
        .for_each(|&name| put_u64(&mut out, name));
    put_count(&mut out, entries.len());
    for (key, value) in entries {
        put_count(&mut out, key.len());
        put_count(&mut out, value.len());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    for sealed in &contents.sealed {
        sealed.encode_index(&mut out);
    }

    let payload_len = u32::try_from(out.len() - HEADER_LEN).expect("a checkpoint is below 4 GiB");
    out[AT_PAYLOAD_LEN..AT_PAYLOAD_LEN + 4].copy_from_slice(&payload_len.to_le_bytes());
    let crc = crc32c(&out[AT_VERSION..]);
    out[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a checkpoint is below 4 GiB");
    out.extend_from_slice(&count.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Reads from the front of a payload; `None` once it is used up.
struct Payload<'a>(&'a [u8]);

impl<'a> Payload<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4).map(|bytes| get_u32(bytes, 0))
    }

    /// A sequence, an offset, a name.
    fn number(&mut self) -> Option<u64> {
        self.bytes(8)
            .map(|bytes| get_u64(bytes, 0))
            .filter(|&number| number < NUMBER_MAX)
    }

    fn epoch(&mut self) -> Option<u32> {
        self.u32().filter(|&epoch| epoch < EPOCH_MAX)
    }

    fn len(&mut self) -> Option<usize> {
        self.u32().map(|len| len as usize)
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()?;
        (0..count).map(|_| item(self)).collect()
    }
}

/// Reads the record at the start of `bytes`: what it says, and its length.
fn decode(bytes: &[u8]) -> Option<(Contents, Vec<Entry>, usize)> {
    let header = bytes.get(..HEADER_LEN)?;
    let len = (get_u32(header, AT_PAYLOAD_LEN) as usize).checked_add(HEADER_LEN)?;
    let record = bytes.get(..len)?;
    let is_intact = header[..4] == MAGIC
        && crc32c(&record[AT_VERSION..]) == get_u32(header, AT_CRC)
        && header[AT_VERSION] == VERSION;
    if !is_intact {
        return None;
    }
    let mut payload = Payload(&record[HEADER_LEN..]);
    let hint = payload.list(|item| {
        Some(Hint {
            segment: item.number()?,
            segment_first: item.number()?,
            offset: item.number()?,
            sequence: item.number()?,
            head: item.number()?,
            durable: item.number()?,
            epoch: u32::try_from(item.number()?)
                .ok()
                .filter(|&epoch| epoch < EPOCH_MAX)?,
        })
    })?;
    let floors = payload.list(|item| {
        Some(Floor {
            segment: item.number()?,
            offset: item.number()?,
            end: item.number()?,
            epoch: item.epoch()?,
        })
    })?;
    let epochs = payload.list(|item| Some((item.number()?, item.epoch()?)))?;
    let mut sealed = payload.list(|item| {
        Some(Sealed {
            name: item.number()?,
            first: item.number()?,
            end: item.number()?,
            used: item.number()?,
            index: Vec::new(),
        })
    })?;
    let freed = payload.list(Payload::number)?;
    let entries = payload.list(|item| {
        let (key_len, value_len) = (item.len()?, item.len()?);
        Some((
            item.bytes(key_len)?.to_vec(),
            item.bytes(value_len)?.to_vec(),
        ))
    })?;
    if !payload.0.is_empty() {
        for sealed in &mut sealed {
            sealed.index = sealed.decode_index(&mut payload)?;
        }
    }
    let (number, epoch) = (get_u64(header, AT_NUMBER), get_u32(header, AT_EPOCH));
    if number >= NUMBER_MAX || epoch >= EPOCH_MAX {
        return None;
    }
    let contents = Contents {
        is_full: header[AT_KIND] == 1,
        number,
        epoch,
        tag: get_u64(header, AT_TAG),
        hint: hint.first().copied(),
        floors,
        epochs,
        sealed,
        freed,
    };
    Some((contents, entries, len))
}

/// All records of a journal, added up.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    /// Bytes of the file that hold intact records; what follows is a torn tail.
    pub(crate) valid_len: u64,
    /// Number of the last record.
    pub(crate) number: u64,
    /// Of the last record, which has the highest.
    pub(crate) epoch: u32,
    pub(crate) tag: Option<u64>,
    pub(crate) hint: Option<Hint>,
    /// Since the hint, ascending.
    pub(crate) floors: Vec<Floor>,
    pub(crate) epochs: Vec<(u64, u32)>,
    pub(crate) sealed: BTreeMap<u64, Sealed>,
    pub(crate) freed: BTreeSet<u64>,
    pub(crate) entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Folded {
    /// Bytes that a full record of the live entries would take, about.
    pub(crate) fn live_bytes(&self) -> u64 {
        let entries: usize = self
            .entries
            .iter()
            .map(|(key, value)| key.len() + value.len() + 8)
            .sum();
        let index_lens = self.sealed.values().map(|sealed| sealed.index.len());
        let sealed: usize = index_lens.map(|len| 36 + len * 8).sum();
        (entries + sealed + HEADER_LEN) as u64
    }

    fn follows(&self, contents: &Contents) -> bool {
        if self.valid_len == 0 {
            return contents.is_full;
        }
        contents.number == self.number + 1
            && contents.epoch >= self.epoch
            && Some(contents.tag) == self.tag
    }

    fn add(&mut self, contents: Contents, entries: Vec<Entry>, len: usize) {
        if contents.is_full {
            *self = Self {
                valid_len: self.valid_len,
                ..Self::default()
            };
        }
        self.valid_len += len as u64;
        self.number = contents.number;
        self.epoch = contents.epoch;
        self.tag = Some(contents.tag);
        if contents.hint.is_some() {
            self.hint = contents.hint;
            self.floors.clear();
        }
        self.floors.extend(contents.floors);
        for (first, epoch) in contents.epochs {
            self.epochs.retain(|&(earlier, _)| earlier < first);
            self.epochs.push((first, epoch));
        }
        self.sealed.extend(
            contents
                .sealed
                .into_iter()
                .map(|sealed| (sealed.name, sealed)),
        );
        for name in contents.freed {
            self.sealed.remove(&name);
            self.freed.insert(name);
        }
        for (key, value) in entries {
            if value.is_empty() {
                self.entries.remove(&key);
            } else {
                self.entries.insert(key, value);
            }
        }
    }
}

/// Adds up the intact records at the start of `bytes`.
pub(crate) fn fold(bytes: &[u8]) -> Folded {
    let mut folded = Folded::default();
    let mut rest = bytes;
    while let Some((contents, entries, len)) = decode(rest) {
        if !folded.follows(&contents) {
            break;
        }
        folded.add(contents, entries, len);
        rest = &rest[len..];
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        (key.into(), value.into())
    }

    fn at(sequence: u64, offset: u64) -> IndexEntry {
        IndexEntry { sequence, offset }
    }

    fn record(number: u64, epoch: u32, is_full: bool, entries: &[Entry]) -> Vec<u8> {
        let hint = Hint {
            segment: 1,
            segment_first: 2,
            offset: 3,
            sequence: number * 10,
            head: 5,
            durable: 4,
            epoch,
        };
        let contents = Contents {
            is_full,
            number,
            epoch,
            tag: 9,
            hint: Some(hint),
            floors: Vec::new(),
            epochs: vec![(number * 10, epoch)],
            sealed: vec![Sealed {
                name: number,
                first: 1,
                end: 9,
                used: 300,
                index: vec![at(1, 0), at(4, 160), at(8, 288)],
            }],
            freed: vec![number - 1],
        };
        encode(&contents, entries)
    }

    fn live(folded: &Folded) -> Vec<(String, String)> {
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
        folded
            .entries
            .iter()
            .map(|(key, value)| (text(key), text(value)))
            .collect()
    }

    #[test]
    fn the_last_value_counts_and_an_empty_one_removes() {
        let journal = [
            record(4, 1, true, &[entry("a", "1"), entry("b", "2")]),
            record(5, 1, false, &[entry("a", "3"), entry("c", "4")]),
            record(6, 2, false, &[entry("b", "")]),
        ]
        .concat();
        let folded = fold(&journal);
        assert_eq!(
            live(&folded),
            [("a".into(), "3".into()), ("c".into(), "4".into())]
        );
        assert_eq!((folded.number, folded.epoch, folded.tag), (6, 2, Some(9)));
        assert_eq!(folded.valid_len, journal.len() as u64);
        assert_eq!(folded.hint.map(|hint| hint.sequence), Some(60));
        assert_eq!(folded.sealed.keys().copied().collect::<Vec<_>>(), [6]);
        assert_eq!(folded.freed.len(), 3);
        assert_eq!(folded.epochs, [(40, 1), (50, 1), (60, 2)]);
    }

    #[test]
    fn a_full_record_replaces_what_was_before() {
        let journal = [
            record(1, 1, true, &[entry("a", "1")]),
            record(2, 1, true, &[entry("b", "2")]),
        ]
        .concat();
        let folded = fold(&journal);
        assert_eq!(live(&folded), [("b".into(), "2".into())]);
        assert_eq!(folded.valid_len, journal.len() as u64);
        assert_eq!(folded.epochs, [(20, 1)]);
    }

    #[test]
    fn the_index_of_a_sealed_segment_is_kept_and_older_records_have_none() {
        let bytes = record(1, 1, true, &[entry("a", "1")]);
        let sealed = &fold(&bytes).sealed[&1];
        assert_eq!(sealed.index, [at(1, 0), at(4, 160), at(8, 288)]);
        let resealed = |mut bytes: Vec<u8>| {
            let len = u32::try_from(bytes.len() - HEADER_LEN).unwrap();
            bytes[AT_PAYLOAD_LEN..AT_PAYLOAD_LEN + 4].copy_from_slice(&len.to_le_bytes());
            let crc = crc32c(&bytes[AT_VERSION..]);
            bytes[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_le_bytes());
            bytes
        };
        let (older, index) = bytes.split_at(bytes.len() - 28);
        assert_eq!(index[..4], [3, 0, 0, 0]);
        assert_eq!(index[12..20], [3, 0, 0, 0, 20, 0, 0, 0]);
        let folded = fold(&resealed(older.to_vec()));
        assert_eq!(folded.number, 1);
        assert!(folded.sealed[&1].index.is_empty());
        // A place beyond the segment is no place in it.
        let mut beyond = bytes.clone();
        let last = bytes.len() - 4;
        beyond[last] += 2;
        assert_eq!(fold(&resealed(beyond)).valid_len, 0);
    }

    #[test]
    fn floors_gather_until_the_next_hint() {
        let floor = |epoch| Floor {
            segment: 1,
            offset: 8,
            end: 3,
            epoch,
        };
        let mut contents = Contents {
            is_full: true,
            number: 1,
            ..Contents::default()
        };
        let mut journal = encode(&contents, &[]);
        for epoch in [2, 3] {
            contents = Contents {
                is_full: false,
                number: contents.number + 1,
                epoch,
                floors: vec![floor(epoch)],
                ..contents
            };
            journal.extend(encode(&contents, &[]));
        }
        assert_eq!(fold(&journal).floors, [floor(2), floor(3)]);
        contents.tag = 9;
        contents.number += 1;
        assert_eq!(
            fold(&[journal.clone(), encode(&contents, &[])].concat()).number,
            3
        );
        contents.tag = 0;
        contents.floors.clear();
        contents.hint = fold(&record(1, 3, true, &[])).hint;
        journal.extend(encode(&contents, &[]));
        assert!(fold(&journal).floors.is_empty());
    }

    #[test]
    fn a_tail_torn_anywhere_is_cut() {
        let first = record(1, 1, true, &[entry("a", "1")]);
        let journal = [first.clone(), record(2, 1, false, &[entry("a", "2")])].concat();
        for len in first.len()..journal.len() {
            let folded = fold(&journal[..len]);
            assert_eq!(folded.valid_len, first.len() as u64);
            assert_eq!(live(&folded), [("a".into(), "1".into())]);
        }
        for byte in first.len()..journal.len() {
            let mut damaged = journal.clone();
            damaged[byte] ^= 0x10;
            assert_eq!(fold(&damaged).valid_len, first.len() as u64);
        }
    }

    #[test]
    fn leftovers_behind_a_cut_are_not_taken_for_records() {
        let first = record(1, 2, true, &[]);
        for (number, epoch) in [(2, 1), (3, 2), (1, 2)] {
            let stale = record(number, epoch, false, &[entry("stale", "x")]);
            let folded = fold(&[first.clone(), stale].concat());
            assert_eq!((folded.number, folded.entries.len()), (1, 0));
        }
        assert_eq!(
            fold(&record(2, 1, false, &[])).valid_len,
            0,
            "begins with a full one"
        );
    }
}
