//! A consumer: takes messages, answers them by policy, keeps the books.
//!
//! Hot path: messages are walked in the receive buffer; the answers to one receive leave in one send.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

use crate::body::Stamp;
use crate::drive::Endpoint;
use crate::ledger::Ledger;
use crate::link::Link;
use crate::producer::wide;
use crate::shared::Shared;
use crate::wire::{self, Delivery, Frame};

/// How messages are answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// `RDY`.
    pub(crate) ready: u32,
    /// Finishes are held back for so long.
    pub(crate) delay: Duration,
    /// Answers that are gathered before they leave; what is older than a tick leaves anyway.
    pub(crate) batch: usize,
    /// Every so manieth message is requeued; 0: none.
    pub(crate) requeue_every: u64,
    /// Milliseconds that a requeued message stays away.
    pub(crate) requeue_ms: u64,
    /// Without a message for so long, the consumer goes.
    pub(crate) idle: Duration,
}

/// What the consumers of a channel on a thread have seen.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Kept when the run verifies.
    pub(crate) ledger: Option<Ledger>,
    /// Kept when the run measures latency.
    pub(crate) latency: Option<Histogram<u64>>,
}

/// What a consumer has done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Consumed {
    /// Messages finished.
    pub(crate) messages: u64,
    /// Bytes of their bodies.
    pub(crate) body_bytes: u64,
    /// Messages requeued.
    pub(crate) requeued: u64,
    /// Messages that came with attempts above 1.
    pub(crate) redelivered: u64,
    /// Messages behind a later one of their stream.
    pub(crate) reordered: u64,
    /// Deferred messages that came before they were due.
    pub(crate) early: u64,
    /// `E_FIN_FAILED` and `E_REQ_FAILED`.
    pub(crate) failed: u64,
    /// When the first and the last message came.
    pub(crate) span: Option<(Instant, Instant)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Consumer {
    link: Link,
    shared: Arc<Shared>,
    policy: Policy,
    requeue_tail: Vec<u8>,
    books: Rc<RefCell<Books>>,
    /// Answers that are being gathered, and how many.
    answers: Vec<u8>,
    gathered: usize,
    /// Answers held back, oldest first.
    held: VecDeque<(Instant, Vec<u8>)>,
    output: Vec<u8>,
    sent: usize,
    delivered: u64,
    /// Highest sequence so far, per stream.
    highest: Vec<u64>,
    counts: Consumed,
    over: bool,
}

impl Consumer {
    /// A consumer on a connection that has subscribed.
    pub(crate) fn new(
        mut link: Link,
        policy: &Policy,
        books: Rc<RefCell<Books>>,
        shared: Arc<Shared>,
    ) -> Self {
        link.expect_traffic();
        Self {
            link,
            shared,
            policy: policy.clone(),
            requeue_tail: format!(" {}\n", policy.requeue_ms).into_bytes(),
            books,
            answers: Vec::new(),
            gathered: 0,
            held: VecDeque::new(),
            output: Vec::new(),
            sent: 0,
            delivered: 0,
            highest: Vec::new(),
            counts: Consumed::default(),
            over: false,
        }
    }

    /// What has been done.
    pub(crate) fn consumed(&self) -> Consumed {
        self.counts
    }

    /// Sends all answers and says goodbye, so that the broker has taken every one of them.
    ///
    /// # Errors
    /// The connection has failed.
    pub(crate) fn close(&mut self) -> Result<()> {
        let mut rest = self.output.split_off(self.sent);
        rest.append(&mut self.answers);
        rest.extend(self.held.drain(..).flat_map(|(_, answers)| answers));
        rest.extend_from_slice(b"CLS\n");
        self.link.send_all(&rest)?;
        let failed = &mut self.counts.failed;
        // What is still on its way is not answered: the broker gives it to somebody else.
        self.link
            .expect_response(b"CLOSE_WAIT", |_| {})
            .or_else(|error| {
                let late = error.to_string().contains("_FAILED");
                *failed += u64::from(late);
                if late { Ok(()) } else { Err(error) }
            })
    }

    fn walk(&mut self, now: Instant) -> Result<()> {
        let before = self.counts.messages;
        let mut used = 0;
        let input = std::mem::take(&mut self.link.input);
        let mut shelf = self.books.take();
        while let Some((frame, len)) = wire::next_frame(&input.bytes()[used..])? {
            used += len;
            match frame {
                Frame::Message(delivery) => self.on_message(&delivery, now, &mut shelf),
                Frame::Response(b"_heartbeat_") => self.output.extend_from_slice(wire::NOP),
                Frame::Response(_) => {}
                Frame::Error(text) if is_late_answer(text) => self.counts.failed += 1,
                Frame::Error(text) => bail!("the broker complains: {}", text.escape_ascii()),
            }
        }
        self.books.replace(shelf);
        self.link.input = input;
        self.link.input.consume(used);
        self.finish_walk(self.counts.messages - before, now);
        Ok(())
    }

    fn on_message(&mut self, delivery: &Delivery<'_>, now: Instant, books: &mut Books) {
        self.delivered += 1;
        self.gathered += 1;
        self.counts.redelivered += u64::from(delivery.attempts > 1);
        if self.policy.requeue_every > 0 && self.delivered.is_multiple_of(self.policy.requeue_every)
        {
            self.counts.requeued += 1;
            wire::put_requeue(&mut self.answers, delivery.id, &self.requeue_tail);
            return;
        }
        self.counts.messages += 1;
        self.counts.body_bytes += wide(delivery.body.len());
        wire::put_finish(&mut self.answers, delivery.id);
        if books.ledger.is_some() || books.latency.is_some() {
            self.book(delivery, now, books);
        }
    }

    fn book(&mut self, delivery: &Delivery<'_>, now: Instant, books: &mut Books) {
        let stamp = Stamp::read(delivery.body);
        if let (Some(histogram), Some(stamp)) = (&mut books.latency, stamp) {
            let now_ns = self.shared.ns(now);
            histogram.saturating_record(now_ns.saturating_sub(stamp.intended_ns));
            self.counts.early += u64::from(now_ns < stamp.intended_ns);
        }
        let Some(ledger) = &mut books.ledger else {
            return;
        };
        let Some(stamp) = stamp else {
            return ledger.record_foreign();
        };
        ledger.record(stamp.stream, stamp.sequence);
        self.note_order(stamp, delivery.attempts);
    }

    fn note_order(&mut self, stamp: Stamp, attempts: u16) {
        const STREAMS_TRACKED: usize = 1 << 16;
        let stream = usize::try_from(stamp.stream).unwrap_or(usize::MAX);
        // What comes again comes late by nature.
        if stream >= STREAMS_TRACKED || attempts > 1 {
            return;
        }
        if self.highest.len() <= stream {
            self.highest.resize(stream + 1, 0);
        }
        let highest = &mut self.highest[stream];
        self.counts.reordered += u64::from(stamp.sequence < *highest);
        *highest = stamp.sequence.max(*highest);
    }

    fn finish_walk(&mut self, finished: u64, now: Instant) {
        if finished > 0 {
            let first = self.counts.span.map_or(now, |(first, _)| first);
            self.counts.span = Some((first, now));
            self.shared.latest_ns.set(self.shared.ns(now));
            let all = self.shared.consumed.add(finished);
            self.over |= all >= self.shared.expected.get();
        }
        if self.gathered >= self.policy.batch {
            self.release(now);
        }
    }

    /// What has been gathered leaves, or is held back first.
    fn release(&mut self, now: Instant) {
        self.gathered = 0;
        if self.policy.delay.is_zero() {
            self.output.append(&mut self.answers);
        } else if !self.answers.is_empty() {
            let answers = std::mem::take(&mut self.answers);
            self.held.push_back((now + self.policy.delay, answers));
        }
    }

    fn send(&mut self) -> Result<()> {
        if self.link.has_unsent() {
            self.link.send(&[])?;
        }
        while self.sent < self.output.len() {
            let sent = self.link.send(&[IoSlice::new(&self.output[self.sent..])])?;
            if sent == 0 {
                return Ok(());
            }
            self.sent += sent;
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }
}

impl Endpoint for Consumer {
    fn fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    fn start(&mut self) -> Result<()> {
        wire::put_ready(&mut self.output, self.policy.ready);
        self.send()
    }

    fn on_ready(&mut self, wait: bool) -> Result<()> {
        if self.link.receive(wait)? {
            self.walk(Instant::now())?;
        }
        self.send()
    }

    fn on_tick(&mut self, now: Instant) -> Result<()> {
        self.release(now);
        while self.held.front().is_some_and(|(due, _)| *due <= now) {
            self.output.extend(
                self.held
                    .pop_front()
                    .map(|(_, answers)| answers)
                    .unwrap_or_default(),
            );
        }
        self.over |= self.shared.is_stopped()
            || self.shared.consumed.get() >= self.shared.expected.get()
            || self.shared.quiet_for(now) >= self.policy.idle;
        self.send()
    }

    fn wants_write(&self) -> bool {
        self.sent < self.output.len() || self.link.has_unsent()
    }

    fn done(&self) -> bool {
        self.over
    }
}

/// Answers that came too late are refused; that is no breach of the protocol, but it is counted.
fn is_late_answer(text: &[u8]) -> bool {
    [&b"E_FIN_FAILED"[..], b"E_REQ_FAILED", b"E_TOUCH_FAILED"]
        .iter()
        .any(|code| text.starts_with(code))
}
