//! The one task that drives a shard: it owns the ring and turns the crank.
//!
//! A turn: submit and reap the ring, drain the mailbox, let the ring write what was published, finish
//! the turn, queue what the ring is to do next. Between turns other tasks of the executor (HTTP) get
//! to run when one of them was woken. With nothing to do the driver first spins, where that pays off
//! (`spin`), and then parks the thread inside the ring (`io_uring_enter` with a timeout), which is
//! where every socket, file and doorbell wakes it. See `ARCHITECTURE.md` for the measurement behind
//! parking there and not in glommio's reactor.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use nsq_core::Now;
use slotmap::SlotMap;

use super::cell::{Gateway, ShardCell};
use super::http_socket::{HttpStream, StopNotice};
use super::message::ShardMessage;
use super::socket::{RingOp, Socket};
use super::spin::Spin;
use super::{Shard, SocketKey};
use crate::http;
use crate::mailbox::Mailbox;
use crate::ring::{Ring, Wait};
use crate::shared::Shared;

/// Messages taken from the mailbox per turn.
const MAILBOX_BUDGET: usize = 256;
/// Longest sleep, so that nothing depends on a wake-up alone.
const PARK_MAX: Duration = Duration::from_secs(10);

/// What the driver owns besides the shard.
pub(crate) struct Driver {
    pub(crate) cell: ShardCell,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ring: Ring,
    pub(crate) mailbox: Mailbox<ShardMessage>,
    /// By listener tag.
    pub(crate) listeners: Vec<Option<Rc<OwnedFd>>>,
}

/// What a turn leaves.
struct AfterTurn {
    now: Now,
    /// How long the driver may sleep.
    wait: Duration,
    /// There is more to do at once.
    busy: bool,
    /// See [`Shard::work`].
    work: u64,
    /// The shard has ended.
    stopped: bool,
}

impl Driver {
    /// Drives the shard until it has stopped.
    ///
    /// # Errors
    /// When the ring itself breaks: the process is to end then.
    pub(crate) async fn run(mut self) -> std::io::Result<()> {
        let runnable = Arc::new(Runnable::default());
        let mut spin = Spin::new(self.shared.settings.spin);
        let mut wait = Wait::No;
        loop {
            let events = self.turn(wait)?;
            self.spawn_http(&runnable);
            if runnable.take() {
                YieldOnce(false).await;
            }
            let AfterTurn {
                now,
                wait: next,
                busy,
                work,
                stopped,
            } = self.cell.with(|shard| shard.after_turn());
            if stopped {
                return Ok(());
            }
            let busy = busy || events > 0 || runnable.is_set() || !self.mailbox.is_empty();
            wait = if busy {
                spin.on_event(now, work);
                Wait::No
            } else if spin.on_idle(now, work) {
                // Whoever else has work on this core goes first.
                std::thread::yield_now();
                Wait::No
            } else {
                Wait::Until(next)
            };
            if busy {
                // Long stretches of work still let glommio look after its own.
                glommio::yield_if_needed().await;
            }
        }
    }

    fn turn(&mut self, wait: Wait) -> std::io::Result<usize> {
        let Self {
            cell,
            ring,
            mailbox,
            ..
        } = self;
        let mut begun = false;
        let mut events = ring.turn(
            wait,
            || mailbox.is_empty(),
            |completion| {
                cell.with(|shard| {
                    if !begun {
                        shard.begin_turn();
                        begun = true;
                    }
                    shard.on_completion(completion);
                });
            },
        )?;
        cell.with(|shard| {
            if !begun {
                shard.begin_turn();
            }
            events += mailbox.drain(MAILBOX_BUDGET, |message| shard.on_message(message));
            shard.take_in();
            shard.hand_over_ring_ops(|sockets, op| submit(ring, &self.listeners, sockets, op));
            events += ring.settle(|completion| shard.on_completion(completion));
            shard.finish_turn();
            shard.wake_tasks();
            shard.hand_over_ring_ops(|sockets, op| submit(ring, &self.listeners, sockets, op));
        });
        Ok(events)
    }

    fn spawn_http(&self, runnable: &Arc<Runnable>) {
        for new in self.cell.with(Shard::take_new_http) {
            let stream = HttpStream::new(self.cell.clone(), new.key);
            let stop = StopNotice::new(self.cell.clone(), new.key);
            let gateway = Gateway::new(self.cell.clone(), Arc::clone(&self.shared));
            let https_only = self.shared.settings.https_only;
            runnable.set();
            if let Some(config) = new.tls {
                let task = http::serve_tls(stream, config, new.remote, gateway, stop);
                glommio::spawn_local(Tracked::new(task, Arc::clone(runnable))).detach();
            } else {
                let task = http::serve_connection(stream, new.remote, gateway, https_only, stop);
                glommio::spawn_local(Tracked::new(task, Arc::clone(runnable))).detach();
            }
        }
    }
}

impl Shard {
    fn after_turn(&mut self) -> AfterTurn {
        let now = self.clock.now();
        let mut next = now.after(PARK_MAX);
        let gathering = self.gathering.front().map(|(_, until)| *until);
        for deadline in [self.core.next_deadline(), self.stop_deadline(), gathering]
            .into_iter()
            .flatten()
        {
            next = next.min(deadline);
        }
        let busy = self.touched || !self.ring_ops.is_empty() || !self.flush_queue.is_empty();
        let wait = if self.has_outbox_backlog() {
            Duration::from_micros(50)
        } else {
            Duration::from_nanos(next.0.saturating_sub(now.0))
        };
        AfterTurn {
            now,
            wait,
            busy: busy || wait.is_zero(),
            work: self.work,
            stopped: self.is_stopped(),
        }
    }

    /// Empties `ring_ops` and keeps its memory.
    fn hand_over_ring_ops(&mut self, mut submit: impl FnMut(&SlotMap<SocketKey, Socket>, RingOp)) {
        for op in self.ring_ops.drain(..) {
            submit(&self.sockets, op);
        }
    }

    fn wake_tasks(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}

/// Hands one operation to the ring; those of sockets that are gone are dropped.
fn submit(
    ring: &mut Ring,
    listeners: &[Option<Rc<OwnedFd>>],
    sockets: &SlotMap<SocketKey, Socket>,
    op: RingOp,
) {
    let fd = |key: SocketKey| sockets.get(key).map(|socket| Rc::clone(&socket.fd));
    match op {
        RingOp::Receive(key) => {
            if let Some(fd) = fd(key) {
                ring.receive(fd, key.tag());
            }
        }
        RingOp::StopReceive(key) if sockets.contains_key(key) => ring.stop_receive(key.tag()),
        RingOp::StopReceive(_) => {}
        RingOp::PollWritable(key) => {
            if let Some(fd) = fd(key) {
                ring.poll_writable(fd, key.tag());
            }
        }
        RingOp::Forget(key) => ring.forget(key.tag()),
        RingOp::Write(write) => ring.write(write),
        RingOp::Read {
            token,
            file,
            offset,
            len,
        } => ring.read(token, file, offset, len),
        RingOp::Sync { token, file } => ring.sync(token, file),
        RingOp::Accept(tag) => {
            let listener = usize::try_from(tag)
                .ok()
                .and_then(|tag| listeners.get(tag)?.as_ref());
            if let Some(listener) = listener {
                ring.accept(Rc::clone(listener), tag);
            }
        }
        RingOp::StopAccept => {
            for (tag, _) in (0u32..).zip(listeners) {
                ring.stop_accept(tag);
            }
        }
    }
}

/// Whether a local task was woken since it was last asked.
#[derive(Debug, Default)]
struct Runnable(AtomicBool);

impl Runnable {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// Wakes a task and tells the driver that there is one to run.
#[derive(Debug)]
struct TrackedWaker {
    inner: Waker,
    runnable: Arc<Runnable>,
}

impl Wake for TrackedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.runnable.set();
        self.inner.wake_by_ref();
    }
}

/// A local task whose wake-ups the driver notices, so that it never parks over a runnable task.
struct Tracked<F> {
    task: Pin<Box<F>>,
    runnable: Arc<Runnable>,
    waker: Option<(Waker, Waker)>,
}

impl<F> Tracked<F> {
    fn new(task: F, runnable: Arc<Runnable>) -> Self {
        Self {
            task: Box::pin(task),
            runnable,
            waker: None,
        }
    }
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let known = self
            .waker
            .take()
            .filter(|(inner, _)| inner.will_wake(cx.waker()));
        let (inner, tracked) = known.unwrap_or_else(|| {
            let inner = cx.waker().clone();
            let runnable = Arc::clone(&self.runnable);
            (
                inner.clone(),
                Waker::from(Arc::new(TrackedWaker { inner, runnable })),
            )
        });
        let polled = self.task.as_mut().poll(&mut Context::from_waker(&tracked));
        self.waker = Some((inner, tracked));
        polled
    }
}

/// Lets the other runnable tasks of the queue run once.
struct YieldOnce(bool);

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
