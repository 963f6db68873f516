//! Requests to the log that are not answered yet.
//!
//! Owned by the topic. The log may say at once where an answer will end: then what lies up to there
//! counts as asked for, and the next piece can be asked for before the first has come. A plan is no
//! promise: what the answer lacks is asked for like anything else that is not in memory.

use crate::types::ChannelKey;

/// One request.
#[derive(Debug)]
struct Fetch {
    from: u64,
    /// One past the last sequence of the answer; `from` while that is not known.
    next: u64,
    /// What the answer will cost; 0 while that is not known.
    bytes: usize,
    /// Who asked.
    channel: ChannelKey,
}

/// See the module documentation. Invariant: no two begin at the same sequence.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    open: Vec<Fetch>,
}

impl Fetches {
    /// Notes that `channel` wants `from`; `false` when it is on its way already.
    pub(crate) fn want(&mut self, from: u64, channel: ChannelKey) -> bool {
        let is_open = |fetch: &Fetch| (fetch.from..fetch.next.max(fetch.from + 1)).contains(&from);
        if self.open.iter().any(is_open) {
            return false;
        }
        self.open.push(Fetch {
            from,
            next: from,
            bytes: 0,
            channel,
        });
        true
    }

    /// The answer to the request for `from` will end before `next`; who asked, if it was open and
    /// without a plan.
    pub(crate) fn plan(&mut self, from: u64, next: u64, bytes: usize) -> Option<ChannelKey> {
        let is_new = |fetch: &&mut Fetch| fetch.from == from && fetch.next == from;
        let fetch = self.open.iter_mut().find(is_new)?;
        (fetch.next, fetch.bytes) = (next, bytes);
        Some(fetch.channel)
    }

    /// The request for `from` is answered; the bytes that were planned for it.
    pub(crate) fn close(&mut self, from: u64) -> usize {
        let at = self.open.iter().position(|fetch| fetch.from == from);
        at.map_or(0, |at| self.open.swap_remove(at).bytes)
    }

    /// Where the planned answer ends that will hold `sequence`, and its bytes.
    pub(crate) fn find(&self, sequence: u64) -> Option<(u64, usize)> {
        let holds = |fetch: &&Fetch| (fetch.from..fetch.next).contains(&sequence);
        let fetch = self.open.iter().find(holds)?;
        Some((fetch.next, fetch.bytes))
    }

    /// What all planned answers will cost.
    pub(crate) fn planned_bytes(&self) -> usize {
        self.open.iter().map(|fetch| fetch.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planned_is_on_its_way() {
        let mut fetches = Fetches::default();
        let me = ChannelKey::default();
        assert!(fetches.want(10, me) && !fetches.want(10, me) && fetches.want(11, me));
        assert_eq!(fetches.close(11), 0);
        assert_eq!(fetches.find(10), None);
        assert_eq!(fetches.plan(10, 20, 500), Some(me));
        assert_eq!(fetches.plan(10, 30, 700), None, "there is one");
        assert_eq!(fetches.plan(19, 30, 700), None, "not asked for");
        assert_eq!(fetches.find(19), Some((20, 500)));
        assert_eq!((fetches.find(9), fetches.find(20)), (None, None));
        assert!(!fetches.want(19, me) && fetches.want(9, me) && fetches.want(20, me));
        assert_eq!(fetches.planned_bytes(), 500);
        assert_eq!(fetches.close(10), 500);
        assert_eq!(fetches.planned_bytes(), 0);
        assert!(fetches.want(10, me) && fetches.want(15, me));
    }
}
