//! Every message of a channel that was delivered or deferred and is not finished yet.
//!
//! A *slot* of 8 bytes per message, indexed by `sequence - floor`: finishing is an index, not a
//! lookup. What would make the window wide (a straggler that stays while thousands pass it, or a
//! message that is deferred before its turn) is an *outlier* and lies in a map instead.
//!
//! Owned by the channel. Hot path: no allocation (growth apart) or hashing per message.
//!
//! Invariants:
//! - everything below `floor` is finished or an outlier; the slot at `floor`, if any, is unfinished;
//! - a slot is [`State::Elsewhere`] where its message is an outlier, was dropped or never belonged
//!   to the channel: only then the outliers are asked;
//! - an outlier is never `Finished` or `Elsewhere`.

use std::collections::{BTreeMap, VecDeque};

/// Beyond this many slots the front half becomes outliers.
const SLOTS_MAX: usize = 65_536;
/// A gap up to this wide is filled with slots; a wider one starts the window anew behind it.
const GAP_MAX: u64 = 1_024;
/// Capacity that an idle window keeps.
const SLOTS_KEPT: usize = 64;

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Settled for good.
    Finished,
    /// With a consumer; the key is the number of its run.
    InFlight,
    /// In the channel's queue of requeued messages.
    Requeued,
    /// Waits for its time; the key is its node on the wheel.
    Deferred,
    /// Not in the window: ask the outliers.
    Elsewhere,
}

/// What is known of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// By state: number of a run, node of the wheel, or nothing.
    pub(crate) key: u32,
    /// Deliveries so far.
    pub(crate) attempts: u16,
    pub(crate) state: State,
}

const _: () = assert!(size_of::<Slot>() == 8);

impl Slot {
    const ELSEWHERE: Self = Self {
        key: 0,
        attempts: 0,
        state: State::Elsewhere,
    };

    fn is_owed(self) -> bool {
        match self.state {
            State::InFlight | State::Requeued | State::Deferred => true,
            State::Finished | State::Elsewhere => false,
        }
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Window {
    floor: u64,
    slots: VecDeque<Slot>,
    outliers: BTreeMap<u64, Slot>,
}

impl Window {
    /// Where the slots begin, when there are any.
    pub(crate) fn floor(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.floor)
    }

    /// One past the last slot.
    fn end(&self) -> u64 {
        self.floor + self.slots.len() as u64
    }

    fn index(&self, sequence: u64) -> Option<usize> {
        let index = usize::try_from(sequence.checked_sub(self.floor)?).ok()?;
        (index < self.slots.len()).then_some(index)
    }

    /// The slot of an unfinished message.
    pub(crate) fn get(&self, sequence: u64) -> Option<Slot> {
        let slot = self
            .index(sequence)
            .map_or(Slot::ELSEWHERE, |index| self.slots[index]);
        match slot.state {
            State::Elsewhere => self.outliers.get(&sequence).copied(),
            State::Finished => None,
            State::InFlight | State::Requeued | State::Deferred => Some(slot),
        }
    }

    /// The slot of an unfinished message, to be changed but not finished.
    pub(crate) fn get_mut(&mut self, sequence: u64) -> Option<&mut Slot> {
        match self.index(sequence) {
            Some(index) if self.slots[index].state == State::Finished => None,
            Some(index) if self.slots[index].state != State::Elsewhere => {
                Some(&mut self.slots[index])
            }
            Some(_) | None => self.outliers.get_mut(&sequence),
        }
    }

    /// Appends `count` slots for the messages from `first` on.
    pub(crate) fn push(&mut self, first: u64, count: u32, slot: Slot) {
        self.skip_to(first);
        self.slots.extend(std::iter::repeat_n(slot, count as usize));
        if slot.state == State::Finished {
            self.advance();
        }
        if self.slots.len() > SLOTS_MAX {
            self.spill(self.slots.len() / 2);
        }
    }

    /// Nothing before `sequence` will be appended any more.
    pub(crate) fn skip_to(&mut self, sequence: u64) {
        let Some(gap) = sequence.checked_sub(self.end()) else {
            assert!(
                self.slots.is_empty(),
                "messages are delivered first in the order of sequences"
            );
            self.floor = sequence;
            return;
        };
        if gap > GAP_MAX {
            self.spill(self.slots.len());
        }
        if self.slots.is_empty() {
            self.floor = sequence;
        } else {
            let gap = usize::try_from(gap).expect("at most GAP_MAX");
            self.slots.extend(std::iter::repeat_n(Slot::ELSEWHERE, gap));
        }
    }

    /// Adds a message outside of the window.
    pub(crate) fn insert_outlier(&mut self, sequence: u64, slot: Slot) {
        debug_assert!(slot.is_owed() && self.index(sequence).is_none());
        self.outliers.insert(sequence, slot);
    }

    /// Finishes an unfinished message; whether it was an outlier.
    pub(crate) fn finish(&mut self, sequence: u64) -> bool {
        match self.index(sequence) {
            Some(index) if self.slots[index].state != State::Elsewhere => {
                self.slots[index].state = State::Finished;
                if index == 0 {
                    self.advance();
                }
                false
            }
            Some(_) | None => {
                let known = self.outliers.remove(&sequence);
                debug_assert!(known.is_some(), "only an unfinished message is finished");
                true
            }
        }
    }

    /// Lets the floor pass everything finished.
    fn advance(&mut self) {
        while self.slots.front().is_some_and(|slot| !slot.is_owed()) {
            self.slots.pop_front();
            self.floor += 1;
        }
    }

    /// Makes outliers of what is unfinished in the first `count` slots.
    #[cold]
    fn spill(&mut self, count: usize) {
        for (sequence, slot) in (self.floor..).zip(self.slots.drain(..count)) {
            if slot.is_owed() {
                self.outliers.insert(sequence, slot);
            }
        }
        self.floor += count as u64;
        self.advance();
    }

    /// Whether a message of `[start, end)` is unfinished in here.
    pub(crate) fn owes(&self, start: u64, end: u64) -> bool {
        self.owes_outlier(start, end) || self.slots_of(start, end).any(|(_, slot)| slot.is_owed())
    }

    /// Whether an outlier lies in `[start, end)`.
    pub(crate) fn owes_outlier(&self, start: u64, end: u64) -> bool {
        start < end && self.outliers.range(start..end).next().is_some()
    }

    /// The slots of `[start, end)`, whatever their state.
    pub(crate) fn slots_of(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, Slot)> + '_ {
        let from = start.clamp(self.floor, self.end());
        let to = end.clamp(from, self.end());
        let index =
            |sequence| usize::try_from(sequence - self.floor).expect("clamped to the window");
        (from..to).zip(self.slots.range(index(from)..index(to)).copied())
    }

    /// The outliers of `[start, end)`.
    pub(crate) fn outliers_of(
        &self,
        start: u64,
        end: u64,
    ) -> impl Iterator<Item = (u64, Slot)> + '_ {
        self.outliers
            .range(start..end.max(start))
            .map(|(&sequence, &slot)| (sequence, slot))
    }

    /// Everything unfinished, outliers first.
    pub(crate) fn unfinished(&self) -> impl Iterator<Item = (u64, Slot)> + '_ {
        let slots = self
            .slots_of(0, u64::MAX)
            .filter(|(_, slot)| slot.is_owed());
        self.outliers_of(0, u64::MAX).chain(slots)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Gives back what an idle window does not need: called now and then, not per turn.
    pub(crate) fn relax(&mut self) {
        if self.slots.len() * 4 < self.slots.capacity() {
            self.slots.shrink_to((self.slots.len() * 2).max(SLOTS_KEPT));
        }
    }

    /// Asserts the invariants of the module documentation.
    pub(crate) fn check_invariants(&self) {
        assert!(self.slots.len() <= SLOTS_MAX);
        assert!(
            self.slots.front().is_none_or(|slot| slot.is_owed()),
            "the floor waits for its slot"
        );
        for (&sequence, slot) in &self.outliers {
            assert!(slot.is_owed());
            if let Some(index) = self.index(sequence) {
                assert_eq!(
                    self.slots[index].state,
                    State::Elsewhere,
                    "{sequence} is in two places"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_FLIGHT: Slot = Slot {
        key: 1,
        attempts: 1,
        state: State::InFlight,
    };

    #[test]
    fn the_floor_follows_the_oldest_unfinished() {
        let mut window = Window::default();
        window.push(10, 4, IN_FLIGHT);
        assert!(!window.finish(12));
        assert!(!window.finish(11));
        assert_eq!(window.floor(), Some(10));
        assert!(!window.finish(10));
        assert_eq!(window.floor(), Some(13));
        assert_eq!(window.get(12), None);
        assert_eq!(window.get(13), Some(IN_FLIGHT));
        window.finish(13);
        assert_eq!(window.floor(), None);
        window.check_invariants();
    }

    #[test]
    fn a_straggler_does_not_pin_the_window() {
        let mut window = Window::default();
        for sequence in 0..200_000 {
            window.push(sequence, 1, IN_FLIGHT);
            if sequence != 3 {
                window.finish(sequence);
            }
            assert!(window.slots.len() <= SLOTS_MAX);
        }
        window.check_invariants();
        assert_eq!(window.floor(), None);
        assert_eq!(window.unfinished().map(|(s, _)| s).collect::<Vec<_>>(), [3]);
        assert_eq!(window.get(3), Some(IN_FLIGHT));
        assert!(window.owes(0, 4) && !window.owes(4, u64::MAX));
        assert!(window.finish(3), "it was an outlier");
        assert_eq!(window.get(3), None);
    }

    #[test]
    fn a_wide_gap_costs_no_slots() {
        let mut window = Window::default();
        window.push(0, 2, IN_FLIGHT);
        window.push(1 << 40, 1, IN_FLIGHT);
        assert_eq!(window.slots.len(), 1);
        assert_eq!(
            window.unfinished().map(|(s, _)| s).collect::<Vec<_>>(),
            [0, 1, 1 << 40]
        );
        window.check_invariants();
    }

    #[test]
    fn an_outlier_is_found_through_a_narrow_gap() {
        let mut window = Window::default();
        window.insert_outlier(2, IN_FLIGHT);
        window.push(0, 2, IN_FLIGHT);
        window.push(3, 1, IN_FLIGHT);
        window.check_invariants();
        assert_eq!(window.get(2), Some(IN_FLIGHT));
        window.get_mut(2).unwrap().attempts = 9;
        assert_eq!(window.get(2).unwrap().attempts, 9);
        assert!(window.finish(2));
        for sequence in [0, 1] {
            assert!(!window.finish(sequence));
        }
        assert_eq!(window.floor(), Some(3), "the gap is passed");
    }

    #[test]
    fn finished_messages_pushed_at_the_floor_pass_at_once() {
        let mut window = Window::default();
        window.push(
            5,
            3,
            Slot {
                state: State::Finished,
                ..IN_FLIGHT
            },
        );
        assert_eq!(window.floor(), None);
        window.push(8, 1, IN_FLIGHT);
        assert_eq!(window.floor(), Some(8));
    }
}
