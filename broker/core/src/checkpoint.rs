//! How a topic's state is written down: entries of a keyed journal.
//!
//! Every value begins with a version byte; numbers are LEB128 varints. A value that does not decode
//! (damage, or another version) counts as absent. In version 1 pages had 1,024 sequences.
//!
//! | kind | value after the version byte |
//! |---|---|
//! | 0 topic | pump, head, current epoch, next channel number, count, count × (first sequence − previous, epoch) |
//! | 1 channel | floor, name length, name |
//! | 2 page | until the end: skipped, `length << 2 \| mark`, and by mark: 0 finished: nothing; 1 owed: attempts; 2 deferred: attempts, due ms − previous due ms (zigzag) |
//!
//! A page lists where its 64 sequences differ from what the channel's entry says: below the floor
//! everything is finished, from it on everything up to the topic's pump is owed and undelivered.
//! Channel 0 is the topic's own backlog, whose pages hold due times.

use crate::channel::journal::PAGE_SPAN;
use crate::{CheckpointKey, Epoch};

const VERSION: u8 = 2;
const KIND_TOPIC: u8 = 0;
pub(crate) const KIND_CHANNEL: u8 = 1;
pub(crate) const KIND_PAGE: u8 = 2;
/// Number of the topic itself among its channels.
pub(crate) const TOPIC_NUMBER: u32 = 0;
/// Where the topic's entry is.
pub(crate) const TOPIC_KEY: CheckpointKey = CheckpointKey {
    kind: KIND_TOPIC,
    channel: TOPIC_NUMBER,
    page: 0,
};
/// Sequences per page, for indexing.
pub(crate) const PAGE_LEN: usize = 64;
const _: () = assert!(PAGE_LEN as u64 == PAGE_SPAN);

/// Kind 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicEntry {
    pub(crate) pump: u64,
    pub(crate) head: u64,
    pub(crate) epoch: Epoch,
    pub(crate) next_channel: u32,
    pub(crate) epochs: Vec<(u64, Epoch)>,
}

/// Kind 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ChannelEntry {
    pub(crate) floor: u64,
    pub(crate) name: String,
}

/// What a page says of one message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing.
    #[default]
    Default,
    /// Finished, although at or above the floor.
    Finished,
    /// Owed: delivered before, or below the floor, or not before its time.
    Owed {
        /// Deliveries so far.
        attempts: u16,
        /// Unix milliseconds, 0 = none.
        due_ms: u64,
    },
}

/// The marks of one page, by sequence modulo 64.
pub(crate) type Page = [Mark; PAGE_LEN];

fn put(out: &mut Vec<u8>, value: u64) {
    let mut rest = value;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push((rest & 0x7f) as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn body(mut bytes: &[u8]) -> Option<&[u8]> {
    let (&version, rest) = bytes.split_first()?;
    bytes = rest;
    (version == VERSION).then_some(bytes)
}

impl TopicEntry {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(VERSION);
        let numbers = [
            self.pump,
            self.head,
            u64::from(self.epoch.0),
            u64::from(self.next_channel),
        ];
        numbers.into_iter().for_each(|number| put(out, number));
        put(out, self.epochs.len() as u64);
        let mut previous = 0;
        for &(first, epoch) in &self.epochs {
            put(out, first - previous);
            put(out, u64::from(epoch.0));
            previous = first;
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = body(bytes)?;
        let (pump, head) = (take(&mut bytes)?, take(&mut bytes)?);
        let epoch = Epoch(u32::try_from(take(&mut bytes)?).ok()?);
        let next_channel = u32::try_from(take(&mut bytes)?).ok()?;
        let count = take(&mut bytes)?;
        let mut epochs = Vec::new();
        let mut first = 0u64;
        for _ in 0..count {
            first = first.checked_add(take(&mut bytes)?)?;
            epochs.push((first, Epoch(u32::try_from(take(&mut bytes)?).ok()?)));
        }
        Some(Self {
            pump,
            head,
            epoch,
            next_channel,
            epochs,
        })
    }
}

impl ChannelEntry {
    pub(crate) fn encode(floor: u64, name: &str, out: &mut Vec<u8>) {
        out.clear();
        out.push(VERSION);
        put(out, floor);
        put(out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = body(bytes)?;
        let floor = take(&mut bytes)?;
        let len = usize::try_from(take(&mut bytes)?).ok()?;
        let name = std::str::from_utf8(bytes.get(..len)?).ok()?.to_owned();
        Some(Self { floor, name })
    }
}

/// The number of a mark in the encoding.
fn code(mark: Mark) -> u64 {
    match mark {
        Mark::Default | Mark::Finished => 0,
        Mark::Owed { due_ms: 0, .. } => 1,
        Mark::Owed { .. } => 2,
    }
}

/// Encodes a page; empty when it says nothing.
pub(crate) fn encode_page(page: &Page, out: &mut Vec<u8>) {
    out.clear();
    let (mut at, mut said, mut previous_due) = (0, 0, 0);
    while at < page.len() {
        let mark = page[at];
        let len = page[at..].iter().take_while(|&&next| next == mark).count();
        if mark != Mark::Default {
            if out.is_empty() {
                out.push(VERSION);
            }
            put(out, (at - said) as u64);
            put(out, ((len as u64) << 2) | code(mark));
            if let Mark::Owed { attempts, due_ms } = mark {
                put(out, u64::from(attempts));
                if due_ms > 0 {
                    put(out, zigzag(due_ms.wrapping_sub(previous_due)));
                    previous_due = due_ms;
                }
            }
            said = at + len;
        }
        at += len;
    }
}

/// Maps small differences of either sign to small numbers.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (0u64.wrapping_sub(difference >> 63))
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (0u64.wrapping_sub(number & 1))
}

/// Decodes a page.
pub(crate) fn decode_page(bytes: &[u8]) -> Option<Box<Page>> {
    let mut bytes = body(bytes)?;
    let mut page = Box::new([Mark::Default; PAGE_LEN]);
    let (mut at, mut previous_due) = (0usize, 0u64);
    while !bytes.is_empty() {
        at = at.checked_add(usize::try_from(take(&mut bytes)?).ok()?)?;
        let tag = take(&mut bytes)?;
        let end = at.checked_add(usize::try_from(tag >> 2).ok()?)?;
        let mark = match tag & 3 {
            0 => Mark::Finished,
            1 => Mark::Owed {
                attempts: u16::try_from(take(&mut bytes)?).ok()?,
                due_ms: 0,
            },
            2 => {
                let attempts = u16::try_from(take(&mut bytes)?).ok()?;
                let due_ms = previous_due.wrapping_add(unzigzag(take(&mut bytes)?));
                previous_due = due_ms;
                Mark::Owed { attempts, due_ms }
            }
            _ => return None,
        };
        page.get_mut(at..end)?.fill(mark);
        at = end;
    }
    Some(page)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark() -> impl Strategy<Value = Mark> {
        prop_oneof![
            Just(Mark::Default),
            Just(Mark::Finished),
            (0u16..4).prop_map(|attempts| Mark::Owed {
                attempts,
                due_ms: 0
            }),
            (any::<u16>(), 1u64..).prop_map(|(attempts, due_ms)| Mark::Owed { attempts, due_ms }),
        ]
    }

    #[test]
    fn a_page_that_says_nothing_is_empty() {
        let mut out = vec![1, 2, 3];
        encode_page(&[Mark::Default; PAGE_LEN], &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn a_uniform_page_is_tiny() {
        let mut out = Vec::new();
        encode_page(
            &[Mark::Owed {
                attempts: 1,
                due_ms: 0,
            }; PAGE_LEN],
            &mut out,
        );
        assert_eq!(out, [VERSION, 0, 0x81, 0x02, 1]);
    }

    #[test]
    fn another_version_counts_as_absent() {
        for version in [VERSION - 1, VERSION + 1] {
            assert_eq!(TopicEntry::decode(&[version, 0, 0, 0, 0, 0]), None);
            assert!(decode_page(&[version]).is_none());
        }
    }

    proptest! {
        #[test]
        fn pages_round_trip(runs in prop::collection::vec((0usize..12, mark()), 0..30)) {
            let mut page = [Mark::Default; PAGE_LEN];
            let mut at = 0;
            for (len, mark) in runs {
                let end = (at + len).min(PAGE_LEN);
                page[at..end].fill(mark);
                at = end;
            }
            let mut out = Vec::new();
            encode_page(&page, &mut out);
            if out.is_empty() {
                prop_assert!(page.iter().all(|mark| *mark == Mark::Default));
            } else {
                let decoded = decode_page(&out).unwrap();
                prop_assert_eq!(*decoded, page);
            }
        }

        #[test]
        fn topics_round_trip(
            (pump, head) in any::<(u64, u64)>(),
            (epoch, next_channel) in any::<(u32, u32)>(),
            mut firsts in prop::collection::vec(any::<u64>(), 0..5),
        ) {
            firsts.sort_unstable();
            let epochs = firsts.into_iter().map(|first| (first, Epoch(epoch))).collect();
            let entry = TopicEntry { pump, head, epoch: Epoch(epoch), next_channel, epochs };
            let mut out = Vec::new();
            entry.encode(&mut out);
            prop_assert_eq!(TopicEntry::decode(&out), Some(entry));
        }

        #[test]
        fn channels_round_trip(floor: u64, name in "[a-z#.]{0,64}") {
            let mut out = Vec::new();
            ChannelEntry::encode(floor, &name, &mut out);
            prop_assert_eq!(ChannelEntry::decode(&out), Some(ChannelEntry { floor, name }));
        }

        #[test]
        fn decoding_survives_anything(mut bytes in prop::collection::vec(any::<u8>(), 0..200), versioned: bool) {
            if let (true, Some(first)) = (versioned, bytes.first_mut()) {
                *first = VERSION;
            }
            drop(TopicEntry::decode(&bytes));
            drop(ChannelEntry::decode(&bytes));
            if let Some(page) = decode_page(&bytes) {
                prop_assert_eq!(page.len(), PAGE_LEN);
            }
        }
    }
}
