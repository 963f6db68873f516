//! A closed-loop publisher: keeps so many commands unanswered, no more and no fewer.
//!
//! Hot path: per command some arithmetic, per wake-up one receive and one send; stamps, when wanted,
//! cost 24 bytes per message.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::body::{Dice, Stamp};
use crate::drive::Endpoint;
use crate::link::Link;
use crate::shared::Shared;
use crate::template::{Deferral, Recipe, Template};
use crate::wire::{self, Frame};

/// When to stop sending.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Commands of this connection.
    pub(crate) commands: u64,
    /// How long commands are sent.
    pub(crate) time: Option<Duration>,
}

/// See the module.
///
/// - `acked <= queued`, and `queued - acked <= depth` which is below the ring's length.
#[derive(Debug)]
pub(crate) struct Producer {
    link: Link,
    shared: Arc<Shared>,
    template: Template,
    stamped: bool,
    deferral: Option<(Deferral, Dice)>,
    stream: u32,
    depth: u64,
    budget: Budget,
    /// When the budget's time ends.
    until: Option<Instant>,
    over: bool,
    queued: u64,
    acked: u64,
    /// The first unsent byte of the ring, and how many are unsent from there on.
    at: usize,
    unsent: usize,
    heartbeats: usize,
    body_bytes: u64,
    last_ack: Option<Instant>,
}

/// What a publisher has done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    /// Which stream.
    pub(crate) stream: u32,
    /// Messages acknowledged.
    pub(crate) messages: u64,
    /// Bytes of their bodies.
    pub(crate) body_bytes: u64,
    /// When the last acknowledgement came.
    pub(crate) last: Option<Instant>,
}

impl Producer {
    /// A publisher on a connection of its own.
    ///
    /// # Errors
    /// As the compression's.
    pub(crate) fn new(
        mut link: Link,
        recipe: &Recipe,
        stream: u32,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        link.expect_traffic();
        let mut template = Template::build(recipe, u64::from(stream));
        // A stamp changes the command with every sending, and then it is compressed with every sending.
        if let (Some(compression), false) = (link.compression(), recipe.stamped) {
            template.compress(compression)?;
        }
        Ok(Self {
            link,
            shared,
            template,
            stamped: recipe.stamped,
            deferral: recipe
                .deferral
                .map(|deferral| (deferral, Dice::new(u64::from(stream)))),
            stream,
            depth: wide(recipe.depth),
            budget: Budget {
                commands: 0,
                time: None,
            },
            until: None,
            over: false,
            queued: 0,
            acked: 0,
            at: 0,
            unsent: 0,
            heartbeats: 0,
            body_bytes: 0,
            last_ack: None,
        })
    }

    /// Says when to stop.
    pub(crate) fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    /// What has been done.
    pub(crate) fn published(&self) -> Published {
        Published {
            stream: self.stream,
            messages: self.acked * wide(self.template.messages_per_command()),
            body_bytes: self.body_bytes,
            last: self.last_ack,
        }
    }

    fn acknowledge(&mut self) -> Result<()> {
        let oks = wire::count_oks(self.link.input.bytes());
        self.link.input.consume(oks * wire::OK_FRAME.len());
        self.on_oks(wide(oks))?;
        while let Some((frame, used)) = wire::next_frame(self.link.input.bytes())? {
            let mut ok = 0;
            match frame {
                Frame::Response(b"OK") => ok = 1,
                Frame::Response(b"_heartbeat_") => self.heartbeats += 1,
                Frame::Response(text) => {
                    bail!("a publish is answered by {}", text.escape_ascii())
                }
                Frame::Error(text) => bail!("a publish is answered by {}", text.escape_ascii()),
                Frame::Message(_) => bail!("a publisher got a message"),
            }
            self.link.input.consume(used);
            self.on_oks(ok)?;
        }
        Ok(())
    }

    fn on_oks(&mut self, oks: u64) -> Result<()> {
        if oks == 0 {
            return Ok(());
        }
        ensure!(
            oks <= self.queued - self.acked,
            "the broker acknowledges more than was sent"
        );
        for command in self.acked..self.acked + oks {
            self.body_bytes += wide(self.template.body_bytes(self.slot(command)));
        }
        self.acked += oks;
        self.last_ack = Some(Instant::now());
        self.shared
            .published
            .add(oks * wide(self.template.messages_per_command()));
        Ok(())
    }

    fn refill(&mut self) {
        // A NOP may only go between commands, so they pause until all that is queued has left.
        if self.heartbeats > 0 || self.over {
            return;
        }
        self.over = self.queued >= self.budget.commands
            || self
                .until
                .is_some_and(|until| self.last_ack.is_some_and(|at| at >= until));
        let end = (self.acked + self.depth).min(self.budget.commands);
        while self.queued < end && !self.over {
            let slot = self.slot(self.queued);
            if self.stamped {
                self.stamp(slot);
            }
            self.unsent += self.template.command(slot).len();
            self.queued += 1;
        }
    }

    fn stamp(&mut self, slot: usize) {
        let mut intended_ns = 0;
        if let Some((deferral, dice)) = &mut self.deferral {
            let ms = deferral.draw_ms(dice);
            self.template.set_deferral(slot, ms);
            // The broker counts from when it gets the command, which is not before now.
            intended_ns = self.shared.ns(Instant::now()) + ms * 1_000_000;
        }
        let sequence = self.queued * wide(self.template.messages_per_command());
        let stamp = Stamp {
            stream: self.stream,
            sequence,
            intended_ns,
        };
        self.template.stamp(slot, stamp);
    }

    fn send(&mut self) -> Result<()> {
        if self.link.has_unsent() {
            self.link.send(&[])?;
        }
        while self.unsent > 0 {
            let ring = &self.template.bytes;
            let first = &ring[self.at..ring.len().min(self.at + self.unsent)];
            let second = &ring[..self.unsent - first.len()];
            let parts = [IoSlice::new(first), IoSlice::new(second)];
            let sent = match self.stamped {
                true => self.link.send(&parts)?,
                false => self.link.send_compressed(&parts)?,
            };
            self.at = (self.at + sent) % ring.len();
            self.unsent -= sent;
            if sent == 0 {
                return Ok(());
            }
        }
        if self.heartbeats > 0 {
            self.link.send_all(&wire::NOP.repeat(self.heartbeats))?;
            self.heartbeats = 0;
            self.refill();
        }
        Ok(())
    }

    fn slot(&self, command: u64) -> usize {
        usize::try_from(command % wide(self.template.len())).expect("below the ring's length")
    }
}

impl Endpoint for Producer {
    fn fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    fn start(&mut self) -> Result<()> {
        self.until = self.budget.time.map(|time| Instant::now() + time);
        self.refill();
        self.send()
    }

    fn on_ready(&mut self, wait: bool) -> Result<()> {
        if self.link.receive(wait)? {
            self.acknowledge()?;
            self.refill();
        }
        self.send()
    }

    fn on_tick(&mut self, now: Instant) -> Result<()> {
        self.over |= self.shared.is_stopped() || self.until.is_some_and(|until| now >= until);
        Ok(())
    }

    fn wants_write(&self) -> bool {
        self.unsent > 0 || self.heartbeats > 0 || self.link.has_unsent()
    }

    fn done(&self) -> bool {
        self.shared.is_stopped() || (self.over && self.acked == self.queued)
    }
}

/// A size as a counter.
pub(crate) fn wide(size: usize) -> u64 {
    u64::try_from(size).expect("a size fits 64 bits")
}
