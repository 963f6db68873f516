//! Operations in flight. Each entry owns everything the kernel may touch on its behalf, and stays
//! in the table until the kernel's last completion for it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::{opcode, squeue, types};

use super::buffers::GROUP;
use super::doorbell::Doorbell;
use super::files::WriteOp;
use super::gather::DirectOp;
use super::reads::ReadOp;

/// Names one operation: its slot in the table, and a generation that tells successive users of
/// the slot apart. Travels through the kernel as `user_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpId {
    index: u32,
    generation: u32,
}

impl OpId {
    /// `user_data` of requests whose outcome does not matter.
    pub(super) const NONE: u64 = u64::MAX;

    pub(super) fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_user_data(data: u64) -> Option<Self> {
        if data == Self::NONE {
            return None;
        }
        let [index, generation] = halves(data);
        Some(Self { index, generation })
    }
}

/// The low and the high half of a tag or of `user_data`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves are what is wanted"
)]
pub(super) fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[derive(Debug)]
pub(super) enum Op {
    Accept(AcceptOp),
    Receive(SocketOp),
    Writable(SocketOp),
    /// Boxed: the kernel reads the part list at its address, and the table may grow.
    Write(Box<WriteOp>),
    /// Blocks on their way around the page cache.
    Direct(Box<DirectOp>),
    Read(ReadOp),
    Sync {
        token: u64,
        file: Rc<OwnedFd>,
    },
    Doorbell(Doorbell),
}

#[derive(Debug)]
pub(super) struct AcceptOp {
    pub(super) tag: u32,
    pub(super) listener: Rc<OwnedFd>,
    /// Cleared when the caller stops accepting: connections that come still are dropped.
    pub(super) wanted: bool,
}

#[derive(Debug)]
pub(super) struct SocketOp {
    pub(super) tag: u64,
    pub(super) fd: Rc<OwnedFd>,
    pub(super) interest: Interest,
}

/// What the caller still wants from a socket operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Everything, and armed again if the kernel ends it.
    Wanted,
    /// Everything, but the kernel does not have the operation: it found no buffer, and waits in
    /// `Ring::starved` for its turn to be armed again.
    Starved,
    /// What has already arrived, and word of the end.
    Stopping,
    /// Nothing.
    Forgotten,
}

impl Op {
    /// The submission for what is left to do.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        match self {
            Self::Accept(op) => opcode::AcceptMulti::new(fd(op.listener.as_raw_fd()))
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Self::Receive(op) => opcode::RecvMulti::new(fd(op.fd.as_raw_fd()), GROUP).build(),
            Self::Writable(op) => {
                opcode::PollAdd::new(fd(op.fd.as_raw_fd()), poll_mask(libc::POLLOUT)).build()
            }
            Self::Write(op) => op.entry(),
            Self::Direct(op) => op.entry(),
            Self::Read(op) => op.entry(),
            Self::Sync { file, .. } => opcode::Fsync::new(fd(file.as_raw_fd()))
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Self::Doorbell(bell) => opcode::PollAdd::new(fd(bell.fd()), poll_mask(libc::POLLIN))
                .multi(true)
                .build(),
        }
    }
}

pub(super) fn fd(raw: RawFd) -> types::Fd {
    types::Fd(raw)
}

fn poll_mask(events: libc::c_short) -> u32 {
    u32::from(events.unsigned_abs())
}

/// A completion's result as a byte count or an error.
pub(super) fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// The table. Slots are reused; it shrinks never, and grows to the largest number in flight.
#[derive(Debug, Default)]
pub(super) struct Ops {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    op: Option<Op>,
}

impl Ops {
    pub(super) fn insert(&mut self, op: Op) -> OpId {
        if let Some(index) = self.free.pop() {
            let slot = self.slot_mut(index).expect("free slots exist");
            slot.op = Some(op);
            return OpId {
                index,
                generation: slot.generation,
            };
        }
        let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 operations");
        self.slots.push(Slot {
            generation: 0,
            op: Some(op),
        });
        OpId {
            index,
            generation: 0,
        }
    }

    pub(super) fn get_mut(&mut self, id: OpId) -> Option<&mut Op> {
        let slot = self.slot_mut(id.index)?;
        if slot.generation == id.generation {
            slot.op.as_mut()
        } else {
            None
        }
    }

    /// The socket operation `id`, if it is one and in flight.
    pub(super) fn socket_mut(&mut self, id: OpId) -> Option<&mut SocketOp> {
        match self.get_mut(id) {
            Some(Op::Receive(op) | Op::Writable(op)) => Some(op),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, id: OpId) -> Option<Op> {
        let slot = self.slot_mut(id.index)?;
        if slot.generation != id.generation {
            return None;
        }
        let op = slot.op.take()?;
        // The top bit stays clear so that no id equals `OpId::NONE`.
        slot.generation = (slot.generation + 1) & (u32::MAX >> 1);
        self.free.push(id.index);
        Some(op)
    }

    /// All operations in flight.
    pub(super) fn ids(&self) -> Vec<OpId> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.op.is_some())
            .map(|(index, slot)| OpId {
                index,
                generation: slot.generation,
            })
            .collect()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot> {
        self.slots.get_mut(super::buffers::widen(index))
    }
}
