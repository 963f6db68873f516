//! What the figures were measured on.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::process::count;

/// The machine's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// The processor's name for itself.
    pub(super) cpu: String,
    /// Cores that this process may use.
    pub(super) cores: usize,
    /// GiB of memory, rounded.
    pub(super) memory_gib: u64,
    /// Release of the kernel.
    pub(super) kernel: String,
    /// Kind of the file system that holds the brokers' data.
    pub(super) filesystem: String,
}

impl Machine {
    /// Looks around; what the kernel does not tell is `unknown`.
    pub(super) fn here(work: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let unknown = || "unknown".to_owned();
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_gib(&read("/proc/meminfo")).unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            filesystem: filesystem(&read("/proc/self/mounts"), work).unwrap_or_else(unknown),
        }
    }
}

/// Processor time of all cores since the start of the machine, in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct CoreTime {
    all: u64,
    stolen: u64,
}

impl CoreTime {
    /// Until now; zeros where the kernel does not tell.
    pub(super) fn now() -> Self {
        Self::of(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    fn of(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        let numbers = line.split_ascii_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = numbers.filter_map(|word| word.parse().ok()).collect();
        Self {
            all: ticks.iter().sum(),
            stolen: ticks.get(7).copied().unwrap_or(0),
        }
    }

    /// The share of the time since then that the host of this virtual machine gave to others.
    pub(super) fn stolen_since(self, then: Self) -> f64 {
        let all = self.all.saturating_sub(then.all).max(1);
        count(self.stolen.saturating_sub(then.stolen)) / count(all)
    }
}

fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_gib(meminfo: &str) -> Option<u64> {
    let total = field(meminfo, "MemTotal")?;
    let kib: u64 = total.split(' ').next()?.parse().ok()?;
    Some((kib + (1 << 19)) >> 20)
}

/// Of the mount point that is nearest above the path; later mounts hide earlier ones.
fn filesystem(mounts: &str, path: &Path) -> Option<String> {
    let above = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (Path::new(words.next()?), words.next()?);
        path.starts_with(point)
            .then(|| (point.components().count(), kind))
    });
    let nearest = above.max_by_key(|(depth, _)| *depth)?;
    Some(nearest.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_tells() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmpfoo xfs rw 0 0\n";
        let kind = |path: &str| filesystem(mounts, Path::new(path)).unwrap();
        assert_eq!(kind("/home/x"), "ext4");
        assert_eq!(kind("/tmp/x"), "tmpfs");
    }

    #[test]
    fn stolen_time_is_a_share() {
        let then = CoreTime::of("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 2 3\n");
        let now = CoreTime::of("cpu  20 0 20 150 0 0 0 10 5 0\n");
        assert!((now.stolen_since(then) - 0.1).abs() < 1e-9);
        assert_eq!(CoreTime::of("").stolen_since(then), 0.0);
    }

    #[test]
    fn memory_is_rounded() {
        assert_eq!(memory_gib("MemTotal:       24602088 kB\n"), Some(23));
        assert_eq!(memory_gib("nothing"), None);
    }

    #[test]
    fn something_is_known_of_this_machine() {
        let machine = Machine::here(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory_gib > 0 && !machine.kernel.is_empty());
    }
}
