//! The operations in flight: what each token stands for.

use crate::disk::Token;
use crate::reader::ReadRequest;

/// What an operation was for.
#[derive(Debug)]
pub(crate) enum Kind {
    /// The write of one batch, by its running number.
    Append { number: u64 },
    /// An fdatasync of a segment, after which everything below `target` is durable.
    Sync { segment: u64, target: u64 },
    /// A read on behalf of a request.
    Read(ReadRequest),
    /// Creating or recycling a segment's file.
    MakeSegment { segment: u64 },
    /// Opening a segment's file again.
    OpenSegment { segment: u64 },
    /// Whatever step the journal is at.
    Journal,
    /// Removing the file of a freed segment.
    RemoveSegment { segment: u64 },
    /// An operation whose outcome changes nothing.
    Indifferent,
}

/// A slab; a token is an index into it. The disk reports every token exactly once, so an index
/// can be used again as soon as it was reported.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    slots: Vec<Option<Kind>>,
    free: Vec<usize>,
}

impl Ops {
    pub(crate) fn insert(&mut self, kind: Kind) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(kind);
        Token(index as u64)
    }

    /// # Panics
    /// If the token is not in flight: the disk reported something twice.
    pub(crate) fn take(&mut self, token: Token) -> Kind {
        let index = usize::try_from(token.0).expect("tokens are indices");
        let kind = self.slots.get_mut(index).and_then(Option::take);
        self.free.push(index);
        kind.expect("the disk reports every token once")
    }

    /// What the token of an operation in flight stands for.
    ///
    /// # Panics
    /// As [`Self::take`].
    pub(crate) fn get(&self, token: Token) -> &Kind {
        let index = usize::try_from(token.0).expect("tokens are indices");
        let kind = self.slots.get(index).and_then(Option::as_ref);
        kind.expect("the disk speaks of operations in flight")
    }

    pub(crate) const fn pending(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
