//! Which operations a connection has in flight, by the slot number in its tag.
//!
//! A tag is a dense slot number (low half) and a generation (high half), as `slotmap` keys are.
//! Only the newest generation of a slot has an entry here; operations of older ones run out
//! unseen.

use super::buffers::widen;
use super::ops::{OpId, halves};

#[derive(Debug, Default)]
pub(super) struct Endpoint {
    generation: u32,
    /// The receive that is wanted or stopping.
    pub(super) receive: Option<OpId>,
    /// The writable poll that is wanted.
    pub(super) writable: Option<OpId>,
    /// Operations of this generation in flight, the unwanted ones included.
    in_flight: u32,
    /// `ReceiveStopped` is owed once nothing is in flight.
    pub(super) stopping: bool,
}

impl Endpoint {
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    pub(super) fn started(&mut self) -> &mut Self {
        self.in_flight += 1;
        self
    }
}

#[derive(Debug, Default)]
pub(super) struct Endpoints(Vec<Endpoint>);

impl Endpoints {
    /// The entry of `tag`, unless its slot has moved on or was never used.
    pub(super) fn get_mut(&mut self, tag: u64) -> Option<&mut Endpoint> {
        let [index, generation] = halves(tag);
        self.0
            .get_mut(widen(index))
            .filter(|endpoint| endpoint.generation == generation)
    }

    /// What another user of the slot of `tag` still has in flight and wants.
    pub(super) fn displaced_by(&mut self, tag: u64) -> [Option<OpId>; 2] {
        let [index, generation] = halves(tag);
        match self.0.get_mut(widen(index)) {
            Some(other) if other.generation != generation => {
                [other.receive.take(), other.writable.take()]
            }
            _ => [None, None],
        }
    }

    /// The entry of `tag`, made if need be.
    pub(super) fn claim(&mut self, tag: u64) -> &mut Endpoint {
        let [index, generation] = halves(tag);
        let index = widen(index);
        if index >= self.0.len() {
            self.0.resize_with(index + 1, Endpoint::default);
        }
        let endpoint = &mut self.0[index];
        if endpoint.generation != generation {
            *endpoint = Endpoint {
                generation,
                ..Endpoint::default()
            };
        }
        endpoint
    }

    /// Whether `ReceiveStopped` is still owed to an idle `tag`; it is not any more.
    pub(super) fn take_stopped(&mut self, tag: u64) -> bool {
        self.get_mut(tag)
            .is_some_and(|endpoint| std::mem::take(&mut endpoint.stopping))
    }

    /// Notes the end of an operation. True if `ReceiveStopped` is now due.
    pub(super) fn ended(&mut self, tag: u64, id: OpId) -> bool {
        let Some(endpoint) = self.get_mut(tag) else {
            return false;
        };
        endpoint.in_flight -= 1;
        endpoint.receive.take_if(|receive| *receive == id);
        endpoint.writable.take_if(|writable| *writable == id);
        let stopped = endpoint.stopping && endpoint.is_idle();
        if stopped {
            endpoint.stopping = false;
        }
        stopped
    }
}
