//! Fuzz targets of this crate; `nsq-fuzz` says how they are run.
//!
//! Checksums keep what a fuzzer makes up from getting far. Where an input says so, they are made
//! right first: then the fields behind them are seen with whatever is in them.

mod bytes;
mod files;
mod log;

use nsq_fuzz::Target;

/// All of them.
pub const TARGETS: [Target; 4] = [BATCH, JOURNAL, DAMAGE, RECOVERY];

/// The bytes of a batch.
pub const BATCH: Target = Target {
    name: "batch",
    run: bytes::batch,
    seeds: bytes::batch_seeds,
};

/// The bytes of a checkpoint journal.
pub const JOURNAL: Target = Target {
    name: "journal",
    run: bytes::journal,
    seeds: bytes::journal_seeds,
};

/// A log whose files are damaged: what is read is what was written, or nothing.
pub const DAMAGE: Target = Target {
    name: "damage",
    run: files::damage,
    seeds: files::damage_seeds,
};

/// A directory full of anything: what was recovered once is recovered again.
pub const RECOVERY: Target = Target {
    name: "recovery",
    run: files::recovery,
    seeds: files::recovery_seeds,
};

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_and_old_findings_pass() {
        super::TARGETS.iter().for_each(nsq_fuzz::replay);
    }
}
