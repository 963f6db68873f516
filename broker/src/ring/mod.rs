//! One io_uring per shard: every socket and every file read and write of the shard goes through it.
//!
//! The [`Ring`] is owned by the shard's driver task and used by no other thread. Each driver turn
//! calls [`Ring::turn`] once: it submits what was queued, waits if asked to, and hands over what
//! has completed. Requests never call back: their outcome is a [`Completion`] of a later turn, or of
//! [`Ring::settle`] where it needed no round trip to the kernel.
//!
//! Invariants
//! - What the kernel may still touch (descriptors, buffers) is owned by an entry of the operation
//!   table until the kernel's last completion for it, also while the ring is dropped.
//! - A completion belongs to the exact tag it was asked for. Tags carry a generation, so a late
//!   completion of a closed connection never reaches the next user of its slot.
//! - A wake-up is never lost: the parked flag is raised before the caller's mailboxes are looked
//!   at for the last time ([`Doorbell`]).
//! - Multishot requests that the kernel ended for its own reasons are armed again here.
//!
//! Not here: sending on sockets is a direct non-blocking call ([`send_vectored`]), because a send
//! nearly always succeeds at once; opening and renaming files is the storage thread's work.
//!
//! Hot path: no allocation, formatting, await or hashing per message or per receive.

mod buffers;
mod direct;
mod doorbell;
mod endpoints;
mod files;
mod gather;
mod ops;
mod pool;
mod queue;
mod reads;
mod route;
mod send;
mod sockets;
mod stage;
#[cfg(test)]
mod tests;
mod turn;
mod wholes;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;

pub use doorbell::Doorbell;
pub use files::Write;
pub use route::INLINE_WRITE_BYTES_MAX;
pub use send::send_vectored;
pub use turn::Ring;

use crate::config::SegmentIo;

/// Sizes of a [`Ring`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingOptions {
    /// Submission queue entries; the completion queue has eight times as many. A power of two.
    pub entries: u32,
    /// Provided receive buffers, a power of two up to 32,768.
    pub recv_buffers: u16,
    /// Size of each receive buffer.
    pub recv_buffer_bytes: u32,
    /// Whether writes may go around the page cache. Large reads do, of what it does not hold.
    pub segment_io: SegmentIo,
}

impl Default for RingOptions {
    /// The count decides how many connections that become readable together are read in one turn:
    /// with 512 of them asking at once, 256 buffers gave 190 k answers a second, 64 gave 94 to
    /// 119 k. The size decides how much bulk comes with one completion: 16 KiB took in 3.5 GB/s,
    /// 64 KiB 4.0 GB/s, for four times the memory. 4 MiB in all, mapped lazily: an idle shard does
    /// not pay for them.
    fn default() -> Self {
        Self {
            entries: 512,
            recv_buffers: 256,
            recv_buffer_bytes: 16 * 1024,
            segment_io: SegmentIo::default(),
        }
    }
}

/// Whether [`Ring::turn`] may park the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Submit and reap only.
    No,
    /// Park until something completes, a doorbell rings, or this much time has passed.
    Until(Duration),
}

/// What has happened since the last turn.
#[derive(Debug)]
pub enum Completion<'a> {
    /// A listener accepted a connection. The socket is blocking; see [`send_vectored`].
    Accepted {
        /// The listener's tag.
        tag: u32,
        /// The connection.
        fd: OwnedFd,
    },
    /// Accepting stopped, most likely because descriptors or memory ran out. Nothing more comes
    /// from this listener until [`Ring::accept`] is called again: after a pause, so that
    /// exhaustion does not spin.
    AcceptFailed {
        /// The listener's tag.
        tag: u32,
        /// What the kernel said.
        error: io::Error,
    },
    /// Bytes arrived. They are lent until the callback returns.
    Received {
        /// The connection's tag.
        tag: u64,
        /// Never empty.
        data: &'a [u8],
    },
    /// The peer closed its side, or the connection broke. Nothing more is received for the tag.
    Closed {
        /// The connection's tag.
        tag: u64,
        /// `None` at an orderly end of the stream.
        error: Option<io::Error>,
    },
    /// Answer to [`Ring::stop_receive`]: the ring holds nothing of this tag any more.
    ReceiveStopped {
        /// The connection's tag.
        tag: u64,
    },
    /// The socket has room to send, or is broken: a send will tell.
    Writable {
        /// The connection's tag.
        tag: u64,
    },
    /// What a [`Ring::write`] is to write will be in the file even if the process dies. `Written`
    /// follows.
    WriteAccepted {
        /// The caller's token.
        token: u64,
    },
    /// All bytes of a [`Ring::write`] are written, or it failed.
    Written {
        /// The caller's token.
        token: u64,
        /// The outcome of the whole.
        result: io::Result<()>,
    },
    /// Outcome of a [`Ring::read`]: fewer bytes than asked for only at the end of the file.
    Read {
        /// The caller's token.
        token: u64,
        /// What was read.
        result: io::Result<Bytes>,
    },
    /// Outcome of a [`Ring::sync`].
    Synced {
        /// The caller's token.
        token: u64,
        /// Whether the data is on stable storage.
        result: io::Result<()>,
    },
}
