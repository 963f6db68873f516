//! What the machine must offer, checked before the first shard starts.
//!
//! Run once by the main thread. [`survey`] looks at the machine, [`judge`] is a pure function from
//! what was found to a verdict, so that every message can be tested. A failure says in one text
//! what is wrong, the likeliest cause and the command that mends it; exiting is the caller's.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::utsname::uname;
use nix::unistd::Pid;

use crate::ring::{Completion, Ring, RingOptions, Wait};

/// glommio refuses to start an executor below this soft limit, capabilities or not.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// glommio registers its I/O memory with each of its three rings, and each counts.
const REGISTRATIONS: u64 = 3;
/// Fewer descriptors than this deserve a warning.
const DESCRIPTORS_WANTED: u64 = 10_000;
/// Bit of `CAP_IPC_LOCK` in `/proc/self/status`.
const CAP_IPC_LOCK: u32 = 14;
/// How long the kernel may take to hand over one byte that is already there.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(1);
const TRIAL_TURNS_MAX: u32 = 5;

/// What is going to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Executors.
    pub shards: u64,
    /// I/O memory given to each executor, in bytes.
    pub io_memory_bytes: u64,
}

/// A resource limit; `u64::MAX` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What applies.
    pub soft: u64,
    /// What it may be raised to.
    pub hard: u64,
}

/// What the machine offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Release as `uname -r` prints it.
    pub kernel: String,
    /// Whether a bare io_uring can be made.
    pub io_uring: Result<(), Errno>,
    /// The sysctl `kernel.io_uring_disabled`; absent before Linux 6.6.
    pub io_uring_disabled: Option<u8>,
    /// Features that were needed and not found.
    pub missing: Vec<&'static str>,
    /// `RLIMIT_MEMLOCK` in bytes.
    pub memlock: Limit,
    /// Whether `CAP_IPC_LOCK` lifts the accounting of locked memory.
    pub memlock_exempt: bool,
    /// `RLIMIT_NOFILE`.
    pub descriptors: Limit,
}

/// Why the broker cannot run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// The system call does not exist, or a container pretends so.
    #[error(
        "io_uring is not available on this kernel ({kernel}): {cause}",
        cause = if is_recent(kernel) {
            "the kernel is recent enough, so it was built without io_uring or a container's \
             seccomp profile hides it. Start the container with a profile that allows io_uring, \
             e.g. `docker run --security-opt seccomp=unconfined ...`"
        } else {
            "it is too old. Boot Linux 6.1 or later; check with `uname -r`"
        }
    )]
    NoIoUring {
        /// `uname -r`.
        kernel: String,
    },
    /// The sysctl forbids io_uring.
    #[error(
        "io_uring is forbidden by the sysctl kernel.io_uring_disabled={value}{scope}. Allow it \
         with `sysctl -w kernel.io_uring_disabled=0`, and in /etc/sysctl.d/ to keep it",
        scope = if *value == 1 { " (for processes without CAP_SYS_ADMIN)" } else { "" }
    )]
    DisabledBySysctl {
        /// Its value, 1 or 2.
        value: u8,
    },
    /// `EPERM` without the sysctl.
    #[error(
        "io_uring is forbidden for this process (EPERM), most likely by a container's seccomp \
         profile or a security module. Start the container with a profile that allows io_uring, \
         e.g. `docker run --security-opt seccomp=unconfined ...`"
    )]
    Forbidden,
    /// Not enough lockable memory for a ring or an executor.
    #[error(
        "the limit on locked memory (RLIMIT_MEMLOCK) is {limit}, and at least 512 KiB are needed. \
         Raise it with `ulimit -l unlimited`, `LimitMEMLOCK=infinity` in the systemd unit, or \
         `docker run --ulimit memlock=-1 ...`",
        limit = Bytes(*soft)
    )]
    LockedMemory {
        /// The soft limit in bytes.
        soft: u64,
    },
    /// The kernel has io_uring, but not all of it.
    #[error(
        "this kernel ({kernel}) lacks what the broker needs of io_uring: {}. Boot Linux 6.1 or \
         later; check with `uname -r`",
        missing.join(", ")
    )]
    Missing {
        /// `uname -r`.
        kernel: String,
        /// Names of features.
        missing: Vec<&'static str>,
    },
    /// Anything else.
    #[error("io_uring cannot be set up on this kernel ({kernel}): {errno}; try `dmesg | tail`")]
    Other {
        /// `uname -r`.
        kernel: String,
        /// What the kernel said.
        errno: Errno,
    },
}

/// What will work, but not well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PreflightWarning {
    /// Each connection and each open segment takes one.
    #[error(
        "only {limit} file descriptors (RLIMIT_NOFILE) are allowed, which bounds the number of \
         connections. Raise it with `ulimit -Hn 1048576` or `LimitNOFILE=1048576` in the systemd \
         unit"
    )]
    FewDescriptors {
        /// After raising it as far as it goes.
        limit: u64,
    },
    /// Executors fall back to unregistered I/O memory.
    #[error(
        "the limit on locked memory (RLIMIT_MEMLOCK) is {}, and {} would be locked, so some I/O \
         memory stays unregistered and is a little slower. Raise it with `ulimit -l unlimited` or \
         `LimitMEMLOCK=infinity` in the systemd unit",
        Bytes(*limit),
        Bytes(*wanted)
    )]
    LittleLockedMemory {
        /// The soft limit in bytes.
        limit: u64,
        /// What all shards together lock, in bytes.
        wanted: u64,
    },
}

/// Raises the limits as far as they go, looks at the machine and judges it.
///
/// # Errors
/// The first thing that keeps the broker from running.
pub fn check(demand: Demand) -> Result<Vec<PreflightWarning>, PreflightError> {
    raise(Resource::RLIMIT_NOFILE);
    raise(Resource::RLIMIT_MEMLOCK);
    judge(&survey(), demand)
}

/// The verdict on what was found.
///
/// # Errors
/// The first thing that keeps the broker from running.
pub fn judge(found: &Findings, demand: Demand) -> Result<Vec<PreflightWarning>, PreflightError> {
    let kernel = || found.kernel.clone();
    if let Err(errno) = found.io_uring {
        let value = found.io_uring_disabled.filter(|value| *value > 0);
        return Err(match (errno, value) {
            (Errno::EPERM, Some(value)) => PreflightError::DisabledBySysctl { value },
            (Errno::EPERM | Errno::EACCES, _) => PreflightError::Forbidden,
            (Errno::ENOSYS, _) => PreflightError::NoIoUring { kernel: kernel() },
            (Errno::ENOMEM, _) => PreflightError::LockedMemory {
                soft: found.memlock.soft,
            },
            (errno, _) => PreflightError::Other {
                kernel: kernel(),
                errno,
            },
        });
    }
    if !found.missing.is_empty() {
        return Err(PreflightError::Missing {
            kernel: kernel(),
            missing: found.missing.clone(),
        });
    }
    if found.memlock.soft < MEMLOCK_BYTES_MIN {
        return Err(PreflightError::LockedMemory {
            soft: found.memlock.soft,
        });
    }
    let mut warnings = Vec::new();
    let wanted = demand
        .shards
        .saturating_mul(demand.io_memory_bytes * REGISTRATIONS);
    if !found.memlock_exempt && found.memlock.soft < wanted {
        let limit = found.memlock.soft;
        warnings.push(PreflightWarning::LittleLockedMemory { limit, wanted });
    }
    if found.descriptors.soft < DESCRIPTORS_WANTED {
        warnings.push(PreflightWarning::FewDescriptors {
            limit: found.descriptors.soft,
        });
    }
    Ok(warnings)
}

/// Looks at the machine.
#[must_use]
pub fn survey() -> Findings {
    let trial = IoUring::new(8);
    let missing = trial.as_ref().map(missing_features).unwrap_or_default();
    Findings {
        kernel: uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        io_uring: trial.map(drop).map_err(|error| errno_of(&error)),
        io_uring_disabled: fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
        missing,
        memlock: limit(Resource::RLIMIT_MEMLOCK),
        memlock_exempt: fs::read_to_string("/proc/self/status")
            .is_ok_and(|status| has_capability(&status, CAP_IPC_LOCK)),
        descriptors: limit(Resource::RLIMIT_NOFILE),
    }
}

/// Cores that this process may use at a time: its affinity mask, cut by the CPU quota of its
/// cgroups (v2 and v1), and at least one.
#[must_use]
pub fn available_cores() -> NonZeroUsize {
    // The standard library honours all three on Linux.
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The CPUs of the affinity mask, for pinning; empty if it cannot be read.
#[must_use]
pub fn allowed_cpus() -> Vec<usize> {
    let Ok(mask) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|cpu| mask.is_set(*cpu) == Ok(true))
        .collect()
}

fn missing_features(uring: &IoUring) -> Vec<&'static str> {
    let mut missing = Vec::new();
    let params = uring.params();
    let mut probe = Probe::new();
    let probed = uring.submitter().register_probe(&mut probe).is_ok();
    let needs = [
        (
            "waiting with a timeout (EXT_ARG)",
            params.is_feature_ext_arg(),
        ),
        ("lossless completions (NODROP)", params.is_feature_nodrop()),
        (
            "silent cancellation (CQE_SKIP)",
            params.is_feature_skip_cqe_on_success(),
        ),
        (
            "accept",
            probed && probe.is_supported(opcode::AcceptMulti::CODE),
        ),
        (
            "receive",
            probed && probe.is_supported(opcode::RecvMulti::CODE),
        ),
        ("poll", probed && probe.is_supported(opcode::PollAdd::CODE)),
        (
            "cancel",
            probed && probe.is_supported(opcode::AsyncCancel::CODE),
        ),
        (
            "file writes",
            probed && probe.is_supported(opcode::Writev::CODE),
        ),
        (
            "file reads",
            probed && probe.is_supported(opcode::Read::CODE),
        ),
        (
            "fdatasync",
            probed && probe.is_supported(opcode::Fsync::CODE),
        ),
    ];
    missing.extend(
        needs
            .iter()
            .filter(|(_, there)| !there)
            .map(|(name, _)| *name),
    );
    // Flags of operations cannot be probed, so the newest that we use is tried out. Multishot
    // accept is older.
    if missing.is_empty() && !can_receive() {
        missing.push("multishot receive with provided buffers");
    }
    missing
}

/// Receives one byte the way the shards do.
fn can_receive() -> bool {
    let options = RingOptions {
        entries: 8,
        recv_buffers: 2,
        recv_buffer_bytes: 4096,
        ..RingOptions::default()
    };
    let trial = || -> io::Result<bool> {
        let (mut here, there) = UnixStream::pair()?;
        here.write_all(b"x")?;
        let mut ring = Ring::new(options)?;
        ring.receive(Rc::new(OwnedFd::from(there)), 1);
        let (mut received, mut ended) = (false, false);
        let mut turns = 0;
        // A signal may end a turn early; a few more are tried then.
        while !received && !ended && turns < TRIAL_TURNS_MAX {
            turns += 1;
            ring.turn(
                Wait::Until(TRIAL_TIMEOUT),
                || true,
                |completion| {
                    received |= matches!(completion, Completion::Received { .. });
                    ended |= matches!(completion, Completion::Closed { .. });
                },
            )?;
        }
        Ok(received)
    };
    trial().unwrap_or(false)
}

fn limit(resource: Resource) -> Limit {
    // It fails only for resources that do not exist.
    let (soft, hard) = getrlimit(resource).unwrap_or((u64::MAX, u64::MAX));
    Limit { soft, hard }
}

/// Raises a soft limit to the hard one.
fn raise(resource: Resource) {
    let Limit { soft, hard } = limit(resource);
    if soft < hard {
        // `judge` looks at what came of it.
        let _raised = setrlimit(resource, hard, hard);
    }
}

fn has_capability(status: &str, bit: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> bit & 1 == 1)
}

/// Whether a release such as `6.8.0-45-generic` is 6.1 or later.
fn is_recent(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 1),
        _ => false,
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

/// A size for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("unlimited"),
            bytes if bytes < 1 << 20 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{} MiB", bytes >> 20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        shards: 4,
        io_memory_bytes: 1 << 20,
    };

    fn good() -> Findings {
        Findings {
            kernel: "6.8.0-45-generic".into(),
            io_uring: Ok(()),
            io_uring_disabled: Some(0),
            missing: Vec::new(),
            memlock: Limit {
                soft: u64::MAX,
                hard: u64::MAX,
            },
            memlock_exempt: false,
            descriptors: Limit {
                soft: 1 << 20,
                hard: 1 << 20,
            },
        }
    }

    fn refusal(change: impl FnOnce(&mut Findings)) -> String {
        let mut found = good();
        change(&mut found);
        judge(&found, DEMAND).expect_err("refused").to_string()
    }

    #[test]
    fn good_machine_passes_without_a_word() {
        assert_eq!(judge(&good(), DEMAND), Ok(Vec::new()));
    }

    #[test]
    fn refusals_name_cause_and_remedy() {
        let old = refusal(|found| {
            found.io_uring = Err(Errno::ENOSYS);
            found.kernel = "5.0.21".into();
        });
        assert!(old.contains("5.0.21") && old.contains("too old"), "{old}");
        let hidden = refusal(|found| found.io_uring = Err(Errno::ENOSYS));
        assert!(hidden.contains("seccomp"), "{hidden}");
        let sysctl = refusal(|found| {
            found.io_uring = Err(Errno::EPERM);
            found.io_uring_disabled = Some(2);
        });
        assert!(
            sysctl.contains("sysctl -w kernel.io_uring_disabled=0"),
            "{sysctl}"
        );
        let unprivileged = refusal(|found| {
            found.io_uring = Err(Errno::EPERM);
            found.io_uring_disabled = Some(1);
        });
        assert!(unprivileged.contains("CAP_SYS_ADMIN"), "{unprivileged}");
        let forbidden = refusal(|found| found.io_uring = Err(Errno::EPERM));
        assert!(forbidden.contains("--security-opt"), "{forbidden}");
        let memory = refusal(|found| {
            found.io_uring = Err(Errno::ENOMEM);
            found.memlock.soft = 64 << 10;
        });
        assert!(
            memory.contains("64 KiB") && memory.contains("LimitMEMLOCK"),
            "{memory}"
        );
        let missing = refusal(|found| found.missing = vec!["accept", "poll"]);
        assert!(
            missing.contains("accept, poll") && missing.contains("6.8.0"),
            "{missing}"
        );
        let other = refusal(|found| found.io_uring = Err(Errno::EMFILE));
        assert!(other.contains("EMFILE"), "{other}");
    }

    #[test]
    fn locked_memory_below_what_an_executor_asks_is_refused_even_with_the_capability() {
        let text = refusal(|found| {
            found.memlock.soft = MEMLOCK_BYTES_MIN - 1;
            found.memlock_exempt = true;
        });
        assert!(text.contains("511 KiB"), "{text}");
    }

    #[test]
    fn little_locked_memory_and_few_descriptors_are_warnings() {
        let mut found = good();
        found.memlock.soft = 8 << 20;
        found.descriptors.soft = 1024;
        let warnings = judge(&found, DEMAND).expect("passes");
        assert_eq!(
            warnings,
            [
                PreflightWarning::LittleLockedMemory {
                    limit: 8 << 20,
                    wanted: 12 << 20
                },
                PreflightWarning::FewDescriptors { limit: 1024 },
            ]
        );
        assert!(
            warnings[0]
                .to_string()
                .contains("8 MiB, and 12 MiB would be locked")
        );
        found.memlock_exempt = true;
        assert_eq!(judge(&found, DEMAND).expect("passes").len(), 1);
    }

    #[test]
    fn kernel_releases_are_compared_by_number() {
        for (release, recent) in [
            ("6.1.0", true),
            ("6.18.44-fc", true),
            ("10.0", true),
            ("6.0.9", false),
            ("", false),
        ] {
            assert_eq!(is_recent(release), recent, "{release}");
        }
    }

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        assert!(has_capability(
            "Name:\tx\nCapEff:\t0000000000004000\n",
            CAP_IPC_LOCK
        ));
        assert!(!has_capability(
            "Name:\tx\nCapEff:\t0000000000002000\n",
            CAP_IPC_LOCK
        ));
        assert!(!has_capability("", CAP_IPC_LOCK));
    }

    #[test]
    fn this_machine_passes_and_its_limits_are_raised() {
        check(DEMAND).expect("the tests need io_uring themselves");
        let found = survey();
        assert_eq!(found.descriptors.soft, found.descriptors.hard);
        assert_eq!(found.missing, Vec::<&str>::new());
        assert!(is_recent(&found.kernel));
    }

    #[test]
    fn cores_are_within_the_affinity_mask() {
        let cpus = allowed_cpus();
        assert!(!cpus.is_empty());
        assert!(available_cores().get() <= cpus.len());
    }
}
