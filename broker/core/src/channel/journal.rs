//! What of a channel is to be written at the next checkpoint.
//!
//! Owned by the channel. State is written in *pages* of 64 sequences; a change marks its page, and
//! neighbouring changes mark the same page, so that the common case is one comparison per message.
//! Deferred messages come due all over the place: each change costs a page then, so pages are small.
//!
//! Invariant: a page whose written value differs from the truth is marked or due, except that pages between
//! `swept` and the floor that own nothing may be stale: the checkpoint removes them.

use std::collections::BTreeSet;

use rustc_hash::FxHashSet;

/// Sequences per page.
pub(crate) const PAGE_SPAN: u64 = 64;
/// So many marks are worth a look whether they are still needed.
const MARKS_MIN: usize = 8_192;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Names the channel in checkpoints; never reused within a topic.
    pub(crate) number: u32,
    /// Ephemeral channels leave no trace.
    pub(crate) enabled: bool,
    /// Anything changed at all since the last checkpoint.
    pub(crate) changed: bool,
    /// The page marked last.
    last: u64,
    pub(crate) marked: FxHashSet<u64>,
    /// Marked before the next checkpoint was begun ahead of its time, and not encoded yet.
    due: Vec<u64>,
    /// The next checkpoint was begun.
    is_begun: bool,
    /// Number of marks at which they are looked through.
    marks_max: usize,
    /// Pages that have a value in the written checkpoint.
    pub(crate) written: BTreeSet<u64>,
    /// The page of the floor when written pages below it were looked through last: those that still own
    /// something then are marked when that changes.
    swept: u64,
}

impl Journal {
    pub(crate) fn new(number: u32, enabled: bool) -> Self {
        Self {
            number,
            enabled,
            changed: enabled,
            last: u64::MAX,
            marked: FxHashSet::default(),
            due: Vec::new(),
            is_begun: false,
            marks_max: MARKS_MIN,
            written: BTreeSet::new(),
            swept: 0,
        }
    }

    /// The state of this message changed.
    pub(crate) fn mark(&mut self, sequence: u64) {
        let page = sequence / PAGE_SPAN;
        if page != self.last {
            self.mark_page(page);
        }
        self.changed |= self.enabled;
    }

    /// The state of `[start, end)` changed.
    pub(crate) fn mark_range(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        self.mark(start);
        for page in start / PAGE_SPAN + 1..end.div_ceil(PAGE_SPAN) {
            self.mark_page(page);
        }
    }

    fn mark_page(&mut self, page: u64) {
        if self.enabled {
            self.last = page;
            self.marked.insert(page);
        }
    }

    /// Many pages are marked: [`Self::prune`] is due.
    pub(crate) fn is_prune_due(&self) -> bool {
        self.marked.len() > self.marks_max
    }

    /// Drops marks of pages that were never written and need not be.
    #[cold]
    pub(crate) fn prune(&mut self, needed: impl Fn(u64) -> bool) {
        let written = &self.written;
        self.marked
            .retain(|page| written.contains(page) || needed(*page));
        self.marks_max = (self.marked.len() * 2).max(MARKS_MIN);
        self.last = u64::MAX;
    }

    /// The written pages that the floor has passed since the last call.
    pub(crate) fn sweep(&mut self, floor: u64) -> Vec<u64> {
        let page = floor / PAGE_SPAN;
        let from = std::mem::replace(&mut self.swept, page).min(page);
        self.written.range(from..page).copied().collect()
    }

    /// Nothing is written any more.
    pub(crate) fn forget_written(&mut self) {
        self.written.clear();
        self.swept = 0;
    }

    /// Every written page may differ from the truth.
    pub(crate) fn mark_written(&mut self) {
        self.marked.extend(&self.written);
        self.changed |= self.enabled;
    }

    /// Takes up to `pages_max` of the pages that were marked when the next checkpoint was begun,
    /// which the first call does.
    pub(crate) fn take_due(&mut self, pages_max: usize) -> Vec<u64> {
        if !self.is_begun {
            self.is_begun = true;
            self.due.extend(self.marked.drain());
            self.last = u64::MAX;
        }
        self.due.split_off(self.due.len().saturating_sub(pages_max))
    }

    /// Marks were taken that are not encoded yet.
    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Takes everything marked.
    pub(crate) fn take_marks(&mut self) -> FxHashSet<u64> {
        self.marked.extend(self.due.drain(..));
        self.is_begun = false;
        std::mem::take(&mut self.marked)
    }

    /// Everything marked was written.
    pub(crate) fn clear_marks(&mut self) {
        self.marked.clear();
        self.due = Vec::new();
        self.is_begun = false;
        self.last = u64::MAX;
        self.changed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_marks_every_page_it_touches() {
        let mut journal = Journal::new(1, true);
        journal.clear_marks();
        journal.mark_range(PAGE_SPAN - 1, 2 * PAGE_SPAN + 1);
        let pages: BTreeSet<u64> = journal.marked.iter().copied().collect();
        assert_eq!(pages, [0, 1, 2].into());
        assert!(journal.changed);
        journal.clear_marks();
        journal.mark(2 * PAGE_SPAN);
        assert_eq!(
            journal.marked.len(),
            1,
            "a page is marked again after a checkpoint"
        );
    }

    #[test]
    fn ephemeral_channels_mark_nothing() {
        let mut journal = Journal::new(1, false);
        journal.mark_range(0, 1 << 20);
        assert!(journal.marked.is_empty() && !journal.changed);
    }

    #[test]
    fn pages_are_swept_once() {
        let mut journal = Journal::new(1, true);
        journal.written.extend([0, 2, 5]);
        assert_eq!(journal.sweep(3 * PAGE_SPAN - 1), [0]);
        assert_eq!(journal.sweep(3 * PAGE_SPAN), [2]);
        assert_eq!(journal.sweep(9 * PAGE_SPAN), [5]);
        assert!(
            journal.sweep(PAGE_SPAN).is_empty(),
            "a floor is as good as any"
        );
        assert_eq!(journal.sweep(9 * PAGE_SPAN), [2, 5]);
        journal.forget_written();
        assert!(journal.sweep(9 * PAGE_SPAN).is_empty());
    }

    #[test]
    fn pruning_keeps_what_is_needed_or_written() {
        let mut journal = Journal::new(1, true);
        journal.mark_range(0, 10_000 * PAGE_SPAN);
        journal.written.insert(4);
        assert!(journal.is_prune_due());
        journal.prune(|page| page >= 9_999);
        assert_eq!(
            journal.marked.iter().copied().collect::<BTreeSet<_>>(),
            [4, 9_999].into()
        );
    }
}
