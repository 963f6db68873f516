//! A hierarchical timing wheel: everything of a shard that comes due, in ticks of 1 ms.
//!
//! Eight levels of 64 slots. A timer lies on the level of the highest digit (base 64) in which its
//! tick differs from the current one, in the slot of that digit; when the current tick reaches a
//! slot of a higher level, its timers move down. Insert and cancel are O(1); a slot is a doubly
//! linked list through the slab of nodes, so nothing is allocated per timer once the slab has grown.
//!
//! Owned by the shard. Invariants:
//! - timers of the same tick fire in the order in which they were set: they always lie in the same
//!   slot, and lists keep their order when they move down;
//! - a timer never fires early: deadlines are rounded *up* to the tick, the time is rounded down;
//! - every node in a list of level `l` agrees with `current` in all digits above `l`, and is greater
//!   in digit `l` (on level 0: greater or equal), so the lowest set bit of the lowest level is next;
//! - 48 bits of ticks cover every [`Now`], so no deadline is too far.

use crate::types::ChannelKey;
use crate::{Deadline, Now, TimerKey};

const TICK_NS: u64 = 1_000_000;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = 8;
/// The last tick that the wheel can hold; `u64::MAX` nanoseconds lie well below.
const TICK_MAX: u64 = (1 << (DIGIT_BITS as u64 * LEVELS as u64)) - 1;
/// No node.
const NIL: u32 = u32::MAX;

const _: () = assert!(u64::MAX / TICK_NS < TICK_MAX);
const _: () = assert!(
    size_of::<Node>() <= 48,
    "a deferral is to stay below 100 bytes in all"
);

/// What a node of the wheel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The delivery timeout of the run with this number.
    Run(u32),
    /// A deferred message of a channel comes due.
    Deferred {
        /// Whose.
        channel: ChannelKey,
        /// Which.
        sequence: u64,
    },
    /// Something of the shell's.
    Shell(Deadline),
}

#[derive(Debug)]
struct Node {
    /// When; milliseconds since the Unix epoch.
    tick: u64,
    /// The one before in the slot; of the first one, the last.
    prev: u32,
    /// The next in the slot, or the next free node.
    next: u32,
    /// Counts the uses of this node; odd while in use, so a stale key never fits.
    generation: u32,
    timer: Timer,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Wheel {
    nodes: Vec<Node>,
    free: u32,
    /// Everything at or before this tick has fired, except what was inserted late since.
    current: u64,
    /// Which slots of a level hold anything.
    occupied: [u64; LEVELS],
    heads: [[u32; SLOTS]; LEVELS],
    len: usize,
}

/// The tick at which a deadline fires: the first one not before it.
fn tick_of(at: Now) -> u64 {
    at.0.div_ceil(TICK_NS)
}

impl Wheel {
    pub(crate) fn new(now: Now) -> Self {
        Self {
            nodes: Vec::new(),
            free: NIL,
            current: now.as_millis(),
            occupied: [0; LEVELS],
            heads: [[NIL; SLOTS]; LEVELS],
            len: 0,
        }
    }

    /// Schedules and returns the number of the node, by which its owner may cancel it as long as
    /// it has not fired.
    pub(crate) fn insert(&mut self, at: Now, timer: Timer) -> u32 {
        self.insert_tick(tick_of(at), timer)
    }

    /// Like [`Self::insert`], at a time in whole milliseconds.
    pub(crate) fn insert_tick(&mut self, tick: u64, timer: Timer) -> u32 {
        let tick = tick.clamp(self.current, TICK_MAX);
        let index = if self.free == NIL {
            let index = u32::try_from(self.nodes.len()).expect("2^32 timers are 200 GB");
            self.nodes.push(Node {
                tick,
                prev: NIL,
                next: NIL,
                generation: 1,
                timer,
            });
            index
        } else {
            let index = self.free;
            let node = &mut self.nodes[index as usize];
            self.free = node.next;
            node.tick = tick;
            node.timer = timer;
            node.generation = node.generation.wrapping_add(1);
            index
        };
        self.len += 1;
        self.link(index);
        index
    }

    /// The key of a node just inserted.
    pub(crate) fn key(&self, index: u32) -> TimerKey {
        TimerKey(index, self.nodes[index as usize].generation)
    }

    /// Cancels by key; no effect when it has fired or was cancelled before.
    pub(crate) fn cancel_key(&mut self, key: TimerKey) {
        let live = |node: &Node| node.generation == key.1 && node.generation % 2 == 1;
        if self.nodes.get(key.0 as usize).is_some_and(live) {
            self.cancel(key.0);
        }
    }

    /// Cancels a node that is known not to have fired.
    pub(crate) fn cancel(&mut self, index: u32) {
        debug_assert!(
            self.nodes[index as usize].generation % 2 == 1,
            "timer {index} is not set"
        );
        self.unlink(index);
        self.release(index);
    }

    /// When this node fires, in milliseconds.
    pub(crate) fn tick(&self, index: u32) -> u64 {
        self.nodes[index as usize].tick
    }

    /// Takes everything due at `now` into `fired`, in the order of ticks.
    pub(crate) fn expire(&mut self, now: Now, fired: &mut Vec<(u32, Timer)>) {
        let now = now.as_millis().max(self.current);
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > now {
                break;
            }
            self.current = self.current.max(tick);
            let mut index = std::mem::replace(&mut self.heads[level][slot], NIL);
            self.occupied[level] &= !(1 << slot);
            while index != NIL {
                let next = self.nodes[index as usize].next;
                if level == 0 {
                    fired.push((index, self.nodes[index as usize].timer));
                    self.release(index);
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
        self.current = now;
    }

    /// When something may fire next: exact to the tick within 64 ms, earlier than the truth by less
    /// than a slot of its level beyond that (the wheel then only moves timers down).
    pub(crate) fn next_deadline(&self) -> Option<Now> {
        self.next_slot()
            .map(|(_, _, tick)| Now(tick.saturating_mul(TICK_NS)))
    }

    /// Timers that are set.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = DIGIT_BITS * u32::try_from(level).expect("eight levels");
        let above = shift + DIGIT_BITS;
        let tick = ((self.current >> above) << above) | (u64::from(slot) << shift);
        Some((level, slot as usize, tick))
    }

    fn place(&self, tick: u64) -> (usize, usize) {
        let differing = (tick ^ self.current) | (SLOTS as u64 - 1);
        let level = (63 - differing.leading_zeros()) / DIGIT_BITS;
        let slot = (tick >> (level * DIGIT_BITS)) & (SLOTS as u64 - 1);
        (level as usize, usize::try_from(slot).expect("six bits"))
    }

    /// Puts a node at the end of its slot.
    fn link(&mut self, index: u32) {
        let (level, slot) = self.place(self.nodes[index as usize].tick);
        let head = self.heads[level][slot];
        self.nodes[index as usize].next = NIL;
        if head == NIL {
            self.nodes[index as usize].prev = index;
            self.heads[level][slot] = index;
            self.occupied[level] |= 1 << slot;
        } else {
            let last = std::mem::replace(&mut self.nodes[head as usize].prev, index);
            self.nodes[last as usize].next = index;
            self.nodes[index as usize].prev = last;
        }
    }

    fn unlink(&mut self, index: u32) {
        let Node {
            tick, prev, next, ..
        } = self.nodes[index as usize];
        let (level, slot) = self.place(tick);
        let head = self.heads[level][slot];
        if index == head {
            self.heads[level][slot] = next;
            if next == NIL {
                self.occupied[level] &= !(1 << slot);
                return;
            }
        } else {
            self.nodes[prev as usize].next = next;
        }
        let after = if next == NIL { head } else { next };
        self.nodes[after as usize].prev = prev;
    }

    fn release(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        node.generation = node.generation.wrapping_add(1);
        node.next = self.free;
        self.free = index;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MS: u64 = TICK_NS;
    const NOBODY: [u32; 0] = [];

    fn shell(number: u32) -> Timer {
        Timer::Shell(Deadline::Tick(number))
    }

    fn fire(wheel: &mut Wheel, at: u64) -> Vec<u32> {
        let mut fired = Vec::new();
        wheel.expire(Now(at), &mut fired);
        let number = |(_, timer)| match timer {
            Timer::Shell(Deadline::Tick(number)) => number,
            other @ (Timer::Run(_) | Timer::Deferred { .. } | Timer::Shell(_)) => {
                panic!("not scheduled here: {other:?}")
            }
        };
        let mut numbers: Vec<u32> = fired.into_iter().map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn fires_on_the_first_tick_not_before_the_deadline() {
        let mut wheel = Wheel::new(Now(1_000 * MS));
        wheel.insert(Now(1_010 * MS + 1), shell(1));
        assert_eq!(fire(&mut wheel, 1_010 * MS + 1), NOBODY);
        assert_eq!(fire(&mut wheel, 1_011 * MS - 1), NOBODY);
        assert_eq!(fire(&mut wheel, 1_011 * MS), [1]);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn timers_of_one_tick_fire_in_the_order_in_which_they_were_set() {
        for delay in [0, 3, 63, 64, 70, 5_000, 300_000] {
            let mut wheel = Wheel::new(Now(1_000 * MS));
            let at = Now((1_000 + delay) * MS);
            let timers: Vec<u32> = (0..8)
                .map(|number| wheel.insert(at, shell(number)))
                .collect();
            for cancelled in [0, 3, 7] {
                wheel.cancel(timers[cancelled]);
            }
            let mut fired = Vec::new();
            while wheel.len() > 0 {
                let next = wheel.next_deadline().expect("some are set");
                wheel.expire(next, &mut fired);
            }
            let expected = [1, 2, 4, 5, 6].map(|at: u32| (timers[at as usize], shell(at)));
            assert_eq!(fired, expected, "after {delay} ms");
        }
    }

    #[test]
    fn past_deadlines_fire_at_the_next_call() {
        let mut wheel = Wheel::new(Now(1_000 * MS));
        wheel.insert(Now(0), shell(1));
        wheel.insert(Now(1_000 * MS), shell(2));
        assert_eq!(wheel.next_deadline(), Some(Now(1_000 * MS)));
        assert_eq!(fire(&mut wheel, 1_000 * MS), [1, 2]);
    }

    #[test]
    fn deadlines_beyond_all_time_are_held_and_cancelled() {
        let mut wheel = Wheel::new(Now(1_700_000_000_000 * MS));
        let far = wheel.insert(Now(u64::MAX), shell(1));
        let restored = wheel.insert_tick(u64::MAX, shell(2));
        wheel.insert(Now((1_700_000_000_000 + 31_536_000_000) * MS), shell(3));
        assert_eq!(
            fire(&mut wheel, (1_700_000_000_000 + 31_535_999_999) * MS),
            NOBODY
        );
        assert_eq!(
            fire(&mut wheel, (1_700_000_000_000 + 31_536_000_000) * MS),
            [3]
        );
        wheel.cancel(restored);
        assert_eq!(fire(&mut wheel, u64::MAX), NOBODY);
        assert_eq!(wheel.tick(far), u64::MAX.div_ceil(MS));
        assert_eq!(wheel.len(), 1);
        wheel.cancel(far);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn a_stale_key_cancels_nothing() {
        let mut wheel = Wheel::new(Now(0));
        let first = wheel.insert(Now(MS), shell(1));
        let key = wheel.key(first);
        assert_eq!(fire(&mut wheel, MS), [1]);
        wheel.cancel_key(key);
        let second = wheel.insert(Now(2 * MS), shell(2));
        assert_eq!(first, second, "nodes are reused");
        wheel.cancel_key(key);
        assert_eq!(fire(&mut wheel, 2 * MS), [2]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64),
        Cancel(usize),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let distance = prop_oneof![
            4 => 0u64..200 * MS,
            3 => 0u64..10_000 * MS,
            2 => 0u64..100_000_000 * MS,
            1 => 0u64..10_000_000_000 * MS,
        ];
        prop_oneof![
            4 => distance.clone().prop_map(Step::Insert),
            2 => any::<usize>().prop_map(Step::Cancel),
            3 => distance.prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_map(start in 0u64..1 << 62, steps in prop::collection::vec(step(), 1..200)) {
            let mut wheel = Wheel::new(Now(start));
            let mut model: BTreeMap<u32, (u64, TimerKey)> = BTreeMap::new();
            let mut now = start;
            for (number, step) in (0u32..).zip(steps) {
                match step {
                    Step::Insert(distance) => {
                        let at = now.saturating_add(distance);
                        let index = wheel.insert(Now(at), shell(number));
                        model.insert(number, (at, wheel.key(index)));
                    }
                    Step::Cancel(which) if !model.is_empty() => {
                        let number = *model.keys().nth(which % model.len()).unwrap();
                        let (_, key) = model.remove(&number).unwrap();
                        wheel.cancel_key(key);
                        wheel.cancel_key(key);
                    }
                    Step::Cancel(_) => {}
                    Step::Advance(distance) => {
                        now += distance;
                        let due = |&(at, _): &(u64, TimerKey)| at.div_ceil(MS) <= now / MS;
                        let expected: Vec<u32> =
                            model.iter().filter(|(_, entry)| due(entry)).map(|(n, _)| *n).collect();
                        model.retain(|_, entry| !due(entry));
                        prop_assert_eq!(fire(&mut wheel, now), expected);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                let earliest = model.values().map(|(at, _)| at.div_ceil(MS)).min();
                let next = wheel.next_deadline().map(|at| at.0 / MS);
                prop_assert_eq!(next.is_some(), earliest.is_some());
                prop_assert!(next <= earliest.map(|tick| tick.max(now / MS)));
            }
            // Following the wheel's own deadlines reaches every timer, each on its tick.
            while let Some(at) = wheel.next_deadline() {
                now = now.max(at.0);
                let expected: Vec<u32> =
                    model.iter().filter(|(_, (at, _))| at.div_ceil(MS) <= now / MS).map(|(n, _)| *n).collect();
                model.retain(|_, (at, _)| at.div_ceil(MS) > now / MS);
                prop_assert_eq!(fire(&mut wheel, now), expected);
            }
            prop_assert!(model.is_empty());
        }
    }
}
