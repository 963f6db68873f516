//! Ascending sequence ranges, as a queue: what a channel was handed and has not delivered yet.
//!
//! Owned by the channel. Invariants: ranges are not empty, ascend, do not touch, and `len` is the
//! sum of their lengths. Normally it is one range that grows at the end and shrinks at the start.

use std::collections::VecDeque;
use std::ops::Range;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    ranges: VecDeque<Range<u64>>,
    len: u64,
}

impl Ranges {
    /// Appends; `range` lies at or after the end of the last one.
    pub(crate) fn push(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.len += range.end - range.start;
        match self.ranges.back_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            last => {
                debug_assert!(
                    last.is_none_or(|last| last.end < range.start),
                    "ranges ascend"
                );
                self.ranges.push_back(range);
            }
        }
    }

    /// The first range.
    pub(crate) fn front(&self) -> Option<Range<u64>> {
        self.ranges.front().cloned()
    }

    /// Where the last range ends; 0 when there is none.
    pub(crate) fn end(&self) -> u64 {
        self.ranges.back().map_or(0, |range| range.end)
    }

    /// Drops the first `count` sequences, all of the first range.
    pub(crate) fn advance(&mut self, count: u64) {
        let front = self
            .ranges
            .front_mut()
            .expect("the caller has seen the first range");
        assert!(
            count <= front.end - front.start,
            "no more than the first range holds"
        );
        front.start += count;
        self.len -= count;
        if front.is_empty() {
            self.ranges.pop_front();
        }
    }

    /// Cuts `[start, end)` out; how many sequences that were.
    pub(crate) fn remove(&mut self, start: u64, end: u64) -> u64 {
        let before = self.len;
        if start >= end {
            return 0;
        }
        let mut at = self.ranges.partition_point(|range| range.end <= start);
        while let Some(range) = self.ranges.get_mut(at).filter(|range| range.start < end) {
            let (left, right) = (
                range.start..start.min(range.end),
                end.max(range.start)..range.end,
            );
            self.len -= (range.end.min(end)) - range.start.max(start);
            match (left.is_empty(), right.is_empty()) {
                (true, true) => {
                    self.ranges.remove(at);
                    continue;
                }
                (true, false) => *range = right,
                (false, true) => *range = left,
                (false, false) => {
                    *range = left;
                    self.ranges.insert(at + 1, right);
                }
            }
            at += 1;
        }
        before - self.len
    }

    /// Whether any sequence of `[start, end)` is in here.
    pub(crate) fn intersects(&self, start: u64, end: u64) -> bool {
        let at = self.ranges.partition_point(|range| range.end <= start);
        start < end && self.ranges.get(at).is_some_and(|range| range.start < end)
    }

    /// The ranges that touch `[start, end)`, uncut.
    pub(crate) fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = &Range<u64>> {
        let at = self.ranges.partition_point(|range| range.end <= start);
        self.ranges
            .range(at..)
            .take_while(move |range| range.start < end)
    }

    /// How many sequences.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn clear(&mut self) {
        self.ranges = VecDeque::new();
        self.len = 0;
    }

    /// Asserts the invariants of the module documentation.
    pub(crate) fn check_invariants(&self) {
        let mut end = None;
        for range in &self.ranges {
            assert!(
                !range.is_empty() && end.is_none_or(|end| end < range.start),
                "{self:?}"
            );
            end = Some(range.end);
        }
        assert_eq!(
            self.len,
            self.ranges.iter().map(|r| r.end - r.start).sum::<u64>()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(
            pushes in prop::collection::vec((0u64..5, 0u64..12), 0..10),
            cuts in prop::collection::vec((0u64..100, 0u64..30), 0..10),
            taken in 0u64..10,
        ) {
            let (mut ranges, mut model, mut end) = (Ranges::default(), BTreeSet::new(), 0);
            for (gap, count) in pushes {
                ranges.push(end + gap..end + gap + count);
                model.extend(end + gap..end + gap + count);
                end += gap + count;
            }
            for (start, count) in cuts {
                let expected = model.range(start..start + count).count() as u64;
                prop_assert_eq!(ranges.intersects(start, start + count), expected > 0);
                prop_assert_eq!(ranges.remove(start, start + count), expected);
                model.retain(|s| !(start..start + count).contains(s));
                ranges.check_invariants();
            }
            if let Some(front) = ranges.front() {
                let count = taken.min(front.end - front.start);
                ranges.advance(count);
                for _ in 0..count {
                    model.pop_first();
                }
            }
            ranges.check_invariants();
            prop_assert_eq!(ranges.len(), model.len() as u64);
            let listed: BTreeSet<u64> = ranges.overlapping(0, u64::MAX).cloned().flatten().collect();
            prop_assert_eq!(listed, model);
        }
    }
}
