//! What the fuzz targets of all crates share.
//!
//! A target is a plain function of bytes, in the module `fuzz` of the crate that it tests: it sees
//! what is private there, and asserts properties, not only that nothing panics. It is built for tests
//! and with `--cfg fuzzing`, nowhere else. The programs of `broker/fuzz` hand it what libFuzzer
//! makes up; an ordinary test of the crate [replays](replay) its seeds and every input that was
//! once found to break it.
//!
//! Inputs of targets that need decisions (a limit, cuts) begin with a few bytes for them, so that a
//! finding is one file that says everything.
#![forbid(unsafe_code)]

pub mod http;

use std::fs;
use std::path::{Path, PathBuf};

/// Names the directory into which [`begin`] writes the seeds.
pub const SEEDS_VARIABLE: &str = "RINGQ_FUZZ_SEEDS";

/// The programs of the targets, and in `regressions` the inputs that once broke them.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../broker/fuzz");

/// See the crate's documentation.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// That of its program.
    pub name: &'static str,
    /// Panics when a property does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with: good ones, made from what the tests have.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Runs a target on its seeds and on all that once broke it.
///
/// # Panics
/// When a property does not hold; the name of the input has been printed then.
pub fn replay(target: &Target) {
    let name = target.name;
    let program = Path::new(PROGRAMS)
        .join("targets")
        .join(format!("{name}.rs"));
    assert!(program.exists(), "{name} has no program");
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for (number, seed) in seeds.iter().enumerate() {
        run_named(target, &format!("seed {number}"), seed);
    }
    for path in regressions(target.name) {
        let input = fs::read(&path).expect("a file that was listed can be read");
        run_named(target, &path.display().to_string(), &input);
    }
}

/// Says which input it was if the target panics.
fn run_named(target: &Target, name: &str, input: &[u8]) {
    struct Tell<'a>(&'a str, &'a str);
    impl Drop for Tell<'_> {
        #[expect(clippy::print_stderr, reason = "for who reads the failed test")]
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("target {}, {}", self.0, self.1);
            }
        }
    }
    let _tell = Tell(target.name, name);
    (target.run)(input);
}

fn regressions(name: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(Path::new(PROGRAMS).join("regressions").join(name)) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Called by a target's program before it reads its corpus: writes the seeds there, if asked to.
///
/// # Panics
/// When they cannot be written.
pub fn begin(target: &Target) {
    let Some(dir) = std::env::var_os(SEEDS_VARIABLE) else {
        return;
    };
    fs::create_dir_all(&dir).expect("the corpus can be written");
    for (number, seed) in (target.seeds)().iter().enumerate() {
        let path = Path::new(&dir).join(format!("seed-{number:03}"));
        fs::write(path, seed).expect("the corpus can be written");
    }
}

/// Cuts `input` as `seed` says: 0 not at all, 1 into single bytes, else by chance.
pub fn pieces(input: &[u8], seed: u16) -> impl Iterator<Item = &[u8]> {
    let mut random = fastrand::Rng::with_seed(seed.into());
    let max = 1_usize << random.u32(0..14);
    let mut rest = input;
    std::iter::from_fn(move || {
        let len = match seed {
            0 => rest.len(),
            1 => 1,
            _ => random.usize(1..=max),
        };
        let (piece, left) = rest.split_at(len.min(rest.len()));
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The bytes that a line of a vector or transcript writes in hex; what is no digit is skipped.
#[must_use]
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits are a byte");
    digits.chunks_exact(2).map(byte).collect()
}
