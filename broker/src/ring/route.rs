//! Which way a write takes: into the page cache, or around it to the device.
//!
//! The page cache takes 5 to 7 GB/s where its pages were in use before. A fresh page of a virtual
//! machine costs a fault in the host: 0.4 GB/s were measured there, all of it the shard's time,
//! while the device took 2 to 3 GB/s of its own time. A backlog lands in fresh pages. Whether the
//! device is the better way then depends on the device, so it is tried: while buffered writes are
//! slow, a trial takes both ways in turn and compares the bytes that got written.
//!
//! What is gathered for the device (see `gather`) costs it as little as large writes do, so writes of
//! nearly any size are routed, as long as nobody waits for them and enough of them come to one file.
//! Other small ones are buffered, for they cost a device as much as large ones; unless they go on where
//! something is being gathered anyway.
//!
//! It does not matter whether a write replaces old bytes. A file whose pages are in memory is better
//! written there, one whose are not around it, and it is dear to change: a buffered write that ends
//! within a page that is not in memory waits until that is read.
//!
//! Owned by the ring. Pure: time and outcomes are told, nothing is looked up.

use std::time::Duration;

use nsq_core::Now;

use crate::config::SegmentIo;

/// Writes from this size on may go around the page cache, also where somebody waits for them.
///
/// Measured with four publishers of 41 KB at a time: 2.3 million messages a second where the limit was
/// 64 KiB, 2.6 where it was 16 KiB (medians of six); batches of 31 KB gained nothing.
const LARGE_BYTES: usize = 32 * 1024;
/// If nobody does, from this size on.
///
/// Measured with 128 unanswered PUBs, that is writes of 27 KB: 1.26 million messages a second buffered,
/// 1.60 gathered (medians of five).
const SMALL_BYTES: usize = 4 * 1024;
/// Writes up to this size are made within [`Ring::write`](super::Ring::write) itself, while the kernel takes them at
/// once.
///
/// Measured with a buffered, recycled file on ext4 (µs of time and of CPU per write): inline 4 for
/// 4 KiB, 5 for 16 KiB, 9.5 for 64 KiB, 25 for 256 KiB; through the ring 45 to 70 one at a time,
/// and 9 to 39 with four in flight. What the ring buys is that a write that waits does not hold
/// the shard up: the kernel makes writers wait when more is dirty than the disk can take.
pub const INLINE_WRITE_BYTES_MAX: usize = 1024 * 1024;
/// An inline write that took this long was made to wait ...
const THROTTLED: Duration = Duration::from_millis(20);
/// ... and for this long the next ones are left to the kernel's workers.
const THROTTLED_FOR: Duration = Duration::from_millis(250);

/// Buffered writes that cost more than this are slow, in ns of processor time per KiB. In warm memory
/// large ones take 150 to 200 and those of 27 KB 330 to 400, in fresh memory all of them 600 to 2,000;
/// around the page cache it is about 200.
const SLOW_NS_PER_KIB: u64 = 300;
/// Length of one window of a trial.
const WINDOW: Duration = Duration::from_millis(20);
/// Windows of a trial. The first does not count: the stage may have to be made, and its pages to be
/// touched for the first time. Of the others half are direct.
const WINDOWS: u8 = 5;
/// Direct writes go on while they get at least so much written of what buffered ones do, in percent. A
/// draw is won: where they are the only ones they get more written than in the windows of a trial, as
/// what a buffered window has left in the page cache is written out during the next one (1.0 in trials
/// with 27 KB at a time, 0.77 to 1.35; 1.3 without).
const SHARE_PERCENT: u128 = 80;
/// How long the outcome holds when direct writes have paid off.
const PAYS: Duration = Duration::from_secs(4);
/// How long it holds when they have not, at first and at most; doubled each time.
const USELESS_MIN: Duration = Duration::from_millis(250);
const USELESS_MAX: Duration = Duration::from_secs(4);
/// After so long without a write that could be direct another load may begin: nothing is known of it.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// How a write is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Into the page cache, on the spot.
    Inline,
    /// Into the page cache, by a kernel worker.
    Worker,
    /// Around the page cache.
    Direct,
}

/// What a write is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// In bytes.
    pub(super) len: usize,
    /// Somebody waits until it is written.
    pub(super) is_urgent: bool,
}

impl Size {
    /// Not worth a transfer of its own.
    pub(super) fn is_small(self) -> bool {
        self.len < LARGE_BYTES
    }
}

/// What is known of direct writes at the moment.
#[derive(Debug, Clone, Copy)]
enum Belief {
    /// They pay, or not, until a certain time.
    Known { pays: bool, until: Now },
    /// They are being tried: this window, since when.
    Trial { window: u8, since: Now },
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Route {
    mode: SegmentIo,
    /// Moving average of the processor time that inline writes cost.
    ns_per_kib: u64,
    /// Bytes written inline since that was last measured.
    unjudged: usize,
    /// When a write that could be direct was last asked for.
    last: Now,
    belief: Belief,
    /// Bytes written in this trial, buffered and direct, and the length of the windows so far.
    written: [u64; 2],
    tried_ns: [u64; 2],
    /// How long the next disappointment is remembered.
    useless: Duration,
    /// Until then the kernel makes writers wait.
    throttled_until: Now,
}

impl Route {
    pub(super) fn new(mode: SegmentIo) -> Self {
        Self {
            mode,
            ns_per_kib: 0,
            unjudged: 0,
            last: Now(0),
            belief: Belief::Known {
                pays: false,
                until: Now(0),
            },
            written: [0; 2],
            tried_ns: [0; 2],
            useless: USELESS_MIN,
            throttled_until: Now(0),
        }
    }

    /// Whether a write may go around the page cache.
    fn may_be_direct(&self, size: Size) -> bool {
        let least = if size.is_urgent {
            LARGE_BYTES
        } else {
            SMALL_BYTES
        };
        self.mode != SegmentIo::Buffered && size.len >= least
    }

    /// The way of a write.
    pub(super) fn choose(&mut self, now: Now, size: Size) -> Way {
        if self.may_be_direct(size) && (self.mode == SegmentIo::Direct || self.is_better(now)) {
            Way::Direct
        } else {
            self.buffered(now, size.len)
        }
    }

    /// The way of a write that goes on where a direct one ends that is not on its way yet: with that
    /// it costs the device nothing, however small it is.
    pub(super) fn choose_next(&mut self, now: Now, size: Size) -> Way {
        let pays = match self.belief {
            Belief::Known { pays, .. } => pays || self.mode == SegmentIo::Direct,
            Belief::Trial { .. } => false,
        };
        if pays && !self.may_be_direct(size) {
            Way::Direct
        } else {
            self.choose(now, size)
        }
    }

    /// The way of a write of `len` bytes that cannot go around the page cache.
    pub(super) fn buffered(&self, now: Now, len: usize) -> Way {
        if len <= INLINE_WRITE_BYTES_MAX && now >= self.throttled_until {
            Way::Inline
        } else {
            Way::Worker
        }
    }

    /// Whether it is to be measured what this inline write costs: not of each, for that costs as much as
    /// writing a few KiB.
    pub(super) fn is_judged(&mut self, size: Size) -> bool {
        if !self.may_be_direct(size) {
            return false;
        }
        self.unjudged += size.len;
        let is_due = self.unjudged >= LARGE_BYTES;
        if is_due {
            self.unjudged = 0;
        }
        is_due
    }

    /// An inline write ended at `now`, `took` after it began.
    pub(super) fn on_inline(&mut self, now: Now, took: Duration) {
        if took > THROTTLED {
            self.throttled_until = now.after(THROTTLED_FOR);
        }
    }

    /// An inline write took so much processor time.
    pub(super) fn on_worked(&mut self, len: usize, worked: Duration) {
        let worked_ns = u64::try_from(worked.as_nanos()).unwrap_or(u64::MAX);
        let ns_per_kib = worked_ns / (len as u64 / 1024).max(1);
        self.ns_per_kib = self.ns_per_kib / 8 * 7 + ns_per_kib / 8;
    }

    /// `len` bytes have been written one way or the other.
    pub(super) fn on_written(&mut self, way: Way, len: usize) {
        self.written[usize::from(way == Way::Direct)] += len as u64;
    }

    /// Whether a write is better made directly. Begins, continues or ends a trial.
    fn is_better(&mut self, now: Now) -> bool {
        if now > self.last.after(FORGOTTEN) {
            self.ns_per_kib = 0;
            self.useless = USELESS_MIN;
            self.belief = Belief::Known {
                pays: false,
                until: now,
            };
        }
        self.last = now;
        match self.belief {
            Belief::Known { until, .. } if now < until => {}
            Belief::Known { pays: false, .. } if self.ns_per_kib < SLOW_NS_PER_KIB => {}
            Belief::Known { .. } => {
                self.written = [0; 2];
                self.tried_ns = [0; 2];
                self.belief = Belief::Trial {
                    window: 0,
                    since: now,
                };
            }
            Belief::Trial { since, .. } if now < since.after(WINDOW) => {}
            Belief::Trial { window, since } => {
                // Windows end with the first write after their time: rates are compared, not sums.
                if window == 0 {
                    self.written = [0; 2];
                } else {
                    let side = usize::from(is_direct(window));
                    self.tried_ns[side] += now.0.saturating_sub(since.0);
                }
                self.belief = if window + 1 < WINDOWS {
                    Belief::Trial {
                        window: window + 1,
                        since: now,
                    }
                } else {
                    self.conclude(now)
                };
            }
        }
        match self.belief {
            Belief::Known { pays, .. } => pays,
            Belief::Trial { window, .. } => is_direct(window),
        }
    }

    fn conclude(&mut self, now: Now) -> Belief {
        let [buffered, direct] = self.written.map(u128::from);
        let [buffered_ns, direct_ns] = self.tried_ns.map(u128::from);
        let pays = direct * buffered_ns * 100 > buffered * direct_ns * SHARE_PERCENT;
        let holds = if pays {
            self.useless = USELESS_MIN;
            PAYS
        } else {
            let holds = self.useless;
            self.useless = (holds * 2).min(USELESS_MAX);
            holds
        };
        Belief::Known {
            pays,
            until: now.after(holds),
        }
    }
}

/// A trial begins directly and ends buffered, so that what was written directly is all on the device
/// when it is over.
fn is_direct(window: u8) -> bool {
    matches!(window, 0 | 1 | 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 256 * 1024;
    const LARGE: Size = urgent(LEN);
    const SECOND: u64 = 1_000_000_000;

    const fn urgent(len: usize) -> Size {
        Size {
            len,
            is_urgent: true,
        }
    }

    const fn leisurely(len: usize) -> Size {
        Size {
            len,
            is_urgent: false,
        }
    }

    /// A closed loop of large writes: `cost_ns` is what one of them costs each way. Returns the
    /// share of direct writes in percent.
    fn run(route: &mut Route, from: u64, seconds: u64, cost_ns: [u64; 2]) -> u64 {
        let mut now = from;
        let mut count = [0; 2];
        while now < from + seconds * SECOND {
            let way = route.choose(Now(now), LARGE);
            let side = usize::from(way == Way::Direct);
            count[side] += 1;
            now += cost_ns[side];
            if way == Way::Inline {
                route.on_worked(LEN, Duration::from_nanos(cost_ns[0]));
            }
            route.on_written(way, LEN);
        }
        count[1] * 100 / (count[0] + count[1])
    }

    const COLD: u64 = 600_000;
    const WARM: u64 = 40_000;

    #[test]
    fn cold_memory_and_a_fast_device_lead_around_the_page_cache() {
        let mut route = Route::new(SegmentIo::Auto);
        let share = run(&mut route, 0, 4, [COLD, 120_000]);
        assert!(share > 95, "{share}");
    }

    #[test]
    fn a_slow_device_leads_back_and_is_seldom_tried() {
        let mut route = Route::new(SegmentIo::Auto);
        let share = run(&mut route, 0, 20, [COLD, 2_500_000]);
        assert!(share < 2, "{share}");
    }

    #[test]
    fn small_writes_go_along_only_where_large_ones_go_for_good() {
        let (start, small) = (Now(0), urgent(1_000));
        let mut route = Route::new(SegmentIo::Direct);
        assert_eq!(route.choose(start, small), Way::Inline);
        assert_eq!(route.choose_next(start, small), Way::Direct);
        let mut route = Route::new(SegmentIo::Auto);
        assert_eq!(route.choose_next(start, small), Way::Inline);
        run(&mut route, 0, 4, [COLD, 120_000]);
        let later = Now(4 * SECOND);
        assert_eq!(route.choose_next(later, small), Way::Direct);
        route.belief = Belief::Trial {
            window: 1,
            since: later,
        };
        assert_eq!(route.choose_next(later, small), Way::Inline);
        assert_eq!(route.choose_next(later, LARGE), Way::Direct);
    }

    #[test]
    fn warm_memory_is_never_left() {
        let mut route = Route::new(SegmentIo::Auto);
        assert_eq!(run(&mut route, 0, 4, [WARM, 20_000]), 0);
    }

    #[test]
    fn a_draw_leads_around_the_page_cache_and_what_is_plainly_slower_does_not() {
        let mut route = Route::new(SegmentIo::Auto);
        let share = run(&mut route, 0, 20, [COLD, COLD]);
        assert!(share > 95, "{share}");
        let mut route = Route::new(SegmentIo::Auto);
        let share = run(&mut route, 0, 20, [COLD, COLD * 13 / 10]);
        assert!(share < 10, "{share}");
    }

    #[test]
    fn memory_that_has_become_warm_is_found_again() {
        let mut route = Route::new(SegmentIo::Auto);
        run(&mut route, 0, 3, [COLD, 120_000]);
        let share = run(&mut route, 3 * SECOND, 10, [WARM, 120_000]);
        assert!(share < 10, "{share}");
    }

    #[test]
    fn a_device_that_has_become_slow_is_left() {
        let mut route = Route::new(SegmentIo::Auto);
        run(&mut route, 0, 3, [COLD, 120_000]);
        let share = run(&mut route, 3 * SECOND, 10, [COLD, 3_000_000]);
        assert!(share < 10, "{share}");
    }

    #[test]
    fn another_load_is_judged_anew() {
        let mut route = Route::new(SegmentIo::Auto);
        run(&mut route, 0, 20, [COLD, 2_500_000]);
        let share = run(&mut route, 22 * SECOND, 4, [COLD, 120_000]);
        assert!(share > 90, "{share}");
        assert_eq!(route.choose(Now(30 * SECOND), LARGE), Way::Inline);
    }

    #[test]
    fn modes_are_kept_and_small_writes_are_buffered() {
        let mut always = Route::new(SegmentIo::Direct);
        assert_eq!(always.choose(Now(0), urgent(LARGE_BYTES)), Way::Direct);
        assert_eq!(always.choose(Now(0), urgent(LARGE_BYTES - 1)), Way::Inline);
        assert_eq!(always.choose(Now(0), leisurely(SMALL_BYTES)), Way::Direct);
        assert_eq!(
            always.choose(Now(0), leisurely(SMALL_BYTES - 1)),
            Way::Inline
        );
        let mut never = Route::new(SegmentIo::Buffered);
        assert_eq!(run(&mut never, 0, 2, [COLD, 1000]), 0);
        assert_eq!(
            never.choose(Now(0), urgent(INLINE_WRITE_BYTES_MAX)),
            Way::Inline
        );
        assert_eq!(
            never.choose(Now(0), urgent(INLINE_WRITE_BYTES_MAX + 1)),
            Way::Worker
        );
    }

    #[test]
    fn what_small_writes_cost_is_measured_now_and_then() {
        let mut route = Route::new(SegmentIo::Auto);
        let judged = |route: &mut Route, size| (0..64).filter(|_| route.is_judged(size)).count();
        assert_eq!(judged(&mut route, leisurely(SMALL_BYTES)), 8);
        assert_eq!(judged(&mut route, urgent(LARGE_BYTES)), 64);
        assert_eq!(judged(&mut route, urgent(LARGE_BYTES - 1)), 0);
        assert_eq!(judged(&mut Route::new(SegmentIo::Buffered), LARGE), 0);
    }

    #[test]
    fn writers_that_are_made_to_wait_leave_it_to_the_workers_for_a_while() {
        let mut route = Route::new(SegmentIo::Buffered);
        route.on_inline(Now(SECOND), THROTTLED);
        assert_eq!(route.choose(Now(SECOND), urgent(1)), Way::Inline);
        route.on_inline(Now(SECOND), THROTTLED * 2);
        assert_eq!(route.choose(Now(SECOND + 1), urgent(1)), Way::Worker);
        let later = Now(SECOND).after(THROTTLED_FOR);
        assert_eq!(route.choose(later, urgent(1)), Way::Inline);
    }
}
