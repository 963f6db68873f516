//! Parking and being woken.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::super::queue::{Queue, TaskWork};
use super::super::{Ring, Wait};
use super::{PATIENCE, SMALL, next_event, received, ring, shared};
use crate::mailbox::Mailbox;

#[test]
fn turn_does_not_wait_when_asked_not_to_or_when_not_idle() {
    let mut ring = ring();
    let start = Instant::now();
    assert_eq!(ring.turn(Wait::No, || true, |_| panic!()).unwrap(), 0);
    assert_eq!(
        ring.turn(Wait::Until(PATIENCE), || false, |_| panic!())
            .unwrap(),
        0
    );
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn wait_ends_with_its_time() {
    let mut ring = ring();
    for wait in [Duration::ZERO, Duration::from_millis(20)] {
        let start = Instant::now();
        assert_eq!(
            ring.turn(Wait::Until(wait), || true, |_| panic!()).unwrap(),
            0
        );
        assert!(start.elapsed() >= wait);
        assert!(start.elapsed() < PATIENCE);
    }
}

#[test]
fn unlimited_wait_is_accepted() {
    let mut ring = ring();
    let doorbell = ring.doorbell();
    let ringer = thread::spawn(move || {
        // However early this comes, it is not lost: the flag says whether the ring sleeps.
        let start = Instant::now();
        while start.elapsed() < PATIENCE && !doorbell_answered(&doorbell) {}
    });
    ring.turn(Wait::Until(Duration::MAX), || true, |_| panic!())
        .unwrap();
    ringer.join().unwrap();
}

/// Rings; true once the ring was found asleep.
fn doorbell_answered(doorbell: &super::super::Doorbell) -> bool {
    let asleep = doorbell.is_parked();
    doorbell.ring();
    asleep
}

/// The sender sends the next value at once when the last one was taken: often just as the ring
/// goes to sleep. A lost wake-up shows as a turn that lasts its whole time.
#[test]
fn no_wake_up_is_lost_in_lockstep() {
    const ROUNDS: u32 = 20_000;
    let mut ring = ring();
    let mailbox = Mailbox::new(4, ring.doorbell());
    let sender_end = mailbox.clone();
    let (taken, confirmed) = mpsc::channel();
    let sender = thread::spawn(move || {
        for value in 0..ROUNDS {
            sender_end.try_send(value).expect("room for one");
            assert_eq!(confirmed.recv(), Ok(value));
        }
    });
    let mut expected = 0;
    while expected < ROUNDS {
        let start = Instant::now();
        ring.turn(Wait::Until(PATIENCE), || mailbox.is_empty(), |_| panic!())
            .unwrap();
        assert!(
            start.elapsed() < PATIENCE,
            "lost the wake-up for {expected}"
        );
        mailbox.drain(16, |value| {
            assert_eq!(value, expected);
            expected += 1;
            taken.send(value).unwrap();
        });
    }
    sender.join().unwrap();
}

#[test]
fn many_senders_through_small_mailboxes_are_all_heard() {
    const SENDERS: u64 = 4;
    const EACH: u64 = 20_000;
    let mut ring = ring();
    let mailbox = Mailbox::new(8, ring.doorbell());
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                for n in 0..EACH {
                    let mut message = (sender, n);
                    while let Err(back) = mailbox.try_send(message) {
                        message = back;
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut next = [0; 4];
    while next.iter().sum::<u64>() < SENDERS * EACH {
        let start = Instant::now();
        ring.turn(Wait::Until(PATIENCE), || mailbox.is_empty(), |_| panic!())
            .unwrap();
        assert!(start.elapsed() < PATIENCE, "lost a wake-up at {next:?}");
        mailbox.drain(3, |(sender, n)| {
            let next = &mut next[usize::try_from(sender).unwrap()];
            assert_eq!(n, *next, "order is kept per sender");
            *next += 1;
        });
    }
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
    assert!(mailbox.is_empty());
}

#[test]
fn full_mailbox_gives_the_value_back_and_a_budget_is_kept() {
    let ring = ring();
    let mailbox = Mailbox::new(2, ring.doorbell());
    assert_eq!(
        (mailbox.capacity(), mailbox.len(), mailbox.is_empty()),
        (2, 0, true)
    );
    mailbox.try_send("a").unwrap();
    mailbox.try_send("b").unwrap();
    assert_eq!(mailbox.try_send("c"), Err("c"));
    let mut drained = Vec::new();
    assert_eq!(mailbox.drain(1, |value| drained.push(value)), 1);
    mailbox.try_send("c").unwrap();
    assert_eq!(mailbox.drain(10, |value| drained.push(value)), 2);
    assert_eq!(drained, ["a", "b", "c"]);
}

#[test]
fn doorbell_outlives_its_ring() {
    let ring = ring();
    let doorbell = ring.doorbell();
    drop(ring);
    doorbell.ring();
}

#[test]
fn older_kernels_modes_work_too() {
    for work in [TaskWork::Deferred, TaskWork::Cooperative, TaskWork::Any] {
        let queue = Queue::with_task_work(SMALL.entries, work).unwrap();
        let mut ring = Ring::with_queue(SMALL, queue).unwrap();
        let mailbox = Mailbox::new(4, ring.doorbell());
        let (here, mut there) = UnixStream::pair().unwrap();
        ring.receive(shared(here), 1);
        let sender_end = mailbox.clone();
        let sender = thread::spawn(move || {
            sender_end.try_send(()).unwrap();
            there.write_all(b"x").unwrap();
            there
        });
        assert_eq!(received(&[next_event(&mut ring)], 1), b"x", "{work:?}");
        let _there = sender.join().unwrap();
        assert_eq!(mailbox.drain(4, drop), 1);
    }
}
