//! The programs that cargo-fuzz builds, one per target; see `nsq_fuzz` and `scripts/fuzz`.

pub use {libfuzzer_sys, nsq_fuzz};

/// The program of a target. Arguments and corpus are libFuzzer's business.
#[macro_export]
macro_rules! program {
    ($target:expr) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: $crate::nsq_fuzz::begin(&$target),
            |input: &[u8]| ($target.run)(input)
        );
    };
}
