//! How other threads wake a shard that is parked in its ring.
//!
//! The ring raises the parked flag, then looks at its mailboxes, then sleeps. A sender fills a
//! mailbox, then looks at the flag. With a full fence between the two steps on either side, at
//! least one of them sees the other: a wake-up cannot fall between. The system call is made only
//! if the thread really is parked, and only by the first sender that finds it so.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes the thread of one [`Ring`](super::Ring). Cheap to clone, usable from any thread, and
/// harmless after the ring is gone.
#[derive(Debug, Clone)]
pub struct Doorbell(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    /// True only while the ring's thread sleeps or is about to.
    parked: AtomicBool,
    /// Watched by the ring through a multishot poll. Each write is one edge; the counter is never
    /// read back, and 2^64 rings are out of reach.
    event: EventFd,
}

impl Doorbell {
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Bell {
            parked: AtomicBool::new(false),
            event,
        })))
    }

    /// Wakes the ring's thread if it is parked. One fence and one load if it is not.
    ///
    /// *Ordering:* what the thread is to find must have been published before.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.0.parked.load(Ordering::Relaxed) && self.0.parked.swap(false, Ordering::AcqRel) {
            while self.0.event.write(1) == Err(Errno::EINTR) {}
        }
    }

    /// Announces that the thread is about to sleep. What must keep it awake is to be checked
    /// after this.
    pub(super) fn park(&self) {
        self.0.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn unpark(&self) {
        self.0.parked.store(false, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn is_parked(&self) -> bool {
        self.0.parked.load(Ordering::Relaxed)
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.event.as_raw_fd()
    }
}
