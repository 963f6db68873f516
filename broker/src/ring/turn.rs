//! The ring itself: starting operations, and the turn that submits, waits and reaps.

#![expect(
    unsafe_code,
    reason = "submission entries point into the operation table"
)]

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use io_uring::cqueue;
use nsq_core::Now;

use super::buffers::{Buffers, GROUP};
use super::direct::DirectFiles;
use super::doorbell::Doorbell;
use super::endpoints::Endpoints;
use super::gather::Gathering;
use super::ops::{Op, OpId, Ops};
use super::pool::Pool;
use super::queue::Queue;
use super::route::Route;
use super::stage::Stage;
use super::{Completion, RingOptions, Wait};
use crate::clock::Clock;

/// One read-ahead of a log (512 KiB), with what alignment adds at either end.
const READ_BUFFER_BYTES: usize = 520 * 1024;
/// 31 MiB: what channels that lag behind hold between reading and sending.
const READ_BUFFERS: usize = 62;
/// How often buffers that are not needed any more are given back.
const TRIM_EVERY: Duration = Duration::from_secs(5);

/// Takes completions.
pub(super) type Sink<'a> = dyn FnMut(Completion<'_>) + 'a;

/// The io_uring of one shard. Used by the thread that made it and no other.
///
/// Dropping it cancels what is in flight and waits for the kernel to let go.
pub struct Ring {
    /// Before `buffers`: the ring goes first.
    pub(super) queue: Queue,
    pub(super) buffers: Buffers,
    pub(super) ops: Ops,
    pub(super) endpoints: Endpoints,
    /// Accepting listeners by tag. A handful.
    pub(super) listeners: Vec<(u32, OpId)>,
    /// Receives that found all buffers taken, and ids of some that were ended since.
    pub(super) starved: VecDeque<OpId>,
    /// Outcomes that needed no kernel round trip, for [`Ring::settle`] or the next turn.
    pub(super) ready: VecDeque<Ready>,
    pub(super) route: Route,
    pub(super) direct: DirectFiles,
    pub(super) gathering: Gathering,
    /// What direct writes are made from; without one there are none.
    pub(super) stage: Option<Stage>,
    /// What large reads are read into.
    pub(super) reading: Pool,
    /// When the pools are trimmed next.
    trim_at: Now,
    pub(super) clock: Clock,
    doorbell: Doorbell,
    /// Being dropped: nothing is armed again.
    pub(super) closing: bool,
}

/// An outcome known at once.
pub(super) enum Ready {
    Accepted { token: u64 },
    Written { token: u64, result: io::Result<()> },
    ReadFailed { token: u64, error: io::Error },
    Stopped { tag: u64 },
}

impl Ring {
    /// Makes the ring of the calling thread.
    ///
    /// # Errors
    /// What the kernel refuses: see [`preflight`](crate::preflight) for the likely causes.
    pub fn new(options: RingOptions) -> io::Result<Self> {
        Self::with_queue(options, Queue::new(options.entries)?)
    }

    pub(super) fn with_queue(options: RingOptions, queue: Queue) -> io::Result<Self> {
        let buffers = Buffers::new(options.recv_buffers, options.recv_buffer_bytes)?;
        buffers.register(&queue.submitter())?;
        let doorbell = Doorbell::new()?;
        let mut ring = Self {
            queue,
            buffers,
            ops: Ops::default(),
            endpoints: Endpoints::default(),
            listeners: Vec::new(),
            starved: VecDeque::new(),
            ready: VecDeque::new(),
            route: Route::new(options.segment_io),
            direct: DirectFiles::default(),
            gathering: Gathering::default(),
            stage: None,
            reading: Pool::new(READ_BUFFER_BYTES, READ_BUFFERS),
            trim_at: Now(0),
            clock: Clock::start(),
            doorbell: doorbell.clone(),
            closing: false,
        };
        ring.start(Op::Doorbell(doorbell));
        // Armed before anyone can ring it.
        ring.queue.enter(None)?;
        Ok(ring)
    }

    /// Lets writes go around the page cache, where [`RingOptions::segment_io`] says so: they
    /// are kept in a stage at `path`, for files below `data_path` (both absolute), until the device
    /// has them. [`redo`](crate::stage::redo) must have been called before.
    pub fn keep_writes_in(&mut self, data_path: PathBuf, path: PathBuf) {
        self.stage = Some(Stage::new(data_path, path));
    }

    /// What other threads wake this ring with.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// Submits what was queued and hands every completion to `on`; returns how many there were.
    ///
    /// With [`Wait::Until`] and nothing to hand over, parks the thread: `is_idle` is asked, after
    /// the doorbell has been made ready, whether there is really nothing else to do. It must look
    /// at every mailbox whose senders ring this doorbell. A turn that a doorbell has ended
    /// may return 0, and a turn may end early for no reason.
    ///
    /// # Errors
    /// Only if the ring itself is broken; outcomes of operations are completions.
    pub fn turn(
        &mut self,
        wait: Wait,
        is_idle: impl Fn() -> bool,
        mut on: impl FnMut(Completion<'_>),
    ) -> io::Result<usize> {
        let mut delivered = 0;
        let mut sink = |completion: Completion<'_>| {
            delivered += 1;
            on(completion);
        };
        self.direct.sweep();
        self.enter(wait, is_idle)?;
        self.deliver_ready(&mut sink);
        self.reap(&mut sink);
        Ok(delivered)
    }

    /// Hands what needed no kernel round trip to `on` now, and not in the next turn; returns how many
    /// completions there were. What `on` asks of the ring meanwhile is answered later.
    pub fn settle(&mut self, mut on: impl FnMut(Completion<'_>)) -> usize {
        let mut delivered = 0;
        self.deliver_ready(&mut |completion| {
            delivered += 1;
            on(completion);
        });
        delivered
    }

    /// Starts an operation; the table owns what the kernel touches.
    pub(super) fn start(&mut self, op: Op) -> OpId {
        let id = self.ops.insert(op);
        self.rearm(id);
        id
    }

    /// Submits what is left to do of an operation that the kernel has let go of.
    pub(super) fn rearm(&mut self, id: OpId) {
        if self.closing {
            drop(self.ops.remove(id));
            return;
        }
        let op = self
            .ops
            .get_mut(id)
            .expect("armed operations are in the table");
        let entry = op.entry().user_data(id.user_data());
        // SAFETY: the entry points at memory owned by `op` at a stable address (heap or
        // descriptor), and `op` stays in the table until its last completion.
        unsafe { self.queue.push(entry) };
    }

    fn enter(&mut self, wait: Wait, is_idle: impl Fn() -> bool) -> io::Result<()> {
        self.feed_starved();
        let gathered_in = self.end_gathering();
        let nothing_to_do =
            self.ready.is_empty() && self.starved.is_empty() && self.queue.ready() == 0;
        let timeout = match wait {
            Wait::Until(timeout) if nothing_to_do => {
                gathered_in.map_or(timeout, |at| timeout.min(at))
            }
            Wait::Until(_) | Wait::No => return self.queue.enter(None),
        };
        self.trim();
        self.doorbell.park();
        let outcome = self.queue.enter(is_idle().then_some(timeout));
        self.doorbell.unpark();
        outcome
    }

    /// Gives back memory that large reads and writes no longer need. Done before parking: a ring
    /// that does not park is at work.
    fn trim(&mut self) {
        let is_staging = self.stage.as_ref().is_some_and(Stage::is_made);
        if !is_staging && self.reading.is_empty() {
            return;
        }
        let now = self.clock.now();
        if now >= self.trim_at {
            self.trim_at = now.after(TRIM_EVERY);
            if let Some(stage) = &mut self.stage {
                stage.trim();
            }
            self.reading.trim();
        }
    }

    fn deliver_ready(&mut self, sink: &mut Sink<'_>) {
        while let Some(ready) = self.ready.pop_front() {
            match ready {
                Ready::Accepted { token } => sink(Completion::WriteAccepted { token }),
                Ready::Written { token, result } => sink(Completion::Written { token, result }),
                Ready::ReadFailed { token, error } => {
                    sink(Completion::Read {
                        token,
                        result: Err(error),
                    });
                }
                // Unless the tag was forgotten in the meantime.
                Ready::Stopped { tag } if self.endpoints.take_stopped(tag) => {
                    sink(Completion::ReceiveStopped { tag });
                }
                Ready::Stopped { .. } => {}
            }
        }
    }

    /// Takes the completions that are there now; those that come meanwhile wait for their turn.
    fn reap(&mut self, sink: &mut Sink<'_>) {
        for _ in 0..self.queue.ready() {
            let Some(cqe) = self.queue.pop() else { return };
            self.complete(&cqe, sink);
        }
    }

    fn complete(&mut self, cqe: &cqueue::Entry, sink: &mut Sink<'_>) {
        let Some(id) = OpId::from_user_data(cqe.user_data()) else {
            return;
        };
        match self.ops.get_mut(id) {
            Some(Op::Receive(_)) => self.on_receive(id, cqe, sink),
            Some(Op::Writable(_)) => self.on_writable(id, sink),
            Some(Op::Write(_)) => self.on_write(id, cqe.result(), sink),
            Some(Op::Direct(_)) => self.on_direct(id, cqe.result(), sink),
            Some(Op::Read(_)) => self.on_read(id, cqe.result(), sink),
            Some(Op::Sync { .. }) => self.on_sync(id, cqe.result(), sink),
            Some(Op::Accept(_)) => self.on_accept(id, cqe, sink),
            Some(Op::Doorbell(_)) if cqueue::more(cqe.flags()) => {}
            Some(Op::Doorbell(_)) => self.rearm(id),
            None => debug_assert!(false, "an operation completed after its last completion"),
        }
    }

    /// Ends everything in flight. True once the kernel holds nothing of ours any more.
    fn close(&mut self) -> bool {
        while !self.starved.is_empty() {
            // They end by a completion only if the kernel has them.
            self.feed_starved();
        }
        self.closing = true;
        for id in self.ops.ids() {
            self.queue.cancel(id);
        }
        while self.ops.in_flight() > 0 {
            if self.queue.enter(Some(CLOSE_STEP)).is_err() {
                return false;
            }
            self.reap(&mut |completion| drop(completion));
        }
        self.queue.submitter().unregister_buf_ring(GROUP).is_ok()
    }
}

/// How long one wait for cancelled operations lasts before the next look.
const CLOSE_STEP: Duration = Duration::from_secs(1);

impl Drop for Ring {
    fn drop(&mut self) {
        let released = self.close();
        self.queue.release();
        if !released {
            // Freeing memory that the kernel may still write to would corrupt whatever comes to
            // live there. It cannot happen short of a broken kernel, so losing the process is no
            // loss.
            std::process::abort();
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("in_flight", &self.ops.in_flight())
            .finish_non_exhaustive()
    }
}
