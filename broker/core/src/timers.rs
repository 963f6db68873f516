//! Delivered runs, and the wheel on which they and everything else of a shard come due.
//!
//! A *run* is what one dispatch sent to one consumer: consecutive messages with one delivery timeout.
//! It has one entry on the wheel however many messages it holds; when the last of them is settled
//! the entry is cancelled. Owned by the shard. Hot path: O(1), no allocation once grown.
//!
//! Invariants: `remaining` is the number of slots in flight that name the run; a run in use has
//! `remaining > 0` and a timer that is set.

use crate::types::ChannelKey;
use crate::wheel::{Timer, Wheel};
use crate::{ConsumerKey, Now};

/// See the module documentation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) consumer: ConsumerKey,
    pub(crate) channel: ChannelKey,
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// Messages of it still in flight; 0 = the entry is free.
    pub(crate) remaining: u32,
    /// Bounds what TOUCH may add.
    pub(crate) delivered_at: Now,
    /// When all of it was published; meaningless where latency is not measured.
    pub(crate) published_at: Now,
    /// Node of the wheel.
    timer: u32,
}

/// The wheel and the table of runs.
#[derive(Debug)]
pub(crate) struct Timers {
    pub(crate) wheel: Wheel,
    runs: Vec<Run>,
    free: Vec<u32>,
}

/// What a new run is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRun {
    pub(crate) consumer: ConsumerKey,
    pub(crate) channel: ChannelKey,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) delivered_at: Now,
    pub(crate) published_at: Now,
}

impl Timers {
    pub(crate) fn new(now: Now) -> Self {
        Self {
            wheel: Wheel::new(now),
            runs: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Opens a run whose messages come back at `deadline`; its number.
    pub(crate) fn open_run(&mut self, new: NewRun, deadline: Now) -> u32 {
        debug_assert!(new.count > 0, "a run holds something");
        let number = self
            .free
            .pop()
            .unwrap_or_else(|| u32::try_from(self.runs.len()).expect("2^32 runs are 200 GB"));
        let NewRun {
            consumer,
            channel,
            first,
            count,
            delivered_at,
            published_at,
        } = new;
        let timer = self.wheel.insert(deadline, Timer::Run(number));
        let run = Run {
            consumer,
            channel,
            first,
            count,
            remaining: count,
            delivered_at,
            published_at,
            timer,
        };
        match self.runs.get_mut(number as usize) {
            Some(entry) => *entry = run,
            None => self.runs.push(run),
        }
        number
    }

    pub(crate) fn run(&self, number: u32) -> &Run {
        &self.runs[number as usize]
    }

    /// One message of the run is settled; the last one cancels the timer.
    pub(crate) fn settle(&mut self, number: u32) {
        let run = &mut self.runs[number as usize];
        run.remaining = run
            .remaining
            .checked_sub(1)
            .expect("a slot in flight names a live run");
        if run.remaining == 0 {
            self.wheel.cancel(run.timer);
            self.free.push(number);
        }
    }

    /// Takes a run off the wheel before its time; [`Self::expire_run`] is to follow.
    pub(crate) fn cancel_timeout(&mut self, number: u32) {
        self.wheel.cancel(self.runs[number as usize].timer);
    }

    /// The timer of the run has fired: closes it and returns what it was.
    pub(crate) fn expire_run(&mut self, number: u32) -> Run {
        let run = self.runs[number as usize];
        assert!(run.remaining > 0, "the timer of a settled run is cancelled");
        self.runs[number as usize].remaining = 0;
        self.free.push(number);
        run
    }

    /// The runs in use and their numbers.
    pub(crate) fn live_runs(&self) -> impl Iterator<Item = (u32, &Run)> {
        (0..).zip(&self.runs).filter(|(_, run)| run.remaining > 0)
    }
}

#[cfg(test)]
mod tests {
    use slotmap::KeyData;

    use super::*;

    fn new_run(first: u64, count: u32) -> NewRun {
        let consumer = ConsumerKey::from(KeyData::from_ffi(1 << 32));
        let channel = ChannelKey::from(KeyData::from_ffi(1 << 32));
        NewRun {
            consumer,
            channel,
            first,
            count,
            delivered_at: Now(0),
            published_at: Now(0),
        }
    }

    #[test]
    fn the_last_settled_message_cancels_the_timer() {
        let mut timers = Timers::new(Now(0));
        let run = timers.open_run(new_run(0, 2), Now(5_000_000));
        timers.settle(run);
        assert_eq!(timers.wheel.len(), 1);
        timers.settle(run);
        assert_eq!(timers.wheel.len(), 0);
        assert_eq!(
            timers.open_run(new_run(7, 1), Now(5_000_000)),
            run,
            "entries are reused"
        );
    }

    #[test]
    fn an_expired_run_tells_what_it_was() {
        let mut timers = Timers::new(Now(0));
        let number = timers.open_run(new_run(3, 4), Now(5_000_000));
        let mut fired = Vec::new();
        timers.wheel.expire(Now(5_000_000), &mut fired);
        assert_eq!(fired.len(), 1);
        assert_eq!(fired[0].1, Timer::Run(number));
        let run = timers.expire_run(number);
        assert_eq!((run.first, run.count), (3, 4));
        assert_eq!(timers.live_runs().count(), 0);
    }
}
