//! What survives a restart or a crash (spec nsqd.md §3.5), a script each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::script::check;

#[test]
fn a_clean_restart_keeps_everything_but_counters() {
    check(
        "sub c1 t ch timeout=60s
         rdy c1 3
         pub t a b c d e
         expect c1 a b c
         req c1 c 10s
         fin c1 a
         expect c1 d e
         rdy c1 0
         req c1 e 0s
         checkpoint
         restart
         stats t messages=0 depth=0
         stats t ch depth=3 deferred=1 messages=0 in_flight=0 finished=0
         sub c2 t ch
         rdy c2 9
         expect c2 b d e attempts=2
         advance 10s
         expect c2 c attempts=2
         fin c2 b c d e
         stats t ch depth=0 in_flight=0 finished=4",
    );
}

#[test]
fn what_was_finished_before_the_checkpoint_stays_finished_after_a_crash() {
    check(
        "sub c1 t ch
         rdy c1 9
         pub t a b c d
         expect c1 a b c d
         fin c1 b
         checkpoint
         fin c1 a
         restart
         sub c2 t ch
         rdy c2 9
         expect c2 a c d attempts=2",
    );
}

#[test]
fn what_was_published_after_the_checkpoint_is_owed_after_a_crash() {
    check(
        "chan t ch
         pub t a
         checkpoint
         pub t b
         dpub t 5s x
         restart
         stats t ch depth=2 deferred=1 messages=0
         sub c1 t ch
         rdy c1 9
         expect c1 a b
         advance 5s
         expect c1 x",
    );
}

#[test]
fn a_checkpoint_ahead_of_the_log_does_not_finish_later_messages() {
    // `a` and `b` were finished before they were written; their sequences are used again.
    check(
        "sub c1 t ch
         rdy c1 9
         hold-writes
         pub t a b
         expect c1 a b
         fin c1 a b
         checkpoint
         restart
         write
         pub t x y
         restart
         sub c2 t ch
         rdy c2 9
         expect c2 x y",
    );
}

#[test]
fn the_backlog_of_a_topic_survives_with_its_due_times() {
    check(
        "pub t a
         dpub t 10s x
         checkpoint
         dpub t 20s y
         restart
         stats t depth=3
         checkpoint
         restart
         advance 9s
         sub c1 t ch
         rdy c1 9
         expect c1 a
         advance 1s
         expect c1 x
         advance 10s
         expect c1 y",
    );
}

#[test]
fn a_paused_topic_stays_paused_over_a_restart() {
    check(
        "chan t ch
         pub t a
         pause t
         pub t b
         pause t ch
         checkpoint
         restart
         stats t depth=1
         stats t ch depth=1
         sub c1 t ch
         rdy c1 9
         expect c1
         resume t ch
         expect c1 a
         resume t
         expect c1 b",
    );
}

#[test]
fn a_channel_without_checkpoint_owes_everything() {
    check(
        "pub t a b
         chan t ch
         restart
         stats t ch depth=2",
    );
}

#[test]
fn a_deleted_channel_leaves_no_trace_in_the_checkpoint() {
    check(
        "sub c1 t ch
         rdy c1 1
         pub t a b
         expect c1 a
         checkpoint
         delete t ch
         checkpoint
         chan t ch
         pub t z
         checkpoint
         restart
         stats t ch depth=1",
    );
}
