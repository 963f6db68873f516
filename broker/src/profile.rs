//! CPU profiles of the whole process, in the format that `go tool pprof` reads.
//!
//! A timer signal looks 99 times per second of CPU at whatever thread is running; its stack goes to
//! a table. Everything else, the sorting out of names above all, happens on a thread of its own, so
//! that no shard waits. While no profile is taken there is neither timer nor thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use pprof::ProfilerGuardBuilder;
use pprof::protos::Message;

use crate::gateway::ProfileError;

/// Samples per second of CPU; not 100, so as not to keep step with what happens every 10 ms.
const FREQUENCY: i32 = 99;
/// Code that no stack can be taken from safely: the unwinder itself, and what the kernel maps.
const BLOCKED: [&str; 2] = ["libgcc", "vdso"];

/// The timer is the process's: there is one profile at a time.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// The right to take a profile; given back when dropped.
#[derive(Debug)]
struct Turn;

impl Turn {
    fn take() -> Option<Self> {
        (!RUNNING.swap(true, Ordering::AcqRel)).then(|| Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::Release);
    }
}

/// Takes a profile for so long and gives it to `answer`, on another thread.
///
/// # Errors
/// Another profile is being taken, or there can be no thread; `answer` is not called then.
pub(crate) fn start(
    span: Duration,
    answer: impl FnOnce(Result<Bytes, ProfileError>) + Send + 'static,
) -> Result<(), ProfileError> {
    let turn = Turn::take().ok_or(ProfileError::InUse)?;
    let profile = move || {
        let result = take(span).map_err(ProfileError::Failed);
        drop(turn);
        answer(result);
    };
    let thread = thread::Builder::new().name("profile".to_owned());
    let started = thread.spawn(profile).map(drop);
    started.map_err(|error| ProfileError::Failed(error.to_string()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread that has nothing to do but to wait"
)]
fn take(span: Duration) -> Result<Bytes, String> {
    let guard = ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .blocklist(&BLOCKED)
        .build();
    let guard = guard.map_err(|error| error.to_string())?;
    thread::sleep(span);
    let profile = guard.report().build().and_then(|report| report.pprof());
    let encoded = profile.map_err(|error| error.to_string())?.write_to_bytes();
    encoded.map(Bytes::from).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use pprof::protos::Profile;

    use super::*;

    /// Something to be found in a profile.
    #[inline(never)]
    fn burn_cpu_for_the_profile(until: impl Fn() -> bool) -> u64 {
        let mut sum = 0_u64;
        while !until() {
            for number in 0..10_000 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
            }
        }
        sum
    }

    #[test]
    fn a_profile_names_what_ran_and_only_one_is_taken_at_a_time() {
        let (sender, receiver) = mpsc::channel();
        let done = std::sync::Arc::new(AtomicBool::new(false));
        let is_done = std::sync::Arc::clone(&done);
        start(Duration::from_millis(500), move |result| {
            is_done.store(true, Ordering::Release);
            sender.send(result).unwrap();
        })
        .unwrap();
        let second = start(Duration::from_millis(1), |_| ());
        assert!(matches!(second, Err(ProfileError::InUse)));
        burn_cpu_for_the_profile(|| done.load(Ordering::Acquire));

        let encoded = receiver.recv().unwrap().unwrap();
        let profile = Profile::parse_from_bytes(&encoded).unwrap();
        let named = |name: &String| name.contains("burn_cpu_for_the_profile");
        assert!(
            profile.string_table.iter().any(named),
            "{:?}",
            profile.string_table
        );
        assert!(profile.duration_nanos >= 500_000_000);
        let (sender, receiver) = mpsc::channel();
        start(Duration::from_millis(1), move |result| {
            sender.send(result.is_ok()).unwrap();
        })
        .unwrap();
        assert!(receiver.recv().unwrap(), "the next one may be taken");
    }
}
