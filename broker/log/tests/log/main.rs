//! The log against files, against a simulated disk, and against crashes and damage.
#![expect(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "all of it is test code: what is not expected is to fail the test"
)]

mod common;
mod crash;
mod damage;
mod full_disk;
mod plans;
mod real_files;
mod running;
mod world;
