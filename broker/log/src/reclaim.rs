//! Freeing segments in which nothing is owed any more.
//!
//! A segment that the caller no longer needs is condemned, and freed only when every checkpoint
//! ordered so far is written: else a crash in between would bring back a state that still owes what
//! is gone. Full-grown files are kept, a few, to be renamed and overwritten as later segments; the
//! others are removed. The journal's next record names what was freed, so that a recovery does not
//! take a file that waits in the pool for a segment.

use crate::disk::{Disk, Op, OpResult};
use crate::log::TopicLog;
use crate::ops::Kind;
use crate::segment::{self, Freed, POOL_FILES_MAX};

impl TopicLog {
    /// Marks what can go.
    pub(crate) fn condemn(&mut self, owed: &dyn Fn(u64, u64) -> bool) {
        if self.journal.is_dead {
            return;
        }
        let written = self.appender.written;
        let ordered = self.journal.ordered;
        let older = self.segments.list.len().saturating_sub(1);
        for segment in self.segments.list.iter_mut().take(older) {
            let may_go = segment.condemned.is_none() && segment.end <= written;
            if may_go && !owed(segment.first, segment.end) {
                segment.condemned = Some(ordered);
                self.condemned += 1;
            }
        }
    }

    /// Frees what is condemned and used by nobody, as far as the journal has come.
    pub(crate) fn free_condemned(&mut self, disk: &mut dyn Disk) {
        if self.condemned == 0 || self.journal.is_dead {
            return;
        }
        let journaled = self.journal.written;
        let pooled = self.segments.pool.len();
        let mut at = 0;
        while at < self.segments.list.len() {
            let segment = &self.segments.list[at];
            let is_free = segment.condemned.is_some_and(|after| after <= journaled);
            if !is_free || segment.users > 0 {
                at += 1;
                continue;
            }
            let segment = self.segments.list.remove(at).expect("just seen");
            self.condemned -= 1;
            self.journal.note_freed(segment.name);
            let is_full_size = segment.len == self.config.segment_bytes_max;
            if is_full_size && self.segments.pool.len() < POOL_FILES_MAX {
                self.segments.pool.push(Freed {
                    name: segment.name,
                    end: segment.end,
                });
            } else {
                self.remove_segment(disk, segment.name);
            }
        }
        if self.segments.pool.len() > pooled {
            self.retry(disk);
        }
    }

    /// Removes the file of a freed segment.
    pub(crate) fn remove_segment(&mut self, disk: &mut dyn Disk, name: u64) {
        let path = segment::path_of(&self.dir, name);
        self.segments.removing.push(name);
        let token = self.ops.insert(Kind::RemoveSegment { segment: name });
        disk.submit(token, Op::Remove { path });
    }

    /// The journal has no room: a file that waits to be used again makes some.
    pub(crate) fn give_up_pooled(&mut self, disk: &mut dyn Disk) {
        if let Some(freed) = self.segments.pool.pop() {
            self.remove_segment(disk, freed.name);
        }
    }

    /// A file was removed, or not: then it stays listed as freed, and goes at the next start.
    pub(crate) fn on_segment_removed(&mut self, disk: &mut dyn Disk, name: u64, result: &OpResult) {
        if result.is_ok() {
            self.segments.removing.retain(|removing| *removing != name);
            self.retry(disk);
        }
    }
}
