//! What comes due.

use super::Shard;
use crate::types::ChannelKey;
use crate::wheel::Timer;
use crate::{ConsumerKey, Deadline, Effect, Now, TimerKey};

impl Shard {
    /// Fires everything due at `now`.
    pub fn advance(&mut self, now: Now) {
        self.observe(now);
        let mut fired = std::mem::take(&mut self.lists.fired);
        self.timers.wheel.expire(now, &mut fired);
        for (_, timer) in fired.drain(..) {
            match timer {
                Timer::Run(number) => self.time_out(number),
                Timer::Deferred { channel, sequence } => self.come_due(channel, sequence),
                Timer::Shell(deadline) => self.effects.push_back(Effect::Due(deadline)),
            }
        }
        self.lists.fired = fired;
    }

    /// When to call `advance` next at the latest; `None` when nothing is scheduled. For what is far
    /// away it may name an earlier time than anything fires at.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Now> {
        self.timers.wheel.next_deadline()
    }

    /// Schedules an [`Effect::Due`], never early, at most a millisecond late.
    pub fn schedule(&mut self, at: Now, deadline: Deadline) -> TimerKey {
        let index = self.timers.wheel.insert(at, Timer::Shell(deadline));
        self.timers.wheel.key(index)
    }

    /// No effect on one that fired.
    pub fn cancel(&mut self, timer: TimerKey) {
        self.timers.wheel.cancel_key(timer);
    }

    /// The delivery timeout of a run: what is still in flight of it is delivered again.
    fn time_out(&mut self, number: u32) {
        let run = self.timers.expire_run(number);
        let channel = &mut self.channels[run.channel];
        let count = channel.time_out(number, run.first..run.first + u64::from(run.count));
        debug_assert_eq!(
            count,
            u64::from(run.remaining),
            "slots in flight name their run"
        );
        if let Some(consumer) = self.consumers.get_mut(run.consumer) {
            consumer.stats.in_flight_count -= count;
            self.wake(run.consumer);
        }
        self.mark_channel(run.channel);
    }

    /// Everything in flight to this consumer times out now. Looks through the runs of the shard.
    pub(super) fn time_out_all_of(&mut self, consumer: ConsumerKey) {
        let runs = self.timers.live_runs();
        let runs: Vec<u32> = runs
            .filter(|(_, run)| run.consumer == consumer)
            .map(|(number, _)| number)
            .collect();
        for number in runs {
            self.timers.cancel_timeout(number);
            self.time_out(number);
        }
    }

    /// A deferral is over.
    fn come_due(&mut self, channel: ChannelKey, sequence: u64) {
        self.channels[channel].come_due(sequence);
        self.mark_channel(channel);
    }
}
