//! The flags: one row each; command line, file and help follow from the row.

use std::ffi::OsString;

use nsq_cli::{EarlyExit, Flag, FlagTable, Level};

/// The program's name as it appears in usage, banner, log prefix and errors.
pub(crate) const PROGRAM: &str = "nsqlookupd";

/// What the flags settled.
#[derive(Debug)]
pub(crate) struct Config {
    /// `--tcp-address` as given.
    pub(crate) tcp_address: String,
    /// `--http-address` as given.
    pub(crate) http_address: String,
    /// `--broadcast-address`.
    pub(crate) broadcast_address: String,
    /// The host name of the operating system.
    pub(crate) hostname: String,
    /// `--inactive-producer-timeout` in nanoseconds, negative if given so.
    pub(crate) inactive_timeout: i64,
    /// `--tombstone-lifetime` in nanoseconds, negative if given so.
    pub(crate) tombstone_lifetime: i64,
    /// `--log-level`.
    pub(crate) log_level: Level,
    /// `--log-prefix`.
    pub(crate) log_prefix: String,
    /// What the user should be told about the configuration file.
    pub(crate) warnings: Vec<String>,
}

/// All flags on a host of that name.
fn table(hostname: &str) -> FlagTable {
    let flags = vec![
        Flag::text("config", "", "path to config file").without_key(),
        Flag::bool("version", false, "print version string").without_key(),
        nsq_cli::log_level_flag(),
        Flag::text("log-prefix", "[nsqlookupd] ", "log message prefix"),
        Flag::bool(
            "verbose",
            false,
            "[deprecated] has no effect, use --log-level",
        )
        .without_key(),
        Flag::text(
            "tcp-address",
            "0.0.0.0:4160",
            "<addr>:<port> to listen on for TCP clients",
        ),
        Flag::text(
            "http-address",
            "0.0.0.0:4161",
            "<addr>:<port> to listen on for HTTP clients",
        ),
        Flag::text(
            "broadcast-address",
            hostname,
            "address of this lookupd node, (default to the OS hostname)",
        ),
        Flag::duration(
            "inactive-producer-timeout",
            "5m",
            "duration of time a producer will remain in the active list since its last ping",
        ),
        Flag::duration(
            "tombstone-lifetime",
            "45s",
            "duration of time a producer will remain tombstoned if registration remains",
        ),
    ];
    FlagTable::new(PROGRAM, flags)
}

/// Reads command line (without the program's own name) and configuration file.
///
/// # Errors
/// [`EarlyExit`]: the program is to report it and end; also for `-help` and `-version`.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Config, EarlyExit> {
    let hostname = nsq_cli::hostname();
    let settings = table(&hostname).load(args)?;
    let text = |name: &str| settings.string(name).to_owned();
    Ok(Config {
        tcp_address: text("tcp-address"),
        http_address: text("http-address"),
        broadcast_address: text("broadcast-address"),
        inactive_timeout: settings.nanos("inactive-producer-timeout"),
        tombstone_lifetime: settings.nanos("tombstone-lifetime"),
        log_level: Level::from_number(settings.int("log-level"))
            .expect("the flag's parser gives levels only"),
        log_prefix: text("log-prefix"),
        warnings: settings.warnings().to_vec(),
        hostname,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Config {
        parse(args.iter().map(OsString::from)).expect("fine")
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let config = parsed(&[]);
        assert_eq!(config.tcp_address, "0.0.0.0:4160");
        assert_eq!(config.http_address, "0.0.0.0:4161");
        assert_eq!(config.broadcast_address, config.hostname);
        assert_eq!(config.inactive_timeout, 300_000_000_000);
        assert_eq!(config.tombstone_lifetime, 45_000_000_000);
        assert_eq!(config.log_level, Level::Info);
        assert_eq!(config.log_prefix, "[nsqlookupd] ");
    }

    #[test]
    fn flags_are_taken() {
        let config = parsed(&["-tombstone-lifetime=-1s", "--log-level=DEBUG", "-verbose"]);
        assert_eq!(config.tombstone_lifetime, -1_000_000_000);
        assert_eq!(config.log_level, Level::Debug);
    }
}
