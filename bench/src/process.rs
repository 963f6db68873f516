//! Processes as the kernel sees them: processor time and memory of the broker, processor time of the
//! generator's own threads, and where these run.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// What a process has used until now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// Processor time, user and system.
    pub(crate) cpu_s: f64,
    /// Memory in use, KiB.
    pub(crate) rss_kib: u64,
    /// Most memory ever in use, KiB.
    pub(crate) peak_kib: u64,
}

/// Reads the usage of a process.
///
/// # Errors
/// There is no such process.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?));
    let cpu = clock.and_then(nix::time::ClockId::now);
    let cpu = cpu.with_context(|| format!("processor time of process {pid}"))?;
    Ok(Usage {
        cpu_s: Duration::from(cpu).as_secs_f64(),
        rss_kib: status_kib(&status, "VmRSS:").unwrap_or(0),
        peak_kib: status_kib(&status, "VmHWM:").unwrap_or(0),
    })
}

/// A count as a number to divide by; counts here are far below 2^53.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "std has no other way"
)]
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

fn status_kib(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Processor time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    cpu(UsageWho::RUSAGE_THREAD)
}

/// Processor time of this process.
pub(crate) fn own_cpu() -> Duration {
    cpu(UsageWho::RUSAGE_SELF)
}

fn cpu(who: UsageWho) -> Duration {
    let Ok(usage) = getrusage(who) else {
        return Duration::ZERO;
    };
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
            Duration::from_secs(seconds)
                + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0))
        })
        .sum()
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// There is no such core.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("run on core {core}"))
}

/// Lets the threads that this one starts sleep as precisely as the timers allow.
pub(crate) fn sleep_precisely() {
    // Where it is refused, sleeps are some 50 µs longer, and the lateness that is reported says so.
    let _refused = nix::sys::prctl::set_timerslack(1);
}

/// Makes room for so many descriptors.
///
/// # Errors
/// The limit is lower and cannot be raised.
pub(crate) fn want_descriptors(wanted: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted {
        ensure!(
            hard >= wanted,
            "{wanted} descriptors are needed, the limit is {hard}"
        );
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).context("raise the descriptor limit")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_usage_can_be_read() {
        let usage = usage(std::process::id()).unwrap();
        assert!(
            usage.rss_kib > 0 && usage.peak_kib >= usage.rss_kib && usage.cpu_s > 0.0,
            "{usage:?}"
        );
        let own = own_cpu().as_secs_f64();
        assert!(usage.cpu_s <= own + 0.1, "{usage:?}, {own}");
    }
}
