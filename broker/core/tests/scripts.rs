//! The rules of spec nsqd.md §3.1-3.3, §3.7, §3.8 and of the checklist in §8.4, a script each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::limits;
use common::script::{check, check_with};
use nsq_core::ShardLimits;

#[test]
fn rdy_bounds_what_is_in_flight() {
    check(
        "sub c1 t ch
         rdy c1 2
         pub t a b c d e
         expect c1 a b
         fin c1 a
         expect c1 c
         rdy c1 0
         fin c1 b
         expect c1
         cls c1
         rdy c1 9
         expect c1
         stats t ch depth=2 in_flight=1 messages=5 finished=2 delivered=3",
    );
}

#[test]
fn a_message_is_finished_once_and_by_its_owner() {
    check(
        "sub c1 t ch
         sub c2 t ch
         rdy c1 1
         pub t a b
         expect c1 a
         fin c2 a ! client does not own message
         touch c2 a ! client does not own message
         req c2 a 0s ! client does not own message
         fin c1 a
         fin c1 a ! ID not in flight
         expect c1 b
         req c1 b 1s
         touch c1 b ! ID not in flight
         stats t ch deferred=1 requeued=1",
    );
}

#[test]
fn messages_of_a_vanished_consumer_can_come_back_at_once() {
    let at_once = ShardLimits {
        requeue_on_disconnect: true,
        ..limits()
    };
    check_with(
        at_once,
        "sub c1 t ch
         sub c2 t ch
         rdy c1 2
         pub t a b
         expect c1 a b
         fin c1 a
         unsub c1
         stats t ch in_flight=0 depth=1 timeouts=1
         rdy c2 1
         expect c2 b attempts=2
         fin c2 b
         advance 120s
         stats t ch depth=0 timeouts=1",
    );
}

#[test]
fn ids_of_another_topic_or_channel_are_not_in_flight() {
    check(
        "sub c1 t ch
         sub c2 u ch
         rdy c1 9
         rdy c2 9
         pub t a
         pub u b
         expect c1 a
         expect c2 b
         fin c1 b ! ID not in flight
         fin c2 a ! ID not in flight",
    );
}

#[test]
fn the_first_channel_inherits_the_backlog() {
    check(
        "pub t a b
         stats t depth=2
         chan t c1
         chan t c2
         pub t c
         stats t c1 depth=3
         stats t c2 depth=1
         stats t depth=0 messages=3 bytes=3
         delete t c1
         delete t c2
         pub t d
         stats t depth=1",
    );
}

#[test]
fn an_ephemeral_channel_takes_the_backlog_as_well() {
    check(
        "pub t a b
         sub c1 t ch#ephemeral
         rdy c1 9
         expect c1 a b",
    );
}

#[test]
fn a_paused_topic_keeps_its_messages() {
    check(
        "sub c1 t ch
         rdy c1 9
         catalogue 2
         pause t
         catalogue 1
         pause t
         catalogue 0
         pub t a b
         expect c1
         stats t depth=2
         stats t ch messages=0
         resume t
         expect c1 a b
         stats t depth=0",
    );
}

#[test]
fn pausing_a_topic_does_not_hold_back_what_came_before() {
    check(
        "chan t ch
         pub t a
         pause t
         pub t b
         stats t ch depth=1
         stats t depth=1",
    );
}

#[test]
fn what_is_not_revealed_stays_with_the_topic() {
    check(
        "chan t ch
         sub c1 t ch
         rdy c1 9
         hide
         pub t a b
         dpub t 1s c d
         pub t e
         expect c1
         stats t depth=5
         reveal t 2
         expect c1 a b
         stats t depth=3
         reveal t 1
         reveal t 3
         stats t depth=2
         stats t ch deferred=1
         advance 1s
         expect c1 c
         reveal t 5
         expect c1 d e
         stats t depth=0
         pub t f
         expect c1
         reveal t 6
         expect c1 f
         pub t g
         expect c1
         chan t late
         expect c1
         empty t
         expect c1 g
         stats t late depth=1",
    );
}

#[test]
fn what_is_not_revealed_is_with_the_topic_after_a_restart() {
    check(
        "chan t ch
         hide
         dpub t 1s a b
         reveal t 1
         checkpoint
         reveal t 2
         restart
         sub c1 t ch
         rdy c1 9
         expect c1
         advance 1s
         expect c1 a b",
    );
}

#[test]
fn emptying_a_topic_leaves_its_channels_untouched() {
    check(
        "chan t ch
         pub t a
         pause t
         pub t b c
         empty t
         stats t depth=0 messages=3
         stats t ch depth=1
         resume t
         stats t ch depth=1 messages=1",
    );
}

#[test]
fn a_deleted_topic_disconnects_and_begins_anew() {
    check(
        "sub c1 t ch
         sub c2 t other
         pub t a
         log TOPIC(t): created
         log TOPIC(t): new channel(ch)
         log TOPIC(t): new channel(other)
         delete t
         gone c1
         gone c2
         log TOPIC(t): deleting
         log CHANNEL(ch): deleting
         log CHANNEL(other): deleting
         nolog
         absent t
         pub t b
         stats t messages=1 depth=1",
    );
}

#[test]
fn a_deleted_channel_disconnects_its_consumers() {
    check(
        "sub c1 t ch
         rdy c1 5
         pub t a
         expect c1 a
         log TOPIC(t): new channel(ch)
         delete t ch
         gone c1
         log TOPIC(t): deleting channel ch
         log CHANNEL(ch): deleting
         absent t ch
         catalogue 3
         fin c1 a ! ID not in flight
         advance 2h
         stats t depth=0",
    );
}

#[test]
fn an_ephemeral_topic_drops_the_newest_and_goes_with_its_last_channel() {
    let limits = ShardLimits {
        mem_queue_size: 2,
        ..limits()
    };
    check_with(
        limits,
        "pub t#ephemeral a b c
         stats t#ephemeral depth=2 messages=3 backend_depth=0
         catalogue 0
         sub c1 t#ephemeral ch
         rdy c1 5
         expect c1 a b
         fin c1 a b
         catalogue 0
         chan t#ephemeral other
         delete t#ephemeral other
         unsub c1
         stats t#ephemeral channels=1
         delete t#ephemeral ch
         absent t#ephemeral",
    );
}

#[test]
fn an_ephemeral_topic_that_never_had_a_channel_stays() {
    check(
        "topic t#ephemeral
         advance 2h
         stats t#ephemeral channels=0",
    );
}

#[test]
fn an_ephemeral_channel_drops_the_newest_but_counts_them() {
    let limits = ShardLimits {
        mem_queue_size: 2,
        ..limits()
    };
    check_with(
        limits,
        "chan t ch#ephemeral
         catalogue 1
         pub t a b
         pub t c d e f
         stats t ch#ephemeral depth=2 messages=6 backend_depth=0
         sub c1 t ch#ephemeral
         rdy c1 1
         expect c1 a
         pub t g
         stats t ch#ephemeral depth=2
         unsub c1
         log TOPIC(t): deleting channel ch#ephemeral
         absent t ch#ephemeral
         catalogue 0
         stats t messages=7",
    );
}

#[test]
fn without_memory_an_ephemeral_channel_needs_a_waiting_consumer() {
    let limits = ShardLimits {
        mem_queue_size: 0,
        ..limits()
    };
    check_with(
        limits,
        "sub c1 t ch#ephemeral
         pub t a
         rdy c1 2
         expect c1
         pub t b c d
         expect c1 b c
         stats t ch#ephemeral depth=0 messages=4 in_flight=2",
    );
}

#[test]
fn an_ephemeral_channel_over_http_stays_until_used() {
    check(
        "chan t ch#ephemeral
         advance 2h
         stats t channels=1
         sub c1 t ch#ephemeral
         unsub c1
         stats t channels=0",
    );
}

#[test]
fn a_plain_channel_is_never_removed_by_itself() {
    check(
        "sub c1 t ch
         unsub c1
         stats t ch consumers=0",
    );
}

#[test]
fn a_paused_channel_delivers_nothing_while_timeouts_run() {
    check(
        "sub c1 t ch timeout=1s
         rdy c1 5
         pub t a
         expect c1 a
         pause t ch
         pub t b
         advance 2s
         expect c1
         stats t ch depth=2 in_flight=0 timeouts=1
         resume t ch
         stats t ch in_flight=2",
    );
}

#[test]
fn emptying_a_channel_drops_everything_and_resets_its_consumers() {
    check(
        "sub c1 t ch
         rdy c1 2
         pub t a b c d
         expect c1 a b
         req c1 b 5s
         expect c1 c
         empty t ch
         stats t ch depth=0 in_flight=0 deferred=0 messages=4
         fin c1 a ! ID not in flight
         pub t e f
         expect c1 e f
         advance 61s
         expect c1 e f attempts=2",
    );
}

#[test]
fn requeue_without_delay_is_ready_at_once() {
    check(
        "sub c1 t ch
         rdy c1 1
         pub t a
         expect c1 a
         req c1 a 0s
         expect c1 a attempts=2
         stats t ch requeued=1 timeouts=0 in_flight=1",
    );
}

#[test]
fn requeue_with_delay_is_deferred() {
    check(
        "sub c1 t ch
         rdy c1 1
         pub t a
         expect c1 a
         req c1 a 5s
         stats t ch deferred=1 in_flight=0 depth=0
         advance 4999ms
         expect c1
         advance 1ms
         expect c1 a attempts=2",
    );
}

#[test]
fn the_delay_of_a_requeue_is_clamped() {
    let limits = ShardLimits {
        requeue_delay_max: Duration::from_secs(2),
        ..limits()
    };
    check_with(
        limits,
        "sub c1 t ch
         rdy c1 1
         pub t a
         expect c1 a
         req c1 a 100s
         advance 2s
         expect c1 a attempts=2",
    );
}

#[test]
fn a_timeout_requeues_what_was_not_finished() {
    check(
        "sub c1 t ch timeout=1s
         rdy c1 3
         pub t a b c
         expect c1 a b c
         fin c1 b
         advance 999ms
         expect c1
         advance 1ms
         expect c1 a c attempts=2
         stats t ch timeouts=2 requeued=0
         fin c1 a",
    );
}

#[test]
fn touch_extends_up_to_the_maximum_from_the_delivery() {
    let limits = ShardLimits {
        msg_timeout_max: Duration::from_secs(6),
        ..limits()
    };
    check_with(
        limits,
        "sub c1 t ch timeout=2s
         rdy c1 2
         pub t a b
         expect c1 a b
         advance 1500ms
         touch c1 a
         advance 500ms
         expect c1 b attempts=2
         fin c1 b
         advance 1s
         touch c1 a
         advance 1500ms
         touch c1 a
         advance 1499ms
         expect c1
         advance 1ms
         expect c1 a attempts=2
         touch c1 a",
    );
}

#[test]
fn the_messages_of_a_vanished_consumer_wait_for_their_timeout() {
    check(
        "sub c1 t ch timeout=3s
         sub c2 t ch
         rdy c1 1
         pub t a
         expect c1 a
         unsub c1
         rdy c2 1
         stats t ch in_flight=1 consumers=1
         fin c2 a ! client does not own message
         advance 2999ms
         expect c2
         advance 1ms
         expect c2 a attempts=2
         stats t ch timeouts=1",
    );
}

#[test]
fn a_deferred_publish_counts_from_the_publish() {
    check(
        "sub c1 t ch
         rdy c1 9
         dpub t 3s x
         pub t a
         expect c1 a
         stats t ch deferred=1 messages=2 depth=0
         advance 2999ms
         expect c1
         advance 1ms
         expect c1 x",
    );
}

#[test]
fn a_deferral_in_the_topics_backlog_keeps_its_time() {
    check(
        "dpub t 3s x
         dpub t 1s y
         pub t a
         stats t depth=3
         advance 2s
         sub c1 t ch
         rdy c1 9
         expect c1 a y
         stats t ch deferred=1 depth=0 messages=3
         advance 1s
         expect c1 x",
    );
}

#[test]
fn every_channel_has_its_own_deferral() {
    check(
        "sub c1 t one
         sub c2 t two
         rdy c1 1
         rdy c2 1
         dpub t 1s x
         empty t one
         advance 1s
         expect c1
         expect c2 x",
    );
}

#[test]
fn deferrals_of_months_are_legal() {
    check(
        "sub c1 t ch
         rdy c1 1
         dpub t 8760h x
         advance 8759h
         expect c1
         advance 1h
         expect c1 x",
    );
}

#[test]
fn consumers_are_served_in_turns() {
    check(
        "sub c1 t ch
         sub c2 t ch
         rdy c1 1
         rdy c2 1
         pub t a b c
         expect c1 a
         expect c2 b
         fin c2 b
         expect c2 c
         fin c1 a
         expect c1",
    );
}

#[test]
fn a_full_connection_gets_nothing_until_there_is_room() {
    check(
        "sub c1 t ch
         rdy c1 5
         full c1
         pub t a
         expect c1
         room c1
         expect c1 a",
    );
}

#[test]
fn depth_beyond_memory_counts_as_backend() {
    let limits = ShardLimits {
        mem_queue_size: 2,
        ..limits()
    };
    check_with(
        limits,
        "pub t a b c
         stats t depth=3 backend_depth=1
         chan t ch
         stats t ch depth=3 backend_depth=1",
    );
}

#[test]
fn what_the_cache_does_not_hold_is_read_back() {
    let limits = ShardLimits {
        cache_bytes_max: 0,
        ..limits()
    };
    check_with(
        limits,
        "pub t a b c
         sub c1 t ch timeout=1s
         sub c2 t two
         rdy c1 9
         expect c1 a b c
         advance 1s
         expect c1 a b c attempts=2
         rdy c2 1
         expect c2
         pub t d
         expect c1 d
         expect c2 d",
    );
}

#[test]
fn damaged_messages_count_as_finished() {
    let limits = ShardLimits {
        cache_bytes_max: 0,
        ..limits()
    };
    check_with(
        limits,
        "pub t a b c d e
         damage t 1 3
         sub c1 t ch
         stats t ch depth=5
         rdy c1 9
         expect c1 a d e
         stats t ch depth=0 in_flight=3
         fin c1 a d e
         damage t 4 5
         restart
         stats t ch depth=2",
    );
}

#[test]
fn a_reclaimed_prefix_is_not_missed() {
    check(
        "sub c1 t ch
         rdy c1 4
         pub t a b c d e f
         expect c1 a b c d
         fin c1 a b c
         checkpoint
         reclaim 1
         restart
         sub c2 t ch
         rdy c2 9
         expect c2 d e f attempts=2",
    );
}

#[test]
fn a_straggler_of_an_ephemeral_topic_outlives_its_chunk() {
    check(
        "sub c1 t#ephemeral ch
         rdy c1 9
         dpub t#ephemeral 10s x
         pub t#ephemeral a
         pub t#ephemeral b
         expect c1 a b
         fin c1 a b
         advance 10s
         expect c1 x
         req c1 x 3s
         advance 3s
         expect c1 x attempts=2
         fin c1 x
         stats t#ephemeral ch depth=0 in_flight=0 deferred=0",
    );
}

#[test]
fn the_closest_consumers_that_have_room_are_served_first() {
    check(
        "sub c1 t ch
         sub c2 t ch near=region
         sub c3 t ch near=zone
         rdy c1 3
         rdy c2 3
         rdy c3 3
         pub t a b c
         expect c3 a b c
         pub t d e
         expect c2 d e
         pub t f g h i
         expect c2 f
         expect c1 g h i
         pub t j k
         expect c1
         fin c3 a
         expect c3 j
         fin c1 g
         expect c1 k
         stats t ch zone=4 region=3 global=4 delivered=11 messages=11
         unsub c3
         pub t l
         fin c2 d
         expect c2 l",
    );
}
