//! Fuzz targets of this crate; `nsq-fuzz` says how they are run.

mod commands;
mod frames;
mod identify;

use std::time::Duration;

use nsq_fuzz::Target;

use crate::{ChannelName, IdentifyLimits, TopicName, is_word};

/// All of them.
pub const TARGETS: [Target; 5] = [COMMAND, BODIES, IDENTIFY, FRAME, NAME];

/// Commands of a client, however they are cut.
pub const COMMAND: Target = Target {
    name: "command",
    run: commands::stream,
    seeds: commands::stream_seeds,
};

/// The list of a binary `/mpub`.
pub const BODIES: Target = Target {
    name: "bodies",
    run: commands::bodies,
    seeds: commands::bodies_seeds,
};

/// The body of IDENTIFY, and what both sides make of its answer.
pub const IDENTIFY: Target = Target {
    name: "identify",
    run: identify::run,
    seeds: identify::seeds,
};

/// Frames of a server, however they are cut.
pub const FRAME: Target = Target {
    name: "frame",
    run: frames::run,
    seeds: frames::seeds,
};

/// Names of topics and channels.
pub const NAME: Target = Target {
    name: "name",
    run: name,
    seeds: || {
        let names = [
            "t",
            "c#ephemeral",
            "#ephemeral",
            "a.b-c_D9",
            "a b",
            "\u{fc}",
        ];
        let longest = "n".repeat(64);
        let names = names.into_iter().chain([longest.as_str()]);
        names.map(|name| name.as_bytes().to_vec()).collect()
    },
};

/// The rule once more, in other words.
fn name(input: &[u8]) {
    let legal = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    let stem = input.strip_suffix(b"#ephemeral").unwrap_or(input);
    let is_legal = (1..=64).contains(&input.len())
        && !stem.is_empty()
        && stem.iter().all(|b| legal.contains(b));
    assert_eq!(TopicName::is_valid(input), is_legal);
    assert_eq!(ChannelName::is_valid(input), is_legal);
    match TopicName::parse(input) {
        Ok(name) => {
            assert!(is_legal && is_word(name.as_str()));
            assert_eq!(name.as_str().as_bytes(), input);
            assert_eq!(name.is_ephemeral(), stem.len() < input.len());
        }
        Err(_) => assert!(!is_legal),
    }
}

/// The defaults of nsqd's flags.
fn identify_limits() -> IdentifyLimits {
    IdentifyLimits {
        max_heartbeat_interval: Duration::from_secs(60),
        min_output_buffer_timeout: Duration::from_millis(25),
        max_output_buffer_timeout: Duration::from_secs(30),
        output_buffer_timeout: Duration::from_millis(250),
        max_output_buffer_size: 64 * 1024,
        msg_timeout: Duration::from_secs(60),
        max_msg_timeout: Duration::from_secs(900),
        max_deflate_level: 6,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_and_old_findings_pass() {
        super::TARGETS.iter().for_each(nsq_fuzz::replay);
    }
}
