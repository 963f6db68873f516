//! An open-loop publisher: message k is due at `k / rate`, whether or not the broker keeps up.
//!
//! Every message carries the time at which it was due, and latency is counted from there: a stall then
//! counts for every message that it delayed, not for one. How late the generator itself was is kept
//! beside it, so that its own failings are not taken for the broker's.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::body::Stamp;
use crate::link::Link;
use crate::producer::{Published, wide};
use crate::report::latency_histogram;
use crate::shared::Shared;
use crate::template::{Recipe, Template};
use crate::wire::{self, Frame};

/// Bytes that may wait for the broker before the run is given up: it is hopelessly behind.
const BACKLOG_BYTES_MAX: usize = 256 << 20;
/// Acknowledgements are not urgent; this often they are taken.
const ACK_INTERVAL_NS: u64 = 1_000_000;
/// How long the last acknowledgements may take.
const LAST_ACKS: Duration = Duration::from_secs(10);
/// Sends below this distance are not worth a sleep.
const SLEEP_MIN_NS: u64 = 2_000;

/// What is due when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// Messages per second.
    pub(crate) rate: u64,
    /// Messages in all.
    pub(crate) messages: u64,
    /// Least nanoseconds between two sends; what is due in between goes together.
    pub(crate) tick_ns: u64,
    /// Whether the time between is spent awake.
    pub(crate) spin: bool,
}

impl Schedule {
    /// When a message is due, in nanoseconds from the beginning.
    fn due_ns(&self, message: u64) -> u64 {
        let ns = u128::from(message) * 1_000_000_000 / u128::from(self.rate);
        u64::try_from(ns).expect("a run is shorter than 500 years")
    }
}

/// See the module. Messages go to the connections in turn; each connection is a stream.
pub(crate) struct Pacer {
    lanes: Vec<Lane>,
    shared: Arc<Shared>,
    schedule: Schedule,
    lateness: Histogram<u64>,
}

struct Lane {
    link: Link,
    template: Template,
    queued: u64,
    acked: u64,
    body_bytes: u64,
    output: Vec<u8>,
    sent: usize,
    last_ack: Option<Instant>,
}

impl Pacer {
    /// A publisher over the given connections.
    pub(crate) fn new(
        links: Vec<Link>,
        recipe: &Recipe,
        schedule: Schedule,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let lane = |(stream, mut link): (usize, Link)| {
            link.expect_traffic();
            Lane {
                link,
                template: Template::build(recipe, wide(stream)),
                queued: 0,
                acked: 0,
                body_bytes: 0,
                output: Vec::new(),
                sent: 0,
                last_ack: None,
            }
        };
        let lanes = links.into_iter().enumerate().map(lane).collect();
        Ok(Self {
            lanes,
            shared,
            schedule,
            lateness: latency_histogram(),
        })
    }

    /// Sends everything at its time and waits for the acknowledgements.
    ///
    /// # Errors
    /// A connection fails, the broker refuses, or it is too far behind.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut next = 0;
        let mut acks_at = 0;
        while next < self.schedule.messages && !self.shared.is_stopped() {
            let now_ns = self.shared.ns(Instant::now());
            while next < self.schedule.messages && self.schedule.due_ns(next) <= now_ns {
                self.queue(next, now_ns);
                next += 1;
            }
            let mut stuck = false;
            for lane in &mut self.lanes {
                stuck |= !lane.send()?;
            }
            if now_ns >= acks_at {
                self.take_acks()?;
                acks_at = now_ns + ACK_INTERVAL_NS;
            }
            self.wait(
                self.schedule
                    .due_ns(next)
                    .max(now_ns + self.schedule.tick_ns),
                stuck,
            )?;
        }
        self.finish()
    }

    /// What has been done.
    pub(crate) fn published(&self) -> Vec<Published> {
        let lanes = self.lanes.iter().enumerate();
        lanes
            .map(|(stream, lane)| Published {
                stream: u32::try_from(stream).expect("few connections"),
                messages: lane.acked,
                body_bytes: lane.body_bytes,
                last: lane.last_ack,
            })
            .collect()
    }

    /// How late messages were given to the kernel, in nanoseconds.
    pub(crate) fn lateness(&self) -> &Histogram<u64> {
        &self.lateness
    }

    fn queue(&mut self, message: u64, now_ns: u64) {
        let due_ns = self.schedule.due_ns(message);
        self.lateness.saturating_record(now_ns - due_ns);
        let count = wide(self.lanes.len());
        let index = usize::try_from(message % count).expect("below the number of connections");
        let stamp = Stamp {
            stream: u32::try_from(index).expect("few connections"),
            sequence: message / count,
            intended_ns: due_ns,
        };
        self.lanes[index].queue(stamp);
    }

    fn take_acks(&mut self) -> Result<()> {
        for lane in &mut self.lanes {
            let acked = lane.take_acks()?;
            self.shared.published.add(acked);
        }
        Ok(())
    }

    /// Sleeps until the next message is due, or until there is room in a socket that was full.
    fn wait(&self, until_ns: u64, stuck: bool) -> Result<()> {
        let left = until_ns.saturating_sub(self.shared.ns(Instant::now()));
        if self.schedule.spin || left < SLEEP_MIN_NS {
            return Ok(());
        }
        let full = self
            .lanes
            .iter()
            .filter(|lane| stuck && (!lane.output.is_empty() || lane.link.has_unsent()));
        let mut fds: Vec<PollFd<'_>> = full
            .map(|lane| PollFd::new(lane.link.as_fd(), PollFlags::POLLOUT))
            .collect();
        ppoll(
            &mut fds,
            Some(TimeSpec::from_duration(Duration::from_nanos(left))),
            None,
        )?;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let deadline = Instant::now() + LAST_ACKS;
        while self.lanes.iter().any(|lane| lane.acked < lane.queued) && !self.shared.is_stopped() {
            ensure!(
                Instant::now() < deadline,
                "the last publishes are not acknowledged in time"
            );
            for lane in &mut self.lanes {
                lane.send()?;
            }
            self.take_acks()?;
            self.wait(self.shared.ns(Instant::now()) + ACK_INTERVAL_NS, true)?;
        }
        Ok(())
    }
}

impl Lane {
    fn queue(&mut self, stamp: Stamp) {
        let slot = usize::try_from(self.queued % wide(self.template.len()))
            .expect("below the ring's length");
        self.template.stamp(slot, stamp);
        self.output.extend_from_slice(self.template.command(slot));
        self.body_bytes += wide(self.template.body_bytes(slot));
        self.queued += 1;
    }

    /// Whether everything has left.
    fn send(&mut self) -> Result<bool> {
        if self.link.has_unsent() {
            self.link.send(&[])?;
        }
        while self.sent < self.output.len() {
            let sent = self.link.send(&[IoSlice::new(&self.output[self.sent..])])?;
            if sent == 0 {
                ensure!(
                    self.output.len() < BACKLOG_BYTES_MAX,
                    "the broker is too far behind"
                );
                return Ok(false);
            }
            self.sent += sent;
        }
        self.output.clear();
        self.sent = 0;
        Ok(!self.link.has_unsent())
    }

    fn take_acks(&mut self) -> Result<u64> {
        let mut acked = 0;
        if self.acked == self.queued || !self.link.receive(false)? {
            return Ok(0);
        }
        loop {
            let oks = wire::count_oks(self.link.input.bytes());
            self.link.input.consume(oks * wire::OK_FRAME.len());
            acked += wide(oks);
            let Some((frame, used)) = wire::next_frame(self.link.input.bytes())? else {
                break;
            };
            match frame {
                // The output ends with a whole command, also when its front has been sent.
                Frame::Response(b"_heartbeat_") => self.output.extend_from_slice(wire::NOP),
                Frame::Response(text) | Frame::Error(text) => {
                    bail!("a publish is answered by {}", text.escape_ascii())
                }
                Frame::Message(_) => bail!("a publisher got a message"),
            }
            self.link.input.consume(used);
        }
        if acked > 0 {
            self.acked += acked;
            self.last_ack = Some(Instant::now());
            ensure!(
                self.acked <= self.queued,
                "the broker acknowledges more than was sent"
            );
        }
        Ok(acked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_evenly_and_without_drift() {
        let schedule = Schedule {
            rate: 3,
            messages: 10,
            tick_ns: 0,
            spin: false,
        };
        assert_eq!(schedule.due_ns(0), 0);
        assert_eq!(schedule.due_ns(1), 333_333_333);
        assert_eq!(schedule.due_ns(3), 1_000_000_000);
        assert_eq!(schedule.due_ns(3_000_000_000), 1_000_000_000_000_000_000);
    }
}
