//! The bare io_uring: set-up, submission, entering the kernel.

#![expect(unsafe_code, reason = "submission entries carry addresses")]

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;

use super::ops::OpId;

/// The longest a thread parks in one go; the kernel refuses absurd timeouts.
const PARK_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Completion entries per submission entry: one multishot request completes many times. More
/// than fit are kept by the kernel and handed over later (`NODROP`).
const COMPLETIONS_PER_ENTRY: u32 = 8;

pub(super) struct Queue {
    uring: IoUring,
    /// Entries that found the submission queue full; they go first, in order.
    backlog: VecDeque<squeue::Entry>,
}

/// When the kernel runs completion work.
#[derive(Debug, Clone, Copy)]
pub(super) enum TaskWork {
    /// Only when this thread asks for completions: no interruptions, best batching (6.1).
    Deferred,
    /// At any system call of this thread (5.19).
    Cooperative,
    /// Whenever it likes.
    Any,
}

impl Queue {
    /// Creates the ring on the thread that will use it, as good as the kernel has it.
    pub(super) fn new(entries: u32) -> io::Result<Self> {
        let retry_with = |work| {
            // Older kernels answer `EINVAL` to flags that they do not know.
            move |error: io::Error| match error.raw_os_error() {
                Some(libc::EINVAL) => Self::with_task_work(entries, work),
                _ => Err(error),
            }
        };
        Self::with_task_work(entries, TaskWork::Deferred)
            .or_else(retry_with(TaskWork::Cooperative))
            .or_else(retry_with(TaskWork::Any))
    }

    pub(super) fn with_task_work(entries: u32, work: TaskWork) -> io::Result<Self> {
        let uring = Self::build(entries, work)?;
        let params = uring.params();
        if !params.is_feature_ext_arg() || !params.is_feature_nodrop() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "io_uring lacks EXT_ARG or NODROP",
            ));
        }
        // Saves looking the ring's descriptor up on every enter. Merely slower if refused.
        let _registered = uring.submitter().register_ring_fd();
        Ok(Self {
            uring,
            backlog: VecDeque::new(),
        })
    }

    fn build(entries: u32, work: TaskWork) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder
            .setup_clamp()
            .setup_cqsize(entries.saturating_mul(COMPLETIONS_PER_ENTRY));
        match work {
            TaskWork::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun();
                builder.setup_taskrun_flag().setup_submit_all();
            }
            TaskWork::Cooperative => {
                builder
                    .setup_coop_taskrun()
                    .setup_taskrun_flag()
                    .setup_submit_all();
            }
            TaskWork::Any => {}
        }
        builder.build(entries)
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.uring.submitter()
    }

    /// Queues one entry; it reaches the kernel with the next [`Queue::enter`] at the latest.
    ///
    /// # Safety
    /// What the entry points at must stay valid and in place until its last completion has been
    /// popped.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() && !self.has_room() {
            // A failure leaves the queue full, which is handled below, and repeats in `enter`,
            // which reports it.
            let _submitted = self.uring.submit();
        }
        if !self.backlog.is_empty() || !self.has_room() {
            self.backlog.push_back(entry);
            return;
        }
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        pushed.expect("room was checked");
    }

    /// Asks the kernel to end an operation. Its outcome is the operation's own last completion.
    pub(super) fn cancel(&mut self, id: OpId) {
        let entry = opcode::AsyncCancel::new(id.user_data())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(OpId::NONE);
        // SAFETY: a cancellation carries no address.
        unsafe { self.push(entry) };
    }

    /// Submits what is queued and lets the kernel deliver. With `wait`, sleeps until there is a
    /// completion or the time is up. Without, makes no system call if there is no need for one.
    pub(super) fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        loop {
            self.refill();
            // A backlog means that the queue is full of requests: they must move before a sleep.
            let wait = wait.filter(|_| self.backlog.is_empty());
            let outcome = match wait {
                Some(timeout) => {
                    let timeout = Timespec::from(timeout.min(PARK_MAX));
                    let args = SubmitArgs::new().timespec(&timeout);
                    self.uring.submitter().submit_with_args(1, &args)
                }
                None if self.needs_enter() => self.uring.submit(),
                None => Ok(0),
            };
            let progress = match outcome {
                Ok(submitted) => submitted > 0,
                Err(error) if is_passing(&error) => false,
                Err(error) => return Err(error),
            };
            if self.backlog.is_empty() || !progress {
                return Ok(());
            }
        }
    }

    /// Completions that can be popped without entering the kernel.
    pub(super) fn ready(&mut self) -> usize {
        self.uring.completion().len()
    }

    pub(super) fn pop(&mut self) -> Option<cqueue::Entry> {
        self.uring.completion().next()
    }

    /// Gives back the registered descriptor, which would keep the ring alive until the thread ends.
    pub(super) fn release(&mut self) {
        let _was_registered = self.uring.submitter().unregister_ring_fd();
    }

    fn has_room(&mut self) -> bool {
        let mut submission = self.uring.submission();
        submission.sync();
        !submission.is_full()
    }

    fn refill(&mut self) {
        let mut submission = self.uring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: promised by the caller of `push` that queued it here.
            if unsafe { submission.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    fn needs_enter(&mut self) -> bool {
        let submission = self.uring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }
}

/// The time was up, a signal came, or completions must be taken first.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ETIME | Errno::EINTR | Errno::EAGAIN | Errno::EBUSY)
    )
}
