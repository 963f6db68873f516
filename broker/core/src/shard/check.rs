//! The invariants between the parts of a shard.

use super::Shard;
use crate::channel::window::State;
use crate::types::ChannelKey;

impl Shard {
    /// Asserts everything that must hold between two calls. Costs time in proportion to the state:
    /// for tests and simulations.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn check_invariants(&self) {
        let mut listed = 0;
        for (key, topic) in &self.topics {
            topic.tail.check_invariants();
            assert_eq!(self.names.get(&topic.name), Some(&key));
            assert!(topic.backlog.pump <= topic.head());
            assert_eq!(topic.agenda.dirty, self.lists.dirty.contains(&key));
            for &channel in &topic.channels {
                assert_eq!(self.channels[channel].topic, key);
                self.check_channel(channel);
            }
            listed += topic.channels.len();
        }
        assert_eq!(
            listed,
            self.channels.len(),
            "every channel belongs to a topic"
        );
        assert_eq!(self.names.len(), self.topics.len());
        self.check_runs();
        self.check_cache();
        self.check_kept();
    }

    /// What an ephemeral topic has kept of its tail somebody still owes.
    fn check_kept(&self) {
        for (key, topic) in self.topics.iter().filter(|(_, topic)| topic.ephemeral) {
            for (first, chunk) in topic.reads.iter() {
                assert!(
                    self.owes_outlier(key, first, first + chunk.count()),
                    "{first} is kept for nobody"
                );
            }
        }
    }

    fn check_channel(&self, key: ChannelKey) {
        let channel = &self.channels[key];
        channel.check_invariants(&self.timers);
        let pump = self.topics[channel.topic].backlog.pump;
        assert!(channel.floor(pump) <= pump);
        assert!(
            !channel.owes(pump, u64::MAX),
            "nothing is owed that was not pumped"
        );
        let mut waiting: Vec<_> = channel.crowd.all_ready().collect();
        waiting.sort_unstable();
        waiting.dedup();
        assert_eq!(
            waiting.len(),
            channel.crowd.all_ready().count(),
            "a consumer is queued twice"
        );
        for member in &channel.crowd.members {
            let consumer = &self.consumers[*member];
            assert_eq!(consumer.channel, key);
            assert_eq!(consumer.queued, waiting.contains(member));
            assert!(
                consumer.queued || consumer.spare() == 0,
                "a ready consumer was forgotten"
            );
            let runs = self
                .timers
                .live_runs()
                .filter(|(_, run)| run.consumer == *member);
            let in_flight: u64 = runs.map(|(_, run)| u64::from(run.remaining)).sum();
            assert_eq!(in_flight, consumer.stats.in_flight_count);
        }
        for (sequence, slot) in channel.window.unfinished() {
            if slot.state == State::InFlight {
                assert_eq!(
                    self.timers.run(slot.key).channel,
                    key,
                    "the run of {sequence}"
                );
            }
        }
    }

    fn check_runs(&self) {
        let mut deferred = 0;
        let mut in_flight = 0;
        for channel in self.channels.values() {
            deferred += channel.counters.deferred_count;
            in_flight += channel.counters.in_flight_count;
        }
        let remaining: u64 = self
            .timers
            .live_runs()
            .map(|(_, run)| u64::from(run.remaining))
            .sum();
        assert_eq!(remaining, in_flight, "runs and slots in flight");
        let runs = self.timers.live_runs().count() as u64;
        assert!(
            self.timers.wheel.len() as u64 >= runs + deferred,
            "each has a timer"
        );
    }

    fn check_cache(&self) {
        let (mut bytes, mut read_bytes, mut unwritten, mut counts) = (0, 0, 0, (0, 0));
        let mut planned = 0;
        for topic in self.topics.values().filter(|topic| !topic.ephemeral) {
            let lent = topic
                .tail
                .chunks()
                .take_while(|chunk| chunk.first < topic.tail.lent());
            let lent: Vec<usize> = lent.map(|chunk| chunk.bytes.len()).collect();
            counts.0 += lent.len();
            bytes += lent.iter().sum::<usize>();
            planned += topic.fetches.planned_bytes();
            counts.1 += topic.reads.iter().count();
            read_bytes += topic
                .reads
                .iter()
                .map(|(_, chunk)| chunk.cost())
                .sum::<usize>();
            if topic.poisoned.is_none() {
                unwritten += topic.tail.unwritten_bytes();
            }
        }
        assert_eq!(self.cache.bytes, bytes + read_bytes);
        assert_eq!(self.cache.read_bytes, read_bytes);
        assert_eq!(self.cache.planned_bytes, planned);
        assert_eq!(self.cache.unwritten_bytes, unwritten);
        assert_eq!(self.cache.counts(), counts);
    }
}
