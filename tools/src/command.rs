//! What every utility does the same way: start, addresses, plain log lines, ends.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use nsq_cli::{EarlyExit, Flag, FlagTable, Settings, plain_line};

/// Why a utility ends with something else than success.
#[derive(Debug)]
pub enum Failure {
    /// To be reported in one of the usual forms.
    Early(EarlyExit),
    /// Already reported: exit 1 and nothing more.
    Reported,
}

impl From<EarlyExit> for Failure {
    fn from(exit: EarlyExit) -> Self {
        Self::Early(exit)
    }
}

impl Failure {
    /// One plain line on stderr, exit 1.
    #[must_use]
    pub fn plain(text: impl fmt::Display) -> Self {
        Self::Early(EarlyExit::Plain(text.to_string()))
    }
}

/// How a utility ends.
pub type Outcome = Result<(), Failure>;

/// The body of a binary's `main`.
#[must_use]
pub fn main(program: &str, run: fn(Vec<OsString>) -> Outcome) -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Early(exit)) => exit.report(program),
        Err(Failure::Reported) => ExitCode::FAILURE,
    }
}

/// Ends the program with that text when the condition holds.
pub(crate) fn refuse(condition: bool, text: impl fmt::Display) -> Result<(), EarlyExit> {
    if condition {
        Err(EarlyExit::Plain(text.to_string()))
    } else {
        Ok(())
    }
}

/// Writes a line with date and time but no level to stderr.
pub(crate) fn note(message: fmt::Arguments<'_>) {
    // A closed stderr must not stop the copying of messages.
    drop(io::stderr().write_all(plain_line(&message.to_string()).as_bytes()));
}

/// The table of a utility, with `-version` added and no configuration file.
pub(crate) fn table(program: &'static str, version_help: &str, mut flags: Vec<Flag>) -> FlagTable {
    flags.push(Flag::bool("version", false, version_help));
    FlagTable::new(program, flags).banner(nsq_cli::short_banner)
}

/// The rows of the two kinds of addresses that consumers take.
pub(crate) fn source_flags() -> [Flag; 2] {
    [
        Flag::list(
            "nsqd-tcp-address",
            "nsqd TCP address (may be given multiple times)",
        ),
        Flag::list(
            "lookupd-http-address",
            "lookupd HTTP address (may be given multiple times)",
        ),
    ]
}

/// Where a consumer finds its messages: exactly one of the lists has entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sources {
    /// `host:port` of nsqds.
    pub(crate) nsqd: Vec<String>,
    /// `host:port` or URL of nsqlookupds.
    pub(crate) lookupd: Vec<String>,
}

impl Sources {
    /// Takes the values of [`source_flags`]. `ending` is what the first message ends in.
    pub(crate) fn from_settings(settings: &Settings, ending: &str) -> Result<Self, EarlyExit> {
        let nsqd = settings.list("nsqd-tcp-address").to_vec();
        let lookupd = settings.list("lookupd-http-address").to_vec();
        refuse(
            nsqd.is_empty() && lookupd.is_empty(),
            format_args!("--nsqd-tcp-address or --lookupd-http-address required{ending}"),
        )?;
        refuse(
            !nsqd.is_empty() && !lookupd.is_empty(),
            "use --nsqd-tcp-address or --lookupd-http-address not both",
        )?;
        Ok(Self { nsqd, lookupd })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(args: &[&str]) -> Result<Sources, EarlyExit> {
        let table = table("nsq_tail", "print version", source_flags().to_vec());
        let settings = table.load(args.iter().map(OsString::from)).expect("fine");
        Sources::from_settings(&settings, "")
    }

    #[test]
    fn sources_are_nsqds_or_lookupds() {
        let found = sources(&["-nsqd-tcp-address=a:1", "-nsqd-tcp-address", "b:2"]);
        assert_eq!(found.expect("fine").nsqd, ["a:1", "b:2"]);
        let both = sources(&["-nsqd-tcp-address=a:1", "-lookupd-http-address=b:2"]);
        let text = "use --nsqd-tcp-address or --lookupd-http-address not both";
        assert_eq!(both, Err(EarlyExit::Plain(text.into())));
        let text = "--nsqd-tcp-address or --lookupd-http-address required";
        assert_eq!(sources(&[]), Err(EarlyExit::Plain(text.into())));
    }
}
