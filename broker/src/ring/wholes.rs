//! The writes of which bytes are gathered: each is shared by the slots that hold some of it, and answered
//! when the last of them lets go.
//!
//! Owned by the ring's gathering. In the steady state nothing is allocated: entries and lists are used
//! again.

use std::io;

use slotmap::SlotMap;

slotmap::new_key_type! {
    /// A write under way.
    pub(super) struct WholeKey;
}

/// A write.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) token: u64,
    /// In bytes.
    pub(super) len: usize,
    /// Where in the file it ends.
    pub(super) end: u64,
    /// Somebody waits until it is written.
    pub(super) is_urgent: bool,
    /// The first thing that went wrong.
    error: Option<io::Error>,
    /// How many hold some of it.
    holders: usize,
}

impl Whole {
    pub(super) fn new(token: u64, len: usize, end: u64, is_urgent: bool) -> Self {
        Self {
            token,
            len,
            end,
            is_urgent,
            error: None,
            holders: 0,
        }
    }

    pub(super) fn outcome(self) -> io::Result<()> {
        self.error.map_or(Ok(()), Err)
    }
}

/// See the module documentation. Invariant: a write is held by the lists that it is in, once each time.
#[derive(Debug, Default)]
pub(super) struct Wholes {
    table: SlotMap<WholeKey, Whole>,
    /// Empty lists that keep their memory.
    spare: Vec<Vec<WholeKey>>,
}

impl Wholes {
    pub(super) fn insert(&mut self, whole: Whole) -> WholeKey {
        self.table.insert(whole)
    }

    pub(super) fn get(&self, key: WholeKey) -> &Whole {
        &self.table[key]
    }

    /// An empty list.
    pub(super) fn list(&mut self) -> Vec<WholeKey> {
        self.spare.pop().unwrap_or_default()
    }

    /// Adds a write to a list.
    pub(super) fn hold(&mut self, key: WholeKey, list: &mut Vec<WholeKey>) {
        self.table[key].holders += 1;
        list.push(key);
    }

    /// Takes note of how a part of a write went.
    pub(super) fn note(&mut self, key: WholeKey, result: io::Result<()>) {
        if let Err(error) = result {
            self.table[key].error.get_or_insert(error);
        }
    }

    pub(super) fn is_sound(&self, key: WholeKey) -> bool {
        self.table[key].error.is_none()
    }

    /// Lets go of all writes of a list, of which a part went so; calls `end` with those that nobody
    /// holds any more.
    pub(super) fn let_go(
        &mut self,
        mut list: Vec<WholeKey>,
        result: &io::Result<()>,
        mut end: impl FnMut(Whole),
    ) {
        for key in list.drain(..) {
            let result = result
                .as_ref()
                .map_or_else(|error| Err(same(error)), |()| Ok(()));
            self.note(key, result);
            self.table[key].holders -= 1;
            if self.table[key].holders == 0
                && let Some(whole) = self.table.remove(key)
            {
                end(whole);
            }
        }
        self.spare.push(list);
    }
}

/// The error once more, for another write that it has struck.
fn same(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(code))
    }

    #[test]
    fn the_last_holder_answers_with_the_first_error_and_it_strikes_all_writes_of_a_list() {
        let mut wholes = Wholes::default();
        let keys = [1, 2, 3].map(|token| wholes.insert(Whole::new(token, 1, 1, false)));
        let (mut first, mut second) = (wholes.list(), wholes.list());
        wholes.hold(keys[0], &mut first);
        wholes.hold(keys[1], &mut first);
        wholes.hold(keys[1], &mut second);
        wholes.hold(keys[2], &mut second);
        wholes.note(keys[1], failed(libc::ENOSPC));
        let mut ended = Vec::new();
        let mut code = |whole: Whole| {
            let token = whole.token;
            ended.push((
                token,
                whole.outcome().err().and_then(|error| error.raw_os_error()),
            ));
        };
        wholes.let_go(second, &Ok(()), &mut code);
        wholes.let_go(first, &failed(libc::EIO), &mut code);
        let expected = [(3, None), (1, Some(libc::EIO)), (2, Some(libc::ENOSPC))];
        assert_eq!(ended, expected);
        assert!(wholes.table.is_empty());
        assert!(wholes.list().capacity() > 0, "used again");
    }
}
