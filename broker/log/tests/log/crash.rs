//! Crashes at every operation, failures of every operation.

use nsq_log::SyncPolicy;

use crate::common::sim_disk::Crash;
use crate::world::World;

const STEPS: usize = 160;

/// Crashes after each operation of a scenario, goes on, crashes again, and recovers once more.
fn crash_everywhere(sync: SyncPolicy, crash: Crash, seeds: std::ops::Range<u64>) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("topic");
    for seed in seeds {
        for operation in 0.. {
            let mut world = World::new(&dir, sync, seed);
            let mut steps = 0;
            while world.disk.finished < operation && steps < STEPS {
                world.step();
                steps += 1;
            }
            let context = format!("seed {seed} operation {operation} {sync:?} {crash:?}");
            let guard = Named(&context);
            let is_over = steps == STEPS;
            let mut world = world.crash(crash, seed + 1);
            for _ in 0..operation % 60 {
                world.step();
            }
            let second = if operation % 2 == 0 {
                Crash::Kill
            } else {
                crash
            };
            let mut world = world.crash(second, seed + 2);
            for _ in 0..operation % 40 {
                world.step();
            }
            world.crash(crash, seed + 3).settle();
            drop(guard);
            if is_over {
                assert!(operation > 30, "the scenario has substance");
                break;
            }
        }
    }
}

/// Says which case failed.
struct Named<'a>(&'a str);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed: {}", self.0);
        }
    }
}

#[test]
fn killed_under_interval_loses_nothing_committed() {
    crash_everywhere(SyncPolicy::Interval, Crash::Kill, 0..8);
}

#[test]
fn killed_under_always_loses_nothing_committed() {
    crash_everywhere(SyncPolicy::Always, Crash::Kill, 100..104);
}

#[test]
fn power_failure_under_always_loses_nothing_committed() {
    crash_everywhere(SyncPolicy::Always, Crash::Power, 200..208);
}

#[test]
fn power_failure_under_interval_loses_nothing_synced() {
    crash_everywhere(SyncPolicy::Interval, Crash::Power, 300..304);
}

#[test]
fn a_failed_operation_poisons_once_and_nothing_is_committed_after() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("topic");
    let mut failed = std::collections::BTreeSet::new();
    for (sync, seed) in [(SyncPolicy::Interval, 7), (SyncPolicy::Always, 8)] {
        for operation in 1..150 {
            let context = format!("seed {seed} operation {operation} {sync:?}");
            let _guard = Named(&context);
            let mut world = World::new(&dir, sync, seed);
            world.disk.fail_at = Some(operation);
            for _ in 0..2 * STEPS {
                world.step();
            }
            world.settle();
            let failure = world.disk.failed.first().copied();
            failed.extend(failure);
            let is_fatal = !matches!(failure, None | Some("read" | "remove"));
            // An open on behalf of a read alone does no harm.
            if failure != Some("open") {
                assert_eq!(world.poisoned, u32::from(is_fatal), "{failure:?}");
            }
            world.crash(Crash::Kill, seed).settle();
        }
    }
    for kind in [
        "write", "sync", "create", "recycle", "replace", "read", "open", "remove",
    ] {
        assert!(failed.contains(kind), "no {kind} has failed in this test");
    }
}

#[test]
fn long_runs_with_clean_ends_lose_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("topic");
    for seed in 500..506 {
        let context = format!("seed {seed}");
        let _guard = Named(&context);
        let mut world = World::new(&dir, SyncPolicy::Interval, seed);
        for _ in 0..4 {
            for _ in 0..1500 {
                world.step();
            }
            world.settle();
            let head = world.head;
            world = world.crash(Crash::Kill, seed);
            assert_eq!(world.head, head);
        }
    }
}
